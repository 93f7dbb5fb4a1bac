"""One PostgreSQL server per test process, and a migrated database of its own for each test that asks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import hypothesis
import psycopg2
import psycopg2.errors
import pytest

from ecommersss_platform.local.accounts import REACHABLE
from ecommersss_platform.local.locks import FileLock
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform_tests.support import pubsub_emulator as emulator
from ecommersss_platform_tests.support.shared_directory import shared_directory
from streaming.database import migrate

# No test asserts a time: machines are noisy.
hypothesis.settings.register_profile("platform", deadline=None)
hypothesis.settings.load_profile("platform")

_TEMPLATE = "migrated"
_numbers = count(1)


@pytest.fixture(scope="session")
def open_directory() -> Iterator[Path]:
    """A temporary directory that every account can enter. Those of pytest are for their owner only.

    It is in memory where there is room: creating databases keeps a disk busy.
    """
    memory = Path("/dev/shm")
    fits = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2_000_000_000
    with tempfile.TemporaryDirectory(
        prefix="ecommersss-tests-", dir=memory if fits else None, ignore_cleanup_errors=True
    ) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="session")
def copy_server(
    open_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], EmbeddedPostgres]:
    """A function that makes a server, stopped, from a copy of one data directory: faster than initdb.

    All processes of a parallel run share the original.
    """
    original = shared_directory(tmp_path_factory) / "server"
    with FileLock(original.with_suffix(".lock")).held():
        if not original.exists():
            server = EmbeddedPostgres(open_directory / "original")
            server.up()
            server.down()
            for name in ("port", "server.log"):
                (server.directory / name).unlink()
            subprocess.run(["cp", "-a", server.directory, original], check=True)

    def copy(directory: Path) -> EmbeddedPostgres:
        subprocess.run(["cp", "-a", original, directory], check=True)
        return EmbeddedPostgres(directory)

    return copy


@pytest.fixture(scope="session", autouse=True)
def _data_of_homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the data of homes in pytest's directories, which root's servers keep elsewhere."""
    yield
    for record in REACHABLE.glob("*/directory"):
        if Path(record.read_text().strip()).is_relative_to(tmp_path_factory.getbasetemp()):
            shutil.rmtree(record.parent)


@pytest.fixture(scope="session")
def postgres(
    open_directory: Path, copy_server: Callable[[Path], EmbeddedPostgres]
) -> Iterator[EmbeddedPostgres]:
    """A running server of this test process's own."""
    server = copy_server(open_directory / "postgres").up()
    yield server
    server.down()


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated, empty database: copying it takes a tenth of the time of migrating."""
    administer(postgres, f"CREATE DATABASE {_TEMPLATE}")
    migrate(postgres.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def database(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """The owner's URL of a fresh, migrated database, dropped after the test with all connections to it."""
    name = f"test_{next(_numbers)}"
    administer(postgres, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield postgres.client_url(name, tcp=True)
    postgres.up()  # a test may have stopped or killed it
    _drop(postgres, name)


def _drop(postgres: EmbeddedPostgres, name: str, attempts: int = 100) -> None:
    """Drop the database and all connections to it, once autovacuum, which is not ours to end, has left it."""
    for attempt in range(attempts):
        try:
            return administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")
        except psycopg2.errors.InsufficientPrivilege:
            if attempt == attempts - 1:
                raise
            time.sleep(0.1)


def administer(postgres: EmbeddedPostgres, statement: str) -> None:
    """Run a statement that cannot be part of a transaction."""
    with closing(psycopg2.connect(postgres.url("dagster"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.fixture(scope="session")
def pubsub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of this test process's own Pub/Sub emulator. Skip the test if none is installed."""
    if reason := emulator.missing():
        pytest.skip(reason)
    with emulator.running_emulator(tmp_path_factory.mktemp("pubsub")) as address:
        yield address


@pytest.fixture
def restarted_calls() -> Iterator[None]:
    """Let system calls go on after SIGINT, as polars does once it has computed something."""
    signal.siginterrupt(signal.SIGINT, False)
    yield
    signal.siginterrupt(signal.SIGINT, True)


def pytest_configure() -> None:
    """Let SIGINT interrupt the tests and what they start: a background job of a script ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start slow files first, and run a failed test of Pub/Sub twice more, each time on a new subscription.

    Google's emulator sometimes keeps handing messages to a stream that has ended. Our bugs fail every time.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if item.get_closest_marker("pubsub"):
            item.add_marker(pytest.mark.flaky(reruns=2))

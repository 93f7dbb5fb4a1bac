"""Where the Unix sockets of the home are, which only their owner can reach."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
from pathlib import Path

from ecommersss_platform.local.accounts import Account, ServerError, account_name

_LONGEST = 103
"""Most bytes in the path of a Unix socket, on every system."""
_SHORT = Path("/tmp")  # noqa: S108
"""Where a socket's directory is if the path of the wanted one is too long. Its owner and mode are checked."""


def socket_directory(wanted: Path, longest_name: str) -> Path:
    """Return the directory for sockets whose names have at most this length: the wanted one, if it can be.

    If its path is too long for a socket, it is one in /tmp.
    """
    directory = wanted.resolve()
    if len(os.fsencode(directory / longest_name)) <= _LONGEST:
        return directory
    return _SHORT / f"ecommersss-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:24]}"


def make_socket_directory(wanted: Path, longest_name: str, account: Account) -> Path:
    """Make the directory for the account's sockets if it is not the wanted one, and return it.

    Raises `ServerError` if somebody else has made it.
    """
    directory = socket_directory(wanted, longest_name)
    if directory == wanted.resolve():
        return directory
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        if account.uid is not None and account.gid is not None:
            os.chown(directory, account.uid, account.gid, follow_symlinks=False)
    found, owner = directory.lstat(), os.geteuid() if account.uid is None else account.uid
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise ServerError(
            f"{directory} is not a directory of {account_name(owner)} alone, which the sockets of {wanted}"
            " need: remove it, or choose a shorter ECOMMERSSS_HOME"
        )
    return directory


def accepts(path: Path) -> bool:
    """Return whether a process accepts connections on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        return client.connect_ex(str(path)) == 0

"""Run a program under another account: `python -I unprivileged.py UID GID DIRECTORIES -- PROGRAM ARGUMENTS`.

PostgreSQL refuses to run as root, so root starts it under an unprivileged account. That account often cannot
reach the programs or the data, because they lie below a directory such as /root that only root may enter.
Opening that directory for everyone would be wrong; instead the program keeps, out of all of root's
capabilities, the one that is missing: to look into directories and read files (CAP_DAC_READ_SEARCH), or where
a container withholds that one, or where the program is not executable for others, CAP_DAC_OVERRIDE. When the
account reaches everything by itself, the program gets no capability at all.

DIRECTORIES are those that the program has to enter. This file is run by path, as a program of its own: it
must not import anything outside the standard library.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


def main(arguments: list[str]) -> None:
    """Become the account and replace this process by the program; if it cannot, say why and exit with 126."""
    separator = arguments.index("--")
    uid, gid, *directories = arguments[:separator]
    program = arguments[separator + 1 :]
    try:
        available = _become(int(uid), int(gid))
        _keep(_needed(directories, program[0], available))
        os.execv(program[0], program)  # noqa: S606 (no shell is what is wanted)
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}\n")
        sys.exit(126)


def _become(uid: int, gid: int) -> set[int]:
    """Change to the account for good; returns the capabilities that may still be kept (Linux)."""
    linux = sys.platform == "linux"
    if linux:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
    if not linux:
        return set()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    permitted = _capget()
    return {number for number in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH) if permitted & 1 << number}


def _needed(directories: Iterable[str], program: str, available: set[int]) -> set[int]:
    """The fewest capabilities with which the account can enter the directories and execute the program."""
    _capset(set())
    # access(2) answers for the real user, without capabilities: exactly what the account can do by itself.
    closed = [path for path in directories if not os.access(path, os.X_OK)]
    if not os.access(program, os.R_OK | os.X_OK):
        closed.append(program)
    if not closed:
        return set()
    if CAP_DAC_READ_SEARCH in available:
        _capset({CAP_DAC_READ_SEARCH})
        if Path(program).stat().st_mode & stat.S_IXOTH:
            return {CAP_DAC_READ_SEARCH}
    if CAP_DAC_OVERRIDE in available:
        return {CAP_DAC_OVERRIDE}
    raise PermissionError(
        0,
        f"uid {os.getuid()} cannot reach {closed[0]}, and this root may not lend it the right:"
        " put the project and ECOMMERSSS_HOME where every account can enter the directories above them",
    )


def _keep(capabilities: set[int]) -> None:
    _capset(capabilities)
    for number in capabilities:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what} failed: {os.strerror(number)}")


def _prctl(option: int, *values: int) -> None:
    padded = (*values, 0, 0, 0, 0)[:4]
    _check(_libc().prctl(option, *(ctypes.c_ulong(value) for value in padded)), f"prctl {option}")


def _capget() -> int:
    data = (_Data * 2)()
    _check(_libc().capget(ctypes.byref(_Header(_LINUX_CAPABILITY_VERSION_3, 0)), data), "capget")
    return int(data[0].permitted)


def _capset(capabilities: set[int]) -> None:
    """Make these effective and inheritable. The two that matter stay permitted, all others are dropped.

    What is permitted without being ambient ends when the program is executed.
    """
    if sys.platform != "linux":
        return
    mask = sum(1 << number for number in capabilities)
    data = (_Data * 2)()
    permitted = _capget() & (1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    data[0].effective, data[0].permitted, data[0].inheritable = mask, permitted, mask
    _check(_libc().capset(ctypes.byref(_Header(_LINUX_CAPABILITY_VERSION_3, 0)), data), "capset")


if __name__ == "__main__":
    main(sys.argv[1:])

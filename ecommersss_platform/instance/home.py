"""The platform's home directory: what is written when it is made, and that it is for its owner only."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

from pydantic import SecretStr

from ecommersss_platform.settings import PSEUDONYM_KEY_LENGTH, Settings
from streaming.errors import PlatformError


def record_first_day(settings: Settings, wanted: date | None = None) -> date:
    """Make the home, record its first day once so that partitions never move, and return that day.

    `wanted`: the first day of a new home; unset: a week before today. A recorded day, or the setting, wins.
    Idempotent.
    """
    path = settings.first_day_path
    settings.home.mkdir(parents=True, exist_ok=True)
    if settings.first_day is not None or path.exists():
        return settings.first_partition_day()
    day = wanted or settings.first_partition_day()
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(f"{day}\n")
    temporary.replace(path)
    return day


def keep_private(settings: Settings) -> None:
    """Take from all other accounts the home that an earlier version or a person made, and what is in it.

    New files and directories are private by the umask of our processes. Left alone is what belongs to another
    account, what the platform did not make, and PostgreSQL's directory, which guards itself.
    """
    home = settings.home
    with suppress(OSError):  # there is no home yet, or whoever needs it says what is wrong
        found = home.stat()
        if found.st_uid != os.geteuid() or not found.st_mode & 0o077 or not _is_home(settings):
            return
        home.chmod(0o700)
        for path in _made(settings):
            _make_private(path)


def _is_home(settings: Settings) -> bool:
    marks = (
        settings.first_day_path,
        settings.orders_topic_dir,
        settings.dagster_home / "dagster.yaml",
        settings.postgres_dir / "credentials.json",
    )
    return any(mark.exists() for mark in marks) or not any(settings.home.iterdir())


def _made(settings: Settings) -> Iterator[Path]:
    """Yield what the platform makes in its home, the contents of directories included."""
    files = [settings.ground_truth_path, settings.first_day_path]
    files += [settings.alerts_path, settings.alerts_state_path]
    directories = [settings.orders_topic_dir.parent, settings.dagster_home, settings.logs_dir]
    directories.append(settings.reports_dir)
    if settings.warehouse_path.parent == settings.home:
        files += settings.home.glob(f"{settings.warehouse_path.name}*")
    yield from (*files, *directories)
    for directory in directories:
        for place, inner, names in os.walk(directory):
            yield from (Path(place, name) for name in (*inner, *names))


def _make_private(path: Path) -> None:
    with suppress(OSError):  # it is gone, or the disk is read-only
        found = path.lstat()
        alone = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
        if alone and found.st_uid == os.geteuid() and found.st_mode & 0o077:
            path.chmod(stat.S_IMODE(found.st_mode) & 0o700)


def ui_token(settings: Settings) -> str:
    """Return the secret that the UI asks for: the setting, else that of the home."""
    return _secret(settings.ui_token, settings.ui_token_path)


def pseudonym_key(settings: Settings) -> str:
    """Return the key with which e-mail addresses are hashed: the setting, else that of the home.

    Raises `PlatformError` on BigQuery without the setting, and if the home's file was damaged.
    """
    settings.check_pseudonym_key()
    key = _secret(settings.pseudonym_key, settings.pseudonym_key_path)
    if len(key) < PSEUDONYM_KEY_LENGTH:
        raise PlatformError(
            f"{settings.pseudonym_key_path} holds no key of {PSEUDONYM_KEY_LENGTH} or more characters:"
            " restore it, or remove it and load all days again"
        )
    return key


def _secret(setting: SecretStr | None, path: Path) -> str:
    """Return the setting's secret, else that of the file, made at the first call.

    Only the home's owner can read the file. Processes that call it at the same moment get the same secret.
    """
    if setting is not None:
        return setting.get_secret_value()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
        try:
            os.link(temporary, path)  # unlike a rename, it fails if another process was faster
        except FileExistsError:
            pass
        finally:
            Path(temporary).unlink()
    return path.read_text("utf-8").strip()

"""Where messages go: the log, `alerts.jsonl`, and the URLs that `apprise` understands."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from ecommersss_platform.alerts.message import Text, as_row, as_text
from ecommersss_platform.alerts.problem import KINDS
from ecommersss_platform.alerts.state import Message
from ecommersss_platform.alerts.text import clean
from ecommersss_platform.local.whole_files import replace_file
from ecommersss_platform.settings import Settings
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from apprise.plugins.base import NotifyBase

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
"""How long a channel may take: one that is slow but works gets no message twice."""

LARGEST_FILE: Final = 10_000_000
"""Bytes of `alerts.jsonl` above which the older half of it is removed, whatever its age."""

SHORTEST_SECRET: Final = 4
"""Parts of a URL with fewer characters are words, and hide nothing."""

OWNERS: Final = frozenset(kind.owner for kind in KINDS.values())

LOG: Final = "log"

_BETWEEN = re.compile(r"[\s,;]+(?=(?:[\w:-]+=)?[A-Za-z][A-Za-z0-9]*://)")
_URL = re.compile(r"(?:(?P<owner>[\w:-]+)=)?(?P<url>(?P<scheme>[A-Za-z][A-Za-z0-9]*)://.+)", re.DOTALL)

_log = logging.getLogger("ecommersss.alerts")


class NotDelivered(Exception):
    """A channel did not take a message; the text says why, without secrets."""


class Channel(Protocol):
    """A place that takes messages.

    `id` stays the same as long as the place does. `name` is for people. `owner`: whose messages it gets, None
    for all. `limited`: whether people read it; such a channel has a limit of messages an hour.
    """

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def owner(self) -> str | None: ...

    @property
    def limited(self) -> bool: ...

    def send(self, messages: Sequence[Message]) -> None:
        """Send the messages as one. Raises `NotDelivered`."""

    def test(self) -> None:
        """Send a message that says that it is a test. Raises `NotDelivered`."""


@dataclass(frozen=True)
class LogChannel:
    """The log of the process that tells."""

    id: str = LOG
    name: str = "log"
    owner: str | None = None
    limited: bool = False

    def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            text = as_text([message])
            level = {"error": logging.ERROR, "warning": logging.WARNING, "resolved": logging.INFO}[text.level]
            _log.log(level, "%s: %s", text.title, text.body.replace("\n", " | "))

    def test(self) -> None:
        _log.info("a test of the alerts")


@dataclass(frozen=True)
class FileChannel:
    """The file `alerts.jsonl` in the home: one JSON object a line, for its owner only.

    It has no message twice, keeps each for `keep`, and never grows beyond `LARGEST_FILE`. One process at a
    time writes it: see `delivery.telling`.
    """

    path: Path
    keep: timedelta | None
    id: str = "file"
    name: str = "alerts.jsonl"
    owner: str | None = None
    limited: bool = False

    def send(self, messages: Sequence[Message]) -> None:
        try:
            with self._opened() as file:
                known = file.read()
                if known and not known.endswith(b"\n"):  # a line that a kill cut off
                    file.write(b"\n")
                for message in messages:
                    if f'"id": "{message.id}"'.encode() not in known:
                        file.write((json.dumps(as_row(message), ensure_ascii=False) + "\n").encode())
            self._trim(messages[-1].at)
        except OSError as error:
            raise NotDelivered(f"{self.path}: {error.strerror}") from error

    def test(self) -> None:
        try:
            self._opened().close()
        except OSError as error:
            raise NotDelivered(f"{self.path}: {error.strerror}") from error

    def _opened(self) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b")

    def _trim(self, now: datetime) -> None:
        """Remove the oldest lines if they are too old, or half of all lines if the file is too large."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = lines
        if self.keep is not None:
            old = (now - self.keep).isoformat(timespec="seconds")
            kept = list(dropwhile(lambda line: (_at(line) or "") < old, lines))
        if sum(map(len, kept)) > LARGEST_FILE:
            kept = kept[len(kept) // 2 :]
        if kept != lines:
            replace_file(self.path, b"".join(kept))


def _at(line: bytes) -> str | None:
    """Return when the alert of a line was raised, in UTC; None for a line that is none."""
    try:
        return datetime.fromisoformat(json.loads(line)["at"]).astimezone(UTC).isoformat(timespec="seconds")
    except (ValueError, KeyError, TypeError):
        return None


class UrlChannel:
    """A place that `apprise` knows how to reach, such as a chat, a mailbox or a webhook."""

    limited = True

    def __init__(self, position: int, scheme: str, url: str, owner: str | None) -> None:
        """Understand a URL. Raises `PlatformError` with its position and scheme, never with the URL."""
        self.id = hashlib.sha256(f"{owner}={url}".encode()).hexdigest()[:16]
        self.name = f"{scheme} (URL {position})"
        self.owner = owner
        self._secrets = url.partition("://")[2]
        with _complaints() as complaints:
            self._plugin = _plugin(url)
        if self._plugin is None:
            raise PlatformError(
                f"ECOMMERSSS_ALERTS: URL {position}, {scheme}://..., is not one that apprise understands"
                f"{_reason(complaints, self._secrets, ': ')}. Its forms are at https://appriseit.com/services/"
            )

    def send(self, messages: Sequence[Message]) -> None:
        self._notify(as_text(messages))

    def test(self) -> None:
        self._notify(
            Text(
                "Test of the alerts of eCommer$$$",
                "If you read this, alerts reach you. Nothing is wrong, and there is nothing to do.",
                "resolved",
            )
        )

    def _notify(self, text: Text) -> None:
        from apprise import NotifyFormat, NotifyType

        assert self._plugin is not None
        kinds = {
            "error": NotifyType.FAILURE,
            "warning": NotifyType.WARNING,
            "resolved": NotifyType.SUCCESS,
        }
        with _complaints() as complaints:
            try:
                taken = self._plugin.notify(
                    title=text.title,
                    body=text.body,
                    notify_type=kinds[text.level],
                    body_format=NotifyFormat.TEXT,
                )
            except Exception as error:  # one of the many libraries below a plugin
                complaints.append(f"{type(error).__name__}: {error}")
                taken = False
        if not taken:
            raise NotDelivered(_reason(complaints, self._secrets, "") or "it gave no reason")


def _plugin(url: str) -> NotifyBase | None:
    from apprise import Apprise, AppriseAsset, NotifyBase, OverflowMode

    asset = AppriseAsset(app_id="eCommer$$$", app_desc="eCommer$$$ data platform", app_url="")
    plugin = Apprise.instantiate(url, asset=asset)
    if not isinstance(plugin, NotifyBase):
        return None
    asked = {name.lower() for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    if "cto" not in asked:
        plugin.socket_connect_timeout = CONNECT_SECONDS
    if "rto" not in asked:
        plugin.socket_read_timeout = READ_SECONDS
    if "overflow" not in asked:
        plugin.overflow_mode = OverflowMode.TRUNCATE  # one message stays one
    return plugin


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what apprise warns of in this thread, and the errors below."""
    found: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.thread == thread and (record.levelno >= logging.WARNING or "Exception: " in text):
                found.append(text)

    logger, collector = logging.getLogger("apprise"), Collector()
    logger.setLevel(logging.DEBUG)  # it hides the errors that say why
    logger.propagate = False  # and shows payloads beside them
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)


def _reason(complaints: Sequence[str], url: str, before: str) -> str:
    """Return what apprise complained about, without any part of the URL: it may be secret."""
    text = "; ".join(dict.fromkeys(complaints))
    parts = {part for form in (url, unquote(url)) for part in re.split(r"[/:@?&=,]+", form)}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= SHORTEST_SECRET:
            text = text.replace(part, "***")
    return before + clean(text) if text else ""


def url_channels(text: str) -> list[UrlChannel]:
    """Return the channels of ECOMMERSSS_ALERTS, each place once.

    URLs are separated by white space, commas or semicolons. `team:fraud-analytics=slack://...` gets the
    messages of that owner only. Raises `PlatformError` for a URL or an owner that does not exist.
    """
    channels: dict[str, UrlChannel] = {}
    for position, item in enumerate(filter(None, _BETWEEN.split(text.strip(" \t\r\n,;"))), 1):
        found = _URL.fullmatch(item)
        if found is None:
            raise PlatformError(
                f"ECOMMERSSS_ALERTS: entry {position} is no URL: write SCHEME://..., or OWNER=SCHEME://..."
            )
        owner = found["owner"]
        if owner is not None and owner not in OWNERS:
            raise PlatformError(
                f"ECOMMERSSS_ALERTS: no alert belongs to {owner}, the owner of URL {position}:"
                f" write {' or '.join(sorted(OWNERS))}, or no owner for the alerts of all"
            )
        channel = UrlChannel(position, found["scheme"].lower(), found["url"], owner)
        channels.setdefault(channel.id, channel)
    return list(channels.values())


def channels(settings: Settings) -> list[Channel]:
    """Return all channels of these settings. Raises `PlatformError` as `url_channels` does."""
    days = settings.run_retention_days
    always: list[Channel] = [
        LogChannel(),
        FileChannel(settings.alerts_path, timedelta(days=days) if days else None),
    ]
    urls = url_channels(settings.alerts.get_secret_value()) if settings.alerts else []
    return [*always, *urls]


def try_channels(places: Sequence[Channel]) -> list[dict[str, str | None]]:
    """Send a test to all places at once, and return a row for each: whether it arrived, and why not."""

    def why_not(place: Channel) -> str | None:
        try:
            place.test()
        except NotDelivered as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(places)) as threads:
        answers = list(threads.map(why_not, places))
    return [
        {
            "channel": place.name,
            "owner": place.owner or "all",
            "arrived": "no" if why else "yes",
            "why not": why,
        }
        for place, why in zip(places, answers, strict=True)
    ]

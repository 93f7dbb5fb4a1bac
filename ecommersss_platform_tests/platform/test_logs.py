"""Logs for people and for programs, without the rows that an error quotes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ecommersss_platform.logs import LogFormat, configure_logging, structured


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level, sys.excepthook = handlers, level, hook


def test_json_lines_hold_extra_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    before = datetime.now(UTC)
    logging.getLogger("streaming.consumer").warning(
        "stored %d\norders", 3, extra={"position": 12, "rules_version": "abc", "odd": {1}}
    )
    [line] = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert abs(datetime.fromisoformat(record.pop("time")) - before).total_seconds() < 5
    assert record == {
        "level": "warning",
        "logger": "streaming.consumer",
        "message": "stored 3\norders",
        "position": 12,
        "rules_version": "abc",
        "odd": "{1}",
    }
    assert structured()


def test_text_lines_have_time_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    logging.getLogger("streaming.consumer").info("stored %d", 3, extra={"position": 12})
    assert capsys.readouterr().err.endswith("Z INFO    streaming.consumer: stored 3\n")
    assert not structured()


@pytest.mark.parametrize("style", ["text", "json"])
def test_control_characters_are_shown_and_never_sent(
    capsys: pytest.CaptureFixture[str], style: LogFormat
) -> None:
    configure_logging(style)
    logging.getLogger("streaming").error(
        "line %s", "\x1b]0;title\x07\x9b2J", exc_info=ValueError("\x1b[31m\x9b")
    )
    printed = capsys.readouterr().err
    assert not {"\x1b", "\x07", "\x9b"} & set(printed)
    assert "0;title" in printed
    assert "[31m" in printed


ROWS = "DETAIL:  Key (payment_method)=(Siti) exists\nCONTEXT:  COPY orders, line 1: Rahayu"


@pytest.mark.parametrize("style", ["text", "json"])
def test_errors_show_no_rows(capsys: pytest.CaptureFixture[str], style: LogFormat) -> None:
    configure_logging(style)

    def store() -> None:
        raise ValueError("duplicate key\n" + ROWS)

    try:
        try:
            store()
        except ValueError as error:
            raise RuntimeError("the batch failed\n" + ROWS) from error
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    if style == "json":
        record = json.loads(printed)
        assert (record["level"], record["message"]) == ("critical", "unexpected error")
        printed = record["exception"]
    assert "ValueError: duplicate key" in printed
    assert "RuntimeError: the batch failed" in printed
    assert "in store" in printed
    for secret in ("DETAIL", "Siti", "Rahayu"):
        assert secret not in printed

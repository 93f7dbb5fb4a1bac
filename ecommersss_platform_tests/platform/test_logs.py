"""How processes log: for people and for programs, with nothing of the rows that an error quotes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ecommersss_platform.logs import LogFormat, configure_logging, structured


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level, sys.excepthook = handlers, level, hook


def test_json_lines_hold_what_was_given_as_extra(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    before = datetime.now(UTC)
    logging.getLogger("streaming.consumer").warning(
        "stored %d\norders", 3, extra={"position": 12, "rules_version": "abc", "odd": {1}}
    )
    [line] = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert abs(datetime.fromisoformat(told.pop("time")) - before).total_seconds() < 5
    assert told == {
        "level": "warning",
        "logger": "streaming.consumer",
        "message": "stored 3\norders",
        "position": 12,
        "rules_version": "abc",
        "odd": "{1}",
    }
    assert structured()


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    logging.getLogger("streaming.consumer").info("stored %d", 3, extra={"position": 12})
    assert capsys.readouterr().err.endswith("Z INFO    streaming.consumer: stored 3\n")
    assert not structured()


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
    told = capsys.readouterr().err
    if style == "json":
        line = json.loads(told)
        assert (line["level"], line["message"]) == ("critical", "unexpected error")
        told = line["exception"]
    assert "ValueError: duplicate key" in told
    assert "RuntimeError: the batch failed" in told
    assert "in store" in told
    for secret in ("DETAIL", "Siti", "Rahayu"):
        assert secret not in told

"""A rule book's file that changes, breaks, disappears and comes back."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from streaming.rules import RuleBook, RuleError, RuleFile
from streaming.rules import file as module

TEXT = "rules: [{name: %s, description: d, mode: active, when: TRUE}]"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yml"
    path.write_text(TEXT % "a")
    return path


def settle(path: Path) -> None:
    """Make the file look as if it was modified a while ago."""
    before = time.time() - 60
    os.utime(path, (before, before))


def test_the_first_book_must_be_valid(path: Path) -> None:
    path.write_text("rules: []")
    with pytest.raises(RuleError, match="at least one rule"):
        RuleFile(path)


def test_a_change_is_loaded_once(path: Path) -> None:
    rules = RuleFile(path)
    first = rules.book
    assert not rules.refresh()
    assert rules.book is first
    path.write_text(TEXT % "b")
    assert rules.refresh()
    assert [rule.name for rule in rules.book.rules] == ["b"]
    assert rules.book.version == RuleBook.load(path).version != first.version
    assert not rules.refresh()


def test_changes_within_one_clock_tick_are_noticed(path: Path) -> None:
    """Size and time are the same: only the content differs."""
    rules = RuleFile(path)
    now = time.time_ns()
    for name in "bcd":
        path.write_text(TEXT % name)
        os.utime(path, ns=(now, now))
        assert rules.refresh()
        assert rules.book.rules[0].name == name


def test_an_unchanged_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = RuleFile(path)
    settle(path)
    rules.refresh()
    monkeypatch.setattr(module.Path, "read_bytes", lambda _: pytest.fail("read without need"))
    for _ in range(3):
        assert not rules.refresh()


def test_touching_the_file_is_not_a_change(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rules = RuleFile(path)
    book = rules.book
    for _ in range(2):
        path.touch()
        assert not rules.refresh()
    assert rules.book is book
    assert caplog.records == []


def test_an_invalid_file_is_logged_once_per_change_and_the_old_book_stays(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = RuleFile(path)
    book = rules.book

    def logged() -> list[str]:
        messages = [record.message.partition("stays in use: ")[2] for record in caplog.records]
        caplog.clear()
        return messages

    path.write_text(TEXT.replace("TRUE", "amout > 1") % "b")
    for _ in range(3):
        assert not rules.refresh()
    assert logged() == [f"{path}:1:55: rule b: unknown column amout: did you mean amount?"]
    path.write_text("")
    for _ in range(3):
        assert not rules.refresh()
    assert logged() == [f"{path}:1:1: the rule book is empty: it needs `rules:`, a list"]
    path.unlink()
    for _ in range(3):
        assert not rules.refresh()
    assert logged() == [f"{path}:1:1: cannot be read: No such file or directory"]
    assert rules.book is book
    path.write_text(TEXT % "a")
    assert not rules.refresh(), "the same book came back"
    with caplog.at_level(logging.INFO):
        path.write_text(TEXT % "c")
        assert rules.refresh()
    assert [record.message for record in caplog.records] == [
        f"rule book changed: version {rules.book.version}, 1 rules"
    ]
    path.unlink()
    assert not rules.refresh()
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]


def test_a_book_that_takes_long_to_parse_does_not_pause_the_caller(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = RuleFile(path)
    parse, parsed = RuleBook.parse, threading.Event()
    monkeypatch.setattr(RuleBook, "parse", lambda *of: parsed.wait(30) and parse(*of))
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
    path.write_text(TEXT % "b")
    for _ in range(3):
        assert not rules.refresh()
    assert rules.book.rules[0].name == "a"
    parsed.set()
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 30)
    assert rules.refresh()
    assert rules.book.rules[0].name == "b"


def test_a_fault_of_the_parser_keeps_the_old_book(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rules = RuleFile(path)
    monkeypatch.setattr(RuleBook, "parse", lambda *_: 1 // 0)
    path.write_text(TEXT % "b")
    for _ in range(3):
        assert not rules.refresh()
    assert [record.message.partition("stays in use: ")[2] for record in caplog.records] == [
        "integer division or modulo by zero"
    ]

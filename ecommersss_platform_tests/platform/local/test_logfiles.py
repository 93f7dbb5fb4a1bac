"""The end of a log, and its rotation while somebody writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecommersss_platform.local.logfiles import rotate, tail


def test_rotation_keeps_a_log_that_is_too_long(tmp_path: Path) -> None:
    log = tmp_path / "consumer.log"
    with log.open("ab") as writer:
        writer.write(b"x" * 100)
        writer.flush()
        rotate(log, limit=100)
        assert not (tmp_path / "consumer.log.1").exists()
        writer.write(b"y")
        writer.flush()
        rotate(log, limit=100)
        writer.write(b"new\n")  # the writer keeps it open
    assert (tmp_path / "consumer.log.1").read_bytes() == b"x" * 100 + b"y"
    assert log.read_bytes() == b"new\n"
    rotate(tmp_path / "none.log")


@pytest.mark.parametrize(
    ("content", "start", "expected"),
    [
        (b"", 0, []),
        (b"one\n\n two \n", 0, ["one", " two"]),
        (b"old\nnew\n", 4, ["new"]),
        (b"rotated\n", 500, ["rotated"]),
        (b"\xff\xfe\n", 0, ["\ufffd\ufffd"]),
        (b"".join(b"%d\n" % n for n in range(5000)), 0, ["4994", "4995", "4996", "4997", "4998", "4999"]),
    ],
)
def test_tail_of_a_log(tmp_path: Path, content: bytes, start: int, expected: list[str]) -> None:
    (tmp_path / "log").write_bytes(content)
    assert tail(tmp_path / "log", start) == expected


def test_tail_of_a_missing_log(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == []

"""Files of lines: pipes, standard input, gzip, a byte order mark, a JSON array."""

from __future__ import annotations

import errno
import gzip
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from streaming.errors import PlatformError
from streaming.files import STDIN, new_file, open_lines, refuse_array

TEXT = b"one\ntwo\n" * 5_000


def piped(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=[data], daemon=True).start()
    return path


def on_disk(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("place", [piped, on_disk])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_any_file_is_read_from_its_first_byte(
    tmp_path: Path, place: Callable[[Path, bytes], Path], pack: Callable[[bytes], bytes], mark: bytes
) -> None:
    packed = pack(mark + TEXT)
    with open_lines(place(tmp_path, packed)) as source:
        assert source.file.read() == TEXT
        assert source.size == (None if place is piped else len(packed))
        if source.size is not None:
            assert source.read_bytes() == source.size


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"\xef\xbb\xbfa\nb\n"))))
    with open_lines(STDIN) as source:
        assert (list(source.file), source.size) == ([b"a\n", b"b\n"], None)


@pytest.mark.parametrize(
    "data",
    [gzip.compress(TEXT)[:-20], gzip.compress(TEXT)[:30] + b"xxxxxxxxxxxxxxxx"],
    ids=["too_short", "damaged"],
)
def test_damaged_gzip_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    with (
        pytest.raises(PlatformError, match="gzip data are damaged or end too early"),
        open_lines(on_disk(tmp_path, data)) as source,
    ):
        source.file.read()


@pytest.mark.parametrize("data", [b"", b"\x1f", b"\xef\xbb"])
def test_a_file_of_a_few_bytes_is_as_it_is(tmp_path: Path, data: bytes) -> None:
    with open_lines(on_disk(tmp_path, data)) as source:
        assert source.file.read() == data


@pytest.mark.parametrize("line", [b"[\n", b'[{"id": 1}]', b" [ ", b"[]"])
def test_a_json_array_is_refused_with_a_hint(line: bytes) -> None:
    with pytest.raises(PlatformError, match=r"orders\.json is a JSON array.*jq -c '\.\[\]'"):
        refuse_array(Path("orders.json"), line)
    refuse_array(Path("orders.json"), b"[1] is a line like any other")


def test_a_new_file_appears_when_it_is_complete_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with new_file(path) as file:
        file.write(TEXT)
        assert not path.exists()
    assert path.read_bytes() == TEXT
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def write_new(path: Path, then: Callable[[], object] = lambda: None) -> None:
    """Write a new file, and do something else before it is complete."""
    with new_file(path) as file:
        file.write(TEXT)
        then()


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("planted", ["before", "meanwhile"])
def test_a_new_file_neither_follows_a_link_nor_overwrites(tmp_path: Path, planted: str) -> None:
    path, victim = tmp_path / "new", tmp_path / "victim"
    victim.write_text("precious")
    if planted == "before":
        path.symlink_to(victim)
    with pytest.raises(PlatformError, match="new exists already: remove it"):
        write_new(path, lambda: path.symlink_to(victim))
    assert victim.read_text() == "precious"
    assert path.is_symlink()
    assert sorted(tmp_path.iterdir()) == [path, victim]


def test_a_failure_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_new(tmp_path / "new", lambda: fail(ZeroDivisionError()))
    with pytest.raises(PlatformError, match=r"cannot write .*/new: No space left"):
        write_new(tmp_path / "new", lambda: fail(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(PlatformError, match=r"cannot write .*/none/new: No such file"):
        write_new(tmp_path / "none" / "new")
    assert list(tmp_path.iterdir()) == []

"""Files of lines: pipes, standard input, gzip, a byte order mark, a JSON array."""

from __future__ import annotations

import gzip
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from streaming.errors import PlatformError
from streaming.files import STDIN, open_lines, refuse_array

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

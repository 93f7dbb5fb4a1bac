"""Printed rows and results of queries: every value as it is, in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecommersss_platform.cli.output import QueryFormat, as_json, unique_names, write_rows
from ecommersss_platform.cli.query_output import python_rows, write_result
from ecommersss_platform.terminal import visible
from streaming.errors import PlatformError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def result(sql: str) -> pa.RecordBatchReader:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(sql).to_arrow_table().to_reader()


def written(sql: str, style: str, out: io.StringIO | None = None) -> str:
    rows, out = result(sql), out or io.StringIO()
    write_rows(rows.schema.names, python_rows(rows), QueryFormat(style), out, unwrap=True)
    return out.getvalue()


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("csv", "a,a\n1,2\n"),
        ("json", '{"a": 1, "a_1": 2}\n'),
        ("jsonl", '{"a": 1, "a_1": 2}\n'),
    ],
)
def test_two_columns_of_one_name_keep_both_values(style: str, text: str) -> None:
    assert written("SELECT 1 AS a, 2 AS a", style) == text
    assert [word for word in written("SELECT 1 AS a, 2 AS a", "table").split() if word in "12"] == ["1", "2"]


def test_repeated_names_become_unique_without_taking_another_columns_name() -> None:
    assert unique_names(["a", "a", "a_1", "a"]) == ["a", "a_2", "a_1", "a_3"]


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("FROM range(3) t(n)", '[\n{"n": 0},\n{"n": 1},\n{"n": 2}\n]\n'),
        ("FROM range(1) t(n)", '{"n": 0}\n'),
        ("FROM range(0) t(n)", "[]\n"),
    ],
)
def test_json_is_one_document(sql: str, text: str) -> None:
    assert written(sql, "json") == text


def test_json_has_integers_and_no_nan() -> None:
    values = "'nan'::DOUBLE AS a, [{'x': '-infinity'::DOUBLE}] AS b, sum(range) AS n, 1.50 AS d"
    text = written(f"SELECT {values} FROM range(3)", "json")
    assert text == '{"a": null, "b": [{"x": null}], "n": 3, "d": 1.5}\n'
    assert as_json(Decimal(2**100)) == str(2**100)
    assert as_json(Decimal("NaN")) == '"NaN"'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("'infinity'::TIMESTAMPTZ", "infinity"),
        ("'-infinity'::TIMESTAMP", "-infinity"),
        ("'infinity'::DATE", "infinity"),
        ("DATE '20000-02-29'", "20000-02-29"),
        ("DATE '0044-03-15 (BC)'", "-0043-03-15"),
        ("DATE '0001-12-31 (BC)'", "0000-12-31"),
        ("TIMESTAMPTZ '12025-01-01 07:00:00.5+07'", "12025-01-01T00:00:00.500000+00:00"),
        ("TIMESTAMP_S '10000-01-01 01:02:03'", "10000-01-01T01:02:03"),
    ],
)
def test_times_beyond_pythons_range_are_text(value: str, text: str) -> None:
    assert list(python_rows(result(f"SELECT {value} AS t, [{value}] AS l, {{'x': {value}}} AS s"))) == [
        (text, [text], {"x": text})
    ]


def test_ordinary_values_keep_their_types() -> None:
    values = "DATE '2025-06-01', TIMESTAMPTZ '2025-06-01 07:00:00+07', 1.5::DECIMAL(4, 2), NULL"
    assert list(python_rows(result(f"SELECT {values}"))) == [
        (date(2025, 6, 1), datetime(2025, 6, 1, tzinfo=UTC), Decimal("1.50"), None)
    ]


def test_amounts_have_separators_in_a_table_only() -> None:
    sql = "SELECT 1234567.5::DECIMAL(18, 2) AS amount, 7654321 AS id"
    assert re.search(r"1,234,567\.50 .* 7654321 ", written(sql, "table"))
    assert written(sql, "csv") == "amount,id\n1234567.50,7654321\n"
    assert written(sql, "jsonl") == '{"amount": 1234567.5, "id": 7654321}\n'


def test_numbers_and_titles_are_not_broken_in_a_crowded_table() -> None:
    out = io.StringIO()
    columns = ["amount", *(f"text_{n}" for n in range(12))]
    title = "a title that is much longer than its table"
    write_rows(
        columns, [[Decimal("4068692500.00"), *["word " * 8] * 12]], QueryFormat.TABLE, out, title=title
    )
    assert out.getvalue().startswith(f"{title}\n")
    assert "4,068,692,500.00" in out.getvalue()
    write_rows(["n"], [[1]], QueryFormat.TABLE, out := io.StringIO(), title=title)
    assert out.getvalue().startswith(f"{title}\n")


def test_a_table_wider_than_the_terminal_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    """No column vanishes, and no name or number is broken: rows stand side by side, as many as fit."""
    monkeypatch.setenv("COLUMNS", "80")
    columns = ["user", *(f"amount_of_the_month_{n}" for n in range(6)), "note"]
    rows = [[f"user {n}", *[Decimal(n) + Decimal("1234567.50")] * 6, None] for n in range(5)]
    write_rows(columns, rows, QueryFormat.TABLE, out := Terminal())
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert cells[0] == ["user", "user 0", "user 1", "user 2"]
    assert cells[1] == ["amount_of_the_month_0", "1,234,567.50", "1,234,568.50", "1,234,569.50"]
    assert cells[7] == ["note", "", "", ""]
    assert cells[8] == ["user", "user 3", "user 4"]
    assert len(cells) == 2 * 8


@pytest.mark.parametrize("rows", [[], [["word " * 40, 1]]])
def test_long_texts_are_folded_in_a_table_that_fits(
    rows: list[list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    write_rows(["text", "number"], rows, QueryFormat.TABLE, out := Terminal())
    lines = out.getvalue().splitlines()
    assert "text" in lines[1]
    assert "number" in lines[1]
    assert max(map(len, lines[2:])) <= 80


def test_last_instant_of_python_is_shown_in_a_table() -> None:
    assert "9999-12-31 23:00:00+00:00" in written("SELECT TIMESTAMPTZ '9999-12-31 23:00:00+00' AS t", "table")


NASTY = "chr(27) || '[2J' || chr(155) || 'x' || chr(8238)"


def test_terminal_escapes_are_shown_and_never_sent() -> None:
    for style in ("table", "csv"):
        text = written(f"SELECT {NASTY} AS a", style, Terminal())
        assert "\\x1b[2J\\x9bx\\u202e" in text
        assert "\x9b" not in text
        assert "\x1b[2J" not in text
    text = written(f"SELECT {NASTY} AS a", "json", Terminal())
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert json.loads(text) == {"a": "\x1b[2J\x9bx\u202e"}
    # A file gets the data as they are.
    assert list(csv.reader(io.StringIO(written(f"SELECT {NASTY} AS a", "csv"))))[1] == ["\x1b[2J\x9bx\u202e"]
    assert visible("two\nlines\tand é") == "two\nlines\tand é"


def test_a_table_begins_again_after_a_thousand_rows() -> None:
    text = written("SELECT range AS number FROM range(2001)", "table")
    assert text.count("number") == 3
    assert "2000" in text
    assert written("SELECT 1 AS number WHERE false", "table").count("number") == 1


def test_parquet_and_text_go_to_a_new_file(tmp_path: Path) -> None:
    sql = "SELECT range AS a, range + 1 AS a, sum(range) OVER () AS s FROM range(3)"
    write_result(result(sql), QueryFormat.PARQUET, tmp_path / "r.parquet")
    assert pq.read_table(tmp_path / "r.parquet").to_pylist()[2] == {"a": 2, "a_1": 3, "s": 3}
    write_result(result(sql), QueryFormat.CSV, tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text().splitlines() == ["a,a,s", "0,1,3", "1,2,3", "2,3,3"]
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("r.csv", "link"):
        with pytest.raises(PlatformError, match="exists already"):
            write_result(result(sql), QueryFormat.PARQUET, tmp_path / name)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(PlatformError, match="No such file"):
        write_result(result(sql), QueryFormat.CSV, tmp_path / "missing" / "r.csv")


def test_incomplete_file_is_removed(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="Parquet cannot hold"):
        write_result(result("SELECT INTERVAL 1 DAY AS i"), QueryFormat.PARQUET, tmp_path / "r.parquet")
    assert list(tmp_path.iterdir()) == []


def test_rows_are_written_as_they_come() -> None:
    taken: list[int] = []

    def rows() -> Any:
        for number in range(20_000):
            taken.append(number)
            yield (number,)

    class Watching(io.StringIO):
        def write(self, text: str) -> int:
            written_at.append(len(taken))
            return super().write(text)

    for style in (QueryFormat.CSV, QueryFormat.JSON, QueryFormat.JSONL, QueryFormat.TABLE):
        written_at: list[int] = []
        taken.clear()
        write_rows(["n"], rows(), style, Watching())
        assert written_at[0] <= 1_000

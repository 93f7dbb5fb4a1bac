"""Streams of Arrow batches: fitted to a schema, counted."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ecommersss_platform.warehouse import SchemaError
from ecommersss_platform.warehouse.arrow import CountingReader, conform
from ecommersss_platform.warehouse.io_manager import as_reader

WANTED = pa.schema(
    [
        pa.field("n", pa.int64(), nullable=False),
        pa.field("money", pa.decimal128(18, 2)),
        pa.field("t", pa.timestamp("us", tz="UTC")),
        pa.field("text", pa.string()),
        pa.field("list", pa.list_(pa.string())),
    ]
)
ROW = {"n": 1, "money": Decimal("1.50"), "t": datetime(2024, 6, 10, tzinfo=UTC), "text": "x", "list": ["a"]}


@pytest.mark.parametrize("frame", [pl.DataFrame, pd.DataFrame], ids=["polars", "pandas"])
def test_conform_casts_reorders_and_fills_columns(frame: type) -> None:
    given = frame([{name: ROW[name] for name in ("list", "t", "text", "n")}])
    result = conform(as_reader(given), WANTED, "raw.t").read_all()
    assert result.schema.equals(WANTED)
    assert result.to_pylist() == [ROW | {"money": None}]


def test_conform_returns_a_fitting_reader_unchanged() -> None:
    reader = pa.Table.from_pylist([ROW], WANTED).to_reader()
    assert conform(reader, WANTED, "raw.t") is reader


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"n": 1, "more": 2}, "raw.t has no column more; it has n, money"),
        ({"money": Decimal(1)}, "raw.t needs the column n; the rows have only money"),
        ({"n": 1.5}, "raw.t.n: double does not fit int64"),
        ({"n": 1, "money": Decimal("0.125")}, "raw.t.money: decimal128(3, 3) does not fit decimal128(18, 2)"),
    ],
)
def test_conform_refuses_rows_that_do_not_fit(row: dict[str, object], says: str) -> None:
    with pytest.raises(SchemaError) as failure:
        conform(pa.Table.from_pylist([row]).to_reader(), WANTED, "raw.t").read_all()
    assert says in str(failure.value)


def test_counting_reader_keeps_the_error_that_ended_it() -> None:
    def batches():  # type: ignore[no-untyped-def]
        yield pa.record_batch({"n": [1, 2, 3]})
        raise TimeoutError("too slow")

    counted = CountingReader(pa.RecordBatchReader.from_batches(pa.schema([("n", pa.int64())]), batches()))
    with pytest.raises(TimeoutError):
        counted.reader.read_all()
    assert (counted.rows, counted.bytes) == (3, 24)
    assert str(counted.error) == "too slow"

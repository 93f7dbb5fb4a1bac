"""The table of an asset, and what an asset may return."""

from __future__ import annotations

import pyarrow as pa
import pytest
from dagster import AssetKey

from ecommersss_platform.contracts import ORDERS, Type
from ecommersss_platform.warehouse import SchemaError
from ecommersss_platform.warehouse.io_manager import as_reader, table_of
from ecommersss_platform.warehouse.names import full_name


def test_asset_table_is_its_contract_or_its_columns() -> None:
    schema = pa.schema([("a", pa.int32()), ("f", pa.float32()), ("partition_date", pa.date32())])
    assert table_of(AssetKey(["raw", "orders"]), schema, partitioned=True) is ORDERS
    derived = table_of(AssetKey(["lab", "x"]), schema, partitioned=True)
    assert full_name(derived) == "lab.x"
    assert [c.type for c in derived.columns] == [Type.INT64, Type.FLOAT64, Type.DATE]
    with pytest.raises(SchemaError, match=r"lab\.x\.t has the type timestamp\[us\]; cast it"):
        table_of(AssetKey(["lab", "x"]), pa.schema([("t", pa.timestamp("us"))]), partitioned=False)
    with pytest.raises(SchemaError, match="need the column partition_date"):
        table_of(AssetKey(["lab", "x"]), pa.schema([("a", pa.int64())]), partitioned=True)
    with pytest.raises(ValueError, match="two parts"):
        table_of(AssetKey("x"), schema, partitioned=False)


def test_output_must_export_arrow() -> None:
    with pytest.raises(TypeError, match=r"got builtins\.list"):
        as_reader([1, 2])

"""The training set on a small warehouse: what it holds, what does not leak in, and when it is refused."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance, materialize

from ecommersss_platform.assets.laboratory import TrainingSetDays, asked_days, laboratory_assets
from ecommersss_platform.contracts import DISPUTES, LOAD_LOG, ORDERS, PRODUCTS, VERDICTS, RawTable
from ecommersss_platform.dbt.project import build_arguments, ensure_manifest
from ecommersss_platform.dbt.resource import PlatformDbt
from ecommersss_platform.laboratory import training_set as module
from ecommersss_platform.laboratory.training_set import TrainingSet, Written, write_training_set
from ecommersss_platform.partitions import Days
from ecommersss_platform.resources import WAREHOUSE
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform_tests.support.dbt_runs import dbt_events
from ecommersss_platform_tests.support.home import Home
from ecommersss_platform_tests.support.raw_days import (
    DISPUTE_ROWS,
    ORDER_ROWS,
    PRODUCT_ROWS,
    SAMPLE,
    VERDICT_ROWS,
    Row,
    at,
    dispute,
    order,
    product,
    verdict,
    write_raw,
)
from streaming.errors import PlatformError
from streaming.rules import FEATURES

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FEBRUARY = Days(date(2024, 2, 28), date(2024, 3, 1))
ALL = Days(date(2024, 2, 28), date(2024, 3, 3))
LATER = date(2024, 3, 4)


def loads(days: Iterable[date]) -> list[dict[str, Any]]:
    return [
        {
            **{"partition_date": day, "table_name": f"raw.{table}", "run_id": "r", "row_count": 1},
            **{"checksum": "", "days": 1, "loaded_at": datetime(2024, 3, 4, 17, tzinfo=UTC)},
        }
        for day in days
        for table in ("orders", "disputes", "verdicts")
    ]


def planted() -> Mapping[RawTable, list[Row]]:
    """Return the sample with a late order, a later price, and what became known after the first of March."""
    decided = at("2024-03-01", "12:00")  # and recorded on the next day
    return {
        **SAMPLE,
        # Of user 2, placed between orders 105 and 106, but at a later position than all.
        ORDERS: [*ORDER_ROWS, order(120, 2, 1, "2024-02-29", "01:00:00", "5.00", "OVO")],
        PRODUCTS: [*PRODUCT_ROWS, product(5, 1, "2024-03-01", "99.00", product_name="Kopi")],
        VERDICTS: [
            *VERDICT_ROWS,
            verdict(3, 101, "fraud", "2024-03-02", decided_at=decided),
            verdict(4, 103, "fraud", "2024-03-02"),
        ],
        DISPUTES: [
            *DISPUTE_ROWS,
            dispute(3, 2, 104, "open", "2024-03-02"),
            dispute(4, 1, 105, "won", "2024-03-03"),
        ],
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    ensure_manifest()
    home = Home(tmp_path_factory.mktemp("files") / "home", ECOMMERSSS_FIRST_DAY="2024-02-28")
    loaded = loads(Days.between(FEBRUARY.first, LATER))
    write_raw(home.settings.warehouse_path, {**planted(), LOAD_LOG: loaded})
    models = ["+order_features_staged", "order_features", "stg_verdicts", "stg_dispute_versions"]
    tests = ["fact_orders_staged+1,resource_type:test", "order_features_staged+1,resource_type:test"]
    select = ["--indirect-selection", "empty", "--select", *models, *tests]
    for _ in dbt_events(home.settings, [*build_arguments(), *select]):
        pass
    return home


def written(home: Home, days: Days, labels_as_of: date) -> tuple[Written, pa.Table]:
    out = io.BytesIO()
    asked = TrainingSet(days, labels_as_of)
    done = write_training_set(asked, make_warehouse(home.settings), PlatformDbt(home.settings), out)
    return done, pq.read_table(out)


def labels(rows: pa.Table) -> dict[int, tuple[Any, ...]]:
    """Return the labels that are known, by order."""
    return {
        row["order_id"]: (row["label"], row["label_source"], row["label_delay_days"])
        for row in rows.to_pylist()
        if row["label"] != "unknown"
    }


def test_a_training_set_has_what_the_stream_saw_and_what_was_known(home: Home) -> None:
    printed = home.call(
        *("export", "training-set", "february.parquet", "--from", "2024-02-28", "--to", "2024-02-29"),
        *("--labels-as-of", "2024-02-29"),
    )
    assert printed.stdout == (
        "february.parquet: 9 orders of 2024-02-28 to 2024-02-29; labels at the end of 2024-02-29:"
        " 1 fraud, 8 unknown\n"
    )
    file = pq.ParquetFile(home.files / "february.parquet")
    rows = file.read().to_pylist()
    assert [row["order_id"] for row in rows] == [*range(101, 109), 120]
    assert rows[5] == rows[5] | {
        "order_id": 106,
        "user_id": 2,
        "amount": Decimal("0.20"),
        "is_fraud": True,
        "fraud_reasons": ["foreign_country"],
        "shadow_reasons": ["rapid_orders"],
        "rules_version": "v1",
        "local_hour": 3,
        "list_price": Decimal("10.00"),
        "user_age_days": 1,
        "user_orders_10m": 1,
        "user_orders_24h": 3,
        "user_amount_24h": Decimal("100.40"),
        "seconds_since_last_order": 3 * 3600,
        "user_countries_24h": 1,
        "is_blacklisted": False,  # by the version of the lists that decided
        "label": "unknown",
        "label_source": None,
        "labelled_at": None,
        "label_delay_days": None,
        "is_mature": False,
        "partition_date": date(2024, 2, 29),
    }
    metadata = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    assert {name: metadata[name] for name in metadata if name != "ARROW:schema"} == {
        "first_day": "2024-02-28",
        "last_day": "2024-02-29",
        "labels_as_of": "2024-02-29",
        "label_maturity_days": "60",
        "rules_versions": "v1",
        "platform_version": "0.1.0",
    }
    features = {feature.name for feature in FEATURES.values() if feature.nullable}
    assert features | set(module.LABEL_COLUMNS) <= set(file.schema_arrow.names)
    personal = {c.name for table in SAMPLE for c in table.columns if c.pii}
    assert personal & set(file.schema_arrow.names) == set()


@pytest.mark.parametrize(
    ("day", "known"),
    [
        (date(2024, 2, 29), {103: ("fraud", "verdict", 1)}),
        (date(2024, 3, 1), {103: ("genuine", "verdict", 2), 105: ("fraud", "dispute", 1)}),
        (
            date(2024, 3, 3),
            {
                101: ("fraud", "verdict", 2),
                103: ("fraud", "verdict", 3),
                104: ("fraud", "dispute", 3),
                105: ("genuine", "dispute", 3),
            },
        ),
    ],
)
def test_labels_are_those_known_at_the_end_of_the_day(
    home: Home, day: date, known: dict[int, tuple[Any, ...]]
) -> None:
    assert labels(written(home, FEBRUARY, day)[1]) == known


def test_no_later_order_or_price_leaks_into_a_feature(home: Home) -> None:
    _, rows = written(home, FEBRUARY, LATER)
    assert {
        row["order_id"]: (row["user_orders_24h"], row["user_amount_24h"], row["list_price"])
        for row in rows.to_pylist()
        if row["user_id"] == 2 and row["product_id"] == 1
    } == {
        104: (1, Decimal("100.10"), Decimal("10.00")),
        105: (2, Decimal("100.20"), Decimal("10.00")),
        106: (3, Decimal("100.40"), Decimal("10.00")),
        120: (3, Decimal("105.20"), Decimal("10.00")),
    }


def test_a_day_that_may_lack_rows_is_named_and_no_file_is_left(home: Home) -> None:
    days = ("--from", "2024-02-28", "--to", "2024-03-02")
    refused = home.call(
        *("export", "training-set", "x.parquet", *days, "--labels-as-of", "2024-03-06"), exit_code=1
    )
    assert refused.stderr == (
        "ecommersss: raw.disputes was not loaded since the end of 2024-03-05 to 2024-03-06, so it may lack"
        " rows: `ecommersss materialize --from 2024-03-05 --to 2024-03-06` loads them\n"
    )
    path = home.settings.warehouse_path
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM silver.order_features")
        connection.execute("DELETE FROM silver.order_features WHERE order_id = 106")
    refused = home.call(
        *("export", "training-set", "x.parquet", *days, "--labels-as-of", "2024-03-04"), exit_code=1
    )
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute("INSERT INTO silver.order_features SELECT * FROM kept WHERE order_id = 106")
        connection.execute("DROP TABLE kept")
    assert refused.stderr.startswith("ecommersss: silver.order_features lacks orders of 2024-02-29: ")
    assert not (home.files / "x.parquet").exists()


def test_the_asset_writes_the_file_that_the_launchpad_asks_for(home: Home) -> None:
    settings = home.settings
    [asset] = laboratory_assets("duckdb", settings, FEBRUARY.first)
    config = {"first_day": "2024-02-28", "last_day": "2024-03-02", "labels_as_of": "2024-03-02"}
    run = {"ops": {asset.op.name: {"config": config}}}
    resources = {"dbt": PlatformDbt(settings), WAREHOUSE: make_warehouse(settings)}
    path = settings.training_sets_dir / "orders_2024-02-28_2024-03-02_labels_2024-03-02.parquet"
    contents = []
    with DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            [made] = materialize(
                [asset], run_config=run, resources=resources, instance=instance
            ).get_asset_materialization_events()
            contents.append(path.read_bytes())
    metadata = {k: v.value for k, v in made.step_materialization_data.materialization.metadata.items()}
    assert contents[0] == contents[1], "the same request gives the same bytes"
    assert [*settings.training_sets_dir.iterdir()] == [path]
    rows = pq.read_metadata(path).num_rows
    assert (metadata["path"], metadata["dagster/row_count"]) == (str(path), rows)
    assert metadata["label_fraud"] + metadata["label_genuine"] + metadata["label_unknown"] == rows
    names = [
        column.name
        for column in asset.specs_by_key[asset.key].metadata["dagster/column_schema"].schema.columns
    ]
    assert names == pq.read_schema(path).names


def test_days_of_the_launchpad_have_defaults_and_are_checked() -> None:
    first, today = date(2024, 1, 1), date(2024, 3, 5)
    [asset] = laboratory_assets(None, Settings(_env_file=None), first)
    fields = asset.op.config_schema.config_type.fields  # type: ignore[union-attr]
    shown = {name: field.default_value for name, field in fields.items()}
    assert shown == dict.fromkeys(("first_day", "labels_as_of", "last_day"), ""), "NULL would not be shown"
    assert asked_days(TrainingSetDays(), first, today) == TrainingSet(
        Days.between(first, date(2024, 3, 4)), date(2024, 3, 4)
    )
    for config, problem in (
        (TrainingSetDays(labels_as_of="2024-03-05"), "labels of 2024-03-05 may still change"),
        (
            TrainingSetDays(last_day="2024-03-04", labels_as_of="2024-03-03"),
            "nothing was known on 2024-03-03 about the orders of 2024-03-04",
        ),
        (TrainingSetDays(first_day="2024-03-05"), "the first day, 2024-03-05, is after the last, 2024-03-04"),
        (TrainingSetDays(first_day="March"), "first_day: 'March' is not a day"),
    ):
        with pytest.raises(PlatformError, match=problem):
            asked_days(config, first, today)


def test_memory_does_not_grow_with_the_days(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of fifty batches are written while at most a few of them are in memory."""
    _, rows = written(home, FEBRUARY, date(2024, 3, 1))
    [batch] = rows.take([0] * 10_000).combine_chunks().to_batches()
    most = 0

    class Endless:
        def stream(self, sql: str) -> pa.RecordBatchReader:
            return pa.RecordBatchReader.from_batches(batch.schema, self.batches())

        def batches(self) -> Iterator[pa.RecordBatch]:
            nonlocal most
            for _ in range(50):
                yield batch.take(pa.array(range(batch.num_rows)))  # a copy
                most = max(most, pa.total_allocated_bytes() - before)

        def check_access(self) -> dict[str, str]:
            return {}

    monkeypatch.setattr(module, "_require_loads", lambda asked, warehouse: None)
    before = pa.total_allocated_bytes()
    with (home.files / "big.parquet").open("wb") as out:
        asked: Any = Endless()
        done = write_training_set(
            TrainingSet(FEBRUARY, date(2024, 3, 1)), asked, PlatformDbt(home.settings), out
        )
    assert done.rows == 500_000
    assert most < 5 * batch.nbytes

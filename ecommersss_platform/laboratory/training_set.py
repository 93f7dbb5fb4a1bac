"""The training set: orders as the stream saw them, its verdicts, and labels as they were known on a day.

One statement reads one state of the warehouse. Its labels are those of the model `order_labels_staged`, made
by that model's own SQL as of the asked day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from ecommersss_platform.contracts import DISPUTES, LOAD_LOG, ORDERS, PARTITION_COLUMN, VERDICTS
from ecommersss_platform.days import Days, contiguous
from ecommersss_platform.dbt.project import ensure_manifest, label_maturity
from ecommersss_platform.dbt.staged import read_manifest
from ecommersss_platform.warehouse.audit import day_filter
from ecommersss_platform.warehouse.names import full_name
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from ecommersss_platform.dbt.resource import PlatformDbt
    from ecommersss_platform.warehouse import Warehouse

LABEL_COLUMNS = ("label", "label_source", "labelled_at", "label_delay_days", "is_mature")
_LABELS = "order_labels_staged"


@dataclass(frozen=True)
class TrainingSet:
    """A request: the orders of some business days, with the labels that were known at the end of a day.

    Raises `PlatformError` if that day is before the last of the days.
    """

    days: Days
    labels_as_of: date

    def __post_init__(self) -> None:
        if self.days.last > self.labels_as_of:
            raise PlatformError(
                f"nothing was known on {self.labels_as_of} about the orders of {self.days.last}: ask for"
                " earlier orders, or for labels of a later day"
            )

    @classmethod
    def of(cls, days: Days, labels_as_of: date, today: date) -> TrainingSet:
        """Check a request as above. Raises `PlatformError` also for labels of a day that is not over."""
        if labels_as_of >= today:
            raise PlatformError(
                f"labels of {labels_as_of} may still change, because the day is not over: name another"
            )
        return cls(days, labels_as_of)

    @property
    def file_name(self) -> str:
        return f"orders_{self.days.first}_{self.days.last}_labels_{self.labels_as_of}.parquet"


@dataclass
class Written:
    """What was written: the orders by label, and the versions of the rule books that decided about them."""

    labels: Counter[str] = field(default_factory=Counter)
    rules_versions: set[str] = field(default_factory=set)

    @property
    def rows(self) -> int:
        return self.labels.total()


def write_training_set(asked: TrainingSet, warehouse: Warehouse, dbt: PlatformDbt, out: IO[bytes]) -> Written:
    """Write the training set as Parquet: one row an order, by day and id. The file's metadata say what it is.

    The same warehouse and the same request give the same bytes. Memory does not grow with the days.

    Raises `PlatformError` if the warehouse lacks orders, features, disputes or verdicts of the days.
    """
    import pyarrow.parquet as pq

    _require_loads(asked, warehouse)
    labels = dbt.compiled(_LABELS, {"labels_as_of": str(asked.labels_as_of)}, warehouse.check_access())
    sql = training_set_sql(asked.days, labels, feature_columns(read_manifest(ensure_manifest(dbt.settings))))
    rows, written = warehouse.stream(sql), Written()
    with pq.ParquetWriter(out, rows.schema, compression="zstd") as writer:
        for batch in rows:
            _require_features(batch)
            written.labels.update(
                {row["values"]: row["counts"] for row in batch["label"].value_counts().to_pylist()}
            )
            written.rules_versions.update(batch["rules_version"].unique().to_pylist())
            writer.write_batch(batch)
        writer.add_key_value_metadata(
            {
                "first_day": str(asked.days.first),
                "last_day": str(asked.days.last),
                "labels_as_of": str(asked.labels_as_of),
                "label_maturity_days": str(label_maturity().days),
                "rules_versions": ",".join(sorted(written.rules_versions)),
                "platform_version": version("ecommersss-platform"),
            }
        )
    return written


def columns(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return dbt's description of each column of a training set."""
    labels = _columns(manifest, "order_labels")
    return {
        **_columns(manifest, "fact_orders"),
        **feature_columns(manifest),
        **{name: labels[name] for name in LABEL_COLUMNS},
    }


def feature_columns(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return dbt's description of the features that the facts do not have."""
    facts = _columns(manifest, "fact_orders")
    features = _columns(manifest, "order_features")
    return {name: column for name, column in features.items() if name not in facts}


def _columns(manifest: Mapping[str, Any], model: str) -> dict[str, Any]:
    found: dict[str, Any] = manifest["nodes"][f"model.ecommersss.{model}"]["columns"]
    return found


def training_set_sql(days: Days, labels: str, features: Iterable[str]) -> str:
    """Return the SELECT of the training set.

    `labels`: the SELECT that labels the orders of every day. `features`: the columns of `order_features`.
    """
    feature = ", ".join(f"features.{name}" for name in features)
    label = ", ".join(f"labels.{name}" for name in LABEL_COLUMNS)
    those_days = f"WHERE {day_filter(days)}"
    return (
        f"SELECT orders.*, {feature}, {label} "  # noqa: S608
        f"FROM (SELECT * FROM silver.fact_orders {those_days}) AS orders "
        f"LEFT JOIN (SELECT * FROM silver.order_features {those_days}) AS features "
        f"ON features.order_id = orders.order_id AND features.{PARTITION_COLUMN} = orders.{PARTITION_COLUMN} "
        f"LEFT JOIN (SELECT * FROM ({labels}\n) AS labelled {those_days}) AS labels "
        f"ON labels.order_id = orders.order_id AND labels.{PARTITION_COLUMN} = orders.{PARTITION_COLUMN} "
        f"ORDER BY orders.{PARTITION_COLUMN}, orders.order_id"
    )


def _require_loads(asked: TrainingSet, warehouse: Warehouse) -> None:
    """Raise `PlatformError` if days were not loaded since they ended: they may lack rows."""
    known = Days.between(asked.days.first, asked.labels_as_of)
    needed = {full_name(ORDERS): asked.days, full_name(DISPUTES): known, full_name(VERDICTS): known}
    names = ", ".join(f"'{name}'" for name in needed)
    loads = warehouse.query(
        f"SELECT table_name, {PARTITION_COLUMN} AS day, max(loaded_at) AS loaded_at "  # noqa: S608
        f"FROM {full_name(LOAD_LOG)} WHERE table_name IN ({names}) AND {day_filter(known)} GROUP BY 1, 2"
    )
    loaded = {
        (row["table_name"], row["day"])
        for row in loads.to_pylist()
        if row["loaded_at"] >= Days.between(row["day"], row["day"]).end_instant
    }
    for name, days in needed.items():
        if missing := contiguous(day for day in days if (name, day) not in loaded):
            raise PlatformError(
                f"{name} was not loaded since the end of {', '.join(map(str, missing))}, so it may lack rows:"
                f" `ecommersss materialize --from {missing[0].first} --to {missing[-1].last}` loads them"
            )


def _require_features(batch: pa.RecordBatch) -> None:
    """Raise `PlatformError` if an order has no features. A window always counts the order itself."""
    without = batch.filter(batch["user_orders_24h"].is_null())
    if without.num_rows:
        day = without[PARTITION_COLUMN][0]
        raise PlatformError(
            f"silver.order_features lacks orders of {day}:"
            f" `ecommersss materialize --from {day} --to {day} --rebuild` builds them"
        )

"""The sources as external assets: streams and PostgreSQL tables. The lineage begins at the producer.

Dagster materialises none of them. `ecommersss_platform/observations.py` records how far each of them is.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dagster import AssetKey, AssetSpec

import streaming.database
from ecommersss_platform.code_links import REPOSITORY, code_references
from ecommersss_platform.contracts import (
    ORDERS,
    PARTITION_COLUMN,
    RAW_TABLES,
    Column,
    RawTable,
    Type,
)
from ecommersss_platform.topics import FLAGGED, TOPIC
from ecommersss_platform.warehouse.metadata import column_schema
from streaming import orders

STREAMS, POSTGRES = "stream", "postgres"
"""The groups of the external assets, and the first part of their keys."""

ORDERS_TOPIC = AssetKey([STREAMS, TOPIC])
FLAGGED_STREAM = AssetKey([STREAMS, FLAGGED])
BLOCK_LIST = AssetKey(["fraud", "user_lists"])
"""The platform's own entries, which `assets/fraud.py` writes."""

_OF_HISTORY = ("version", "valid_from", "recorded_at")
_TABLE_OF_EVENTS = {"user_list_events": "user_lists", "rule_exemption_events": "rule_exemptions"}
_MIGRATIONS = Path(streaming.database.__file__).parent / "migrations" / "versions"


def table_key(source: str) -> AssetKey:
    """Return the key of a PostgreSQL table. A table and its history, or its events, are one asset."""
    return AssetKey([POSTGRES, _TABLE_OF_EVENTS.get(source, source.removesuffix("_history"))])


def _current(contract: RawTable) -> RawTable:
    """Return PostgreSQL's table behind a raw table: the rows as they are now."""
    name = contract.source.removesuffix("_history")
    without = {PARTITION_COLUMN, *(_OF_HISTORY if name != contract.source else ())}
    columns = tuple(c for c in contract.source_columns if c.name not in without)
    key = (columns[0].name,)
    kept = f", and every version of them in {contract.source}" if name != contract.source else ""
    return replace(
        contract,
        name=name,
        description=f"The {name} as they are now{kept}. raw.{contract.name} copies them by day.",
        key=key,
        columns=columns,
    )


REJECTED_ORDERS = RawTable(
    name="rejected_orders",
    description="Lines of the topic that are no orders, with the reason. `ecommersss rejected` shows them.",
    source="rejected_orders",
    instant="rejected_at",
    key=("position",),
    columns=(
        Column("position", Type.INT64, "Position of the line in the topic."),
        Column("raw", Type.STRING, "The line as it came, in bytes.", pii=True),
        Column("reason", Type.STRING, "The rule of the event that it breaks."),
        Column("detail", Type.STRING, "What was wrong, in words.", pii=True),
        Column("rejected_at", Type.TIMESTAMP, "When it was rejected."),
        Column("retried_at", Type.TIMESTAMP, "When it was published again.", nullable=True),
        Column("message_id", Type.STRING, "The queue's id of the message, on Pub/Sub.", nullable=True),
        Column("missing_id", Type.INT64, "The user or product that did not exist.", nullable=True),
    ),
)

_VERSIONS = (
    Column("added_version", Type.INT64, "The first version of the lists that has it."),
    Column("removed_version", Type.INT64, "The first version of the lists without it again.", nullable=True),
)

USER_LISTS = RawTable(
    name="user_lists",
    description="The block and allow lists: entries of people, and those of the platform, which"
    " fraud/user_lists writes. The consumer reads changes with its next batch. Removed entries stay.",
    source="user_lists",
    instant="added_at",
    key=("entry",),
    columns=(
        Column("entry", Type.INT64, "The entry."),
        Column("user_id", Type.INT64, "Who is on the list."),
        Column("list", Type.STRING, "allow or block; allow wins."),
        Column("reason", Type.STRING, "Why, in the words of who added it.", pii=True),
        Column("source", Type.STRING, "person or platform."),
        Column("added_at", Type.TIMESTAMP, "When it was added."),
        Column("expires_at", Type.TIMESTAMP, "When it expires; NULL: never.", nullable=True),
        Column("removed_at", Type.TIMESTAMP, "When it was removed.", nullable=True),
        *_VERSIONS,
    ),
)

RULE_EXEMPTIONS = RawTable(
    name="rule_exemptions",
    description="The users for whom a rule does not hold until a time. The consumer reads changes with its"
    " next batch. Removed exemptions stay.",
    source="rule_exemptions",
    instant="added_at",
    key=("exemption",),
    columns=(
        Column("exemption", Type.INT64, "The exemption."),
        Column("rule", Type.STRING, "The rule that does not hold."),
        Column("user_id", Type.INT64, "Who is exempt."),
        Column("reason", Type.STRING, "Why, in the author's words.", pii=True),
        Column("author", Type.STRING, "Who added it.", pii=True),
        Column("added_at", Type.TIMESTAMP, "When it was added."),
        Column("expires_at", Type.TIMESTAMP, "Orders placed from then on are not exempt."),
        Column("removed_at", Type.TIMESTAMP, "When it was removed.", nullable=True),
        *_VERSIONS,
    ),
)

_CATALOGUE = [table_key("users"), table_key("products")]
_DEPS = {
    "orders": [ORDERS_TOPIC, *_CATALOGUE, table_key("rule_books")],
    "rejected_orders": [ORDERS_TOPIC],
    "shipments": [table_key("orders")],
    "disputes": [table_key("orders")],
    "verdicts": [table_key("orders")],
}
"""What each table is written from. The platform's block list comes from the marts and goes to user_lists,
which the consumer reads: that edge is left out, since a graph has no cycles."""
_ANALYSTS_TABLES = {"disputes", "verdicts", "user_lists", "rule_books", "rule_exemptions"}


def source_tables() -> list[RawTable]:
    """Return the PostgreSQL tables behind the raw tables, and those that no raw table copies."""
    current = [_current(table) for table in RAW_TABLES if table.source not in _TABLE_OF_EVENTS]
    return [*current, REJECTED_ORDERS, USER_LISTS, RULE_EXEMPTIONS]


def source_assets(topic: str) -> list[AssetSpec]:
    """Return the external assets. `topic`: the kind of topic, as the setting names it."""
    migrations = {path: path.read_text() for path in sorted(_MIGRATIONS.glob("[0-9]*.py"))}
    return [*_streams(topic), *(_table_asset(table, migrations) for table in source_tables())]


def upstream_of(table: RawTable) -> list[AssetKey]:
    """Return the external assets that a raw table depends on.

    The days of raw.orders that a run loads are those that new lines of the flagged stream touch.
    """
    return [table_key(table.source), *([FLAGGED_STREAM] if table == ORDERS else ())]


def _streams(topic: str) -> list[AssetSpec]:
    status = Column("status", Type.STRING, "fraud if any active rule held, else genuine.")
    columns = {c.name: c for c in (*ORDERS.columns, status)}
    return [
        _stream_asset(
            ORDERS_TOPIC,
            "Every order as it was placed, one JSON object a line. Producers write it, and the fraud consumer"
            " reads it. Grain: one line per order; a producer may repeat a line.",
            [columns[name] for name in orders.Order.__struct_fields__],
            topic,
            ["streaming/simulator/producer.py", "streaming/replay.py", f"streaming/topics/{topic}.py"],
        ),
        _stream_asset(
            FLAGGED_STREAM,
            "Every accepted order with its verdict, one JSON object a line. The fraud consumer writes it once"
            " the order is stored, and order_stream_sensor follows it. Grain: one line per order.",
            [columns[name] for name in orders.Flagged.__struct_fields__],
            "jsonl",
            ["streaming/flagged.py", "streaming/decisions.py", "streaming/rules/rules.yml"],
            deps=[ORDERS_TOPIC],
        ),
    ]


def _stream_asset(
    key: AssetKey,
    description: str,
    columns: Sequence[Column],
    kind: str,
    files: Sequence[str],
    deps: Sequence[AssetKey] = (),
) -> AssetSpec:
    event = Path(inspect.getfile(orders)).read_bytes()
    return AssetSpec(
        key,
        description=description,
        deps=deps,
        group_name=STREAMS,
        owners=["team:data-engineering"],
        kinds={"stream", kind},
        code_version=hashlib.sha1(event, usedforsecurity=False).hexdigest(),
        metadata={
            "dagster/column_schema": column_schema(replace(ORDERS, columns=tuple(columns))),
            **code_references(*(REPOSITORY / file for file in files)),
        },
    )


def _table_asset(table: RawTable, migrations: Mapping[Path, str]) -> AssetSpec:
    created_in = [path for path, text in migrations.items() if f"CREATE TABLE {table.name} (" in text]
    analysts = table.name in _ANALYSTS_TABLES
    return AssetSpec(
        table_key(table.name),
        description=f"{table.description} Grain: one row per {', '.join(table.key)}.",
        deps=_DEPS.get(table.name, []),
        group_name=POSTGRES,
        owners=["team:fraud-analytics" if analysts else "team:data-engineering"],
        kinds={"postgres", "table"},
        code_version=max(path.stem for path in migrations),
        metadata={
            "dagster/table_name": table.name,
            "dagster/column_schema": column_schema(table),
            **code_references(*created_in),
        },
    )

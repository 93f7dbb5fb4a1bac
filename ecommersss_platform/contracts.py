"""The raw tables, each defined once: columns, types, descriptions, personal data, keys, source.

Everything else about a raw table follows from its contract: the asset, its checks and metadata, the SELECT on
PostgreSQL, the Arrow schema, every warehouse's DDL, and dbt's source YAML (`dbt.sources` writes it). To add a
raw table, add its contract to `RAW_TABLES` and run `python -m ecommersss_platform.dbt.sources`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import Any

import pyarrow as pa

from ecommersss_platform.days import Days
from streaming.business_days import JAKARTA

PARTITION_COLUMN = "partition_date"


class Type(Enum):
    """The type of a column; its value is the Arrow type. Instants are UTC, in microseconds."""

    INT64 = pa.int64()
    STRING = pa.string()
    STRINGS = pa.list_(pa.string())
    BOOL = pa.bool_()
    MONEY = pa.decimal128(18, 2)
    TIMESTAMP = pa.timestamp("us", tz="UTC")
    DATE = pa.date32()
    FLOAT64 = pa.float64()


@dataclass(frozen=True)
class Column:
    """A column of a table. `pii`: it holds personal data."""

    name: str
    type: Type
    description: str
    nullable: bool = False
    pii: bool = False
    keyed_hash_of: str | None = None
    """The column whose keyed hash this one holds, added as the rows are loaded (`pseudonyms.py`)."""


@dataclass(frozen=True)
class RawTable:
    """A table of the dataset `raw`: one row per `key`, one partition per business day."""

    name: str
    description: str
    source: str
    """The PostgreSQL table that the rows come from."""
    instant: str
    """The source column that decides which business day a row belongs to."""
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    high_water: str = ""
    """The integer column that grows in the order in which rows are written: a row above the highest loaded
    value was written after the load."""
    clustering: tuple[str, ...] = ()
    status: str | None = None
    """The column by which materialisation metadata counts rows, if any."""
    status_words: tuple[tuple[str, str], ...] = ()
    """What metadata calls the values of `status`, as pairs of value (as text) and word; empty: the values."""
    dataset: str = "raw"
    catches_up: bool = False
    """Whether a load also copies the other days on which the warehouse lacks rows: orders of any day may have
    been decided with the newest ones."""
    unfiltered: bool = False
    """Whether queries may omit a filter on days, where a warehouse can require one."""

    @property
    def path(self) -> tuple[str, str]:
        """Dataset and name, which are also the parts of the asset's key."""
        return self.dataset, self.name

    @property
    def money_columns(self) -> tuple[str, ...]:
        """The columns whose sums are compared with PostgreSQL's."""
        return tuple(c.name for c in self.columns if c.type is Type.MONEY)

    @property
    def arrow_schema(self) -> pa.Schema:
        return _schema(self.columns)

    @property
    def source_columns(self) -> tuple[Column, ...]:
        """The columns that `select` reads, in the contract's order."""
        return tuple(c for c in self.columns if c.keyed_hash_of is None)

    @property
    def source_schema(self) -> pa.Schema:
        """The Arrow schema of the rows of `select`."""
        return _schema(self.source_columns)

    @property
    def public_columns(self) -> tuple[str, ...]:
        """The columns without personal data, which a preview may show."""
        return tuple(c.name for c in self.columns if not c.pii)

    def select(self, days: Days) -> tuple[str, dict[str, Any]]:
        """Return the SELECT that reads the rows of these days from PostgreSQL, and its parameters.

        Columns are in the contract's order, and the range is half-open. Rows are unsorted: the warehouse
        keeps no order, and sorting would make memory grow with the size of the day.
        """
        # For a single day, a constant. Computing the day of each row takes a third of the server's time.
        day = f"DATE '{days.first}'" if len(days) == 1 else f"({self.instant} AT TIME ZONE '{JAKARTA}')::date"
        names = ", ".join(
            f"{day} AS {c.name}" if c.name == PARTITION_COLUMN else c.name for c in self.source_columns
        )
        return (
            f"SELECT {names} FROM {self.source} "  # noqa: S608
            f"WHERE {self.instant} >= %(start)s AND {self.instant} < %(end)s",
            {"start": days.start_instant, "end": days.end_instant},
        )

    def empty(self) -> pa.RecordBatchReader:
        """Return a reader without rows."""
        return pa.RecordBatchReader.from_batches(self.arrow_schema, [])


def _schema(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([pa.field(c.name, c.type.value, nullable=c.nullable) for c in columns])


_PARTITION_DATE = Column(
    PARTITION_COLUMN, Type.DATE, "Business day (Asia/Jakarta) of the row; equals the Dagster partition key."
)


_RECORDED_AT = Column(
    "recorded_at",
    Type.TIMESTAMP,
    "When this version was really written, also if it claims an earlier time; NULL: not known.",
    nullable=True,
)


def _history(
    name: str, *columns: Column, clustering: str = "id", status: str | None = None, recorded: bool = False
) -> RawTable:
    """Return the contract of a table of which PostgreSQL keeps every version. `columns`: its own.

    `recorded`: versions carry the time at which they were really written.
    """
    row = name.removesuffix("s")
    return RawTable(
        name=name,
        description=f"Every version of every {row}, in the partition of the day on which it was written.",
        source=f"{name}_history",
        instant="valid_from",
        key=("version",),
        high_water="version",
        clustering=(clustering,),
        status=status,
        columns=(
            *columns,
            Column("updated_at", Type.TIMESTAMP, f"When the {row} was last changed."),
            Column("version", Type.INT64, "Number of this version; a later one has a higher number."),
            Column("valid_from", Type.TIMESTAMP, "When this version was written."),
            *((_RECORDED_AT,) if recorded else ()),
            _PARTITION_DATE,
        ),
    )


USERS = _history(
    "users",
    Column("id", Type.INT64, "The user."),
    Column("username", Type.STRING, "Name the user signs in with.", pii=True),
    Column("email", Type.STRING, "E-mail address.", pii=True),
    Column(
        "email_hash",
        Type.STRING,
        "Keyed hash of the e-mail address, for joins with systems that have the key;"
        " NULL if the text is no address.",
        nullable=True,
        pii=True,
        keyed_hash_of="email",
    ),
    Column("first_name", Type.STRING, "First name.", pii=True),
    Column("last_name", Type.STRING, "Last name.", pii=True),
    Column("default_payment", Type.STRING, "Payment method offered first.", nullable=True),
    Column("created_date", Type.TIMESTAMP, "When the user signed up."),
    recorded=True,
)

PRODUCTS = _history(
    "products",
    Column("id", Type.INT64, "The product."),
    Column("product_name", Type.STRING, "Name shown in the shop."),
    Column("category", Type.STRING, "Category in the shop."),
    Column("price", Type.MONEY, "List price, rupiah."),
    Column("created_date", Type.TIMESTAMP, "When the product was listed."),
    recorded=True,
)

ORDERS = RawTable(
    name="orders",
    description="Every accepted order with its fraud verdict, in the partition of the day it was placed.",
    source="orders",
    instant="created_date",
    key=("id",),
    high_water="position",
    clustering=("user_id", "product_id"),
    status="is_fraud",
    status_words=(("true", "fraud"), ("false", "genuine")),
    columns=(
        Column("id", Type.INT64, "The order."),
        Column("user_id", Type.INT64, "Who ordered."),
        Column("product_id", Type.INT64, "What was ordered."),
        Column("quantity", Type.INT64, "Pieces ordered."),
        Column("amount", Type.MONEY, "Order total, rupiah."),
        Column("payment_method", Type.STRING, "How it was paid."),
        Column("country", Type.STRING, "Two-letter country the order came from."),
        Column("is_fraud", Type.BOOL, "Whether any active rule held."),
        Column("fraud_reasons", Type.STRINGS, "Active rules that held, in rule order."),
        Column("shadow_reasons", Type.STRINGS, "Shadow rules that held, in rule order."),
        Column(
            "review_reasons",
            Type.STRINGS,
            "Review rules that held, in rule order, then random_sample if the order passed and is in the"
            " sample; NULL if loaded before it was stored.",
            nullable=True,
        ),
        Column("rules_version", Type.STRING, "Version of the rule book that decided."),
        Column(
            "lists_version",
            Type.INT64,
            "Version of the user lists that decided; NULL if loaded before it was stored.",
            nullable=True,
        ),
        Column("created_date", Type.TIMESTAMP, "When the order was placed."),
        Column("flagged_at", Type.TIMESTAMP, "When the order was flagged."),
        Column("position", Type.INT64, "Position of the order in the topic."),
        _PARTITION_DATE,
    ),
)

SHIPMENTS = _history(
    "shipments",
    Column("order_id", Type.INT64, "The order."),
    Column("status", Type.STRING, "packed, shipped, delivered, cancelled or returned."),
    Column("packed_at", Type.TIMESTAMP, "When it was packed.", nullable=True),
    Column("shipped_at", Type.TIMESTAMP, "When it was handed to the carrier.", nullable=True),
    Column("delivered_at", Type.TIMESTAMP, "When it was delivered.", nullable=True),
    Column("cancelled_at", Type.TIMESTAMP, "When the order was cancelled.", nullable=True),
    Column("returned_at", Type.TIMESTAMP, "When it came back.", nullable=True),
    Column("refund_amount", Type.MONEY, "Refunded to the user, rupiah."),
    clustering="order_id",
    status="status",
)

DISPUTES = _history(
    "disputes",
    Column("id", Type.INT64, "The dispute."),
    Column("order_id", Type.INT64, "The order."),
    Column("kind", Type.STRING, "fraud, not_received, not_as_described or other."),
    Column("amount", Type.MONEY, "Disputed amount, rupiah."),
    Column("opened_at", Type.TIMESTAMP, "When it was opened."),
    Column("outcome", Type.STRING, "open, won or lost; lost: the marketplace lost the money."),
    Column("decided_at", Type.TIMESTAMP, "When it was won or lost.", nullable=True),
    clustering="order_id",
    status="outcome",
)

VERDICTS = RawTable(
    name="verdicts",
    description="Every verdict of a person about an order, in the partition of the day it was recorded.",
    source="verdicts",
    instant="recorded_at",
    key=("id",),
    high_water="id",
    clustering=("order_id",),
    status="verdict",
    columns=(
        Column("id", Type.INT64, "The verdict; a later one has a higher number."),
        Column("order_id", Type.INT64, "The order."),
        Column("verdict", Type.STRING, "fraud or genuine."),
        Column("reviewer", Type.STRING, "Who decided.", pii=True),
        Column("note", Type.STRING, "Why, in the reviewer's words.", nullable=True, pii=True),
        Column("decided_at", Type.TIMESTAMP, "When the reviewer decided."),
        Column("recorded_at", Type.TIMESTAMP, "When the platform learned of it."),
        _PARTITION_DATE,
    ),
)

RULE_BOOKS = RawTable(
    name="rule_books",
    description="Every rule book that decided about orders, in the partition of the day of its first use.",
    source="rule_books",
    instant="first_used_at",
    key=("version",),
    high_water="number",
    catches_up=True,
    columns=(
        Column("version", Type.STRING, "Version of the book: the beginning of the SHA-256 of its text."),
        Column("text", Type.STRING, "The book as it was written, in YAML."),
        Column("first_position", Type.INT64, "Position of the first order of the first batch it decided."),
        Column("first_used_at", Type.TIMESTAMP, "When that order was flagged."),
        Column("number", Type.INT64, "Number of the book; a later one has a higher number."),
        _PARTITION_DATE,
    ),
)


def _list_events(name: str, description: str, entry: str, *columns: Column) -> RawTable:
    """Return the contract of the changes of what the versions of the user lists have. `entry`: its word."""
    return RawTable(
        name=name,
        description=f"{description}, in the partition of the day on which it happened.",
        source=name,
        instant="event_at",
        key=("event_id",),
        high_water="lists_version",
        catches_up=True,
        clustering=("user_id",),
        status="event",
        columns=(
            Column("event_id", Type.INT64, f"The event: twice the {entry}, and one more for its removal."),
            Column(entry, Type.INT64, f"The {entry} that was added or removed."),
            Column("event", Type.STRING, "added or removed."),
            Column("lists_version", Type.INT64, "The first version of the user lists with this change."),
            Column("event_at", Type.TIMESTAMP, f"When the {entry} was added or removed."),
            *columns,
            _PARTITION_DATE,
        ),
    )


USER_LIST_EVENTS = _list_events(
    "user_list_events",
    "Every addition of an entry to the block or allow list, and every removal",
    "entry",
    Column("user_id", Type.INT64, "Who is on the list."),
    Column("list", Type.STRING, "allow or block; allow wins."),
    Column("source", Type.STRING, "person or platform."),
    Column("reason", Type.STRING, "Why the entry was added, in the words of who did it.", pii=True),
    Column("expires_at", Type.TIMESTAMP, "When the entry expires; NULL: never.", nullable=True),
)

RULE_EXEMPTION_EVENTS = _list_events(
    "rule_exemption_events",
    "Every exemption of a user from a rule, and every removal of one",
    "exemption",
    Column("rule", Type.STRING, "The rule that does not hold for the user."),
    Column("user_id", Type.INT64, "Who is exempt."),
    Column("reason", Type.STRING, "Why the exemption was added, in the author's words.", pii=True),
    Column("author", Type.STRING, "Who added the exemption.", pii=True),
    Column("expires_at", Type.TIMESTAMP, "Orders placed from then on are not exempt."),
)

RAW_TABLES: tuple[RawTable, ...] = (
    *(USERS, PRODUCTS, ORDERS, SHIPMENTS, DISPUTES, VERDICTS),
    *(RULE_BOOKS, USER_LIST_EVENTS, RULE_EXEMPTION_EVENTS),
)

LOAD_LOG = RawTable(
    name="load_log",
    description="Every load of a day into a partitioned table, written as the warehouse publishes.",
    source="",
    instant="",
    key=(),
    clustering=("table_name",),
    unfiltered=True,
    columns=(
        Column(PARTITION_COLUMN, Type.DATE, "Business day (Asia/Jakarta) that was replaced."),
        Column("table_name", Type.STRING, "The table, as dataset.table."),
        Column("run_id", Type.STRING, "The Dagster run that loaded it."),
        Column("row_count", Type.INT64, "Rows of the day after the load."),
        Column("checksum", Type.STRING, "Checksum of these rows, independent of their order."),
        Column("days", Type.INT64, "Number of days that the load replaced in one step."),
        Column("loaded_at", Type.TIMESTAMP, "When the load began to publish the rows."),
    ),
)


def preview(rows: pa.Table, table: RawTable, limit: int = 5) -> list[dict[str, str]]:
    """Return the first rows as text, without the columns that hold personal data."""
    return [
        {name: _text(value) for name, value in row.items()}
        for row in rows.select(list(table.public_columns)).slice(0, limit).to_pylist()
    ]


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, date | datetime) else str(value)

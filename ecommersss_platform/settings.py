"""Every setting of the platform, typed, read from the environment and `.env`."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from streaming.business_days import FIRST_DATE, LAST_DATE, business_day
from streaming.errors import PlatformError

HISTORY_DAYS = 7
"""Days of history that a new embedded platform starts with."""

# On DuckDB, one run that opens the warehouse and one that does not (marketplace_hourly).
_RUNS_AT_ONCE = {"duckdb": 2, "bigquery": 10}


def _normalised(url: SecretStr) -> SecretStr:
    from streaming.database.urls import normalised_url

    return SecretStr(normalised_url(url.get_secret_value()))


DatabaseUrl = Annotated[SecretStr, AfterValidator(_normalised)]
"""The address of a database in any usual form, brought to a libpq URL and shown to nobody."""


SECRETS = frozenset({"database_url", "dagster_url", "pseudonym_key", "ui_token", "alerts"})
"""The settings whose values are or may hold a secret."""


PSEUDONYM_KEY_LENGTH = 32
"""The fewest characters of the key with which addresses are hashed."""


class Settings(BaseSettings):
    """The platform's settings. Each field is read from the environment variable `ECOMMERSSS_<FIELD>`.

    Raises `pydantic.ValidationError`, which names the variable, for a missing or invalid value. Its text
    shows no values, because one of them may hold a password.
    """

    model_config = SettingsConfigDict(
        env_prefix="ECOMMERSSS_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    home: Path = Field(default=Path(".ecommersss"), description="where the platform keeps its state")
    database_url: DatabaseUrl | None = Field(
        default=None, description="PostgreSQL with users, products and orders; unset: the embedded server"
    )
    dagster_url: DatabaseUrl | None = Field(
        default=None, description="PostgreSQL for Dagster's own storage; unset: the embedded server"
    )
    postgres_account: str | None = Field(
        default=None,
        description="account that runs the embedded server when root starts it; unset: postgres, else nobody",
    )
    rules: Path | None = Field(
        default=None, description="file of the fraud rule book; unset: the shipped one"
    )
    topic: Literal["jsonl", "pubsub"] = Field(default="jsonl", description="where orders are published")
    topic_sync: bool = Field(
        default=False,
        description="whether each publish to the topic on disk reaches the device before it returns; costs"
        " 2 to 3 ms on an SSD",
    )
    pubsub_project: str | None = Field(
        default=None,
        description="the Google Cloud project of the topic and the subscription; needed on Pub/Sub",
    )
    pubsub_topic: str = Field(default="orders", description="the topic that orders are published to")
    pubsub_subscription: str = Field(
        default="orders-fraud", description="the subscription that all consumers share"
    )
    flagged_stream: bool = Field(
        default=True,
        description="whether a consumer of Pub/Sub writes the flagged stream to its home; false if no Dagster"
        " reads that home",
    )
    history_orders: int = Field(
        default=1_000_000,
        ge=10_000,
        le=1_000_000_000,
        description="most earlier orders that the consumer of a topic on disk keeps in memory, each user"
        " counted as one more; the default takes about 300 MB",
    )
    warehouse: Literal["duckdb", "bigquery"] = Field(
        default="duckdb", description="where partitions are published"
    )
    duckdb_path: Path | None = Field(
        default=None, description="the DuckDB file, relative to the home; unset: warehouse.duckdb"
    )
    bigquery_project: str | None = Field(
        default=None, description="the Google Cloud project that holds the datasets; needed on BigQuery"
    )
    bigquery_location: str = Field(default="asia-southeast2", description="location of the datasets and jobs")
    bigquery_billing_project: str | None = Field(
        default=None, description="the project that pays for the jobs; unset: the project of the datasets"
    )
    bigquery_key_file: Path | None = Field(
        default=None,
        description="a service account's JSON key; unset: the application default credentials",
    )
    bigquery_impersonate: str | None = Field(
        default=None, description="e-mail of a service account to impersonate; unset: no impersonation"
    )
    bigquery_maximum_bytes_billed: int | None = Field(
        default=None,
        ge=1,
        le=2**63 - 1,
        description="refuse a statement that would scan more bytes, at no cost; unset: no limit",
    )
    bigquery_daily_bytes: int | None = Field(
        default=None,
        ge=1,
        le=2**63 - 1,
        description="bytes billed in a business day after which the stream sensor requests no more runs;"
        " unset: no limit",
    )
    bigquery_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="address of an emulator, for tests; no credentials are sent to it; unset: Google",
    )
    pseudonym_key: SecretStr | None = Field(
        default=None,
        description="secret of 32 or more characters with which e-mail addresses are hashed for joins with"
        " other systems; needed to load days into BigQuery; unset: a random one in the home",
    )
    first_day: date | None = Field(
        default=None,
        ge=FIRST_DATE,
        le=LAST_DATE,
        description="first daily partition; unset: the day recorded in the home at its creation",
    )
    concurrent_runs: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="maximum Dagster runs at once; runs that open DuckDB always wait for each other;"
        " unset: 2 on DuckDB, 10 on BigQuery",
    )
    ui_port: int = Field(default=3000, ge=0, le=65535, description="port of the Dagster UI; 0: any free port")
    ui_hosts: str | None = Field(
        default=None,
        description="more host names of the Dagster UI, such as a reverse proxy's, separated by commas",
    )
    ui_token: SecretStr | None = Field(
        default=None,
        description="secret that the UI asks for, 16 or more letters, digits, - or _; unset: a random one in"
        " the home",
    )
    ui_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s@]+$",
        description="address of the Dagster UI in alerts, such as that of a reverse proxy; unset: the one of"
        " `up`",
    )
    code_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="address of this code in your repository's web view, for links from assets to it, such as"
        " https://git.example.com/platform/blob/main; unset: links to the files on this machine",
    )
    ui_read_only: bool = Field(
        default=False, description="whether the UI only shows: no runs, no switches, no reports"
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="loopback port of the consumer's Prometheus metrics; unset: a free port in `up`, none in"
        " `consume`; 0: none",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="log format of producer and consumer: text, or one JSON object per line"
    )
    alerts: SecretStr | None = Field(
        default=None,
        description="URLs that alerts are sent to, separated by spaces; OWNER=URL gets those of one owner;"
        " unset: only the log and alerts.jsonl",
    )
    alerts_per_hour: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="most messages an hour to each URL of the alerts; the last one sums up all others",
    )
    topic_retention_days: int = Field(
        default=30,
        ge=0,
        le=36_500,
        description="days that the orders topic keeps a segment, longer until consumed; 0: for ever",
    )
    flagged_retention_days: int = Field(
        default=30,
        ge=0,
        le=36_500,
        description="days that the flagged stream keeps a segment, longer until materialised; 0: for ever",
    )
    run_retention_days: int = Field(
        default=30,
        ge=0,
        le=36_500,
        description="days that runs, their events, checks and logs, rejected orders and alerts are kept; runs"
        " that tell the state of a partition or a check stay; 0: for ever",
    )
    report_retention_days: int = Field(
        default=400,
        ge=0,
        le=36_500,
        description="days that the page of a business day is kept among the fraud reports; 0: for ever",
    )
    stream_interval_seconds: int = Field(
        default=30,
        ge=1,
        le=86_400,
        description="seconds between ticks of the stream sensor; longer means fewer, larger runs",
    )
    today_interval_seconds: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="seconds between two runs for today that the stream sensor asks for",
    )
    flagged_max_bytes_per_tick: int = Field(
        default=50_000_000,
        ge=1,
        le=1 << 30,
        description="most bytes of the flagged stream that the sensor reads per tick",
    )

    @field_validator("home", "rules", "duckdb_path", "bigquery_key_file", mode="after")
    @classmethod
    def _expanded(cls, path: Path | None) -> Path | None:
        try:
            return path and path.expanduser()
        except RuntimeError:
            raise ValueError("no account has that name: write the directory in full") from None

    @field_validator("home", "rules", "bigquery_key_file", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path and path.absolute()  # child processes work in another directory

    @field_validator("ui_token", mode="after")
    @classmethod
    def _fits_in_a_cookie(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not re.fullmatch(r"[\w-]{16,}", token.get_secret_value(), re.ASCII):
            raise ValueError("a secret of the UI is 16 or more letters, digits, - or _")
        return token

    @field_validator("pseudonym_key", mode="after")
    @classmethod
    def _hard_to_guess(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < PSEUDONYM_KEY_LENGTH:
            raise ValueError(f"the key of pseudonyms is {PSEUDONYM_KEY_LENGTH} or more characters")
        return key

    @model_validator(mode="after")
    def _complete(self) -> Settings:
        if self.topic == "pubsub" and self.pubsub_project is None:
            raise ValueError("ECOMMERSSS_PUBSUB_PROJECT is needed when ECOMMERSSS_TOPIC is pubsub")
        if self.warehouse == "bigquery" and self.bigquery_project is None:
            raise ValueError("ECOMMERSSS_BIGQUERY_PROJECT is needed when ECOMMERSSS_WAREHOUSE is bigquery")
        if self.database_url is not None and self.dagster_url is not None:
            from streaming.database.urls import same_database

            if same_database(self.database_url.get_secret_value(), self.dagster_url.get_secret_value()):
                raise ValueError(
                    "ECOMMERSSS_DATABASE_URL and ECOMMERSSS_DAGSTER_URL name the same database:"
                    " create a second one for Dagster"
                )
        return self

    @property
    def runs_at_once(self) -> int:
        """The maximum number of runs at the same time. Each is a process of a few hundred megabytes."""
        return self.concurrent_runs or _RUNS_AT_ONCE[self.warehouse]

    def check_pseudonym_key(self) -> None:
        """Raise `PlatformError` if the days are published where one home's own key is of no use.

        Only who loads days needs the key, so settings without it are not wrong.
        """
        if self.warehouse == "bigquery" and self.pseudonym_key is None:
            raise PlatformError(
                "ECOMMERSSS_PSEUDONYM_KEY is needed when ECOMMERSSS_WAREHOUSE is bigquery: set it to the key"
                " with which your other systems hash e-mail addresses, or to a new one, such as"
                " `python3 -c 'import secrets; print(secrets.token_urlsafe(32))'` prints, and keep it"
            )

    @property
    def ui_host_names(self) -> frozenset[str]:
        """The host names of `ui_hosts`, in lower case."""
        return frozenset(name for part in (self.ui_hosts or "").split(",") if (name := part.strip().lower()))

    @property
    def rules_path(self) -> Path:
        """The absolute path of the rule book. A running consumer picks up changes of it."""
        # Imported here, because the rules load an SQL parser that most users of the settings do not need.
        from streaming.rules import RULES_PATH

        return (self.rules or RULES_PATH).absolute()

    @property
    def has_database(self) -> bool:
        """Whether there is an operational database, running or not."""
        return self.database_url is not None or self.postgres_dir.exists()

    # Paths in the home

    @property
    def postgres_dir(self) -> Path:
        return self.home / "postgres"

    @property
    def orders_topic_dir(self) -> Path:
        return self.home / "topics" / "orders"

    @property
    def flagged_topic_dir(self) -> Path:
        return self.home / "topics" / "flagged_orders"

    @property
    def ground_truth_path(self) -> Path:
        """The simulator's record of the fraud pattern, if any, that it gave each order."""
        return self.home / "ground_truth.jsonl"

    @property
    def alerts_path(self) -> Path:
        return self.home / "alerts.jsonl"

    @property
    def reports_dir(self) -> Path:
        return self.home / "reports"

    @property
    def training_sets_dir(self) -> Path:
        return self.home / "training_sets"

    @property
    def alerts_state_path(self) -> Path:
        return self.home / "alerts.json"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"

    @property
    def warehouse_path(self) -> Path:
        return self.home / (self.duckdb_path or "warehouse.duckdb")

    @property
    def ui_token_path(self) -> Path:
        return self.home / "ui_token"

    @property
    def pseudonym_key_path(self) -> Path:
        return self.home / "pseudonym_key"

    @property
    def first_day_path(self) -> Path:
        return self.home / "first_day"

    def first_partition_day(self, now: datetime | None = None) -> date:
        """Return the first daily partition (a business day, Asia/Jakarta).

        This is the setting, else the day recorded in the home, else a week before `now`, which is what a new
        home would record.
        """
        if self.first_day is not None:
            return self.first_day
        try:
            return date.fromisoformat(self.first_day_path.read_text().strip())
        except FileNotFoundError:
            return business_day(now or datetime.now().astimezone()) - timedelta(days=HISTORY_DAYS)

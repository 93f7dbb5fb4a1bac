"""The job that backtests a rule book, for people in the UI: see `laboratory/backtest.py`."""

# Annotations must be real here: Dagster inspects those of `context` and the resources.
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import Config, Failure, JobDefinition, MetadataValue, OpExecutionContext, ResourceParam, job, op
from pydantic import Field

from ecommersss_platform.days import Days, launchpad_day
from ecommersss_platform.jobs import EXECUTOR
from ecommersss_platform.laboratory import BACKTEST_JOB
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import Warehouse
from ecommersss_platform.warehouse.metadata import markdown
from streaming.business_days import business_day
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from streaming.rules import RuleBook

_DAYS = 28


class BacktestConfig(Config):
    """What is tried on which orders, as the launchpad offers it. Days are written YYYY-MM-DD."""

    candidate: str | None = Field(
        default="",
        description="The rule book: its text, or the full path of a file; empty: the platform's file.",
    )
    first_day: str | None = Field(
        default="", description=f"The first business day; empty: {_DAYS} days up to the last."
    )
    last_day: str | None = Field(default="", description="The last business day; empty: yesterday.")


def backtest_job(pool: str | None, settings: Settings) -> JobDefinition:
    """Return the job. `pool`: `Warehouse.pool`. It needs the resource `warehouse`."""

    @op(pool=pool, description="Tries a rule book on past orders. The outcome is in the metadata.")
    def backtest_rules(
        context: OpExecutionContext, config: BacktestConfig, warehouse: ResourceParam[Warehouse]
    ) -> None:
        # Brings the words of the reports, which loading the code location does not need.
        from ecommersss_platform.laboratory import backtest_tables as tables
        from ecommersss_platform.laboratory.backtest import run_backtest
        from ecommersss_platform.laboratory.kept_backtests import keep_backtest

        now = datetime.now(UTC)
        try:
            book = candidate_book(config.candidate, settings.rules_path)
            result = run_backtest(warehouse, book, asked_days(config, business_day(now)), now)
        except PlatformError as error:
            raise Failure(str(error), allow_retries=False) from None
        context.log.info(f"{tables.title(result)}: {tables.summary(result)}")
        low, high = result.book.share
        context.add_output_metadata(
            {
                "book": MetadataValue.md(f"{tables.title(result)}\n\n{markdown(tables.book_rows(result))}"),
                "rules": MetadataValue.md(markdown(tables.rule_rows(result))),
                "labels": MetadataValue.md(markdown(tables.label_rows(result))),
                "examples": MetadataValue.md(markdown(tables.example_rows(result))),
                "rules_version": book.version,
                "days": str(result.days),
                "orders": result.total.orders,
                "flagged_before": result.book.before.flagged.orders,
                "flagged_after": result.book.after.flagged.orders,
                "newly_flagged": result.book.newly_flagged.orders,
                "no_longer_flagged": result.book.no_longer_flagged.orders,
                "flagged_share_low": low,
                "flagged_share_high": high,
                "path": MetadataValue.path(str(keep_backtest(settings.home, result))),
            }
        )

    @job(
        name=BACKTEST_JOB,
        executor_def=EXECUTOR,
        # What the launchpad begins with, so that people need not know where their choices go.
        config={"ops": {"backtest_rules": {"config": BacktestConfig().model_dump()}}},
        description="What another rule book would have decided about past orders, beside what was decided."
        " Choose the book and the days in the launchpad; `ecommersss rules backtest` does the same.",
    )
    def rules_backtest() -> None:
        backtest_rules()

    return rules_backtest


def candidate_book(candidate: str | None, platform: Path) -> "RuleBook":
    """Return the book that the launchpad names, or has the text of. Raises `RuleError`."""
    from streaming.rules import RuleBook  # brings sqlglot

    if candidate is not None and ":" in candidate:
        return RuleBook.parse(candidate, "the launchpad's book")
    return RuleBook.load(Path(candidate) if candidate else platform)


def asked_days(config: BacktestConfig, today: date) -> Days:
    """Return the days that the launchpad asks for. Raises `PlatformError` for a text that is no day."""
    last = launchpad_day("last_day", config.last_day) or today - timedelta(days=1)
    first = launchpad_day("first_day", config.first_day) or last - timedelta(days=_DAYS - 1)
    if first > last:
        raise PlatformError(f"the first day, {first}, is after the last, {last}: swap them")
    return Days.between(first, last)

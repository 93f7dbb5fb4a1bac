"""What `materialize` does before its run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

import ecommersss_platform.materialize as module
from ecommersss_platform.materialize import materialize
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.conftest import administer
from ecommersss_platform_tests.support.shop import query
from streaming.business_days import business_day


@pytest.mark.integration
def test_a_platform_that_never_ran_gets_its_schema_and_its_first_day(
    postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reached(Exception):
        pass

    def its_turn(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(module, "wait_for_turn", its_turn)
    for name in ("never_ran", "never_ran_dagster"):
        administer(postgres, f"CREATE DATABASE {name}")
    url = postgres.url("never_ran")
    settings = Settings(
        home=tmp_path / "home", database_url=url, dagster_url=postgres.url("never_ran_dagster")
    )
    today = business_day(datetime.now(UTC))
    with pytest.raises(Reached):
        materialize(settings, Days.between(today, today))
    assert query(url, "SELECT count(*) FROM orders") == [(0,)]
    assert settings.first_day_path.read_text() == f"{settings.first_partition_day()}\n"

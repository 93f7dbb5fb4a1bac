"""`ecommersss warehouse migrate` on a table that is behind its contract."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecommersss_platform.cli.app import app, main
from ecommersss_platform.contracts import ORDERS, Column, Type
from ecommersss_platform.warehouse import SchemaError
from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse
from ecommersss_platform_tests.support.orders_table import DAY_1, by_id, orders
from ecommersss_platform_tests.support.warehouse_contract import ONE, publish

pytestmark = pytest.mark.integration

# An older contract: the payment method had another name, positions were text, and there was a note.
OLD = replace(
    ORDERS,
    columns=(
        Column("note", Type.STRING, "A note.", nullable=True),
        *(
            replace(
                c,
                name="paid_with" if c.name == "payment_method" else c.name,
                type=Type.STRING if c.name == "position" else c.type,
            )
            for c in ORDERS.columns
        ),
    ),
)


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DuckDbWarehouse:
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path))
    monkeypatch.setenv("ECOMMERSSS_WAREHOUSE", "duckdb")
    warehouse = DuckDbWarehouse(tmp_path / "warehouse.duckdb")
    rows = [
        {"note": "x", **row, "paid_with": row["payment_method"], "position": str(row["position"])}
        for row in orders([1, 2], DAY_1)
    ]
    for row in rows:
        del row["payment_method"]
    publish(warehouse, rows, ONE, table=OLD)
    return warehouse


def test_command_named_by_a_schema_error_repairs_the_table(warehouse: DuckDbWarehouse) -> None:
    with pytest.raises(SchemaError) as failure:
        publish(warehouse, orders([3], DAY_1), ONE)
    _, command, condition = str(failure.value).split("`")
    assert command == (
        "ecommersss warehouse migrate --table raw.orders --rename paid_with=payment_method --drop note"
    )
    assert condition == (
        " (if paid_with was renamed to payment_method, the values of note may be lost) and run again"
    )
    arguments = shlex.split(command)[1:]

    would = CliRunner().invoke(app, [*arguments, "--dry-run", "--format", "json"])
    assert json.loads(would.stdout) == [
        {"table": "raw.orders", "change": change}
        for change in (
            "paid_with is renamed to payment_method",
            "position becomes BIGINT from VARCHAR",
            "note (VARCHAR) is dropped with its values",
        )
    ]
    with pytest.raises(SchemaError):
        publish(warehouse, orders([3], DAY_1), ONE)
    done = CliRunner().invoke(app, arguments)
    assert "paid_with is renamed to payment_method" in done.stdout
    assert "changed 1 of 1 tables" in done.stdout
    assert by_id(warehouse.read(ORDERS)) == orders([1, 2], DAY_1)
    # Safe to repeat, also for every table, even if the others do not exist yet.
    assert CliRunner().invoke(app, ["warehouse", "migrate"]).stdout == "changed 0 of 9 tables\n"


def test_incomplete_and_wrong_arguments_are_refused(
    warehouse: DuckDbWarehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["warehouse", "migrate"])
    printed = capsys.readouterr().err
    assert printed.startswith(
        "ecommersss: raw.orders cannot be migrated: note (VARCHAR) is not in the contract: say"
    )
    for arguments, says in (
        (
            ["--table", "raw.nonsense"],
            "there is no table raw.nonsense; there are raw.users, raw.products",
        ),
        (["--rename", "a=b"], "--rename and --drop need --table"),
        (["--table", "raw.orders", "--rename", "a"], "expected OLD=NEW, got a"),
    ):
        refused = CliRunner().invoke(app, ["warehouse", "migrate", *arguments], env={"COLUMNS": "300"})
        assert refused.exit_code == 2
        assert says in refused.stderr
    with pytest.raises(SystemExit):
        main(["warehouse", "migrate", "--table", "raw.users"])
    assert "raw.users is not in" in capsys.readouterr().err

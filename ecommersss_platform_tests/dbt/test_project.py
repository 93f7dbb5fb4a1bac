"""The dbt project, built by dbt on DuckDB from a few awkward raw rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dagster import AssetKey

from ecommersss_platform.contracts import ORDERS, RAW_TABLES
from ecommersss_platform.dbt import project as dbt_project
from ecommersss_platform.dbt.lineage import Lineage, column_lineage, read_lineage
from ecommersss_platform.dbt.project import (
    COMPILE,
    MANIFEST,
    PARTIAL_PARSE,
    PROJECT_DIR,
    DbtError,
    artifacts_dir,
    build_arguments,
    ensure_manifest,
    parsed_project,
)
from ecommersss_platform.dbt.specs import asset_key
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.dbt_runs import dbt_events, with_changed_model, with_changed_types
from ecommersss_platform_tests.support.raw_days import MOST, ORDER_ROWS, at, order, read, read_each, write_raw

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MODELS = {
    "bronze": sorted(
        [
            *(f"stg_{table.name}" for table in RAW_TABLES),
            *("stg_dispute_versions", "stg_product_versions", "stg_user_versions"),
        ]
    ),
    "silver": [
        *("dim_products", "dim_products_history", "dim_users", "dim_users_history"),
        *("fact_disputes", "fact_orders", "fact_orders_staged", "fact_shipments"),
        *("order_features", "order_features_staged"),
        *("order_labels", "order_labels_staged", "order_outcomes"),
    ],
    "gold": [
        "cohorts_by_signup_month",
        "customer_lifetime_value",
        "daily_fraud_summary",
        "daily_fraud_summary_staged",
        "fulfilment",
        "most_fraudulent_users",
        "payment_fraud_critical_time",
        "product_and_payment_methods",
        "product_and_users",
        "product_freshness",
        "rule_performance",
        "rule_performance_staged",
        "rule_totals",
        "users_and_blacklist",
    ],
}
STAGED = [model for models in MODELS.values() for model in models if model.endswith("_staged")]
STAGED_FACTS = ["--select", "fact_orders_staged fact_orders"]
RUPIAH = Decimal
NOUGHT = Decimal("0.00")
THREE_DAYS = build_arguments(Days(date(2024, 2, 28), date(2024, 3, 2)))[-2:]
"""Of which the last one has no orders."""


@dataclass(frozen=True)
class Project:
    """The project on a warehouse of its own."""

    settings: Settings

    def dbt(self, *arguments: str) -> list[str]:
        """Run dbt, and return its messages. Raises `DbtError` if it fails."""
        return [event["info"]["msg"] for event in dbt_events(self.settings, arguments)]

    def results(self) -> dict[str, str]:
        """Return the status of each node in the last run, by name."""
        report = json.loads((self.settings.home / "dbt" / "run_results.json").read_text())
        return {result["unique_id"]: result["status"] for result in report["results"]}

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return read(self.settings.warehouse_path, sql)

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of silver and gold."""
        models = [f"{schema}.{model}" for schema in ("silver", "gold") for model in MODELS[schema]]
        selects = [f"SELECT * FROM {model} ORDER BY ALL" for model in models]
        return dict(zip(models, read_each(self.settings.warehouse_path, selects), strict=True))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project, built once with all its unit and data tests."""
    ensure_manifest()
    project = Project(Settings(home=tmp_path_factory.mktemp("home"), _env_file=None))
    write_raw(project.settings.warehouse_path)
    project.dbt("--warn-error-options", '{"error": ["Deprecations"]}', "build")
    return project


@pytest.fixture(scope="module")
def parsed_for_bigquery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the project as set-up parses it for BigQuery, without credentials or a warning."""
    folder = tmp_path_factory.mktemp("bigquery")
    shop = Settings(home=folder, warehouse="bigquery", bigquery_project="shop", _env_file=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(folder / "none.json"))
        patch.setattr(dbt_project, "COMPILE", ("--warn-error", *COMPILE))
        dbt_project._parse(shop, PROJECT_DIR, folder)
    return folder


def test_every_unit_test_and_data_test_of_the_project_passes(project: Project) -> None:
    results = project.results()
    unit_tests = json.loads(ensure_manifest().read_text())["unit_tests"]
    assert {results[name] for name in unit_tests} == {"pass"}
    not_passed = {
        name.split(".")[2]: status for name, status in results.items() if status not in ("pass", "success")
    }
    exposures = ("block_list", "fraud_report", "rule_laboratory")
    assert {not_passed.pop(name) for name in exposures} == {"no-op"}
    # The sample has orders of a user and a product that the dimensions lack: a warning, and nothing more.
    assert not_passed == {"fact_orders_user_is_known": "warn", "fact_orders_product_is_known": "warn"}


def test_datasets_have_exactly_their_names_and_nothing_is_left_over(project: Project) -> None:
    found = project.rows(
        "SELECT table_schema, table_name, table_type FROM information_schema.tables"
        " WHERE table_schema <> 'raw' ORDER BY ALL"
    )
    views = {*MODELS["bronze"], "fact_disputes", "order_outcomes"}
    assert found == sorted(
        (schema, name, "VIEW" if name in views else "BASE TABLE")
        for schema in MODELS
        for name in MODELS[schema]
    )


def test_every_test_is_described(project: Project) -> None:
    manifest = json.loads(ensure_manifest().read_text())
    tests = [node for node in manifest["nodes"].values() if node["resource_type"] == "test"]
    described = {node["name"]: node["description"] for node in [*tests, *manifest["unit_tests"].values()]}
    assert [name for name, description in described.items() if not description.endswith(".")] == []


def test_every_column_is_described_in_order_and_every_grain_is_stated(project: Project) -> None:
    manifest = json.loads(ensure_manifest().read_text())
    models = {node["name"]: node for node in manifest["nodes"].values() if node["resource_type"] == "model"}
    comments = dict(
        project.rows(
            "SELECT schema_name || '.' || table_name, comment FROM duckdb_tables()"
            " UNION ALL SELECT schema_name || '.' || view_name, comment FROM duckdb_views()"
        )
    )
    columns_of: dict[str, list[str]] = {}
    for relation, column in project.rows(
        "SELECT table_schema || '.' || table_name, column_name FROM information_schema.columns"
        " ORDER BY table_schema, table_name, ordinal_position"
    ):
        columns_of.setdefault(relation, []).append(column)
    doubled = {}
    for model in models.values():
        relation = f"{model['schema']}.{model['name']}"
        grain = ", ".join(model["config"]["meta"]["grain"])
        doubled[relation] = f"SELECT count(*) FROM {relation} GROUP BY {grain} HAVING count(*) > 1"
        columns = columns_of[relation]
        # The columns of a staged model are those of the model that publishes it, and described there.
        described = models[model["name"].removesuffix("_staged")]["columns"]
        assert list(described) == columns, model["name"]
        assert all(column["description"] for column in described.values()), model["name"]
        assert "Grain: one row per" in model["description"], model["name"]
        assert comments[relation] == model["description"].strip()
    counted = read_each(project.settings.warehouse_path, doubled.values())
    assert dict(zip(doubled, counted, strict=True)) == {relation: [] for relation in doubled}


def test_money_is_exact_and_counts_are_integers(project: Project) -> None:
    types = dict(
        project.rows(
            "SELECT column_name, any_value(data_type) FROM information_schema.columns"
            " WHERE table_schema = 'gold' GROUP BY column_name HAVING count(DISTINCT data_type) = 1"
        )
    )
    names = "SELECT DISTINCT column_name FROM information_schema.columns WHERE table_schema = 'gold'"
    assert set(types) == {name for (name,) in project.rows(names)}
    money = {n for n in types if n.endswith(("_amount", "_spend", "_loss"))}
    assert {types[name] for name in money} == {"DECIMAL(38,2)"}
    assert types["fraud_percentage"] == "DECIMAL(5,2)"
    assert {types[n] for n in types if n.endswith("_orders") or n.endswith("_rank")} == {"BIGINT"}
    assert {types[n] for n in types if n.endswith("_at")} == {"TIMESTAMP WITH TIME ZONE"}


@pytest.mark.parametrize(
    ("model", "text", "instead", "message"),
    [
        ("dim_products", "list_price,", "cast(list_price as double) as list_price,", "data type mismatch"),
        ("dim_products", "category,", "", "missing in definition"),
        ("fact_orders", "select *", "select * exclude (country), 62 as country", "data type mismatch"),
    ],
)
def test_a_model_that_breaks_its_contract_is_not_built(
    project: Project, model: str, text: str, instead: str, message: str
) -> None:
    before = project.tables()
    changed = with_changed_model(parsed_project(project.settings), model, text, instead)
    arguments = ["build", "--exclude-resource-type", "unit_test", "--select", f"{model} {model}_staged"]
    with pytest.raises(DbtError, match="This model has an enforced contract that failed") as refused:
        list(dbt_events(project.settings, arguments, changed))
    assert message in str(refused.value)
    assert project.tables() == before


def test_a_contract_without_a_known_type_says_which_there_are(project: Project) -> None:
    changed = with_changed_types(parsed_project(project.settings), "dim_products", list_price="numeric")
    with pytest.raises(DbtError) as refused:
        list(dbt_events(project.settings, ["run", "--select", "dim_products"], changed))
    assert "the contract of dim_products needs a data_type for list_price (numeric): one of int64, " in str(
        refused.value
    )


def test_dimensions_have_the_newest_versions_and_no_address(project: Project) -> None:
    assert project.rows("SELECT * EXCLUDE (updated_at) FROM silver.dim_users ORDER BY user_id") == [
        (1, "siti", "s***@kantor.co.id", "4" * 64, "OVO", at("2024-02-28", "00:00"), date(2024, 2, 28)),
        (2, "b***@mail.id", "b***@mail.id", None, None, at("2024-02-28", "00:00"), date(2024, 2, 28)),
        (3, "Ñandú 💸", "é***@ñ.com", None, "DANA", at("2024-02-28", "00:00"), date(2024, 2, 28)),
    ]
    assert project.rows("SELECT product_id, list_price, listed_on FROM silver.dim_products ORDER BY 1") == [
        (1, Decimal("12.50"), date(2024, 2, 28)),
        (2, NOUGHT, date(2024, 2, 28)),
        (3, Decimal("5.00"), date(2024, 2, 28)),
    ]


def test_histories_have_a_row_for_each_change_of_what_is_shown(project: Project) -> None:
    """Two versions of one instant leave one row, and the last row of each is that of the dimension."""
    first, changed = at("2024-02-28", "00:00"), at("2024-03-01", "00:00")
    assert project.rows("SELECT * EXCLUDE (signed_up_at) FROM silver.dim_users_history ORDER BY ALL") == [
        (1, "siti", "s***@gmail.com", "1" * 64, None, first, changed),
        (1, "siti", "s***@kantor.co.id", "4" * 64, "OVO", changed, None),
        (2, "b***@mail.id", "b***@mail.id", None, None, first, None),
        (3, "Ñandú 💸", "é***@ñ.com", None, "DANA", first, None),
    ]
    assert project.rows(
        "SELECT product_id, list_price, valid_from, valid_to FROM silver.dim_products_history ORDER BY ALL"
    ) == [
        (1, RUPIAH("10.00"), at("2024-02-28", "06:00"), at("2024-03-02", "06:00")),
        (1, RUPIAH("12.50"), at("2024-03-02", "06:00"), None),
        (2, NOUGHT, at("2024-02-28", "06:00"), None),
        (3, RUPIAH("5.00"), at("2024-02-28", "06:00"), None),
    ]


def test_no_address_and_no_name_of_a_person_leaves_bronze(project: Project) -> None:
    everything = json.dumps(project.tables(), default=str, ensure_ascii=False)
    for text in ("siti.rahma", "siti@", "budi@", "éva@", "First1", "Last2"):
        assert text not in everything
    assert project.rows("SELECT email, first_name FROM bronze.stg_users WHERE user_id = 2") == [
        ("budi@mail.id", "First2")
    ]


def test_facts_are_the_raw_orders_with_their_local_hour(project: Project) -> None:
    hours = project.rows("SELECT order_id, local_hour, partition_date FROM silver.fact_orders ORDER BY 1")
    assert hours == [(row["id"], row["created_date"].hour, row["partition_date"]) for row in ORDER_ROWS]
    kept = [name for name in ORDERS.arrow_schema.names if name not in ("id", "created_date", "position")]
    assert project.rows(f"SELECT order_id, {', '.join(kept)} FROM silver.fact_orders ORDER BY 1") == [
        (row["id"], *(row[name] for name in kept)) for row in ORDER_ROWS
    ]


def test_users_and_blacklist(project: Project) -> None:
    """From raw rows to a mart; dbt's unit tests show the other marts."""
    assert project.rows("SELECT * FROM gold.users_and_blacklist ORDER BY user_id") == [
        (
            *(1, "siti", "s***@kantor.co.id", "4" * 64, "OVO", at("2024-02-28", "00:00")),
            # The one fraud order was cleared.
            *(4, RUPIAH("300000200.20"), 0, 0, 1, NOUGHT),
            *(at("2024-02-29", "12:00"), None, "Good Standing"),
        ),
        (
            *(2, "b***@mail.id", "b***@mail.id", None, None, at("2024-02-28", "00:00")),
            *(4, RUPIAH("100.70"), 3, 1, 0, RUPIAH("0.60")),
            *(at("2024-02-29", "12:00"), at("2024-02-29", "12:00"), "Blacklist"),
        ),
        (
            *(3, "Ñandú 💸", "é***@ñ.com", None, "DANA", at("2024-02-28", "00:00")),
            *(0, NOUGHT, 0, 0, 0, NOUGHT),
            *(None, None, "Good Standing"),
        ),
        (
            *(9, None, None, None, None, None),
            *(2, 2 * MOST, 1, 0, 0, MOST),
            *(at("2024-03-02", "01:00"), at("2024-03-02", "01:00"), "Watchlist"),
        ),
    ]


def test_building_again_changes_nothing(project: Project) -> None:
    """A model of each kind: a view, tables, staged rows, which are tested, and an incremental model."""
    before = project.tables()
    again = [
        "stg_orders",
        "dim_users_history",
        "fact_orders_staged",
        "fact_orders",
        "cohorts_by_signup_month",
    ]
    project.dbt(
        *(*build_arguments(), "--indirect-selection", "empty", "--select", *again),
        "fact_orders_staged+1,resource_type:test",
    )
    built = [status for name, status in project.results().items() if name.startswith("model.")]
    assert built == ["success"] * len(again)
    assert project.tables() == before


def test_a_run_replaces_its_window_and_nothing_else(project: Project) -> None:
    """With changed, new and vanished rows, a day that became empty, and one that no longer is."""
    changed = {row["id"]: row for row in ORDER_ROWS}
    changed[101] = changed[101] | {"amount": Decimal("7.77")}  # the day before the window
    del changed[107]  # vanished
    changed[108] = changed[108] | {"amount": Decimal("8.88")}
    changed[111] = order(111, 3, 3, "2024-03-01", "00:00:00", "1.11", "OVO")
    del changed[109], changed[110]  # all of 2 March
    changed[112] = order(112, 3, 3, "2024-03-03", "00:00:00", "2.22", "OVO")  # the day after the window
    write_raw(project.settings.warehouse_path, {ORDERS: list(changed.values())})
    before = project.rows("SELECT * FROM silver.fact_orders ORDER BY order_id")

    days = Days(date(2024, 2, 29), date(2024, 3, 3))
    for _ in range(2):
        project.dbt(*build_arguments(days), *STAGED_FACTS)
        after = project.rows("SELECT * FROM silver.fact_orders ORDER BY order_id")
        assert [row for row in after if row[0] <= 104] == before[:4]
        assert project.rows(
            "SELECT order_id, amount, partition_date FROM silver.fact_orders"
            " WHERE partition_date > DATE '2024-02-28' ORDER BY 1"
        ) == [
            (105, Decimal("0.10"), date(2024, 2, 29)),
            (106, Decimal("0.20"), date(2024, 2, 29)),
            (108, Decimal("8.88"), date(2024, 2, 29)),
            (111, Decimal("1.11"), date(2024, 3, 1)),
        ]
    built = [status for name, status in project.results().items() if name.startswith("model.")]
    assert built == ["success", "success"]
    # The run did not build the marts, so it compared nothing with them.
    assert not [name for name in project.results() if "count_every_order" in name]


@pytest.mark.parametrize(
    ("command", "options", "left_out"),
    [
        ("build", ["--select", "fact_orders"], "fact_orders_staged, "),
        ("build", [*STAGED_FACTS, "--exclude", "reconciles_with_raw"], "reconciles_with_raw: "),
        ("run", STAGED_FACTS, "unique_fact_orders_order_id, "),
        ("build", [*STAGED_FACTS, "--empty"], "rows (--empty or --sample): "),
    ],
)
def test_days_are_published_only_if_the_same_command_staged_and_tested_them(
    project: Project, command: str, options: list[str], left_out: str
) -> None:
    _, *no_unit_tests, flag, window = build_arguments(Days(date(2024, 2, 28), date(2024, 2, 29)))
    exclusion = no_unit_tests if command == "build" else []
    before = project.rows("SELECT * FROM silver.fact_orders ORDER BY order_id")
    with pytest.raises(DbtError) as refused:
        project.dbt(command, *exclusion, flag, window, *options)
    message = " ".join(str(refused.value).split())
    assert f"this one left out {left_out}" in message
    assert "run `dbt build --select fact_orders_staged fact_orders`" in message
    assert project.results()["model.ecommersss.fact_orders"] == "error"
    assert project.rows("SELECT * FROM silver.fact_orders ORDER BY order_id") == before


@pytest.fixture(scope="module")
def three_days_staged(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the warehouse in which three days are staged, of which the last one has no orders."""
    write_raw(project.settings.warehouse_path)
    project.dbt("run", "--select", "fact_orders_staged", *THREE_DAYS)
    path = tmp_path_factory.mktemp("staged") / "warehouse.duckdb"
    return Path(shutil.copy(project.settings.warehouse_path, path))


@pytest.mark.parametrize(
    ("change", "wrong_days"),
    [
        ("SELECT 1", 0),
        ("DELETE FROM silver.fact_orders_staged WHERE order_id = 101", 1),
        ("UPDATE silver.fact_orders_staged SET amount = amount + 0.01 WHERE order_id = 101", 1),
        ("DELETE FROM silver.fact_orders_staged", 2),
    ],
    ids=["nothing", "an order", "a cent", "every order"],
)
def test_staged_days_have_the_orders_and_rupiah_of_raw(
    project: Project, three_days_staged: Path, change: str, wrong_days: int
) -> None:
    """The last day has no orders in raw either, which is right."""
    shutil.copy(three_days_staged, project.settings.warehouse_path)
    with closing(duckdb.connect(str(project.settings.warehouse_path))) as connection:
        connection.execute(change)
    with nullcontext() if wrong_days == 0 else pytest.raises(DbtError, match=f"Got {wrong_days} result"):
        project.dbt("test", "--select", "reconciles_with_raw", *THREE_DAYS)


ELEVEN_YEARS = {"first_day": "2024-01-01", "end_day": "2034-12-15"}


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({"first_day": "2024-03-01"}, "give both vars first_day and end_day, or neither"),
        ({"first_day": "2024-03-01", "end_day": "2024-03-01"}, "the window of days is empty"),
        ({"first_day": "2024-03-01' or true --", "end_day": "2024-03-02"}, "must be days as YYYY-MM-DD"),
    ],
)
def test_an_invalid_window_is_refused_before_anything_is_built(
    project: Project, window: dict[str, str], message: str
) -> None:
    seen: list[str] = []
    events = dbt_events(project.settings, ["build", "--vars", json.dumps(window)])
    with pytest.raises(DbtError, match=message):
        seen.extend(event["info"]["name"] for event in events)
    assert "MainReportVersion" in seen
    assert "LogStartLine" not in seen


def test_only_bigquery_limits_the_days_of_a_run(
    project: Project, parsed_for_bigquery: Path, tmp_path: Path
) -> None:
    bigquery = Settings(
        home=tmp_path,
        warehouse="bigquery",
        bigquery_project="shop",
        bigquery_endpoint="http://127.0.0.1:9",  # needs no credentials, and is not asked anything
        _env_file=None,
    )
    # `window_days` is what `on-run-start` calls.
    check = ["run-operation", "window_days", "--vars", json.dumps(ELEVEN_YEARS)]
    assert list(dbt_events(project.settings, check))
    with pytest.raises(DbtError, match="has 4001 days, but one run replaces at most 4000: split it"):
        list(dbt_events(bigquery, check, (parsed_for_bigquery / PARTIAL_PARSE).read_bytes()))


def test_the_project_parses_for_bigquery_too(parsed_for_bigquery: Path) -> None:
    manifest = json.loads((parsed_for_bigquery / "manifest.json").read_text())
    config = manifest["nodes"]["model.ecommersss.fact_orders"]["config"]
    assert config["incremental_strategy"] == "insert_overwrite"
    assert config["partition_by"] == {"field": "partition_date", "data_type": "date", "granularity": "day"}
    assert config["full_refresh"] is None
    assert config["labels"] == {"platform": "ecommersss", "layer": "silver"}
    assert manifest["nodes"]["model.ecommersss.stg_users"]["schema"] == "bronze"


@pytest.fixture(scope="module")
def compiled(project: Project) -> dict[str, Any]:
    """The manifest, with the SQL of each model as the last run compiled it."""
    manifest: dict[str, Any] = json.loads(MANIFEST.read_text())
    folder = artifacts_dir(project.settings) / "compiled" / "ecommersss"
    for node in manifest["nodes"].values():
        if node["resource_type"] == "model":
            node["compiled_code"] = (folder / node["original_file_path"]).read_text()
    return manifest


@pytest.fixture(scope="module")
def lineage(compiled: dict[str, Any]) -> Lineage:
    return column_lineage(compiled)


@pytest.mark.parametrize(
    "name",
    [
        *("stg_orders", "dim_users", "dim_products_history", "order_outcomes", "fact_orders_staged"),
        *("order_labels_staged", "rule_performance_staged", "daily_fraud_summary_staged"),
        *("users_and_blacklist", "customer_lifetime_value", "cohorts_by_signup_month"),
    ],
)
def test_the_lineage_of_columns_is_that_of_dagster_dbt(
    project: Project, compiled: dict[str, Any], lineage: Lineage, name: str
) -> None:
    from dagster_dbt import DagsterDbtTranslator
    from dagster_dbt.core.dbt_cli_event import EventHistoryMetadata, _build_column_lineage_metadata

    class Translator(DagsterDbtTranslator):
        def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> AssetKey:
            return asset_key(dbt_resource_props)

    folder = artifacts_dir(project.settings)
    tables = {**compiled["sources"], **compiled["nodes"]}
    unique_id = f"model.ecommersss.{name}"
    published = unique_id.removesuffix("_staged")

    def columns(table: str) -> dict[str, dict[str, str]]:
        return {column: {"data_type": "unknown"} for column in tables[table]["columns"]}

    history = EventHistoryMetadata(
        columns(published),
        {
            tables[parent]["relation_name"]: columns(parent)
            for parent in tables[unique_id]["depends_on"]["nodes"]
        },
    )
    theirs = _build_column_lineage_metadata(history, tables[unique_id], compiled, Translator(), folder, None)[
        "dagster/column_lineage"
    ].deps_by_column
    ours = {
        column: {(asset_key(tables[parent]), source) for parent, source in sources}
        for column, sources in lineage[published].items()
    }
    assert ours == {
        column: {(dep.asset_key, dep.column_name) for dep in deps} for column, deps in theirs.items()
    }


def test_the_lineage_of_columns_is_the_same_on_bigquery_and_made_without_credentials(
    parsed_for_bigquery: Path,
) -> None:
    manifest = parsed_for_bigquery / "manifest.json"
    assert json.loads(manifest.read_text())["metadata"]["adapter_type"] == "bigquery"
    assert read_lineage(manifest) == read_lineage(MANIFEST)

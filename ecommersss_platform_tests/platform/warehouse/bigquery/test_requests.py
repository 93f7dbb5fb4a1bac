"""What is asked of BigQuery, request by request, by the official client against a recording transport."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import google.auth
import google.auth.exceptions
import pytest
import requests
from google.api_core import exceptions
from pydantic import ValidationError

from ecommersss_platform.contracts import LOAD_LOG, ORDERS, USERS, Column, Type
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import AuditError, Step, TableNotFound, WarehouseError, make_warehouse
from ecommersss_platform.warehouse.bigquery.access import credentials, is_transient, readable_errors
from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig, label
from ecommersss_platform.warehouse.bigquery.schema import table_definition
from ecommersss_platform.warehouse.bigquery.spool import spooled
from ecommersss_platform.warehouse.bigquery.sql import merge_sql, replace_sql
from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse
from ecommersss_platform_tests.support.orders_table import DAY_1, DAY_2, orders, reader

ONE = Days.between(DAY_1, DAY_1)
WAREHOUSE = BigQueryWarehouse(BigQueryConfig("shop", "asia-southeast2", endpoint="http://fake.invalid"))


class Service:
    """Answers like an empty BigQuery that does everything at once, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.loaded = 0
        self.lost: Callable[[str], bool] = lambda job_id: False
        """Whether the answer to the start of this job gets lost."""
        self.staged_rows = 3

    def request(self, session: Any, method: str, url: str, data: Any = None, **_: Any) -> requests.Response:
        path = url.split("/bigquery/v2/projects/", 1)[1].split("?")[0]
        if "/upload/" in url:
            body = json.loads(re.search(rb"\r\n\r\n(\{.*?\})\r\n--", data, re.DOTALL)[1])  # type: ignore[index]
        else:
            body = json.loads(data) if data else None
        self.asked.append((method, path, body))
        return self.answer(method, path, body)

    def answer(self, method: str, path: str, body: Any) -> requests.Response:
        kind, _, rest = path.split("/", 1)[1].partition("/")
        if method == "DELETE":
            return respond(204, None)
        if kind == "jobs" and method == "POST":
            job_id = body["jobReference"]["jobId"]
            if job_id in self.jobs:
                return refuse(409, "duplicate", f"Already Exists: Job shop:{job_id}")
            self.jobs[job_id] = self.done(body)
            if self.lost(job_id):
                raise requests.exceptions.ConnectionError("the answer got lost")
            return respond(200, self.jobs[job_id])
        if kind == "jobs":
            return respond(200, self.jobs[rest]) if rest in self.jobs else refuse(404, "notFound", "no job")
        if kind == "queries":
            return respond(200, self.results(rest))
        if method == "GET":
            return refuse(404, "notFound", f"Not found: {path}")
        return respond(200, body)

    def done(self, body: dict[str, Any]) -> dict[str, Any]:
        query = {"totalBytesProcessed": "1234", "totalSlotMs": "56", "statementType": "SELECT"}
        statistics: dict[str, Any] = {"query": query}
        if "load" in body["configuration"]:
            self.loaded += 1
            statistics = {"load": {"outputRows": str(self.staged_rows), "outputBytes": "789"}}
        return {**body, "status": {"state": "DONE"}, "statistics": statistics}

    def results(self, job_id: str) -> dict[str, Any]:
        sql = self.jobs[job_id]["configuration"]["query"]["query"]
        if "staged_rows" in sql:
            names = [name.strip("`") for name in re.findall(r" AS (`?[a-z_]+`?)(?:,| FROM)", sql)]
            counts: list[Any] = [str(self.staged_rows) if name == "staged_rows" else "0" for name in names]
            return page([(name, "INTEGER") for name in names], [counts])
        if "GROUP BY 1, 2" in sql:
            return page(
                [("partition_date", "DATE"), ("is_fraud", "BOOLEAN"), ("f0_", "INTEGER")],
                [["2024-06-10", "false", "3"]],
            )
        return {"jobComplete": True, "jobReference": {"jobId": job_id, "projectId": "shop"}}

    def bodies(self, method: str, ending: str) -> list[Any]:
        return [b for m, path, b in self.asked if m == method and path.endswith(ending)]


def page(fields: list[tuple[str, str]], rows: list[list[Any]]) -> dict[str, Any]:
    return {
        "jobComplete": True,
        "jobReference": {"jobId": "x", "projectId": "shop"},
        "totalRows": str(len(rows)),
        "schema": {"fields": [{"name": n, "type": t, "mode": "NULLABLE"} for n, t in fields]},
        "rows": [{"f": [{"v": value} for value in row]} for row in rows],
    }


def respond(status: int, body: Any) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers["content-type"] = "application/json"
    response._content = b"" if body is None else json.dumps(body).encode()
    response.request = requests.Request("GET", "http://fake.invalid").prepare()
    return response


def refuse(status: int, reason: str, message: str) -> requests.Response:
    return respond(
        status, {"error": {"message": message, "errors": [{"reason": reason, "message": message}]}}
    )


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    monkeypatch.setattr(
        requests.Session, "request", lambda session, *args, **named: made.request(session, *args, **named)
    )
    monkeypatch.setattr("ecommersss_platform.warehouse.bigquery.session._FIRST_PAUSE", 0)
    return made


def publish(run_id: str = "Run-1") -> Any:
    return WAREHOUSE.publish(ORDERS, reader(orders([1, 2, 3], DAY_1)), ONE, run_id)


def digest() -> str:
    with spooled(reader(orders([1, 2, 3], DAY_1))) as spool:
        return spool.digest[:16]


def test_a_publication_is_a_load_an_audit_a_tally_and_one_merge(service: Service) -> None:
    published = publish()
    attempt = f"raw_orders_run_1_{digest()}"
    assert [job.step for job in published.jobs] == ["load", "audit", "tally", "publish", "log"]
    assert (published.jobs[0].bytes, published.jobs[3].bytes, published.jobs[3].slot_ms) == (789, 1234, 56)
    assert published.jobs[3].id == f"{attempt}_publish_0"
    assert published.jobs[3].url == (
        "https://console.cloud.google.com/bigquery?project=shop"
        f"&j=bq:asia-southeast2:{attempt}_publish_0&page=queryresults"
    )
    load, audit, _tally, merge, log = service.bodies("POST", "shop/jobs")
    assert load["jobReference"]["jobId"] == f"{attempt}_load_0"
    schema = load["configuration"]["load"].pop("schema")["fields"]
    assert load["configuration"] == {
        "labels": {"dagster_run_id": "run-1", "asset": "raw_orders"},
        "load": {
            "sourceFormat": "PARQUET",
            "parquetOptions": {"enableListInference": True},
            "createDisposition": "CREATE_NEVER",
            "writeDisposition": "WRITE_EMPTY",
            "destinationTable": {"projectId": "shop", "datasetId": "staging", "tableId": attempt},
        },
    }
    modes = {field["name"]: (field["type"], field["mode"]) for field in schema}
    assert modes["amount"] == ("NUMERIC", "NULLABLE")
    assert modes["fraud_reasons"] == ("STRING", "REPEATED")
    assert modes["id"] == ("INT64", "NULLABLE")  # the audit tells what is missing, not the load
    assert audit["configuration"]["labels"] == {"dagster_run_id": "run-1", "asset": "raw_orders"}
    assert merge["configuration"]["query"]["query"] == merge_sql(
        ORDERS, "`shop.raw.orders`", f"`shop.staging.{attempt}`", ONE
    )
    assert log["jobReference"]["jobId"] == f"{attempt}_log_0"
    entries = log["configuration"]["query"]["query"]
    when = re.search(r"TIMESTAMP '[^']+'", entries)
    assert when is not None
    columns = ", ".join(f"`{c.name}`" for c in LOAD_LOG.columns)
    assert entries == (
        f"INSERT INTO `shop.raw.load_log` ({columns}) SELECT {columns} "
        "FROM UNNEST([STRUCT(DATE '2024-06-10' AS `partition_date`, \"raw.orders\" AS `table_name`, "
        f'"Run-1" AS `run_id`, 3 AS `row_count`, "{published.checksums[DAY_1]}" AS `checksum`, 1 AS `days`, '
        f"{when[0]} AS `loaded_at`)]) AS entry WHERE NOT EXISTS (SELECT 1 FROM `shop.raw.load_log` AS logged "
        "WHERE logged.partition_date >= DATE '2024-06-10' AND logged.partition_date < DATE '2024-06-11' "
        "AND logged.`partition_date` = entry.`partition_date` AND logged.`table_name` = entry.`table_name` "
        "AND logged.`run_id` = entry.`run_id` AND logged.`checksum` = entry.`checksum`)"
    )
    assert service.asked[-1][:2] == ("DELETE", f"shop/datasets/staging/tables/{attempt}")
    staging = service.bodies("POST", "staging/tables")[0]
    life = datetime.fromtimestamp(int(staging["expirationTime"]) / 1000, UTC) - datetime.now(UTC)
    assert timedelta(hours=23) < life <= timedelta(hours=24)
    assert [body["location"] for body in service.bodies("POST", "shop/datasets")] == ["asia-southeast2"] * 3


def test_tables_are_made_as_their_contracts_say(service: Service) -> None:
    publish()
    made = {body["tableReference"]["tableId"]: body for body in service.bodies("POST", "datasets/raw/tables")}
    assert made == {
        name: table_definition(table, "shop").to_api_repr()
        for name, table in {"load_log": LOAD_LOG, "orders": ORDERS}.items()
    }
    assert made["orders"]["requirePartitionFilter"] is True
    # The log is small, and may be looked at as a whole.
    assert made["load_log"]["requirePartitionFilter"] is False
    assert made["load_log"]["timePartitioning"] == {"type": "DAY", "field": "partition_date"}
    # All of it before the days are replaced.
    assert [path for method, path, _ in service.asked if method == "POST"][-2:] == ["shop/jobs"] * 2


def test_a_column_that_the_contract_gained_is_added_before_the_days_are_replaced(service: Service) -> None:
    answer = service.answer

    def answers(method: str, path: str, body: Any) -> requests.Response:
        if method in ("GET", "PATCH") and path.endswith("/datasets/raw/tables/orders"):
            return respond(200, table_definition(ORDERS, "shop").to_api_repr() | {"etag": "tag"})
        return answer(method, path, body)

    service.answer = answers  # type: ignore[method-assign]
    coupon = Column("coupon", Type.STRING, "Coupon.", nullable=True)
    grown = replace(ORDERS, columns=(*ORDERS.columns, coupon))
    WAREHOUSE.publish(grown, reader(orders([1, 2, 3], DAY_1), ORDERS.arrow_schema), ONE, "run")
    [change] = service.bodies("PATCH", "datasets/raw/tables/orders")
    assert list(change) == ["schema"]
    assert [field["name"] for field in change["schema"]["fields"]] == [c.name for c in grown.columns]
    assert change["schema"]["fields"][-1] == {
        "name": "coupon",
        "type": "STRING",
        "mode": "NULLABLE",
        "description": "Coupon.",
    }
    asked = [(method, path) for method, path, _ in service.asked]
    merges = [n for n, (_, _, body) in enumerate(service.asked) if "MERGE" in str(body)]
    assert asked.index(("PATCH", "shop/datasets/raw/tables/orders")) < merges[0]


def test_every_setting_arrives_in_every_job(service: Service) -> None:
    config = BigQueryConfig("shop", "EU", "payer", maximum_bytes_billed=10**9, endpoint="http://f.invalid")
    warehouse = BigQueryWarehouse(config)
    warehouse.publish(ORDERS, reader(orders([1, 2, 3], DAY_1)), ONE, "Run-1")
    published = len(service.bodies("POST", "/jobs"))
    warehouse.query("SELECT 1")
    jobs = service.bodies("POST", "/jobs")
    assert {path for method, path, _ in service.asked if method == "POST" and path.endswith("/jobs")} == {
        "payer/jobs"
    }
    references = [job["jobReference"] for job in jobs]
    assert {(one["projectId"], one["location"]) for one in references} == {("payer", "EU")}
    labels = {"dagster_run_id": "run-1", "asset": "raw_orders"}
    assert [j["configuration"].get("labels", {}) for j in jobs] == [labels] * published + [{}, {}]
    [load, *queries] = [j["configuration"] for j in jobs]
    assert load["load"]["destinationTable"]["projectId"] == "shop"
    for one in queries:
        assert one["query"]["maximumBytesBilled"] == str(10**9)
        assert one["query"]["connectionProperties"] == [{"key": "dataset_project_id", "value": "shop"}]
    assert [one.get("dryRun") for one in queries[-2:]] == [True, None]
    # Datasets and tables are those of the project that has them, where it has them.
    others = {path.split("/")[0] for _, path, _ in service.asked if "/datasets" in path}
    assert others == {"shop"}
    assert {body["location"] for body in service.bodies("POST", "shop/datasets")} == {"EU"}


def test_an_answer_that_got_lost_neither_loads_nor_publishes_twice(service: Service) -> None:
    service.answer = with_table(service, rows=3)  # type: ignore[method-assign]
    service.lost = lambda job_id: "_load_" in job_id or "_publish_" in job_id or "_log_" in job_id
    published = publish()
    assert published.rows == 3
    assert service.loaded == 1
    assert [job_id.rsplit("_", 2)[1:] for job_id in service.jobs if "_log_" in job_id] == [["log", "0"]]
    assert [job.id.rsplit("_", 2)[1:] for job in published.jobs if job.step in ("load", "publish")] == [
        ["load", "0"],
        ["publish", "0"],
    ]


def test_a_retry_takes_new_ids_once_its_staging_table_is_gone(service: Service) -> None:
    service.answer = with_table(service, rows=0)  # type: ignore[method-assign]
    first, second = publish(), publish()
    assert [job.id.rsplit("_", 1)[1] for job in (first.jobs[0], second.jobs[0])] == ["0", "1"]
    assert [job.id.rsplit("_", 1)[1] for job in (first.jobs[3], second.jobs[3])] == ["0", "1"]


def test_a_process_that_died_before_it_logged_is_followed_by_one_that_does(service: Service) -> None:
    service.answer = with_table(service, rows=3)  # type: ignore[method-assign]

    def die(step: Step) -> None:
        if step == Step.PUBLISHED:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WAREHOUSE.publish(ORDERS, reader(orders([1, 2, 3], DAY_1)), ONE, "Run-1", die)
    steps = [job_id.rsplit("_", 2)[1:] for job_id in service.jobs if job_id.startswith("raw_orders")]
    assert steps == [["load", "0"], ["publish", "0"]]
    publish()
    publish()
    steps = [job_id.rsplit("_", 2)[1:] for job_id in service.jobs if job_id.startswith("raw_orders")]
    # What is appended twice is one entry: see the statement.
    assert [step for step in steps if step[0] == "log"] == [["log", "0"], ["log", "1"]]


def test_a_retry_uses_what_its_first_attempt_loaded(service: Service) -> None:
    service.answer = with_table(service, rows=3)  # type: ignore[method-assign]
    publish()
    publish()
    assert service.loaded == 1


def with_table(service: Service, rows: int) -> Callable[..., requests.Response]:
    """Answers with staging tables that exist and have so many rows."""
    answer = service.answer

    def answers(method: str, path: str, body: Any) -> requests.Response:
        if method == "GET" and "/datasets/staging/tables/" in path:
            name = path.rsplit("/", 1)[1]
            reference = {"projectId": "shop", "datasetId": "staging", "tableId": name}
            return respond(200, {"tableReference": reference, "numRows": str(rows)})
        return answer(method, path, body)

    return answers


def test_rows_that_did_not_arrive_are_not_published(service: Service) -> None:
    service.staged_rows = 2
    with pytest.raises(AuditError, match="3 rows were extracted but 2 staged"):
        publish()
    assert not any("_publish_" in job_id for job_id in service.jobs)
    assert service.asked[-1][0] == "DELETE"


def test_the_same_rows_make_the_same_file() -> None:
    assert digest() == digest()
    with spooled(reader(orders([1, 2], DAY_1))) as spool:
        assert spool.digest[:16] != digest()


def test_the_merge_has_constant_bounds_on_both_sides() -> None:
    sql = merge_sql(USERS, "`p.raw.users`", "`p.staging.x`", Days.between(DAY_1, DAY_2))
    window = "partition_date >= DATE '2024-06-10' AND {}partition_date < DATE '2024-06-12'"
    columns = ", ".join(f"`{c.name}`" for c in USERS.columns)
    target = window.format("target.")
    assert sql == (
        "MERGE `p.raw.users` AS target "
        f"USING (SELECT {columns} FROM `p.staging.x` WHERE {window.format('')}) AS staged "
        f"ON FALSE WHEN NOT MATCHED BY SOURCE AND target.{target} THEN DELETE "
        f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({columns})"
    )


def test_a_table_is_defined_by_its_contract() -> None:
    made = table_definition(ORDERS, "shop").to_api_repr()
    assert made["timePartitioning"] == {"type": "DAY", "field": "partition_date"}
    assert made["requirePartitionFilter"] is True
    assert made["clustering"] == {"fields": ["user_id", "product_id"]}
    assert made["description"] == ORDERS.description
    assert made["labels"] == {"managed_by": "ecommersss"}
    fields = {field["name"]: field for field in made["schema"]["fields"]}
    assert fields["amount"] == {
        "name": "amount",
        "type": "NUMERIC",
        "mode": "REQUIRED",
        "description": "Order total, rupiah.",
    }
    assert list(fields) == [c.name for c in ORDERS.columns]


def test_a_whole_table_is_replaced_by_one_statement() -> None:
    sql = replace_sql(ORDERS, "`t`", "SELECT * FROM `s`")
    assert sql.startswith(
        'CREATE OR REPLACE TABLE `t` (`id` INT64 NOT NULL OPTIONS(description="The order."), '
    )
    assert (
        "PARTITION BY partition_date CLUSTER BY `user_id`, `product_id` "
        f'OPTIONS(description="{ORDERS.description}", labels=[("managed_by", "ecommersss")], '
        "require_partition_filter=TRUE) AS SELECT * FROM `s`" in sql
    )
    assert "require_partition_filter" not in replace_sql(LOAD_LOG, "`t`", "SELECT 1")


def test_labels_are_what_bigquery_takes() -> None:
    assert label("A.b c-D_" + "x" * 80) == "a_b_c-d_" + "x" * 55


def test_a_longer_range_than_one_job_may_modify_is_refused_before_anything_is_read(service: Service) -> None:
    days = Days(DAY_1, DAY_1 + timedelta(days=4001))
    with pytest.raises(WarehouseError, match="at most 4000 partitions at once"):
        WAREHOUSE.publish(ORDERS, ORDERS.empty(), days, "run")
    assert service.asked == []


# Credentials and refusals


def test_no_credentials_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(**_: Any) -> Any:
        raise google.auth.exceptions.DefaultCredentialsError(
            "Your default credentials were not found.\nSee ..."
        )

    monkeypatch.setattr(google.auth, "default", none)
    with pytest.raises(WarehouseError) as failure:
        credentials(BigQueryConfig("shop", "US"))
    assert str(failure.value) == (
        "no Google credentials were found for BigQuery: run `gcloud auth application-default login`, or name "
        "a service account's key file in ECOMMERSSS_BIGQUERY_KEY_FILE"
    )


@pytest.mark.parametrize("text", ["not json", '{"client_email": "s3cret"}', "[]"])
def test_a_wrong_key_file_is_named_and_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    with pytest.raises(WarehouseError, match="is not the JSON key of a service account") as failure:
        credentials(BigQueryConfig("shop", "US", key_file=path))
    assert str(path) in str(failure.value)
    assert "s3cret" not in str(failure.value)
    with pytest.raises(WarehouseError, match="cannot be read: No such file"):
        credentials(BigQueryConfig("shop", "US", key_file=tmp_path / "missing.json"))


def test_refused_credentials_say_which_setting() -> None:
    error = google.auth.exceptions.RefreshError("invalid_grant: account not found")
    for config, says in (
        (
            BigQueryConfig("shop", "US", key_file=Path("k.json")),
            "ECOMMERSSS_BIGQUERY_KEY_FILE: Google does",
        ),
        (BigQueryConfig("shop", "US", impersonate="a@b"), "ECOMMERSSS_BIGQUERY_IMPERSONATE: Google does"),
        (BigQueryConfig("shop", "US"), "application default credentials"),
    ):
        with pytest.raises(WarehouseError, match=says), readable_errors(config):
            raise error


def refused(kind: type[exceptions.GoogleAPICallError], reason: str, message: str) -> Any:
    return kind(f"POST https://x: {message}", errors=[{"reason": reason, "message": message}])


def test_refusals_are_sentences() -> None:
    for error, wanted, says in (
        (refused(exceptions.Forbidden, "accessDenied", "Access Denied"), WarehouseError, "BigQuery Job User"),
        (
            refused(exceptions.NotFound, "notFound", "Not found: Table x"),
            TableNotFound,
            "^Not found: Table x",
        ),
        (
            refused(exceptions.BadRequest, "bytesBilledLimitExceeded", "limit"),
            WarehouseError,
            "raise ECOMMERSSS_BIGQUERY_MAXIMUM_BYTES_BILLED",
        ),
    ):
        with pytest.raises(wanted, match=says), readable_errors(WAREHOUSE.config):
            raise error


def test_only_what_changed_nothing_and_passes_is_sent_again() -> None:
    conflict = "Could not serialize access to table shop:raw.orders due to concurrent update"
    assert is_transient(refused(exceptions.BadRequest, "invalidQuery", conflict))
    assert is_transient(refused(exceptions.Forbidden, "jobRateLimitExceeded", "slow down"))
    assert not is_transient(refused(exceptions.BadRequest, "invalidQuery", "Syntax error"))
    assert not is_transient(refused(exceptions.Forbidden, "quotaExceeded", "Quota exceeded"))


def test_settings_choose_it_and_are_complete(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="ECOMMERSSS_BIGQUERY_PROJECT is needed"):
        Settings(home=tmp_path, warehouse="bigquery", _env_file=None)  # type: ignore[call-arg]
    settings = Settings(
        home=tmp_path, warehouse="bigquery", bigquery_project="shop", bigquery_billing_project="payer"
    )
    warehouse = make_warehouse(settings)
    assert warehouse == BigQueryWarehouse(BigQueryConfig("shop", "asia-southeast2", billing_project="payer"))
    assert warehouse.pool is None

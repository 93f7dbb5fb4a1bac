"""Requests to BigQuery, one by one, by the official client against a recording stand-in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from pydantic import ValidationError

from ecommersss_platform.contracts import LOAD_LOG, ORDERS, Column, Type
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import (
    AuditError,
    Job,
    Published,
    WarehouseBusy,
    WarehouseError,
    make_warehouse,
)
from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig
from ecommersss_platform.warehouse.bigquery.schema import table_definition
from ecommersss_platform.warehouse.bigquery.spool import spooled
from ecommersss_platform.warehouse.bigquery.sql import LOCK_DESCRIPTION, counts_sql, merge_sql
from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse
from ecommersss_platform_tests.support.bigquery_service import (
    ONE,
    WAREHOUSE,
    Service,
    page,
    publish,
    recording_service,
    refuse,
    respond,
)
from ecommersss_platform_tests.support.orders_table import DAY_1, orders, reader


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    return recording_service(monkeypatch)


def by_step(published: Published) -> dict[str, Job]:
    return {job.step: job for job in published.jobs}


def digest() -> str:
    with spooled(reader(orders([1, 2, 3], DAY_1))) as spool:
        return spool.digest[:16]


def test_publication_is_a_load_an_audit_a_tally_a_transaction_and_a_count(service: Service) -> None:
    published = publish()
    attempt = f"raw_orders_run_1_{digest()}"
    jobs = by_step(published)
    assert list(jobs) == ["lock", "load", "audit", "tally", "publish", "count"]
    assert (jobs["load"].bytes, jobs["publish"].bytes, jobs["publish"].slot_ms) == (789, 1234, 56)
    assert jobs["publish"].id == f"{attempt}_publish_0"
    assert jobs["publish"].url == (
        "https://console.cloud.google.com/bigquery?project=shop"
        f"&j=bq:asia-southeast2:{attempt}_publish_0&page=queryresults"
    )
    _lock, load, audit, _tally, script, count = service.bodies("POST", "shop/jobs")
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
    seed, wait, begin, take, merge, entries, commit = script["configuration"]["query"]["query"].split(";\n")
    assert seed == (
        f'CREATE TABLE IF NOT EXISTS `shop.raw.orders_lock` OPTIONS(description="{LOCK_DESCRIPTION}", '
        'labels=[("managed_by", "ecommersss")]) AS SELECT CURRENT_TIMESTAMP() AS taken_at'
    )
    assert wait == take == "UPDATE `shop.raw.orders_lock` SET taken_at = CURRENT_TIMESTAMP() WHERE TRUE"
    assert (begin, commit) == ("BEGIN TRANSACTION", "COMMIT TRANSACTION")
    assert merge == merge_sql(ORDERS, "`shop.raw.orders`", f"`shop.staging.{attempt}`", ONE)
    assert count["configuration"]["query"]["query"] == counts_sql("`shop.raw.orders`", ONE)
    when = re.search(r"TIMESTAMP '[^']+'", entries)
    assert when is not None
    columns = ", ".join(f"`{c.name}`" for c in LOAD_LOG.columns)
    assert entries == (
        f"INSERT INTO `shop.raw.load_log` ({columns}) "
        'SELECT entry.`partition_date`, "raw.orders", "Run-1", entry.`row_count`, entry.`checksum`, 1, '
        f"{when[0]} FROM UNNEST(ARRAY<STRUCT<`partition_date` DATE, `row_count` INT64, `checksum` STRING>>"
        f"[(DATE '2024-06-10', 3, \"{published.checksums[DAY_1]}\")]) AS entry "
        "WHERE NOT EXISTS (SELECT 1 FROM `shop.raw.load_log` AS logged "
        "WHERE logged.partition_date >= DATE '2024-06-10' AND logged.partition_date < DATE '2024-06-11' "
        'AND logged.`partition_date` = entry.`partition_date` AND logged.`table_name` = "raw.orders" '
        'AND logged.`run_id` = "Run-1" AND logged.`checksum` = entry.`checksum`)'
    )
    assert service.asked[-1][:2] == ("DELETE", f"shop/datasets/staging/tables/{attempt}")
    staging = service.bodies("POST", "staging/tables")[0]
    life = datetime.fromtimestamp(int(staging["expirationTime"]) / 1000, UTC) - datetime.now(UTC)
    assert timedelta(hours=23) < life <= timedelta(hours=24)
    assert {body["location"] for body in service.bodies("POST", "shop/datasets")} == {"asia-southeast2"}


def test_publication_creates_tables_from_their_contracts(service: Service) -> None:
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


def test_publication_adds_new_columns_before_it_replaces_days(service: Service) -> None:
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


def test_settings_reach_every_job(service: Service) -> None:
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
    [_lock, load, *queries] = [j["configuration"] for j in jobs]
    assert load["load"]["destinationTable"]["projectId"] == "shop"
    for one in queries:
        assert one["query"]["maximumBytesBilled"] == str(10**9)
        assert one["query"]["connectionProperties"] == [{"key": "dataset_project_id", "value": "shop"}]
    assert [one.get("dryRun") for one in queries[-2:]] == [True, None]
    # Datasets and tables are those of the project that has them, where it has them.
    others = {path.split("/")[0] for _, path, _ in service.asked if "/datasets" in path}
    assert others == {"shop"}
    assert {body["location"] for body in service.bodies("POST", "shop/datasets")} == {"EU"}


def test_what_a_session_was_billed_is_reported_even_if_it_fails(service: Service) -> None:
    billed: list[int] = []
    warehouse = replace(WAREHOUSE, add_billed=billed.append)
    published = warehouse.publish(ORDERS, reader(orders([1, 2, 3], DAY_1)), ONE, "Run-1")
    assert by_step(published)["publish"].billed == 10_485_760
    assert by_step(published)["load"].billed == 0
    assert billed == [5 * 10_485_760]  # lock, audit, tally, publish, count
    service.staged_rows = 2
    with pytest.raises(AuditError):
        warehouse.publish(ORDERS, reader(orders([1, 2, 3], DAY_1)), ONE, "Run-2")
    assert billed[1:] == [2 * 10_485_760]  # lock, audit
    warehouse.query("SELECT 1")
    assert billed[2:] == [10_485_760]


def test_lost_answer_neither_loads_nor_publishes_twice(service: Service) -> None:
    service.answer = with_table(service, rows=3)  # type: ignore[method-assign]
    service.lost = lambda job_id: "_load_" in job_id or "_publish_" in job_id
    published = publish()
    assert published.rows == 3
    assert service.loaded == 1
    assert [job.id.rsplit("_", 2)[1:] for job in published.jobs if job.step in ("load", "publish")] == [
        ["load", "0"],
        ["publish", "0"],
    ]


def test_retry_takes_new_job_ids_once_its_staging_table_is_gone(service: Service) -> None:
    service.answer = with_table(service, rows=0)  # type: ignore[method-assign]
    first, second = publish(), publish()
    for step in ("load", "publish"):
        ids = [by_step(published)[step].id for published in (first, second)]
        assert [job_id.rsplit("_", 1)[1] for job_id in ids] == ["0", "1"]


def test_a_publication_cancelled_by_another_on_its_table_is_sent_again(service: Service) -> None:
    """Two runs load a day without rows: both MERGEs would only insert, so the lock's UPDATE makes them
    conflict. BigQuery cancels this one, twice."""
    done = service.done

    def cancelled(body: Any) -> dict[str, Any]:
        answer = done(body)
        if body["jobReference"]["jobId"].endswith(("_publish_0", "_publish_1")):
            message = (
                "Query error: Transaction is aborted due to concurrent update against table "
                "shop:raw.orders_lock. Transaction ID: 1 at [4:1]"
            )
            answer["status"]["errorResult"] = {"reason": "invalidQuery", "message": message}
        return answer

    service.done = cancelled  # type: ignore[method-assign]
    billed: list[int] = []
    warehouse = replace(WAREHOUSE, add_billed=billed.append)
    published = warehouse.publish(ORDERS, reader(orders([1, 2, 3], DAY_1)), ONE, "Run-1")
    assert by_step(published)["publish"].id.endswith("_publish_2")
    assert billed == [7 * 10_485_760]  # lock, audit, tally, publish three times, count


def test_rows_that_nobody_logged_are_found_after_publishing(service: Service) -> None:
    service.published = [["2024-06-10", "6"]]
    with pytest.raises(WarehouseError, match="2024-06-10 has 6 rows after 3 were published") as failure:
        publish()
    assert not isinstance(failure.value, AuditError)


def test_a_day_that_another_load_replaced_meanwhile_is_left_to_it(service: Service) -> None:
    service.published, service.logged = [], [["2024-06-10", "0"], ["2024-06-10", "3"]]
    assert publish().rows == 3


def test_a_start_refused_for_too_many_requests_is_tried_again(service: Service) -> None:
    answer, refusals = service.answer, iter(["rateLimitExceeded"] * 2)

    def answers(method: str, path: str, body: Any) -> requests.Response:
        if (method, path) == ("POST", "shop/jobs") and (reason := next(refusals, "")):
            return refuse(403, reason, "Exceeded rate limits: too many API requests per user")
        return answer(method, path, body)

    service.answer = answers  # type: ignore[method-assign]
    published = publish()
    assert by_step(published)["load"].id.endswith("_load_0")
    refusals = iter(["rateLimitExceeded"] * 99)
    with pytest.raises(WarehouseBusy, match="BigQuery is busy: Exceeded rate limits"):
        publish("Run-2")
    refusals = iter(["quotaExceeded"])
    with pytest.raises(WarehouseError, match="BigQuery refused"):
        publish("Run-3")


def test_a_job_that_exists_and_is_not_found_yet_is_waited_for(service: Service) -> None:
    service.answer = with_table(service, rows=3)  # type: ignore[method-assign]
    first = publish()
    answer, missing = service.answer, iter(range(2))

    def answers(method: str, path: str, body: Any) -> requests.Response:
        if method == "GET" and path.endswith("_publish_0") and next(missing, None) is not None:
            return refuse(404, "notFound", "Not found: Job shop:x")
        return answer(method, path, body)

    service.answer = answers  # type: ignore[method-assign]
    second = publish()
    assert next(missing, None) is None, "the job of the first attempt was looked for"
    ids = [by_step(published)["publish"].id for published in (first, second)]
    assert [job_id.rsplit("_", 1)[1] for job_id in ids] == ["0", "1"]
    missing = iter(range(99))
    with pytest.raises(WarehouseBusy, match="does not find it; run again"):
        publish()


def test_retry_reuses_the_load_of_the_first_attempt(service: Service) -> None:
    service.answer = with_table(service, rows=3)  # type: ignore[method-assign]
    publish()
    publish()
    assert service.loaded == 1


def with_table(service: Service, rows: int) -> Callable[..., requests.Response]:
    """Answer that every staging table exists and has this number of rows."""
    answer = service.answer

    def answers(method: str, path: str, body: Any) -> requests.Response:
        if method == "GET" and "/datasets/staging/tables/" in path:
            name = path.rsplit("/", 1)[1]
            reference = {"projectId": "shop", "datasetId": "staging", "tableId": name}
            return respond(200, {"tableReference": reference, "numRows": str(rows)})
        return answer(method, path, body)

    return answers


def test_publication_fails_if_rows_are_missing_from_staging(service: Service) -> None:
    service.staged_rows = 2
    with pytest.raises(AuditError, match="3 rows were extracted but 2 staged"):
        publish()
    assert not any("_publish_" in job_id for job_id in service.jobs)
    assert service.asked[-1][0] == "DELETE"


def test_spool_of_the_same_rows_has_the_same_digest() -> None:
    assert digest() == digest()
    with spooled(reader(orders([1, 2], DAY_1))) as spool:
        assert spool.digest[:16] != digest()


def test_publication_refuses_a_range_longer_than_one_job_may_modify(service: Service) -> None:
    days = Days(DAY_1, DAY_1 + timedelta(days=4001))
    with pytest.raises(WarehouseError, match="at most 4000 partitions at once"):
        WAREHOUSE.publish(ORDERS, ORDERS.empty(), days, "run")
    assert service.asked == []


def test_the_longest_range_fits_into_requests_of_a_megabyte(service: Service) -> None:
    days = Days(DAY_1, DAY_1 + timedelta(days=4000))
    published = WAREHOUSE.publish(ORDERS, reader(orders([1, 2, 3], DAY_1)), days, "f" * 255)
    assert len(published.rows_per_day) == 4000
    jobs = [body["configuration"] for body in service.bodies("POST", "/jobs")]
    sizes = [len(job["query"]["query"]) for job in jobs if "query" in job]
    assert len(sizes) == 5
    assert max(sizes) < 300_000, "BigQuery takes 1 MB"
    [script] = [job for name, job in service.jobs.items() if "_publish_" in name]
    assert script["configuration"]["query"]["query"].count("(DATE '") == 4000


def test_a_run_loads_the_same_rows_twenty_times(service: Service) -> None:
    service.answer = with_table(service, rows=0)  # type: ignore[method-assign]
    for n in range(20):
        assert by_step(publish())["load"].id.endswith(f"_load_{n}")
    with pytest.raises(WarehouseError, match="20 loads of the same rows failed or were dropped"):
        publish()


@pytest.mark.parametrize("days", [4000, 4001])
def test_migration_rewrites_as_many_partitions_as_one_statement_may(service: Service, days: int) -> None:
    answer, results = service.answer, service.results
    service.answer = lambda method, path, body: (  # type: ignore[method-assign]
        respond(200, table_definition(ORDERS, "shop").to_api_repr())
        if method == "GET" and path.endswith("/raw/tables/orders")
        else answer(method, path, body)
    )

    def counted(job_id: str) -> dict[str, Any]:
        if "count(DISTINCT partition_date)" in service.jobs[job_id]["configuration"]["query"]["query"]:
            return page([("days", "INTEGER")], [[str(days)]])
        return results(job_id)

    service.results = counted  # type: ignore[method-assign]
    grown = replace(ORDERS, columns=(*ORDERS.columns, Column("coupon", Type.STRING, "", nullable=True)))
    if days == 4000:
        assert WAREHOUSE.migrate(grown, {}, [], dry_run=True) == (
            "coupon (STRING) is new, and NULL in existing rows",
        )
        return
    with pytest.raises(WarehouseError, match="has 4001 days, and BigQuery rewrites at most 4000"):
        WAREHOUSE.migrate(grown, {}, [])
    assert not service.bodies("POST", "staging/tables"), "nothing was staged"


# ---- projects that lose data ----


def test_a_project_without_billing_is_refused_before_anything_is_read(service: Service) -> None:
    message = (
        "Billing has not been enabled for this project. Enable billing at "
        "https://console.cloud.google.com/billing. DML queries are not allowed in the free tier. Set up a "
        "billing account to remove this restriction."
    )
    done = service.done

    def refused(body: Any) -> dict[str, Any]:
        answer = done(body)
        if "UPDATE" in str(body):
            answer["status"]["errorResult"] = {"reason": "billingNotEnabled", "message": message}
        return answer

    service.done = refused  # type: ignore[method-assign]

    def untouched() -> Iterator[pa.RecordBatch]:
        pytest.fail("rows were read before the project was known to have no billing")
        yield

    rows = pa.RecordBatchReader.from_batches(ORDERS.arrow_schema, untouched())
    with pytest.raises(WarehouseError, match=r"^the project shop has no billing .*60 days; link") as failure:
        WAREHOUSE.publish(ORDERS, rows, ONE, "Run-1")
    assert "\n" not in str(failure.value)
    assert service.loaded == 0
    assert not service.bodies("POST", "staging/tables")


def test_expirations_are_warned_of(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    answer = service.answer
    table = table_definition(ORDERS, "shop")
    table.expires = datetime(2030, 1, 2, tzinfo=UTC)
    assert table.time_partitioning is not None
    table.time_partitioning.expiration_ms = 60 * 86_400_000
    dataset = {
        "datasetReference": {"projectId": "shop", "datasetId": "raw"},
        "location": "asia-southeast2",
        "defaultTableExpirationMs": "5184000000",
        "defaultPartitionExpirationMs": "43200000",
    }

    def answers(method: str, path: str, body: Any) -> requests.Response:
        if method == "GET" and path.endswith("datasets/raw"):
            return respond(200, dataset)
        if method == "GET" and path.endswith("raw/tables/orders"):
            return respond(200, table.to_api_repr())
        return answer(method, path, body)

    service.answer = answers  # type: ignore[method-assign]
    publish()
    publish("Run-2")
    said = [record.getMessage() for record in caplog.records if record.name == "ecommersss.warehouse"]
    of_the_dataset = [
        "BigQuery deletes each new table of the dataset raw after 60 days: "
        "`bq update --default_table_expiration 0 shop:raw` keeps later ones",
        "BigQuery deletes each new partition of the dataset raw after 0.5 days: "
        "`bq update --default_partition_expiration 0 shop:raw` keeps later ones",
    ]
    of_the_table = [
        "BigQuery deletes raw.orders on 2030-01-02: `bq update --expiration 0 shop:raw.orders` keeps it",
        "BigQuery deletes the days of raw.orders 60 days after their date: "
        "`bq update --time_partitioning_expiration 0 shop:raw.orders` keeps them",
    ]
    assert said == of_the_dataset + of_the_table * 2


def test_settings_choose_bigquery_and_require_a_project(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="ECOMMERSSS_BIGQUERY_PROJECT is needed"):
        Settings(home=tmp_path, warehouse="bigquery", _env_file=None)  # type: ignore[call-arg]
    settings = Settings(
        home=tmp_path, warehouse="bigquery", bigquery_project="shop", bigquery_billing_project="payer"
    )
    warehouse = make_warehouse(settings)
    assert warehouse == BigQueryWarehouse(BigQueryConfig("shop", "asia-southeast2", billing_project="payer"))
    assert warehouse.pool is None


def test_rows_of_a_query_are_read_a_page_at_a_time(service: Service) -> None:
    pages = [
        page([("n", "INTEGER")], [["1"], ["2"]]) | {"totalRows": "3", "pageToken": "next"},
        page([("n", "INTEGER")], [["3"]]) | {"totalRows": "3"},
    ]
    asked: list[str] = []

    def results(job_id: str) -> dict[str, Any]:
        asked.append(job_id)
        return pages[len(asked) - 1]

    service.results = results  # type: ignore[method-assign]
    rows = WAREHOUSE.stream("SELECT n FROM raw.orders")
    assert rows.read_next_batch().to_pylist() == [{"n": 1}, {"n": 2}]
    assert len(asked) == 1
    assert rows.read_all().to_pylist() == [{"n": 3}]

"""A stand-in for the BigQuery service behind the official client, which records requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import requests

from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig
from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse
from ecommersss_platform_tests.support.orders_table import DAY_1, orders, reader

ONE = Days.between(DAY_1, DAY_1)
WAREHOUSE = BigQueryWarehouse(BigQueryConfig("shop", "asia-southeast2", endpoint="http://fake.invalid"))


class Service:
    """An empty BigQuery that finishes every job at once and records the requests."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.loaded = 0
        self.lost: Callable[[str], bool] = lambda job_id: False
        """Decides whether the answer to the start of a job gets lost."""
        self.staged_rows = 3
        self.published: list[list[Any]] = [["2024-06-10", "3"]]
        """The days that hold rows after a publication, and how many."""
        self.logged: list[list[Any]] = []
        """The days and numbers of rows in the load log."""

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
        query = {
            "totalBytesProcessed": "1234",
            "totalBytesBilled": "10485760",
            "totalSlotMs": "56",
            "statementType": "SELECT",
        }
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
        if "GROUP BY day" in sql:
            return page([("day", "DATE"), ("n", "INTEGER")], self.published)
        if "row_count AS n" in sql:
            return page([("day", "DATE"), ("n", "INTEGER")], self.logged)
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


def recording_service(monkeypatch: pytest.MonkeyPatch, service: Service | None = None) -> Service:
    """Answer the client's requests by a stand-in (by default a new one) for the rest of the test."""
    made = service or Service()
    monkeypatch.setattr(
        requests.Session,
        "request",
        lambda session, *args, **named: made.request(session, *args, **named),
    )
    monkeypatch.setattr("ecommersss_platform.warehouse.bigquery.session._FIRST_PAUSE", 0)
    monkeypatch.setattr("ecommersss_platform.warehouse.bigquery.session._looked_at", set())
    return made


def publish(run_id: str = "Run-1") -> Any:
    return WAREHOUSE.publish(ORDERS, reader(orders([1, 2, 3], DAY_1)), ONE, run_id)

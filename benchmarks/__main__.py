"""Run the benchmarks and keep each one's results in `benchmarks/results/NAME.json`."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

BENCHMARKS = ("code_location",)
RESULTS = Path(__file__).parent / "results"


def main(names: list[str]) -> int:
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        print(
            f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}", file=sys.stderr
        )
        return 2
    RESULTS.mkdir(exist_ok=True)
    for name in names or BENCHMARKS:
        measured = importlib.import_module(f"benchmarks.{name}").measure()
        report = {
            "benchmark": name,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "results": measured,
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        print(f"{name}:")
        for what, value in measured.items():
            print(f"  {what}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The ground truth: a side file that says which fraud pattern made each order. Orders never say."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from streaming.simulator.shoppers import Placed


class GroundTruth:
    """A JSONL file with one object an order: `{"id": 123, "pattern": "rapid_fire"}`, null for an honest one.

    An order is written here before it is published. So every published order is in the file, but if the
    producer is killed in between, an order in the file was never published. Several producers may append at
    the same time: each appends whole lines in one write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, placed: Iterable[Placed]) -> None:
        """Append these orders. Raises `OSError` if the file cannot be written."""
        data = b"".join(
            b'{"id":%d,"pattern":%s}\n' % (order.id, json.dumps(pattern).encode())
            for order, pattern in placed
        )
        if not data:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b", buffering=0) as file:
            # An unfinished line of a killed producer must not run into the first new line.
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    data = b"\n" + data
            written = file.write(data)
            if written != len(data):
                raise OSError(
                    f"only {written} of {len(data)} bytes could be written to {self.path}: disk full?"
                )

    def read(self) -> dict[int, str | None]:
        """Return the pattern of each order id, or {} without a file. Skip lines that a kill cut off."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        truth: dict[int, str | None] = {}
        for line in lines:
            try:
                entry = json.loads(line)
                truth[entry["id"]] = entry["pattern"]
            except (ValueError, TypeError, KeyError):
                continue
        return truth

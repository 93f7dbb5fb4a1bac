"""The simulator's side file: which fraud pattern made each order. The orders themselves never say."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from streaming.simulator.shoppers import Placed


class GroundTruth:
    """A JSONL file with one object an order: `{"id": 123, "pattern": "rapid_fire"}`, null for an honest one.

    It is written before the order is published: a published order is always in here, while an order in here
    may never have been published, when the producer was killed in between. Several producers may append at
    the same time: each appends whole lines in one write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, placed: Iterable[Placed]) -> None:
        """Append these orders. Raises `OSError` when the file cannot be written."""
        data = b"".join(
            b'{"id":%d,"pattern":%s}\n' % (order.id, json.dumps(pattern).encode())
            for order, pattern in placed
        )
        if not data:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b", buffering=0) as file:
            # What a killed producer left unfinished must not run into the first of the new lines.
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
        """Pattern by order id; empty when there is no file. Lines that a kill cut off are left out."""
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

"""Read and write topics on disk in tests."""

from __future__ import annotations

from streaming.topics.jsonl import JsonlTopic


def drain(topic: JsonlTopic, position: int = 0, max_lines: int = 1000) -> list[tuple[int, bytes]]:
    """Return all lines from a position on, each with its own position."""
    found: list[tuple[int, bytes]] = []
    with topic.reader(position) as reader:
        while True:
            batch = reader.read(max_lines, 0)
            if not batch.lines:
                assert batch.next_position == reader.position
                return found
            found += zip(batch.positions, batch.lines, strict=True)


def lines_of(topic: JsonlTopic, position: int = 0) -> list[bytes]:
    return [line for _, line in drain(topic, position)]


def write(topic: JsonlTopic, data: bytes, segment: int = 0) -> None:
    """Append bytes without the lock, as another program would."""
    with topic.path(segment).open("ab") as file:
        file.write(data)

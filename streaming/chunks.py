"""Split an iterable into lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of up to `size` items each: `itertools.batched`, which Python 3.11 does not have."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk

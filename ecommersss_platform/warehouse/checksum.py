"""Checksums of days: equal for equal rows, in whatever order, batches or warehouse they come.

A row's number is made of its columns' names and values, a day's is the sum of its rows' numbers modulo 2**64.
A change of one value cannot cancel out: each step from its number to the sum can be undone. NULL adds
nothing, so a day keeps its checksum when its table gains a column that it has no values for. Not made against
forgery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from ecommersss_platform.contracts import PARTITION_COLUMN

_Numbers = np.ndarray[tuple[int], np.dtype[np.uint64]]

# Odd, so that multiplying can be undone; their bits are those of the golden ratio and of MurmurHash3's mixer.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_HALF, _THIRD = np.uint64(32), np.uint64(29)
_NULL_ITEM = np.uint64(0xC4CEB9FE1A85EC53)
_WORD_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
"""For n = 0 to 8, the bits of the first n bytes of a word."""


class Checksums:
    """The checksums of the days of a stream of batches, each with the column `partition_date`."""

    def __init__(self) -> None:
        self._sums: dict[date, int] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Take a batch whose columns have the types of `contracts.Type`. Rows without a day are left out."""
        days = batch.column(PARTITION_COLUMN)
        if days.null_count:
            batch = batch.filter(days.is_valid())
        if not batch.num_rows:
            return
        numbers = _buffer(batch.column(PARTITION_COLUMN), np.int32)
        order = np.argsort(numbers, kind="stable")
        found, starts = np.unique(numbers[order], return_index=True)
        totals = np.add.reduceat(row_numbers(batch)[order], starts)
        for number, total in zip(found.tolist(), totals.tolist(), strict=True):
            day = date.fromordinal(_EPOCH + number)
            self._sums[day] = (self._sums.get(day, 0) + total) % 2**64

    def per_day(self, days: Iterable[date]) -> dict[date, str]:
        """Each day's checksum, 16 hexadecimal digits; zeros for a day without rows."""
        return {day: f"{self._sums.get(day, 0):016x}" for day in days}


_EPOCH = date(1970, 1, 1).toordinal()


def checksums(rows: pa.RecordBatchReader, days: Iterable[date]) -> Mapping[date, str]:
    """The checksums of these days in what a warehouse reads back, or anything else of the same columns."""
    found = Checksums()
    for batch in rows:
        found.add(batch)
    return found.per_day(days)


def row_numbers(batch: pa.RecordBatch) -> _Numbers:
    """A number for each row, of the names and values of its columns."""
    total = np.zeros(batch.num_rows, np.uint64)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        numbers = _mixed(_numbers(column) ^ _salt(name))
        if column.null_count:
            numbers *= _bits(column, 0)
        total += numbers
    return _mixed(total)


def _salt(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


def _mixed(numbers: _Numbers) -> _Numbers:
    """Other numbers for other numbers, far apart for near ones. Works in place."""
    numbers *= _SPREAD
    numbers ^= numbers >> _HALF
    numbers *= _MIX
    numbers ^= numbers >> _THIRD
    return numbers


def _numbers(column: pa.Array) -> _Numbers:
    """The values as new numbers, other ones for other values; any number where there is none."""
    kind = column.type
    if pa.types.is_string(kind):
        return _of_texts(column)
    if pa.types.is_list(kind):
        return _of_lists(column)
    if pa.types.is_decimal(kind):
        halves = np.frombuffer(column.buffers()[1], "<u8")
        halves = halves[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2)
        # The upper half only says the sign of what fits the lower one.
        return halves[:, 0] + halves[:, 1] * _SPREAD
    if pa.types.is_floating(kind):
        return (_buffer(column, np.float64) + 0.0).view(np.uint64)  # 0.0 and -0.0 are equal
    if pa.types.is_boolean(kind):
        return _bits(column, 1).astype(np.uint64)
    integers = _buffer(column, np.int32 if kind.bit_width == 32 else np.int64)
    return integers.astype(np.int64).view(np.uint64)


# Not by Arrow's own `to_numpy`, which loads pandas.


def _buffer(column: pa.Array, kind: Any) -> np.ndarray[tuple[int], np.dtype[Any]]:
    """The column's values, of any value where there is none."""
    return np.frombuffer(column.buffers()[1], kind)[column.offset : column.offset + len(column)]


def _bits(column: pa.Array, buffer: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """A buffer of bits as zeros and ones: 0, which values there are; 1, the values of booleans."""
    bits = np.frombuffer(column.buffers()[buffer], np.uint8)
    return np.unpackbits(bits, bitorder="little")[column.offset : column.offset + len(column)]


def _of_texts(column: pa.Array) -> _Numbers:
    """Texts by their UTF-8 bytes, eight at a time of all texts that are long enough."""
    offsets, used = _extents(column)
    starts, lengths = offsets[:-1], np.diff(offsets)
    data = column.buffers()[2]
    text = np.zeros(len(used) + 8, np.uint8)
    if data is not None:
        text[: len(used)] = np.frombuffer(data, np.uint8)[used.start : used.stop]
    # A word begins at every byte.
    words = np.ndarray(len(used) + 1, "<u8", buffer=text.data, strides=(1,))
    numbers = _mixed(lengths.astype(np.uint64))
    numbers = _mixed(numbers ^ (words[starts] & _WORD_MASKS[np.minimum(lengths, 8)]))
    done = 8
    while len(rest := np.flatnonzero(lengths > done)):
        mine = words[starts[rest] + done] & _WORD_MASKS[np.minimum(lengths[rest] - done, 8)]
        numbers[rest] = _mixed(numbers[rest] ^ mine)
        done += 8
    return numbers


def _of_lists(column: pa.Array) -> _Numbers:
    """Lists by their items and the places that they have."""
    offsets, used = _extents(column)
    items = column.values.slice(used.start, len(used))
    numbers = _numbers(items)
    if items.null_count:
        numbers[_bits(items, 0) == 0] = _NULL_ITEM
    lengths = np.diff(offsets)
    places = np.arange(len(numbers)) - np.repeat(offsets[:-1], lengths)
    numbers = _mixed(numbers + places.astype(np.uint64) * _SPREAD)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(numbers, dtype=np.uint64)])
    return sums[offsets[1:]] - sums[offsets[:-1]] + lengths.astype(np.uint64)


def _extents(column: pa.Array) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], range]:
    """Where each value begins and the last ends, from the first on, and what of the data is used at all."""
    if not len(column):
        return np.zeros(1, np.int64), range(0)
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return (offsets - first).astype(np.int64), range(first, last)

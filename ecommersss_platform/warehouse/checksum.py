"""Checksums of days: equal for equal rows, whatever their order, batches or warehouse.

A row's hash is computed from the names and values of its columns. A day's checksum is the sum of its rows'
hashes modulo 2**64. A change of one value always changes the sum, because each step from the value to the
sum is invertible. NULL adds nothing, so a day keeps its checksum when its table gains a column that is NULL
there. The checksum does not protect against forgery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from ecommersss_platform.contracts import PARTITION_COLUMN

_Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]

# Odd, so that multiplication is invertible. The bits are the golden ratio's and those of MurmurHash3's mixer.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_MIXER = np.uint64(0xFF51AFD7ED558CCD)
_HALF, _THIRD = np.uint64(32), np.uint64(29)
_NULL_ITEM = np.uint64(0xC4CEB9FE1A85EC53)
_WORD_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
"""For n = 0 to 8, the bits of the first n bytes of a word."""


class Checksums:
    """The running checksums of the days in a stream of batches with the column `partition_date`."""

    def __init__(self) -> None:
        self._sums: dict[date, int] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch whose columns have the types of `contracts.Type`. Rows without a day are ignored."""
        days = batch.column(PARTITION_COLUMN)
        if days.null_count:
            batch = batch.filter(days.is_valid())
        if not batch.num_rows:
            return
        numbers = _buffer(batch.column(PARTITION_COLUMN), np.int32)
        order = np.argsort(numbers, kind="stable")
        found, starts = np.unique(numbers[order], return_index=True)
        totals = np.add.reduceat(row_hashes(batch)[order], starts)
        for number, total in zip(found.tolist(), totals.tolist(), strict=True):
            day = date.fromordinal(_EPOCH + number)
            self._sums[day] = (self._sums.get(day, 0) + total) % 2**64

    def per_day(self, days: Iterable[date]) -> dict[date, str]:
        """Return each day's checksum in 16 hexadecimal digits; zeros for a day without rows."""
        return {day: f"{self._sums.get(day, 0):016x}" for day in days}


_EPOCH = date(1970, 1, 1).toordinal()


def checksums(rows: pa.RecordBatchReader, days: Iterable[date]) -> Mapping[date, str]:
    """Return the checksums of these days over the rows, such as those a warehouse returned."""
    found = Checksums()
    for batch in rows:
        found.add(batch)
    return found.per_day(days)


def row_hashes(batch: pa.RecordBatch) -> _Hashes:
    """Hash each row by the names and values of its columns."""
    total = np.zeros(batch.num_rows, np.uint64)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        hashes = _mix(_column_hashes(column) ^ _salt(name))
        if column.null_count:
            hashes *= _bits(column, 0)
        total += hashes
    return _mix(total)


def _salt(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


def _mix(numbers: _Hashes) -> _Hashes:
    """Map different numbers to different ones, near numbers far apart. Works in place."""
    numbers *= _SPREAD
    numbers ^= numbers >> _HALF
    numbers *= _MIXER
    numbers ^= numbers >> _THIRD
    return numbers


def _column_hashes(column: pa.Array) -> _Hashes:
    """Map values to numbers: different values to different ones, NULL to any."""
    kind = column.type
    if pa.types.is_string(kind):
        return _text_hashes(column)
    if pa.types.is_list(kind):
        return _list_hashes(column)
    if pa.types.is_decimal(kind):
        words = np.frombuffer(column.buffers()[1], "<u8")
        halves = words[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2)
        # Values fit the lower half, so the upper half holds only the sign.
        return halves[:, 0] + halves[:, 1] * _SPREAD
    if pa.types.is_floating(kind):
        return (_buffer(column, np.float64) + 0.0).view(np.uint64)  # 0.0 and -0.0 are equal
    if pa.types.is_boolean(kind):
        return _bits(column, 1).astype(np.uint64)
    integers = _buffer(column, np.int32 if kind.bit_width == 32 else np.int64)
    return integers.astype(np.int64).view(np.uint64)


def _buffer(column: pa.Array, kind: Any) -> np.ndarray[tuple[int], np.dtype[Any]]:
    """Return the column's values; NULL is any value. Arrow's own `to_numpy` would load pandas."""
    return np.frombuffer(column.buffers()[1], kind)[column.offset : column.offset + len(column)]


def _bits(column: pa.Array, buffer: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return a buffer of bits as zeros and ones. Buffer 0: not NULL; buffer 1: the values of booleans."""
    bits = np.frombuffer(column.buffers()[buffer], np.uint8)
    return np.unpackbits(bits, bitorder="little")[column.offset : column.offset + len(column)]


def _text_hashes(column: pa.Array) -> _Hashes:
    """Hash texts by their UTF-8 bytes: eight bytes at a time, of all texts that are long enough at once."""
    offsets, used = _extents(column)
    starts, lengths = offsets[:-1], np.diff(offsets)
    data = column.buffers()[2]
    text = np.zeros(len(used) + 8, np.uint8)
    if data is not None:
        text[: len(used)] = np.frombuffer(data, np.uint8)[used.start : used.stop]
    # A word begins at every byte.
    words = np.ndarray(len(used) + 1, "<u8", buffer=text.data, strides=(1,))
    hashes = _mix(lengths.astype(np.uint64))
    hashes = _mix(hashes ^ (words[starts] & _WORD_MASKS[np.minimum(lengths, 8)]))
    done = 8
    while len(rest := np.flatnonzero(lengths > done)):
        word = words[starts[rest] + done] & _WORD_MASKS[np.minimum(lengths[rest] - done, 8)]
        hashes[rest] = _mix(hashes[rest] ^ word)
        done += 8
    return hashes


def _list_hashes(column: pa.Array) -> _Hashes:
    """Hash lists by their items and the positions of these."""
    offsets, used = _extents(column)
    items = column.values.slice(used.start, len(used))
    hashes = _column_hashes(items)
    if items.null_count:
        hashes[_bits(items, 0) == 0] = _NULL_ITEM
    lengths = np.diff(offsets)
    positions = np.arange(len(hashes)) - np.repeat(offsets[:-1], lengths)
    hashes = _mix(hashes + positions.astype(np.uint64) * _SPREAD)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes, dtype=np.uint64)])
    return sums[offsets[1:]] - sums[offsets[:-1]] + lengths.astype(np.uint64)


def _extents(column: pa.Array) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], range]:
    """Return where each value begins and the last ends, relative to the first, and the range of data used."""
    if not len(column):
        return np.zeros(1, np.int64), range(0)
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return (offsets - first).astype(np.int64), range(first, last)

"""Keyed hashes of e-mail addresses: other systems with the key get the same."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ecommersss_platform.contracts import USERS
from ecommersss_platform.pseudonyms import add_keyed_hashes, keyed_hash

KEY = "a key that other systems share 01"
HASH = "970223615cce544a64a36782db818165fb8c23b57b714e25970a57519ea4cd87"
"""`printf siti.rahma@gmail.com | openssl dgst -sha256 -hmac "$KEY"` prints it."""


def test_hash_is_that_of_another_implementation() -> None:
    assert keyed_hash("siti.rahma@gmail.com", KEY) == HASH


@pytest.mark.parametrize("address", ["Siti.Rahma@Gmail.com", " siti.rahma@gmail.com\n"])
def test_case_and_space_around_an_address_change_no_hash(address: str) -> None:
    assert keyed_hash(address, KEY) == HASH


def test_another_address_or_another_key_has_another_hash() -> None:
    hashes = {keyed_hash(a, k) for a in ("é@ñ.com", "e@ñ.com", "a@b@c") for k in (KEY, KEY + "x", "ü" * 32)}
    assert len(hashes) == 9
    assert {len(str(one)) for one in hashes} == {64}


@pytest.mark.parametrize("text", ["", " ", "no address", "@", "@nobody.com", " @nobody.com"])
def test_text_that_is_no_address_has_no_hash(text: str) -> None:
    """Else all users without an address would be one person in a join."""
    assert keyed_hash(text, KEY) is None


def test_hashes_are_added_to_each_batch_of_rows() -> None:
    values = {"email": ["siti.rahma@gmail.com", "none"], "username": ["siti", "x"]}
    rows = pa.table(
        [pa.array(values.get(f.name, [None, None]), f.type) for f in USERS.source_schema],
        schema=pa.schema([f.with_nullable(True) for f in USERS.source_schema]),
    )
    reader = pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=1))
    added = add_keyed_hashes(reader, USERS, KEY)
    assert added.schema == USERS.arrow_schema
    found = added.read_all()
    assert found.column("email_hash").to_pylist() == [HASH, None]
    assert found.select(rows.column_names).to_pydict() == rows.to_pydict()

"""The usual forms of a database's address, and sentences for the others."""

from __future__ import annotations

import pytest
from psycopg2.extensions import parse_dsn
from sqlalchemy import make_url

from streaming.database.urls import normalised_url, pinned_url, same_database


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("postgresql://u:p@h:1/d", "postgresql://u:p@h:1/d"),
        (" postgres://u:p@h/d\n", "postgresql://u:p@h/d"),
        ("postgresql+psycopg2://u:p@h/d?sslmode=require", "postgresql://u:p@h/d?sslmode=require"),
        ("jdbc:postgresql://h:1/d?user=u&password=p", "postgresql://u:p@h:1/d"),
        ("host=h port=1 dbname=d user=u password='p w'", "postgresql://u:p%20w@h:1/d"),
        ("postgresql://u:p%40%2F%25@h/d", "postgresql://u:p%40%2F%25@h/d"),
        ("postgresql://u:p#1?@h/d", "postgresql://u:p%231%3F@h/d"),
        ("postgresql://u@[::1]:5432/d", "postgresql://u@[::1]:5432/d"),
        ("host=/run/postgresql port=1 dbname=d", "postgresql:///d?host=/run/postgresql&port=1"),
        ("postgresql://u@a:1,b:2/d", "postgresql://u@/d?host=a,b&port=1,2"),
        ("postgresql://h", "postgresql://h/"),
    ],
)
def test_usual_forms_become_one(address: str, expected: str) -> None:
    assert normalised_url(address) == expected
    assert normalised_url(expected) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("mysql://u:s3cret@h/d", "not the address of a PostgreSQL database: write postgresql://"),
        ("postgresql://u:s3cret@h/d?schema=public", "has no connection parameter schema: remove it"),
        ("host=h pasword=s3cret", "has no connection parameter pasword: remove it"),
        ("host=h password=my s3cret", "does not understand this address"),
        ("postgresql://u:a@s3cret@h/d", "does not understand this address"),
        ("postgresql://u:a/s3cret@h/d", "does not understand this address"),
        ("postgresql://u:s3cret%zz@h/d", "does not understand this address"),
        ("postgresql://u:s3cret@h:x/d", "does not understand this address"),
        ("postgresql://u:s3cret@h:65536/d", "from 1 to 65535"),
        ("s3cret", "does not understand this address"),
    ],
)
def test_other_addresses_are_refused_without_the_password(address: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as refused:
        normalised_url(address)
    assert "s3cret" not in str(refused.value)


def test_two_urls_of_one_database_are_recognised() -> None:
    url = normalised_url("postgresql://u:p@localhost/d")
    assert same_database(url, normalised_url("host=127.0.0.1 port=5432 dbname=d user=other"))
    assert not same_database(url, normalised_url("postgresql://u:p@localhost/e"))
    assert not same_database(url, normalised_url("postgresql://u:p@localhost:5433/d"))


def test_a_pinned_url_keeps_what_it_had_and_is_pinned_once() -> None:
    url = normalised_url("postgresql://u:p%40@/d?host=/run/postgresql&options=-c%20work_mem%3D5MB")
    pinned = pinned_url(url)
    assert pinned_url(pinned) == pinned
    assert parse_dsn(pinned_url(normalised_url(pinned))) == parse_dsn(pinned)
    query = make_url(pinned).query
    assert query["host"] == "/run/postgresql"
    assert str(query["options"]).startswith("-c work_mem=5MB -c timezone=UTC ")

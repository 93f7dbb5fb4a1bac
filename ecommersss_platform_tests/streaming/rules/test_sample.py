"""The random sample: the same in Python and both dialects of SQL, and independent of time and order."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from itertools import pairwise

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecommersss_platform_tests.support.plain_velocity import StoredInMemory
from ecommersss_platform_tests.support.shop import LONG_AGO, NOON, PRICE, order
from streaming.database.catalogue import Catalogue
from streaming.decisions import Candidate, decide_batch
from streaming.history import MemoryHistory
from streaming.orders import MAX_ID, encode
from streaming.rules import RuleBook
from streaming.rules.sample import draw, sample_sql, threshold

CONNECTION = duckdb.connect()


def python_of(sql: str) -> str:
    """Return the SQL of BigQuery as Python, which checks that no product needs more than 63 bits."""
    return re.sub(r"\b(mod|div)\(", r"\1_(", sql)


def mod_(a: int, b: int) -> int:
    assert 0 <= a < 2**63
    return a % b


def div_(a: int, b: int) -> int:
    assert 0 <= a < 2**63
    return a // b


@given(st.integers(1, MAX_ID), st.sampled_from(["0.001", "0.2", "0.5", "1", "0"]))
def test_sql_picks_the_same_orders(order_id: int, share: str) -> None:
    in_sample = draw(order_id) < threshold(Decimal(share))
    in_duckdb = CONNECTION.execute(
        f"SELECT {sample_sql('id', Decimal(share), 'duckdb')} FROM (SELECT ?::BIGINT AS id)", [order_id]
    ).fetchone()
    assert in_duckdb == (in_sample,)
    names = {"id": order_id, "mod_": mod_, "div_": div_}
    assert eval(python_of(sample_sql("id", Decimal(share), "bigquery")), names) == in_sample


@pytest.mark.parametrize("step", [1, 2, 1000, 4096, 2**12 * 60_000, 2**31 - 1])
@pytest.mark.parametrize("first", [1, 2**52])
def test_the_share_holds_for_ids_of_every_rhythm(step: int, first: int) -> None:
    """Compare the count with that of a fair draw, within five deviations."""
    ids = range(first, min(first + step * 20_000, MAX_ID), step)
    for share in (0.001, 0.01, 0.5):
        bound = threshold(Decimal(str(share)))
        picked = sum(draw(order_id) < bound for order_id in ids)
        assert abs(picked - share * len(ids)) < 5 * math.sqrt(len(ids) * share * (1 - share)) + 1


def test_neighbours_are_drawn_independently() -> None:
    """Of the ids that are in a sample of a tenth, a tenth have a successor that is in it, too."""
    bound = threshold(Decimal("0.1"))
    picked = [draw(order_id) < bound for order_id in range(10**15, 10**15 + 50_000)]
    both = sum(a and b for a, b in pairwise(picked))
    assert abs(both - 500) < 5 * math.sqrt(500)


def test_only_orders_that_pass_are_sampled() -> None:
    book = RuleBook.parse(
        "sample: 1\nrules:\n"
        "  - {name: abroad, description: d, mode: active, when: country <> 'ID'}\n"
        "  - {name: look, description: d, mode: review, when: quantity = 9}\n"
    )
    catalogue = Catalogue()
    catalogue.users, catalogue._prices = {1: LONG_AGO}, {1: ([LONG_AGO], [PRICE])}
    orders = [order(1), order(2, country="SG"), order(3, quantity=9)]
    batch = [Candidate(n, encode(o), o) for n, o in enumerate(orders)]
    found = []
    for rules in (book, RuleBook.parse(book.text.replace("sample: 1\n", ""))):
        history = MemoryHistory()
        history.load(StoredInMemory(), orders)
        decision = decide_batch(batch, {}, catalogue, history, rules, NOON)
        found.append([o.review_reasons for o in decision.orders])
    assert found == [[["random_sample"], [], ["look", "random_sample"]], [[], [], ["look"]]]

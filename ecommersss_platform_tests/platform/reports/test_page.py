"""The page of a day as text: what it says, and that no text from outside is anything but text."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from ecommersss_platform.days import Days
from ecommersss_platform.laboratory.parity import Parity
from ecommersss_platform.reconciliation import Comparison
from ecommersss_platform.reports.page import day_page, index_entry, index_page, spark
from ecommersss_platform.reports.serving import TEMPLATES, content_hash
from ecommersss_platform_tests.support.report_rows import (
    DAY_OF_REPORT,
    HOSTILE,
    NEXT_MORNING,
    differing,
    hostile_figures,
    report_figures,
    report_rows,
    rule_totals,
    without,
)

USUAL = report_rows()
DURING_THE_DAY = NEXT_MORNING - timedelta(hours=10)


class Page(HTMLParser):
    """The elements of a page, the attributes of each, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["script"], ["style"]):
            self.text += data


def test_hostile_texts_add_no_element_and_no_attribute() -> None:
    plain, page = Page(day_page(report_figures())), Page(day_page(hostile_figures()))
    assert set(page.tags) == set(plain.tags)
    assert page.tags.count("script") == plain.tags.count("script") == 1
    assert page.tags.count("style") == 1
    assert not {"img", "b", "a-of-others", "iframe", "foreignobject", "use"} & set(page.tags)
    assert [name for name, _ in page.attributes if name.startswith("on")] == []
    assert [name for name, _ in page.attributes if name == "style"] == [], "the policy forbids inline styles"


def test_hostile_texts_are_shown_and_never_obeyed() -> None:
    html = day_page(hostile_figures())
    text = Page(html).text
    for shown in ("<script>alert(1)</script>", "{{ 7 * 7 }}${7*7}", "\\u202eevil", "\\x1b[31m", "W" * 50):
        assert shown in text
    assert re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html.replace("\n", "")) == []


def test_only_what_we_wrote_or_drew_is_trusted() -> None:
    trusted = {
        found.strip()
        for template in TEMPLATES.glob("*.html")
        for found in re.findall(r"{{([^}]*)\|\s*safe\s*}}", template.read_text())
    }
    charts = {f"charts.{name}" for name in ("trend", "hours", "methods", "shares")}
    assert trusted == {"style", "script"} | charts


def test_the_policy_of_the_page_names_its_own_style_and_script() -> None:
    html = day_page(report_figures())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    for tag, name in (("style", "style.css"), ("script", "script.js")):
        [inner] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert content_hash(name) == f"'sha256-{digest}'"
        assert digest in policy[1].replace("&#43;", "+").replace("&#39;", "'")
    assert policy[1].startswith("default-src &#39;none&#39;")


def test_the_page_asks_nobody_for_anything() -> None:
    page = Page(day_page(report_figures(), "2026-11-24.html"))
    addresses = [value for name, value in page.attributes if name in ("src", "href", "action", "xlink:href")]
    assert addresses == ["index.html", "2026-11-24.html"]


@pytest.mark.parametrize(
    "changed",
    [
        {"rules": {}},
        {"rules": {}, "users": {}, "products": {}, "disputes": {}, "rejected": {}, "hours": {}},
        {"past": 0},
        {
            "summaries": {},
            "methods": {},
            "hours": {},
            "rules": {},
            "users": {},
            "products": {},
            "disputes": {},
            "loaded_at": {},
            "compared": Comparison({}, {}, {}),
        },
    ],
    ids=["no rules", "nothing but orders", "first day", "nothing at all"],
)
def test_a_page_without_figures_says_so(changed: dict[str, Any]) -> None:
    rows = report_rows(**changed)
    text = Page(day_page(report_figures(rows))).text
    assert [word for word in ("NaN", "nan %", "None", "inf", "undefined") if word in text] == []
    assert "Wednesday, 25 November 2026" in text
    if not rows.rules:
        assert "No rule flagged an order on this day or in the 28 days before." in text
    if not rows.summaries:
        assert "No orders were loaded for this day." in text


def test_an_empty_day_has_no_charts() -> None:
    empty = without(USUAL.summaries, DAY_OF_REPORT)
    page = Page(day_page(report_figures(summaries=empty, methods={}, rules={})))
    assert "There were no orders on this day." in page.text
    assert "svg" not in page.tags


def test_rules_show_their_precision_and_money_once_known() -> None:
    estimate = {"passed_fraud": 1200, "passed_fraud_low": 900, "passed_fraud_high": 1600}
    sample = rule_totals("random_sample") | {"passed_orders": 41_000, "sampled_orders": 400, **estimate}
    text = Page(day_page(report_figures(totals=[rule_totals(), sample]))).text
    assert "Of 41,000 orders of such days that passed, about 1,200 (900 to 1,600) were fraud." in text
    assert "random sample" not in Page(day_page(report_figures(totals=[rule_totals("random_sample")]))).text
    for shown in ("90.0 %", "85.0 to 93.0 %", "Rp 1.24 bn", "Genuine orders stopped", "Rp 50.0 m"):
        assert shown in text
    assert "Known so far" not in text
    unknown = Page(day_page(report_figures())).text
    assert "58 fraud, 29 genuine, 203 open" in unknown
    assert "precision is not known yet" in unknown


def test_users_are_shown_with_what_to_do() -> None:
    text = Page(day_page(report_figures())).text
    assert 'ecommersss lists add block 7 --reason "report of 2026-11-25"' in text
    assert "is on the block list" in text
    assert "add block 8" not in text


def test_the_review_queue_is_shown_as_it_was_at_the_end_of_the_day() -> None:
    text = " ".join(Page(day_page(report_figures())).text.split())
    assert (
        "At the end of the day 12 orders that passed wait for a person, Rp 34.5 m in all, the oldest since"
        " 21 Nov 2026, 03:02. Of this day's orders 5 went to review, and people decided about 3 orders."
        " ecommersss review list shows which ones wait now." in text
    )
    assert "new_account11Rp 33.0 m21 Nov 2026, 03:02" in text
    assert "So far 12 orders" in Page(day_page(report_figures(built_at=DURING_THE_DAY))).text
    nothing = " ".join(Page(day_page(report_figures(review=[]))).text.split())
    assert "Review No order waits for a person. Backtests" in nothing


def test_backtests_that_were_made_by_the_end_of_the_day_are_shown() -> None:
    text = " ".join(Page(day_page(report_figures())).text.split())
    row = (
        "25 Nov 2026, 03:02 my-rules.yml 0123456789abcdef 1 Oct to 31 Oct 600 550 25 Rp 250 m 75 Rp 41.0 m"
        " 87.5 % before: 80.0 %"
    )
    assert text.count("my-rules.yml") == 1
    assert row in text
    nothing = Page(day_page(report_figures(backtests=[]))).text
    assert "No rule book was backtested lately." in nothing


def test_parity_of_stream_and_warehouse_is_shown() -> None:
    def said(parity: Parity) -> str:
        return " ".join(Page(day_page(report_figures(parity=parity))).text.split())

    text = " ".join(Page(day_page(report_figures())).text.split())
    assert "2,000 orders get the verdict and the reasons that the stream stored. Can this" in text
    differs = said(differing(DAY_OF_REPORT, "fraud; active: wallet_limit"))
    assert (
        "Decided again in the warehouse, 1 order gets another verdict or other reasons than the stream"
        " stored, of 1,990. ecommersss rules parity --from 2026-11-25 --to 2026-11-25 shows more."
        " 10 more could not be compared." in differs
    )
    assert "fraud; active: wallet_limit" in differs
    nothing = Parity(Days.between(DAY_OF_REPORT, DAY_OF_REPORT), book_not_kept=2_000)
    assert "No order of this day could be decided again in the warehouse. Can this" in said(nothing)


def test_charts_have_a_text_alternative_and_a_table() -> None:
    page = Page(day_page(report_figures()))
    labels = [value or "" for name, value in page.attributes if name == "aria-label"]
    assert any("usually 0.44 % to" in label or "usually" in label for label in labels)
    assert "Flagged orders by hour of the day in Jakarta: most between 23 and 24 o'clock, 2 orders." in labels
    assert page.tags.count("details") == 3


def test_a_page_is_small() -> None:
    assert len(day_page(hostile_figures()).encode()) < 200_000


def test_index_lists_what_pages_say_of_themselves() -> None:
    entry = index_entry(report_figures())
    page = Page(index_page([entry, {**entry, "day": "2026-11-24", "note": HOSTILE[0]}]))
    assert [value for name, value in page.attributes if name == "href"] == [
        "2026-11-25.html",
        "2026-11-24.html",
    ]
    assert entry["orders"] == "2,000"
    assert "A usual day." in page.text
    assert "There is no report yet" in Page(index_page([])).text


def test_spark_has_a_line_for_each_stretch_without_a_gap() -> None:
    assert spark([1.0, 2.0, None, 0.0, 1.0]) == ["0.0,9.0 21.0,1.0", "63.0,17.0 84.0,9.0"]
    assert spark([None, 1.0, None]) == []
    assert spark([0.0, 0.0]) == ["0.0,17.0 84.0,17.0"]

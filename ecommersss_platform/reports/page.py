"""The HTML of the reports: one file without any other, whose style and script are named by their hashes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ecommersss_platform.reports import words
from ecommersss_platform.reports.figures import Figures, Number
from ecommersss_platform.reports.serving import TEMPLATES, content_hash, script_source
from ecommersss_platform.reports.usual import Standing
from ecommersss_platform.terminal import visible
from streaming.business_days import JAKARTA

if TYPE_CHECKING:
    from jinja2 import Environment

SECTIONS = ("trend", "methods", "rules", "review", "backtests", "users", "products", "lines", "parity")
"""The templates of a page below its numbers, in order."""

_SPARK_WIDTH, _SPARK_HEIGHT = 84, 18


def day_page(figures: Figures, earlier: str | None = None) -> str:
    """Return the page of a day. `earlier`: the file name of the page of the day before, if there is one."""
    from ecommersss_platform.reports import charts  # brings altair

    drawn = {}
    if figures.numbers:
        drawn = {
            "trend": charts.trend_svg(figures.trend),
            "hours": charts.hours_svg(figures.hours),
            "methods": charts.methods_svg(figures.methods),
        }
    return render(
        "day.html",
        figures=figures,
        earlier=earlier,
        sections=[f"{name}.html" for name in SECTIONS],
        charts=drawn,
        lead=lead(figures),
        entry=json.dumps(index_entry(figures)),
        method_name=charts.method_name,
    )


def index_page(entries: Sequence[dict[str, Any]]) -> str:
    """Return the index of the pages, from what `index_entry` said of each, newest first."""
    return render("index.html", entries=entries)


def index_entry(figures: Figures) -> dict[str, str]:
    """Return what the index says of a page: texts, by name."""
    texts = {number.name: number.text for number in figures.numbers}
    return {
        "day": figures.day.isoformat(),
        "title": words.long_day(figures.day),
        "orders": texts.get("Orders", words.NONE),
        "share": texts.get("Flagged as fraud", words.NONE),
        "flagged": texts.get("Value flagged", words.NONE),
        "note": lead(figures)[0],
    }


def lead(figures: Figures) -> list[str]:
    """Return the day in a few sentences: what is unusual first."""
    if not figures.numbers:
        if figures.loaded_at is None:
            return ["No orders were loaded for this day."]
        return ["There were no orders on this day."]
    sentences = []
    if not figures.over:
        up_to = (figures.loaded_at or figures.built_at).astimezone(JAKARTA)
        sentences.append(f"The day is not over: these are its orders up to {up_to:%H:%M}.")
    unusual = [it for it in figures.numbers if it.standing in (Standing.HIGH, Standing.LOW)]
    for number in unusual:
        sentences.append(f"{number.name}: {number.standing}, {number.text} (usually {number.range}).")
    odd = [rule for rule in figures.rules if rule.standing in (Standing.HIGH, Standing.LOW)]
    if not unusual and any(number.usual for number in figures.numbers):
        whole = "A usual day." if figures.over else "So far nothing is unusual."
        sentences.append("The totals are usual." if odd else whole)
    elif not unusual and figures.over:
        sentences.append("There are not enough earlier days yet to tell whether this one was usual.")
    for rule in odd[:3]:
        share, usual = words.percent(rule.share), words.percents(rule.usual.ends) if rule.usual else ""
        sentences.append(f"Rule {rule.name} flagged {share} of the orders, usually {usual}.")
    return sentences


def spark(values: Sequence[float | None]) -> list[str]:
    """Return the polylines (SVG points) of a row of values, one for each stretch without a gap."""
    most = max((value for value in values if value is not None), default=0) or 1
    step = _SPARK_WIDTH / max(1, len(values) - 1)
    lines: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            lines.append([])
        else:
            height = 1 + (_SPARK_HEIGHT - 2) * (1 - value / most)
            lines[-1].append(f"{place * step:.1f},{height:.1f}")
    return [" ".join(line) for line in lines if len(line) > 1]


def comparison(number: Number) -> str:
    """Return how a number compares with its usual range, in words."""
    if number.usual is None:
        return ""
    if number.standing is Standing.USUAL and number.usual.standing(number.value) is not Standing.USUAL:
        return f"as on this weekday; else {number.range}"
    return f"usually {number.range}"


def _finished(value: Any) -> Any:
    """Spell out the control characters of any text before it is escaped."""
    return visible(value) if type(value) is str else "" if value is None else value


@cache
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finished,
    )
    environment.filters.update(
        rupiah=words.rupiah,
        exact_rupiah=words.exact_rupiah,
        literal=words.literal,
        percent=words.percent,
        count=words.count,
        plural=words.plural,
        long_day=words.long_day,
        short_day=words.short_day,
        moment=words.moment,
        spark=spark,
        comparison=comparison,
        percents=words.percents,
    )
    style, script = (TEMPLATES / name for name in ("style.css", "script.js"))
    policy = f"default-src 'none'; style-src {content_hash(style.name)}; script-src {script_source()}"
    environment.globals.update(
        style=style.read_text(),
        script=script.read_text(),
        policy=policy,
    )
    return environment


def render(template: str, **values: Any) -> str:
    """Return a template of the folder `templates`, filled in."""
    return _environment().get_template(template).render(**values)

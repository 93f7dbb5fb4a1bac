"""The charts of a page as SVG without scripts: Vega-Lite by altair, drawn by vl-convert.

Colours are CSS variables of the page, so that a chart is light or dark as the page is. The page has the text
alternatives. Import this module where a chart is drawn: it brings altair.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from typing import Any

import altair as alt
import vl_convert

from ecommersss_platform.reports import words
from ecommersss_platform.reports.figures import Hour, Method, Trend
from ecommersss_platform.terminal import visible

WIDTH = 430
"""Pixels of a chart at its natural size, in which it is also shown on a phone."""
_ACCENT, _SOFT, _INK, _MUTED, _LINE = (
    "var(--accent)",
    "var(--soft)",
    "var(--ink)",
    "var(--muted)",
    "var(--line)",
)
_LABEL_PIXELS = 120

_CONFIG: dict[str, Any] = {
    "background": None,
    "aria": False,  # the page describes the chart as a whole
    "font": "sans-serif",
    "padding": 2,
    "view": {"stroke": None},
    "axis": {
        "labelColor": _MUTED,
        "titleColor": _MUTED,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "domainColor": _LINE,
        "tickColor": _LINE,
        "gridColor": _LINE,
        "labelLimit": _LABEL_PIXELS,
    },
}


def trend_svg(trend: Trend) -> str:
    """Draw the flagged share of each day, the usual range as a band, and the last day as a dot."""
    labels = [words.short_day(day) for day in trend.days]
    values = [{"day": label, "share": share} for label, share in zip(labels, trend.shares, strict=True)]
    across = alt.X("day:O", title=None, scale=alt.Scale(domain=labels), axis=_every_week(labels))
    up = alt.Y("share:Q", title=None, axis=alt.Axis(format=".1%", tickCount=4, domain=False, ticks=False))
    base = alt.Chart(alt.Data(values=values))
    layers: list[alt.Chart] = []
    if trend.usual:
        ends = [{"low": trend.usual.low, "high": trend.usual.high, "median": trend.usual.median}]
        band = alt.Chart(alt.Data(values=ends))
        layers.append(band.mark_rect(color=_SOFT).encode(y=alt.Y("low:Q", title=None), y2="high:Q"))
        layers.append(band.mark_rule(color=_MUTED, strokeDash=[2, 3]).encode(y="median:Q"))
    layers.append(base.mark_line(color=_INK, strokeWidth=1.5).encode(x=across, y=up))
    last = alt.Chart(alt.Data(values=values[-1:]))
    layers.append(last.mark_circle(color=_ACCENT, size=90, opacity=1).encode(x=across, y=up))
    return _svg(alt.layer(*layers), 170)


def before_and_after_svg(days: Sequence[date], before: Sequence[float], after: Sequence[float]) -> str:
    """Draw two flagged shares of each day: before as a thin line, after as one in the accent colour."""
    across = alt.X("day:T", title=None, axis=alt.Axis(tickCount=6, format="%-d %b", grid=False, domain=False))
    up = alt.Y("share:Q", title=None, axis=alt.Axis(format=".2%", tickCount=4, domain=False, ticks=False))
    lines = []
    for shares, colour in ((before, _MUTED), (after, _ACCENT)):
        values = [{"day": day.isoformat(), "share": it} for day, it in zip(days, shares, strict=True)]
        base = alt.Chart(alt.Data(values=values))
        lines.append(base.mark_line(color=colour, strokeWidth=1.5, point=len(days) == 1))
    return _svg(alt.layer(*(line.encode(x=across, y=up) for line in lines)), 170)


def _every_week(labels: Sequence[str]) -> alt.Axis:
    return alt.Axis(
        values=list(labels[::-7]), labelAngle=0, labelPadding=8, ticks=False, domain=False, grid=False
    )


def hours_svg(hours: Sequence[Hour]) -> str:
    """Draw the flagged orders of each hour as bars, and the usual number as a tick."""
    values = [{"hour": it.hour, "flagged": it.flagged, "usual": it.usual} for it in hours]
    axis = alt.Axis(values=[0, 6, 12, 18, 23], labelAngle=0, ticks=False, domain=False)
    across = alt.X("hour:O", title=None, axis=axis)
    up = alt.Axis(tickCount=4, tickMinStep=1, format=",d", domain=False, ticks=False)
    base = alt.Chart(alt.Data(values=values))
    bars = base.mark_bar(color=_ACCENT).encode(x=across, y=alt.Y("flagged:Q", title=None, axis=up))
    ticks = base.transform_filter("datum.usual != null").mark_tick(color=_INK, thickness=1.5)
    return _svg(alt.layer(bars, ticks.encode(x=across, y="usual:Q")), 170)


def methods_svg(methods: Sequence[Method]) -> str:
    """Draw the flagged orders of each payment method as bars, with their share of its orders beside."""
    values = [
        {
            "place": place,
            "method": method_name(it),
            "flagged": it.flagged,
            "text": f"{it.flagged:,} · {words.percent(it.share)}",
        }
        for place, it in enumerate(methods)
    ]
    # Two methods may have the same visible name: the place tells them apart, and the label is looked up.
    names = alt.Axis(
        labelExpr=f"{json.dumps([value['method'] for value in values])}[datum.value]",
        ticks=False,
        domain=False,
        labelPadding=6,
        labelColor=_INK,
    )
    down = alt.Y("place:O", title=None, axis=names)
    most = max((it.flagged for it in methods), default=0)
    across = alt.X("flagged:Q", title=None, axis=None, scale=alt.Scale(domain=[0, 1.45 * most or 1]))
    base = alt.Chart(alt.Data(values=values))
    bars = base.mark_bar(color=_ACCENT, height=14).encode(y=down, x=across)
    texts = base.mark_text(align="left", dx=5, color=_MUTED, fontSize=11).encode(
        y=down, x=across, text="text:N"
    )
    return _svg(alt.layer(bars, texts), max(60, 24 * len(values)))


def method_name(method: Method) -> str:
    """Return how a payment method is shown."""
    return words.plural(method.methods, "other method") if method.name is None else visible(method.name)


def _svg(chart: alt.LayerChart | alt.FacetChart, height: int) -> str:
    size = {"width": WIDTH, "height": height, "autosize": {"type": "fit", "contains": "padding"}}
    spec = chart.to_dict(validate=False) | size | {"config": _CONFIG}
    svg: str = vl_convert.vegalite_to_svg(spec)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)

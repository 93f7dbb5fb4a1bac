"""Draw bars on a logarithmic or linear scale as an SVG, which browsers and GitHub display."""

from __future__ import annotations

import math
from html import escape

_WIDTH, _LABELS, _BAR, _GAP = 760, 330, 18, 6
_COLOURS = {"ours": "#2f6fab", "peer": "#c0803a", "floor": "#8a8a8a"}


def panels(charts: list[tuple[str, bool, list[tuple[str, float, str]]]]) -> str:
    """Charts below each other: title, whether the scale is logarithmic, and bars (label, value, kind).

    A kind is "ours", "peer" or "floor".
    """
    parts, y = [], 0
    for title, logarithmic, bars in charts:
        y += 30
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{escape(title)}</text>')
        y += 12
        least, most = min(value for _, value, _ in bars) / 2, max(value for _, value, _ in bars)
        for label, value, kind in bars:
            share = math.log(value / least) / math.log(most / least) if logarithmic else value / most
            width = max(1.0, share * (_WIDTH - _LABELS - 90))
            shown = f"{value:,.{0 if value >= 100 else 1}f}"
            parts.append(
                f'<text x="{_LABELS - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>'
                f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{_COLOURS[kind]}"/>'
                f'<text x="{_LABELS + width + 6:.1f}" y="{y + 13}">{shown}</text>'
            )
            y += _BAR + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 10}"'
        ' font-family="sans-serif" font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )

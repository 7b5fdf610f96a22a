"""A bar chart as SVG: groups of bars on a logarithmic scale, nothing but text and rectangles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["bar_chart"]

_COLORS = ("#0b6e4f", "#4c78a8", "#f58518", "#b279a2", "#9d755d", "#e45756", "#72b7b2", "#7f7f7f")
_BAR, _GAP, _HEIGHT, _LEFT, _TOP = 15, 22, 260, 64, 76


def bar_chart(
    title: str, unit: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]
) -> str:
    """One group of bars per label, one bar per series.

    Args:
        title: Above the chart.
        unit: Of the values, at the axis.
        groups: Labels under the groups.
        series: Values by name, as many as groups; None leaves a gap. At least one above zero.

    Returns:
        The SVG document.
    """
    values = [v for row in series.values() for v in row if v]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values) * 1.01))
    group_width = len(series) * _BAR + _GAP
    width = max(_LEFT + len(groups) * group_width + 20, 640)

    def y(value: float) -> float:
        share = (math.log10(value) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return _TOP + _HEIGHT * (1 - share)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_TOP + _HEIGHT + 40}">',
        '<g font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{_TOP + _HEIGHT + 40}" fill="#fff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="12" y="{_TOP - 10}" fill="#555">{escape(unit)}</text>',
    ]
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = y(10.0**power)
        parts.append(
            f'<line x1="{_LEFT}" x2="{width - 12}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:,g}</text>'
        )
    for i, (name, row) in enumerate(series.items()):
        color = _COLORS[i % len(_COLORS)]
        start = 12 + i * (width - 24) / len(series)
        parts.append(
            f'<rect x="{start:.1f}" y="34" width="10" height="10" fill="{color}"/>'
            f'<text x="{start + 14:.1f}" y="43">{escape(name)}</text>'
        )
        for j, value in enumerate(row):
            if value:
                left = _LEFT + 8 + j * group_width + i * _BAR
                top = y(value)
                parts.append(
                    f'<rect x="{left}" y="{top:.1f}" width="{_BAR - 2}" '
                    f'height="{_TOP + _HEIGHT - top:.1f}" fill="{color}">'
                    f"<title>{escape(name)}, {escape(groups[j])}: {value:,.4g}</title></rect>"
                )
    for j, label in enumerate(groups):
        x = _LEFT + 8 + j * group_width + len(series) * _BAR / 2
        parts.append(
            f'<text x="{x:.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">'
            f"{escape(label)}</text>"
        )
    return "\n".join([*parts, "</g></svg>", ""])

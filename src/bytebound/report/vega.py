"""What every chart shares: its record, its look, and axes. Specifications are Vega-Lite in plain dictionaries.

Colours are CSS variables of the page, so that light, dark and print are the page's affair and need no second drawing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
PALETTE = [f"var(--c{i})" for i in range(12)]
INK, MUTED, LINE, BAD, GOOD = "var(--ink)", "var(--muted)", "var(--line)", "var(--bad)", "var(--good)"
POWERS = [10.0**power for power in range(-3, 19)]
FONT = "system-ui, sans-serif"

CONFIG: Spec = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "gridColor": LINE,
        "domainColor": LINE,
        "tickColor": LINE,
        "labelFontSize": 12,
        "titleFontSize": 12,
    },
    "legend": {"labelColor": INK, "titleColor": MUTED, "labelFontSize": 12, "symbolStrokeWidth": 3, "labelLimit": 220},
    "header": {"labelColor": INK, "titleColor": MUTED},
    "range": {"category": PALETTE},
    "text": {"color": INK},
}
"""How every chart looks; given to the embedder once."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: its specification and, in words and numbers, what it shows."""

    id: str
    title: str
    description: str
    spec: Spec
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def brief(value: float) -> float | None:
    """Return ``value`` with four significant digits (None unless finite), to keep the page small."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def frame(*, height: int, **parts: Any) -> Spec:
    """Return a specification as wide as its container."""
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        **parts,
    }


def month_axis(count: int) -> Spec:
    """Return the x channel of months, labelled about six times."""
    axis = {"format": "%b %y", "title": None, "grid": False, "tickCount": min(count, 6), "labelFlush": True}
    return {"field": "month", "type": "temporal", "scale": {"type": "utc"}, "axis": axis}


def unrolled(*names: str) -> list[Spec]:
    """Return the transforms that turn one row of lists into one row a month."""
    return [{"flatten": ["m", *names]}, {"calculate": "utcParse(datum.m, '%Y-%m')", "as": "month"}]

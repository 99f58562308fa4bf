"""Charts as Vega-Lite specifications in plain dictionaries, each with its data as a table for people who cannot see it.

Colours are CSS variables of the page, so that light, dark and print are the page's affair and need no second drawing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bytebound.report.words import clean, month_name, percent, saving, state_of
from bytebound.units import show_rate, significant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bytebound.documents.audit import Audit, Fix, Headroom, PoolAudit, RooflinePoint, WorkloadAudit

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
PALETTE = [f"var(--c{i})" for i in range(10)]
INK, MUTED, LINE, BAD, GOOD = "var(--ink)", "var(--muted)", "var(--line)", "var(--bad)", "var(--good)"
ALL_TOGETHER = "all together"
LOWEST, HIGHEST = 0.25, 16.0
SHOWN_FIXES = 16
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


def _ratio(values: Iterable[float]) -> list[float | None]:
    """Supply over need, kept inside what a logarithm can show."""
    return [brief(min(max(1 + value, 1e-3), 1e6)) if not math.isnan(value) else None for value in values]


def _band(name: str, band: Headroom, months: Sequence[str]) -> Spec:
    return {"r": name, "m": list(months), "lo": _ratio(band.p10), "mid": _ratio(band.p50), "hi": _ratio(band.p90)}


def _range(band: Headroom, month: int) -> str:
    low, middle, high = (percent(part[month], signed=True) for part in (band.p10, band.p50, band.p90))
    return f"{middle} ({low} to {high})"


def headroom_chart(workload: WorkloadAudit, months: Sequence[str], *, place: int) -> Chart:
    """Return month-by-month headroom of one workload: all together as a band, each resource as a line."""
    bands = {clean(name): band for name, band in workload.by_resource.items()}
    data = [_band(ALL_TOGETHER, workload.headroom, months), *(_band(n, b, months) for n, b in bands.items())]
    lowest = min((x for row in data for x in row["lo"] if x is not None), default=1.0)
    highest = max((x for x in data[0]["hi"] if x is not None), default=2.0)
    domain = [min(max(lowest, LOWEST) * 0.9, 0.7), max(min(highest, HIGHEST) * 1.25, 4.0)]
    label = (
        "datum.value < 1 ? '−' + format(1 - datum.value, '.0%') : datum.value == 1 ? 'need' : "
        "datum.value < 11 ? '+' + format(datum.value - 1, '.0%') : '×' + datum.value"
    )
    y = {
        "type": "quantitative",
        "scale": {"type": "log", "base": 2, "domain": domain, "nice": False, "clamp": False},
        "axis": {"values": [0.25, 0.5, 1, 2, 4, 8, 16], "labelExpr": label, "title": "headroom"},
    }
    x = month_axis(len(months))
    names = [ALL_TOGETHER, *bands]
    colour = {
        "field": "r",
        "type": "nominal",
        "scale": {"domain": names, "range": [INK, *PALETTE[: len(bands)]]},
        "legend": {"title": None, "orient": "bottom", "columns": 3, "symbolType": "stroke"},
    }
    picked = {"condition": {"param": "pick", "value": 1}, "value": 0.15}
    tip = [
        {"field": "r", "title": "resource"},
        {"field": "month", "type": "temporal", "format": "%b %Y", "title": "month", "timeUnit": "utcyearmonth"},
        {"field": "midh", "format": "+.0%", "title": "median headroom"},
        {"field": "loh", "format": "+.0%", "title": "10 % of draws below"},
        {"field": "hih", "format": "+.0%", "title": "90 % of draws below"},
    ]
    spec = frame(
        height=230,
        data={"values": data},
        transform=[
            *unrolled("lo", "mid", "hi"),
            *({"calculate": f"datum.{name} - 1", "as": f"{name}h"} for name in ("lo", "mid", "hi")),
        ],
        layer=[
            {
                "data": {"values": [{}]},
                "mark": {"type": "rect", "color": BAD, "opacity": 0.08, "clip": True},
                "encoding": {"y": {"datum": domain[0], **y}, "y2": {"datum": 1}},
            },
            {
                "params": [{"name": "pick", "select": {"type": "point", "fields": ["r"]}, "bind": "legend"}],
                "mark": {"type": "area", "clip": True},
                "encoding": {
                    "x": x,
                    "y": {"field": "lo", **y},
                    "y2": {"field": "hi"},
                    "color": colour,
                    "opacity": {
                        "condition": [
                            {"test": {"and": [{"param": "pick", "empty": False}]}, "value": 0.3},
                            {"test": f"datum.r === '{ALL_TOGETHER}' && !length(data('pick_store'))", "value": 0.16},
                        ],
                        "value": 0,
                    },
                },
            },
            {
                "mark": {"type": "line", "clip": True, "interpolate": "monotone"},
                "encoding": {
                    "x": x,
                    "y": {"field": "mid", **y},
                    "color": colour,
                    "opacity": picked,
                    "strokeWidth": {"condition": {"test": f"datum.r === '{ALL_TOGETHER}'", "value": 3}, "value": 1.5},
                },
            },
            {
                "data": {"values": [{}]},
                "mark": {"type": "rule", "color": BAD, "strokeWidth": 1.5, "strokeDash": [5, 3]},
                "encoding": {"y": {"datum": 1, **y}},
            },
            {
                "mark": {"type": "point", "clip": True, "size": 90, "filled": True, "opacity": 0},
                "encoding": {"x": x, "y": {"field": "mid", **y}, "tooltip": tip},
            },
        ],
    )
    rows = tuple(
        (
            month_name(month),
            _range(workload.headroom, i),
            *(percent(band.p50[i], signed=True) for band in bands.values()),
        )
        for i, month in enumerate(months)
    )
    return Chart(
        id=f"headroom-{place}",
        title=clean(workload.name),
        description=f"Headroom of {clean(workload.name)} by month; below zero it starves.",
        spec=spec,
        columns=("month", "all together, median (10 to 90 %)", *(f"{name}, median" for name in bands)),
        rows=rows,
        note=state_of(workload),
    )


def roofline_chart(points: Sequence[RooflinePoint], *, chart_id: str = "roofline") -> Chart:
    """Return every phase of every workload as a point under its device's roof, on logarithmic axes."""
    good = [p for p in points if min(p.intensity, p.flop_per_s, p.roof_bytes_per_s, p.roof_flop_per_s) > 0]
    low = min([p.intensity for p in good] + [p.roof_flop_per_s / p.roof_bytes_per_s for p in good], default=1.0) / 3
    high = max([p.intensity for p in good] + [p.roof_flop_per_s / p.roof_bytes_per_s for p in good], default=1e3) * 3
    roofs = sorted({(clean(p.device), p.roof_bytes_per_s, p.roof_flop_per_s) for p in good})
    many = {name for name, _, _ in roofs if sum(name == other for other, _, _ in roofs) > 1}
    lines = []
    for name, bytes_per_s, flop_per_s in roofs:
        label = f"{name} at {show_rate(flop_per_s, 'FLOP/s')}" if name in many else name
        ridge = flop_per_s / bytes_per_s
        corners = ((low, low * bytes_per_s), (ridge, flop_per_s), (high, flop_per_s))
        lines += [{"roof": label, "i": brief(x), "f": brief(y), "end": x == high} for x, y in corners]
    dots = [
        {
            "w": clean(p.workload),
            "p": clean(p.phase),
            "d": clean(p.device),
            "i": brief(p.intensity),
            "f": brief(p.flop_per_s),
            "of": brief(p.flop_per_s / min(p.roof_flop_per_s, p.intensity * p.roof_bytes_per_s)),
        }
        for p in good
    ]
    x = {
        "field": "i",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [brief(low), brief(high)], "nice": False},
        "axis": {"title": "intensity, FLOP per byte", "tickCount": 5, "format": "~s"},
    }
    y = {
        "field": "f",
        "type": "quantitative",
        "scale": {"type": "log", "nice": True, "zero": False},
        "axis": {"title": "reached, FLOP/s per device", "tickCount": 5, "format": "~s"},
    }
    names = list(dict.fromkeys(dot["w"] for dot in dots))
    dim = {"condition": {"param": "pick", "value": 1}, "value": 0.1}
    spec = frame(
        height=420,
        layer=[
            {
                "data": {"values": lines},
                "mark": {"type": "line", "color": MUTED, "strokeWidth": 1.5},
                "encoding": {
                    "x": x,
                    "y": y,
                    "detail": {"field": "roof"},
                    "tooltip": [{"field": "roof", "title": "roof"}],
                },
            },
            {
                "data": {"values": [line for line in lines if line["end"]]},
                "mark": {"type": "text", "align": "right", "dy": -7, "color": MUTED, "fontSize": 11},
                "encoding": {"x": x, "y": y, "text": {"field": "roof"}},
            },
            {
                "data": {"values": dots},
                "params": [{"name": "pick", "select": {"type": "point", "fields": ["w"]}, "bind": "legend"}],
                "mark": {"type": "point", "filled": True, "size": 110, "stroke": "var(--paper)", "strokeWidth": 1},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": {
                        "field": "w",
                        "type": "nominal",
                        "scale": {"domain": names, "range": PALETTE},
                        "legend": {"title": None, "orient": "bottom", "columns": 3, "symbolType": "circle"},
                    },
                    "shape": {
                        "field": "p",
                        "type": "nominal",
                        "legend": {
                            "title": None,
                            "orient": "top",
                            "symbolFillColor": MUTED,
                            "symbolStrokeColor": MUTED,
                        },
                    },
                    "opacity": dim,
                    "tooltip": [
                        {"field": "w", "title": "workload"},
                        {"field": "p", "title": "phase"},
                        {"field": "d", "title": "device"},
                        {"field": "i", "title": "FLOP per byte", "format": ".3s"},
                        {"field": "f", "title": "FLOP/s", "format": ".3s"},
                        {"field": "of", "title": "of its roof", "format": ".0%"},
                    ],
                },
            },
        ],
    )
    rows = tuple(
        (
            clean(p.workload),
            clean(p.phase),
            clean(p.device),
            significant(p.intensity),
            show_rate(p.flop_per_s, "FLOP/s"),
        )
        for p in good
    )
    return Chart(
        id=chart_id,
        title="Roofline",
        description="Arithmetic intensity against the rate reached, with the roof of each device.",
        spec=spec,
        columns=("workload", "phase", "device", "FLOP per byte", "reached per device"),
        rows=rows,
    )


def best_fixes(audit: Audit) -> list[tuple[WorkloadAudit, Fix]]:
    """Return the fix each workload should try first, where its price is known; the largest saving first."""
    found = []
    for workload in audit.workloads:
        helping = [f for status in ("recommended", "helps") for f in workload.fixes if f.status == status]
        found += [(workload, fix) for fix in helping[:1] if fix.usd_per_month is not None]
    return sorted(found, key=lambda pair: pair[1].usd_per_month or 0.0)[:SHOWN_FIXES]


def fixes_chart(audit: Audit) -> Chart:
    """Return the first fix of each workload as a bar: money saved a month to the right, spent to the left."""
    pairs = best_fixes(audit)
    data = [
        {
            "key": f"{place:02d}",
            "label": f"{clean(workload.name)}: {clean(fix.title)}",
            "saved": brief(-(fix.usd_per_month or 0.0)),
            "words": saving(fix.usd_per_month),
            "effect": None if fix.effect is None else brief(fix.effect),
        }
        for place, (workload, fix) in enumerate(pairs)
    ]
    y = {"field": "key", "type": "nominal", "axis": None, "sort": None}
    spec = frame(
        height=max(46 * len(data), 60),
        data={"values": data},
        layer=[
            {
                "mark": {"type": "bar", "height": 12, "yOffset": 10, "cornerRadius": 2},
                "encoding": {
                    "y": y,
                    "x": {
                        "field": "saved",
                        "type": "quantitative",
                        "scale": {"type": "symlog", "constant": 500, "nice": False},
                        "axis": {"title": "saved a month, US dollars", "format": "$~s", "grid": True, "tickCount": 5},
                    },
                    "color": {"condition": {"test": "datum.saved < 0", "value": "var(--warn)"}, "value": GOOD},
                    "tooltip": [
                        {"field": "label", "title": "fix"},
                        {"field": "words", "title": "bill"},
                        {"field": "effect", "title": "throughput ×", "format": ".2f"},
                    ],
                },
            },
            {
                "transform": [{"calculate": "datum.label + ' · ' + datum.words", "as": "line"}],
                "mark": {"type": "text", "align": "left", "baseline": "bottom", "dy": 1, "fontSize": 12, "limit": 900},
                "encoding": {"y": y, "x": {"value": 0}, "text": {"field": "line"}},
            },
        ],
    )
    rows = tuple(
        (
            clean(w.name),
            clean(f.title),
            saving(f.usd_per_month),
            "–" if f.effect is None else f"×{significant(f.effect)}",
        )
        for w, f in pairs
    )
    return Chart(
        id="fixes",
        title="What to do first",
        description="Money saved each month by the first fix of each workload.",
        spec=spec,
        columns=("workload", "fix", "bill", "throughput"),
        rows=rows,
    )


def pool_chart(pool: PoolAudit, months: Sequence[str], *, place: int) -> Chart:
    """Return devices of one pool by month against how many of them the workloads need."""
    data = [
        {
            "m": list(months),
            "have": [brief(v) for v in pool.devices_by_month],
            "lo": [brief(v) for v in pool.needed.p10],
            "mid": [brief(v) for v in pool.needed.p50],
            "hi": [brief(v) for v in pool.needed.p90],
        }
    ]
    x = month_axis(len(months))
    top = max([*pool.devices_by_month, *pool.needed.p50, 1.0]) * 1.3
    y = {"type": "quantitative", "scale": {"domain": [0, brief(top)]}, "axis": {"title": "devices", "tickCount": 4}}
    tip = [
        {"field": "month", "type": "temporal", "timeUnit": "utcyearmonth", "format": "%b %Y", "title": "month"},
        {"field": "have", "title": "in the pool", "format": ",.4~g"},
        {"field": "mid", "title": "needed, median", "format": ",.3~g"},
        {"field": "lo", "title": "needed, 10 %", "format": ",.3~g"},
        {"field": "hi", "title": "needed, 90 %", "format": ",.3~g"},
    ]
    spec = frame(
        height=190,
        data={"values": data},
        transform=unrolled("have", "lo", "mid", "hi"),
        layer=[
            {
                "mark": {"type": "area", "color": PALETTE[0], "opacity": 0.22, "clip": True},
                "encoding": {"x": x, "y": {"field": "lo", **y}, "y2": {"field": "hi"}},
            },
            {
                "mark": {"type": "line", "color": PALETTE[0], "strokeWidth": 2.5, "clip": True},
                "encoding": {"x": x, "y": {"field": "mid", **y}},
            },
            {
                "mark": {"type": "line", "color": INK, "strokeWidth": 2, "interpolate": "step-after", "clip": True},
                "encoding": {"x": x, "y": {"field": "have", **y}},
            },
            {
                "mark": {"type": "rule", "opacity": 0.001, "strokeWidth": 14},
                "encoding": {"x": x, "tooltip": tip},
            },
        ],
    )
    rows = tuple(
        (
            month_name(month),
            significant(pool.devices_by_month[i]),
            f"{significant(pool.needed.p50[i])} ({significant(pool.needed.p10[i])} to {significant(pool.needed.p90[i])})",
        )
        for i, month in enumerate(months)
    )
    return Chart(
        id=f"pool-{place}",
        title=f"{clean(pool.name)} · {clean(pool.device)}",
        description=f"Devices in pool {clean(pool.name)} against devices needed, by month.",
        spec=spec,
        columns=("month", "in the pool", "needed, median (10 to 90 %)"),
        rows=rows,
    )

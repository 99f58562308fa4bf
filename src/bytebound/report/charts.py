"""The charts of an audit, each with its data as a table for people who cannot see it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bytebound.report.vega import BAD, GOOD, INK, PALETTE, Chart, Spec, brief, frame, month_axis, unrolled
from bytebound.report.words import clean, month_name, percent, saving, state_of
from bytebound.units import significant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bytebound.documents.audit import Audit, Fix, Headroom, PoolAudit, WorkloadAudit

OVERALL = "overall"
RESOURCES = ("capacity", "memory-bandwidth", "compute", "links", "overhead", "objective", "devices", "budget", "power")
LOWEST, HIGHEST = 0.25, 16.0
SHOWN_FIXES = 16


def _ratio(values: Iterable[float]) -> list[float | None]:
    """Supply over need, kept inside what a logarithm can show."""
    return [brief(min(max(1 + value, 1e-3), 1e6)) if not math.isnan(value) else None for value in values]


def _band(name: str, band: Headroom, months: Sequence[str]) -> Spec:
    return {"r": name, "m": list(months), "lo": _ratio(band.p10), "mid": _ratio(band.p50), "hi": _ratio(band.p90)}


def _colour(resource: str) -> str:
    """The same resource has the same colour in every chart."""
    return PALETTE[RESOURCES.index(resource) if resource in RESOURCES else -1]


def _range(band: Headroom, month: int) -> str:
    low, middle, high = (percent(part[month], signed=True) for part in (band.p10, band.p50, band.p90))
    return f"{middle} ({low} to {high})"


def headroom_chart(workload: WorkloadAudit, months: Sequence[str], *, place: int) -> Chart:
    """Return month-by-month headroom of one workload: overall as a band, each resource as a line."""
    bands = {clean(name): band for name, band in workload.by_resource.items()}
    data = [_band(OVERALL, workload.headroom, months), *(_band(n, b, months) for n, b in bands.items())]
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
    names = [OVERALL, *bands]
    colour = {
        "field": "r",
        "type": "nominal",
        "scale": {"domain": names, "range": [INK, *(_colour(name) for name in bands)]},
        "legend": {"title": None, "orient": "bottom", "symbolType": "stroke", "symbolOpacity": 1},
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
        height=300,
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
                            {"test": f"datum.r === '{OVERALL}' && !length(data('pick_store'))", "value": 0.16},
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
                    "strokeWidth": {"condition": {"test": f"datum.r === '{OVERALL}'", "value": 3}, "value": 1.5},
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
        columns=("month", f"{OVERALL}, median (10 to 90 %)", *(f"{name}, median" for name in bands)),
        rows=rows,
        note=state_of(workload),
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
                        "scale": {"nice": False},
                        "axis": {"title": "saved a month, US dollars", "format": "$.2~s", "tickCount": 5},
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
                "transform": [{"calculate": "datum.words + ' · ' + datum.label", "as": "line"}],
                "mark": {
                    "type": "text",
                    "align": "left",
                    "baseline": "bottom",
                    "dy": 1,
                    "fontSize": 12,
                    "limit": {"expr": "width"},
                },
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

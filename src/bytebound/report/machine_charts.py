"""The charts of a measured machine: the cache ladder, waiting times, and the spread of every ceiling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bytebound.report.plot import axis, bare
from bytebound.report.readings import TELLING, called, ladders, levels, place_of, size_of, spread_out, unit_of
from bytebound.report.vega import INK, MUTED, PALETTE, Chart, Spec, brief, frame
from bytebound.report.words import clean, quantity, span_of
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bytebound.documents.measurement import Measured, Reading

MOST_SERIES = 8
SIZE_LABEL = (
    "datum.value < 1048576 ? datum.value / 1024 + ' KiB' : datum.value < 1073741824 ? datum.value / 1048576 + ' MiB'"
    " : datum.value / 1073741824 + ' GiB'"
)


def ladder_charts(measured: Measured) -> list[Chart]:
    """Return reading by thread count, then every kernel with all threads, then latency: what was measured of them."""
    found = ladders(measured)
    charts = []
    reads = found.get("memory.read", {})
    if reads:
        shown = {at or "read": reads[at] for at in spread_out(list(reads), MOST_SERIES)}
        charts.append(_ladder("ladder", "Reading, by working set and threads", shown, measured))
    rates = {n: s for n, s in found.items() if next(iter(s.values()))[0].unit == "B/s"}
    if len(rates) > 1:
        most = {called(name): next(iter(series.values())) for name, series in rates.items()}
        where = place_of(next(iter(most.values()))[0], TELLING)
        charts.append(_ladder("kernels", f"Each kernel{f', {where}' if where else ''}", most, measured))
    waits = {n: s for n, s in found.items() if next(iter(s.values()))[0].unit == "s"}
    if waits:
        each = {f"{called(name)}, {at}": r for name, series in waits.items() for at, r in series.items()}
        charts.append(_ladder("latency", "Waiting for one random read", each, measured))
    return charts


def _ladder(chart_id: str, title: str, series: Mapping[str, Sequence[Reading]], measured: Measured) -> Chart:
    unit = next(iter(series.values()))[0].unit
    rows: list[Spec] = [
        {
            "s": name,
            "b": size_of(r),
            "r": brief(r.best),
            "lo": brief(max(r.p10, r.best / 1e3)),
            "hi": brief(r.p90),
            "words": quantity(r.best, r.unit),
            "span": span_of(r.p10, r.p90, r.unit),
            "size": bare(show_capacity(size_of(r))),
        }
        for name, readings in series.items()
        for r in readings
    ]
    low, high = min(row["b"] for row in rows), max(row["b"] for row in rows)
    powers = [2.0**p for p in range(10, 50, 2) if low <= 2.0**p <= high]
    bottom = min(min(r.best, r.p10, r.p90) for readings in series.values() for r in readings if r.p10 > 0)
    top = max(max(r.best, r.p90) for readings in series.values() for r in readings)
    values = [value for value, _ in axis((bottom / 1.1, top * 1.3), str).ticks[0]]
    title_y, scale = ("ns", 1e-9) if unit == "s" else ("TB/s", 1e12) if top > 2e12 else ("GB/s", 1e9)
    x: Spec = {
        "field": "b",
        "type": "quantitative",
        "scale": {"type": "log", "base": 2, "domain": [low, high], "nice": False},
        "axis": {
            "values": powers,
            "labelExpr": SIZE_LABEL,
            "title": "working set of all threads",
            "labelOverlap": True,
        },
    }
    y: Spec = {
        "field": "r",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [brief(bottom / 1.1), brief(top * 1.3)], "nice": False},
        "axis": {"title": title_y, "values": values, "labelExpr": f"format(datum.value / {scale}, '~g')"},
    }
    colour: Spec = {
        "field": "s",
        "type": "nominal",
        "scale": {"domain": list(series), "range": PALETTE},
        "legend": {"title": None, "orient": "bottom", "symbolType": "stroke", "symbolOpacity": 1},
    }
    tip = [
        {"field": "s", "title": "series"},
        {"field": "size", "title": "working set"},
        {"field": "words", "title": "best"},
        {"field": "span", "title": "10–90 %"},
    ]
    edges: list[Spec] = [{"b": c.bytes, "name": clean(c.name)} for c in levels(measured) if low < c.bytes < high]
    at_edge: Spec = {"x": {**x, "field": "b"}}
    layers: list[Spec] = [
        {
            "data": {"values": edges},
            "mark": {"type": "rule", "color": MUTED, "strokeDash": [3, 3]},
            "encoding": at_edge,
        },
        {
            "data": {"values": edges},
            "mark": {"type": "text", "align": "right", "dx": -4, "baseline": "top", "color": MUTED, "fontSize": 11},
            "encoding": {**at_edge, "y": {"value": 0}, "text": {"field": "name"}},
        },
        {
            "mark": {"type": "area", "opacity": 0.15, "clip": True},
            "encoding": {"x": x, "y": {**y, "field": "lo"}, "y2": {"field": "hi"}, "color": colour},
        },
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"x": x, "y": y, "color": colour}},
        {
            "mark": {"type": "point", "filled": True, "size": 40},
            "encoding": {"x": x, "y": y, "color": colour, "tooltip": tip},
        },
    ]
    return Chart(
        id=chart_id,
        title=title,
        description="Best of the samples, with the 10 to 90 % band, by working set; dashed lines are measured cache edges.",
        spec=frame(height=340, data={"values": rows}, layer=layers if edges else layers[2:]),
        columns=("series", "working set", "best", "10–90 %"),
        rows=tuple((row["s"], row["size"], row["words"], row["span"]) for row in rows),
    )


def spread_chart(rows: Sequence[tuple[str, Reading]]) -> Chart:
    """Return the median and 10–90 % of every ceiling as a share of its best: how quiet the machine was."""
    data: list[Spec] = []
    for name, r in rows:
        if r.best > 0 and r.samples > 1:
            shares = [r.best / v if r.unit == "s" else v / r.best for v in (r.p10, r.median, r.p90) if v > 0]
            if len(shares) == 3 and all(map(math.isfinite, shares)):
                low, high = sorted((shares[0], shares[2]))
                words = f"{quantity(r.median, unit_of(r))} ({span_of(r.p10, r.p90, unit_of(r))})"
                data.append({"n": name, "lo": brief(low), "m": brief(shares[1]), "hi": brief(high), "words": words})
    y: Spec = {
        "field": "n",
        "type": "nominal",
        "sort": None,
        "axis": {"title": None, "ticks": False, "domain": False, "labelLimit": 190},
    }
    x: Spec = {
        "type": "quantitative",
        "scale": {"zero": False},
        "axis": {"title": "share of the best", "format": ".0%"},
    }
    tip = [{"field": "n", "title": "ceiling"}, {"field": "words", "title": "median (10–90 %)"}]
    return Chart(
        id="spread",
        title="How steady each ceiling was",
        description="Median (dot) and 10 to 90 % of the samples (bar) as a share of the best.",
        spec=frame(
            height=22 * len(data) + 50,
            data={"values": data},
            layer=[
                {
                    "mark": {"type": "bar", "height": 7, "color": MUTED, "opacity": 0.45, "cornerRadius": 3},
                    "encoding": {"y": y, "x": {**x, "field": "lo"}, "x2": {"field": "hi"}, "tooltip": tip},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 60, "color": INK},
                    "encoding": {"y": y, "x": {**x, "field": "m"}, "tooltip": tip},
                },
            ],
        ),
        columns=("ceiling", "median (10–90 %)"),
        rows=tuple((str(row["n"]), str(row["words"])) for row in data),
    )

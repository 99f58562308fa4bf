"""The charts of an estimate: what fills memory, what takes the time, what would help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.report.terminal_estimate import memory_rows, time_rows
from bytebound.report.vega import BAD, GOOD, LINE, PALETTE, Chart, Spec, brief, frame
from bytebound.report.words import clean, first, percent
from bytebound.units import GIB, show_capacity, show_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.estimate import Estimate
    from bytebound.documents.values import Number

SPARE = ("free", "missing")


def memory_chart(estimate: Estimate) -> Chart:
    """Return what fills the fullest device's memory as one bar."""
    parts = memory_rows(estimate)
    if parts[-1][1] < 0:
        parts[-1] = ("missing", -parts[-1][1])
    names = [name for name, _ in parts]
    held = parts if names[-1] == "free" else parts[:-1]
    usable = first(estimate.memory.usable_bytes)
    data = [{"part": name, "gib": brief(value / GIB), "words": show_capacity(value)} for name, value in held]
    limit: Spec = {
        "data": {"values": [{"usable": brief(usable / GIB), "words": f"usable {show_capacity(usable)}"}]},
        "layer": [
            {
                "mark": {"type": "rule", "color": BAD, "strokeWidth": 2},
                "encoding": {"x": {"field": "usable", "type": "quantitative"}},
            },
        ],
    }
    bar: Spec = {
        "mark": {"type": "bar", "height": 34},
        "encoding": {
            "x": {
                "field": "gib",
                "type": "quantitative",
                "stack": "zero",
                "axis": {"title": "GiB per device", "tickCount": 6},
            },
            "order": {"field": "place"},
            "color": _legend(names if names[-1] == "free" else names[:-1]),
            "tooltip": [{"field": "part", "title": "memory"}, {"field": "words", "title": "size"}],
        },
    }
    for place, row in enumerate(data):
        row["place"] = place
    return Chart(
        id="memory",
        title=f"Memory per device, {show_capacity(usable)} usable",
        description="Bytes held on the fullest device against what is usable (the red line).",
        spec=frame(height=130, data={"values": data}, layer=[bar, limit]),
        columns=("memory", "size"),
        rows=tuple((name, show_capacity(value)) for name, value in parts),
    )


def time_chart(estimate: Estimate) -> Chart:
    """Return the share of each resource in the time of one decode and one prefill step."""
    phases = (("decode", estimate.decode), ("prefill", estimate.prefill))
    table = [(phase, name, seconds, share) for phase, step in phases for name, seconds, share in time_rows(step)]
    names = list(dict.fromkeys(name for _, name, _, _ in table))
    data = [
        {"phase": phase, "part": name, "share": brief(share), "words": show_time(seconds)}
        for phase, name, seconds, share in table
    ]
    spec = frame(
        height=170,
        data={"values": data},
        mark={"type": "bar", "height": 30},
        encoding={
            "y": {"field": "phase", "type": "nominal", "axis": {"title": None, "ticks": False, "domain": False}},
            "x": {
                "field": "share",
                "type": "quantitative",
                "stack": "zero",
                "scale": {"domain": [0, 1]},
                "axis": {"title": "share of the step", "format": ".0%", "tickCount": 5},
            },
            "color": _legend(names),
            "tooltip": [
                {"field": "phase", "title": "phase"},
                {"field": "part", "title": "resource"},
                {"field": "words", "title": "time"},
                {"field": "share", "title": "share", "format": ".0%"},
            ],
        },
    )
    return Chart(
        id="time",
        title=f"Time per step: decode {show_time(first(estimate.decode.seconds))}, prefill {show_time(first(estimate.prefill.seconds))}",
        description="Share of the time of one step by the resource that is waited for.",
        spec=spec,
        columns=("phase", "resource", "time", "share"),
        rows=tuple((phase, name, show_time(seconds), percent(share)) for phase, name, seconds, share in table),
    )


def elasticity_chart(elasticity: Mapping[str, Number]) -> Chart:
    """Return by how much throughput changes when one ceiling is raised by 1 %."""
    values = [(clean(name).replace("_", " "), first(value)) for name, value in elasticity.items()]
    data = [{"name": name, "change": brief(value)} for name, value in values]
    spec = frame(
        height=28 * len(data) + 40,
        data={"values": data},
        mark={"type": "bar", "height": 14, "cornerRadius": 2},
        encoding={
            "y": {
                "field": "name",
                "type": "nominal",
                "sort": None,
                "axis": {"title": None, "ticks": False, "domain": False},
            },
            "x": {
                "field": "change",
                "type": "quantitative",
                "axis": {"title": "throughput, % per +1 %", "format": "+.1f", "tickCount": 5},
            },
            "color": {"condition": {"test": "datum.change < 0", "value": "var(--warn)"}, "value": GOOD},
            "tooltip": [
                {"field": "name", "title": "1 % more"},
                {"field": "change", "title": "throughput, %", "format": "+.2f"},
            ],
        },
    )
    return Chart(
        id="elasticity",
        title="What 1 % more would give",
        description="Change of throughput, in percent, when one ceiling rises by one percent.",
        spec=spec,
        columns=("1 % more of", "throughput"),
        rows=tuple((name, f"{value:+.2f} %") for name, value in values),
    )


def _legend(names: list[str]) -> Spec:
    colours = [LINE if name in SPARE else PALETTE[place % len(PALETTE)] for place, name in enumerate(names)]
    return {
        "field": "part",
        "type": "nominal",
        "scale": {"domain": names, "range": colours},
        "legend": {"title": None, "orient": "bottom", "symbolType": "square"},
    }

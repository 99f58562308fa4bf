"""The charts of a training estimate: what fills memory, with its interval, and where a step's time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.report.terminal_training import memory_rows, time_rows
from bytebound.report.vega import BAD, INK, LINE, PALETTE, Chart, Spec, brief, frame
from bytebound.report.words import first, percent
from bytebound.units import GIB, show_capacity, show_time

if TYPE_CHECKING:
    from bytebound.documents.training import TrainEstimate


def memory_chart(estimate: TrainEstimate) -> Chart:
    """Return what fills the fullest device as one bar, the 80 % interval of the total, and the usable bytes as a line."""
    parts = memory_rows(estimate)
    held, (_, free) = parts[:-1], parts[-1]
    memory = estimate.memory
    usable, low, high = (first(value) for value in (memory.usable_bytes, memory.low_bytes, memory.high_bytes))
    shown = [(name, value) for name, value in [*held, ("free", free)] if value > 0]
    data = [
        {"part": name, "gib": brief(value / GIB), "words": show_capacity(value), "place": place}
        for place, (name, value) in enumerate(shown)
    ]
    names = [name for name, _ in shown]
    bar: Spec = {
        "mark": {"type": "bar", "height": 34},
        "encoding": {
            "x": {
                "field": "gib", "type": "quantitative", "stack": "zero", "axis": {"title": "GiB per device", "tickCount": 6},
            },
            "order": {"field": "place"},
            "color": _legend(names),
            "tooltip": [{"field": "part", "title": "memory"}, {"field": "words", "title": "size"}],
        },
    }  # fmt: skip
    limit: Spec = {
        "data": {"values": [{"usable": brief(usable / GIB)}]},
        "mark": {"type": "rule", "color": BAD, "strokeWidth": 2},
        "encoding": {"x": {"field": "usable", "type": "quantitative"}},
    }
    band: Spec = {
        "data": {"values": [{"low": brief(low / GIB), "high": brief(high / GIB)}]},
        "mark": {"type": "rule", "color": INK, "strokeWidth": 3},
        "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}},
    }
    last = ("free", show_capacity(free)) if free >= 0 else ("missing", show_capacity(-free))
    rows = [*((name, show_capacity(value)) for name, value in held), last]
    return Chart(
        id="memory",
        title=f"Memory per device, {show_capacity(usable)} usable",
        description="Bytes held on the fullest device against what is usable (the red line); the dark line is the 80 % interval of the total.",
        spec=frame(height=130, data={"values": data}, layer=[bar, limit, band]),
        columns=("memory", "size"),
        rows=(*rows, ("80 % interval", f"{show_capacity(low)} to {show_capacity(high)}")),
    )


def time_chart(estimate: TrainEstimate) -> Chart:
    """Return the parts of a step as bars, longest first."""
    table = time_rows(estimate)
    data = [{"part": name, "share": brief(share), "words": show_time(seconds)} for name, seconds, share in table]
    spec = frame(
        height=28 * len(data) + 40,
        data={"values": data},
        mark={"type": "bar", "height": 16, "cornerRadius": 2, "color": PALETTE[0]},
        encoding={
            "y": {
                "field": "part", "type": "nominal", "sort": None,
                "axis": {"title": None, "ticks": False, "domain": False},
            },
            "x": {
                "field": "share", "type": "quantitative", "axis": {"title": "share of the step", "format": ".0%", "tickCount": 5},
            },
            "tooltip": [
                {"field": "part", "title": "part"}, {"field": "words", "title": "time"},
                {"field": "share", "title": "share", "format": ".0%"},
            ],
        },
    )  # fmt: skip
    wanting = ", with enough memory" if first(estimate.memory.total_bytes) > first(estimate.memory.usable_bytes) else ""
    return Chart(
        id="time",
        title=f"Time per step{wanting}, {show_time(sum(seconds for _, seconds, _ in table))}",
        description="What the time of one step is spent on. Links: time that computing does not hide.",
        spec=spec,
        columns=("part", "time", "share"),
        rows=tuple((name, show_time(seconds), percent(share)) for name, seconds, share in table),
    )


def _legend(names: list[str]) -> Spec:
    colours = [LINE if name == "free" else PALETTE[place % len(PALETTE)] for place, name in enumerate(names)]
    return {
        "field": "part", "type": "nominal", "scale": {"domain": names, "range": colours},
        "legend": {"title": None, "orient": "bottom", "symbolType": "square"},
    }  # fmt: skip

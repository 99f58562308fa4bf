"""The charts of a plan: money against time per token of everything on the front, and the memory of the best."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bytebound.report.plan_words import copies, cost, counted, same, setting
from bytebound.report.vega import BAD, INK, LINE, PALETTE, Chart, Spec, brief, frame
from bytebound.report.words import clean, drawable, first, interval, percent
from bytebound.units import GIB, show_capacity, show_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.plan import Deployment, ModelPlan


def front_chart(model: ModelPlan, *, place: int) -> Chart:
    """Return the front as points: money a month to the right, time per output token (else to the first) upwards, both logarithmic.

    Where a price is unknown the number of devices stands for money.
    """
    priced = all(each.usd_per_month is not None for each in model.front)
    steps = all(drawable(first(each.tpot_s.value)) for each in model.front)
    time, bound = (
        ("time per output token", model.objective.get("tpot"))
        if steps
        else ("time to first token", model.objective.get("ttft"))
    )
    shown = [
        each
        for each in model.front
        if drawable(_money(each, priced=priced), first((each.tpot_s if steps else each.ttft_s).value))
    ]
    data = [_point(each, priced=priced, steps=steps, best=same(each, model.best)) for each in shown]
    devices = list(dict.fromkeys(clean(each.device) for each in shown))
    x: Spec = {
        "field": "money",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "padding": 24},
        "axis": {
            "title": "US dollars a month" if priced else "devices",
            "format": "$~s" if priced else "~s",
            "grid": False,
            "tickCount": 6,
        },
    }
    y: Spec = {
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "padding": 16},
        "axis": {"title": f"{time}, ms", "format": "~s", "tickCount": 6},
    }
    colour = {
        "field": "device",
        "type": "nominal",
        "scale": {"domain": devices, "range": [PALETTE[i % len(PALETTE)] for i in range(len(devices))]},
        "legend": {"title": None, "orient": "bottom", "symbolType": "circle", "symbolOpacity": 1},
    }
    tip = [
        {"field": "what", "title": "deployment"},
        {"field": "how", "title": "setting"},
        {"field": "cost", "title": "cost"},
        {"field": "times", "title": time},
        {"field": "chance", "title": "chance"},
    ]
    layers: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": 1, "opacity": 0.4},
            "encoding": {"x": x, "y": {"field": "low", **y}, "y2": {"field": "high"}, "color": colour},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.9},
            "encoding": {"x": x, "y": {"field": "ms", **y}, "color": colour, "tooltip": tip},
        },
        {
            "transform": [{"filter": "datum.best"}],
            "mark": {"type": "point", "filled": False, "size": 320, "strokeWidth": 2, "color": INK},
            "encoding": {"x": x, "y": {"field": "ms", **y}},
        },
        {
            "transform": [{"filter": "datum.best"}],
            "mark": {
                "type": "text",
                "dx": 14,
                "align": "left",
                "baseline": "middle",
                "fontWeight": "bold",
                "color": INK,
            },
            "encoding": {"x": x, "y": {"field": "ms", **y}, "text": {"value": "best"}},
        },
    ]
    if bound and data and _near(bound, data):
        layers.append(
            {
                "data": {"values": [{"bound": brief(1000 * bound)}]},
                "mark": {"type": "rule", "color": BAD, "strokeWidth": 1.5, "strokeDash": [5, 3]},
                "encoding": {"y": {"field": "bound", **y}},
            }
        )
    return Chart(
        id=f"front-{place}",
        title="Money against time" if priced else "Devices against time",
        description=f"Deployments of {clean(model.model)} that none is better than in every respect, by bill and {time}.",
        spec=frame(height=360, data={"values": data}, layer=layers),
        columns=("deployment", "setting", "cost", time, "chance"),
        rows=tuple(tuple(str(row[name]) for name in ("what", "how", "cost", "times", "chance")) for row in data),
        note="Lines are the ranges of the predictions; the dashed line is what was asked for."
        if bound
        else "Lines are the ranges of the predictions.",
    )


def memory_bar(best: Deployment, *, place: int) -> Chart:
    """Return what the fullest device of a deployment holds of what it can."""
    parts = [("held", best.memory_bytes), ("free", max(best.usable_bytes - best.memory_bytes, 0.0))]
    data = [
        {"part": name, "gib": brief(value / GIB), "words": show_capacity(value), "place": i}
        for i, (name, value) in enumerate(parts)
    ]
    spec = frame(
        height=130,
        data={"values": data},
        mark={"type": "bar", "height": 30},
        encoding={
            "x": {
                "field": "gib",
                "type": "quantitative",
                "stack": "zero",
                "axis": {"title": "GiB on the fullest device", "tickCount": 6},
            },
            "order": {"field": "place"},
            "color": {
                "field": "part",
                "type": "nominal",
                "scale": {"domain": ["held", "free"], "range": [PALETTE[0], LINE]},
                "legend": {"title": None, "orient": "bottom", "symbolType": "square"},
            },
            "tooltip": [{"field": "part", "title": "memory"}, {"field": "words", "title": "size"}],
        },
    )
    return Chart(
        id=f"memory-{place}",
        title=f"Memory: {percent(best.memory_bytes / best.usable_bytes)} of {show_capacity(best.usable_bytes)} usable",
        description="Bytes held on the fullest device of the best deployment, and what stays free.",
        spec=spec,
        columns=("memory", "size"),
        rows=tuple((name, show_capacity(value)) for name, value in parts),
    )


def _point(each: Deployment, *, priced: bool, steps: bool, best: bool) -> dict[str, object]:
    value = each.tpot_s if steps else each.ttft_s
    return {
        "device": clean(each.device),
        "money": brief(_money(each, priced=priced)),
        "ms": brief(1000 * first(value.value)),
        "low": brief(1000 * first(value.low)),
        "high": brief(1000 * first(value.high)),
        "best": best,
        "what": f"{counted(each)}, {copies(each)}",
        "how": setting(each),
        "cost": cost(each),
        "times": interval(value, show_time),
        "chance": percent(each.probability),
    }


def _money(each: Deployment, *, priced: bool) -> float:
    return first(each.usd_per_month.value) if priced and each.usd_per_month is not None else float(each.devices)


def _near(bound: float, data: Sequence[dict[str, object]]) -> bool:
    """Return whether a bound is within a factor of ten of what is drawn, so that showing it hides nothing."""
    values = [float(str(row["ms"])) for row in data]
    return min(values) / 10 < 1000 * bound < max(values) * 10 and math.isfinite(bound)

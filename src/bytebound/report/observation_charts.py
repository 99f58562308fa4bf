"""The charts of an observed run: its roofline, predicted beside observed, where a step's time goes, its requests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bytebound.report import observed
from bytebound.report.readings import memory_roofs
from bytebound.report.roofline import Dot, machine_roofline
from bytebound.report.vega import INK, LINE, PALETTE, Chart, Spec, brief, frame
from bytebound.report.words import clean, first, percent
from bytebound.units import show_time

if TYPE_CHECKING:
    from bytebound.documents.device import Device
    from bytebound.documents.observation import Observation

DRAWN_OPERATORS, STACKED = 60, 8
MOST_REQUESTS = 2000
STEP = "whole step"


def observed_roofline(observation: Observation, device: Device | None) -> Chart:
    """Return phases and their operators under the roofs of the machine they ran on."""
    memory = observation.memory_bytes_per_s
    dots = []
    for place, phase in enumerate(observation.phases):
        name = observed.phase_name(phase)
        roof = observed.roof_at(phase.intensity, observation)
        dots.append(
            Dot(
                name,
                STEP,
                clean(phase.name),
                phase.intensity,
                phase.flop_per_s,
                roof,
                1.0,
                f"{place + 1} {clean(phase.name)}",
            )
        )
        dots += [
            Dot(row.name, row.kind, clean(phase.name), row.intensity, row.flop_per_s, row.roof, row.share)
            for row in observed.operators(phase, observation, DRAWN_OPERATORS)
            if row.count == 1
        ]
    above = {name: rate for name, rate in memory_roofs(device).items() if rate > memory} if device else {}
    roofs = {**above, "memory": memory}
    return machine_roofline(roofs, observation.flop_per_s, dots, titles=("kind", "phase", "what"))


def forecast_chart(observation: Observation) -> Chart:
    """Return each phase's prediction and its interval as a share of what was observed."""
    rows: list[Spec] = []
    for place, phase in enumerate(observation.phases):
        seen = phase.seconds.median
        if phase.predicted_s is None or not seen > 0:
            continue
        said = phase.predicted_s
        ends = {"lo": first(said.low) / seen, "m": first(said.value) / seen, "hi": first(said.high) / seen}
        if not all(map(math.isfinite, ends.values())):
            continue
        words = observed.predicted_words(phase)
        name = f"{place + 1} {observed.phase_name(phase)}"
        seen_ends = {"so": phase.seconds.p10 / seen, "sh": phase.seconds.p90 / seen}
        rows.append(
            {
                "n": name,
                **{key: brief(value) for key, value in (ends | seen_ends).items()},
                "g": clean(phase.grade) or "unstated",
                "said": words,
                "seen": show_time(seen),
                "error": observed.error_words(phase),
            }
        )
    y: Spec = {
        "field": "n",
        "type": "nominal",
        "sort": None,
        "axis": {"title": None, "ticks": False, "domain": False, "labelLimit": 190},
    }
    x: Spec = {
        "type": "quantitative",
        "scale": {"zero": False},
        "axis": {"title": "share of the observed median", "format": ".0%", "tickCount": 6},
    }
    tip = [
        {"field": "n", "title": "phase"},
        {"field": "said", "title": "predicted"},
        {"field": "seen", "title": "observed, median"},
        {"field": "error", "title": "error"},
        {"field": "g", "title": "grade"},
    ]
    grades = list(dict.fromkeys(row["g"] for row in rows))
    colour: Spec = {
        "field": "g",
        "type": "nominal",
        "scale": {"domain": grades, "range": PALETTE},
        "legend": {"title": None, "orient": "bottom", "symbolType": "circle"},
    }
    bar = {"type": "bar", "height": 8, "cornerRadius": 4}
    layer: list[Spec] = [
        {
            "mark": {**bar, "height": 18, "color": INK, "opacity": 0.25, "cornerRadius": 2},
            "encoding": {"y": y, "x": {**x, "field": "so"}, "x2": {"field": "sh"}},
        },
        {
            "mark": {**bar, "opacity": 0.4},
            "encoding": {"y": y, "x": {**x, "field": "lo"}, "x2": {"field": "hi"}, "color": colour, "tooltip": tip},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 90},
            "encoding": {"y": y, "x": {**x, "field": "m"}, "color": colour, "tooltip": tip},
        },
        {
            "data": {"values": [{"one": 1}]},
            "mark": {"type": "rule", "color": INK},
            "encoding": {"x": {**x, "field": "one"}},
        },
    ]
    return Chart(
        id="forecast",
        title="Predicted beside observed",
        description="Prediction (dot) with its interval, over the 10 to 90 % of what was observed (grey), as shares of the observed median.",
        spec=frame(height=38 * len(rows) + 60, data={"values": rows}, layer=layer),
        columns=("phase", "predicted", "observed, median", "error", "grade"),
        rows=tuple((row["n"], row["said"], row["seen"], row["error"], row["g"]) for row in rows),
    )


def share_chart(observation: Observation) -> Chart:
    """Return the share of each operator in the time of a step, for every phase that was profiled."""
    rows: list[Spec] = [
        {
            "p": f"{place + 1} {clean(phase.name)}",
            "n": row.name if row.count == 1 else "others",
            "s": brief(row.share),
            "words": show_time(row.seconds),
            "order": order,
        }
        for place, phase in enumerate(observation.phases)
        for order, row in enumerate(observed.operators(phase, observation, STACKED))
        if math.isfinite(row.share)
    ]
    names = list(dict.fromkeys(row["n"] for row in rows))
    colours = [LINE if name == "others" else PALETTE[place % len(PALETTE)] for place, name in enumerate(names)]
    phases = len({row["p"] for row in rows})
    return Chart(
        id="shares",
        title="Where the time of a step goes",
        description="Share of each operator in the time the profiler saw, by phase.",
        spec=frame(
            height=46 * phases + 110,
            data={"values": rows},
            mark={"type": "bar", "height": 30},
            encoding={
                "y": {"field": "p", "type": "nominal", "axis": {"title": None, "ticks": False, "domain": False}},
                "x": {
                    "field": "s",
                    "type": "quantitative",
                    "stack": "zero",
                    "scale": {"domain": [0, 1]},
                    "axis": {"title": "share of the operators' time", "format": ".0%", "tickCount": 5},
                },
                "order": {"field": "order"},
                "color": {
                    "field": "n",
                    "type": "nominal",
                    "scale": {"domain": names, "range": colours},
                    "legend": {"title": None, "orient": "bottom", "symbolType": "square"},
                },
                "tooltip": [
                    {"field": "p", "title": "phase"},
                    {"field": "n", "title": "operator"},
                    {"field": "words", "title": "time"},
                    {"field": "s", "title": "share", "format": ".0%"},
                ],
            },
        ),
        columns=("phase", "operator", "time", "share"),
        rows=tuple((row["p"], row["n"], row["words"], percent(row["s"])) for row in rows),
    )


def requests_chart(observation: Observation) -> Chart:
    """Return when each request got its first token and finished, counted from when it was due."""
    good = [r for r in observation.run.requests if math.isfinite(r.due_s)][:MOST_REQUESTS]
    rows: list[Spec] = []
    for r in good:
        for name, at in (("first token", r.first_token_s), ("last token", r.last_token_s)):
            if at is not None and math.isfinite(at):
                wait = at - r.due_s
                rows.append({"t": brief(r.due_s), "w": brief(wait), "k": name, "words": show_time(wait)})
    kinds = list(dict.fromkeys(row["k"] for row in rows))
    return Chart(
        id="requests",
        title="Requests, one by one",
        description="Time from when a request was due to its first and last token, by when it was due.",
        spec=frame(
            height=300,
            data={"values": rows},
            mark={"type": "point", "filled": True, "size": 36, "opacity": 0.75},
            encoding={
                "x": {"field": "t", "type": "quantitative", "axis": {"title": "due, s", "tickCount": 6}},
                "y": {"field": "w", "type": "quantitative", "axis": {"title": "after that, s", "tickCount": 5}},
                "color": {
                    "field": "k",
                    "type": "nominal",
                    "scale": {"domain": kinds, "range": PALETTE},
                    "legend": {"title": None, "orient": "bottom", "symbolType": "circle"},
                },
                "tooltip": [
                    {"field": "k", "title": "what"},
                    {"field": "t", "title": "due, s", "format": ".3f"},
                    {"field": "words", "title": "after"},
                ],
            },
        ),
        columns=("what", "due, s", "after"),
        rows=tuple((row["k"], f"{row['t']:g}", row["words"]) for row in rows),
    )

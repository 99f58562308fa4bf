"""A traced step as one page: memory over the step by category, phases, every operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.trace import CATEGORIES, PHASES
from bytebound.report.html import page_html
from bytebound.report.trace import (
    band,
    count,
    extrapolation,
    fit_words,
    held_rows,
    largest,
    moment_words,
    operator_row,
    operator_titles,
    peak_words,
    phase_rows,
    title_of,
    totals,
)
from bytebound.report.trace_plan import (
    exchange_rows,
    memory_rows,
    plan_fits,
    plan_notes,
    plan_peak,
    plan_step,
    plan_words,
    time_rows,
    work_rows,
)
from bytebound.report.vega import BAD, INK, MUTED, PALETTE, Chart, Spec, brief, frame
from bytebound.report.words import clean, percent
from bytebound.units import GIB, show_bytes, show_capacity, show_rate, show_time, significant

if TYPE_CHECKING:
    from bytebound.documents.trace import Moment, Trace
    from bytebound.documents.trace_estimate import TracedPlan, TraceEstimate

MOST_OPERATORS = 300
"""Rows of the table of operators; the JSON document has all."""
MOST_POINTS = 1500
"""Moments drawn; beyond these the fullest of each stretch is."""
USABLE_IN_VIEW = 3.0
"""The usable memory is drawn where it is at most this multiple of the peak: a line far above squeezes the rest flat."""


def trace_html(trace: Trace, estimate: TraceEstimate | None = None) -> str:
    """Return a trace, and where there is one its estimate on a machine, as one self-contained page."""
    shown = largest(trace, estimate)[:MOST_OPERATORS]
    notes = [*trace.notes, *((*estimate.notes, *plan_notes(estimate)) if estimate else ())]
    plan = estimate.plan if estimate else None
    titles, rows = phase_rows(trace, estimate)
    return page_html(
        "trace.html.j2",
        title=f"Trace of {clean(trace.name)}" + (f" on {clean(estimate.machine)}" if estimate else ""),
        charts=[memory_chart(trace, estimate)],
        question=title_of(trace, estimate),
        sentence=_sentence(trace, estimate),
        tiles=_tiles(trace, estimate),
        peaks=[(phase, trace.peaks[phase]) for phase in PHASES if phase in trace.peaks],
        moment_words=moment_words,
        show=show_capacity,
        phase_titles=titles,
        phases=rows,
        titles=operator_titles(estimate),
        operators=[operator_row(op, seconds) for op, seconds in shown],
        hidden=len(trace.operators) - len(shown),
        notes=[extrapolation(trace), *notes],
        unknown=trace.unknown,
        provenance=estimate.provenance if estimate else (),
        plan=plan_words(plan) if plan else "",
        plan_tables=_plan_tables(trace, plan) if plan else [],
    )


def _plan_tables(trace: Trace, plan: TracedPlan) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return heading, titles and rows of every table of a plan."""
    return [
        (f"Memory of the fullest device, at its fullest moment: {plan_peak(plan)}", *memory_rows(trace, plan)),
        ("Seconds of one step; links as far as computing does not hide them", *time_rows(plan)),
        ("Work of one device in a step, the mean over pipeline stages", *work_rows(trace, plan)),
        ("What devices tell each other in a step", *exchange_rows(plan)),
    ]


def _sentence(trace: Trace, estimate: TraceEstimate | None) -> str:
    if estimate is None:
        return f"Peak {peak_words(trace)}."
    if estimate.plan is not None:
        return _started(f"{plan_fits(estimate.plan)}. One step {plan_step(estimate.plan)}.")
    return _started(f"{fit_words(estimate)}. Peak {peak_words(trace)}.")


def _started(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _tiles(trace: Trace, estimate: TraceEstimate | None) -> list[tuple[str, str, str]]:
    fused, unfused = totals(trace)
    planned = estimate is not None and estimate.plan is not None
    tiles = [
        (
            "peak memory",
            show_capacity(trace.peak.held.total),
            f"in {trace.peak.phase}{', on one device' if planned else ''}",
        ),
        ("parameters", count(trace.parameters), f"{count(trace.trainable)} trainable"),
        ("work", show_rate(trace.flops, "FLOP"), "one step"),
        ("bytes moved", show_bytes(fused), f"fused; {show_bytes(unfused)} operator by operator"),
    ]
    if estimate is None:
        return tiles
    if estimate.plan is not None:
        plan = estimate.plan
        return [
            *tiles,
            (
                "fullest device",
                show_capacity(float(plan.memory.total_bytes)),
                f"under the plan, of {show_capacity(float(plan.memory.usable_bytes))}",
            ),
            ("step", show_time(plan.high_s), plan_step(plan)),
            ("MFU", significant(plan.mfu_low, 2), f"{significant(plan.mfu_high, 2)} ideally fused"),
            ("verdict", clean(plan.verdict), ""),
        ]
    return [
        *tiles,
        ("step", show_time(estimate.high_s), band(estimate.low_s, estimate.high_s)),
        ("MFU", significant(estimate.mfu_low, 2), f"{significant(estimate.mfu_high, 2)} ideally fused"),
        ("verdict", clean(estimate.verdict), ""),
    ]


def memory_chart(trace: Trace, estimate: TraceEstimate | None) -> Chart:
    """Return the bytes alive over the step, stacked by category, with the peak and where there is a machine its memory."""
    moments = thinned(trace.timeline, MOST_POINTS)
    names = [name for name in CATEGORIES if any(getattr(moment.held, name) > 0 for moment in moments)]
    rows = [
        {"at": brief(moment.at), "phase": moment.phase, "op": clean(moment.op), "module": clean(moment.module)}
        | {name: brief(getattr(moment.held, name) / GIB) for name in names}
        | {"total": show_capacity(moment.held.total)}
        for moment in moments
    ]
    x: Spec = {
        "field": "at", "type": "quantitative", "scale": {"domain": [0, 1]},
        "axis": {"title": "operators of the step", "format": ".0%", "grid": False, "tickCount": 6},
    }  # fmt: skip
    y: Spec = {"field": "gib", "type": "quantitative", "stack": "zero", "axis": {"title": "GiB alive", "tickCount": 6}}
    area: Spec = {
        "transform": [{"fold": names, "as": ["part", "gib"]}, {"calculate": f"indexof({names}, datum.part)", "as": "place"}],
        "mark": {"type": "area", "interpolate": "step-after", "opacity": 0.9},
        "encoding": {
            "x": x, "y": y, "order": {"field": "place", "type": "quantitative"},
            "color": {
                "field": "part", "type": "nominal", "scale": {"domain": names, "range": PALETTE[: len(names)]},
                "legend": {"title": None, "orient": "bottom", "symbolType": "square"},
            },
            "tooltip": [
                {"field": "part", "title": "memory"}, {"field": "gib", "title": "GiB", "format": ".3~g"},
                {"field": "total", "title": "together"}, {"field": "phase"}, {"field": "op", "title": "after"},
                {"field": "module"},
            ],
        },
    }  # fmt: skip
    layers = [area, *_phase_marks(moments), _peak_mark(trace)]
    usable = estimate.usable_bytes - estimate.reserve_bytes if estimate else 0.0
    if 0 < usable <= USABLE_IN_VIEW * trace.peak.held.total:
        layers.append(_rule([{"y": brief(usable / GIB)}], "y", BAD))
    return Chart(
        id="memory",
        title="Memory over one step",
        description="Bytes alive after each operator of one step, stacked by what they are; the dot is the peak.",
        spec=frame(height=380, data={"values": rows}, layer=layers),
        columns=("moment", *CATEGORIES, "together"),
        rows=tuple(
            _row(name, moment)
            for name, moment in [("peak", trace.peak), *((p, trace.peaks[p]) for p in PHASES if p in trace.peaks)]
        ),
    )


def thinned(moments: tuple[Moment, ...], most: int) -> tuple[Moment, ...]:
    """Return at most about ``most`` moments: the fullest and the emptiest of each stretch, in order."""
    if len(moments) <= most:
        return moments
    size = -(-2 * len(moments) // most)
    kept: list[Moment] = []
    for start in range(0, len(moments), size):
        part = range(start, min(start + size, len(moments)))
        chosen = {max(part, key=lambda i: moments[i].held.total), min(part, key=lambda i: moments[i].held.total)}
        kept += [moments[i] for i in sorted(chosen)]
    return tuple(kept)


def _row(name: str, moment: Moment) -> tuple[str, ...]:
    held = dict(held_rows(moment.held))
    words = f"{name}, {percent(moment.at)}"
    return (words, *(show_capacity(held.get(part, 0.0)) for part in CATEGORIES), show_capacity(moment.held.total))


def _phase_marks(moments: tuple[Moment, ...]) -> list[Spec]:
    """Return a line and a name where each phase begins."""
    starts: dict[str, float] = {}
    for moment in moments:
        starts.setdefault(moment.phase, moment.at)
    data = [{"x": brief(at), "name": phase} for phase, at in starts.items()]
    words: Spec = {
        "data": {"values": data},
        "mark": {"type": "text", "align": "left", "dx": 5, "dy": -8, "color": MUTED, "fontSize": 12},
        "encoding": {"x": {"field": "x", "type": "quantitative"}, "y": {"value": 0}, "text": {"field": "name"}},
    }
    return [_rule(data, "x", MUTED), words]


def _rule(data: list[dict[str, float | str | None]], axis: str, colour: str) -> Spec:
    return {
        "data": {"values": data},
        "mark": {"type": "rule", "color": colour, "strokeWidth": 1.5, "strokeDash": [5, 3]},
        "encoding": {axis: {"field": axis, "type": "quantitative"}},
    }


def _peak_mark(trace: Trace) -> Spec:
    peak = trace.peak
    data = [{"x": brief(peak.at), "y": brief(peak.held.total / GIB), "words": f"peak {show_capacity(peak.held.total)}"}]
    return {
        "data": {"values": data},
        "mark": {"type": "point", "filled": True, "size": 90, "color": INK},
        "encoding": {
            "x": {"field": "x", "type": "quantitative"},
            "y": {"field": "y", "type": "quantitative"},
            "tooltip": [{"field": "words", "title": "memory"}],
        },
    }

"""A traced step in the terminal: what holds memory at its peak and when, what each phase moves, and the largest operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.documents.trace import CATEGORIES, PHASES
from bytebound.report.page import draw, grid, heading, indented, labelled
from bytebound.report.trace_plan import (
    exchange_rows,
    memory_rows,
    plan_answers,
    plan_notes,
    plan_peak,
    time_rows,
    work_rows,
)
from bytebound.report.words import clean, percent
from bytebound.units import show_bytes, show_capacity, show_rate, show_time, significant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bytebound.documents.trace import Held, Moment, Trace, TracedOp
    from bytebound.documents.trace_estimate import TracedPlan, TracedSeconds, TraceEstimate
    from bytebound.report.page import Page

SHOWN_OPERATORS = 12
SHOWN_NAMES = 8
LONGEST_PATH = 22
SHORT = {
    "memory-bandwidth": "memory", "scale-up-link": "scale-up", "scale-out-link": "scale-out", "host-link": "host",
    "overhead": "start-up",
}  # fmt: skip


def trace_text(trace: Trace, page: Page, estimate: TraceEstimate | None = None) -> str:
    """Return a trace, and where there is one its estimate on a machine, as a block of text."""
    parts: list[RenderableType] = [heading(title_of(trace, estimate)), Text("")]
    parts += [
        labelled(_answers(trace, estimate)),
        Text(""),
        _memory(trace),
        Text(""),
        _phases(trace, estimate),
        Text(""),
    ]
    if estimate is not None and estimate.plan is not None:
        parts += _plan(trace, estimate.plan)
    parts += [_operators(trace, estimate), *_unknown(trace), Text(""), labelled(_basis(trace, estimate), style="dim")]
    return draw(parts, page)


def title_of(trace: Trace, estimate: TraceEstimate | None) -> str:
    """Return the question in one line."""
    step = "one training step" if trace.kind == "training" else "one forward pass"
    words = [clean(trace.name), step, work_words(trace), clean(estimate.machine) if estimate else ""]
    return " · ".join(word for word in words if word)


def work_words(trace: Trace) -> str:
    """Return what the step worked on, where it is known."""
    samples = f"{trace.samples:g} sample{'s' if trace.samples != 1 else ''}" if trace.samples else ""
    tokens = f"{trace.seq:g} tokens each" if trace.seq else ""
    return " of ".join(filter(None, (samples, tokens)))


def _answers(trace: Trace, estimate: TraceEstimate | None) -> list[tuple[str, str]]:
    trainable = "all trainable" if trace.trainable == trace.parameters else f"{count(trace.trainable)} trainable"
    rows = [("parameters", f"{count(trace.parameters)}, {trainable}"), ("peak", peak_words(trace))]
    if estimate is None:
        fused, unfused = totals(trace)
        return [*rows, ("one step", f"{show_rate(trace.flops, 'FLOP')}, {show_bytes(fused)} moved fused, {show_bytes(unfused)} unfused")]  # fmt: skip
    if estimate.plan is not None:
        return [
            *rows,
            (
                "one device",
                f"{fit_words(estimate)}; {band(estimate.low_s, estimate.high_s)}, {clean(estimate.verdict)}",
            ),
        ]
    return [
        *rows,
        ("memory", fit_words(estimate)),
        ("step", f"{band(estimate.low_s, estimate.high_s)}, floor {show_time(estimate.floor_s)}"),
        ("MFU", f"{significant(estimate.mfu_low, 2)}–{significant(estimate.mfu_high, 2)}"),
        ("verdict", clean(estimate.verdict)),
    ]


def count(number: float) -> str:
    """Return a number of parameters with a prefix."""
    return show_rate(number, "").strip()


def band(low_s: float, high_s: float) -> str:
    """Return the band of seconds from ideally fused to one operator at a time."""
    return f"{show_time(low_s)} ideally fused to {show_time(high_s)} operator by operator"


def fit_words(estimate: TraceEstimate) -> str:
    """Return whether the step fits, and by how much."""
    total = estimate.peak_bytes + estimate.reserve_bytes
    sizes = f"{show_capacity(estimate.peak_bytes)} and {show_capacity(estimate.reserve_bytes)} reserve of {show_capacity(estimate.usable_bytes)}"
    if estimate.fits:
        return f"fits: {sizes}, {show_capacity(estimate.usable_bytes - total)} free"
    return f"does not fit: {sizes}, {show_capacity(total - estimate.usable_bytes)} short"


def peak_words(trace: Trace) -> str:
    """Return how large the peak is and when it comes."""
    return f"{show_capacity(trace.peak.held.total)} {moment_words(trace.peak)}"


def moment_words(moment: Moment) -> str:
    """Return where in the step a moment is."""
    inside = f" of {clean(moment.module)}" if moment.module else ""
    return f"at {percent(moment.at)} of the step: {moment.phase}, after {clean(moment.op)}{inside}"


def held_rows(held: Held) -> list[tuple[str, float]]:
    """Return what memory holds by category, in bytes, without what holds nothing."""
    return [(name, getattr(held, name)) for name in CATEGORIES if getattr(held, name) > 0]


def _memory(trace: Trace) -> RenderableType:
    whole = trace.peak.held.total or 1.0
    phases = [phase for phase in PHASES if phase in trace.peaks]
    columns = (("memory", "!"), ("at the peak", "r!"), ("", "r!"), *((f"in {phase}", "r!") for phase in phases))
    rows = [
        [name, show_capacity(size), percent(size / whole), *(_size(getattr(trace.peaks[phase].held, name)) for phase in phases)]
        for name in CATEGORIES
        if (size := getattr(trace.peak.held, name)) > 0 or any(getattr(trace.peaks[p].held, name) > 0 for p in phases)
    ]  # fmt: skip
    totals = [show_capacity(trace.peaks[phase].held.total) for phase in phases]
    return grid(*columns, rows=[*rows, ["together", show_capacity(whole), "", *totals]], indent=2)


def _size(size: float) -> str:
    return show_capacity(size) if size else "–"


def totals(trace: Trace, phase: str = "") -> tuple[float, float]:
    """Return the bytes of a phase (empty: of the step), ideally fused and unfused."""
    ops = [op for op in trace.operators if phase in ("", op.phase)]
    return sum(op.fused_bytes for op in ops), sum(op.read_bytes + op.written_bytes for op in ops)


def phase_rows(trace: Trace, estimate: TraceEstimate | None) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of the table of phases: work, bytes, intensity, and on a machine time and what binds."""
    timed = {phase.phase: phase for phase in estimate.phases} if estimate else {}
    rows = []
    for phase in PHASES:
        ops = [op for op in trace.operators if op.phase == phase]
        if not ops:
            continue
        flops, (fused, unfused) = sum(op.flops for op in ops), totals(trace, phase)
        row = [phase, f"{sum(op.calls for op in ops):g}", _flop(flops), show_bytes(fused), show_bytes(unfused), intensity(flops, fused)]  # fmt: skip
        found = timed.get(phase)
        if found is not None:
            bound = SHORT.get(found.bound, found.bound)
            row += [show_time(found.low_s), show_time(found.high_s), clean(bound)]
        elif estimate is not None:
            row += ["–", "–", "–"]
        rows.append(row)
    titles = ["phase", "operators", "FLOP", "fused", "unfused", "FLOP/B"]
    return titles + (["fused", "unfused", "bound"] if estimate else []), rows


def _phases(trace: Trace, estimate: TraceEstimate | None) -> RenderableType:
    titles, rows = phase_rows(trace, estimate)
    return grid(*((title, "!" if title in {"phase", "bound"} else "r!") for title in titles), rows=rows, indent=2)


def _plan(trace: Trace, plan: TracedPlan) -> list[RenderableType]:
    """Return what comes of a plan: answers, memory and seconds by part, work of one device, exchanges."""
    parts: list[RenderableType] = [labelled([*plan_answers(plan), ("fullest", plan_peak(plan))]), Text("")]
    for titles, rows in (memory_rows(trace, plan), time_rows(plan), work_rows(trace, plan), exchange_rows(plan)):
        if rows:
            columns = ((title, "!" if not at else "r!") for at, title in enumerate(titles))
            parts += [grid(*columns, rows=rows, indent=2), Text("")]
    return parts


def _flop(value: float) -> str:
    return "–" if value == 0 else show_rate(value, "").strip()


def intensity(flops: float, moved: float) -> str:
    """Return FLOP per byte."""
    return significant(flops / moved) if moved > 0 and flops > 0 else "–"


def largest(trace: Trace, estimate: TraceEstimate | None) -> list[tuple[TracedOp, TracedSeconds | None]]:
    """Return operators, largest first: by their unfused seconds where there is a machine, else by their bytes."""
    seconds = estimate.operators if estimate else (None,) * len(trace.operators)
    both = [(op, time) for op, time in zip(trace.operators, seconds, strict=True) if op.kind != "host"]
    return sorted(both, key=lambda pair: -(pair[1].high_s if pair[1] else pair[0].read_bytes + pair[0].written_bytes))


def operator_row(op: TracedOp, seconds: TracedSeconds | None) -> list[str]:
    """Return the cells of one operator: name, module, phase, calls, FLOP, bytes, intensity, and time and bound."""
    moved = op.read_bytes + op.written_bytes
    row = [clean(op.name), shorter(clean(op.module)) or "–", op.phase, f"{op.calls:g}", _flop(op.flops) if op.known else "unknown", show_bytes(moved), intensity(op.flops, moved)]  # fmt: skip
    return row if seconds is None else [*row, show_time(seconds.high_s), clean(SHORT.get(seconds.bound, seconds.bound))]


def shorter(path: str) -> str:
    """Return the end of a module's path, which tells it from others; beginnings are alike."""
    if len(path) <= LONGEST_PATH:
        return path
    end = ""
    for part in reversed(path.split(".")):
        if end and len(part) + len(end) >= LONGEST_PATH:
            break
        end = f"{part}.{end}" if end else part
    return f"…{end.removeprefix('*.')}"


def operator_titles(estimate: TraceEstimate | None) -> list[str]:
    """Return the titles over ``operator_row``."""
    return ["operator", "module", "phase", "calls", "FLOP", "bytes", "FLOP/B", *(["time", "bound"] if estimate else [])]


def _operators(trace: Trace, estimate: TraceEstimate | None) -> RenderableType:
    rows = [operator_row(op, seconds) for op, seconds in largest(trace, estimate)[:SHOWN_OPERATORS]]
    flags = {"operator": "", "module": "", "phase": "!", "bound": "!"}
    return grid(*((title, flags.get(title, "r!")) for title in operator_titles(estimate)), rows=rows, indent=2)


def _unknown(trace: Trace) -> list[RenderableType]:
    if not trace.unknown:
        return []
    more = len(trace.unknown) - SHOWN_NAMES
    lines = [indented(clean(line), by=4) for line in trace.unknown[:SHOWN_NAMES]]
    rest = [indented(f"and {more} more (--json has all)", by=4)] if more > 0 else []
    return [Text(""), indented("moves bytes and has no FLOP formula:"), *lines, *rest]


def _basis(trace: Trace, estimate: TraceEstimate | None) -> list[tuple[str, str]]:
    rows = [("traced", extrapolation(trace))]
    rows += [
        ("note", clean(note))
        for note in (*trace.notes, *((*estimate.notes, *plan_notes(estimate)) if estimate else ()))
    ]
    used = ", ".join(f"{clean(name)} {clean(version)}" for name, version in trace.versions.items())
    return [*rows, *([("with", used)] if used else [])]


def extrapolation(trace: Trace) -> str:
    """Return how many layers were run, and whether the rest is exact."""
    took = f" in {show_time(trace.seconds)}" if trace.seconds else ""
    cut = [f"{stack.traced} of {stack.repeat} layers of {clean(stack.path or stack.name)}" for stack in trace.stacks if stack.traced < stack.repeat]  # fmt: skip
    if not cut:
        return f"every operator of the step, on tensors without values{took}"
    sure = "a third depth agreed exactly" if trace.exact else "a third depth did not agree: take it as an estimate"
    return f"{', '.join(cut)}, on tensors without values{took}; the rest extrapolated, {sure}"

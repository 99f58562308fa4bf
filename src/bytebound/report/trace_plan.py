"""A traced step under a parallel plan, in words and rows that the terminal and the page share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.trace import PHASES
from bytebound.report.words import clean, percent
from bytebound.units import show_bytes, show_capacity, show_rate, show_time, significant

if TYPE_CHECKING:
    from bytebound.documents.trace import Trace
    from bytebound.documents.trace_estimate import TracedPlan, TraceEstimate

DEGREES = ("tp", "pp", "dp", "cp", "ep", "expert_tp", "virtual_stages")
PARTS = (
    ("parameters", "parameters"), ("gradients", "gradients"), ("optimizer", "optimizer"), ("activations", "activations"),
    ("temporaries", "temporary"),
)  # fmt: skip
"""Categories of a trace and their names in the memory of a plan."""


def plan_words(plan: TracedPlan) -> str:
    """Return the plan in one line: degrees above 1, what shards, the devices and micro-batches."""
    work = plan.work
    degrees = [f"{name.replace('_', ' ')} {work[name]:g}" for name in DEGREES if work[name] > 1]
    if work["expert_tp"] == work["tp"]:
        degrees = [word for word in degrees if not word.startswith("expert tp")]
    schedule = [clean(work["schedule"])] if work["pp"] > 1 else []
    together = ["sequence parallel"] if work["tp"] > 1 and work["sequence_parallel"] == "on" else []
    sharded = [f"ZeRO {work['zero']:g}"] if work["dp"] * work["cp"] > 1 else []
    away = [f"{clean(work['offload'])} offloaded"] if work["offload"] != "none" else []
    many = f"{plan.microbatches:,.0f} micro-batch{'es' if plan.microbatches != 1 else ''} of {work['micro_batch']:g}"
    counted = f"{plan.devices:,} device{'s' if plan.devices != 1 else ''}"
    return " · ".join([*degrees, *together, *schedule, *sharded, *away, clean(work["framework"]), counted, many])


def plan_answers(plan: TracedPlan) -> list[tuple[str, str]]:
    """Return what the plan comes to: memory, step, rate, MFU, bubble and verdict."""
    rows = [("plan", plan_words(plan)), ("memory", plan_fits(plan)), ("step", plan_step(plan))]
    if plan.bubble_share > 0:
        rows.append(("bubble", f"{percent(plan.bubble_share)} of the step"))
    rate = f"{show_rate(plan.samples_per_s_low, 'samples/s')} to {show_rate(plan.samples_per_s_high, 'samples/s')}"
    return [*rows, ("rate", rate), ("MFU", f"{significant(plan.mfu_low, 2)}–{significant(plan.mfu_high, 2)}"), ("verdict", clean(plan.verdict))]  # fmt: skip


def plan_fits(plan: TracedPlan) -> str:
    """Return whether the fullest device holds it, and how sure that is."""
    memory = plan.memory
    sizes = f"{show_capacity(float(memory.total_bytes))} of {show_capacity(float(memory.usable_bytes))} on the fullest device"
    ends = f"{show_capacity(float(memory.low_bytes))} to {show_capacity(float(memory.high_bytes))} with 80 %"
    if memory.fits:
        return f"fits: {sizes}; {ends}"
    if memory.total_bytes <= memory.usable_bytes:
        return f"too tight: {sizes}; {ends}"
    return f"does not fit: {sizes}; {ends}"


def plan_step(plan: TracedPlan) -> str:
    """Return the band of the step's seconds."""
    return f"{show_time(plan.low_s)} ideally fused to {show_time(plan.high_s)} operator by operator"


def plan_peak(plan: TracedPlan) -> str:
    """Return when and where the fullest device is fullest."""
    key, _, stage = str(plan.memory.peak).partition(", ")
    phase, inside, *_ = (*key.split("/"), "")
    place = " step" if phase == "optimizer" else (f" in {clean(inside)}" if inside else " outside the layers")
    return f"{phase}{place}" + (f", {stage}" if plan.work["pp"] > 1 else "")


def memory_rows(trace: Trace, plan: TracedPlan) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of memory by category: at the peak of one device, and at that of the plan's fullest."""
    held, memory = trace.peak.held, plan.memory
    rows = [
        [name, _size(getattr(held, name)), _size(float(getattr(memory, part)))]
        for name, part in PARTS
        if getattr(held, name) > 0 or getattr(memory, part) > 0
    ]
    rows.append(["allocated", _size(held.total), _size(float(memory.allocated_bytes))])
    rows.append(["reserve", "", _size(float(memory.reserve))])
    if memory.host_bytes:
        rows.append(["in host memory", "", _size(float(memory.host_bytes))])
    return ["memory", "one device", "fullest of the plan"], rows


def time_rows(plan: TracedPlan) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of the step's seconds by part; links are exposed time only."""
    names = [name for name in plan.high if plan.high[name] > 0 or plan.low[name] > 0]
    rows = [[name.replace("_", " "), show_time(plan.low[name]), show_time(plan.high[name])] for name in names]
    return ["step", "fused", "unfused"], [*rows, ["together", show_time(plan.low_s), show_time(plan.high_s)]]


def work_rows(trace: Trace, plan: TracedPlan) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of what one device does in a step by phase: FLOP and bytes, the mean over pipeline stages."""
    rows = []
    for phase in PHASES:
        mine = [part for op, part in zip(trace.operators, plan.operators, strict=True) if op.phase == phase]
        if mine:
            flops, fused, unfused = (
                sum(getattr(part, name) for part in mine) for name in ("flops", "fused_bytes", "unfused_bytes")
            )
            rows.append([phase, show_rate(flops, "").strip() if flops else "–", show_bytes(fused), show_bytes(unfused)])
    return ["one device", "FLOP", "fused", "unfused"], rows


def exchange_rows(plan: TracedPlan) -> tuple[list[str], list[list[str]]]:
    """Return titles and rows of what devices tell each other in a step, most bytes first."""
    said = sorted(plan.exchanges, key=lambda one: -one.payload_bytes * one.times)
    rows = [[clean(one.name), f"{one.group:,.0f}", f"{one.times:,.0f}", show_bytes(one.payload_bytes)] for one in said]
    return ["exchange", "devices", "times", "bytes each"], rows


def plan_notes(estimate: TraceEstimate) -> tuple[str, ...]:
    """Return what was assumed and must be known of a plan."""
    return () if estimate.plan is None else (*estimate.plan.assumed, *estimate.plan.notes)


def _size(size: float) -> str:
    return show_capacity(size) if size else "–"

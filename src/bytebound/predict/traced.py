"""A traced step on a machine: does it fit, how long does it take at best and as written, and what binds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bytebound.documents.trace import PHASES
from bytebound.documents.trace_estimate import TracedPhase, TracedSeconds, TraceEstimate
from bytebound.documents.values import Provenance
from bytebound.facts.machines import find_machine
from bytebound.facts.reserves import find_reserve, held_back_bytes, host_process_bytes
from bytebound.ledger.traced import model_flops, on_device, traced_ledger, unfused_bytes
from bytebound.predict.attained import attained
from bytebound.predict.ceilings import ceilings_of
from bytebound.predict.roofline import TIME_RESOURCES, lay_on, rates, row_bounds
from bytebound.predict.traced_plan import plan_trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from bytebound.documents.device import Device, Figure, Machine
    from bytebound.documents.trace import Trace, TracedOp
    from bytebound.documents.work import Train
    from bytebound.predict.roofline import Ceilings, Timing

EAGER = "transformers"
"""Whose fitted shares and start-up times a traced program takes: the engine that runs PyTorch operators one by one."""


def estimate_trace(
    trace: Trace, machine: str | Machine, *, plan: Train | None = None, assumed: tuple[str, ...] = (),
    named: Mapping[str, str] | None = None,
) -> TraceEstimate:  # fmt: skip
    """Return what one device of ``machine`` makes of a traced step, and all its devices under a plan.

    Args:
        trace: the step, on one device.
        machine: ``"8x h100-sxm"``, a machine file, or a Machine; without a plan one device is used.
        plan: how the step is dealt out over devices (``predict.traced_plan``); None: it is not.
        assumed: what of the plan was not stated, in words.
        named: end of a module's path -> style of tensor parallelism, where names do not tell.

    Raises:
        UnknownNameError, DocumentError: the machine or a style is not understood.
        RequestError: the step does nothing on a device, multiplies in a dtype without a rate, or the plan's degrees do not divide it
            or the machine.

    Example:
        >>> estimate_trace(step, "8x h100-sxm", plan=Train(dp=8, zero=3, global_batch=8)).plan.memory.fits  # doctest: +SKIP
        True
    """
    found = machine if not isinstance(machine, str) else find_machine(machine)
    device = found.device
    ceilings = ceilings_of(found, EAGER)
    launch_s = attained(device.family, device.kind, EAGER).launch_s_prefill
    ops = on_device(trace)
    high_ledger, low_ledger = traced_ledger(trace, fused=False), traced_ledger(trace, fused=True)
    high, low = lay_on(high_ledger, ceilings, launch_s=launch_s), lay_on(low_ledger, ceilings)
    phases = tuple(_phase(trace, phase, ceilings, launch_s) for phase in PHASES if any(op.phase == phase for op in ops))
    low_s, high_s = sum(phase.low_s for phase in phases), sum(phase.high_s for phase in phases)
    peak = trace.peak.held.total
    beside = host_process_bytes(peak) if device.kind == "cpu" else find_reserve(EAGER).context
    reserve = beside.value
    usable = device.memory_bytes.value - held_back_bytes(device)
    fits = peak + reserve <= usable
    counted = model_flops(trace)
    fastest = _peak_rate(high_ledger.flops * high_ledger.repeat, rates(high_ledger, ceilings))
    planned = None if plan is None else replace(plan_trace(trace, found, plan, fastest, named), assumed=assumed)
    return TraceEstimate(
        trace=trace, machine=found.name, peak_bytes=peak, reserve_bytes=reserve, usable_bytes=usable, fits=fits,
        low_s=low_s, high_s=high_s, floor_s=float(low.floor_s[0]),
        mfu_low=counted / fastest / high_s, mfu_high=counted / fastest / low_s,
        verdict=_spent_on(high) if fits else "capacity",
        phases=phases,
        operators=_operators(trace, ops, high_ledger_bounds=row_bounds(high_ledger, ceilings), low=low, high=high),
        provenance=_provenance(device, beside), notes=_notes(trace, 1 if planned else found.devices, ops),
        plan=planned,
    )  # fmt: skip


def _phase(trace: Trace, phase: str, ceilings: Ceilings, launch_s: float) -> TracedPhase:
    ops = [op for op in on_device(trace) if op.phase == phase]
    high = lay_on(traced_ledger(trace, fused=False, phase=phase), ceilings, launch_s=launch_s)
    low = lay_on(traced_ledger(trace, fused=True, phase=phase), ceilings)
    return TracedPhase(
        phase=phase,
        flops=sum(op.flops for op in ops),
        fused_bytes=sum(op.fused_bytes for op in ops),
        unfused_bytes=sum(map(unfused_bytes, ops)),
        low_s=float(low.total[0]),
        high_s=float(high.total[0]),
        bound=_spent_on(high),
        bound_fused=_spent_on(low),
    )


def _spent_on(timing: Timing) -> str:
    """Return the resource most seconds are spent on; weights and activations are one memory here."""
    spent = dict(zip(TIME_RESOURCES, timing.spent[:, 0], strict=True))
    memory = sum(spent.pop(name) for name in ("weight-bandwidth", "kv-bandwidth", "activation-bandwidth"))
    spent["memory-bandwidth"] = memory
    return max(spent, key=lambda name: float(spent[name]))


def _operators(
    trace: Trace, ops: tuple[TracedOp, ...], *, high_ledger_bounds: NDArray[np.int64], low: Timing, high: Timing
) -> tuple[TracedSeconds, ...]:
    """Return the seconds of every operator of the trace; what does nothing on a device takes none."""
    rows = {id(op): row for row, op in enumerate(ops)}
    return tuple(
        TracedSeconds(
            float(low.rows[rows[id(op)], 0]),
            float(high.rows[rows[id(op)], 0]),
            _words(TIME_RESOURCES[high_ledger_bounds[rows[id(op)], 0]]),
        )
        if id(op) in rows
        else TracedSeconds(0.0, 0.0, "")
        for op in trace.operators
    )


def _words(resource: str) -> str:
    return "memory-bandwidth" if resource.endswith("-bandwidth") else resource


def _peak_rate(flops: NDArray[Any], rate: NDArray[Any]) -> float:
    """Return the rate at which ``flops`` (rows, 1) would take as long as each at its own peak ``rate`` [FLOP/s]."""
    return float(flops.sum() / (flops / rate).sum())


def _provenance(device: Device, beside: Figure) -> tuple[Provenance, ...]:
    return (
        Provenance("FLOPs, bytes and memory", "derived", "the program's own operators, run on tensors without values"),
        Provenance("memory capacity", device.memory_bytes.how, device.memory_bytes.source),
        Provenance("memory bandwidth", device.memory_bytes_per_s.how, device.memory_bytes_per_s.source),
        Provenance("attained shares and floors", "calibrated", f"offsets of {EAGER} (docs/accuracy.md): PyTorch, one operator at a time"),
        Provenance("reserve", beside.how, beside.source),
    )  # fmt: skip


def _notes(trace: Trace, devices: int, ops: tuple[TracedOp, ...]) -> tuple[str, ...]:
    notes = []
    if devices > 1:
        notes.append("the step runs on one device of the machine; a plan (tp, pp, dp, zero, …) deals it out to several")
    if any(op.kind == "collective" for op in ops):
        notes.append("exchanges between processes count as the copies they make here")
    if trace.unknown:
        notes.append("operators without a FLOP formula count their bytes alone")
    return tuple(notes)

"""Trace estimate: a traced step laid on a device. Schema ``bytebound.trace-estimate/1``.

Times are a band between two programs, not an interval: ``high`` runs every traced operator by itself, as eager PyTorch does, and
``low`` fuses ideally, each tensor moved once where it crosses a fusion boundary and no kernel waits for Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bytebound.documents.trace import Trace
from bytebound.documents.training import TrainingMemory
from bytebound.documents.values import Provenance

TRACE_ESTIMATE_SCHEMA = "bytebound.trace-estimate/1"


@dataclass(frozen=True, slots=True)
class TracedPhase:
    """One phase of the step: its work, the band of its seconds, and what most of them are spent on at either end."""

    phase: str
    flops: float
    fused_bytes: float
    unfused_bytes: float
    low_s: float
    high_s: float
    bound: str
    bound_fused: str


@dataclass(frozen=True, slots=True)
class TracedSeconds:
    """One row of ``Trace.operators``, in the same order: the band of its seconds and what bounds it unfused."""

    low_s: float
    high_s: float
    bound: str


@dataclass(frozen=True, slots=True)
class DividedOp:
    """One row of ``Trace.operators``, in the same order, as a plan divides it: what one device does of it in a step.

    The mean over pipeline stages, all micro-batches together.
    """

    flops: float
    fused_bytes: float
    unfused_bytes: float


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What devices tell each other: ``times`` per step and device, ``payload_bytes`` each, among ``group`` devices."""

    name: str
    group: float
    payload_bytes: float
    times: float


@dataclass(frozen=True, slots=True)
class TracedPlan:
    """A traced step under a parallel plan: the fullest device's memory, and the band of the step's seconds.

    Args:
        work: the request as it was understood; ``assumed`` what was not stated, in words.
        devices, microbatches: at work; of one replica.
        memory: bytes by part on the fullest device at its peak, with the reserve of the plan's framework.
        low_s, high_s: of one step of all micro-batches, ideally fused and operator by operator, exchanges, bubble and optimizer in both.
        low, high: the same by part (``documents.training.TIME_PARTS``); link times are what computing does not hide.
        bubble_share: of ``high_s``. samples_per_s_low, samples_per_s_high: of the whole job.
        mfu_low, mfu_high: FLOPs of products, recomputed ones left out, over the peak of all devices.
        operators, exchanges: what is done and said.
    """

    work: dict[str, Any]
    devices: int
    microbatches: float
    memory: TrainingMemory
    low_s: float
    high_s: float
    low: dict[str, float]
    high: dict[str, float]
    bubble_share: float
    samples_per_s_low: float
    samples_per_s_high: float
    mfu_low: float
    mfu_high: float
    verdict: str
    operators: tuple[DividedOp, ...]
    exchanges: tuple[Exchanged, ...]
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TraceEstimate:
    """One traced step on one device of a machine, and where a plan was asked for on all devices of it.

    ``verdict`` is ``capacity`` where the peak and the reserve are more than is usable, else the resource most of the unfused step is
    spent on. ``low_s`` and ``high_s`` leave out what the trace does not see: loading data, exchanges between devices, Python
    between the operators where it takes longer than starting them.
    """

    trace: Trace
    machine: str
    peak_bytes: float
    reserve_bytes: float
    usable_bytes: float
    fits: bool
    low_s: float
    high_s: float
    floor_s: float
    mfu_low: float
    mfu_high: float
    verdict: str
    phases: tuple[TracedPhase, ...]
    operators: tuple[TracedSeconds, ...]
    provenance: tuple[Provenance, ...]
    notes: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    plan: TracedPlan | None = None
    schema_: str = TRACE_ESTIMATE_SCHEMA

    def explain(self) -> str:
        """Return the chain of evidence, one line per number."""
        lines = [f"{item.what}: {item.how}, {item.source}" for item in self.provenance]
        return "\n".join([self.trace.explain(), *lines])

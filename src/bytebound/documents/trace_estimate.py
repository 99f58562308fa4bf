"""Trace estimate: a traced step laid on a device. Schema ``bytebound.trace-estimate/1``.

Times are a band between two programs, not an interval: ``high`` runs every traced operator by itself, as eager PyTorch does, and
``low`` fuses ideally, each tensor moved once where it crosses a fusion boundary and no kernel waits for Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bytebound.documents.trace import Trace
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
class TraceEstimate:
    """One traced step on one device of a machine.

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
    schema_: str = TRACE_ESTIMATE_SCHEMA

    def explain(self) -> str:
        """Return the chain of evidence, one line per number."""
        lines = [f"{item.what}: {item.how}, {item.source}" for item in self.provenance]
        return "\n".join([self.trace.explain(), *lines])

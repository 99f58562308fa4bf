"""Watched: what a real training run held and took, beside what we predict of it. Schema ``bytebound.watched/1``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bytebound.documents.observation import Spread
from bytebound.documents.trace import CATEGORIES, Held
from bytebound.documents.values import Interval, Provenance

WATCHED_SCHEMA = "bytebound.watched/1"


@dataclass(frozen=True, slots=True)
class WatchedOptimizer:
    """One optimizer as the program made it: class, how it runs (fused, foreach, loop or ""), parameters it steps, settings."""

    name: str
    module: str
    kernel: str
    parameters: float
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WatchedModel:
    """The model as the program made it.

    Args:
        name: of its class; ``source`` is the checkpoint it says it comes from, ``config`` its Hugging Face config ({}: none).
        parameters: all of them; ``trainable`` and ``frozen`` count them by dtype.
        wrappers: DistributedDataParallel, OptimizedModule, PeftModel ..., outermost first.
        checkpointing: whether it says that activations are recomputed.
        attention: implementation, where the model says so; ``adapters``: of PEFT, by name.
    """

    name: str
    parameters: float
    trainable: dict[str, float] = field(default_factory=dict)
    frozen: dict[str, float] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    compiled: bool = False
    checkpointing: bool = False
    attention: str = ""
    source: str = ""
    adapters: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WatchedPeak:
    """The fullest moment of one step.

    Args:
        step: its number, from 1; ``phase``: forward, backward or optimizer.
        held: bytes alive at that moment by category, as the allocator handed them out.
        after_forward_bytes: alive when the first backward pass of the step began.
        other_bytes: what the allocator held besides, made before we looked (data, copies); None where it cannot tell (CPU).
        lead: a step whose first frees could not be seen, used only where nothing better was recorded.
    """

    step: int
    phase: str
    held: Held
    after_forward_bytes: float
    other_bytes: float | None = None
    lead: bool = False


@dataclass(frozen=True, slots=True)
class WatchedRank:
    """One process of the run.

    Args:
        steps: optimizer steps it took; ``timed``: seconds of those that were neither among the first two nor looked at closely.
        samples, tokens: of one step of this process (0: not known); ``microbatches``: backward passes of a step.
        states: parameters (and buffers), gradients and optimizer states between steps, each storage once; ``elsewhere_bytes``
            of them lie on another device.
        max_allocated_bytes, max_reserved_bytes: of the whole run by the accelerator's allocator; None on a CPU.
        rss_bytes: most resident memory of the process. ``recording_share``: of a timed step that went into our own hooks.
    """

    rank: int
    world: int
    pid: int
    device: str
    device_name: str
    threads: float
    versions: dict[str, str]
    model: WatchedModel | None
    optimizers: tuple[WatchedOptimizer, ...]
    steps: int
    timed: Spread | None
    samples: float
    tokens: float
    seq: float
    microbatches: float
    autocast: str
    states: Held | None
    elsewhere_bytes: float
    peak: WatchedPeak | None
    max_allocated_bytes: float | None
    max_reserved_bytes: float | None
    rss_bytes: float
    recording_share: float
    inputs: dict[str, Any] = field(default_factory=dict)
    seconds: tuple[float, ...] = ()
    finished: bool = True
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchedPrediction:
    """What one of our ways says about the same step: ``trace`` (its code run with fake tensors) or ``formulas``."""

    how: str
    held: Held
    phase: str = ""
    step_s: Interval | None = None
    notes: tuple[str, ...] = ()

    def error(self, measured: Held, category: str) -> float | None:
        """Return predicted / measured − 1 of a category or of the ``total``; None where nothing was measured."""
        seen = getattr(measured, category)
        return getattr(self.held, category) / seen - 1 if seen > 0 else None


PARTS = (*CATEGORIES, "total")
"""What is laid side by side."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One watched run.

    Args:
        command: as it was typed; empty where the run was watched from Python.
        exit_code: of the command (negative: the signal that ended it); ``why`` says in words what cut the run short.
        ranks: processes that took optimizer steps, by rank.
        request: what was asked of ``bytebound train`` for the prediction; None where it cannot be asked.
        predictions: each way's answer, the best first.
    """

    id: str
    when: str
    command: tuple[str, ...]
    exit_code: int
    seconds: float
    machine: str
    ranks: tuple[WatchedRank, ...]
    request: dict[str, Any] | None = None
    predictions: tuple[WatchedPrediction, ...] = ()
    why: str = ""
    notes: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    provenance: tuple[Provenance, ...] = ()
    schema_: str = WATCHED_SCHEMA

    @property
    def fullest(self) -> WatchedRank | None:
        """The process that held most at its peak."""
        return max(self.ranks, key=lambda rank: (rank.peak.held.total if rank.peak else 0.0, -rank.rank), default=None)

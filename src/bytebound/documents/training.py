"""Training estimate: what one optimizer step holds, moves and takes, with intervals. Schema ``bytebound.train/1``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bytebound.documents.estimate import MachineFacts, ModelFacts, NextWall
from bytebound.documents.values import Flag, Interval, Number, Provenance, Text

TRAINING_SCHEMA = "bytebound.train/1"

MEMORY_PARTS = ("parameters", "gradients", "optimizer", "activations", "temporary", "reserve")
"""What the memory of a training device is held by. ``activations``: kept from forward to backward; ``temporary``: everything
else alive at the peak; ``reserve``: context, communication buffers and what the allocator cannot use."""

TIME_PARTS = (
    "compute", "memory", "recompute", "scale_up_link", "scale_out_link", "host_link", "bubble", "optimizer", "overhead",
)  # fmt: skip
"""What the seconds of a step are spent on; they add up to the step. Links: exposed time only, what computing hides is not here."""

CONVENTIONS = ("causal", "full", "causal+embedding", "full+embedding")
"""What a published MFU counts: half or all of the attention scores, with or without 6 FLOPs per embedding parameter."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on the fullest device at its peak, by part, against what is really usable.

    ``allocated_bytes`` is all but the reserve, what ``torch.cuda.max_memory_allocated`` shows; ``low_bytes`` to ``high_bytes`` is
    the 80 % interval of ``total_bytes``; ``host_bytes`` lie in host memory (offload); ``peak`` says when the peak is.
    """

    parameters: Number
    gradients: Number
    optimizer: Number
    activations: Number
    temporary: Number
    reserve: Number
    allocated_bytes: Number
    total_bytes: Number
    low_bytes: Number
    high_bytes: Number
    usable_bytes: Number
    fits: Flag
    probability_fits: Number
    host_bytes: Number = 0.0
    peak: Text = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One change that makes a job fit, or lets it use more: what to do, and what it costs.

    ``flags`` are the arguments of ``bytebound train`` that differ; ``step_ratio`` the new step time per token over the old one
    (None where the old one does not fit anywhere); ``quality`` what it risks.
    """

    name: str
    flags: dict[str, Any]
    total_bytes: float
    usable_bytes: float
    fits: bool
    probability_fits: float
    step_s: float
    tokens_per_s_per_device: float
    step_ratio: float | None
    devices: int
    usd_per_btok: float | None
    quality: str
    source: str


@dataclass(frozen=True, slots=True)
class Fitting:
    """What ``train --fit`` found: the largest micro-batch and sequence, the fewest devices, and changes, cheapest first."""

    largest_micro_batch: int
    longest_seq: int
    fewest_devices: int
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainEstimate:
    """The answer to one training request, or to an array of requests of one shape.

    ``mfu`` counts model FLOPs under ``convention`` over the dense peak of the widest dtype the precision multiplies in; ``hfu`` adds
    what is recomputed; ``mfu_by_convention`` converts. ``time`` is the step by part (``TIME_PARTS``).
    """

    model: ModelFacts
    machine: MachineFacts
    work: dict[str, Any]
    step_s: Interval
    tokens_per_s: Interval
    tokens_per_s_per_device: Interval
    mfu: Interval
    hfu: Interval
    mfu_by_convention: dict[str, Number]
    model_flops: Number
    hardware_flops: Number
    memory: TrainingMemory
    time: dict[str, Number]
    bubble_share: Number
    microbatches: Number
    verdict: Text
    elasticity: dict[str, Number]
    next_wall: NextWall | None
    usd_per_btok: Interval | None
    usd_total: Interval | None
    days_total: Interval | None
    joules_per_token: Interval | None
    power_w: Number | None
    provenance: tuple[Provenance, ...]
    convention: str = "causal"
    framework: str = ""
    fitting: Fitting | None = None
    notes: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    schema_: str = TRAINING_SCHEMA

    def explain(self) -> str:
        """Return the chain of evidence, one line per number."""
        lines = [f"{item.what}: {item.how}, {item.source}" for item in self.provenance]
        return "\n".join([*lines, *(f"{key}: unknown, {why}" for key, why in self.missing.items())])

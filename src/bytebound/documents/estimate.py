"""Estimate: a ledger laid on a machine. What it holds, how long it takes, what binds, and how we know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bytebound.documents.values import Flag, Interval, Number, Provenance, Text

ESTIMATE_SCHEMA = "bytebound.estimate/1"

RESOURCES = (
    "capacity",
    "weight-bandwidth",
    "kv-bandwidth",
    "activation-bandwidth",
    "compute",
    "scale-up-link",
    "scale-out-link",
    "host-link",
    "overhead",
)
"""Everything that can bind, in the order verdicts are listed."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the model is, in three numbers; ``asked`` is how it was named (a file's path, a bundled id)."""

    name: str
    parameters: Number
    active_parameters: Number
    kv_bytes_per_token: Number
    asked: str = ""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Which machine, and how many devices the work uses of how many there are; ``asked`` as it was written, where that is not its name."""

    name: str
    devices: Number
    used: Number
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest device, against what is really usable; ``max_kv_tokens`` per replica."""

    weights_bytes: Number
    kv_bytes: Number
    activation_bytes: Number
    reserve_bytes: Number
    total_bytes: Number
    usable_bytes: Number
    fits: Flag
    max_kv_tokens: Number


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """One operator class on one device: totals over its repeats in one step."""

    name: str
    role: str
    repeat: Number
    flops: Number
    weight_bytes: Number
    kv_bytes: Number
    activation_bytes: Number
    network_bytes: Number
    seconds: Number
    bound: Text


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of prefill or decode on one device.

    ``mbu`` counts weight and KV bytes against datasheet bandwidth, ``mfu`` model FLOPs against the dense peak of the
    dtype in use; ``shares`` is the share of the step's time by resource.
    """

    seconds: Number
    flops: Number
    weight_bytes: Number
    kv_bytes: Number
    activation_bytes: Number
    network_bytes: Number
    intensity: Number
    mbu: Number
    mfu: Number
    bound: Text
    shares: dict[str, Number]
    floor_s: Number
    operators: tuple[OperatorTime, ...] = ()


@dataclass(frozen=True, slots=True)
class NextWall:
    """What binds after the present verdict, and at which batch or context."""

    resource: str
    at: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer to one request, or to an array of requests of one shape.

    ``grade`` says how the times were made: *scaled* by efficiencies measured elsewhere, or *calibrated* by probes of this
    engine on this machine. A phase's ``floor_s`` is the third grade, the *bound*: a limit, never a forecast.
    """

    model: ModelFacts
    machine: MachineFacts
    work: dict[str, Any]
    ttft_s: Interval
    tpot_s: Interval
    tokens_per_s: Interval
    request_s: Interval
    memory: Memory
    decode: Phase
    prefill: Phase
    verdict: Text
    elasticity: dict[str, Number]
    next_wall: NextWall | None
    usd_per_mtok: Interval | None
    joules_per_token: Interval | None
    power_w: Number | None
    provenance: tuple[Provenance, ...]
    notes: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    grade: str = "scaled"
    schema_: str = ESTIMATE_SCHEMA

    def explain(self) -> str:
        """Return the chain of evidence, one line per number."""
        lines = [f"{item.what}: {item.how}, {item.source}" for item in self.provenance]
        return "\n".join([*lines, *(f"{key}: unknown, {why}" for key, why in self.missing.items())])

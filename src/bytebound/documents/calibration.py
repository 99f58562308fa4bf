"""Calibration: what one engine really costs on this machine, from a few small probes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from bytebound.documents.observation import Spread

CALIBRATION_SCHEMA = "bytebound.calibration/1"


@dataclass(frozen=True, slots=True)
class FormatCost:
    """Seconds per weight byte of matrix products in one weight format, by the tokens that share one pass.

    ``part`` is ``body`` (the layers) or ``head`` (the output matrix: many rows, few columns). Beyond the last point the
    products are compute-bound: seconds grow with tokens.
    """

    part: str
    weights: str
    columns: float
    tokens: tuple[float, ...]
    s_per_byte: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AttentionCost:
    """Seconds of attention per query head and layer: decoding one token by depth, and per query-key pair in prefill.

    ``s_per_query`` counts from an empty context, whose cost is part of the layer's.
    """

    flash: str
    kv: str
    heads: float
    kv_heads: float
    head_dim: float
    depth: tuple[float, ...]
    s_per_query: tuple[float, ...]
    s_per_pair: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Costs of one engine here, by its weight formats, its attention, per layer and per step.

    ``spread`` is the probes' own relative half-width (10 to 90 %); ``layers`` and ``bytes`` say for how large a model the
    caches were emptied between steps.
    """

    id: str
    when: str
    engine: str
    engine_version: str
    machine: str
    threads: float
    formats: tuple[FormatCost, ...]
    attention: AttentionCost
    s_per_step: float
    s_per_layer: float
    memory_bytes_per_s: float
    spread: float
    samples: int
    disturbed: float
    seconds: float
    shape: dict[str, float | str] = field(default_factory=dict)
    probes: dict[str, Spread] = field(default_factory=dict)
    canaries: dict[str, Spread] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    schema_: str = CALIBRATION_SCHEMA

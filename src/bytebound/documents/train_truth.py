"""Training truth: one measured number of a training run in our vocabulary, and where it was published."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bytebound.documents.work import Train

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.architecture import Architecture

TRAIN_METRICS: Mapping[str, tuple[str, str]] = {
    "step_s": ("s", "wall time of one optimizer step in steady state"),
    "tokens_per_s_per_device": ("1/s", "tokens trained on per second and device in steady state"),
    "flop_per_s_per_device": ("FLOP/s", "model FLOPs per second and device under the row's convention"),
    "mfu": ("1", "model FLOPs per second over the dense peak under the row's convention"),
    "allocated_bytes": ("B", "peak bytes the allocator handed out on the fullest device (max_memory_allocated)"),
    "reserved_bytes": ("B", "peak bytes the allocator took from the driver"),
    "device_bytes": ("B", "peak bytes the driver shows as used (context included)"),
    "fits": ("1", "1 where the run fitted, 0 where it ran out of memory"),
}
"""Metric -> its unit, and what is counted."""

Basis = Literal["causal", "full", "causal+embedding", "full+embedding", "hardware", ""]
"""Which FLOPs a row counts (``documents.training.CONVENTIONS``); hardware: what is recomputed too."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a run's model is built: a bundled model, cut to ``layers`` where a run had fewer, or a family of own dimensions.

    Args:
        model: a bundled model's id, or what to call one of own dimensions.
        family: empty for a bundled model, else ``gpt`` (learned positions, biases, tied), ``bloom``, ``llama``, ``neox``,
            ``nemotron`` (squared ReLU, no biases) or ``deepseek-v2``, whose dimensions are published.
        layers: how many the run had (0: as the bundled model). dense_layers: how many of the first have no experts
            (-1: as the bundled model).
        untied: whether the head has weights of its own although the bundled model shares the embedding's.
        hidden, heads, kv_heads, head_dim, ffn, vocab, positions: of a model of own dimensions, as its configuration says;
            0 where the family has none or derives it.
    """

    model: str
    family: str = ""
    layers: int = 0
    dense_layers: int = -1
    untied: bool = False
    hidden: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    ffn: int = 0
    vocab: int = 0
    positions: int = 0


@dataclass(frozen=True, slots=True)
class TrainTruth:
    """One measured number of a training run.

    Args:
        id: unique; ``run`` is shared by all numbers of one run.
        source: short key of the publication; ``locator`` finds the number in it.
        model: name as we say it; ``architecture`` its exact shape (layers as the run had them).
        device: our device id; ``devices`` used, ``per_node`` of them in one node.
        work: the request, scalars only; its ``framework`` is the run's.
        metric: a key of ``TRAIN_METRICS``; ``value`` in its unit; ``basis`` of FLOP counts.
        uncertain: what the source does not state and had to be assumed, one phrase each.
        shape: what ``architecture`` was built from.
    """

    id: str
    run: str
    source: str
    locator: str
    model: str
    architecture: Architecture
    device: str
    devices: int
    metric: str
    value: float
    work: Train = field(default_factory=Train)
    per_node: int = 8
    basis: Basis = ""
    trust: Literal["A", "B", "C"] = "B"
    uncertain: tuple[str, ...] = ()
    notes: str = ""
    licence: str = ""
    shape: Shape = field(default_factory=lambda: Shape(""))

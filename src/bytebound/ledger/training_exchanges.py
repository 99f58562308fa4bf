"""What the devices of a training job tell each other in one step: tensor, context, expert, pipeline and data parallelism, offload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bytebound.ledger import table as t
from bytebound.ledger.request import WIDTH_GROWTH_EXPONENT
from bytebound.ledger.training_job import WEIGHT_BYTES, adapted_widths, local_parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.ledger.table import OpTable
    from bytebound.ledger.training_job import Job

    Array = NDArray[Any]

REDUCE, GATHER, ALL_TO_ALL, RING, SEND, HOST = range(6)
"""Sum over a group; gather or reduce-scatter; exchange; pass around; pass on; cross the host link."""
NOTHING, PRODUCTS, SCORES, FORWARD_PASS, BACKWARD_PASS, FIRST_FORWARD, LAST_BACKWARD, STAGE = range(8)
"""What runs at the same time: nothing; tensor-parallel products (as far as a framework overlaps them); attention; the forward or the
backward pass of every micro-batch; those of the first or last micro-batch of a step; a stage's other micro-batches."""
OVERLAPPING = frozenset({"megatron", "fsdp", "jax", "hf", "litgpt"})
"""Frameworks that sum gradients while the backward pass runs. Megatron-DeepSpeed of 2022 did it at the end of the step."""


@dataclass(frozen=True, slots=True)
class Exchanges:
    """Struct of arrays (exchanges, requests).

    Args:
        names: what it is. kind, hider: see the constants above, (exchanges,).
        payload_bytes: the whole message of a sum or a gather; what one device sends otherwise.
        copies: of a token that an exchange sends to different devices, (exchanges, 1); 1 elsewhere.
        group, stride: devices that take part, and how many devices lie between two of them.
        events: how often: over all layers of one micro-batch, or of one step where ``per_step``, (exchanges,).
    """

    names: tuple[str, ...]
    kind: NDArray[np.int64]
    hider: NDArray[np.int64]
    per_step: NDArray[np.bool_]
    payload_bytes: Array
    copies: Array
    group: Array
    stride: Array
    events: Array


class _Exchange(NamedTuple):
    name: str
    kind: int
    hider: int
    per_step: bool
    payload: Array
    group: Array
    stride: Array
    events: Array | float
    copies: float = 1.0


def exchanges(table: OpTable, job: Job) -> Exchanges:
    """Return every exchange of one step, from the innermost group (tensor) to the outermost (pipeline).

    Volumes: 4 sums of 2 s b h per layer and micro-batch for tensor parallelism, or as many gathers with reduce-scatters
    (Korthikanti et al. 2022 section 4.2.2); dispatch and combine of the chosen experts' tokens, forward and backward; keys and
    values around the context group; 2 s b h per pipeline boundary (dealt out with sequence parallelism); gradients and
    parameters over the data-parallel group, 2 N elements or 3 N with ZeRO 3 (arXiv 1910.02054 section 7).
    """
    found = [
        row
        for row in (
            *_tensor(table, job),
            *_experts(table, job),
            *_pipeline(table, job),
            *_data(table, job),
            *_offload(table, job),
        )
        if bool(np.any((row.group > 1) & (row.payload > 0) & (np.asarray(row.events) > 0)))
    ]
    width = max((np.size(v) for row in found for v in row[4:8]), default=1)

    def laid(index: int) -> Array:
        return np.array([np.broadcast_to(row[index], width) for row in found], dtype=float).reshape(len(found), width)

    live = laid(5) > 1
    return Exchanges(
        names=tuple(row.name for row in found), kind=np.array([row.kind for row in found], dtype=np.int64),
        hider=np.array([row.hider for row in found], dtype=np.int64), per_step=np.array([row.per_step for row in found], dtype=bool),
        payload_bytes=np.where(live, laid(4), 0.0), copies=np.array([[row.copies] for row in found]).reshape(-1, 1), group=laid(5), stride=laid(6), events=np.where(live, laid(7), 0.0),
    )  # fmt: skip


def _hidden_bytes(table: OpTable, job: Job) -> Array:
    return np.asarray(WEIGHT_BYTES[job.wide] * job.tokens * table.hidden * job.scale**WIDTH_GROWTH_EXPONENT)


def _tensor(table: OpTable, job: Job) -> list[_Exchange]:
    p, s = table.products, table.scores
    rowed = (p.reduces > 0) & (p.stream == t.MAIN)
    dense = float((p.repeat * (rowed & (p.copies == 1))).sum())
    routed = float((p.repeat * (rowed & (p.copies > 1))).sum())
    message = _hidden_bytes(table, job)
    kind, halves = (GATHER, 2.0) if job.together else (REDUCE, 1.0)
    one = np.ones(1)
    cached = ((s.kv_heads * (s.qk_dim + s.v_dim)) * s.repeat * (s.stream == t.MAIN)).sum()
    passed = WEIGHT_BYTES[job.wide] * job.tokens * cached / job.tp * (job.cp - 1)
    return [
        _Exchange("tensor parallel", kind, PRODUCTS, False, message, job.tp, one, halves * dense * (2 + job.again)),
        _Exchange("tensor parallel experts", kind, PRODUCTS, False, message, job.expert_tp, one, halves * routed * (2 + job.again)),
        _Exchange("vocabulary", kind, NOTHING, False, message, job.tp, one, halves * 2.0),
        _Exchange("keys and values", RING, SCORES, False, passed, job.cp, job.tp, 3.0 + job.again),
    ]  # fmt: skip


def _experts(table: OpTable, job: Job) -> list[_Exchange]:
    p = table.products
    routed = (p.reduces > 0) & (p.copies > 1)
    layers, active = float((p.repeat * routed).sum()), float((p.active * routed).max(initial=0.0))
    sent = _hidden_bytes(table, job) * active / job.tp
    return [
        _Exchange(
            "experts",
            ALL_TO_ALL,
            NOTHING,
            False,
            sent,
            job.ep,
            job.expert_tp,
            2 * layers * (2 + job.again),
            max(active, 1.0),
        )
    ]


def _pipeline(table: OpTable, job: Job) -> list[_Exchange]:
    # each tensor-parallel device sends its part, which is gathered on the other side (arXiv 2104.04473 section 4.1)
    sent = _hidden_bytes(table, job) / job.tp
    stage = job.tp * job.dp * job.cp
    # an average stage does 1 / pp of a micro-batch's events, as of everything else over all layers
    hider = STAGE if job.work.schedule == "interleaved" else NOTHING  # Megatron overlaps sends of interleaved chunks
    return [_Exchange("pipeline", SEND, hider, False, sent, job.pp, stage, 2 * job.virtual * job.pp)]


def _data(table: OpTable, job: Job) -> list[_Exchange]:
    work, size = job.work, local_parameters(table, job)
    weight = 4.0 if work.precision == "fp32" else 2.0
    gradient = 4.0 if work.gradients == "fp32" else 2.0
    group = job.dp * job.cp
    apart = np.maximum(group * job.tp / (job.ep * job.expert_tp), 1.0)
    together = work.framework in OVERLAPPING
    layers = table.layers / job.pp
    sharded = job.zero >= 3
    # torch's FSDP and DeepSpeed reduce gradients of every micro-batch from stage 2 up, Megatron once a step below stage 3
    often = sharded | ((job.zero >= 2) & (work.framework != "megatron"))
    last = LAST_BACKWARD if together else NOTHING
    first = FIRST_FORWARD if together and work.framework == "megatron" else NOTHING
    rows = []
    dense, experts = size.dense + size.vocabulary, size.experts
    if work.trainable != "full":
        adapters = job.rank * sum(adapted_widths(table, work.lora_targets)) / (job.tp * job.pp)
        parts = [("adapters", adapters, group, job.tp)]
        frozen = [("frozen weights", dense, group, job.tp), ("frozen experts", experts, apart, job.ep * job.expert_tp)]
        rows += [
            _Exchange(
                name, GATHER, hider, False, weight * held / layers, np.where(sharded, among, 1.0), stride, table.layers
            )
            for name, held, among, stride in frozen
            for hider in (FORWARD_PASS, BACKWARD_PASS)
        ]
    else:
        parts = [("dense", dense, group, job.tp), ("experts", experts, apart, job.ep * job.expert_tp)]
    for name, held, among, stride in parts:
        once = [
            (f"gradients of {name}", REDUCE, last, np.where((job.zero < 1) & ~often, among, 1.0), gradient),
            (f"gradients of {name}", GATHER, last, np.where((job.zero >= 1) & ~often, among, 1.0), gradient),
            (f"weights of {name}", GATHER, first, np.where((job.zero >= 1) & ~sharded & ~(often & (work.framework == "fsdp")), among, 1.0), weight),
        ]  # fmt: skip
        rows += [
            _Exchange(what, kind, hider, True, width * held / layers, members, stride, layers)
            for what, kind, hider, members, width in once
        ]
        each = [
            (f"weights of {name}", FORWARD_PASS, sharded | (often & (work.framework == "fsdp")), weight),
            (f"weights of {name}, backward", BACKWARD_PASS, sharded, weight),
            (f"gradients of {name}", BACKWARD_PASS, often, gradient),
        ]
        if work.trainable != "full":
            each = each[2:]
        rows += [
            _Exchange(
                what, GATHER, hider, False, width * held / layers, np.where(live, among, 1.0), stride, table.layers
            )
            for what, hider, live, width in each
        ]
    return rows


def _offload(table: OpTable, job: Job) -> list[_Exchange]:
    """Return what crosses the host link: gradients down and weights up once a step, parameters twice a micro-batch."""
    work = job.work
    if work.offload == "none":
        return []
    size = local_parameters(table, job)
    held = size.dense + size.vocabulary + size.experts
    group = np.where(job.zero >= 1, job.dp * job.cp, 1.0)
    two = np.full(1, 2.0)
    gradient = 4.0 if work.gradients == "fp32" else 2.0
    rows = [_Exchange("optimizer offload", HOST, NOTHING, True, (gradient + 2.0) * held / group, two, two, 1.0)]
    if work.offload.startswith("parameters"):
        shard = np.where(job.zero >= 3, job.dp * job.cp, 1.0)
        rows.append(
            _Exchange("parameter offload", HOST, FORWARD_PASS, False, 2.0 * held / shard * job.pp, two, two, 2.0)
        )
    return rows

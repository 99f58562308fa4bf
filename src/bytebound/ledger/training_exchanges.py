"""What the devices of a training job tell each other in one step: tensor, context, expert, pipeline and data parallelism, offload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bytebound.ledger import table as t
from bytebound.ledger.request import WIDTH_GROWTH_EXPONENT
from bytebound.ledger.states import adapted_widths, frozen_bytes, whole_in_step
from bytebound.ledger.training_job import WEIGHT_BYTES, local_parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.ledger.table import OpTable
    from bytebound.ledger.training_job import Job

    Array = NDArray[Any]

REDUCE, GATHER, ALL_TO_ALL, RING, SEND, TENSORWISE, HOST, PROCESSOR, DRIVE = range(9)
"""Sum over a group; gather or reduce-scatter; exchange; pass around; pass on; gather a layer tensor by tensor; cross the host link; step
in host memory; cross the host's NVMe drive. What is payload of the last two is of all devices of a host."""
NOTHING, PRODUCTS, SCORES, FORWARD_PASS, BACKWARD_PASS, FIRST_FORWARD, LAST_BACKWARD, STAGE = range(8)
"""What runs at the same time: nothing; tensor-parallel products (as far as a framework overlaps them); attention; the forward or the
backward pass of every micro-batch; those of the first or last micro-batch of a step; a stage's other micro-batches."""
STEP_BYTES, STATE_BYTES = 30.0, 12.0
"""Bytes per parameter a host's processor moves in a step of Adam (weight, two moments and gradient read, all but the gradient and a
16-bit copy written), and bytes of 32-bit weight and moments."""
DEVICES_PER_HOST = 8.0
"""Devices that share one host at most (assumed: nodes of eight)."""
TENSOR_BY_TENSOR = frozenset({"deepspeed"})
"""Frameworks that gather parameters tensor by tensor, in messages too small for all links of a node; FSDP gathers a layer at once."""
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


@dataclass(frozen=True, slots=True)
class Spoken:
    """What of a model is exchanged; numbers or (requests,).

    Args:
        hidden_bytes: of the residual stream of one micro-batch on one context-parallel rank.
        layers: of the model.
        dense, routed: products that end in a sum over tensor-parallel devices, summed over layers: dense ones and those of experts.
        expert_layers, active: layers that dispatch tokens to experts, and experts per token.
        cached: values of keys and values per token, summed over layers.
        trained, frozen: parameters of the fullest device before ZeRO: dense ones by their name, and those of experts.
        all_parameters: trained and frozen ones, which offloading moves.
    """

    hidden_bytes: Array
    layers: float
    dense: float
    routed: float
    expert_layers: float
    active: float
    cached: float
    trained: tuple[str, Array, Array]
    frozen: tuple[Array, Array]
    all_parameters: Array


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
    """Return every exchange of one step of a model of known operators; see ``exchanges_of``."""
    return exchanges_of(spoken(table, job), job)


def spoken(table: OpTable, job: Job) -> Spoken:
    """Return what a model of known operators exchanges."""
    p, s, work = table.products, table.scores, job.work
    rowed = (p.reduces > 0) & (p.stream == t.MAIN)
    routed = (p.reduces > 0) & (p.copies > 1)
    size = local_parameters(table, job)
    dense, nothing = size.dense + size.vocabulary, np.zeros(1)
    trained, frozen = ("dense", dense, size.experts), (nothing, nothing)
    if work.trainable != "full":
        adapters = job.rank * sum(adapted_widths(table, work.lora_targets)) / (job.tp * job.pp)
        trained, frozen = ("adapters", adapters, nothing), (dense, size.experts)
    return Spoken(
        hidden_bytes=WEIGHT_BYTES[job.wide] * job.tokens * table.hidden * job.scale**WIDTH_GROWTH_EXPONENT,
        layers=table.layers,
        dense=float((p.repeat * (rowed & (p.copies == 1))).sum()),
        routed=float((p.repeat * (rowed & (p.copies > 1))).sum()),
        expert_layers=float((p.repeat * routed).sum()),
        active=float((p.active * routed).max(initial=0.0)),
        cached=float(((s.kv_heads * (s.qk_dim + s.v_dim)) * s.repeat * (s.stream == t.MAIN)).sum()),
        trained=trained,
        frozen=frozen,
        all_parameters=np.asarray(dense + size.experts),
    )


def exchanges_of(model: Spoken, job: Job) -> Exchanges:
    """Return every exchange of one step, from the innermost group (tensor) to the outermost (pipeline).

    Volumes: 4 sums of 2 s b h per layer and micro-batch for tensor parallelism, or as many gathers with reduce-scatters
    (Korthikanti et al. 2022 section 4.2.2); dispatch and combine of the chosen experts' tokens, forward and backward; keys and
    values around the context group; 2 s b h per pipeline boundary (dealt out with sequence parallelism); gradients and
    parameters over the data-parallel group, 2 N elements or 3 N with ZeRO 3 (arXiv 1910.02054 section 7).
    """
    found = [
        row
        for row in (
            *_tensor(model, job),
            *_experts(model, job),
            *_pipeline(model, job),
            *_data(model, job),
            *_offload(model, job),
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


def _tensor(model: Spoken, job: Job) -> list[_Exchange]:
    message = model.hidden_bytes
    kind, halves = (GATHER, 2.0) if job.together else (REDUCE, 1.0)
    one = np.ones(1)
    passed = WEIGHT_BYTES[job.wide] * job.tokens * model.cached / job.tp * (job.cp - 1)
    return [
        _Exchange("tensor parallel", kind, PRODUCTS, False, message, job.tp, one, halves * model.dense * (2 + job.again)),
        _Exchange("tensor parallel experts", kind, PRODUCTS, False, message, job.expert_tp, one, halves * model.routed * (2 + job.again)),
        _Exchange("vocabulary", kind, NOTHING, False, message, job.tp, one, halves * 2.0),
        _Exchange("keys and values", RING, SCORES, False, passed, job.cp, job.tp, 3.0 + job.again),
    ]  # fmt: skip


def _experts(model: Spoken, job: Job) -> list[_Exchange]:
    sent = model.hidden_bytes * model.active / job.tp
    return [
        _Exchange(
            "experts",
            ALL_TO_ALL,
            NOTHING,
            False,
            sent,
            job.ep,
            job.expert_tp,
            2 * model.expert_layers * (2 + job.again),
            max(model.active, 1.0),
        )
    ]


def _pipeline(model: Spoken, job: Job) -> list[_Exchange]:
    # each tensor-parallel device sends its part, which is gathered on the other side (arXiv 2104.04473 section 4.1)
    sent = model.hidden_bytes / job.tp
    stage = job.tp * job.dp * job.cp
    # an average stage does 1 / pp of a micro-batch's events, as of everything else over all layers
    hider = STAGE if job.work.schedule == "interleaved" else NOTHING  # Megatron overlaps sends of interleaved chunks
    return [_Exchange("pipeline", SEND, hider, False, sent, job.pp, stage, 2 * job.virtual * job.pp)]


def _data(model: Spoken, job: Job) -> list[_Exchange]:
    work = job.work
    weight = 4.0 if work.precision == "fp32" else 2.0
    gradient = 4.0 if work.gradients == "fp32" else 2.0
    group = job.dp * job.cp
    apart = np.maximum(group * job.tp / (job.ep * job.expert_tp), 1.0)
    together = work.framework in OVERLAPPING
    layers = model.layers / job.pp
    sharded = job.zero >= 3
    # torch's FSDP and DeepSpeed reduce gradients of every micro-batch from stage 2 up, Megatron once a step below stage 3
    often = sharded | ((job.zero >= 2) & (work.framework != "megatron"))
    last = LAST_BACKWARD if together else NOTHING
    first = FIRST_FORWARD if together and work.framework in {"megatron", "fsdp"} else NOTHING
    whole = whole_in_step(work)[1].reshape(-1)  # gathered and reduced once a step
    sharded, often = sharded & ~whole, often & ~whole
    named, dense, experts = model.trained
    parts = [(named, dense, group, job.tp), ("experts", experts, apart, job.ep * job.expert_tp)]
    frozen = [
        ("frozen weights", model.frozen[0], group, job.tp),
        ("frozen experts", model.frozen[1], apart, job.ep * job.expert_tp),
    ]
    rows = [
        _Exchange(
            name,
            GATHER,
            hider,
            False,
            frozen_bytes(work) * held / layers,
            np.where(sharded, among, 1.0),
            stride,
            model.layers,
        )
        for name, held, among, stride in frozen
        for hider in (FORWARD_PASS, BACKWARD_PASS)
    ]
    rows += [
        _Exchange(
            name, GATHER, first, True, frozen_bytes(work) * held / layers, np.where(whole, among, 1.0), stride, layers
        )
        for name, held, among, stride in frozen
    ]
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
        gathered = TENSORWISE if work.framework in TENSOR_BY_TENSOR else GATHER
        each = [
            (f"weights of {name}", FORWARD_PASS, sharded | (often & (work.framework == "fsdp")), weight),
            (f"weights of {name}, backward", BACKWARD_PASS, sharded, weight),
            (f"gradients of {name}", BACKWARD_PASS, often, gradient),
        ]
        if work.trainable != "full":
            each = each[2:]
        rows += [
            _Exchange(
                what, gathered, hider, False, width * held / layers, np.where(live, among, 1.0), stride, model.layers
            )
            for what, hider, live, width in each
        ]
    return rows


def _offload(model: Spoken, job: Job) -> list[_Exchange]:
    """Return what offloading moves: gradients down and weights up once a step, the host's own step, parameters twice a micro-batch.

    JAX brings the states to the device and steps there. Source: ZeRO-Offload (arXiv 2101.06840) section 4, ZeRO-Infinity (arXiv 2104.07857).
    """
    work = job.work
    if work.offload == "none":
        return []
    held, group = model.all_parameters, job.dp * job.cp
    apart = np.maximum(group * job.tp / (job.ep * job.expert_tp), 1.0)
    _, dense, experts = model.trained
    own = np.where(job.zero >= 1, dense / group + experts / apart, dense + experts)
    together = np.minimum(job.devices, DEVICES_PER_HOST)
    two = np.full(1, 2.0)
    gradient = 4.0 if work.gradients == "fp32" else 2.0
    stays, nvme = work.framework != "jax", work.offload.endswith("-nvme")
    crossing = gradient + 2.0 if stays else 2 * STATE_BYTES

    def once(name: str, kind: int, each: float, sharing: Array | float = 1.0) -> _Exchange:
        return _Exchange(name, kind, NOTHING, True, each * sharing * own, two, two, 1.0)

    rows = [once("optimizer offload", HOST, crossing)]
    if stays:
        rows.append(once("optimizer step on the host", PROCESSOR, STEP_BYTES, together))
    if nvme:
        rows.append(once("optimizer states on NVMe", DRIVE, 2 * STATE_BYTES, together))
    if work.offload.startswith("parameters"):
        shard = np.where(job.zero >= 3, group, 1.0)
        sent = (
            (2.0 if work.trainable == "full" else frozen_bytes(work))
            * held
            / shard
            * job.pp
            * (together if nvme else 1.0)
        )
        rows.append(_Exchange("parameter offload", DRIVE if nvme else HOST, FORWARD_PASS, False, sent, two, two, 2.0))
    return rows

"""The seconds of one training step by what takes them: the ledger laid on ceilings, with what pipeline and network make it wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import PhysicsError
from bytebound.ledger.ledger import CONTEXT, ELEMENTWISE, EXPERT, MATH
from bytebound.ledger.training_exchanges import (
    ALL_TO_ALL,
    BACKWARD_PASS,
    DRIVE,
    FIRST_FORWARD,
    FORWARD_PASS,
    HOST,
    LAST_BACKWARD,
    PRODUCTS,
    REDUCE,
    RING,
    SCORES,
    SEND,
    STAGE,
    TENSORWISE,
)
from bytebound.ledger.training_job import AGAIN, BACKWARD, FORWARD
from bytebound.predict.roofline import between, join, rates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.ledger.training import TrainingLedger
    from bytebound.predict.roofline import Ceilings
    from bytebound.predict.training_attained import TrainingAttained

    Array = NDArray[Any]

HOST_LINK_SHARE = 0.8
"""Share of a host link that pinned copies reach. Source: FlexGen's fitted cost model, 12.89 of PCIe 3's 16 GB/s to a T4."""
HOST_STEP_BYTES_PER_S = 1.17e11
"""Bytes per second a host moves while it steps. Source: ZeRO-Offload (arXiv 2101.06840) table 4, CPU-Adam steps 10 billion parameters
in 2.57 s on two Xeons, at 30 bytes each; one host for all its devices."""
DRIVE_BYTES_PER_S = 6e9
"""Bytes per second of a host's NVMe drives (assumed: one PCIe 4 drive)."""
WIDEST_HEAD = 256.0
"""Query and value widths together from which attention kernels are at full speed (heads of 128)."""


@dataclass(frozen=True, slots=True)
class Passes:
    """Seconds of one micro-batch over all layers on one device, (requests,): the layers' and the head's by pass, and by resource."""

    layers: Array
    head: Array
    computing: Array
    moving: Array
    again: Array
    scores: Array
    kernels: Array


def step_parts(ledger: TrainingLedger, c: Ceilings, found: TrainingAttained) -> tuple[Mapping[str, Array], Array]:
    """Return the seconds of one step by ``documents.training.TIME_PARTS``, and the share of it that is bubble, (requests,).

    A stage does its layers' passes one after another; rows join both roofs as in ``roofline.join``. What an exchange can hide
    behind costs the hypotenuse of both instead of their sum. The longest stage sets the pace: with micro-batches m, stages p
    and the schedule's bubble share β a step is ``m t_longest + β/(1 − β) m t_mean``.

    Args:
        ledger: of the job.
        c: the device's ceilings.
        found: what kernels attain.

    Raises:
        PhysicsError: faster than its FLOPs at peak or its bytes at datasheet bandwidth (a bug of ours).
    """
    job = ledger.job
    m, pp = job.microbatches, job.pp
    once = _passes(ledger, c, found)
    up, out, host, step_up, step_out, step_host = _exposed(ledger, c, found, once)
    stage = (once.layers + once.head).sum(axis=0)
    launched = np.hypot(stage, found.launch_s * once.kernels) - stage
    experts = found.expert_s * _expert_layers(ledger) * (2.0 + job.again)
    mean = (stage + launched + experts + up + out + host) / pp
    uneven = np.maximum(_longest(ledger, once, mean) - mean, 0.0)
    bubble = ledger.bubble
    waiting = m * uneven + m * mean * bubble / (1 - bubble)
    optimizer = np.hypot(
        ledger.optimizer_bytes / (c.memory_bytes_per_s * found.memory),
        ledger.optimizer_flops / (c.flop_per_s[MATH.index("bf16")] * found.gemm),
    )
    parts = {
        "compute": m / pp * once.computing, "memory": m / pp * once.moving, "recompute": m / pp * once.again,
        "scale_up_link": m / pp * up + step_up, "scale_out_link": m / pp * out + step_out, "host_link": m / pp * host + step_host,
        "bubble": waiting, "optimizer": optimizer, "overhead": m / pp * (launched + experts) + found.step_s,
    }  # fmt: skip
    total = np.asarray(sum(parts.values()))
    slower = found.growth * np.log2(np.maximum(job.devices, 1.0)) * total
    parts["overhead"] = parts["overhead"] + slower
    total = total + slower
    _check_floor(ledger, c, total)
    return {name: value + 0.0 * total for name, value in parts.items()}, waiting / total


def _passes(ledger: TrainingLedger, c: Ceilings, found: TrainingAttained) -> Passes:
    """Return the seconds of a micro-batch's rows."""
    rows, kinds = ledger.rows, ledger.rows.op_class
    narrow = ledger.job.narrow != ledger.job.wide
    in_narrow = (rows.math[:, 0] == MATH.index(ledger.job.narrow)) & narrow
    share = np.where(in_narrow, found.gemm_narrow, found.gemm)
    share = np.where(kinds == EXPERT, found.expert_narrow if narrow else found.expert, share)
    share = np.where(kinds == CONTEXT, found.attention, share)
    penalty = 1 + found.gemm_edge * ledger.edges
    attends = (
        np.flatnonzero((kinds == CONTEXT) & (rows.pairs[:, 0] > 0))
        if rows.pairs.shape[0] > 1
        else np.zeros(0, dtype=int)
    )
    if len(attends):
        pairs, queries = rows.pairs[attends], rows.queries[attends]
        width = rows.flops[attends] / (2 * pairs)
        slow = np.maximum(WIDEST_HEAD / width, 1.0) ** found.attention_narrow * (
            1 + found.attention_edge * queries / pairs
        )
        penalty = np.broadcast_to(penalty, (len(kinds), max(penalty.shape[1], slow.shape[1]))).copy()
        penalty[attends] = slow
    compute_s = rows.flops / (rates(rows, c) * share[:, None]) * penalty
    memory_share = np.where(kinds == ELEMENTWISE, found.memory / found.traffic, found.gemm_memory)[:, None]
    memory_s = (rows.weight_bytes + rows.activation_bytes) / (c.memory_bytes_per_s * memory_share)
    body, by_compute = join(compute_s, memory_s + 0.0 * compute_s, kinds)
    body = body * rows.repeat
    slower_back = np.where(kinds == CONTEXT, found.attention / found.attention_backward, 1.0)[:, None]
    forward, backward, again = (
        body * ledger.times[FORWARD], body * ledger.times[BACKWARD] * slower_back, body * ledger.times[AGAIN],
    )  # fmt: skip
    once = forward + backward
    layered = ledger.layered[:, None]
    scores = np.where((kinds == CONTEXT)[:, None], once + again, 0.0).sum(axis=0)
    stacked = np.stack([(x * layered).sum(axis=0) for x in (forward, backward, again)])
    head = np.stack([(x * ~layered).sum(axis=0) for x in (forward, backward, again)])
    return Passes(
        layers=stacked, head=head, computing=(once * by_compute).sum(axis=0),
        moving=(once * (1 - by_compute)).sum(axis=0), again=again.sum(axis=0), scores=scores,
        kernels=(rows.launches * rows.repeat * ledger.times.sum(axis=0)).sum(axis=0),
    )  # fmt: skip


def _expert_layers(ledger: TrainingLedger) -> Array:
    """Return the layers with routed experts."""
    rows = ledger.rows
    expert = rows.op_class == EXPERT
    return np.asarray(rows.repeat[expert].sum(axis=0) / 2.0) if expert.any() else np.zeros(1)


def _longest(ledger: TrainingLedger, once: Passes, mean: Array) -> Array:
    """Return the seconds of a micro-batch on the longest stage.

    The head is on the last one, which has a layer less where a layer stands for it (``schedules.stage_layers``).
    """
    job = ledger.job
    first, second, last = ledger.stages
    head = once.head.sum(axis=0)
    each = (mean * job.pp - head) / ledger.layers
    return np.asarray(np.maximum(np.maximum(first, second) * each, np.minimum(last, ledger.layers) * each + head))


def _exposed(ledger: TrainingLedger, c: Ceilings, found: TrainingAttained, once: Passes) -> tuple[Array, ...]:
    """Return exposed seconds on the scale-up, scale-out and host links: per micro-batch over all layers, then per step."""
    x, job = ledger.exchanges, ledger.job
    nothing = np.zeros(1)
    if not x.names:
        return (nothing,) * 6
    seconds, crossing = _link_seconds(ledger, c, found)
    whole = once.layers + once.head
    forward, backward = whole[FORWARD], whole[BACKWARD] + whole[AGAIN]
    spent = np.zeros((6, np.broadcast_shapes(seconds.shape[1:], forward.shape)[0]))
    behind = {
        FORWARD_PASS: forward, BACKWARD_PASS: backward, FIRST_FORWARD: forward / job.pp, LAST_BACKWARD: backward / job.pp,
        SCORES: once.scores, STAGE: forward + backward,
    }  # fmt: skip
    for hider in np.unique(x.hider):
        at = x.hider == hider
        total = seconds[at].sum(axis=0)
        if hider == PRODUCTS:
            kept = found.tensor_exposed
        elif hider in behind:
            kept = (np.hypot(behind[hider], total) - behind[hider]) / np.maximum(total, 1e-300)
        else:
            kept = 1.0
        for index in np.flatnonzero(at):
            part = seconds[index] * kept * (found.experts_exposed if x.kind[index] == ALL_TO_ALL else 1.0)
            base = 3 if x.per_step[index] else 0
            if x.kind[index] >= HOST:
                spent[base + 2] += part
            else:
                spent[base] += part * ~crossing[index]
                spent[base + 1] += part * crossing[index]
    return tuple(spent)


def _link_seconds(ledger: TrainingLedger, c: Ceilings, found: TrainingAttained) -> tuple[Array, NDArray[np.bool_]]:
    """Return the seconds of every exchange on the link that takes longest, and whether that is between nodes.

    A group inside one domain uses the scale-up link; a larger one works on both levels at the same time. Rings wait one hop per
    member. Volumes: ring all-reduce 2 (n − 1)/n S, gather and reduce-scatter (n − 1)/n S (Thakur et al. 2005); an exchange of tokens
    sends each once to every node that has one of its experts.
    """
    x = ledger.exchanges
    n, payload, kind = x.group, x.payload_bytes, x.kind[:, None]
    inside = np.clip(np.floor(c.domain / x.stride), 1.0, n)
    nodes = np.ceil(n / inside)
    trips = np.where(kind == REDUCE, 2.0, 1.0)
    spread = kind == ALL_TO_ALL
    up = np.where(spread, (inside - 1) / n * payload, trips * (inside - 1) / inside * payload)
    apart = nodes * -np.expm1(x.copies * np.log1p(-1 / np.maximum(nodes, 1 + 1e-9))) / x.copies  # nodes per copy
    out = np.where(
        spread, (nodes - 1) / nodes * payload * np.minimum(apart, 1.0), trips * (nodes - 1) / nodes * payload / inside
    )
    passed = (kind == RING) | (kind == SEND)
    up = np.where(passed, np.where(nodes > 1, 0.0, payload), up)
    out = np.where(passed, np.where(nodes > 1, payload, 0.0), out)
    up_s = between(found.collective_s, up / (c.scaleup_bytes_per_s * found.scaleup))
    hops = found.hop_s * np.where(passed | spread, 1.0, trips * (nodes - 1))
    links = np.where(kind == TENSORWISE, found.tensorwise, 1.0)
    out_s = np.where(
        nodes > 1, between(hops + found.collective_s, out / (c.scaleout_bytes_per_s * found.scaleout * links)), 0.0
    )
    behind = np.where(kind == DRIVE, DRIVE_BYTES_PER_S, HOST_STEP_BYTES_PER_S)
    host_s = payload / np.where(kind == HOST, c.host_bytes_per_s * HOST_LINK_SHARE, behind)
    seconds = np.where(kind >= HOST, host_s, np.maximum(up_s, out_s)) * x.events
    return seconds, np.broadcast_to((out_s > up_s) & (kind < HOST), seconds.shape)


def _check_floor(ledger: TrainingLedger, c: Ceilings, total: Array) -> None:
    """Raise PhysicsError where a step is shorter than its model FLOPs at peak or its bytes at full bandwidth."""
    job, rows = ledger.job, ledger.rows
    times = ledger.times.sum(axis=0)
    share = job.microbatches / job.pp
    flops_s = (rows.flops * rows.repeat * times / rates(rows, c)).sum(axis=0) * share
    bytes_s = (rows.weight_bytes * rows.repeat * times).sum(axis=0) * share / c.memory_bytes_per_s
    if bool(np.any(total < np.maximum(flops_s, bytes_s) * (1 - 1e-9))) or not bool(np.all(np.isfinite(total))):
        raise PhysicsError("a training step came out faster than its FLOPs at peak rate or its bytes at full bandwidth")

"""Rows of a training step that only pass data through, and the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bytebound.ledger import table as t
from bytebound.ledger.ledger import CONTEXT, ELEMENTWISE, MATH, NONE, Ledger
from bytebound.ledger.request import WIDTH_GROWTH_EXPONENT
from bytebound.ledger.states import adapted_widths, gradient_bytes, touched_bytes, weight_bytes
from bytebound.ledger.training_job import AGAIN, BACKWARD, FORWARD, WEIGHT_BYTES, local_parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.ledger.table import OpTable
    from bytebound.ledger.training_job import Job

    Array = NDArray[Any]

LOGIT_BYTES = {FORWARD: 8.0, BACKWARD: 8.0}
"""Bytes per logit: written in 16 bits, read and summed in 32 bits inside fused kernels, and its gradient written over it. Counted; a
framework that copies logits to 32 bits moves more (``facts.training_shares``)."""
ELEMENTWISE_BACKWARD = 1.7
"""Backward over forward bytes of norms, additions and activations, counted from their formulas (SwiGLU 10 f over 6 f, norm 6 h over 4 h)."""
CAST_BYTES = 4.0
"""Bytes per value quantized for a narrow product: 16 bits read, 8 bits written along rows and again along columns."""
KERNEL_PASSES = {"fused": 1.0, "foreach": 2.5, "loop": 2.5}
"""Memory passes of an optimizer step over the fused kernel's one: foreach AdamW runs about a dozen list operations (torch.optim)."""
NEWTON_SCHULZ_STEPS = 5
"""Iterations of Muon's orthogonalization, each 4 m² n + 2 m³ FLOPs (Jordan et al. 2024)."""


class _Passing(NamedTuple):
    """One row: bytes and FLOPs of the forward pass, how often each pass does them, kernels, and whether layers do it."""

    name: str
    moved: Array
    flops: Array | float = 0.0
    backward: float = ELEMENTWISE_BACKWARD
    again: bool = True
    forward: float = 1.0
    kernels: float = 0.0
    layered: bool = True


def passing_rows(table: OpTable, job: Job) -> tuple[Ledger, Array, NDArray[np.bool_]]:
    """Return the rows that only pass data through, (3, rows, requests) times of each pass, and which are of layers.

    One row each over all layers: norms and additions (dealt over tensor-parallel devices only with sequence parallelism),
    activations, rotations, routing, casts to narrow formats, the loss, gradients summed over micro-batches, weights cast or
    dequantized at every use, and adapters.
    """
    p, s, x, work = table.products, table.scores, table.streams, job.work
    n, tp, value = job.tokens, job.tp, WEIGHT_BYTES[job.wide]
    wide = job.scale**WIDTH_GROWTH_EXPONENT
    spread = n * wide / (tp if job.together else 1.0)
    dealt = n * wide / tp
    role = np.array(p.roles)
    layer = (role != "head") & (role != "embedding") & (p.stream == t.MAIN)
    expert, rowed = p.copies > 1, p.shard == t.ROW
    each = np.where(expert, p.active, 1.0) * p.repeat * p.token_scale
    mains = x.repeat * (x.looked_up == 0) * (x.stream == t.MAIN)
    norms = float((x.width * x.token_scale * mains).sum())
    added = float((p.outputs * p.repeat * p.token_scale * (rowed & layer & ~expert)).sum())
    mlp = np.isin(role, ("mlp", "expert")) & (p.stream == t.MAIN)
    made = float((each * mlp * np.where(rowed, p.inputs, p.outputs)).sum())
    turned = float(((s.heads + s.kv_heads) * s.qk_dim * s.repeat * (s.stream == t.MAIN)).sum())
    routed = float((each * p.outputs * (rowed & expert)).sum())
    inner = layer & (role != "router") if job.narrow != job.wide else np.zeros_like(layer)
    read, written = (float((each * side * inner).sum()) for side in (p.inputs, p.outputs))
    logits = float((p.outputs * p.active * (role == "head")).max(initial=0.0))
    size = local_parameters(table, job)
    held = (size.dense + size.experts) * job.pp
    full, layers = work.trainable == "full", table.layers
    widths = adapted_widths(table, work.lora_targets) if not full else (0.0, 0.0)
    kept = [row for row in (
        _Passing("norms", 2 * value * norms * spread, kernels=float((x.launches * mains).sum())),
        _Passing("additions", 3 * value * added * spread, kernels=2 * layers),
        _Passing("activations", value * made * dealt, kernels=layers),
        _Passing("rotations", 2 * value * turned * dealt, backward=1.0, kernels=2 * layers),
        _Passing("routing", 4 * value * routed * dealt, backward=1.0, kernels=8 * layers),
        _Passing("casts", CAST_BYTES * read * dealt, backward=written / max(read, 1.0), kernels=4 * layers),
        _Passing("recurrence", 0 * n, job.scale * n / tp * float((x.flop_per_token * mains).sum()), backward=2.0),
        _Passing("loss", LOGIT_BYTES[FORWARD] * logits * n / tp, backward=LOGIT_BYTES[BACKWARD] / LOGIT_BYTES[FORWARD],
                 again=False, kernels=4.0, layered=False),
        _Passing("gradients summed", full * 2 * (4.0 if work.gradients == "fp32" else 2.0) * held, forward=0.0, backward=1.0,
                 again=False),
        _Passing("weights cast", (work.precision == "bf16-autocast") * 6.0 * held, backward=0.0),
        _Passing("weights dequantized", (work.trainable == "qlora") * 2.5 * held, backward=1.0),
        _Passing("adapters", value * (widths[0] + 3 * widths[1]) * dealt, 2.0 * n * job.rank * sum(widths) / tp, backward=2.0,
                 kernels=0.0 if full else 14 * layers),
    ) if bool(np.any(row.moved > 0)) or bool(np.any(np.asarray(row.flops) > 0))]  # fmt: skip
    zero, count = np.zeros((1, 1)), len(kept)
    moved = np.stack(np.broadcast_arrays(*(row.moved for row in kept)))
    flops = np.stack(np.broadcast_arrays(*(np.asarray(row.flops, dtype=float) + 0 * n for row in kept)))
    rows = Ledger(
        names=tuple(row.name for row in kept), roles=("elementwise",) * count, pattern=np.full(count, NONE),
        op_class=np.array([CONTEXT if row.name == "recurrence" else ELEMENTWISE for row in kept]),
        math=np.full((count, 1), MATH.index(job.wide)), repeat=np.ones((1, 1)), flops=flops, weight_bytes=zero, kv_bytes=zero,
        activation_bytes=moved, network_bytes=zero, group=zero + 1.0, launches=np.array([[row.kernels] for row in kept]),
    )  # fmt: skip
    times = np.zeros((3, count, len(job.again)))
    for index, row in enumerate(kept):
        times[FORWARD, index], times[BACKWARD, index] = row.forward, row.backward
        times[AGAIN, index] = job.again if row.again else 0.0
    return rows, times, np.array([row.layered for row in kept])


def optimizer_work(table: OpTable, job: Job) -> tuple[Array, Array]:
    """Return bytes moved and FLOPs done by one optimizer step on the fullest device, (requests,).

    Reads and writes moments and master copy, reads gradients for their norm and for the step, writes weights. ZeRO 1 and up
    deals it out over the data-parallel group (experts over what is left of it). Muon orthogonalizes every matrix.
    """
    work = job.work
    size = local_parameters(table, job)
    group = np.where(job.zero >= 1, job.dp * job.cp, 1.0)
    expert_group = np.where(job.zero >= 1, np.maximum(job.dp * job.cp * job.tp / (job.ep * job.expert_tp), 1.0), 1.0)
    own = (size.dense + size.vocabulary) / group + size.experts / expert_group
    if work.trainable != "full":
        own = job.rank * sum(adapted_widths(table, work.lora_targets)) / (job.tp * job.pp * group)
    kernel = "foreach" if work.optimizer_kernel == "auto" else work.optimizer_kernel
    moved = own * (2 * touched_bytes(work) * KERNEL_PASSES[kernel] + 3 * gradient_bytes(work) + 2 * weight_bytes(work))
    flops = 10.0 * own
    if work.optimizer == "muon":
        p = table.products
        side = np.minimum(p.inputs, p.outputs)
        matrices = float(
            (6 * NEWTON_SCHULZ_STEPS * side * p.elements * p.copies * p.repeat * (p.stream == t.MAIN)).sum()
        )
        flops = flops + job.scale * matrices / (job.tp * job.pp * group)
    return np.asarray(moved), np.asarray(flops)

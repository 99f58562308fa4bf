"""A traced step's operators under a parallel plan, as the rows of a training ledger: what one micro-batch asks of one device.

Every row is divided for itself. Weights and their gradients are divided as parameters are, what flows through as the tensors of its
module are (``sharded_rules``), and products by the matrix they multiply by: a column product reads all of its input and writes a part
of its output, a row product the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.trace import TracedTensor
from bytebound.errors import RequestError
from bytebound.ledger.ledger import EXPERT, GEMM, NONE, Ledger
from bytebound.ledger.schedules import bubble_share, stage_layers
from bytebound.ledger.sharded_exchanges import traced_exchanges
from bytebound.ledger.sharded_layout import CASTS
from bytebound.ledger.sharded_plan import model_parallel_share, treated
from bytebound.ledger.sharded_rules import (
    ADAPTER,
    DIVIDED,
    EXPERTS,
    KEYS_AND_VALUES,
    KV,
    SEQUENCE,
    owner,
    plain_path,
    split_of,
    treatment,
)
from bytebound.ledger.table import COLUMN, REPLICATE, ROW, VOCAB
from bytebound.ledger.traced import PRODUCTS, on_device, traced_ledger, unfused_bytes
from bytebound.ledger.training import ModelFlops, TrainingLedger
from bytebound.ledger.training_job import BACKWARD, FORWARD, lay_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.trace import Trace, TracedOp
    from bytebound.ledger.sharded import Device
    from bytebound.ledger.sharded_rules import Regions

    Array = NDArray[Any]

CAST_BYTES = 6.0
"""Bytes an element of a weight or gradient moves when it is cast: 2 read and 4 written, or the other way round."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What a device does of each traced operator, (operators, requests): shares of its FLOPs, of the weights it reads and of all it moves.

    A micro-batch of more samples than were traced has shares above 1. ``edges``: sums of the reciprocal sides of a product.
    """

    flops: Array
    weights: Array
    moved: Array
    edges: Array


@dataclass(frozen=True, slots=True)
class _Module:
    """Matrices of one module: elements of all copies, and the share a rank holds before ZeRO and pipelines, (requests,)."""

    elements: float
    share: Array
    trained: bool


def divide(device: Device, trace: Trace) -> Shares:
    """Return the shares of every operator of ``ledger.traced.on_device``, forward, backward and optimizer.

    Args:
        device: the plan laid on the trace (``ledger.sharded.deal``).
        trace: the step.
    """
    modules = _modules(device)
    updated = device.updated.max(axis=0)
    found = [
        (updated, updated, updated, 0 * updated) if op.phase == "optimizer" else _one(device, trace, modules, op)
        for op in on_device(trace)
    ]
    return Shares(*(np.stack(np.broadcast_arrays(*column)) for column in zip(*found, strict=True)))


def check_divided(device: Device, trace: Trace) -> None:
    """Raise RequestError where tensor parallelism is asked for and most of a layer's matrices would stay whole on every rank."""
    layout = device.layout
    if not np.any(device.plan.tp > 1):
        return
    whole: dict[str, float] = {}
    every = 0.0
    for index, tensor in enumerate(layout.tensors):
        if tensor.role == "parameter" and len(tensor.shape) > 1 and (tensor.stack or not layout.stacks):
            size = float(layout.elements[index] * layout.copies[index])
            every += size
            if owner(tensor) in layout.unclassified or not layout.stacks:
                whole[owner(tensor)] = size
    if every and sum(whole.values()) > every / 2:
        largest = max(whole, key=lambda path: whole[path])
        raise RequestError(
            f"tensor parallelism does not know how to divide {largest} of {trace.name}, nor most of its other matrices",
            place="tp", mend="set tp to 1 and shard with zero, or name its modules as common code does (q_proj, o_proj, up_proj, down_proj)",
        )  # fmt: skip


def divided_ledger(device: Device, trace: Trace, shares: Shares, *, fused: bool) -> TrainingLedger:
    """Return the traced step under the plan of ``device`` as a training ledger, so that step time is one formula for both.

    Args:
        device: the plan laid on the trace.
        trace: the step.
        shares: of ``divide``.
        fused: count each tensor once where it crosses a fusion boundary, and no kernel for what is fused into another.

    Raises:
        RequestError: a product in a dtype no device states a rate for.
    """
    ops = on_device(trace)
    whole = traced_ledger(trace, fused=fused)
    repeats = {stack.name: float(stack.repeat) for stack in trace.stacks}
    layers = np.array([repeats.get(op.stack, 1.0) for op in ops])[:, None]
    each = whole.repeat / layers  # calls per layer
    weights = whole.weight_bytes * shares.weights
    passing = np.maximum((whole.weight_bytes + whole.activation_bytes) * shares.moved - weights, 0.0)
    step = np.array([op.phase == "optimizer" for op in ops])
    expert = np.array([op.kind in PRODUCTS and EXPERTS.search(plain_path(op.module)) is not None for op in ops])
    zero = np.zeros((int((~step).sum()), 1))
    rows = Ledger(
        names=tuple(op.name for op in ops if op.phase != "optimizer"),
        roles=tuple(op.module for op in ops if op.phase != "optimizer"),
        op_class=np.where(expert & (whole.op_class == GEMM), EXPERT, whole.op_class)[~step],
        pattern=np.full(len(zero), NONE),
        math=whole.math[~step],
        repeat=layers[~step],
        flops=(whole.flops * each * shares.flops)[~step],
        weight_bytes=(weights * each)[~step],
        kv_bytes=zero,
        activation_bytes=(passing * each)[~step],
        network_bytes=zero,
        group=zero + 1,
        launches=(whole.launches * each)[~step],
    )
    phases = [op.phase for op in ops if op.phase != "optimizer"]
    width = device.plan.tp.shape
    times = np.zeros((3, len(phases), *width))
    times[FORWARD] = np.array([phase != "backward" for phase in phases], dtype=float)[:, None]
    times[BACKWARD] = np.array([phase == "backward" for phase in phases], dtype=float)[:, None]
    moved = (weights + passing) * whole.repeat
    job = lay_out(None, device.plan.work)
    products = np.array([op.flops * (op.kind in PRODUCTS) for op in ops])
    stacked = sum(stack.repeat for stack in device.layout.stacks) or 1
    nothing = np.zeros(1)
    return TrainingLedger(
        job=job, rows=rows, times=times, layered=np.array([bool(op.stack) for op in ops])[~step], edges=shares.edges[~step],
        flops=ModelFlops(products.sum() * device.plan.samples / 3, nothing, nothing, nothing, nothing, nothing),
        layers=float(stacked), stages=stage_layers(device.plan.work, stacked).reshape(3, -1),
        bubble=np.broadcast_to(bubble_share(device.plan.work), device.plan.work.shape).reshape(-1),
        optimizer_bytes=moved[step].sum(axis=0) + 0 * device.plan.tp,
        optimizer_flops=(whole.flops * whole.repeat * shares.flops)[step].sum(axis=0) + 0 * device.plan.tp,
        exchanges=traced_exchanges(device, trace, job),
    )  # fmt: skip


def _modules(device: Device) -> dict[str, _Module]:
    """Return the matrices of every module that has some, by its plain path."""
    layout, kept = device.layout, device.kept
    share = model_parallel_share(layout, device.plan)
    found: dict[str, _Module] = {}
    for at, index in enumerate(kept.row):
        if len(layout.tensors[index].shape) < 2:
            continue
        path, size = plain_path(layout.tensors[index].module), float(layout.elements[index] * layout.copies[index])
        own, trained = size * share[index], bool(kept.gradient[at] > 0)
        old = found.get(path, _Module(0.0, 0 * own, trained=False))
        whole = size + old.elements
        found[path] = _Module(whole, (own + old.share * old.elements) / whole, trained=trained or old.trained)
    return found


def _one(
    device: Device, trace: Trace, modules: Mapping[str, _Module], op: TracedOp
) -> tuple[Array, Array, Array, Array]:
    """Return the shares of one operator of forward or backward, and its edges, (requests,) each."""
    plan, where = device.plan, device.layout.where
    path, moved = plain_path(op.module), unfused_bytes(op)
    tokens = (plan.samples if trace.samples else np.ones_like(plan.tp)) / (plan.cp if trace.seq else 1.0)
    held = modules.get(path)
    own = (
        held.share
        if held is not None
        else (1 / plan.tp if split_of(path, device.layout.named) != REPLICATE else np.ones_like(plan.tp))
    )
    still = _still(op, held) / max(moved, 1.0)
    flops, flow = _flowing(device, trace, op)
    edges = 0 * plan.tp
    if (
        op.kind in PRODUCTS and held is not None and ADAPTER.search(path) is None
    ):  # adapters' products stream, as formulas have it
        together = op.flops / (2 * held.elements * (1 + (op.phase == "backward"))) * flops * tokens / own
        edges = 1 / np.maximum(together, 1.0)
        if path in where.matrices:
            matrix, column = where.matrices[path], where.matrices[path].split not in {ROW, REPLICATE}
            edges = edges + 1 / (matrix.inputs * (own if matrix.split == ROW else 1.0))
            edges = edges + 1 / (matrix.outputs * (own if column else 1.0))
    return flops * tokens, own, still * own + (1 - still) * flow * tokens, edges


def _still(op: TracedOp, held: _Module | None) -> float:
    """Return the bytes an operator moves of weights and their gradients, which do not grow with the tokens.

    A backward product reads the weight and writes a gradient of its size.
    """
    moved = unfused_bytes(op)
    if op.kind in PRODUCTS:
        learns = op.phase == "backward" and (held is None or held.trained)
        return min(op.weight_bytes * (1 + learns), moved)
    if held is not None and (op.name in CASTS or op.name.endswith("_")):
        return min(held.elements * CAST_BYTES, moved)
    return 0.0


def _flowing(device: Device, trace: Trace, op: TracedOp) -> tuple[Array, Array]:
    """Return what tensor parallelism leaves a rank of an operator's FLOPs and of the bytes that flow through it, (requests,)."""
    path, where = plain_path(op.module), device.layout.where
    shares = treated(device.plan, device.layout.kv_heads, routed=EXPERTS.search(path) is not None)
    matrix = where.matrices.get(path)
    if op.kind in PRODUCTS and EXPERTS.search(path):
        return shares[DIVIDED], shares[DIVIDED]
    if op.kind in PRODUCTS and matrix is not None:
        if matrix.split == REPLICATE:
            return shares[SEQUENCE], shares[SEQUENCE]
        part = shares[KV if matrix.split == COLUMN and KEYS_AND_VALUES.search(path) else DIVIDED]
        divided, whole = matrix.outputs, matrix.inputs
        if matrix.split == ROW:
            divided, whole = whole, divided
        return part, np.asarray((whole + divided * part) / (whole + divided))
    wide = _width(op, trace, where)
    if op.phase == "backward" and matrix is not None and matrix.split == COLUMN and wide in where.hidden:
        return np.ones_like(device.plan.tp), np.ones_like(
            device.plan.tp
        )  # gradients of its input, before they are summed
    made = TracedTensor("temporary", "", op.module, op.stack, op.name, (1, wide), "", 0.0, 0.0)
    kind = DIVIDED if op.kind == "attention" else treatment(made, where, device.layout.named)
    return shares[kind], shares[kind]


def _width(op: TracedOp, trace: Trace, where: Regions) -> int:
    """Return the width of what an operator writes where it is the residual stream's or the vocabulary's, else 0.

    Told by bytes per token of a call, in 1 to 4 bytes each; what a layer itself computes is as wide as the stream.
    """
    tokens = trace.samples * trace.seq
    each = op.written_bytes / op.calls / tokens if tokens else 0.0
    known = [*where.hidden, *(m.outputs for m in where.matrices.values() if m.split == VOCAB)]
    found = next((width for width in known if any(abs(each - width * size) < size for size in (2, 4))), 0)
    if not found and op.module.endswith("*"):
        return max(where.hidden, default=0)
    return found

"""What the devices of a plan tell each other in a step, from what a trace knows of the model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger.sharded_rules import ADAPTER, EXPERTS, KEYS_AND_VALUES, QUERIES, plain_path
from bytebound.ledger.sharded_states import ACTIVATION
from bytebound.ledger.table import COLUMN, ROW
from bytebound.ledger.traced import PRODUCTS
from bytebound.ledger.training_exchanges import Spoken, exchanges_of
from bytebound.ledger.training_job import WEIGHT_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.trace import Trace
    from bytebound.ledger.sharded import Device
    from bytebound.ledger.sharded_rules import Matrix
    from bytebound.ledger.training_exchanges import Exchanges
    from bytebound.ledger.training_job import Job

    Array = NDArray[Any]

FUSED_QUERIES = re.compile(r"(?:^|\.)(?:qkv|qkv_proj|c_attn|Wqkv|query_key_value|linear_qkv)$")
"""Products that make queries, keys and values together."""


def traced_exchanges(device: Device, trace: Trace, job: Job) -> Exchanges:
    """Return every exchange of one step; volumes are those of ``training_exchanges``, for the traced matrices."""
    return exchanges_of(traced_spoken(device, trace, job), job)


def traced_spoken(device: Device, trace: Trace, job: Job) -> Spoken:
    """Return what a traced model exchanges under a plan.

    Args:
        device: the plan laid on the trace (``ledger.sharded.deal``).
        trace: the step.
        job: of the plan.
    """
    layout, plan, kept = device.layout, device.plan, device.kept
    repeat = {stack.name: float(stack.repeat) for stack in layout.stacks}
    layers = {plain_path(t.module): repeat.get(t.stack, 1.0) for t in trace.tensors if t.role == "parameter"}

    def often(matrix: Matrix) -> float:
        return next((n for path, n in layers.items() if matrix.path == path or matrix.path.startswith(f"{path}.")), 1.0)

    own = [matrix for matrix in layout.where.matrices.values() if ADAPTER.search(matrix.path) is None]
    rows = [matrix for matrix in own if matrix.split == ROW]
    dense = sum(often(matrix) for matrix in rows if not EXPERTS.search(matrix.path))
    routed = sum(often(matrix) for matrix in rows if EXPERTS.search(matrix.path))
    trained, expert = kept.gradient > 0, layout.expert[kept.row]

    def held(which: NDArray[np.bool_]) -> Array:
        return np.asarray(device.elements[which].sum(axis=0).max(axis=0) + 0 * plan.tp)

    name = "dense" if plan.work.trainable == "full" else "adapters"
    width = (
        np.full_like(layout.widest, WEIGHT_BYTES[job.wide]) if "precision" in layout.made_with else layout.read_width
    )
    stream = float(np.max(layout.widest * width, initial=0.0)) or _widest_kept(device)
    return Spoken(
        hidden_bytes=stream * plan.samples / plan.cp,
        layers=max(sum(repeat.values()), 1.0),
        dense=dense,
        routed=routed,
        expert_layers=routed,
        active=_active(device, trace),
        cached=sum(often(matrix) * matrix.outputs for matrix in own if _caches(matrix)) - _queries(own, often),
        trained=(name, held(trained & ~expert), held(trained & expert)),
        frozen=(held(~trained & ~expert), held(~trained & expert)),
        all_parameters=held(np.ones_like(trained)),
    )


def _caches(matrix: Matrix) -> bool:
    path = matrix.path
    return matrix.split == COLUMN and bool(KEYS_AND_VALUES.search(path) or FUSED_QUERIES.search(path))


def _queries(matrices: list[Matrix], often: Any) -> float:
    """Return the query values among outputs of fused products: as many as the row product beside them reads."""
    total = 0.0
    for fused in matrices:
        if FUSED_QUERIES.search(fused.path) and not QUERIES.search(fused.path):
            above = fused.path.rpartition(".")[0]
            beside = [m.inputs for m in matrices if m.split == ROW and m.path.rpartition(".")[0] == above]
            total += often(fused) * (min(beside) if beside else fused.outputs / 3)
    return total


def _active(device: Device, trace: Trace) -> float:
    """Return experts per token: what the forward products of experts compute over what one expert would on every token."""
    layout, tokens = device.layout, trace.samples * trace.seq
    flops = sum(
        op.flops for op in trace.operators
        if op.phase == "forward" and op.kind in PRODUCTS and EXPERTS.search(plain_path(op.module))
    )  # fmt: skip
    counts = dict(layout.experts)
    held = layout.expert & (layout.category == 0) & np.array([len(t.shape) > 1 for t in layout.tensors])
    one = float((layout.elements * layout.copies)[held].sum()) / max(counts.values(), default=1)
    return flops / (2 * tokens * one) if tokens and one else 0.0


def _widest_kept(device: Device) -> float:
    """Return bytes of the largest tensor a layer keeps: at least what it hands on, where no product tells the stream's width."""
    layout = device.layout
    inside = (layout.category == ACTIVATION) & (layout.stack >= 0)
    return float(np.max(layout.size[inside], initial=0.0))

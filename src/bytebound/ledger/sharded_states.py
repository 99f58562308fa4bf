"""Model states of a traced model under a plan: bytes of parameters, gradients and optimizer states, and how ZeRO deals them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger.sharded_layout import WHOLE
from bytebound.ledger.states import (
    GALORE_RANK,
    HALF,
    WIDE,
    gradient_bytes,
    master_bytes,
    moment_bytes,
    parameter_stage,
    weight_bytes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.trace import Trace, TracedTensor
    from bytebound.documents.work import Train
    from bytebound.ledger.sharded_layout import Layout
    from bytebound.ledger.sharded_plan import Plan

    Array = NDArray[Any]

PARAMETER, GRADIENT, OPTIMIZER, ACTIVATION, TEMPORARY = range(5)
"""Categories, in the order of ``documents.trace.CATEGORIES``."""
STAGE_OF = {PARAMETER: 3, GRADIENT: 2, OPTIMIZER: 1}
"""The ZeRO stage that shards each (arXiv 1910.02054 section 5)."""
WIDTHS = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "float64": 8.0}


@dataclass(frozen=True, slots=True)
class Stored:
    """How states are stored, arrays (parameters,).

    Args:
        row: rows of the layout that are parameters.
        parameter, gradient, optimizer: bytes per element.
        scalar: bytes of single numbers an optimizer keeps per parameter (Adam's step), which nothing divides.
        compute: bytes per element where gathered and where gradients are made.
        restated: whether precision and optimizer are the plan's rather than the traced code's.
    """

    row: NDArray[np.int64]
    parameter: Array
    gradient: Array
    optimizer: Array
    scalar: Array
    compute: float
    restated: bool


def stored(trace: Trace, layout: Layout, plan: Plan) -> Stored:
    """Return how every parameter's states are stored: as traced, or as the plan's precision and optimizer keep them.

    A trace that says what precision it was made with is restated: weights, gradients and masters as the framework keeps them,
    traced optimizer states in the width the precision asks for, another optimizer's by its rule for the parameter's shape.
    Code that does not say, and adapters, keep what was traced.
    """
    work = plan.work
    row = np.flatnonzero([tensor.role == "parameter" for tensor in layout.tensors])
    elements = layout.elements[row] * layout.copies[row]
    own = layout.size[row] / layout.elements[row]
    trained = layout.trained[row]
    restated = "precision" in trace.made_with and work.trainable == "full"
    kept = trace.made_with.get("optimizer", work.optimizer) == work.optimizer
    target = HALF if work.optimizer == "adamw-bf16" or work.precision == "bf16" else WIDE
    moments = np.zeros(len(row))
    scalar = np.zeros(len(row))
    place = {_parameter(layout.tensors[index]): at for at, index in enumerate(row)}
    for index in np.flatnonzero(layout.category == OPTIMIZER):
        tensor = layout.tensors[index]
        at = place.get(_parameter(tensor))
        if at is None:
            continue
        if not tensor.shape:
            scalar[at] += layout.size[index]
            continue
        if restated and tensor.name.endswith(".master"):
            continue  # the precision says whether there is one
        width = WIDTHS.get(tensor.dtype, 0.0) if restated else 0.0
        moments[at] += layout.size[index] * layout.copies[index] * (target / width if width else 1.0)
    if not restated:
        whole = max(float(elements.sum()), 1.0)
        compute = float((own * elements).sum()) / whole
        return Stored(row, own, np.where(trained, own, 0.0), moments / elements, scalar, compute, restated=False)
    each = moments / elements if kept else np.array([_moment(layout, int(index), work) for index in row])
    master = master_bytes(work)
    return Stored(
        row=row,
        parameter=np.where(trained, weight_bytes(work), own),
        gradient=np.where(trained, gradient_bytes(work), 0.0),
        optimizer=np.where(trained, each + master, 0.0),
        scalar=scalar,
        compute=WIDE if work.precision in {"fp32", "bf16-autocast"} else HALF,
        restated=True,
    )


def _parameter(tensor: TracedTensor) -> tuple[str, str, str]:
    """Return stack, module and name of the parameter a tensor is, or is a gradient or state of."""
    return tensor.stack, tensor.module, tensor.name.partition(".")[0]


def _moment(layout: Layout, index: int, work: Train) -> float:
    """Return optimizer bytes per element of one parameter by the optimizer's rule; sources in ``ledger.states.MOMENTS``."""
    each, shape = moment_bytes(work), layout.tensors[index].shape
    matrix = len(shape) > 1
    inner = matrix and layout.stack[index] >= 0
    if work.optimizer == "muon":
        return each if inner else 2 * each
    if work.optimizer == "adafactor":
        width = HALF if work.precision == "bf16" else WIDE
        return width * (1 / shape[-1] + 1 / shape[-2]) if matrix else width
    if work.optimizer.startswith("galore") and inner:
        narrow, wide = sorted(shape[-2:])
        low = min(narrow, int(layout.hidden // GALORE_RANK))
        return low * (narrow + 2 * wide) / (narrow * wide) * each / 2
    return each


def gradient_share(layout: Layout, alive: Array) -> Array:
    """Return the share of each parameter's gradients that is alive, (parameters,)."""
    kept = {
        _parameter(tensor): alive[index] for index, tensor in enumerate(layout.tensors) if tensor.role == "gradient"
    }
    return np.array(
        [kept.get(_parameter(t), 0.0) / max(t.copies, 1.0) for t in layout.tensors if t.role == "parameter"],
        dtype=float,
    )


def dealt(layout: Layout, plan: Plan, row: NDArray[np.int64], share: Array, category: int) -> Array:
    """Return the share one data-parallel rank holds of what tensor and expert parallelism leave, (parameters, requests).

    FSDP2 deals out the first dimension of each parameter in chunks of whole rows, so the first rank holds ceil(rows / ranks); under
    expert parallelism that of stacked experts is dealt out already, and the second one is where ranks outnumber experts. ZeRO
    flattens, and every rank holds the same. Sources: PyTorch ``fully_shard`` (dim-0 sharding); torchtitan ``apply_fsdp`` (its
    ``shard_placement_fn`` of experts); arXiv 1910.02054 section 5.
    """
    group = np.where(layout.expert[row][:, None], plan.expert_group[None], plan.group[None])
    even = 1 / group
    if plan.work.framework == "fsdp":
        first = np.array([float((layout.tensors[index].shape or (1,))[0]) for index in row])[:, None]
        rows = np.maximum(np.round(np.where(layout.tensor_parallel[row][:, None] == WHOLE, first, first * share)), 1.0)
        second = np.array([float((*layout.tensors[index].shape, 1, 1)[1]) for index in row])[:, None]
        stacked = layout.expert[row][:, None] & (plan.ep > 1)[None] & (group > rows)
        rows = np.where(stacked, second, rows)
        even = np.ceil(rows / group) / rows
    stage = parameter_stage(plan.work) if category == PARAMETER else STAGE_OF[category]
    return np.asarray(np.where(plan.zero >= stage, even, 1.0))

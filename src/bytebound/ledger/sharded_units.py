"""Gradients and gathered parameters of a moment: what ZeRO and FSDP hold whole for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger.sharded_plan import on_stage
from bytebound.ledger.sharded_states import gradient_share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.ledger.sharded_layout import Layout
    from bytebound.ledger.sharded_plan import Plan
    from bytebound.ledger.sharded_states import Stored

    Array = NDArray[Any]

AHEAD = 2.0
"""FSDP units gathered at once: the one at work and the one fetched ahead. Source: PyTorch FSDP2 (implicit prefetch)."""
STANDING = frozenset({"megatron", "deepspeed"})
"""Frameworks whose gradient buffers live as long as the run. Sources: Megatron-LM ``DistributedDataParallel`` main gradient buffers;
DeepSpeed ``BF16_Optimizer``."""
ROUNDING = 1e-9


def gradients(
    layout: Layout, plan: Plan, kept: Stored, *, elements: Array, reduced: Array, alive: Array, inside: int | None, begun: Array
) -> tuple[Array, Array]:  # fmt: skip
    """Return kept gradients, and those of the units at work that are not yet reduced, in a moment of backward, (3, requests) each.

    Gradients of earlier micro-batches, and standing buffers, are there all along; a new one is added and let go. Otherwise they pile
    up as the pass goes. Sharded ones are whole until their unit is done.

    Args:
        layout: the traced tensors.
        plan: of the request.
        kept: bytes per element.
        elements: of each parameter on one device, (parameters, 3, requests).
        reduced: bytes of each parameter's gradient at rest, of the same shape.
        alive: copies alive at the moment, (tensors,).
        inside: the stack at work; None: what lies outside of all.
        begun: its layers begun, the one at work included, (3, requests).
    """
    stack = layout.stack[kept.row]
    share = gradient_share(layout, alive)
    done = np.zeros(elements.shape)
    at_work = np.zeros(elements.shape)
    for number, traced in enumerate(layout.stacks):
        mine = stack == number
        if number != inside:
            done[mine] = share[mine][:, None, None]
            continue
        layers = np.maximum(plan.layers[number], 1.0)
        done[mine] = (begun - 1) / layers
        each = share * traced.repeat
        complete = np.floor(np.min(each[mine & (kept.gradient > 0)], initial=np.inf) + ROUNDING)
        at_work[mine] = np.clip(each[mine] - min(complete, traced.repeat - 1), 0.0, 1.0)[:, None, None] / layers
    outside = stack < 0
    at_work[outside] = share[outside][:, None, None]
    made = np.minimum(kept.compute, kept.gradient)[:, None, None]
    standing = plan.accumulates | (plan.work.framework in STANDING)
    sharded = (plan.zero >= 2) & (plan.group > 1) & ~plan.gradients_whole
    one = elements * made / np.maximum(on_stage(layout, plan)[kept.row], 1.0)  # of one layer
    new = np.where(at_work > 0, one, 0.0).max(axis=0, initial=0.0)
    unit = (elements * at_work * made).sum(axis=0)
    whole = (elements * kept.gradient[:, None, None] * at_work).sum(axis=0)
    piled = (reduced * done).sum(axis=0) + np.where(sharded, 0.0, whole)
    at_rest = np.where(plan.gradients_whole, (elements * kept.gradient[:, None, None]).sum(axis=0), reduced.sum(axis=0))
    return (
        np.asarray(np.where(standing, at_rest, piled)),
        np.asarray(np.where(sharded, unit, np.where(standing, new, 0.0))),
    )


def gathered(
    layout: Layout, plan: Plan, kept: Stored, *, elements: Array, phase: str, inside: int | None, begun: Array
) -> Array:
    """Return bytes of parameters held whole under ZeRO 3, and of a unit's gradients on their way to shards, (3, requests).

    Units are the layers, and one of all that lies outside, which stays whole from forward to backward: ``fully_shard`` of every
    layer and then of the model.
    """
    stack = layout.stack[kept.row]
    sizes = elements * np.minimum(kept.compute, kept.parameter)[:, None, None]
    rest = sizes[stack < 0].sum(axis=0)
    whole = (plan.zero >= 3) & (plan.group > 1)
    everything = sizes.sum(axis=0)
    if inside is None:
        units = [
            sizes[stack == number].sum(axis=0) / np.maximum(plan.layers[number], 1.0)
            for number in range(len(layout.stacks))
        ]
        fetched = np.max(units, axis=0, initial=0.0) if units and phase == "backward" else 0.0
        return np.asarray(np.where(plan.parameters_whole, everything, np.where(whole, rest + fetched, 0.0)))
    layers = np.maximum(plan.layers[inside], 1.0)
    mine = stack == inside
    unit = sizes[mine].sum(axis=0) / layers
    more = plan.layers[inside] - begun > 0
    reducing = (elements * kept.gradient[:, None, None])[mine].sum(axis=0) / layers
    ahead = np.where(more | (phase == "forward"), AHEAD, 1.0)
    passing = np.where((phase == "backward") & (begun > 1) & ~plan.gradients_whole, reducing, 0.0)
    return np.asarray(
        np.where(plan.parameters_whole, everything + passing, np.where(whole, rest + unit * ahead + passing, 0.0))
    )

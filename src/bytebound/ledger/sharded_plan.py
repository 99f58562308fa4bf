"""A parallel plan against a traced model: its degrees as arrays, whether they can be, and what divides each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import RequestError
from bytebound.ledger.schedules import in_flight, rows_held, stage_layers
from bytebound.ledger.sharded_rules import DIVIDED, EXPERTS, KV, ROUTED, SEQUENCE
from bytebound.ledger.states import whole_in_step
from bytebound.ledger.training_plan import microbatches, nearest_divisor, resolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.trace import Trace
    from bytebound.documents.values import Number
    from bytebound.documents.work import Train
    from bytebound.ledger.sharded_layout import Layout

    Array = NDArray[Any]

FRONT_SHARE = 4
"""A kind of layer that is at most one in so many, and listed first, lies in front of the others; see ``ledger.schedules``."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A resolved request, its numbers as arrays (requests,).

    ``layers``: of each stack on the first, second and last stage, (stacks, 3, requests); ``flying``: micro-batches each of these
    stages keeps, (3, requests); ``places``: whether what lies before and after the layers is there, (2, 3, requests).
    """

    work: Train
    tp: Array
    pp: Array
    dp: Array
    cp: Array
    ep: Array
    expert_tp: Array
    zero: Array
    samples: Array
    together: bool
    accumulates: Array
    layers: Array
    flying: Array
    places: Array

    @property
    def beside(self) -> Array:
        """Share of the tokens a device has outside tensor-parallel regions."""
        return np.asarray(1 / self.tp if self.together else np.ones_like(self.tp))

    @property
    def parameters_whole(self) -> Array:
        """Whether gathered parameters stay whole until the backward pass, (requests,)."""
        return whole_in_step(self.work)[0].reshape(-1)

    @property
    def gradients_whole(self) -> Array:
        """Whether gradients pile up whole until the last backward pass, (requests,)."""
        return whole_in_step(self.work)[1].reshape(-1)

    @property
    def group(self) -> Array:
        """Devices that share dense states."""
        return np.asarray(self.dp * self.cp)

    @property
    def expert_group(self) -> Array:
        """Devices that share an expert's states."""
        return np.asarray(np.maximum(self.tp * self.dp * self.cp / (self.ep * self.expert_tp), 1.0))


def lay_on(trace: Trace, layout: Layout, work: Train) -> Plan:
    """Return the plan of ``work`` for a traced model.

    Raises:
        RequestError: a degree that does not divide what it deals out, or a sequence the trace was not made with; the message names
            the field.
    """
    done = resolve(work)
    shape = done.shape

    def flat(value: Number) -> Array:
        array = np.asarray(value, dtype=float)
        return array.reshape(1) if array.ndim == 0 and not shape else np.broadcast_to(array, shape).reshape(-1)

    repeat = np.array([stack.repeat for stack in layout.stacks], dtype=float)
    total = float(repeat.sum())
    pp = flat(done.pp)
    stage = np.broadcast_to(stage_layers(done, max(total, 1.0)), (3, *shape)).reshape(3, -1)
    front = repeat[0] if len(repeat) > 1 and repeat[0] * FRONT_SHARE <= total else 0.0
    alone = pp <= 1
    folded = done.schedule == "zbv"
    first = np.stack([0 * pp + 1, alone, alone])
    last = first if folded else np.stack([alone, alone, 0 * pp + 1])
    plan = Plan(
        work=done, tp=flat(done.tp), pp=pp, dp=flat(done.dp), cp=flat(done.cp), ep=flat(done.ep),
        expert_tp=np.maximum(flat(done.expert_tp), 1.0), zero=flat(done.zero),
        samples=flat(done.micro_batch) / trace.samples if trace.samples else flat(done.micro_batch) * 0 + 1,
        together=done.sequence_parallel == "on",
        accumulates=np.broadcast_to(microbatches(done), shape).reshape(-1) > 1,
        layers=np.asarray(rows_held(repeat, max(total, 1.0), stage, front=front)) if len(repeat) else np.zeros((0, 3, len(pp))),
        flying=np.broadcast_to(in_flight(done), (3, *shape)).reshape(3, -1),
        places=np.stack([first, last]),
    )  # fmt: skip
    _check(trace, layout, plan, total)
    return plan


def _check(trace: Trace, layout: Layout, plan: Plan, layers: float) -> None:
    """Raise RequestError naming the first field that cannot be."""
    _check_sequence(trace, plan)
    _check_degrees(trace, layout, plan, layers)
    _check_batch(plan)


def _check_sequence(trace: Trace, plan: Plan) -> None:
    seq = np.asarray(plan.work.seq, dtype=float).reshape(-1)
    if trace.seq and np.any(seq != trace.seq):
        asked = float(seq[np.argmax(seq != trace.seq)])
        raise RequestError(
            f"the trace was made with sequences of {trace.seq:g} tokens, and the plan has {asked:g}",
            place="seq", mend=f"trace with {asked:g} tokens, or set seq to {trace.seq:g}",
        )  # fmt: skip
    if not trace.seq and np.any(plan.cp > 1):
        raise RequestError(
            "the trace does not know a sequence to deal out",
            place="cp",
            mend="set cp to 1, or state seq and micro_batch",
        )
    if trace.seq:
        _divides("cp", plan.cp, trace.seq, f"a sequence of {trace.seq:g} tokens")


def _check_degrees(trace: Trace, layout: Layout, plan: Plan, layers: float) -> None:
    chunks = plan.pp * np.asarray(plan.work.virtual_stages, dtype=float).reshape(-1)
    if np.any(chunks > max(layers, 1)):
        raise RequestError(
            f"pp × virtual_stages is {float(chunks.max()):g}, more than the {layers:g} layers of {trace.name}",
            place="pp", mend=f"use at most {max(layers, 1):g}",
        )  # fmt: skip
    if layout.heads:
        _divides("tp", plan.tp, layout.heads, f"the {layout.heads} attention heads of {trace.name}")
    for path, width in layout.cut:
        if path in layout.key_paths and layout.kv_heads:
            heads = layout.kv_heads
            replicated = (plan.tp > heads) & (plan.tp % heads == 0)
            _divides("tp", np.where(replicated, 1, plan.tp), heads, f"the {heads} KV heads of {path}")
        else:
            degree = plan.expert_tp if EXPERTS.search(path) else plan.tp
            _divides("tp", degree, width, f"the {width} columns or rows of {path}")
    if np.any(plan.ep > 1) and not layout.experts:
        raise RequestError(f"{trace.name} has no experts to deal out", place="ep", mend="set ep to 1")
    for path, count in layout.experts:
        _divides("ep", plan.ep, count, f"the {count} experts of {path}")
    one = plan.ep * plan.expert_tp
    stage = plan.tp * plan.dp * plan.cp
    if np.any(plan.ep > 1) and np.any(stage % one):
        raise RequestError(
            f"ep × expert_tp is {float(one[np.argmax(stage % one > 0)]):g} and does not divide the tp × dp × cp devices of a stage",
            place="ep", mend="deal the experts over fewer devices",
        )  # fmt: skip


def _check_batch(plan: Plan) -> None:
    batch, together = np.broadcast_arrays(np.asarray(plan.work.global_batch, dtype=float).reshape(-1),
                                          np.asarray(plan.work.micro_batch, dtype=float).reshape(-1) * plan.dp)  # fmt: skip
    wrong = batch % together > 0
    if np.any(wrong):
        at = int(np.argmax(wrong))
        raise RequestError(
            f"a global batch of {batch[at]:g} sequences is no multiple of micro_batch × dp = {together[at]:g}",
            place="global_batch", mend=f"nearest: {max(round(batch[at] / together[at]), 1) * together[at]:g}",
        )  # fmt: skip


def _divides(name: str, degree: Array, count: float, what: str) -> None:
    wrong = count % degree != 0
    if np.any(wrong):
        worst = float(degree[np.argmax(wrong)])
        raise RequestError(
            f"{name} {worst:g} does not divide {what}", place=name, mend=f"nearest: {nearest_divisor(count, worst)}"
        )


def model_parallel_share(layout: Layout, plan: Plan) -> Array:
    """Return the share of one copy of each tensor that a device holds, before ZeRO, (tensors, requests).

    Parameters: tensor parallelism by product, experts by ep × expert_tp. Activations: tensor parallelism by region, context
    parallelism where they grow with the sequence, and as many samples as the micro-batch has.
    """
    kinds = layout.tensor_parallel[:, None]
    state = (layout.category < 3)[:, None]  # parameters, gradients, optimizer
    grows = (layout.along | layout.sampled)[:, None]
    dense, routed = (treated(plan, layout.kv_heads, routed=experts) for experts in (False, True))
    inner = np.where(layout.routed[:, None], routed[DIVIDED][None], dense[DIVIDED][None])
    share = np.select(
        [
            layout.expert[:, None],
            kinds == DIVIDED,
            kinds == KV,
            (kinds == SEQUENCE) & grows & ~state,
            (kinds == ROUTED) & grows,
        ],
        [1 / (plan.ep * plan.expert_tp)[None], inner, dense[KV][None], dense[SEQUENCE][None], dense[ROUTED][None]],
        1.0,
    )
    share = np.where(layout.along[:, None], share / plan.cp[None], share)
    return np.asarray(np.where(layout.sampled[:, None], share * plan.samples[None], share))


def treated(plan: Plan, kv_heads: int, *, routed: bool) -> dict[int, Array]:
    """Return the share of an activation a tensor-parallel rank has under each treatment of ``sharded_rules``, (requests,) each.

    Args:
        plan: of the request.
        kv_heads: heads of keys and values (0: not known).
        routed: of rows of routed tokens.
    """
    rows = plan.expert_tp * plan.beside if plan.together else np.ones_like(plan.tp)
    return {
        DIVIDED: rows / plan.expert_tp if routed else 1 / plan.tp,
        SEQUENCE: plan.beside,
        KV: 1 / np.minimum(plan.tp, kv_heads or plan.tp),
        ROUTED: rows,
    }


def on_stage(layout: Layout, plan: Plan) -> Array:
    """Return copies of each tensor's kind on the first, second and last stage: layers there, or 1 where it lies outside, (tensors, 3, requests)."""
    held = np.concatenate([plan.layers, plan.places[::-1].astype(float)])  # FIRST is -1, LAST -2: indices from the end
    return np.asarray(held[layout.stack])

"""The Trace of a whole model: its peak, peaks and timeline, operators and tensors, from an extrapolation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch

from bytebound.documents.trace import CATEGORIES, PASSING, Held, Moment, Stack, Trace, TracedOp, TracedTensor
from bytebound.trace.stacks import layer_of, starred
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import nn

    from bytebound.documents.trace import Phase
    from bytebound.trace.extrapolate import Extrapolation, Whole
    from bytebound.trace.observed import TensorKey
    from bytebound.trace.stacks import Layer

MOST_MOMENTS = 600
"""Moments of a timeline; beyond that every slice of the step keeps its fullest and its emptiest one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was traced."""

    name: str
    kind: Literal["training", "forward"]
    samples: float
    seq: float
    made_with: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """Parameters of the whole model: how many, and copies of each kind of tensor."""

    parameters: float
    trainable: float
    tensors: Mapping[TensorKey, int]


def count(models: Sequence[nn.Module], paths: Mapping[nn.Module, str], layers: Sequence[Layer]) -> Counted:
    """Count parameters and buffers, shared ones once."""
    by_path = {layer.path: layer for layer in layers}
    seen: set[int] = set()
    tensors: Counter[TensorKey] = Counter()
    parameters = trainable = 0
    for model in models:
        for module in model.modules():
            layer = layer_of(paths[module], by_path)
            for role, named in (
                ("parameter", module.named_parameters(recurse=False)),
                ("buffer", module.named_buffers(recurse=False)),
            ):
                for name, tensor in named:
                    storage = tensor.untyped_storage()
                    if storage._cdata in seen:  # noqa: SLF001 - identity of the allocation
                        continue
                    seen.add(storage._cdata)  # noqa: SLF001
                    if role == "parameter":
                        parameters += tensor.numel()
                        trainable += tensor.numel() * tensor.requires_grad
                    tensors[
                        role, name, starred(paths[module], layer), layer.kind if layer else "", "", tuple(tensor.shape),
                        str(tensor.dtype).removeprefix("torch."), storage.nbytes(), role == "parameter" and tensor.requires_grad,
                    ] += 1  # fmt: skip
    return Counted(float(parameters), float(trainable), tensors)


def answer(guess: Extrapolation, asked: Asked, counted: Counted, *, seconds: float) -> Trace:
    """Return the Trace."""
    whole = guess.whole()
    total = whole.held.sum(axis=1)
    best = _peaks(whole, total)
    tensors = _tensors(guess, whole, best, counted)
    operators = _operators(guess)
    fullest = int(np.argmax(total))
    traced = guess.base.counts
    repeats = Counter(layer.kind for layer in guess.layers)
    within = {layer.kind: layer.within for layer in guess.layers}
    parameters, trainable = counted.parameters, counted.trainable
    if not counted.tensors:  # the step built its own model
        sized = [(np.prod(t.shape, dtype=float) * t.copies, t.trainable) for t in tensors if t.role == "parameter"]
        parameters, trainable = float(sum(n for n, _ in sized)), float(sum(n for n, wanted in sized if wanted))
    return Trace(
        name=asked.name,
        kind=asked.kind,
        samples=asked.samples,
        seq=asked.seq,
        parameters=parameters,
        trainable=trainable,
        stacks=tuple(Stack(kind, within[kind], repeat, traced[kind]) for kind, repeat in repeats.items() if repeat > 1),
        peak=_moment(guess, whole, fullest),
        peaks={key: _moment(guess, whole, moment) for key, moment in best.items()},
        timeline=tuple(_moment(guess, whole, moment) for moment in _turns(guess, whole, total)),
        operators=operators,
        tensors=tensors,
        unknown=tuple(
            f"{op.name}: {op.calls:,.0f} calls move {show_capacity(op.read_bytes + op.written_bytes)} and have no FLOP formula"
            for op in _by_name(operators)
        ),
        exact=True,
        attention="eager" if not any(op.kind == "attention" for op in operators) else "flash",
        seconds=seconds,
        notes=asked.notes,
        versions={"torch": torch.__version__},
        made_with=dict(asked.made_with),
    )


def _moment(guess: Extrapolation, whole: Whole, moment: int) -> Moment:
    event = guess.base.events[whole.operator[moment]]
    layer = layer_of(event.module, guess.base.by_path)
    return Moment(
        at=float(moment / max(len(whole.held) - 1, 1)),
        phase=event.phase,
        module=starred(event.module, layer),
        op=event.op,
        held=Held(*map(float, whole.held[moment])),
    )


def _peaks(whole: Whole, total: npt.NDArray[np.float64]) -> dict[str, int]:
    """The fullest moment of each phase, and of each phase in each kind of layer and outside of all, with states and without."""
    passing = whole.held[:, CATEGORIES.index("activations") :].sum(axis=1)
    labels = [
        (placed.segment.phase, f"{placed.segment.phase}/{placed.segment.layer.kind if placed.segment.layer else ''}")
        for placed in whole.placed
    ]
    best: dict[str, int] = {}
    bounds = np.flatnonzero(np.diff(whole.which, prepend=-1, append=-1))
    for first, end in pairwise(bounds):
        here = int(first + np.argmax(total[first:end]))
        for label in labels[whole.which[first]]:
            if label not in best or total[here] > total[best[label]]:
                best[label] = here
        there = int(first + np.argmax(passing[first:end]))
        stateless = f"{labels[whole.which[first]][1]}/{PASSING}"
        if stateless not in best or passing[there] > passing[best[stateless]]:
            best[stateless] = there
    return {key: at for key, at in best.items() if not key.endswith(f"/{PASSING}") or at not in _besides(best, key)}


def _besides(best: Mapping[str, int], key: str) -> set[int]:
    return {at for other, at in best.items() if other != key}


def _turns(guess: Extrapolation, whole: Whole, total: npt.NDArray[np.float64]) -> list[int]:
    """Moments where memory turns, and those where a phase begins or ends; of too many the extremes of every slice of the step."""
    if not len(total):
        return []
    rise = np.sign(np.diff(total))
    moving = np.flatnonzero(rise)
    turning = {int(moving[i]) + 1 for i in range(len(moving) - 1) if rise[moving[i]] != rise[moving[i + 1]]}
    phases = np.array([guess.base.events[operator].instance for operator in whole.operator])
    edges = np.flatnonzero(np.diff(phases))
    fixed = {0, len(total) - 1, int(np.argmax(total)), *map(int, edges), *map(int, edges + 1)}
    rest = np.array(sorted(turning - fixed), dtype=np.int64)
    if len(rest) > MOST_MOMENTS:
        slices = np.split(rest, np.flatnonzero(np.diff(rest * (MOST_MOMENTS // 2) // len(total))) + 1)
        rest = np.concatenate([each[[np.argmin(total[each]), np.argmax(total[each])]] for each in slices])
    return sorted({*fixed, *map(int, rest)})


def _tensors(guess: Extrapolation, whole: Whole, best: Mapping[str, int], counted: Counted) -> tuple[TracedTensor, ...]:
    alive: dict[TensorKey, dict[str, float]] = {}
    for key, moment in best.items():
        for tensor, copies in guess.alive(whole, moment).items():
            alive.setdefault(tensor, {})[key] = copies
    result = []
    for tensor, moments in alive.items():
        role, name, module, stack, op, shape, dtype, size, trainable = tensor
        copies = counted.tensors.get(tensor) or max(moments.values())
        result.append(
            TracedTensor(role, name, module, stack, op, shape, dtype, float(size), float(copies), trainable, moments)
        )
    return tuple(result)


def _operators(guess: Extrapolation) -> tuple[TracedOp, ...]:
    rows = []
    for (name, kind, phase, module, stack, math, known, again), row in guess.sums().items():
        calls, flops, read, written, fused, weights = map(float, row)
        if calls > 0:
            rows.append(
                TracedOp(
                    name=name, kind=kind if known else "elementwise", phase=cast("Phase", phase), module=module, stack=stack,
                    math=math, calls=calls, flops=flops, read_bytes=read, written_bytes=written, fused_bytes=fused,
                    weight_bytes=weights, known=known, again=again,
                )
            )  # fmt: skip
    return tuple(rows)


def _by_name(operators: Sequence[TracedOp]) -> list[TracedOp]:
    """Operators without a formula, summed by name."""
    summed: dict[str, TracedOp] = {}
    for op in operators:
        if not op.known and op.read_bytes + op.written_bytes > 0:
            old = summed.get(op.name)
            summed[op.name] = TracedOp(
                name=op.name, kind=op.kind, phase=op.phase, module="", stack="", math="", calls=op.calls + (old.calls if old else 0),
                flops=0.0, read_bytes=op.read_bytes + (old.read_bytes if old else 0),
                written_bytes=op.written_bytes + (old.written_bytes if old else 0), fused_bytes=0.0, known=False,
            )  # fmt: skip
    return list(summed.values())

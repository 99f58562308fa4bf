"""A trace laid out for sharding: one row per traced tensor, with what divides it and when it is alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.trace import Stack
from bytebound.errors import RequestError
from bytebound.ledger.sharded_rules import (
    DIVIDED,
    EXPERTS,
    KEYS_AND_VALUES,
    KV,
    QUERIES,
    SEQUENCE,
    owner,
    plain_path,
    regions,
    split_of,
    treatment,
)
from bytebound.ledger.table import COLUMN, REPLICATE, ROW, VOCAB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.trace import Trace, TracedTensor
    from bytebound.ledger.sharded_rules import Regions

    Array = NDArray[Any]

WHOLE = -1
"""Treatment of what every tensor-parallel rank holds whole; the others are those of ``sharded_rules``."""
FIRST, LAST = -1, -2
"""Places outside all stacks: before the layers (look-ups) and after them (final norm, head, loss)."""
STATES = frozenset({"parameter", "buffer", "gradient", "optimizer"})
CATEGORY = {"parameter": 0, "buffer": 0, "gradient": 1, "optimizer": 2, "activation": 3, "temporary": 4}
"""Column of each role in ``documents.trace.CATEGORIES``."""
CASTS = frozenset({"_to_copy", "clone"})
PRODUCTS = frozenset({"mm", "addmm", "bmm", "matmul", "baddbmm"})


@dataclass(frozen=True, slots=True)
class Layout:
    """All arrays are (tensors,) unless said otherwise.

    Args:
        category: index into ``documents.trace.CATEGORIES``.
        size: bytes of one copy; ``elements`` of one copy; ``copies`` in the whole model.
        tensor_parallel: WHOLE or a treatment of ``sharded_rules``; of parameters, gradients and states too.
        expert: parameters of routed experts, dealt out by ep. routed: activations of theirs.
        trained: parameters, gradients and states of what learns.
        along, sampled: whether it grows with the sequence, and with the samples.
        stack: index into ``stacks``, FIRST or LAST.
        moments: candidate peaks, by key of ``Trace.peaks``; ``alive`` copies alive at each, (moments, tensors).
        widest: elements of the widest boundary between two layers of each stack, (stacks,); ``read_width`` bytes of one where
            products read it; ``readers`` regions of a layer that begin with a column product.
        heads, kv_heads: of queries and of keys and values, where shapes tell (0: not).
        cut: sizes that tensor parallelism divides and the module of each; ``key_paths`` those of keys and values.
        experts: how many experts each expert parameter stacks.
        unclassified: matrices in layers that stay whole on every rank.
        squared: attention scores, which grow with the square of the sequence.
        hidden: width of the residual stream (0: not known). made_with: of the trace.
        where: its column and row products. named: styles of tensor parallelism that go before what names tell.
    """

    tensors: tuple[TracedTensor, ...]
    stacks: tuple[Stack, ...]
    category: NDArray[np.int64]
    size: Array
    elements: Array
    copies: Array
    tensor_parallel: NDArray[np.int64]
    expert: NDArray[np.bool_]
    routed: NDArray[np.bool_]
    trained: NDArray[np.bool_]
    along: NDArray[np.bool_]
    sampled: NDArray[np.bool_]
    stack: NDArray[np.int64]
    moments: tuple[str, ...]
    alive: Array
    widest: Array
    read_width: Array
    readers: Array
    heads: int
    kv_heads: int
    cut: tuple[tuple[str, int], ...]
    key_paths: frozenset[str]
    experts: tuple[tuple[str, int], ...]
    unclassified: tuple[str, ...]
    squared: NDArray[np.bool_]
    hidden: float
    made_with: dict[str, str]
    where: Regions
    named: Mapping[str, str] | None

    @property
    def repeat(self) -> Array:
        """Layers of the stack a tensor is in, 1 outside of all."""
        return np.array([self.stacks[i].repeat if i >= 0 else 1 for i in self.stack], dtype=float)


def lay_out(trace: Trace, plan: Mapping[str, str] | None = None) -> Layout:
    """Return ``trace`` as arrays.

    Args:
        trace: a traced step whose tensors say when they are alive.
        plan: end of a module's path -> style of tensor parallelism, before what names tell.

    Raises:
        RequestError: the trace does not say which tensors are alive at its peaks.
    """
    tensors = trace.tensors
    moments = _moments(trace)
    parameters = [tensor for tensor in tensors if tensor.role == "parameter"]
    where = regions(parameters, plan)
    shapes = frozenset(tensor.shape for tensor in parameters)
    stacks = _stacks(trace)
    names = {stack.name: index for index, stack in enumerate(stacks)}
    inside = [index for index, tensor in enumerate(tensors) if tensor.role == "parameter" and tensor.stack in names]
    before = {
        plain_path(tensor.module) for tensor in tensors[: inside[0] if inside else 0] if tensor.role == "parameter"
    }
    grows = [_grows(tensor, trace, shapes) if tensor.role not in STATES else (False, False) for tensor in tensors]
    heads, kv_heads = _heads(tensors, where, int(trace.seq))
    boundaries = [_boundary(tensors, stack.name, where) for stack in stacks]
    expert = {owner(tensor) for tensor in parameters if EXPERTS.search(owner(tensor))}
    trained = {owner(tensor) for tensor in parameters if tensor.trainable}
    return Layout(
        tensors=tensors,
        stacks=stacks,
        category=np.array([CATEGORY[tensor.role] for tensor in tensors]),
        size=np.array([tensor.storage_bytes for tensor in tensors], dtype=float),
        elements=np.array([np.prod(tensor.shape, dtype=float) for tensor in tensors]),
        copies=np.array([tensor.copies for tensor in tensors], dtype=float),
        tensor_parallel=np.array([_treated(tensor, where, shapes, plan) for tensor in tensors]),
        expert=np.array([tensor.role in STATES and owner(tensor) in expert for tensor in tensors]),
        routed=np.array([tensor.role not in STATES and EXPERTS.search(plain_path(tensor.module)) is not None for tensor in tensors]),
        trained=np.array([tensor.role in STATES and owner(tensor) in trained for tensor in tensors]),
        along=np.array([along for along, _ in grows]),
        sampled=np.array([sampled for _, sampled in grows]),
        stack=np.array([names.get(tensor.stack, FIRST if plain_path(tensor.module) in before else LAST) for tensor in tensors]),
        moments=moments,
        alive=np.array([[tensor.alive.get(key, 0.0) for tensor in tensors] for key in moments]),
        widest=np.array([size for size, _ in boundaries]),
        read_width=np.array([each for _, each in boundaries]),
        readers=np.array([_readers(parameters, stack.name, where) for stack in stacks], dtype=float),
        heads=heads,
        kv_heads=kv_heads,
        cut=tuple((m.path, m.inputs if m.split == ROW else m.outputs) for m in where.matrices.values() if m.split in {COLUMN, ROW}),
        key_paths=frozenset(m.path for m in where.matrices.values() if m.split == COLUMN and KEYS_AND_VALUES.search(m.path)),
        experts=tuple((owner(t), _experts(t, stacks)) for t in parameters if EXPERTS.search(owner(t)) and len(t.shape) > 1),
        unclassified=tuple(sorted(
            owner(t) for t in parameters if len(t.shape) > 1 and t.stack in names and where.matrices[owner(t)].split == REPLICATE
        )),
        squared=np.array([t.role == "activation" and trace.seq > 1 and t.shape.count(int(trace.seq)) > 1 and len(t.shape) > 2 for t in tensors]),
        hidden=float(max(where.hidden, default=0)),
        made_with=trace.made_with,
        where=where,
        named=plan,
    )  # fmt: skip


def _moments(trace: Trace) -> tuple[str, ...]:
    """Return the candidate peaks: those of single kinds of layers where a phase has them, else the phase's."""
    if not any(tensor.alive for tensor in trace.tensors):
        raise RequestError(
            "the trace does not say which tensors are alive at its peaks, so it cannot be sharded",
            place=trace.name, mend="trace again with this version",
        )  # fmt: skip
    finer = {key.partition("/")[0] for key in trace.peaks if "/" in key}
    return tuple(key for key in trace.peaks if "/" in key or key not in finer)


def _stacks(trace: Trace) -> tuple[Stack, ...]:
    """Return the kinds of layers in the order of the model, with those that occur once (a trace lists repeated ones)."""
    listed = {stack.name: stack for stack in trace.stacks}
    order = dict.fromkeys(t.stack for t in trace.tensors if t.role == "parameter" and t.stack)
    return tuple(listed.get(name, Stack(name, "", 1, 1)) for name in order)


def _treated(
    tensor: TracedTensor, where: Regions, shapes: frozenset[tuple[int, ...]], plan: Mapping[str, str] | None
) -> int:
    """Return how tensor parallelism treats any tensor: parameters by their product, the others by where they are made."""
    path = owner(tensor)
    split = split_of(path, plan)
    if tensor.role not in STATES:
        if _is_cast(tensor, shapes):
            return WHOLE if split == REPLICATE else DIVIDED
        if len(tensor.shape) > 2 and tensor.shape[-2] == tensor.shape[-1] and set(tensor.shape[1:-2]) == {1}:
            return WHOLE  # a causal mask, the same for every head
        if _gradient_of_input(tensor) and split in {COLUMN, ROW}:
            return DIVIDED if split == ROW else WHOLE
        return treatment(tensor, where, plan)
    vector = len(tensor.shape) < 2
    if split == REPLICATE or (vector and split == ROW) or (vector and path not in where.matrices):
        return WHOLE
    if split == VOCAB or not (split == COLUMN and KEYS_AND_VALUES.search(path)):
        return DIVIDED
    return KV


def _is_cast(tensor: TracedTensor, shapes: frozenset[tuple[int, ...]]) -> bool:
    """Tell whether a tensor is a weight in another dtype (autocast): it has a weight's shape."""
    return tensor.op in CASTS and (tensor.shape in shapes or tensor.shape[::-1] in shapes)


def _gradient_of_input(tensor: TracedTensor) -> bool:
    """Tell whether a tensor is what a product hands back: made by a product, alive in backward only."""
    backward = bool(tensor.alive) and all(key.startswith("backward") for key in tensor.alive)
    return tensor.role == "temporary" and tensor.op in PRODUCTS and backward


def _grows(tensor: TracedTensor, trace: Trace, shapes: frozenset[tuple[int, ...]]) -> tuple[bool, bool]:
    """Return whether a tensor grows with the sequence, and whether with the samples.

    Told by sizes: one of its dimensions is the sequence (or one less: shifted labels), or counts tokens of all samples. A cast
    weight has its weight's shape and grows with neither.
    """
    shape, seq, samples = tensor.shape, int(trace.seq), int(trace.samples)
    if _is_cast(tensor, shapes):
        return False, False
    if not seq:
        return False, samples > 0 and bool(shape) and shape[0] % samples == 0
    tokens = seq * samples
    flat = any(size in {tokens, tokens - 1, tokens - samples} or (size > 0 and size % tokens == 0) for size in shape)
    along = flat or any(size in {seq, seq - 1} for size in shape)
    return along, flat or (bool(shape) and samples > 1 and shape[0] == samples) or (along and samples == 1)


def _boundary(tensors: tuple[TracedTensor, ...], stack: str, where: Regions) -> tuple[float, float]:
    """Return elements of what passes from layer to layer, and bytes of one in the width products read.

    Both are told by kept tensors as wide as the residual stream: the largest, and the narrowest per element.
    """
    found = [
        (float(np.prod(tensor.shape)), tensor.storage_bytes / float(np.prod(tensor.shape)))
        for tensor in tensors
        if tensor.stack == stack
        and tensor.role == "activation"
        and tensor.shape
        and tensor.shape[-1] in where.hidden
        and treatment(tensor, where) == SEQUENCE
    ]
    return max((size for size, _ in found), default=0.0), min((each for _, each in found), default=0.0)


def _readers(parameters: list[TracedTensor], stack: str, where: Regions) -> int:
    """Return how many tensor-parallel regions a layer has, experts left out (their input is dealt out already)."""
    inside = {owner(tensor) for tensor in parameters if tensor.stack == stack}
    return sum(
        any(path.startswith(f"{container}.") for path in inside) and EXPERTS.search(container) is None
        for container in where.containers
    )


def _heads(tensors: tuple[TracedTensor, ...], where: Regions, seq: int) -> tuple[int, int]:
    """Return the heads of queries and of keys: outputs of their products over a head's width, (0, 0) where no tensor shows it."""
    columns = [m for m in where.matrices.values() if m.split == COLUMN and len(where.containers)]
    keys = {m.outputs for m in columns if KEYS_AND_VALUES.search(m.path)}
    queries = {m.outputs for m in columns if QUERIES.search(m.path)}
    for tensor in tensors:
        if len(tensor.shape) == 4 and tensor.role not in STATES and queries and keys:
            width = tensor.shape[-1]
            if any(count != seq and count * width in queries | keys for count in tensor.shape[1:3]):
                return min(queries) // width, min(keys) // width
    return 0, 0


def _experts(tensor: TracedTensor, stacks: tuple[Stack, ...]) -> int:
    """Return how many experts a parameter stands for in each layer: stacked in its first dimension, or one copy each."""
    if len(tensor.shape) > 2:
        return tensor.shape[0]
    repeat = next((stack.repeat for stack in stacks if stack.name == tensor.stack), 1)
    return round(tensor.copies / repeat)

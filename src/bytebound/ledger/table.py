"""Compile an Architecture to operator tables: struct of arrays, one row per distinct operator.

The tables are static (they know no batch, no precision override and no parallel degree), hashable by their architecture
and cached, so one question and a million questions share them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.architecture import (
    Architecture,
    Attention,
    Block,
    Conv,
    Embedding,
    Linear,
    Norm,
    Parameter,
    Recurrence,
    Tower,
)
from bytebound.facts.formats import find_format

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Array = NDArray[Any]

MAIN, SEQUENCE, ENCODER, CROSS = range(4)
"""Whose tokens a row works on: the main tower's, one per sequence, an encoder tower's, keys of the encoder in the decoder."""

LAYER_ROLES = frozenset({"attention", "mlp", "expert", "mixer", "conv"})
"""A block is a layer (and can be a pipeline stage's) when it does one of these; embedding and head blocks do not."""

REPLICATE, COLUMN, ROW, VOCAB = range(4)
SHARDS = {"replicate": REPLICATE, "column": COLUMN, "row": ROW, "vocab": VOCAB}
FULL, WINDOW, CHUNK, LATENT, CROSSED = range(5)
KINDS = {"full": FULL, "window": WINDOW, "chunk": CHUNK, "latent": LATENT, "cross": CROSSED}


@dataclass(frozen=True, slots=True)
class Products:
    """Matrix products (and convolutions). All arrays (rows,).

    ``outputs`` and ``elements`` are of one copy; ``repeat`` counts layers. ``reduces`` is 1 where tensor parallelism sums
    partial results after the row. ``launches`` is 0 for rows fused with the one before (q with k and v).
    """

    names: tuple[str, ...]
    roles: tuple[str, ...]
    stored: tuple[str, ...]
    stream: NDArray[np.int64]
    repeat: Array
    inputs: Array
    outputs: Array
    elements: Array
    flop_per_token: Array
    copies: Array
    active: Array
    shard: NDArray[np.int64]
    units: Array
    token_scale: Array
    tied: Array
    reduces: Array
    launches: Array


@dataclass(frozen=True, slots=True)
class Scores:
    """Attention over keys and values. All arrays (rows,); ``own`` is the cached values per token and layer."""

    names: tuple[str, ...]
    stream: NDArray[np.int64]
    repeat: Array
    heads: Array
    kv_heads: Array
    qk_dim: Array
    v_dim: Array
    kind: NDArray[np.int64]
    window: Array
    latent: Array
    rope: Array
    causal: Array
    own: Array
    selected: Array
    index_elements: Array
    index_flop: Array
    stride: Array
    token_scale: Array


@dataclass(frozen=True, slots=True)
class Streams:
    """Everything that only passes data through: norms, look-ups, recurrent states, small parameters. Arrays (rows,)."""

    names: tuple[str, ...]
    roles: tuple[str, ...]
    stored: tuple[str, ...]
    stream: NDArray[np.int64]
    repeat: Array
    width: Array
    token_scale: Array
    elements: Array
    looked_up: Array
    flop_per_token: Array
    state_bytes: Array
    launches: Array


@dataclass(frozen=True, slots=True)
class OpTable:
    """The whole model as tables, and the few facts about its towers that phases need."""

    kind: str
    hidden: float
    layers: float
    main_tokens: float
    encoder_tokens: float
    crosses: bool
    products: Products
    scores: Scores
    streams: Streams
    draft_elements: float


@lru_cache(maxsize=256)
def compile_table(architecture: Architecture, *, fused: bool = True) -> OpTable:
    """Return the operator tables of ``architecture`` (cached).

    Args:
        architecture: the model.
        fused: products that read the same input are one row and read it once (q with k and v, gate with up), as every
            engine runs them; False keeps each product apart, as papers that count operators do.
    """
    main = architecture.main
    served = [tower for tower in architecture.towers if tower.kind != "draft"]
    rows = [(_stream(tower, main), block) for tower in served for block in tower.blocks]
    products = _merge_products([row for stream, block in rows for row in _products(stream, block)], fused=fused)
    scores = [(stream, block, op) for stream, block in rows for op in block.operators if isinstance(op, Attention)]
    encoders = [tower for tower in served if tower is not main and tower.kind == "encoder"]
    crosses = any(op.kind == "cross" for block in main.blocks for op in block.operators if isinstance(op, Attention))
    draft = sum(
        tensor.elements * tensor.copies * block.repeat
        for tower in architecture.towers
        if tower.kind == "draft"
        for block in tower.blocks
        for op in block.operators
        for tensor in op.tensors()
        if not tensor.tied
    )
    layers = sum(block.repeat for block in main.blocks if any(op.role in LAYER_ROLES for op in block.operators))
    return OpTable(
        kind=main.kind,
        hidden=float(main.hidden),
        layers=float(max(layers, 1)),
        main_tokens=float(main.tokens),
        encoder_tokens=float(max((tower.tokens for tower in encoders), default=0)),
        crosses=crosses,
        products=products,
        scores=_scores(scores),
        streams=_streams([(stream, block, op) for stream, block in rows for op in block.operators]),
        draft_elements=float(draft),
    )


def model_kind(table: OpTable) -> str:
    """Return what kind of model it is, as far as its costs differ: dense, moe, mla-moe, mla or hybrid (recurrent states)."""
    if bool((table.streams.state_bytes > 0).any()):
        return "hybrid"
    latent = bool((table.scores.kind == LATENT).any())
    routed = bool((table.products.copies > 1).any())
    return ("mla-moe" if routed else "mla") if latent else ("moe" if routed else "dense")


def _stream(tower: Tower, main: Tower) -> int:
    return MAIN if tower is main else ENCODER


@dataclass(frozen=True, slots=True)
class _Product:
    name: str
    role: str
    stored: str
    stream: int
    repeat: int
    inputs: float
    outputs: float
    elements: float
    flop: float
    copies: int
    active: int
    shard: int
    units: int
    token_scale: float
    tied: bool
    reduces: bool
    launches: float

    @property
    def fuse_key(self) -> tuple[object, ...]:
        return (
            self.role, self.stored, self.stream, self.repeat, self.inputs, self.copies, self.active, self.shard,
            self.units, self.token_scale, self.tied, self.reduces,
        )  # fmt: skip


def _products(stream: int, block: Block) -> Iterator[_Product]:
    """Yield one row per product; outputs of neighbours with the same input are merged later."""
    has_experts = any(isinstance(op, Linear) and op.copies > 1 for op in block.operators)
    previous: Linear | None = None
    for op in block.operators:
        if isinstance(op, Linear):
            own = {"self": stream, "encoder": CROSS, "sequence": SEQUENCE}[op.source]
            fused = (
                previous is not None
                and (previous.inputs, previous.role, previous.source) == (op.inputs, op.role, op.source)
                and op.shard != "row"
            )
            reduces = op.shard == "row" and not (has_experts and op.role == "mlp")
            yield _Product(
                name=op.name, role=op.role, stored=op.stored, stream=own, repeat=block.repeat, inputs=op.inputs,
                outputs=op.outputs, elements=op.inputs * op.outputs, flop=2.0 * op.inputs * op.outputs, copies=op.copies,
                active=op.active, shard=SHARDS[op.shard],
                units=op.shard_units, token_scale=op.token_scale, tied=op.tied, reduces=reduces,
                launches=0.0 if fused else 1.0,
            )  # fmt: skip
            previous = op
        elif isinstance(op, Conv):
            elements = op.outputs * (op.inputs // op.groups) * prod(op.kernel)
            yield _Product(
                name=op.name, role=op.role, stored=op.stored, stream=stream, repeat=block.repeat, inputs=op.inputs,
                outputs=op.outputs, elements=elements, flop=2.0 * elements, copies=1, active=1, shard=REPLICATE, units=0,
                token_scale=op.token_scale, tied=False, reduces=False, launches=1.0,
            )  # fmt: skip
            previous = None


def _merge_products(rows: list[_Product], *, fused: bool) -> Products:
    """Merge neighbours that read the same input in the same way into one row (k with v, gate with up)."""
    merged: list[_Product] = []
    for row in rows:
        last = merged[-1] if merged else None
        if fused and last is not None and last.fuse_key == row.fuse_key and row.launches == 0.0:
            merged[-1] = _Product(
                name=f"{last.name}+{row.name.rsplit('.', 1)[-1]}", role=row.role, stored=row.stored, stream=row.stream,
                repeat=row.repeat, inputs=row.inputs, outputs=last.outputs + row.outputs,
                elements=last.elements + row.elements, flop=last.flop + row.flop, copies=row.copies, active=row.active,
                shard=row.shard, units=row.units, token_scale=row.token_scale, tied=row.tied, reduces=row.reduces,
                launches=last.launches,
            )  # fmt: skip
        else:
            merged.append(row)
    return Products(
        names=tuple(row.name for row in merged),
        roles=tuple(row.role for row in merged),
        stored=tuple(row.stored for row in merged),
        stream=_ints(row.stream for row in merged),
        repeat=_floats(row.repeat for row in merged),
        inputs=_floats(row.inputs for row in merged),
        outputs=_floats(row.outputs for row in merged),
        elements=_floats(row.elements for row in merged),
        flop_per_token=_floats(row.flop for row in merged),
        copies=_floats(row.copies for row in merged),
        active=_floats(row.active for row in merged),
        shard=_ints(row.shard for row in merged),
        units=_floats(row.units for row in merged),
        token_scale=_floats(row.token_scale for row in merged),
        tied=_floats(row.tied for row in merged),
        reduces=_floats(row.reduces for row in merged),
        launches=_floats(row.launches for row in merged),
    )


def _scores(rows: list[tuple[int, Block, Attention]]) -> Scores:
    ops = [op for _, _, op in rows]
    return Scores(
        names=tuple(op.name for op in ops),
        stream=_ints(stream for stream, _, _ in rows),
        repeat=_floats(block.repeat for _, block, _ in rows),
        heads=_floats(op.heads for op in ops),
        kv_heads=_floats(op.kv_heads for op in ops),
        qk_dim=_floats(op.qk_dim for op in ops),
        v_dim=_floats(op.v_dim for op in ops),
        kind=_ints(KINDS[op.kind] for op in ops),
        window=_floats(op.window or np.inf for op in ops),
        latent=_floats(op.latent for op in ops),
        rope=_floats(op.rope for op in ops),
        causal=_floats(op.causal for op in ops),
        own=_floats(op.kv_elements - (op.index_elements if op.cached else 0.0) for op in ops),
        selected=_floats(op.selected or np.inf for op in ops),
        index_elements=_floats(op.index_elements if op.cached else 0.0 for op in ops),
        index_flop=_floats(op.index_flop for op in ops),
        stride=_floats(op.stride for op in ops),
        token_scale=_floats(op.token_scale for op in ops),
    )


def _streams(rows: list[tuple[int, Block, object]]) -> Streams:
    small = [(stream, block, _bias(op) if isinstance(op, Linear | Conv) else op) for stream, block, op in rows]
    kept = [(s, b, op) for s, b, op in small if isinstance(op, Norm | Embedding | Recurrence | Parameter)]
    ops = [op for _, _, op in kept]

    def width(op: Norm | Embedding | Recurrence | Parameter) -> float:
        return float(op.width) if isinstance(op, Norm | Embedding) else 0.0

    def state(op: Norm | Embedding | Recurrence | Parameter) -> float:
        return op.state_elements * op.state_bits / 8 + op.conv_elements * 2.0 if isinstance(op, Recurrence) else 0.0

    return Streams(
        names=tuple(op.name for op in ops),
        roles=tuple(op.role for op in ops),
        stored=tuple("fp32" if isinstance(op, Recurrence) else op.stored for op in ops),
        stream=_ints(stream for stream, _, _ in kept),
        repeat=_floats(block.repeat for _, block, _ in kept),
        width=_floats(width(op) for op in ops),
        token_scale=_floats(op.token_scale if isinstance(op, Norm) else 1.0 for op in ops),
        elements=_floats(sum(t.elements * t.copies for t in op.tensors()) for op in ops),
        looked_up=_floats(isinstance(op, Embedding) for op in ops),
        flop_per_token=_floats(op.flop_per_token if isinstance(op, Recurrence) else 0.0 for op in ops),
        state_bytes=_floats(state(op) for op in ops),
        launches=_floats(0.0 if isinstance(op, Parameter) else 1.0 for op in ops),
    )


def _bias(op: Linear | Conv) -> Parameter | None:
    """Return the bias of a product as a small parameter, None where it has none."""
    if not op.bias:
        return None
    return Parameter(f"{op.name}.bias", (op.outputs,), op.bias_stored, op.copies if isinstance(op, Linear) else 1)


def matrix_bits(stored: str, inputs: float) -> float:
    """Return stored bits per weight of a matrix with ``inputs`` columns, its scales spread over it."""
    found = find_format(stored)
    if not found.block_rows:
        return found.value_bits
    return found.value_bits + found.block_bits / (found.block_rows * (found.block_cols or max(inputs, 1.0)))


def _floats(values: Iterable[float]) -> Array:
    return np.fromiter(values, dtype=np.float64)


def _ints(values: Iterable[int]) -> NDArray[np.int64]:
    return np.fromiter(values, dtype=np.int64)

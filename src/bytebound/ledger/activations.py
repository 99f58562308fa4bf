"""Activations of training: bytes kept from forward to backward, per token and operator, by how the framework computes.

The rules are for operators, not for one architecture: a LLaMA or GPT layer's closed form is what they add up to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger import table as t
from bytebound.ledger.schedules import front_layers, is_last, rows_held, stage_layers
from bytebound.ledger.states import adapted_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bytebound.documents.work import Train
    from bytebound.ledger.table import OpTable

    Array = NDArray[Any]

FUSED_FRAMEWORKS = frozenset({"megatron", "deepspeed", "jax"})
"""Frameworks whose norms, activation functions and rotary embeddings are single kernels that keep their inputs alone."""
WIDE, HALF = 4.0, 2.0
FOUR_BIT_INPUT_BYTES = {"litgpt": 4.0}
"""Bytes per value of the input that a 4-bit product keeps for its backward pass, 2 where not named: bitsandbytes ``MatMul4Bit``
saves it for frozen weights too. litgpt's are 32 bits wide: deduced from its QLoRA runs against its LoRA runs
(litgpt config_hub/finetune/README.md: 23 to 35 s b h per layer more, where 4 bytes per input make 26 to 30)."""
DROPPED_BYTES = 3.0
"""Bytes per value that dropout in front of an adapter keeps: its mask, and the 16-bit input it leaves. litgpt's adapters all have
it (``lora_dropout`` 0.05), one in front of each linear layer, q, k and v being one. Traced from litgpt 0.5.3 (``lora.LoRALinear``)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes kept for one micro-batch by one device, arrays (3, *requests): first, second and last stage.

    ``layers`` of all layers of the stage, ``layer`` of its largest layer (what recomputation brings back), ``boundary`` the input
    of one layer, ``copies`` 16-bit weights that autocast keeps until the backward pass, ``grads`` the largest
    gradients alive together inside a layer's backward pass, ``outside`` what lies in no layer (the last norm).
    """

    layers: Array
    layer: Array
    boundary: Array
    copies: Array
    grads: Array
    outside: Array


def kept(table: OpTable, work: Train, *, dropout: bool = False) -> Kept:
    """Return what one micro-batch keeps on each stage, (3, *requests).

    Fused kernels (Megatron): inputs of norms, of products (once where several read the same) and of the activation function,
    q, k, v and the softmax statistics: ``s b h (18 + 6 f/h)`` for a gated layer with as many KV heads as heads, and
    ``s b h (34 + 5 a s/h)`` for GPT with dropout and eager attention. Source: Korthikanti et al. 2022 (arXiv 2205.05198)
    Table 2, with 6 f/h for gated layers and 4 k/a for grouped KV heads.
    Eager torch (Hugging Face): the 32-bit copy and the normalised value of every RMSNorm, k and v repeated to all heads and
    the activation function's output as well: ``s b (16 h + 8 h_q + 8 f + 4 a + 8)`` for a LLaMA layer in 16 bits.
    Source: traced with torch 2.13 and transformers 5.

    Args:
        table: of the model.
        work: a resolved request.
        dropout: whether dropout masks are kept (GPT-2, GPT-3 and Megatron's papers train with it).
    """
    shape = work.shape
    extend = (slice(None), *([None] * len(shape)))
    stage = stage_layers(work, table.layers)
    front = front_layers(table)
    rows = _all_rows(table, work, dropout=dropout)
    inside = _in_layers(table)
    layers = sum(
        (row[:, None] * rows_held(repeat * inside(repeat), table.layers, stage, front=front)).sum(axis=0)
        for row, repeat in rows
    )
    outside = sum((row * (repeat * ~inside(repeat))[extend]).sum(axis=0) for row, repeat in rows)
    kinds = sorted(set(table.products.repeat[_inner(table)].tolist())) if front else [table.layers]
    layer = np.max(
        [
            sum((row * (repeat == kind if front else repeat * inside(repeat) / table.layers)[extend]).sum(axis=0) for row, repeat in rows)
            for kind in kinds
        ],
        axis=0,
    )  # fmt: skip
    tokens = local_tokens(work)
    wide = _width(work)
    boundary = _stream_bytes(work) * table.hidden * tokens * _beside(work) * wide
    full = np.ones((3, *shape))
    p = table.products
    cast = _inner(table) & (work.precision == "bf16-autocast")
    held = rows_held(p.repeat, table.layers, stage, front=front)
    matrices = (p.elements * p.copies * cast)[:, *([None] * (1 + len(shape)))] * held / np.asarray(work.tp)
    return Kept(
        layers=np.asarray(layers) * full, layer=np.asarray(layer) * full, boundary=boundary * full,
        copies=HALF * matrices.sum(axis=0) * np.asarray(work.model_scale) * full,
        grads=_grads(table, work) * full, outside=np.asarray(outside) * is_last(work),
    )  # fmt: skip


def activation_bytes_per_layer(table: OpTable, work: Train, *, dropout: bool = False) -> Array:
    """Return the bytes one layer keeps for one micro-batch on one device, the mean over layers, (*requests)."""
    extend = (slice(None), *([None] * len(work.shape)))
    inside = _in_layers(table)
    rows = _all_rows(table, work, dropout=dropout)
    return np.asarray(sum((row * (repeat * inside(repeat))[extend]).sum(axis=0) for row, repeat in rows) / table.layers)


def _all_rows(table: OpTable, work: Train, *, dropout: bool) -> tuple[tuple[Array, Array], ...]:
    """Return bytes kept per occurrence and occurrences of products, attention and norms."""
    return (
        (_product_rows(table, work, dropout=dropout), table.products.repeat),
        (_score_rows(table, work, dropout=dropout), table.scores.repeat),
        (_norm_rows(table, work), table.streams.repeat),
    )


def _in_layers(table: OpTable) -> Callable[[Array], NDArray[np.bool_]]:
    """Return which rows lie in layers, by their repeats: the norm in front of the head belongs to none."""
    known = np.unique(table.products.repeat[_inner(table)])
    return lambda repeat: np.isin(repeat, known)


def local_tokens(work: Train) -> Array:
    """Return tokens of a micro-batch on one context-parallel rank, (*requests)."""
    values = (np.asarray(v, dtype=float) for v in (work.seq, work.micro_batch, work.cp))
    seq, micro, cp = values
    return np.asarray(np.broadcast_to(seq * micro / cp, work.shape))


def _row_tokens(table: OpTable, work: Train, stream: Array) -> Array:
    """Return tokens each row works on in a micro-batch, (rows, *requests)."""
    tokens = local_tokens(work)
    micro = np.asarray(work.micro_batch, dtype=float)
    encoder = np.where(table.encoder_tokens > 0, table.encoder_tokens * micro, tokens)
    place = stream.reshape(-1, *([1] * tokens.ndim))
    return np.asarray(
        np.where((place == t.ENCODER) | (place == t.CROSS), encoder, np.where(place == t.SEQUENCE, micro, tokens))
    )


def _inner(table: OpTable) -> NDArray[np.bool_]:
    return np.array([role not in {"head", "embedding"} for role in table.products.roles])


def _width(work: Train) -> Array:
    """Return how much wider layers are: width grows with the root of the parameters where the model is scaled."""
    return np.asarray(np.sqrt(np.asarray(work.model_scale, dtype=float)))


def _product_bytes(work: Train) -> float:
    """Return bytes of an activation that enters a matrix product. fp8 and fp4 recipes keep it as they multiply it."""
    if work.precision == "fp32":
        return WIDE
    if work.framework in {"megatron", "deepspeed"}:
        return {"fp8-mixed": 1.0, "fp4-mixed": 0.5625}.get(work.precision, HALF)
    return HALF


def _stream_bytes(work: Train) -> float:
    """Return bytes of a value of the residual stream: 32-bit in fp32 and under autocast, else 16-bit."""
    return WIDE if work.precision in {"fp32", "bf16-autocast"} else HALF


def _inner_bytes(work: Train) -> float:
    return WIDE if work.precision == "fp32" else HALF


def _beside(work: Train) -> Array:
    """Return the share of tokens a device keeps outside tensor-parallel regions: 1/tp with sequence parallelism."""
    tp = np.asarray(work.tp, dtype=float)
    return np.asarray(1.0 / tp if work.sequence_parallel == "on" else np.ones_like(tp))


def _expert_tokens(work: Train) -> tuple[Array, Array]:
    """Return what a device's experts work on per token of the micro-batch: rows of full width, and their own width's share."""
    tp = np.asarray(work.tp, dtype=float)
    etp = np.maximum(np.asarray(work.expert_tp, dtype=float), 1.0)
    rows = etp * _beside(work) if work.sequence_parallel == "on" else np.ones_like(tp)
    return np.asarray(rows), np.asarray(rows / etp)


def _first_reader(table: OpTable) -> NDArray[np.bool_]:
    """Return which product rows are the first of their kind to read their input (q before k and v, a gate before experts)."""
    p = table.products
    seen: set[tuple[object, ...]] = set()
    first = np.zeros(len(p.names), dtype=bool)
    for row, role in enumerate(p.roles):
        kind = "mlp" if role in {"router", "expert", "mlp"} else role
        if p.copies[row] > 1:
            first[row] = True  # experts read a permuted copy of their own
        elif p.shard[row] == t.ROW or p.inputs[row] != table.hidden:
            first[row] = p.launches[row] > 0
        else:
            key = (kind, float(p.repeat[row]), int(p.stream[row]), float(p.inputs[row]))
            first[row] = key not in seen and p.launches[row] > 0
            seen.add(key)
    return first


def _product_rows(table: OpTable, work: Train, *, dropout: bool) -> Array:
    """Return bytes kept per occurrence of each product row, (rows, *requests)."""
    p = table.products
    shape = work.shape
    extend = (slice(None), *([None] * len(shape)))
    tokens = _row_tokens(table, work, p.stream) * p.token_scale[extend]
    tp = np.asarray(work.tp, dtype=float)
    beside = _beside(work)
    expert_rows, expert_width = _expert_tokens(work)
    inside = _inner_bytes(work)
    is_expert = p.copies > 1
    active = np.where(is_expert, p.active, 1.0)[extend]
    row = (p.shard == t.ROW)[extend]
    inner = _inner(table)
    share = np.where(is_expert[extend], np.where(row, expert_width, expert_rows), np.where(row, 1 / tp, beside))
    read = (_kept_per_input(table, work) * p.inputs * inner)[extend] * share
    column = (p.shard == t.COLUMN) & np.array([role in {"mlp", "expert"} for role in p.roles])
    gated = np.array([_is_gated(table, i) for i in range(len(p.names))])
    eager = work.framework not in FUSED_FRAMEWORKS
    made = inside * (p.outputs * column)[extend] * np.where(is_expert[extend], expert_width, 1 / tp)
    made = made + (
        eager * inside * (p.outputs / 2 * column * gated)[extend] * np.where(is_expert[extend], expert_width, 1 / tp)
    )
    routed = np.where([role == "router" for role in p.roles], WIDE * p.outputs, 0.0)[extend] * beside
    masks = 0.0
    if dropout:
        masks = (p.outputs * inner * (p.shard == t.ROW))[extend] * beside
    if (
        work.framework == "litgpt" and work.trainable != "full"
    ):  # adapters of some of q, k and v are padded to all of them
        parts = adapted_parts(table, work.lora_targets)
        merged = np.array([name.count("+") + 1.0 for name in p.names])
        made = made + inside * (p.outputs * np.where(parts < merged, parts / merged, 0.0))[extend]
    if eager:  # what experts make is kept to be weighted; fused kernels weight it before the last product
        made = made + inside * (p.outputs * is_expert)[extend] * row * expert_rows
    return np.asarray(tokens * (active * (read + made) + routed + masks) * _width(work))


def _kept_per_input(table: OpTable, work: Train) -> Array:
    """Return bytes kept per input value of each product, (rows,).

    Products that read the same tensor keep it once; autocast makes each a 16-bit copy of its own out of a 32-bit one. With
    adapters a frozen product keeps nothing for itself, and an adapter its own input in its own dtype: Hugging Face PEFT's are
    32-bit over a 16-bit base (``autocast_adapter_dtype``), so each has its own copy. Traced with torch 2.13, peft 0.18.
    """
    first, entering = _first_reader(table), _product_bytes(work)
    merged = np.array([name.count("+") + 1.0 for name in table.products.names])
    if work.trainable == "full":
        copied = (
            (work.precision == "bf16-autocast")
            & (table.products.inputs == table.hidden)
            & (table.products.shard != t.ROW)
        )
        return np.asarray(entering * np.where(copied, merged, first))
    parts = adapted_parts(table, work.lora_targets)
    if work.framework == "litgpt":
        kept_inputs = DROPPED_BYTES * np.where(
            np.array(table.products.roles) == "attention", np.minimum(parts, first), parts
        )
    else:
        kept_inputs = WIDE * parts if work.framework == "hf" else entering * np.minimum(parts, 1.0) * first
    if work.trainable == "qlora":
        kept_inputs = kept_inputs + FOUR_BIT_INPUT_BYTES.get(work.framework, HALF) * first
    return np.asarray(kept_inputs)


def _is_gated(table: OpTable, row: int) -> bool:
    """Return whether a product makes gate and up together: the next one reads half of what it makes."""
    p = table.products
    alike = (i for i in range(row + 1, len(p.names)) if p.roles[i] == p.roles[row] and p.repeat[i] == p.repeat[row])
    following = next(alike, None)
    return following is not None and bool(p.inputs[following] * 2 == p.outputs[row])


def _score_rows(table: OpTable, work: Train, *, dropout: bool) -> Array:
    """Return bytes kept per occurrence of each attention row, (rows, *requests)."""
    s = table.scores
    shape = work.shape
    extend = (slice(None), *([None] * len(shape)))
    tokens = _row_tokens(table, work, s.stream) * s.token_scale[extend]
    tp, cp = np.asarray(work.tp, dtype=float), np.asarray(work.cp, dtype=float)
    size = _inner_bytes(work)
    heads = s.heads[extend] / tp
    own = np.maximum(s.kv_heads[extend] / tp, np.minimum(s.kv_heads[extend], 1.0))
    eager = work.framework not in FUSED_FRAMEWORKS
    keys = heads if eager else np.minimum(own, heads)
    q, kv = heads * s.qk_dim[extend], keys * (s.qk_dim + s.v_dim)[extend]
    # ring attention keeps copies of q, k and v in its own layout
    around = np.where(cp > 1, 2.0, 1.0)
    # the output is kept by the attention itself where the product after it is frozen or adapts a copy
    out = heads * s.v_dim[extend] * size if work.trainable != "full" else 0.0
    if work.framework == "litgpt":  # v is a view of what the product made, q and k with it, where no head is repeated
        out = out + size * heads * np.where(s.kv_heads == s.heads, 2 * s.qk_dim, 0.0)[extend]
    flash = size * (q + kv) * around + WIDE * heads + out
    if work.attention == "flash":
        return np.asarray(tokens * flash * _width(work))
    seen = np.minimum(np.asarray(work.seq, dtype=float) / np.maximum(s.stride[extend], 1.0), np.inf)
    if eager:
        # softmax in 32 bits, its 16-bit copy
        scores = heads * seen * (WIDE + (size if size != WIDE else 0.0))
    else:
        # the softmax's output, and with dropout its mask and what it leaves
        scores = heads * seen * (size + (1.0 + size if dropout else 0.0))
    if work.recompute == "selective":
        scores = 0.0 * scores
    return np.asarray(tokens * (size * (q + kv) + scores + out) * _width(work))


def _norm_rows(table: OpTable, work: Train) -> Array:
    """Return bytes kept per occurrence of each norm (and recurrent state), (rows, *requests)."""
    x = table.streams
    shape = work.shape
    extend = (slice(None), *([None] * len(shape)))
    tokens = _row_tokens(table, work, x.stream) * x.token_scale[extend]
    norm = np.array([role == "norm" for role in x.roles])
    width = (x.width * norm)[extend]
    stream = _stream_bytes(work)
    plain = x.elements != x.width  # LayerNorm's two vectors, or none: torch's own kernel keeps its input alone
    if work.framework in FUSED_FRAMEWORKS:
        each = stream * width
    else:
        # litgpt multiplies by the norm's weight in 32 bits (litgpt 0.5.3 ``RMSNorm``), Hugging Face in the stream's width
        scaled = WIDE if work.framework == "litgpt" else stream
        rms = WIDE + (scaled if work.trainable == "full" else 0.0)
        each = np.where(plain[extend], stream, rms) * width + np.where(plain, 2 * WIDE, WIDE)[extend] * norm[extend]
    beside = np.where((x.width == table.hidden)[extend], _beside(work), 1 / np.asarray(work.tp, dtype=float))
    return np.asarray(tokens * each * beside * _width(work))


def _grads(table: OpTable, work: Train) -> Array:
    """Return the gradients alive together in the middle of a layer's backward pass, (*requests).

    Those of the widest product's output and of the residual stream: 4 f + 4 h bytes per token of a gated layer. Without fused
    kernels that of the product of gate and up as well (2 f more), and eager attention has one of all scores in 32 bits.
    """
    p, s = table.products, table.scores
    extend = (slice(None), *([None] * len(work.shape)))
    _, expert_width = _expert_tokens(work)
    tp = np.asarray(work.tp, dtype=float)
    size, eager = _inner_bytes(work), work.framework not in FUSED_FRAMEWORKS
    gated = np.array([_is_gated(table, i) for i in range(len(p.names))])
    widest = (
        np.where(p.copies > 1, p.active, 1.0)
        * p.outputs
        * _inner(table)
        * (p.shard == t.COLUMN)
        * (1 + 0.5 * gated * eager)
    )
    made = size * (widest[extend] * np.where((p.copies > 1)[extend], expert_width, 1 / tp)).max(axis=0, initial=0.0)
    scores = 0.0
    if work.attention == "eager":
        scores = (WIDE if eager else size) * s.heads.max(initial=0.0) / tp * np.asarray(work.seq, dtype=float)
    stream = 2 * _stream_bytes(work) * table.hidden * _beside(work)
    return np.asarray(local_tokens(work) * (made + scores + stream) * _width(work))

"""Parts that text families share: projections, attention, MLPs, experts, and the tower around the layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bytebound.documents.architecture import Attention, Block, Linear, Norm, Operator, Parameter
from bytebound.models.keys import LONGEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bytebound.documents.architecture import Role
    from bytebound.models.keys import Keys


Ops = tuple[Operator, ...]
DEEPEST_STACK = 2048
"""Most layers that are believed."""

Kind = Literal["full", "window", "chunk", "latent", "cross"]


def column(name: str, inputs: int, outputs: int, role: Role, *, units: int = 0, bias: bool = False) -> Linear:
    """Return a projection split by its outputs, in ``units`` (heads) or value by value."""
    return Linear(name, inputs, outputs, role, bias=bias, shard="column", shard_units=units or outputs)


def row(name: str, inputs: int, outputs: int, role: Role, *, units: int = 0, bias: bool = False) -> Linear:
    """Return a projection split by its inputs, in ``units`` (heads) or value by value."""
    return Linear(name, inputs, outputs, role, bias=bias, shard="row", shard_units=units or inputs)


def whole(name: str, inputs: int, outputs: int, role: Role, *, bias: bool = False) -> Linear:
    """Return a projection every device holds whole."""
    return Linear(name, inputs, outputs, role, bias=bias)


# ---- attention


@dataclass(frozen=True, slots=True)
class Heads:
    """The geometry of one attention layer.

    Args:
        hidden: width of the stream.
        heads, kv_heads: query heads, and key-value heads (fewer: grouped queries).
        dim, v_dim: width of a query-key head and of a value head.
        bias: bias on query, key and value projections; ``out_bias`` on the output's.
        qk_norm: norms on queries and keys: none, over one head, or over all heads at once.
        qk_norm_vectors: learned vectors of those norms.
    """

    hidden: int
    heads: int
    kv_heads: int
    dim: int
    v_dim: int
    bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["none", "head", "all"] = "none"
    qk_norm_vectors: int = 1

    @property
    def q_width(self) -> int:
        """Width of all queries."""
        return self.heads * self.dim

    @property
    def k_width(self) -> int:
        """Width of all keys."""
        return self.kv_heads * self.dim

    @property
    def v_width(self) -> int:
        """Width of all values."""
        return self.kv_heads * self.v_dim


def read_heads(keys: Keys, *, saved_hidden: int = 4096, saved_heads: int = 32, kv_default: int = 0) -> Heads:
    """Read the usual keys of grouped-query attention.

    Args:
        keys: the config.
        saved_hidden: width a nested config of this family leaves out.
        saved_heads: heads a nested config of this family leaves out.
        kv_default: key-value heads the family's class assumes (0: as many as heads).
    """
    hidden = keys.int("hidden_size", also=("n_embd", "d_model"), saved=saved_hidden)
    heads = keys.int("num_attention_heads", also=("n_head", "n_heads", "num_heads"), saved=saved_heads, most=65536)
    kv_heads = keys.int("num_key_value_heads", kv_default or heads, most=65536)
    dim = keys.maybe_int("head_dim", also=("attention_head_dim", "kv_channels"))
    return check_heads(keys, Heads(hidden, heads, kv_heads, dim or split(keys, hidden, heads), 0))


def split(keys: Keys, hidden: int, heads: int) -> int:
    """Return the width of one of ``heads`` equal parts of ``hidden``."""
    if hidden % heads:
        message = f"the width {hidden} does not split into {heads} heads"
        raise keys.error("num_attention_heads", message, "write head_dim, or correct the widths")
    return hidden // heads


def check_heads(keys: Keys, heads: Heads) -> Heads:
    """Return the heads with the value width filled in, checked for equal groups."""
    if heads.heads % heads.kv_heads:
        message = f"{heads.heads} heads do not share {heads.kv_heads} key-value heads evenly"
        raise keys.error("num_key_value_heads", message, "write a divisor of the number of heads")
    return replace(heads, v_dim=heads.v_dim or heads.dim)


def attention(
    heads: Heads,
    *,
    kind: Kind = "full",
    window: int = 0,
    cached: bool = True,
    prefix: str = "self_attn",
    names: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    norms: tuple[str, str] = ("q_norm", "k_norm"),
    gated: bool = False,
) -> Ops:
    """Return the operators of multi-head, grouped-query or multi-query attention.

    Args:
        heads: geometry and biases.
        kind: how far back a token looks, over ``window`` tokens.
        window: tokens kept, for window and chunk attention.
        cached: false where the layer reads another layer's keys and values and has none of its own.
        prefix: name of the module.
        names: names of the four projections, or of the fused one and the output's.
        norms: names of the query and key norms.
        gated: queries come with an output gate of the same width (doubling the query projection).
    """
    q_width = heads.q_width * (2 if gated else 1)
    core = Attention(
        f"{prefix}.core", heads.heads, heads.kv_heads, heads.dim, heads.v_dim, kind=kind, window=window, cached=cached
    )
    out = row(
        f"{prefix}.{names[-1]}",
        heads.heads * heads.v_dim,
        heads.hidden,
        "attention",
        units=heads.heads,
        bias=heads.out_bias,
    )
    return (
        *_projections(heads, q_width, prefix, names, cached=cached),
        *_qk_norms(heads, prefix, norms, cached),
        core,
        out,
    )


def _projections(heads: Heads, q_width: int, prefix: str, names: Sequence[str], *, cached: bool) -> Ops:
    parts = ((q_width, heads.heads), (heads.k_width, heads.kv_heads), (heads.v_width, heads.kv_heads))
    if len(names) == 2 and heads.heads == heads.kv_heads:
        width = sum(width for width, _ in parts)
        name = f"{prefix}.{names[0]}"
        return (column(name, heads.hidden, width, "attention", units=heads.heads, bias=heads.bias),)
    # A fused projection with fewer key-value heads is stated in three parts, because each splits in its own units.
    fused = len(names) == 2
    labels = [f"{names[0]}.{part}" for part in "qkv"] if fused else names[:3]
    return tuple(
        column(f"{prefix}.{label}", heads.hidden, width, "attention", units=units, bias=heads.bias)
        for label, (width, units) in zip(labels, parts if cached else parts[:1], strict=False)
    )


def _qk_norms(heads: Heads, prefix: str, names: tuple[str, str], cached: bool) -> Ops:  # noqa: FBT001
    if heads.qk_norm == "none":
        return ()
    each = heads.qk_norm == "head"
    widths = (heads.dim, heads.dim) if each else (heads.q_width, heads.k_width)
    counts = (heads.heads, heads.kv_heads) if each else (1, 1)
    pairs = list(zip(names, widths, counts, strict=True))[: 2 if cached else 1]
    return tuple(
        Norm(f"{prefix}.{name}", width, heads.qk_norm_vectors, token_scale=float(count)) for name, width, count in pairs
    )


# ---- MLPs and experts


def gated_mlp(
    hidden: int,
    width: int,
    *,
    prefix: str = "mlp",
    names: Sequence[str] = ("gate_proj", "up_proj", "down_proj"),
    bias: bool = False,
    role: Role = "mlp",
    copies: int = 1,
    active: int = 1,
) -> Ops:
    """Return a gated MLP, ``copies`` of it for experts; two names mean gate and up are one matrix."""
    up, down = names[:-1], names[-1]
    outputs = width if len(up) == 2 else 2 * width
    ops = [
        *(column(f"{prefix}.{name}", hidden, outputs, role, units=width, bias=bias) for name in up),
        row(f"{prefix}.{down}", width, hidden, role, units=width, bias=bias),
    ]
    return tuple(replace(op, copies=copies, active=active) for op in ops)


def plain_mlp(
    hidden: int,
    width: int,
    *,
    prefix: str = "mlp",
    names: tuple[str, str] = ("up_proj", "down_proj"),
    bias: bool = False,
    role: Role = "mlp",
    copies: int = 1,
    active: int = 1,
) -> Ops:
    """Return an MLP of two matrices, ``copies`` of it for experts."""
    up = column(f"{prefix}.{names[0]}", hidden, width, role, bias=bias)
    down = row(f"{prefix}.{names[1]}", width, hidden, role, bias=bias)
    return tuple(replace(op, copies=copies, active=active) for op in (up, down))


@dataclass(frozen=True, slots=True)
class Experts:
    """The geometry of one mixture of experts.

    Args:
        hidden: width of the stream.
        width: inner width of one routed expert.
        count, active: routed experts, and how many a token visits.
        shared: inner width of the experts every token visits (0: none).
        prefix: name of the module.
        gate: name of the router.
        names: names of an expert's matrices.
        bias: bias on the experts' matrices; ``gate_bias`` on the router's.
        correction: name of the per-expert balance vector (empty: none).
        shared_name: name of the shared expert; ``shared_gate`` adds its scalar gate.
    """

    hidden: int
    width: int
    count: int
    active: int
    shared: int = 0
    prefix: str = "mlp"
    gate: str = "gate"
    names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    bias: bool = False
    gate_bias: bool = False
    correction: str = ""
    shared_name: str = "shared_experts"
    shared_gate: bool = False


def read_experts(keys: Keys, experts: Experts) -> Experts:
    """Return the experts checked: a token cannot visit more than there are."""
    if experts.active > experts.count:
        message = f"a token visits {experts.active} of {experts.count} experts"
        key = next(
            (key for key in ("num_experts_per_tok", "top_k_experts", "moe_topk") if keys.has(key)), "num_experts"
        )
        raise keys.error(key, message, "write at most the number of experts")
    return experts


def moe(experts: Experts) -> Ops:
    """Return router, routed experts and shared experts."""
    at = f"{experts.prefix}." if experts.prefix else ""
    ops: list[Operator] = [
        whole(f"{at}{experts.gate}", experts.hidden, experts.count, "router", bias=experts.gate_bias)
    ]
    if experts.correction:
        ops.append(Parameter(f"{at}{experts.correction}", (experts.count,), role="router"))
    ops += gated_mlp(
        experts.hidden,
        experts.width,
        prefix=f"{at}experts.{{}}",
        names=experts.names,
        bias=experts.bias,
        role="expert",
        copies=experts.count,
        active=experts.active,
    )
    if experts.shared:
        names = experts.names if len(experts.names) == 3 and experts.names[0] == "gate_proj" else None
        shared = names or ("gate_proj", "up_proj", "down_proj")
        ops += gated_mlp(experts.hidden, experts.shared, prefix=f"{at}{experts.shared_name}", names=shared)
    if experts.shared_gate:
        ops.append(whole(f"{at}{experts.shared_name}_gate", experts.hidden, 1, "router"))
    return tuple(ops)


# ---- layers and towers


# ---- how far back each layer looks


def layers(blocks: Iterable[Ops], *, prefix: str = "model.layers", first: int = 0) -> tuple[Block, ...]:
    """Return one block per layer, named as in the checkpoint."""
    return tuple(Block(f"{prefix}.{index}.", ops) for index, ops in enumerate(blocks, first))


def read_context(keys: Keys, *also: str) -> int:
    """Read the longest context, 0 where the config does not say."""
    names = ("n_positions", "max_sequence_length", "seq_length", "max_seq_len", "model_max_length", *also)
    for name in ("max_position_embeddings", *names):
        if keys.has(name):
            keys.skip(*names)
            return keys.int(name, most=LONGEST)
    return 0

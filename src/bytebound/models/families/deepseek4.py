"""DeepSeek-V4: compressed sparse attention, a stream of several hyper-connected copies, 4-bit experts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Attention, Norm, Parameter
from bytebound.models.families.experts import draft_tower, expert_active, expert_count, per_layer, read_draft
from bytebound.models.families.frame import read_depth, read_frame, text_tower
from bytebound.models.families.pieces import Experts, column, layers, moe, read_context, read_experts, row, whole

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


INDEXED = 4
"""The compression ratio whose layers select entries with an indexer and compress overlapping windows."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The geometry of V4's attention.

    Args:
        hidden, heads, dim: width of the stream, query heads, and width of a head; ``rope`` of it turns.
        q_rank: width of the query latent.
        o_groups, o_rank: groups and width of the output's low-rank projection.
        window: tokens every layer keeps uncompressed.
        index_heads, index_dim, index_top: the indexer, and the compressed entries it selects.
        copies: copies of the stream (hyper-connections).
    """

    hidden: int
    heads: int
    dim: int
    rope: int
    q_rank: int
    o_groups: int
    o_rank: int
    window: int
    index_heads: int
    index_dim: int
    index_top: int
    copies: int


def connections(shape: Shape, name: str) -> Ops:
    """Return the learned maps of one hyper-connection: two vectors and a matrix over the copies of the stream."""
    mixed = (2 + shape.copies) * shape.copies
    return (
        whole(f"{name}.fn", shape.copies * shape.hidden, mixed, "other"),
        Parameter(f"{name}.base", (mixed,)),
        Parameter(f"{name}.scale", (3,)),
    )


def compressor(shape: Shape, ratio: int) -> Ops:
    """Return what turns ``ratio`` tokens into one cached entry, and the indexer of the finely compressed layers."""
    wide = 2 if ratio == INDEXED else 1
    at = "self_attn.compressor"

    def compress(prefix: str, dim: int) -> Ops:
        return (
            Parameter(f"{prefix}.position_bias", (ratio, wide * dim)),
            whole(f"{prefix}.kv_proj", shape.hidden, wide * dim, "attention"),
            whole(f"{prefix}.gate_proj", shape.hidden, wide * dim, "attention"),
            Norm(f"{prefix}.kv_norm", dim, token_scale=1.0 / ratio),
        )

    if ratio != INDEXED:
        return compress(at, shape.dim)
    return (
        *compress(at, shape.dim),
        *compress(f"{at}.indexer", shape.index_dim),
        whole(f"{at}.indexer.q_b_proj", shape.q_rank, shape.index_heads * shape.index_dim, "attention"),
        whole(f"{at}.indexer.scorer.weights_proj", shape.hidden, shape.index_heads, "attention"),
    )


def attend(shape: Shape, ratio: int) -> Ops:
    """Return the attention over a window and, where ``ratio`` is not 0, over compressed entries."""
    width = shape.heads * shape.dim
    cores: tuple[Attention, ...] = (
        Attention("self_attn.window", shape.heads, 1, shape.dim, shape.dim, kind="window", window=shape.window),
    )
    if ratio:
        indexed = ratio == INDEXED
        far = Attention(
            "self_attn.compressed",
            shape.heads,
            1,
            shape.dim,
            shape.dim,
            kind="latent",
            latent=shape.dim - shape.rope,
            rope=shape.rope,
            stride=ratio,
            selected=shape.index_top if indexed else 0,
            index_elements=shape.index_dim / ratio if indexed else 0.0,
            index_flop=2 * shape.index_heads * (shape.index_dim + 1) // ratio if indexed else 0,
        )
        cores = (*cores, far)
    return (
        Parameter("self_attn.sinks", (shape.heads,)),
        whole("self_attn.q_a_proj", shape.hidden, shape.q_rank, "attention"),
        Norm("self_attn.q_a_norm", shape.q_rank),
        column("self_attn.q_b_proj", shape.q_rank, width, "attention", units=shape.heads),
        whole("self_attn.kv_proj", shape.hidden, shape.dim, "attention"),
        Norm("self_attn.kv_norm", shape.dim),
        *(compressor(shape, ratio) if ratio else ()),
        *cores,
        column(
            "self_attn.o_a_proj",
            width // shape.o_groups,
            shape.o_groups * shape.o_rank,
            "attention",
            units=shape.o_groups,
        ),
        row("self_attn.o_b_proj", shape.o_groups * shape.o_rank, shape.hidden, "attention", units=shape.o_groups),
    )


def named_ratios(keys: Keys) -> tuple[int, ...]:
    """Return the compression ratios of a config that the library has written again: a kind per layer, a rate per kind."""
    rates = keys.maybe_child("compress_rates")
    names = {"sliding_attention": 0, "compressed_sparse_attention": INDEXED, "heavily_compressed_attention": 128}
    if rates is not None:
        names |= {name: rates.int(name) for name in names if rates.has(name)}
    listed = keys.words("layer_types") or ()
    for name in listed:
        if name not in names:
            raise keys.error(
                "layer_types", f"{name!r} is not a kind of layer this family has", f"use {', '.join(names)}"
            )
    return tuple(names[name] for name in listed)


def deepseek4(keys: Keys) -> list[Tower]:
    """Build DeepSeek-V4; ``compress_ratios`` says how each layer compresses (0: window only)."""
    shape = Shape(
        hidden=keys.int("hidden_size"),
        heads=keys.int("num_attention_heads", most=65536),
        dim=keys.int("head_dim"),
        rope=keys.int("qk_rope_head_dim"),
        q_rank=keys.int("q_lora_rank"),
        o_groups=keys.int("o_groups", most=65536),
        o_rank=keys.int("o_lora_rank"),
        window=keys.int("sliding_window"),
        index_heads=keys.int("index_n_heads", most=65536),
        index_dim=keys.int("index_head_dim"),
        index_top=keys.int("index_topk"),
        copies=keys.int("hc_mult", 4, most=64),
    )
    depth = read_depth(keys)
    listed = keys.ints("compress_ratios", most=2**20) or named_ratios(keys)
    ratios = per_layer(keys, "compress_ratios", listed, depth)
    if shape.dim <= shape.rope or (shape.heads * shape.dim) % shape.o_groups:
        raise keys.error("head_dim", "the heads do not split into their parts", "correct head_dim or o_groups")
    # The first layers route by a fixed table of tokens: a buffer, and no parameters.
    keys.skip("num_hash_layers", "num_key_value_heads", "attention_bias", "mlp_bias", "layer_types", "mlp_layer_types")
    width = keys.int("moe_intermediate_size", also=("intermediate_size",))
    shared = keys.int("n_shared_experts", 1, least=0, most=1024)
    count = expert_count(keys, "n_routed_experts")
    experts = moe(read_experts(keys, Experts(shape.hidden, width, count, expert_active(keys), shared=shared * width)))
    made: dict[int, Ops] = {
        ratio: (
            *connections(shape, "attn_hc"),
            Norm("input_layernorm", shape.hidden),
            *attend(shape, ratio),
            *connections(shape, "ffn_hc"),
            Norm("post_attention_layernorm", shape.hidden),
            *experts,
        )
        for ratio in set(listed)
    }
    frame = read_frame(keys, tied=False)
    merge: Ops = (
        whole("model.hc_head.hc_fn", shape.copies * shape.hidden, shape.copies, "other"),
        Parameter("model.hc_head.hc_base", (shape.copies,)),
        Parameter("model.hc_head.hc_scale", (1,)),
    )
    blocks = layers(made[ratio] for ratio in ratios)
    context = read_context(keys)
    tower = text_tower(replace(frame, before_head=merge), blocks, hidden=shape.hidden, context=context)
    body = made[listed[depth] if len(listed) > depth else 0 if 0 in made else ratios[-1]]
    drafts = draft_tower(body, frame, shape.hidden, read_draft(keys), index=0, shared=False, prefix="mtp")
    return [tower, *drafts]


FAMILIES: dict[str, Builder] = {"deepseek_v4": deepseek4}

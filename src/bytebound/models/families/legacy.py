"""Decoders of the GPT line: GPT-2, GPT-J, GPT-Neo(X), OPT, BLOOM, Falcon, MPT, StarCoder, Phi-1 and 2, CodeGen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Embedding, Norm
from bytebound.models.families.frame import Frame, read_depth, text_tower
from bytebound.models.families.pieces import (
    Heads,
    attention,
    check_heads,
    layers,
    plain_mlp,
    read_context,
    split,
    whole,
)

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Kind, Ops
    from bytebound.models.keys import Keys


def read_size(keys: Keys) -> tuple[int, int]:
    """Read width and heads under any of the names of this line."""
    hidden = keys.int("hidden_size", also=("n_embd", "d_model", "n_embed"))
    return hidden, keys.int("num_attention_heads", also=("n_head", "n_heads", "num_heads"), most=65536)


def full_heads(keys: Keys, *, bias: bool, out_bias: bool | None = None, kv_heads: int = 0) -> Heads:
    """Read attention with as many key-value heads as heads, unless ``kv_heads`` says otherwise."""
    hidden, heads = read_size(keys)
    dim = split(keys, hidden, heads)
    shape = Heads(hidden, heads, kv_heads or heads, dim, 0, bias=bias, out_bias=bias if out_bias is None else out_bias)
    return check_heads(keys, shape)


def gpt2(keys: Keys, *, kv_heads: int = 0) -> list[Tower]:
    """GPT-2 and GPT-BigCode: learned positions, LayerNorm, biases everywhere, a tied head."""
    heads = full_heads(keys, bias=True, kv_heads=kv_heads)
    depth = read_depth(keys)
    width = keys.maybe_int("n_inner") or 4 * heads.hidden
    keys.skip("n_ctx")
    context = keys.int("n_positions", 1024, also=("max_position_embeddings",), most=2**30)
    ops: Ops = (
        Norm("ln_1", heads.hidden, 2),
        *attention(heads, prefix="attn", names=("c_attn", "c_proj")),
        Norm("ln_2", heads.hidden, 2),
        *plain_mlp(heads.hidden, width, names=("c_fc", "c_proj"), bias=True),
    )
    frame = Frame(
        keys.int("vocab_size"),
        keys.tied(default=True),
        embed="transformer.wte",
        norm="transformer.ln_f",
        norm_vectors=2,
        extra=(Embedding("transformer.wpe", context, heads.hidden),),
    )
    blocks = layers([ops] * depth, prefix="transformer.h")
    return [text_tower(frame, blocks, hidden=heads.hidden, context=context)]


def gpt_bigcode(keys: Keys) -> list[Tower]:
    """SantaCoder and StarCoder: GPT-2 with one key-value head."""
    keys.skip("num_key_value_heads")
    return gpt2(keys, kv_heads=1 if keys.flag("multi_query", default=True) else 0)


def gptj(keys: Keys) -> list[Tower]:
    """GPT-J and CodeGen: one norm a layer, no biases in attention, a head with bias."""
    heads = full_heads(keys, bias=False)
    depth = read_depth(keys)
    context = read_context(keys)
    keys.skip("n_ctx")
    width = keys.maybe_int("n_inner") or 4 * heads.hidden
    fused = keys.values.get("model_type") == "codegen"
    names = ("qkv_proj", "out_proj") if fused else ("q_proj", "k_proj", "v_proj", "out_proj")
    ops: Ops = (
        Norm("ln_1", heads.hidden, 2),
        *attention(heads, prefix="attn", names=names),
        *plain_mlp(heads.hidden, width, names=("fc_in", "fc_out"), bias=True),
    )
    frame = Frame(
        keys.int("vocab_size"),
        keys.tied(default=False),
        embed="transformer.wte",
        norm="transformer.ln_f",
        norm_vectors=2,
        head_bias=True,
    )
    return [text_tower(frame, layers([ops] * depth, prefix="transformer.h"), hidden=heads.hidden, context=context)]


def gpt_neo(keys: Keys) -> list[Tower]:
    """GPT-Neo: learned positions, alternating full and window attention."""
    heads = full_heads(keys, bias=False, out_bias=True)
    depth = read_depth(keys)
    context = read_context(keys)
    window = keys.int("window_size", 256)
    width = keys.maybe_int("intermediate_size") or 4 * heads.hidden
    keys.skip("attention_types")
    listed = keys.words("attention_layers") or tuple(("global", "local")[index % 2] for index in range(depth))
    kinds: list[tuple[Kind, int]] = [("window", window) if name == "local" else ("full", 0) for name in listed[:depth]]

    def layer(kind: Kind, window: int) -> Ops:
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        return (
            Norm("ln_1", heads.hidden, 2),
            *attention(heads, kind=kind, window=window, prefix="attn.attention", names=names),
            Norm("ln_2", heads.hidden, 2),
            *plain_mlp(heads.hidden, width, names=("c_fc", "c_proj"), bias=True),
        )

    frame = Frame(
        keys.int("vocab_size"),
        keys.tied(default=True),
        embed="transformer.wte",
        norm="transformer.ln_f",
        norm_vectors=2,
        extra=(Embedding("transformer.wpe", context, heads.hidden),),
    )
    blocks = layers((layer(*kind) for kind in kinds), prefix="transformer.h")
    return [text_tower(frame, blocks, hidden=heads.hidden, context=context)]


def gpt_neox(keys: Keys) -> list[Tower]:
    """GPT-NeoX and Pythia: fused projections with biases, parallel or serial residuals."""
    bias = keys.flag("attention_bias", default=True)
    heads = full_heads(keys, bias=bias)
    keys.skip("use_parallel_residual")
    ops: Ops = (
        Norm("input_layernorm", heads.hidden, 2),
        Norm("post_attention_layernorm", heads.hidden, 2),
        *attention(heads, prefix="attention", names=("query_key_value", "dense")),
        *plain_mlp(heads.hidden, keys.int("intermediate_size"), names=("dense_h_to_4h", "dense_4h_to_h"), bias=True),
    )
    frame = Frame(
        keys.int("vocab_size"),
        keys.tied(default=False),
        embed="gpt_neox.embed_in",
        norm="gpt_neox.final_layer_norm",
        head="embed_out",
        norm_vectors=2,
    )
    blocks = layers([ops] * read_depth(keys), prefix="gpt_neox.layers")
    return [text_tower(frame, blocks, hidden=heads.hidden, context=read_context(keys))]


def opt(keys: Keys) -> list[Tower]:
    """OPT: learned positions with two spare rows, biases, a narrow embedding in the 350M model."""
    bias = keys.flag("enable_bias", default=True)
    heads = full_heads(keys, bias=bias)
    hidden = heads.hidden
    width = keys.int("ffn_dim")
    before = keys.flag("do_layer_norm_before", default=True)
    vectors = 2 if keys.flag("layer_norm_elementwise_affine", default=True) else 0
    embed = keys.int("word_embed_proj_dim", hidden)
    context = read_context(keys)
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    ops: Ops = (
        Norm("self_attn_layer_norm", hidden, vectors),
        *attention(heads, names=names),
        Norm("final_layer_norm", hidden, vectors),
        *plain_mlp(hidden, width, prefix="", names=("fc1", "fc2"), bias=bias),
    )
    ops = tuple(replace(op, name=op.name.lstrip(".")) for op in ops)
    extra: Ops = (Embedding("model.decoder.embed_positions", context + 2, hidden),)
    projected = embed != hidden
    if projected:
        extra = (whole("model.decoder.project_in", embed, hidden, "other"), *extra)
    frame = Frame(
        keys.int("vocab_size"),
        keys.tied(default=True),
        embed="model.decoder.embed_tokens",
        norm="model.decoder.final_layer_norm"
        if before and not keys.flag("_remove_final_layer_norm", default=False)
        else "",
        norm_vectors=vectors,
        extra=extra,
        embed_width=embed,
        before_head=(whole("model.decoder.project_out", hidden, embed, "other"),) if projected else (),
    )
    blocks = layers([ops] * read_depth(keys), prefix="model.decoder.layers")
    return [text_tower(frame, blocks, hidden=hidden, context=context)]


def bloom(keys: Keys) -> list[Tower]:
    """BLOOM: ALiBi, a norm after the embedding, biases everywhere."""
    heads = full_heads(keys, bias=True)
    hidden = heads.hidden
    width = keys.maybe_int("n_inner") or 4 * hidden
    ops: Ops = (
        Norm("input_layernorm", hidden, 2),
        *attention(heads, prefix="self_attention", names=("query_key_value", "dense")),
        Norm("post_attention_layernorm", hidden, 2),
        *plain_mlp(hidden, width, names=("dense_h_to_4h", "dense_4h_to_h"), bias=True),
    )
    frame = Frame(
        keys.int("vocab_size"),
        keys.tied(default=True),
        embed="transformer.word_embeddings",
        norm="transformer.ln_f",
        norm_vectors=2,
        extra=(Norm("transformer.word_embeddings_layernorm", hidden, 2),),
    )
    blocks = layers([ops] * read_depth(keys), prefix="transformer.h")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


def falcon(keys: Keys) -> list[Tower]:
    """Falcon: one key-value head (7B), grouped ones with two norms (40B, 180B), or all heads (RW)."""
    hidden, count = read_size(keys)
    # The 40B model was first published under another name, whose code knew its layout without a key.
    new = keys.flag("new_decoder_architecture", default=keys.values.get("model_type") == "RefinedWeb")
    multi = keys.flag("multi_query", default=True)
    groups = keys.maybe_int("num_kv_heads", also=("n_head_kv",), most=65536) or count
    bias = keys.flag("bias", default=False)
    parallel = keys.flag("parallel_attn", default=True)
    two = new and (keys.maybe_int("num_ln_in_parallel_attn", most=2) or 2) == 2
    heads = full_heads(keys, bias=bias, kv_heads=groups if new else 1 if multi else count)
    names = (
        ("ln_attn", "ln_mlp")
        if two
        else ("input_layernorm",)
        if parallel
        else ("input_layernorm", "post_attention_layernorm")
    )
    norms = tuple(Norm(name, hidden, 2) for name in names)
    width = keys.int("ffn_hidden_size", 4 * hidden)
    keys.skip("alibi")
    ops: Ops = (
        *norms,
        *attention(heads, prefix="self_attention", names=("query_key_value", "dense")),
        *plain_mlp(hidden, width, names=("dense_h_to_4h", "dense_4h_to_h"), bias=bias),
    )
    frame = Frame(
        keys.int("vocab_size"),
        keys.tied(default=True),
        embed="transformer.word_embeddings",
        norm="transformer.ln_f",
        norm_vectors=2,
    )
    blocks = layers([ops] * read_depth(keys), prefix="transformer.h")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


def mpt(keys: Keys) -> list[Tower]:
    """MPT: ALiBi or learned positions, no biases."""
    inner = keys.maybe_child("attn_config")
    alibi, clip, normed, groups = True, False, False, 0
    if inner is not None:
        alibi = inner.flag("alibi", default=True)
        normed = inner.flag("qk_ln", default=False)
        groups = inner.maybe_int("kv_n_heads", most=65536) or 0
        clip = inner.has("clip_qkv")
        inner.skip("attn_type", "clip_qkv", "attn_impl", "prefix_lm")
    del clip
    bias = not keys.flag("no_bias", default=True)
    heads = replace(full_heads(keys, bias=bias, kv_heads=groups), qk_norm="all" if normed else "none")
    hidden = heads.hidden
    vectors = 2 if bias else 1
    ratio = keys.number("expansion_ratio", 4.0)
    keys.skip("embedding_fraction", "learned_pos_emb", "init_config", "init_device", "norm_type")
    width = round(ratio * hidden)
    context = read_context(keys)
    ops: Ops = (
        Norm("norm_1", hidden, vectors),
        *attention(heads, prefix="attn", names=("Wqkv", "out_proj"), norms=("q_ln", "k_ln")),
        Norm("norm_2", hidden, vectors),
        *plain_mlp(hidden, width, prefix="ffn", bias=bias),
    )
    frame = Frame(
        keys.int("vocab_size"),
        keys.tied(default=True),
        embed="transformer.wte",
        norm="transformer.norm_f",
        norm_vectors=vectors,
        extra=() if alibi else (Embedding("transformer.wpe", context, hidden),),
    )
    blocks = layers([ops] * read_depth(keys), prefix="transformer.blocks")
    return [text_tower(frame, blocks, hidden=hidden, context=context)]


FAMILIES: dict[str, Builder] = {
    "gpt2": gpt2,
    "gpt_bigcode": gpt_bigcode,
    "gptj": gptj,
    "codegen": gptj,
    "gpt_neo": gpt_neo,
    "gpt_neox": gpt_neox,
    "opt": opt,
    "bloom": bloom,
    "falcon": falcon,
    "RefinedWeb": falcon,
    "RefinedWebModel": falcon,
    "mpt": mpt,
}

"""Decoders with checkpoint names of their own: ChatGLM, Baichuan, InternLM 1 and 2, EXAONE 3, Orion, MiniCPM, XVERSE."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Norm
from bytebound.models.families import registry
from bytebound.models.families.dense import LLAMA, Recipe, dense
from bytebound.models.families.frame import Frame, read_depth, text_tower
from bytebound.models.families.pieces import (
    Heads,
    attention,
    check_heads,
    gated_mlp,
    layers,
    read_context,
    read_heads,
    split,
)

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


def chatglm(keys: Keys) -> list[Tower]:
    """ChatGLM2, ChatGLM3 and GLM-4-9B in its first release: fused projections, grouped queries, an untied head."""
    hidden = keys.int("hidden_size")
    count = keys.int("num_attention_heads", most=65536)
    multi = keys.flag("multi_query_attention", default=False)
    groups = keys.int("multi_query_group_num", 1, most=65536)
    dim = keys.int("kv_channels", split(keys, hidden, count))
    bias = keys.flag("add_bias_linear", default=False)
    heads = Heads(hidden, count, groups if multi else count, dim, 0, out_bias=bias)
    heads = replace(check_heads(keys, heads), bias=bias or keys.flag("add_qkv_bias", default=False))
    vectors = 1 if keys.flag("rmsnorm", default=True) else 2
    keys.skip("interleaved_qkv")
    ops: Ops = (
        Norm("input_layernorm", hidden, vectors),
        *attention(heads, prefix="self_attention", names=("query_key_value", "dense")),
        Norm("post_attention_layernorm", hidden, vectors),
        *gated_mlp(hidden, keys.int("ffn_hidden_size"), names=("dense_h_to_4h", "dense_4h_to_h"), bias=bias),
    )
    frame = Frame(
        keys.int("padded_vocab_size", also=() if keys.has("padded_vocab_size") else ("vocab_size",)),
        keys.tied(default=False),
        embed="transformer.embedding.word_embeddings",
        norm="transformer.encoder.final_layernorm" if keys.flag("post_layer_norm", default=True) else "",
        norm_vectors=vectors,
        head="transformer.output_layer",
    )
    keys.skip("vocab_size")
    blocks = layers([ops] * read_depth(keys), prefix="transformer.encoder.layers")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


def internlm2(keys: Keys) -> list[Tower]:
    """InternLM2 and 2.5: fused grouped projections and Llama's own names for the MLP."""
    bias = keys.flag("bias", default=False)
    heads = replace(read_heads(keys), bias=bias, out_bias=bias)
    hidden = heads.hidden
    ops: Ops = (
        Norm("attention_norm", hidden),
        *attention(heads, prefix="attention", names=("wqkv", "wo")),
        Norm("ffn_norm", hidden),
        *gated_mlp(hidden, keys.int("intermediate_size"), prefix="feed_forward", names=("w1", "w3", "w2")),
    )
    frame = Frame(keys.int("vocab_size"), keys.tied(default=False), embed="model.tok_embeddings", head="output")
    return [text_tower(frame, layers([ops] * read_depth(keys)), hidden=hidden, context=read_context(keys))]


def exaone(keys: Keys) -> list[Tower]:
    """EXAONE 3.0 and 3.5: Llama's shape under GPT-like names."""
    heads = read_heads(keys)
    hidden = heads.hidden
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    ops: Ops = (
        Norm("ln_1", hidden),
        *attention(heads, prefix="attn.attention", names=names),
        Norm("ln_2", hidden),
        *gated_mlp(hidden, keys.int("intermediate_size", 4 * hidden), names=("c_fc_0", "c_fc_1", "c_proj")),
    )
    frame = Frame(keys.int("vocab_size"), keys.tied(default=True), embed="transformer.wte", norm="transformer.ln_f")
    blocks = layers([ops] * read_depth(keys), prefix="transformer.h")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


def ministral3(keys: Keys) -> list[Tower]:
    """Ministral 3, whose whole model and whose text model both carry this name."""
    if keys.has("text_config"):
        return registry()["mistral3"](keys)
    return dense(keys, MINISTRAL3)


MINISTRAL3 = Recipe(windows="all", saved=(4096, 34, 32, 8, 14336, 131072))
BIASED = Recipe(qkv_bias="bias", out_bias="bias", bias_defaults=(True, True, True))

FAMILIES: dict[str, Builder] = {
    "chatglm": chatglm,
    "internlm2": internlm2,
    "internlm": partial(dense, recipe=BIASED),
    "exaone": exaone,
    "ministral3": ministral3,
    "baichuan": partial(dense, recipe=Recipe(qkv_names=("W_pack", "o_proj"))),
    "minicpm": partial(dense, recipe=replace(LLAMA, tied=True)),
    "xverse": partial(dense, recipe=LLAMA),
    "aquila": partial(dense, recipe=LLAMA),
    "Yi": partial(dense, recipe=LLAMA),
    "orion": partial(dense, recipe=Recipe(qkv_bias="attention_bias", out_bias="attention_bias", norm_vectors=2)),
    "qwen2_vl_text": partial(
        dense, recipe=Recipe(qkv_bias=True, windows="qwen", saved=(8192, 80, 64, 8, 29568, 152064))
    ),
    "qwen2_5_vl_text": partial(
        dense, recipe=Recipe(qkv_bias=True, windows="qwen", saved=(8192, 80, 64, 8, 29568, 152064))
    ),
    "qwen3_vl_text": partial(
        dense,
        recipe=Recipe(
            qkv_bias="attention_bias",
            out_bias="attention_bias",
            qk_norm="head",
            head_dim=128,
            saved=(4096, 32, 32, 32, 22016, 151936),
        ),
    ),
}

"""Phi-1, 1.5 and 2, and the first Qwen: the GPT line on its way to Llama's shape."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Norm
from bytebound.models.families.frame import Frame, read_depth, text_tower
from bytebound.models.families.legacy import full_heads, read_size
from bytebound.models.families.pieces import attention, layers, plain_mlp, read_context, read_heads

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


def phi(keys: Keys) -> list[Tower]:
    """Phi-1, 1.5 and 2: one LayerNorm a layer, biases everywhere, the head's too."""
    hidden, count = read_size(keys)
    groups = keys.maybe_int("num_key_value_heads", also=("n_head_kv",), most=65536) or count
    heads = full_heads(keys, bias=True, kv_heads=groups)
    if keys.flag("qk_layernorm", default=False):
        heads = replace(heads, qk_norm="head", qk_norm_vectors=2)
    width = keys.maybe_int("intermediate_size", also=("n_inner",)) or 4 * hidden
    keys.skip("img_processor")
    ops: Ops = (
        Norm("input_layernorm", hidden, 2),
        *attention(heads, names=("q_proj", "k_proj", "v_proj", "dense"), norms=("q_layernorm", "k_layernorm")),
        *plain_mlp(hidden, width, names=("fc1", "fc2"), bias=True),
    )
    frame = Frame(
        keys.int("vocab_size"),
        keys.tied(default=False),
        norm="model.final_layernorm",
        norm_vectors=2,
        head_bias=True,
    )
    blocks = layers([ops] * read_depth(keys))
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


def qwen1(keys: Keys) -> list[Tower]:
    """Qwen (first generation): fused projections with bias; ``intermediate_size`` counts gate and up together."""
    heads = read_heads(keys)
    wide = keys.int("kv_channels", heads.dim) * heads.heads
    no_bias = keys.flag("no_bias", default=True)
    heads = replace(heads, dim=wide // heads.heads, v_dim=wide // heads.heads, bias=True, out_bias=not no_bias)
    half = keys.int("intermediate_size") // 2
    hidden = heads.hidden
    up = plain_mlp(hidden, half, names=("w1", "c_proj"), bias=not no_bias)
    ops: Ops = (
        Norm("ln_1", hidden),
        *attention(heads, prefix="attn", names=("c_attn", "c_proj")),
        Norm("ln_2", hidden),
        replace(up[0], name="mlp.w2"),
        *up,
    )
    frame = Frame(keys.int("vocab_size"), keys.tied(default=False), embed="transformer.wte", norm="transformer.ln_f")
    blocks = layers([ops] * read_depth(keys), prefix="transformer.h")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


FAMILIES: dict[str, Builder] = {"phi": phi, "phi-msft": phi, "qwen": qwen1}

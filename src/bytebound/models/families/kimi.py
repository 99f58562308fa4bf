"""Kimi K3 whole: an image encoder whose attention is wider than its stream, and the Kimi Linear text model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Attention, Block, Conv, Norm, Parameter, Tower
from bytebound.models.families.linear import kimi_linear
from bytebound.models.families.pieces import Heads, attention, column, layers, plain_mlp, row

if TYPE_CHECKING:
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


def vision(keys: Keys) -> Tower:
    """Return the image encoder and its projector, for one image of the trained grid of patches."""
    keys.skip("model_type", "activation_func", "projector_hidden_act", "pos_emb_interpolation_mode", "norm_type")
    keys.skip("merge_type", "mlp_type", "mm_projector_type", "pos_emb_type", "init_pos_emb_time")
    hidden = keys.int("vt_hidden_size")
    keys.skip("mm_hidden_size")
    depth = keys.int("vt_num_hidden_layers", most=2048)
    count = keys.int("vt_num_attention_heads", most=65536)
    wide = keys.int("qkv_hidden_size", hidden)
    patch = keys.int("patch_size", 14)
    high, across = keys.int("init_pos_emb_height", 64), keys.int("init_pos_emb_width", 64)
    merge = keys.ints("merge_kernel_size", least=1) or (2, 2)
    square = merge[0] * merge[-1]
    bias, linear = keys.flag("attn_bias", default=True), keys.flag("linear_bias", default=True)
    text = keys.int("text_hidden_size")
    heads = Heads(hidden, count, count, wide // count, wide // count, bias=bias, out_bias=bias)
    attend = tuple(
        replace(op, causal=False, cached=False) if isinstance(op, Attention) else op
        for op in attention(heads, prefix="attn", names=("wqkv", "wo"))
    )
    ops: Ops = (
        Norm("norm0", hidden),
        *attend,
        Norm("norm1", hidden),
        *plain_mlp(hidden, keys.int("vt_intermediate_size"), names=("fc0", "fc1"), bias=linear),
    )
    conv = Conv("patch_embed.proj", 3, hidden, (patch, patch), bias=keys.flag("patch_embed_proj_bias", default=True))
    start = Block("vision_tower.", (conv, Parameter("patch_embed.pos_emb.weight", (high, across, hidden))))
    end = Block(
        "",
        (
            Norm("vision_tower.encoder.final_layernorm", hidden),
            Norm("mm_projector.pre_norm", hidden),
            replace(
                column("mm_projector.proj.0", square * hidden, square * hidden, "mlp", bias=linear),
                token_scale=1 / square,
            ),
            replace(row("mm_projector.proj.2", square * hidden, text, "mlp", bias=linear), token_scale=1 / square),
        ),
    )
    blocks = (start, *layers([ops] * depth, prefix="vision_tower.encoder.blocks"), end)
    tokens = high * across
    return Tower("vision", "encoder", blocks, hidden, tokens=tokens, tokens_out=tokens // square)


def kimi_k3(keys: Keys) -> list[Tower]:
    """Build Kimi K3: the text model, and the image encoder where the config has one."""
    inner = keys.child("text_config")
    inner.skip("model_type")
    keys.skip("media_placeholder_token_id", "image_placeholder")
    towers = kimi_linear(inner)
    shown = keys.maybe_child("vision_config")
    return [*towers, vision(shown)] if shown is not None else towers


FAMILIES: dict[str, Builder] = {"kimi_k3": kimi_k3}

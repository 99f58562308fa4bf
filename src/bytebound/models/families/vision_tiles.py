"""Vision-language models on tiled images: Llama 3.2 Vision, which cross-attends to them, and Phi-3 Vision.

Sources: arXiv 2407.21783 section 7 (Llama 3 vision); arXiv 2404.14219 (Phi-3).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Conv, Embedding, Linear, Norm, Operator, Parameter, Tower
from bytebound.models.families import registry
from bytebound.models.families.pieces import Ops, layers, read_context, split
from bytebound.models.families.stacks import attend, feed, norms, read_layers
from bytebound.models.families.vision import child, read_patches
from bytebound.models.families.vision_language import join, top, unnamed
from bytebound.models.keys import Keys

if TYPE_CHECKING:
    from bytebound.models.families import Builder

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")
BARE = (False,) * 4
RATIOS = 8
"""Tile arrangements the library assumes for up to four tiles."""

CLIP_LARGE = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip
"""CLIP ViT-L/14 at 336 pixels, which Phi-3 Vision names and does not describe."""

PHI_CROPS = 17
"""Images of 336 pixels a side that Phi-3 Vision makes of one: 16 crops and the whole (its processor's default)."""


def mllama(keys: Keys) -> list[Tower]:
    """Build Llama 3.2 Vision: gated cross-attention layers between the decoder's own."""
    top(keys)
    text = unnamed(child(keys, "text_config"))
    tower = _text(text)
    return [tower, _vision(unnamed(child(keys, "vision_config")), tower.hidden)]


def _text(keys: Keys) -> Tower:
    hidden, vocab = keys.int("hidden_size", saved=4096), keys.int("vocab_size", saved=128256)
    heads, kv_heads = keys.int("num_attention_heads", saved=32), keys.int("num_key_value_heads", 8)
    inner = keys.int("intermediate_size", saved=14336)
    depth = read_layers(keys, "num_hidden_layers", 40)
    listed = keys.ints("cross_attention_layers")
    crossing = set((3, 8, 13, 18, 23, 28, 33, 38) if listed is None else listed)
    keys.skip("architectures", "tie_word_embeddings", "hidden_activation")
    dim = split(keys, hidden, heads)
    mlp = feed("mlp.", hidden=hidden, inner=inner, names=("gate_proj", "up_proj", "down_proj"), bias=False)
    after = norms(hidden, "post_attention_layernorm", vectors=1)
    around = partial(attend, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=dim, names=NAMES, bias=BARE)
    own: Ops = (
        Norm("input_layernorm", hidden),
        *around("self_attn.", causal=True, cached=True),
        *after,
        *mlp,
    )
    cross: Ops = (
        Norm("input_layernorm", hidden),
        *around("cross_attn.", memory=hidden, norms=("q_norm", "k_norm")),
        Parameter("cross_attn_attn_gate", (1,)),
        *after,
        *mlp,
        Parameter("cross_attn_mlp_gate", (1,)),
    )
    tied = keys.tied(default=False)
    head = Linear("lm_head", hidden, vocab, "head", shard="vocab", shard_units=vocab, tied=tied, source="sequence")
    blocks = (
        Block("", (Embedding("model.embed_tokens", vocab + 8, hidden),)),
        *layers(cross if index in crossing else own for index in range(depth)),
        Block("", (Norm("model.norm", hidden), head)),
    )
    return Tower("text", "decoder", blocks, hidden, context=read_context(keys))


def _vision(keys: Keys, text: int) -> Tower:
    hidden, inner = keys.int("hidden_size", saved=1280), keys.int("intermediate_size", saved=5120)
    heads = keys.int("attention_heads", 16, also=("num_attention_heads",))
    deep = (read_layers(keys, "num_hidden_layers", 32), keys.int("num_global_layers", 8, least=0, most=2048))
    out = keys.int("vision_output_dim", 7680)
    patches = read_patches(keys, image=448, patch=14)
    tiles = keys.int("max_num_tiles", 4, most=64)
    ratios = keys.take("supported_aspect_ratios")
    count = len(ratios) if isinstance(ratios, list) else keys.int("max_aspect_ratio_id", RATIOS)
    keys.skip("max_aspect_ratio_id", "intermediate_layers_indices", "architectures", "norm_eps", "hidden_act")
    rows = patches.count + 1

    def layer(*, gated: bool) -> Ops:
        found = (
            Norm("input_layernorm", hidden, 2),
            *attend(
                "self_attn.", hidden=hidden, heads=heads, head_dim=split(keys, hidden, heads), names=NAMES, bias=BARE
            ),
            Norm("post_attention_layernorm", hidden, 2),
            *feed("mlp.", hidden=hidden, inner=inner),
        )
        return (*found, Parameter("gate_attn", (1,)), Parameter("gate_ffn", (1,))) if gated else found

    start: list[Operator] = [
        Parameter("class_embedding", (hidden,)),
        Conv("patch_embedding", patches.channels, hidden, patches.size, bias=False, token_scale=patches.count / rows),
        Parameter("gated_positional_embedding.gate", (1,)),
        Parameter("gated_positional_embedding.embedding", (rows, hidden)),
        Embedding("gated_positional_embedding.tile_embedding", count + 1, tiles * rows * hidden),
    ]
    for name in ("pre", "post"):
        at = f"{name}_tile_positional_embedding"
        start += [Parameter(f"{at}.gate", (1,)), Embedding(f"{at}.embedding", count + 1, tiles * hidden)]
    start += norms(hidden, "layernorm_pre", "layernorm_post")
    blocks = (
        Block("vision_model.", tuple(start)),
        *layers([layer(gated=False)] * deep[0], prefix="vision_model.transformer.layers"),
        *layers([layer(gated=True)] * deep[1], prefix="vision_model.global_transformer.layers"),
        Block("", (Linear("multi_modal_projector", out, text, "mlp", bias=True),)),
    )
    return Tower("vision", "encoder", blocks, hidden, tokens=tiles * rows, tokens_out=tiles * rows)


def phi3_v(keys: Keys) -> list[Tower]:
    """Build Phi-3 and Phi-3.5 Vision: CLIP on crops, four patches to a token, two matrices."""
    for name in ("img_processor", "embd_layer"):
        inner = keys.maybe_child(name)
        if inner is not None:
            inner.skip(*inner.values)
    top(keys)
    text = registry()["phi3"](keys)
    said = keys.maybe_child("vision_config")
    described = said if said is not None else Keys(CLIP_LARGE, file=keys.file, path="img_processor", parent=keys)
    vision = registry()["clip_vision_model"](unnamed(described))[0]
    wide, hidden = 4 * vision.hidden, text[0].hidden
    scale = (vision.tokens - 1) / 4 / vision.tokens
    projector: Ops = (
        Parameter("glb_GN", (1, 1, wide)),
        Parameter("sub_GN", (1, 1, 1, wide)),
        *feed("img_projection.", hidden=wide, inner=hidden, outputs=hidden, names=("0", "2"), token_scale=scale),
    )
    vision = Tower("vision", "encoder", vision.blocks, vision.hidden, tokens=vision.tokens * PHI_CROPS)
    return join(text, vision, projector, tokens_out=int(vision.tokens * scale))


FAMILIES: dict[str, Builder] = {"mllama": mllama, "phi3_v": phi3_v}

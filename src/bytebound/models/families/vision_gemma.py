"""Gemma 3, PaliGemma and Gemma 4 with their image encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Linear, Norm, Operator, Parameter, Tower
from bytebound.models.families import build
from bytebound.models.families.pieces import Ops, layers
from bytebound.models.families.stacks import attend, feed, norms
from bytebound.models.families.vision import child, read_widths
from bytebound.models.families.vision_language import join, text_towers, top, unnamed

if TYPE_CHECKING:
    from bytebound.models.families import Builder
    from bytebound.models.keys import Keys


def gemma3(keys: Keys) -> list[Tower]:
    """Build Gemma 3 with its image encoder (arXiv 2503.19786): SigLIP, averaged to 256 tokens an image."""
    top(keys)
    towers = text_towers(child(keys, "text_config"), "gemma3_text")
    vision = build(child(keys, "vision_config"), "siglip_vision_model")[0]
    out = keys.int("mm_tokens_per_image", 256)
    scale = out / vision.tokens
    projector: Ops = (
        Norm("multi_modal_projector.mm_soft_emb_norm", vision.hidden, token_scale=scale),
        Linear("multi_modal_projector.mm_input_projection", vision.hidden, towers[0].hidden, "mlp", token_scale=scale),
    )
    return join(towers, vision, projector, tokens_out=out)


def paligemma(keys: Keys) -> list[Tower]:
    """Build PaliGemma (arXiv 2407.07726): SigLIP and one matrix."""
    top(keys)
    keys.skip("hidden_size", "projection_dim")
    inner = child(keys, "text_config")
    inner.skip("num_image_tokens")
    towers = text_towers(inner, "gemma")
    inner = child(keys, "vision_config")
    vision = build(inner, "siglip_vision_model")[0]
    width = inner.int("projection_dim", keys.int("projection_dim", 2048))
    if width != towers[0].hidden:
        raise keys.error(
            "projection_dim", f"{width} is not the decoder's width {towers[0].hidden}", "correct the widths"
        )
    matrix = Linear("multi_modal_projector.linear", vision.hidden, width, "mlp", bias=True)
    return join(towers, vision, (matrix,))


def gemma4_vision(keys: Keys) -> Tower:
    """Build Gemma 4's image encoder: rotary in two axes, sandwich norms, patches pooled three by three."""
    sizes = read_widths(keys, (768, 12, 3072, 16)) if not keys.has("head_dim") else None
    hidden = keys.int("hidden_size", saved=768)
    heads = keys.int("num_attention_heads", saved=12)
    kv_heads = keys.int("num_key_value_heads", heads)
    dim = keys.int("head_dim", 64)
    inner = keys.int("intermediate_size", saved=3072)
    depth = sizes.depth if sizes else keys.int("num_hidden_layers", saved=16, most=2048)
    rows = keys.int("position_embedding_size", 10240)
    patch = keys.int("patch_size", 16, most=4096)
    side = keys.int("pooling_kernel_size", 3, most=64)
    out = keys.int("default_output_length", 280)
    bias = keys.flag("attention_bias", default=False)
    if bias:
        raise keys.error("attention_bias", "a Gemma 4 encoder with biases is not read", "write false")
    keys.skip("global_head_dim", "max_position_embeddings", "standardize", "use_clipped_linears", "architectures")
    names = tuple(f"{name}_proj.linear" for name in "qkvo")
    layer = (
        Norm("input_layernorm", hidden),
        *attend(
            "self_attn.", hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=dim, names=names, bias=(False,) * 4,
            norms=("q_norm", "k_norm"),
        ),
        *norms(hidden, "post_attention_layernorm", "pre_feedforward_layernorm", vectors=1),
        *feed(
            "mlp.", hidden=hidden, inner=inner, bias=False,
            names=("gate_proj.linear", "up_proj.linear", "down_proj.linear"),
        ),
        Norm("post_feedforward_layernorm", hidden),
    )  # fmt: skip
    start: tuple[Operator, ...] = (
        Linear("patch_embedder.input_proj", 3 * patch**2, hidden, "conv"),
        Parameter("patch_embedder.position_embedding_table", (2, rows, hidden)),
    )
    prefix = "model.vision_tower."
    blocks = (Block(prefix, start), *layers([layer] * depth, prefix=f"{prefix}encoder.layers"))
    return Tower("vision", "encoder", blocks, hidden, tokens=out * side**2, tokens_out=out)


def gemma4(keys: Keys) -> list[Tower]:
    """Build Gemma 4 with its image encoder; one with an audio encoder is refused."""
    if keys.has("audio_config"):
        raise keys.error("audio_config", "Gemma 4's audio encoder is not read", "remove the object to leave it out")
    top(keys)
    towers = text_towers(child(keys, "text_config"), "gemma4_text")
    if not keys.has("vision_config"):
        return towers
    vision = gemma4_vision(unnamed(keys.child("vision_config")))
    scale = vision.tokens_out / vision.tokens
    matrix = Linear(
        "model.embed_vision.embedding_projection", vision.hidden, towers[0].hidden, "mlp", token_scale=scale
    )
    return join(towers, vision, (matrix,))


FAMILIES: dict[str, Builder] = {
    "gemma3": gemma3,
    "paligemma": paligemma,
    "gemma4": gemma4,
}

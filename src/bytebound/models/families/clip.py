"""CLIP and SigLIP: a text encoder and an image encoder, alone or together.

Source of shapes: the published classes of each ``model_type``; every count was checked against them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Conv, Embedding, Linear, Norm, Operator, Parameter, Tower
from bytebound.models.families.pieces import layers
from bytebound.models.families.stacks import attend, feed, once, read_head
from bytebound.models.families.vision import Widths, child, read_patches, read_widths

if TYPE_CHECKING:
    from bytebound.models.families import Builder
    from bytebound.models.keys import Keys


def _clip_layers(sizes: Widths, prefix: str, *, causal: bool = False) -> tuple[Block, ...]:
    layer = (
        Norm("layer_norm1", sizes.hidden, 2),
        *attend("self_attn.", hidden=sizes.hidden, heads=sizes.heads, head_dim=sizes.dim, causal=causal),
        Norm("layer_norm2", sizes.hidden, 2),
        *feed("mlp.", hidden=sizes.hidden, inner=sizes.inner),
    )
    return layers([layer] * sizes.depth, prefix=f"{prefix}encoder.layers")


def clip_text(keys: Keys, *, projection: int = 0, siglip: bool = False) -> list[Tower]:
    """Build the text half of CLIP (arXiv 2103.00020) or SigLIP; ``projection`` is the width of a joint model's."""
    sizes = read_widths(keys, (768, 12, 3072, 12) if siglip else (512, 8, 2048, 12))
    hidden = sizes.hidden
    vocab = keys.int("vocab_size", saved=32000 if siglip else 49408)
    context = keys.int("max_position_embeddings", 64 if siglip else 77)
    width = keys.int("projection_size" if siglip else "projection_dim", hidden if siglip else 512)
    head = "Model"
    if not projection:
        head = read_head(keys, ("WithProjection", "TextModel", "Model"))
    keys.skip("projection_dim", "hidden_act", "tie_word_embeddings")
    tables = (Embedding("token_embedding", vocab, hidden), Embedding("position_embedding", context, hidden))
    end: list[Operator] = [Norm("text_model.final_layer_norm", hidden, 2)]
    if siglip:
        end.append(once("text_model.head", hidden, width))
    elif projection or head == "WithProjection":
        end.append(once("text_projection", hidden, projection or width, bias=False))
    blocks = (
        Block("text_model.embeddings.", tables),
        *_clip_layers(sizes, "text_model.", causal=not siglip),
        Block("", tuple(end)),
    )
    return [Tower("text", "encoder", blocks, hidden, context=context)]


def clip_vision(keys: Keys, *, projection: int = 0, last: bool = True) -> list[Tower]:
    """Build the image half of CLIP; ``projection`` is the width of a joint model's, ``last`` its last norm."""
    sizes = read_widths(keys, (768, 12, 3072, 12))
    hidden = sizes.hidden
    patches = read_patches(keys, image=224, patch=32)
    tokens = patches.count + 1
    width = keys.int("projection_dim", 512)
    head = (
        "Model"
        if projection or keys.parent is not None
        else read_head(keys, ("WithProjection", "VisionModel", "Model"))
    )
    keys.skip("vocab_size", "architectures", "tie_word_embeddings", "num_labels")
    start = (
        Parameter("embeddings.class_embedding", (hidden,)),
        Conv(
            "embeddings.patch_embedding", patches.channels, hidden, patches.size, bias=False,
            token_scale=patches.count / tokens,
        ),
        Embedding("embeddings.position_embedding", tokens, hidden),
        Norm("pre_layrnorm", hidden, 2),
    )  # fmt: skip
    end: list[Operator] = [Norm("vision_model.post_layernorm", hidden, 2)] if last else []
    if projection or head == "WithProjection":
        end.append(once("visual_projection", hidden, projection or width, bias=False))
    blocks = (Block("vision_model.", start), *_clip_layers(sizes, "vision_model."), Block("", tuple(end)))
    return [Tower("vision", "encoder", blocks, hidden, tokens=tokens, tokens_out=tokens)]


def clip(keys: Keys) -> list[Tower]:
    """Build both halves of CLIP with their projections and the temperature."""
    width = keys.int("projection_dim", 512)
    read_head(keys, ("CLIPModel", "Model"))
    keys.skip("text_config_dict", "vision_config_dict", "logit_scale_init_value")
    text = clip_text(child(keys, "text_config"), projection=width)[0]
    vision = clip_vision(child(keys, "vision_config"), projection=width)[0]
    blocks = (*vision.blocks, Block("", (Parameter("logit_scale", ()),)))
    return [text, replace(vision, blocks=blocks)]


def siglip_vision(keys: Keys, *, naflex: bool = False, head: bool = True) -> list[Tower]:
    """Build the image half of SigLIP (arXiv 2303.15343) or, ``naflex``, SigLIP 2 for images of any shape."""
    sizes = read_widths(keys, (768, 12, 3072, 12))
    hidden = sizes.hidden
    patches = read_patches(keys, image=256 if naflex else 224, patch=16)
    rows = keys.int("num_patches", 256) if naflex else patches.count
    pooled = keys.flag("vision_use_head", default=True) and head
    keys.skip(
        "architectures", "num_image_tokens", "projection_dim", "projector_hidden_act", "num_positions", "image_size"
    )
    first: Operator
    if naflex:
        first = Linear("embeddings.patch_embedding", patches.values, hidden, "conv", bias=True)
    else:
        first = Conv("embeddings.patch_embedding", patches.channels, hidden, patches.size)
    start = (first, Embedding("embeddings.position_embedding", rows, hidden))
    end: list[Operator] = [Norm("post_layernorm", hidden, 2)]
    if pooled:
        at = "head.attention."
        end += [
            Parameter("head.probe", (1, 1, hidden)),
            Linear(f"{at}in_proj", hidden, 3 * hidden, "attention", bias=True),
            once(f"{at}out_proj", hidden, hidden, role="attention"),
            Norm("head.layernorm", hidden, 2, token_scale=1 / rows),
            *feed("head.mlp.", hidden=hidden, inner=sizes.inner, token_scale=1 / rows),
        ]
    blocks = (Block("vision_model.", start), *_clip_layers(sizes, "vision_model."), Block("vision_model.", tuple(end)))
    return [Tower("vision", "encoder", blocks, hidden, tokens=rows, tokens_out=rows)]


def siglip(keys: Keys, *, naflex: bool = False) -> list[Tower]:
    """Build both halves of SigLIP with scale and bias of the loss."""
    read_head(keys, ("Model",))
    keys.skip("text_config_dict", "vision_config_dict")
    text = clip_text(child(keys, "text_config"), projection=1, siglip=True)[0]
    vision = siglip_vision(child(keys, "vision_config"), naflex=naflex)[0]
    last = Block("", (Parameter("logit_scale", (1,)), Parameter("logit_bias", (1,))))
    return [text, replace(vision, blocks=(*vision.blocks, last))]


FAMILIES: dict[str, Builder] = {
    "clip": clip,
    "clip_text_model": clip_text,
    "clip_vision_model": clip_vision,
    "siglip": siglip,
    "siglip_text_model": partial(clip_text, siglip=True),
    "siglip_vision_model": siglip_vision,
    "siglip2": partial(siglip, naflex=True),
    "siglip2_vision_model": partial(siglip_vision, naflex=True),
}

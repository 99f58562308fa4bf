"""Diffusion transformers in which image and text meet in one attention: SD3, Flux and Qwen-Image.

Joint attention is stated as full attention among the image's tokens and cross attention to the text's; operators on
the text's stream have ``source="encoder"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.architecture import Attention, Block, Conv, Embedding, Linear, Norm, Operator
from bytebound.models.families.dit import (
    FREQUENCIES,
    OUT,
    denoiser,
    embedder,
    feed4,
    head_norms,
    last_block,
    on_text,
    read_depth,
    read_grid,
    read_inner,
)
from bytebound.models.families.pieces import Ops, layers
from bytebound.models.families.stacks import attend, once

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.keys import Keys

FLUX_PATCHES = 4096
"""Tokens of a 1024 x 1024 image: 8 pixels a latent, 2 x 2 latents a token (arXiv 2506.15742)."""

FLUX_TEXT = 512
"""Text tokens Flux joins to the image's (its pipeline's ``max_sequence_length``)."""

QWEN_PATCHES = 83 * 83
"""Tokens of a 1328 x 1328 image, Qwen-Image's square size (arXiv 2508.02324)."""


def joint(prefix: str, *, width: int, heads: int, dim: int, normed: bool, last: bool = False) -> Ops:
    """Return one attention over image and text together; in the ``last`` layer the text's result is not used."""
    inner = heads * dim
    own = attend(
        prefix, hidden=width, heads=heads, head_dim=dim, names=OUT, norms=("norm_q", "norm_k") if normed else ()
    )
    text = [Linear(f"{prefix}add_{name}_proj", width, inner, "attention", bias=True) for name in "qkv"]
    if not last:
        text.append(Linear(f"{prefix}to_add_out", inner, width, "attention", bias=True))
    added = head_norms(prefix, dim, "norm_added_q", "norm_added_k") if normed else ()
    cross = Attention(f"{prefix}text_core", heads, heads, dim, dim, kind="cross", causal=False, cached=False)
    return (*own, cross, *on_text(tuple(text)), *added)


def sd3(keys: Keys) -> list[Tower]:
    """Build Stable Diffusion 3 and 3.5 (arXiv 2403.03206)."""
    heads, dim, width = read_inner(keys, 18, 64)
    patch = keys.int("patch_size", 2, most=64)
    inputs = keys.int("in_channels", 16, most=4096)
    outputs = keys.int("out_channels", inputs, most=4096)
    depth = read_depth(keys, 18)
    joined = keys.int("joint_attention_dim", 4096)
    caption = keys.int("caption_projection_dim", 1152)
    pooled = keys.int("pooled_projection_dim", 2048)
    keys.skip("pos_embed_max_size")
    normed = keys.word("qk_norm", "")
    if normed not in ("", "rms_norm"):
        raise keys.error("qk_norm", f"{normed!r} is not read", "this reader knows rms_norm")
    dual = keys.ints("dual_attention_layers") or ()

    def layer(index: int) -> Ops:
        last, twice = index == depth - 1, index in dual
        found: list[Operator] = [
            once("norm1.linear", width, (9 if twice else 6) * width),
            once("norm1_context.linear", width, (2 if last else 6) * width),
            *joint("attn.", width=width, heads=heads, dim=dim, normed=bool(normed), last=last),
        ]
        if twice:
            names = ("norm_q", "norm_k") if normed else ()
            found += attend("attn2.", hidden=width, heads=heads, head_dim=dim, names=OUT, norms=names)
        found += feed4("ff.", width)
        if not last:
            found += on_text(feed4("ff_context.", width))
        return tuple(found)

    start = (
        Conv("pos_embed.proj", inputs, width, (patch, patch)),
        *embedder("time_text_embed.timestep_embedder", FREQUENCIES, width),
        *embedder("time_text_embed.text_embedder", pooled, width),
        Linear("context_embedder", joined, caption, "other", bias=True, source="encoder"),
    )
    stack = layers((layer(index) for index in range(depth)), prefix="transformer_blocks")
    blocks = (Block("", start), *stack, last_block(width, patch**2 * outputs))
    return denoiser(blocks, width, read_grid(keys, patch))


def flux(keys: Keys) -> list[Tower]:
    """Build FLUX.1: layers with a stream each for image and text, then layers with one stream for both."""
    heads, dim, width = read_inner(keys, 24, 128)
    patch = keys.int("patch_size", 1, most=64)
    inputs = keys.int("in_channels", 64, most=4096)
    outputs = keys.int("out_channels", inputs, most=4096)
    joined = keys.int("joint_attention_dim", 4096)
    pooled = keys.int("pooled_projection_dim", 768)
    guided = keys.flag("guidance_embeds", default=False)
    keys.skip("axes_dims_rope", "sample_size")
    double = (
        once("norm1.linear", width, 6 * width),
        once("norm1_context.linear", width, 6 * width),
        *joint("attn.", width=width, heads=heads, dim=dim, normed=True),
        *feed4("ff.", width),
        *on_text(feed4("ff_context.", width)),
    )
    both = (FLUX_PATCHES + FLUX_TEXT) / FLUX_PATCHES
    single = (
        once("norm.linear", width, 3 * width),
        Linear("proj_mlp", width, 4 * width, "mlp", bias=True, token_scale=both),
        *attend(
            "attn.", hidden=width, heads=heads, head_dim=dim, names=(*OUT[:3], ""), norms=("norm_q", "norm_k"),
            token_scale=both,
        ),
        Linear("proj_out", 5 * width, width, "mlp", bias=True, token_scale=both),
    )  # fmt: skip
    time = "time_text_embed."
    start = (
        Linear("x_embedder", inputs, width, "other", bias=True),
        Linear("context_embedder", joined, width, "other", bias=True, source="encoder"),
        *embedder(f"{time}timestep_embedder", FREQUENCIES, width),
        *(embedder(f"{time}guidance_embedder", FREQUENCIES, width) if guided else ()),
        *embedder(f"{time}text_embedder", pooled, width),
    )
    blocks = (
        Block("", start),
        *layers([double] * read_depth(keys, 19), prefix="transformer_blocks"),
        *layers([single] * read_depth(keys, 38, "num_single_layers"), prefix="single_transformer_blocks"),
        last_block(width, patch**2 * outputs),
    )
    return denoiser(blocks, width, FLUX_PATCHES)


def qwen_image(keys: Keys) -> list[Tower]:
    """Build Qwen-Image (arXiv 2508.02324)."""
    heads, dim, width = read_inner(keys, 24, 128)
    patch = keys.int("patch_size", 2, most=64)
    inputs = keys.int("in_channels", 64, most=4096)
    outputs = keys.int("out_channels", 16, most=4096)
    joined = keys.int("joint_attention_dim", 3584)
    keys.skip("axes_dims_rope", "guidance_embeds", "pooled_projection_dim", "zero_cond_t", "use_layer3d_rope")
    extra = keys.flag("use_additional_t_cond", default=False)
    layer = (
        once("img_mod.1", width, 6 * width),
        once("txt_mod.1", width, 6 * width),
        *joint("attn.", width=width, heads=heads, dim=dim, normed=True),
        *feed4("img_mlp.", width),
        *on_text(feed4("txt_mlp.", width)),
    )
    start: list[Operator] = [
        *embedder("time_text_embed.timestep_embedder", FREQUENCIES, width),
        Norm("txt_norm", joined),
        Linear("img_in", inputs, width, "other", bias=True),
        Linear("txt_in", joined, width, "other", bias=True, source="encoder"),
    ]
    if extra:
        start.append(Embedding("time_text_embed.addition_t_embedding", 2, width))
    stack = layers([layer] * read_depth(keys, 60), prefix="transformer_blocks")
    blocks = (Block("", tuple(start)), *stack, last_block(width, patch**2 * outputs))
    return denoiser(blocks, width, QWEN_PATCHES)

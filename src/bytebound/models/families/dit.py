"""Diffusion transformers that attend to their condition: HunyuanDiT, PixArt, DiT, Wan and CogVideoX.

A tower's tokens are the patches of the native size. Operators on text have ``source="encoder"``, those on the time and
pooled conditions ``source="sequence"``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Conv, Embedding, Linear, Norm, Operator, Parameter, Tower
from bytebound.models.families.pieces import DEEPEST_STACK, Ops, layers
from bytebound.models.families.stacks import attend, feed, once, place, read_size

if TYPE_CHECKING:
    from bytebound.models.keys import Keys

FREQUENCIES = 256
"""Sinusoids a timestep is written in, in all of these models."""

WAN_PATCHES = 21 * 30 * 52
"""Tokens of 81 frames of 832 x 480: 4 frames and 8 pixels a latent, 1 x 2 x 2 latents a token (arXiv 2503.20314)."""

OUT = ("to_q", "to_k", "to_v", "to_out.0")
NET = ("net.0.proj", "net.2")


def embedder(name: str, inputs: int, hidden: int) -> Ops:
    """Return the two matrices a timestep or a pooled text goes through."""
    return once(f"{name}.linear_1", inputs, hidden), once(f"{name}.linear_2", hidden, hidden)


def read_inner(keys: Keys, heads: int, dim: int) -> tuple[int, int, int]:
    """Read heads and their width; return heads, width of one, and of all."""
    count = keys.int("num_attention_heads", heads, most=4096)
    width = keys.int("attention_head_dim", dim, most=4096)
    return count, width, count * width


def read_depth(keys: Keys, default: int, name: str = "num_layers") -> int:
    """Read a number of layers."""
    return keys.int(name, default, least=0, most=DEEPEST_STACK)


def on_text(ops: Ops) -> Ops:
    """Return the operators working on the text's tokens."""
    return tuple(place(op, encoder=True) for op in ops)


def head_norms(prefix: str, dim: int, *names: str, vectors: int = 1) -> Ops:
    """Return norms over one head."""
    return tuple(Norm(prefix + name, dim, vectors) for name in names)


def feed4(prefix: str, width: int) -> Ops:
    """Return the usual feed-forward layer, four times as wide inside."""
    return feed(prefix, hidden=width, inner=4 * width, names=NET)


def last_block(width: int, outputs: int) -> Block:
    """Return the modulated projection back to latents."""
    return Block(
        "", (once("norm_out.linear", width, 2 * width), Linear("proj_out", width, outputs, "other", bias=True))
    )


def denoiser(blocks: tuple[Block, ...], width: int, tokens: int) -> list[Tower]:
    """Return the denoiser of these blocks."""
    return [Tower("denoiser", "denoiser", blocks, width, tokens=tokens, tokens_out=tokens)]


def read_grid(keys: Keys, patch: int, default: int = 128) -> int:
    """Read how many patches of ``patch`` latents a side an image of ``sample_size`` latents has."""
    rows, cols = read_size(keys, "sample_size", default)
    return max(1, rows // patch) * max(1, cols // patch)


def hunyuan_dit(keys: Keys) -> list[Tower]:
    """Build HunyuanDiT (arXiv 2405.08748): two text encoders, long skips in the second half."""
    heads, dim, width = read_inner(keys, 16, 88)
    patch = keys.int("patch_size", 2, most=64)
    inputs = keys.int("in_channels", 4, most=4096)
    outputs = inputs * (2 if keys.flag("learn_sigma", default=True) else 1)
    depth = read_depth(keys, 28)
    inner = int(width * keys.number("mlp_ratio", 4.0))
    cross, t5 = keys.int("cross_attention_dim", 1024), keys.int("cross_attention_dim_t5", 2048)
    pooled = keys.int("pooled_projection_dim", 1024)
    short, long = keys.int("text_len", 77), keys.int("text_len_t5", 256)
    styled = keys.flag("use_style_cond_and_image_meta_size", default=True)
    keys.skip("norm_type", "hidden_size")
    if keys.word("activation_fn", "gelu-approximate") != "gelu-approximate":
        raise keys.error("activation_fn", "a gated feed-forward is not read", "write gelu-approximate")

    def attention(number: int) -> Ops:
        found = attend(
            f"attn{number}.", hidden=width, heads=heads, head_dim=dim, names=OUT, norms=("norm_q", "norm_k"),
            norm_vectors=2, memory=cross if number == 2 else 0,
        )  # fmt: skip
        return (Norm("norm1.norm" if number == 1 else "norm2", width, 2), *found)

    base = (
        once("norm1.linear", width, width),
        *attention(1),
        *attention(2),
        Norm("norm3", width, 2),
        *feed("ff.", hidden=width, inner=inner, names=NET),
    )
    skip: Ops = (
        Norm("skip_norm", 2 * width, 2),
        Linear("skip_linear", 2 * width, width, "other", bias=True),
    )
    pool = "time_extra_emb.pooler."
    added = pooled + (FREQUENCIES * 6 + width if styled else 0)
    start: list[Operator] = [
        Conv("pos_embed.proj", inputs, width, (patch, patch)),
        Linear("text_embedder.linear_1", t5, 4 * t5, "other", bias=True, source="encoder"),
        Linear("text_embedder.linear_2", 4 * t5, cross, "other", bias=True, source="encoder"),
        Parameter("text_embedding_padding", (short + long, cross)),
        *embedder("time_extra_emb.timestep_embedder", FREQUENCIES, width),
        Parameter(f"{pool}positional_embedding", (long + 1, t5)),
        *(Linear(f"{pool}{name}_proj", t5, t5, "other", bias=True, source="encoder") for name in "kqv"),
        once(f"{pool}c_proj", t5, pooled),
        once("time_extra_emb.extra_embedder.linear_1", added, 4 * width),
        once("time_extra_emb.extra_embedder.linear_2", 4 * width, width),
    ]
    if styled:
        start.append(Embedding("time_extra_emb.style_embedder", 1, width))
    stack = layers(((*base, *skip) if index > depth // 2 else base for index in range(depth)), prefix="blocks")
    return denoiser(
        (Block("", tuple(start)), *stack, last_block(width, patch**2 * outputs)), width, read_grid(keys, patch, 32)
    )


def pixart(keys: Keys) -> list[Tower]:
    """Build PixArt-alpha and PixArt-sigma (arXiv 2310.00426, 2403.04692)."""
    heads, dim, width = read_inner(keys, 16, 72)
    patch = keys.int("patch_size", 2, most=64)
    inputs = keys.int("in_channels", 4, most=4096)
    outputs = keys.int("out_channels", 8, most=4096)
    cross = keys.int("cross_attention_dim", 1152)
    bias = keys.flag("attention_bias", default=True)
    size = read_size(keys, "sample_size", 128)[0]
    more = keys.flag("use_additional_conditions", size == 128)
    captions = keys.maybe_int("caption_channels")
    keys.skip("num_embeds_ada_norm", "norm_num_groups", "interpolation_scale", "attention_type", "upcast_attention")
    usual = {"norm_type": "ada_norm_single", "activation_fn": "gelu-approximate"}
    for name, word in usual.items():
        if keys.word(name, word) != word:
            raise keys.error(name, "another kind is not read", f"this reader knows {word}")
    if keys.flag("norm_elementwise_affine", default=False):
        raise keys.error("norm_elementwise_affine", "learned norms are not read here", "write false")
    flags = (bias, bias, bias, True)
    layer = (
        *attend("attn1.", hidden=width, heads=heads, head_dim=dim, names=OUT, bias=flags),
        *attend("attn2.", hidden=width, heads=heads, head_dim=dim, names=OUT, bias=flags, memory=cross),
        *feed4("ff.", width),
        Parameter("scale_shift_table", (6, width)),
    )
    ada = "adaln_single."
    start: list[Operator] = [
        Conv("pos_embed.proj", inputs, width, (patch, patch)),
        *embedder(f"{ada}emb.timestep_embedder", FREQUENCIES, width),
        once(f"{ada}linear", width, 6 * width),
    ]
    if more:
        start += embedder(f"{ada}emb.resolution_embedder", FREQUENCIES, width // 3)
        start += embedder(f"{ada}emb.aspect_ratio_embedder", FREQUENCIES, width // 3)
    if captions:
        start += on_text(embedder("caption_projection", captions, width))
    end = (
        Parameter("scale_shift_table", (2, width)),
        Linear("proj_out", width, patch**2 * outputs, "other", bias=True),
    )
    stack = layers([layer] * read_depth(keys, 28), prefix="transformer_blocks")
    return denoiser((Block("", tuple(start)), *stack, Block("", end)), width, read_grid(keys, patch))


def dit(keys: Keys) -> list[Tower]:
    """Build DiT on ImageNet classes (arXiv 2212.09748)."""
    heads, dim, width = read_inner(keys, 16, 72)
    patch = keys.int("patch_size", 2, most=64)
    inputs = keys.int("in_channels", 4, most=4096)
    outputs = keys.int("out_channels", inputs, most=4096)
    classes = keys.int("num_embeds_ada_norm", 1000)
    bias = keys.flag("attention_bias", default=True)
    keys.skip(
        "norm_num_groups", "activation_fn", "norm_elementwise_affine", "upcast_attention", "cross_attention_dim",
        "attention_type", "num_vector_embeds", "double_self_attention", "only_cross_attention", "use_linear_projection",
    )  # fmt: skip
    if keys.word("norm_type", "ada_norm_zero") != "ada_norm_zero":
        raise keys.error("norm_type", "another kind is not read", "this reader knows ada_norm_zero")
    layer = (
        *embedder("norm1.emb.timestep_embedder", FREQUENCIES, width),
        Embedding("norm1.emb.class_embedder.embedding_table", classes + 1, width),
        once("norm1.linear", width, 6 * width),
        *attend("attn1.", hidden=width, heads=heads, head_dim=dim, names=OUT, bias=(bias, bias, bias, True)),
        *feed4("ff.", width),
    )
    start = Block("", (Conv("pos_embed.proj", inputs, width, (patch, patch)),))
    end = (
        once("proj_out_1", width, 2 * width),
        Linear("proj_out_2", width, patch**2 * outputs, "other", bias=True),
    )
    stack = layers([layer] * read_depth(keys, 28), prefix="transformer_blocks")
    return denoiser((start, *stack, Block("", end)), width, read_grid(keys, patch, 32))


def wan(keys: Keys) -> list[Tower]:
    """Build Wan 2.1 and 2.2 video models (arXiv 2503.20314), text- or image-conditioned."""
    heads, dim, width = read_inner(keys, 40, 128)
    patch = keys.ints("patch_size", least=1, most=64) or (1, 2, 2)
    if len(patch) != 3:
        raise keys.error("patch_size", f"{patch} is not frames, height and width", "write three numbers")
    inputs = keys.int("in_channels", 16, most=4096)
    outputs = keys.int("out_channels", 16, most=4096)
    text, frequencies = keys.int("text_dim", 4096), keys.int("freq_dim", 256)
    inner = keys.int("ffn_dim", 13824)
    image, added = keys.maybe_int("image_dim"), keys.maybe_int("added_kv_proj_dim")
    seen = keys.maybe_int("pos_embed_seq_len")
    keys.skip("rope_max_seq_len", "window_size", "num_frame_per_block")
    if keys.word("qk_norm", "rms_norm_across_heads") != "rms_norm_across_heads":
        raise keys.error("qk_norm", "another norm is not read", "this reader knows rms_norm_across_heads")
    second: list[Operator] = list(
        attend(
            "attn2.", hidden=width, heads=heads, head_dim=dim, names=OUT, norms=("norm_q", "norm_k"), norm_width=width,
            memory=width,
        )
    )  # fmt: skip
    if added:
        second += [
            Linear(f"attn2.add_{name}_proj", added, width, "attention", bias=True, source="encoder") for name in "kv"
        ]
        second.append(Norm("attn2.norm_added_k", width))
    normed = keys.flag("cross_attn_norm", default=True)
    layer = (
        Parameter("scale_shift_table", (1, 6, width)),
        *attend(
            "attn1.", hidden=width, heads=heads, head_dim=dim, names=OUT, norms=("norm_q", "norm_k"), norm_width=width
        ),
        *((Norm("norm2", width, 2),) if normed else ()),
        *second,
        *feed("ffn.", hidden=width, inner=inner, names=NET),
    )
    at = "condition_embedder."
    start: list[Operator] = [
        Conv("patch_embedding", inputs, width, tuple(patch)),
        *embedder(f"{at}time_embedder", frequencies, width),
        once(f"{at}time_proj", width, 6 * width),
        *on_text(embedder(f"{at}text_embedder", text, width)),
    ]
    if image:
        start.append(Norm(f"{at}image_embedder.norm1", image, 2))
        start += on_text(feed(f"{at}image_embedder.ff.", hidden=image, inner=image, outputs=width, names=NET))
        start.append(Norm(f"{at}image_embedder.norm2", width, 2))
        if seen:
            start.append(Parameter(f"{at}image_embedder.pos_embed", (1, seen, image)))
    values = patch[0] * patch[1] * patch[2] * outputs
    end = (Linear("proj_out", width, values, "other", bias=True), Parameter("scale_shift_table", (1, 2, width)))
    stack = layers([layer] * read_depth(keys, 40), prefix="blocks")
    return denoiser((Block("", tuple(start)), *stack, Block("", end)), width, WAN_PATCHES)


def cogvideox(keys: Keys) -> list[Tower]:
    """Build CogVideoX (arXiv 2408.06072): text and video tokens in one stream with two modulations."""
    heads, dim, width = read_inner(keys, 30, 64)
    patch, frames = keys.int("patch_size", 2, most=64), keys.maybe_int("patch_size_t", most=64)
    inputs = keys.int("in_channels", 16, most=4096)
    outputs = keys.int("out_channels", 16, most=4096)
    time, text = keys.int("time_embed_dim", 512), keys.int("text_embed_dim", 4096)
    offset = keys.maybe_int("ofs_embed_dim", least=0)
    bias = keys.flag("attention_bias", default=True)
    vectors = 2 if keys.flag("norm_elementwise_affine", default=True) else 0
    patch_bias = keys.flag("patch_bias", default=True)
    high, wide = keys.int("sample_height", 60, most=4096), keys.int("sample_width", 90, most=4096)
    count, shrink = keys.int("sample_frames", 49, most=65536), keys.int("temporal_compression_ratio", 4, most=64)
    words = keys.int("max_text_seq_length", 226, most=65536)
    keys.skip(
        "activation_fn", "timestep_activation_fn", "spatial_interpolation_scale", "temporal_interpolation_scale",
        "use_rotary_positional_embeddings", "use_learned_positional_embeddings", "flip_sin_to_cos", "freq_shift",
    )  # fmt: skip
    latent = (count - 1) // shrink + 1
    tokens = -(-latent // (frames or 1)) * (high // patch) * (wide // patch)
    both = (tokens + words) / tokens if tokens else 1.0

    def normed(name: str) -> Ops:
        return once(f"{name}.linear", time, 6 * width), Norm(f"{name}.norm", width, vectors)

    main = (
        *normed("norm1"),
        *attend(
            "attn1.", hidden=width, heads=heads, head_dim=dim, names=OUT, bias=(bias, bias, bias, True),
            norms=("norm_q", "norm_k"), norm_vectors=2, token_scale=both,
        ),
        *normed("norm2"),
        *feed("ff.", hidden=width, inner=4 * width, names=NET, token_scale=both),
    )  # fmt: skip
    first: Operator = Conv("patch_embed.proj", inputs, width, (patch, patch), bias=patch_bias)
    if frames:
        first = Linear("patch_embed.proj", inputs * patch**2 * frames, width, "conv", bias=True)
    start: list[Operator] = [
        first,
        Linear("patch_embed.text_proj", text, width, "other", bias=True, source="encoder"),
        once("time_embedding.linear_1", width, time),
        once("time_embedding.linear_2", time, time),
    ]
    if offset:
        start += embedder("ofs_embedding", offset, offset)
    end = (
        Norm("norm_final", width, vectors),
        once("norm_out.linear", time, 2 * width),
        Norm("norm_out.norm", width, vectors),
        Linear("proj_out", width, patch**2 * (frames or 1) * outputs, "other", bias=True),
    )
    stack = layers([main] * read_depth(keys, 30), prefix="transformer_blocks")
    return [
        replace(
            denoiser((Block("", tuple(start)), *stack, Block("", end)), width, max(tokens, 1))[0], tokens_out=tokens
        )
    ]

"""Image encoders that stand alone or inside vision-language models: ViT, DINOv2, Pixtral, InternViT.

A tower's ``tokens`` are the patches (and class token) of one image at the size the config names; models that take any
size get an image of ``ANY_SIZE`` pixels a side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Conv, Norm, Operator, Parameter, Tower
from bytebound.models.families.pieces import Ops, layers, split
from bytebound.models.families.stacks import attend, feed, norms, once, read_head, read_labels, read_layers, read_size
from bytebound.models.keys import Keys

if TYPE_CHECKING:
    from bytebound.models.families import Builder

ANY_SIZE = 1024
"""Pixels a side of the image that is assumed where a model takes any size."""


@dataclass(frozen=True, slots=True)
class Patches:
    """How an image becomes patches: its grid, the patch's size in pixels, and the channels."""

    rows: int
    cols: int
    size: tuple[int, int]
    channels: int

    @property
    def count(self) -> int:
        """Patches of one image."""
        return self.rows * self.cols

    @property
    def values(self) -> int:
        """Pixel values of one patch."""
        return self.size[0] * self.size[1] * self.channels

    def merged(self, side: int) -> int:
        """Tokens left when squares of ``side`` x ``side`` patches become one."""
        return -(-self.rows // side) * -(-self.cols // side)


def read_patches(keys: Keys, *, image: int, patch: int, largest: int = 0) -> Patches:
    """Read image and patch size; ``image`` and ``patch`` are what the class assumes.

    Args:
        keys: the config.
        image: pixels a side that the family's class assumes.
        patch: pixels a side of its patch.
        largest: pixels a side that a larger image is cut to (0: as configured).

    Raises:
        DocumentError: the image is smaller than one patch.
    """
    size = read_size(keys, "patch_size", patch)
    pixels = read_size(keys, "image_size", image)
    if largest:
        pixels = min(pixels[0], largest), min(pixels[1], largest)
    if pixels[0] < size[0] or pixels[1] < size[1]:
        raise keys.error("image_size", f"an image of {pixels} pixels holds no patch of {size}", "correct the sizes")
    return Patches(pixels[0] // size[0], pixels[1] // size[1], size, keys.int("num_channels", 3, also=("in_chans",)))


def child(keys: Keys, name: str) -> Keys:
    """Return the nested config, empty where it is left out (the class then assumes all its defaults)."""
    found = keys.maybe_child(name)
    if found is not None:
        return found
    empty = Keys({}, file=keys.file, path=f"{keys.path}.{name}" if keys.path else name, text="", parent=keys)
    keys.children[name] = empty
    return empty


@dataclass(frozen=True, slots=True)
class Widths:
    """Stream, heads and feed-forward of an encoder, and its layers."""

    hidden: int
    heads: int
    dim: int
    inner: int
    depth: int


def read_widths(keys: Keys, saved: tuple[int, int, int, int]) -> Widths:
    """Read width, heads, feed-forward and layers; ``saved`` is what a nested config leaves out, in this order."""
    hidden = keys.int("hidden_size", saved=saved[0])
    heads = keys.int("num_attention_heads", saved=saved[1], also=("attention_heads",))
    inner = keys.int("intermediate_size", saved=saved[2])
    return Widths(hidden, heads, split(keys, hidden, heads), inner, read_layers(keys, "num_hidden_layers", saved[3]))


# ---- ViT and DINOv2


def vit(keys: Keys) -> list[Tower]:
    """Build ViT or DeiT (arXiv 2010.11929): patches and a class token, norms before."""
    sizes = read_widths(keys, (768, 12, 3072, 12))
    hidden = sizes.hidden
    patches = read_patches(keys, image=224, patch=16)
    bias = keys.flag("qkv_bias", default=True)
    keys.skip("encoder_stride", "pooler_act", "pooler_output_size")
    deit = 1 if keys.values.get("model_type") == "deit" else 0
    head = read_head(keys, ("ForImageClassification", "Model"))
    end: list[Operator] = [Norm("layernorm", hidden, 2)]
    if head == "Model":
        end.append(once("pooler.dense", hidden, keys.int("pooler_output_size", hidden)))
    else:
        end.append(once("classifier", hidden, read_labels(keys)))
    attention = "attention.attention."
    names = (f"{attention}query", f"{attention}key", f"{attention}value", "attention.output.dense")
    layer = (
        Norm("layernorm_before", hidden, 2),
        *attend("", hidden=hidden, heads=sizes.heads, head_dim=sizes.dim, names=names, bias=(bias, bias, bias, True)),
        Norm("layernorm_after", hidden, 2),
        *feed("", hidden=hidden, inner=sizes.inner, names=("intermediate.dense", "output.dense")),
    )
    extra = (Parameter("embeddings.distillation_token", (1, 1, hidden)),) if deit else ()
    start = _class_start(hidden, patches, extra, specials=1 + deit)
    blocks = (start, *layers([layer] * sizes.depth, prefix="encoder.layer"), Block("", tuple(end)))
    tokens = patches.count + 1 + deit
    return [Tower("vision", "encoder", blocks, hidden, tokens=tokens, tokens_out=tokens)]


def _class_start(hidden: int, patches: Patches, extra: Ops, *, specials: int, positions: int = 0) -> Block:
    tokens = patches.count + specials
    return Block(
        "embeddings.",
        (
            Parameter("cls_token", (1, 1, hidden)),
            *(replace(op, name=op.name.removeprefix("embeddings.")) for op in extra),
            Parameter("position_embeddings", (1, positions or tokens, hidden)),
            Conv(
                "patch_embeddings.projection",
                patches.channels,
                hidden,
                patches.size,
                token_scale=patches.count / tokens,
            ),
        ),
    )


def dinov2(keys: Keys, *, registers: int = 0) -> list[Tower]:
    """Build DINOv2 (arXiv 2304.07193), with ``registers`` class-like tokens by default (arXiv 2309.16588)."""
    hidden = keys.int("hidden_size", 768)
    heads = keys.int("num_attention_heads", 12)
    depth = read_layers(keys, "num_hidden_layers", 12)
    inner = int(hidden * keys.number("mlp_ratio", 4.0))
    bias = keys.flag("qkv_bias", default=True)
    patches = read_patches(keys, image=224, patch=14)
    count = keys.int("num_register_tokens", registers, least=0) if registers else 0
    keys.skip(
        "out_features", "out_indices", "stage_names", "apply_layernorm", "reshape_hidden_states", "layerscale_value"
    )
    extra: list[Operator] = []
    if keys.flag("use_mask_token", default=True):
        extra.append(Parameter("mask_token", (1, hidden)))
    if count:
        extra.append(Parameter("register_tokens", (1, count, hidden)))
    if keys.flag("use_swiglu_ffn", default=False):
        inner = (inner * 2 // 3 + 7) // 8 * 8
        mlp = feed("mlp.", hidden=hidden, inner=inner, names=("weights_in", "weights_out"), fused=True)
    else:
        mlp = feed("mlp.", hidden=hidden, inner=inner)
    attention = "attention.attention."
    names = (f"{attention}query", f"{attention}key", f"{attention}value", "attention.output.dense")
    dim = split(keys, hidden, heads)
    layer = (
        Norm("norm1", hidden, 2),
        *attend("", hidden=hidden, heads=heads, head_dim=dim, names=names, bias=(bias, bias, bias, True)),
        Parameter("layer_scale1.lambda1", (hidden,)),
        Norm("norm2", hidden, 2),
        *mlp,
        Parameter("layer_scale2.lambda1", (hidden,)),
    )
    head = read_head(keys, ("ForImageClassification", "Backbone", "Model"))
    end: list[Operator] = [Norm("layernorm", hidden, 2)]
    if head == "ForImageClassification":
        end.append(once("classifier", 2 * hidden, read_labels(keys)))
    start = _class_start(hidden, patches, tuple(extra), specials=1 + count, positions=patches.count + 1)
    blocks = (start, *layers([layer] * depth, prefix="encoder.layer"), Block("", tuple(end)))
    tokens = patches.count + 1 + count
    return [Tower("vision", "encoder", blocks, hidden, tokens=tokens, tokens_out=tokens)]


# ---- Pixtral and InternViT


def pixtral_vision(keys: Keys) -> list[Tower]:
    """Build Pixtral's encoder (arXiv 2410.07073): RMSNorms, rotary positions in two axes, gated feed-forward."""
    sizes = read_widths(keys, (1024, 16, 4096, 24))
    hidden = sizes.hidden
    patches = read_patches(keys, image=1024, patch=16, largest=ANY_SIZE)
    keys.skip("head_dim", "architectures")
    layer = (
        Norm("attention_norm", hidden),
        *attend(
            "attention.", hidden=hidden, heads=sizes.heads, head_dim=sizes.dim, bias=(False,) * 4,
            names=("q_proj", "k_proj", "v_proj", "o_proj"),
        ),
        Norm("ffn_norm", hidden),
        *feed(
            "feed_forward.", hidden=hidden, inner=sizes.inner, names=("gate_proj", "up_proj", "down_proj"), bias=False
        ),
    )  # fmt: skip
    start = (Conv("patch_conv", patches.channels, hidden, patches.size, bias=False), Norm("ln_pre", hidden))
    blocks = (Block("", start), *layers([layer] * sizes.depth, prefix="transformer.layers"))
    return [Tower("vision", "encoder", blocks, hidden, tokens=patches.count, tokens_out=patches.count)]


def internvl_vision(keys: Keys) -> list[Tower]:
    """Build InternViT as InternVL wraps it (arXiv 2312.14238)."""
    sizes = read_widths(keys, (1024, 16, 4096, 24))
    hidden = sizes.hidden
    patches = read_patches(keys, image=448, patch=14)
    bias = keys.flag("attention_bias", default=False)
    vectors = 1 if keys.word("norm_type", "layer_norm") == "rms_norm" else 2
    extra: list[Operator] = []
    if keys.flag("use_mask_token", default=False):
        extra.append(Parameter("mask_token", (1, 1, hidden)))
    normed = ("q_norm", "k_norm") if keys.flag("use_qk_norm", default=False) else ()
    keys.skip("architectures", "layer_scale_init_value", "projection_dropout", "hidden_act")
    layer = (
        *norms(hidden, "layernorm_before", vectors=vectors),
        *attend(
            "attention.", hidden=hidden, heads=sizes.heads, head_dim=sizes.dim, bias=(bias, bias, bias, True),
            names=("q_proj", "k_proj", "v_proj", "projection_layer"), norms=normed, norm_width=hidden,
        ),
        Parameter("lambda_1", (hidden,)),
        *norms(hidden, "layernorm_after", vectors=vectors),
        *feed("mlp.", hidden=hidden, inner=sizes.inner),
        Parameter("lambda_2", (hidden,)),
    )  # fmt: skip
    start = _class_start(hidden, patches, tuple(extra), specials=1)
    if not keys.flag("use_absolute_position_embeddings", default=True):
        start = replace(start, operators=tuple(op for op in start.operators if op.name != "position_embeddings"))
    mean = keys.flag("use_mean_pooling", default=True)
    end = () if mean else (Block("", norms(hidden, "layernorm")),)
    blocks = (start, *layers([layer] * sizes.depth, prefix="encoder.layer"), *end)
    return [Tower("vision", "encoder", blocks, hidden, tokens=patches.count + 1, tokens_out=patches.count)]


FAMILIES: dict[str, Builder] = {
    "vit": vit,
    "deit": vit,
    "dinov2": dinov2,
    "dinov2_with_registers": partial(dinov2, registers=4),
    "pixtral": pixtral_vision,
    "internvl_vision": internvl_vision,
}

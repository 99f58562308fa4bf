"""The UNet of Stable Diffusion 1, 2 and XL: residual convolutions and transformers on halving levels.

The tower's tokens are the latent positions of the native size; level k works on ``4**-k`` of them.
Source: arXiv 2112.10752 (latent diffusion), 2307.01952 (SDXL); class ``UNet2DConditionModel``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Conv, Embedding, Linear, Norm, Operator, Tower
from bytebound.models.families.pieces import Ops, split
from bytebound.models.families.stacks import attend, feed, once, read_size

if TYPE_CHECKING:
    from bytebound.models.keys import Keys

KINDS = ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
"""Blocks that are read."""

DEEPEST_LEVEL = 12
MOST_LAYERS = 64


def resnet(name: str, inputs: int, outputs: int, *, time: int, scale: float) -> Ops:
    """Return two normed convolutions, the time's projection (0: none) and a shortcut where the width changes."""
    found: list[Operator] = [
        Norm(f"{name}.norm1", inputs, 2, token_scale=scale),
        Conv(f"{name}.conv1", inputs, outputs, (3, 3), token_scale=scale),
    ]
    if time:
        found.append(once(f"{name}.time_emb_proj", time, outputs))
    found += [
        Norm(f"{name}.norm2", outputs, 2, token_scale=scale),
        Conv(f"{name}.conv2", outputs, outputs, (3, 3), token_scale=scale),
    ]
    if inputs != outputs:
        found.append(Conv(f"{name}.conv_shortcut", inputs, outputs, (1, 1), token_scale=scale))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Spatial:
    """The transformer that stands after a residual pair.

    Args:
        heads: heads of its attentions.
        layers: its transformer layers.
        cross: width of the text it attends to.
        linear: whether its projections are matrices rather than 1 x 1 convolutions (the same values).
        cross_only: whether its first attention reads the text too.
    """

    heads: int
    layers: int
    cross: int
    linear: bool
    cross_only: bool

    def operators(self, keys: Keys, name: str, *, width: int, scale: float) -> Ops:
        """Return the transformer's operators on ``scale`` of the tower's positions."""
        dim = split(keys, width, self.heads)

        def project(at: str) -> Operator:
            if self.linear:
                return Linear(f"{name}.{at}", width, width, "attention", bias=True, token_scale=scale)
            return Conv(f"{name}.{at}", width, width, (1, 1), token_scale=scale, role="attention")

        found: list[Operator] = [Norm(f"{name}.norm", width, 2, token_scale=scale), project("proj_in")]
        for index in range(self.layers):
            at = f"{name}.transformer_blocks.{index}"
            for number, memory in ((1, self.cross if self.cross_only else 0), (2, self.cross)):
                found.append(Norm(f"{at}.norm{number}", width, 2, token_scale=scale))
                found += attend(
                    f"{at}.attn{number}.", hidden=width, heads=self.heads, head_dim=dim, memory=memory,
                    names=("to_q", "to_k", "to_v", "to_out.0"), bias=(False, False, False, True), token_scale=scale,
                )  # fmt: skip
            found.append(Norm(f"{at}.norm3", width, 2, token_scale=scale))
            names = ("net.0.proj", "net.2")
            found += feed(f"{at}.ff.", hidden=width, inner=4 * width, names=names, fused=True, token_scale=scale)
        return (*found, project("proj_out"))


def per_level(keys: Keys, name: str, default: int, count: int) -> tuple[int, ...]:
    """Read a key that holds one number, or one per level."""
    if isinstance(keys.values.get(name), list):
        found = keys.ints(name, least=0, most=2**20) or ()
        if len(found) != count:
            raise keys.error(name, f"{len(found)} numbers for {count} levels", "write one number per level")
        return found
    return (keys.int(name, default, least=0, most=2**20),) * count


def read_channels(keys: Keys) -> tuple[int, ...]:
    """Read the widths of the levels."""
    found = keys.ints("block_out_channels", least=1, most=2**16)
    if not found or len(found) > DEEPEST_LEVEL:
        raise keys.error("block_out_channels", "the levels are missing or too many", "write one width per level")
    return found


def _read_types(keys: Keys, name: str, count: int, default: tuple[str, ...]) -> tuple[str, ...]:
    found = keys.words(name) or default
    if len(found) != count:
        raise keys.error(name, f"{len(found)} blocks for {count} levels", "write one block per level")
    for kind in found:
        if kind not in KINDS:
            raise keys.error(name, f"the block {kind!r} is not read", f"blocks that are read: {', '.join(KINDS)}")
    return found


def _transformer_depths(keys: Keys, name: str, count: int, pairs: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Read the transformer layers after every residual pair of a level; SSD-1B and Vega write a list per level."""
    value = keys.values.get(name)
    if not isinstance(value, list) or all(isinstance(item, int) for item in value):
        depths = per_level(keys, name, 1, count)
        return [(depth,) * (number + 1) for depth, number in zip(depths, pairs, strict=True)]
    keys.take(name)
    found = []
    for item, number in zip(value, pairs, strict=False):
        many = item if isinstance(item, list) else [item] * (number + 1)
        if not many or not all(isinstance(depth, int) and 0 <= depth <= MOST_LAYERS for depth in many):
            raise keys.error(name, "the depths are not numbers", "write a number, or a list of numbers, per level")
        found.append(tuple(many))
    if len(found) != count:
        raise keys.error(name, f"{len(found)} entries for {count} levels", "write one per level")
    return found


def _refuse(keys: Keys) -> None:
    """Refuse what this reader does not build, so that nothing is guessed."""
    plain = {
        "dual_cross_attention": False, "resnet_time_scale_shift": "default", "time_embedding_type": "positional",
        "attention_type": "default", "class_embeddings_concat": False, "cross_attention_norm": None,
        "num_attention_heads": None, "mid_block_only_cross_attention": None,
    }  # fmt: skip
    for name, usual in plain.items():
        value = keys.take(name)
        if value is not None and value != usual:
            raise keys.error(name, f"{value!r} is not read", f"this reader knows {usual!r}")
    keys.skip(
        "act_fn", "center_input_sample", "downsample_padding", "mid_block_scale_factor", "norm_num_groups",
        "resnet_out_scale_factor", "resnet_skip_time_act", "time_embedding_act_fn", "timestep_post_act",
        "upcast_attention", "addition_embed_type_num_heads", "addition_time_embed_dim", "flip_sin_to_cos", "freq_shift",
    )  # fmt: skip


def _pair(name: str, inputs: int | None, time: int, keys: Keys) -> list[Operator]:
    """Return the two matrices a condition goes through to the time's width."""
    if not inputs:
        raise keys.error("projection_class_embeddings_input_dim", "the key is missing", "add it")
    return [once(f"{name}.linear_1", inputs, time), once(f"{name}.linear_2", time, time)]


def _conditions(keys: Keys, *, first: int, time: int, cross: int) -> list[Operator]:
    """Return the operators on time, class, added conditions and a projected text."""
    found: list[Operator] = []
    guided = keys.maybe_int("time_cond_proj_dim")
    if guided:
        found.append(once("time_embedding.cond_proj", guided, first, bias=False))
    found += _pair("time_embedding", first, time, keys)
    kind, hidden = keys.word("encoder_hid_dim_type", ""), keys.maybe_int("encoder_hid_dim")
    if hidden and kind in ("", "text_proj"):
        found.append(Linear("encoder_hid_proj", hidden, cross, "other", bias=True, source="encoder"))
    elif kind or hidden:
        raise keys.error("encoder_hid_dim_type", f"{kind!r} is not read", "this reader knows text_proj")
    extra = keys.maybe_int("projection_class_embeddings_input_dim")
    found += _classes(keys, first=first, time=time, extra=extra)
    kind = keys.word("addition_embed_type", "")
    if kind == "text_time":
        return found + _pair("add_embedding", extra, time, keys)
    if kind:
        raise keys.error("addition_embed_type", f"{kind!r} is not read", "this reader knows text_time")
    return found


def _classes(keys: Keys, *, first: int, time: int, extra: int | None) -> list[Operator]:
    kind, classes = keys.word("class_embed_type", ""), keys.maybe_int("num_class_embeds")
    if kind in ("timestep", "projection"):
        return _pair("class_embedding", first if kind == "timestep" else extra, time, keys)
    if kind:
        raise keys.error("class_embed_type", f"{kind!r} is not read", "this reader knows timestep and projection")
    return [Embedding("class_embedding", classes, time)] if classes else []


def unet(keys: Keys) -> list[Tower]:
    """Build ``UNet2DConditionModel``."""
    _refuse(keys)
    channels = read_channels(keys)
    count = len(channels)
    down = _read_types(keys, "down_block_types", count, ("CrossAttnDownBlock2D",) * (count - 1) + ("DownBlock2D",))
    up = _read_types(keys, "up_block_types", count, ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (count - 1))
    pairs = per_level(keys, "layers_per_block", 2, count)
    if max(pairs) > MOST_LAYERS:
        raise keys.error("layers_per_block", f"{max(pairs)} is too large", f"write at most {MOST_LAYERS}")
    heads = per_level(keys, "attention_head_dim", 8, count)
    cross = per_level(keys, "cross_attention_dim", 1280, count)
    depths = _transformer_depths(keys, "transformer_layers_per_block", count, pairs)
    reverse = "reverse_transformer_layers_per_block"
    back = _transformer_depths(keys, reverse, count, pairs[::-1]) if keys.has(reverse) else depths[::-1]
    linear = keys.flag("use_linear_projection", default=False)
    only = keys.values.get("only_cross_attention")
    keys.skip("only_cross_attention")
    alone = [bool(flag) for flag in only] if isinstance(only, list) else [bool(only)] * count
    if len(alone) != count:
        raise keys.error("only_cross_attention", f"{len(alone)} flags for {count} levels", "write one per level")
    if not all(heads) or not all(cross):
        raise keys.error("attention_head_dim", "a level has no heads or no text width", "write positive numbers")

    def spatial(at: int, depth: tuple[int, ...]) -> list[Spatial]:
        return [Spatial(heads[at], item, cross[at], linear, alone[at]) for item in _cut(depth, pairs[at] + 1)]

    shape = [spatial(at, depths[at]) for at in range(count)]
    upward = [spatial(count - 1 - at, back[at]) for at in range(count)]
    time = 4 * channels[0]
    conditions = _conditions(keys, first=channels[0], time=time, cross=cross[0])
    inputs, outputs = keys.int("in_channels", 4, most=4096), keys.int("out_channels", 4, most=4096)
    kernels = keys.int("conv_in_kernel", 3, most=15), keys.int("conv_out_kernel", 3, most=15)
    first = Conv("conv_in", inputs, channels[0], (kernels[0], kernels[0]))
    last = Conv("conv_out", channels[0], outputs, (kernels[1], kernels[1]))
    blocks = [Block("", (first, *conditions))]
    blocks += [
        _down(keys, (at, kind), channels, spatial=shape[at][: pairs[at]], time=time) for at, kind in enumerate(down)
    ]
    blocks.append(_middle(keys, channels[-1], shape[-1][0], time, 4.0 ** -(count - 1)))
    blocks += [_up(keys, (at, kind), channels, spatial=upward[at], time=time) for at, kind in enumerate(up)]
    blocks.append(Block("", (Norm("conv_norm_out", channels[0], 2), last)))
    rows, cols = read_size(keys, "sample_size", 64)
    return [Tower("denoiser", "denoiser", tuple(blocks), channels[0], tokens=rows * cols, tokens_out=rows * cols)]


def _cut(depths: tuple[int, ...], count: int) -> tuple[int, ...]:
    return (depths + depths[-1:] * count)[:count]


def _down(keys: Keys, place: tuple[int, str], channels: tuple[int, ...], *, spatial: list[Spatial], time: int) -> Block:
    at, kind = place
    width, scale = channels[at], 4.0**-at
    inputs = channels[max(at - 1, 0)]
    found: list[Operator] = []
    for index, transformer in enumerate(spatial):
        found += resnet(f"resnets.{index}", width if index else inputs, width, time=time, scale=scale)
        if kind.startswith("Cross"):
            found += transformer.operators(keys, f"attentions.{index}", width=width, scale=scale)
    if at < len(channels) - 1:
        found.append(Conv("downsamplers.0.conv", width, width, (3, 3), token_scale=scale / 4))
    return Block(f"down_blocks.{at}.", tuple(found))


def _middle(keys: Keys, width: int, transformer: Spatial, time: int, scale: float) -> Block:
    kind = keys.values.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    keys.skip("mid_block_type")
    first = resnet("resnets.0", width, width, time=time, scale=scale)
    if kind is None:
        return Block("mid_block.", ())
    if kind == "UNetMidBlock2D":
        return Block("mid_block.", first)
    if kind != "UNetMidBlock2DCrossAttn":
        raise keys.error("mid_block_type", f"{kind!r} is not read", "this reader knows UNetMidBlock2DCrossAttn")
    second = resnet("resnets.1", width, width, time=time, scale=scale)
    return Block(
        "mid_block.", (*first, *transformer.operators(keys, "attentions.0", width=width, scale=scale), *second)
    )


def _up(keys: Keys, place: tuple[int, str], channels: tuple[int, ...], *, spatial: list[Spatial], time: int) -> Block:
    at, kind = place
    level = len(channels) - 1 - at
    width, scale = channels[level], 4.0**-level
    below = channels[min(level + 1, len(channels) - 1)]
    skipped = channels[max(level - 1, 0)]
    found: list[Operator] = []
    for index, transformer in enumerate(spatial):
        inputs = (width if index else below) + (skipped if index == len(spatial) - 1 else width)
        found += resnet(f"resnets.{index}", inputs, width, time=time, scale=scale)
        if kind.startswith("Cross"):
            found += transformer.operators(keys, f"attentions.{index}", width=width, scale=scale)
    if level:
        found.append(Conv("upsamplers.0.conv", width, width, (3, 3), token_scale=scale * 4))
    return Block(f"up_blocks.{at}.", tuple(found))

"""The image autoencoder of latent diffusion: an encoder to latents and a decoder back to pixels.

Both towers' tokens are the latent positions of the native size; level k of the pixels has ``4**k`` times as many.
Source: arXiv 2112.10752; class ``AutoencoderKL``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Conv, Norm, Operator, Tower
from bytebound.models.families.stacks import attend, read_size
from bytebound.models.families.unet import MOST_LAYERS, read_channels, resnet

if TYPE_CHECKING:
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


def _middle(width: int, *, attention: bool) -> Ops:
    found = list(resnet("resnets.0", width, width, time=0, scale=1.0))
    if attention:
        found.append(Norm("attentions.0.group_norm", width, 2))
        names = ("to_q", "to_k", "to_v", "to_out.0")
        found += attend("attentions.0.", hidden=width, heads=1, head_dim=width, names=names)
    return (*found, *resnet("resnets.1", width, width, time=0, scale=1.0))


def _level(channels: list[int], at: int, *, pairs: int, scale: float, sampler: str) -> Ops:
    """Return one level: residual pairs at ``scale``, and the convolution that leaves it (none on the last level)."""
    width = channels[at]
    found: list[Operator] = []
    for index in range(pairs):
        inputs = width if index else channels[max(at - 1, 0)]
        found += resnet(f"resnets.{index}", inputs, width, time=0, scale=scale)
    if at < len(channels) - 1:
        beyond = scale / 4 if sampler.startswith("down") else scale * 4
        found.append(Conv(f"{sampler}.0.conv", width, width, (3, 3), token_scale=beyond))
    return tuple(found)


def autoencoder(keys: Keys) -> list[Tower]:
    """Build ``AutoencoderKL``."""
    channels = list(read_channels(keys))
    count = len(channels)
    for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        kinds = keys.words(name) or (kind,) * count
        if kinds != (kind,) * count:
            raise keys.error(name, f"{kinds} is not {count} times {kind}", f"this reader knows {kind}")
    pairs = keys.int("layers_per_block", 1, most=MOST_LAYERS)
    latent = keys.int("latent_channels", 4, most=4096)
    inputs, outputs = keys.int("in_channels", 3, most=4096), keys.int("out_channels", 3, most=4096)
    attention = keys.flag("mid_block_add_attention", default=True)
    keys.skip(
        "act_fn", "norm_num_groups", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast",
    )  # fmt: skip
    rows, cols = read_size(keys, "sample_size", 32)
    pixels = 4.0 ** (count - 1)
    tokens = max(1, int(rows * cols / pixels))
    wide = channels[-1]
    prefix = "encoder."
    inside = [
        Block(prefix, (Conv("conv_in", inputs, channels[0], (3, 3), token_scale=pixels),)),
        *(
            Block(
                f"{prefix}down_blocks.{at}.",
                _level(channels, at, pairs=pairs, scale=pixels / 4**at, sampler="downsamplers"),
            )
            for at in range(count)
        ),
        Block(f"{prefix}mid_block.", _middle(wide, attention=attention)),
        Block(prefix, (Norm("conv_norm_out", wide, 2), Conv("conv_out", wide, 2 * latent, (3, 3)))),
    ]
    if keys.flag("use_quant_conv", default=True):
        inside.append(Block("", (Conv("quant_conv", 2 * latent, 2 * latent, (1, 1)),)))
    outside = [Block("", (Conv("post_quant_conv", latent, latent, (1, 1)),))]
    if not keys.flag("use_post_quant_conv", default=True):
        outside = []
    upwards = channels[::-1]
    prefix = "decoder."
    last = (
        Norm("conv_norm_out", channels[0], 2, token_scale=pixels),
        Conv("conv_out", channels[0], outputs, (3, 3), token_scale=pixels),
    )
    outside += [
        Block(prefix, (Conv("conv_in", latent, wide, (3, 3)),)),
        Block(f"{prefix}mid_block.", _middle(wide, attention=attention)),
        *(
            Block(f"{prefix}up_blocks.{at}.", _level(upwards, at, pairs=pairs + 1, scale=4.0**at, sampler="upsamplers"))
            for at in range(count)
        ),
        Block(prefix, last),
    ]
    return [
        Tower("image decoder", "encoder", tuple(outside), wide, tokens=tokens, tokens_out=rows * cols),
        Tower("image encoder", "encoder", tuple(inside), wide, tokens=tokens, tokens_out=tokens),
    ]

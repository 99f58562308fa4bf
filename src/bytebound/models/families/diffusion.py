"""The parts of diffusion pipelines, by the class name their configs carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.models.families.dit import cogvideox, dit, hunyuan_dit, pixart, wan
from bytebound.models.families.dit_joint import flux, qwen_image, sd3
from bytebound.models.families.unet import unet
from bytebound.models.families.vae import autoencoder

if TYPE_CHECKING:
    from bytebound.models.families import Builder

FAMILIES: dict[str, Builder] = {
    "UNet2DConditionModel": unet,
    "AutoencoderKL": autoencoder,
    "SD3Transformer2DModel": sd3,
    "FluxTransformer2DModel": flux,
    "QwenImageTransformer2DModel": qwen_image,
    "HunyuanDiT2DModel": hunyuan_dit,
    "PixArtTransformer2DModel": pixart,
    "DiTTransformer2DModel": dit,
    "WanTransformer3DModel": wan,
    "CogVideoXTransformer3DModel": cogvideox,
}

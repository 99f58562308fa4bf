"""The parts of diffusion pipelines, by the class name their configs carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.models.families.dit import cogvideox, dit, hunyuan_dit, pixart, wan
from bytebound.models.families.dit_joint import flux, qwen_image, sd3
from bytebound.models.families.unet import unet
from bytebound.models.families.vae import autoencoder

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.families import Builder
    from bytebound.models.keys import Keys


def transformer_2d(keys: Keys) -> list[Tower]:
    """Build what older configs call ``Transformer2DModel``: PixArt, or DiT on classes."""
    kinds = {"ada_norm_single": pixart, "ada_norm_zero": dit}
    kind = keys.word("norm_type", "layer_norm")
    if kind not in kinds or not keys.has("patch_size"):
        raise keys.error("norm_type", f"a Transformer2DModel with {kind!r} is not read", f"known: {', '.join(kinds)}")
    for name in ("double_self_attention", "only_cross_attention", "use_linear_projection", "num_vector_embeds"):
        if keys.take(name):
            raise keys.error(name, "a Transformer2DModel with this set is not read", "write false")
    return kinds[kind](keys)


FAMILIES: dict[str, Builder] = {
    "UNet2DConditionModel": unet,
    "AutoencoderKL": autoencoder,
    "SD3Transformer2DModel": sd3,
    "FluxTransformer2DModel": flux,
    "QwenImageTransformer2DModel": qwen_image,
    "HunyuanDiT2DModel": hunyuan_dit,
    "PixArtTransformer2DModel": pixart,
    "DiTTransformer2DModel": dit,
    "Transformer2DModel": transformer_2d,
    "WanTransformer3DModel": wan,
    "CogVideoXTransformer3DModel": cogvideox,
}

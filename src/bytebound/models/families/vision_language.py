"""Vision-language models: the decoder of a text family, an image encoder, and the projector between them.

The projector stands at the end of the vision tower, whose ``tokens_out`` are what one image costs the decoder.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Block, Linear, Norm, Operator, Parameter, Tower
from bytebound.models.families import build, family, registry
from bytebound.models.families.pieces import Ops, layers, split
from bytebound.models.families.qwen_vision import glm_vision, moonvit, qwen2_vision, qwen3_vision
from bytebound.models.families.stacks import attend, feed, norms
from bytebound.models.families.vision import child, read_patches, read_widths

if TYPE_CHECKING:
    from bytebound.models.families import Builder
    from bytebound.models.keys import Keys

TEXT_LIKE = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "glm4v_text": "glm4",
    "glm4v_moe_text": "glm4_moe",
}
"""Text halves that are another family's decoder under a name of their own."""


def text_towers(keys: Keys, default: str) -> list[Tower]:
    """Return the towers of a text config; ``default`` is its family where it leaves its name out."""
    name = family(keys, default)
    builder = registry().get(name) or registry().get(TEXT_LIKE.get(name, ""))
    return builder(keys) if builder is not None else build(keys, default)


def nested_or_flat(keys: Keys, default: str, flat: str) -> list[Tower]:
    """Return the text towers of a config that nests them, or of an older one that writes their keys at the top."""
    if keys.has("text_config"):
        return text_towers(keys.child("text_config"), default)
    return registry()[flat](keys)


def join(text: list[Tower], vision: Tower, projector: Ops, *, tokens_out: int = 0) -> list[Tower]:
    """Return the towers with the projector at the end of the vision tower, on ``tokens_out`` tokens."""
    blocks = (*vision.blocks, Block("", projector)) if projector else vision.blocks
    return [*text, replace(vision, name="vision", blocks=blocks, tokens_out=tokens_out or vision.tokens_out)]


def mlp2(prefix: str, wide: int, hidden: int, *, bias: bool = True, scale: float = 1.0) -> Ops:
    """Return the usual projector: two layers, both as wide as the decoder."""
    return feed(
        prefix, hidden=wide, inner=hidden, outputs=hidden, names=("linear_1", "linear_2"), bias=bias, token_scale=scale
    )


def top(keys: Keys) -> None:
    """Mark the keys of a joint config that name tokens and choose features, and shape nothing."""
    keys.skip(
        "vision_feature_layer", "vision_feature_select_strategy", "image_seq_length", "image_grid_pinpoints",
        "tie_word_embeddings", "vocab_size", "ignore_index", "vision_aspect_ratio", "use_image_newline_parameter",
        "image_token_length", "num_image_tokens", "force_image_size", "mm_tokens_per_video", "audio_config",
    )  # fmt: skip


def unnamed(keys: Keys) -> Keys:
    """Return the nested config with its own name marked as read."""
    keys.skip("model_type")
    return keys


# ---- LLaVA and its relatives


def llava(
    keys: Keys, *, newline: bool = False, vision_default: str = "clip_vision_model", text: str = "llama"
) -> list[Tower]:
    """Build LLaVA 1.5 (arXiv 2310.03744), or with a ``newline`` vector LLaVA-NeXT and LLaVA-OneVision."""
    top(keys)
    towers = text_towers(child(keys, "text_config"), text)
    vision = build(child(keys, "vision_config"), vision_default)[0]
    chosen = keys.values.get("vision_feature_layer")
    count = len(chosen) if isinstance(chosen, list) else 1
    bias = keys.flag("multimodal_projector_bias", default=True)
    hidden = towers[0].hidden
    classes = (
        1
        if vision_default == "clip_vision_model" and keys.values.get("vision_feature_select_strategy") != "full"
        else 0
    )
    out = vision.tokens - classes
    extra: Ops = (Parameter("image_newline", (hidden,)),) if newline else ()
    projector = mlp2("multi_modal_projector.", vision.hidden * count, hidden, bias=bias, scale=out / vision.tokens)
    return join(towers, vision, (*projector, *extra), tokens_out=out)


def mistral3(keys: Keys) -> list[Tower]:
    """Build Mistral Small 3 and Ministral 3: Pixtral's encoder and a merger of neighbouring patches."""
    top(keys)
    keys.skip("model_type")
    towers = text_towers(keys.child("text_config"), "mistral")
    vision = build(child(keys, "vision_config"), "pixtral")[0]
    side = keys.int("spatial_merge_size", 2, most=64)
    bias = keys.flag("multimodal_projector_bias", default=False)
    wide, hidden = vision.hidden, towers[0].hidden
    scale = 1 / side**2
    at = "multi_modal_projector."
    projector = (
        Norm(f"{at}norm", wide),
        Linear(f"{at}patch_merger.merging_layer", wide * side**2, wide, "mlp", token_scale=scale),
        *mlp2(at, wide, hidden, bias=bias, scale=scale),
    )
    return join(towers, vision, projector, tokens_out=int(vision.tokens * scale))


def internvl(keys: Keys) -> list[Tower]:
    """Build InternVL 3 and 3.5 as their native classes hold them."""
    top(keys)
    towers = text_towers(keys.child("text_config"), "qwen2")
    vision = build(child(keys, "vision_config"), "internvl_vision")[0]
    side = max(1, round(1 / keys.number("downsample_ratio", 0.5)))
    wide, hidden = vision.hidden * side**2, towers[0].hidden
    scale = 1 / side**2
    norm = Norm("multi_modal_projector.layer_norm", wide, 2, token_scale=scale)
    projector = (norm, *mlp2("multi_modal_projector.", wide, hidden, scale=scale))
    return join(towers, vision, projector, tokens_out=int(vision.tokens_out * scale))


def aya_vision(keys: Keys) -> list[Tower]:
    """Build Aya Vision: SigLIP, a pixel shuffle and a gated projector."""
    top(keys)
    towers = text_towers(keys.child("text_config"), "cohere2")
    vision = build(child(keys, "vision_config"), "siglip_vision_model")[0]
    side = keys.int("downsample_factor", 2, most=64)
    hidden = towers[0].hidden
    inner = keys.int("alignment_intermediate_size", hidden)
    wide, scale, at = vision.hidden * side**2, 1 / side**2, "multi_modal_projector."
    projector = (
        Norm(f"{at}layernorm", wide, 2, token_scale=scale),
        Linear(f"{at}linear_1", wide, inner, "mlp", bias=True, token_scale=scale),
        Linear(f"{at}linear_2", inner // 2, hidden, "mlp", bias=True, token_scale=scale),
    )
    return join(towers, vision, projector, tokens_out=int(vision.tokens * scale))


def idefics3(keys: Keys) -> list[Tower]:
    """Build Idefics 3 and SmolVLM: SigLIP without pooling, a pixel shuffle and one matrix (arXiv 2408.12637)."""
    top(keys)
    keys.skip("qk_layer_norms_perceiver", "perceiver_config", "pad_token_id", "use_resampler")
    towers = text_towers(keys.child("text_config"), "llama")
    inner = child(keys, "vision_config")
    inner.skip("model_type", "max_image_size", "size", "vision_use_head", "tie_word_embeddings", "num_hidden_layers_")
    vision = registry()["siglip_vision_model"](_without_head(inner))[0]
    side = keys.int("scale_factor", 2, most=64)
    scale = 1 / side**2
    matrix = Linear(
        "connector.modality_projection.proj", vision.hidden * side**2, towers[0].hidden, "mlp", token_scale=scale
    )
    return join(towers, vision, (matrix,), tokens_out=int(vision.tokens * scale))


def _without_head(keys: Keys) -> Keys:
    keys.values = {"patch_size": 32, **keys.values, "vision_use_head": False}
    return keys


# ---- Llama 4


def llama4(keys: Keys) -> list[Tower]:
    """Build Llama 4: class token, rotary image encoder, a pixel shuffle through two matrices, one projection."""
    top(keys)
    towers = text_towers(child(keys, "text_config"), "llama4_text")
    inner = unnamed(child(keys, "vision_config"))
    sizes = read_widths(inner, (768, 16, 5632, 34))
    hidden = sizes.hidden
    patches = read_patches(inner, image=448, patch=14)
    shuffle = inner.number("pixel_shuffle_ratio", 0.5)
    first = inner.int("projector_input_dim", 4096)
    second = inner.int("projector_output_dim", 4096)
    last = inner.int("vision_output_dim", 7680)
    inner.skip("multi_modal_projector_bias", "vision_feature_layer", "architectures", "projector_dropout")
    tokens = patches.count + 1
    scale = shuffle**2 * patches.count / tokens
    layer = (
        Norm("input_layernorm", hidden, 2),
        *attend(
            "self_attn.", hidden=hidden, heads=sizes.heads, head_dim=sizes.dim,
            names=("q_proj", "k_proj", "v_proj", "o_proj"),
        ),
        Norm("post_attention_layernorm", hidden, 2),
        *feed("mlp.", hidden=hidden, inner=sizes.inner),
    )  # fmt: skip
    start: tuple[Operator, ...] = (
        Parameter("class_embedding", (hidden,)),
        Parameter("positional_embedding_vlm", (tokens, hidden)),
        Linear("patch_embedding.linear", patches.values, hidden, "conv", token_scale=patches.count / tokens),
        *norms(hidden, "layernorm_pre"),
    )
    end: tuple[Operator, ...] = (
        *norms(hidden, "vision_model.layernorm_post"),
        Linear("vision_model.vision_adapter.mlp.fc1", sizes.inner, first, "mlp", token_scale=scale),
        Linear("vision_model.vision_adapter.mlp.fc2", second, second, "mlp", token_scale=scale),
        Linear("multi_modal_projector.linear_1", last, towers[0].hidden, "mlp", token_scale=scale),
    )
    blocks = (
        Block("vision_model.", start),
        *layers([layer] * sizes.depth, prefix="vision_model.model.layers"),
        Block("", end),
    )
    out = int(patches.count * shuffle**2)
    return [*towers, Tower("vision", "encoder", blocks, hidden, tokens=tokens, tokens_out=out)]


# ---- Qwen, GLM and Kimi


def qwen_vl(keys: Keys, *, version: str, text: str, flat: str = "") -> list[Tower]:
    """Build Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5, dense or with experts."""
    top(keys)
    keys.skip("vision_config", "language_model_only")
    towers = nested_or_flat(keys, text, flat) if flat else text_towers(child(keys, "text_config"), text)
    inner = unnamed(child(keys, "vision_config"))
    if version.startswith("2"):
        return [*towers, qwen2_vision(inner, version=version)]
    return [*towers, qwen3_vision(inner, deepstack=version == "3")]


def glm_v(keys: Keys, *, text: str) -> list[Tower]:
    """Build GLM-4.1V, GLM-4.5V or GLM-4.6V."""
    top(keys)
    inner = child(keys, "text_config")
    if text == "glm4v_text" and inner.has("hidden_size") and not inner.has("head_dim"):
        width, heads = inner.int("hidden_size"), inner.int("num_attention_heads", saved=32)
        inner.values = {**inner.values, "head_dim": split(inner, width, heads)}
    towers = text_towers(inner, text)
    return [*towers, glm_vision(unnamed(child(keys, "vision_config")))]


def kimi_vl(keys: Keys, *, text: str) -> list[Tower]:
    """Build Kimi-VL or Kimi K2.5: MoonViT before a DeepSeek-V3 decoder."""
    top(keys)
    keys.skip("media_placeholder_token_id", "use_unified_vision_chunk", "video_placeholder")
    towers = text_towers(child(keys, "text_config"), text)
    width = keys.int("projection_hidden_size", 0, least=0)
    vision = moonvit(unnamed(child(keys, "vision_config")), text=towers[0].hidden, projected=width)
    return [*towers, vision]


FAMILIES: dict[str, Builder] = {
    "llava": llava,
    "llava_next": partial(llava, newline=True),
    "llava_onevision": partial(llava, newline=True, vision_default="siglip_vision_model", text="qwen2"),
    "mistral3": mistral3,
    "internvl": internvl,
    "aya_vision": aya_vision,
    "idefics3": idefics3,
    "smolvlm": idefics3,
    "llama4": llama4,
    "qwen2_vl": partial(qwen_vl, version="2", text="qwen2_vl_text", flat="qwen2"),
    "qwen2_5_vl": partial(qwen_vl, version="2.5", text="qwen2_5_vl_text", flat="qwen2"),
    "qwen3_vl": partial(qwen_vl, version="3", text="qwen3_vl_text"),
    "qwen3_vl_moe": partial(qwen_vl, version="3", text="qwen3_vl_moe_text"),
    "qwen3_5": partial(qwen_vl, version="3.5", text="qwen3_5_text"),
    "qwen3_5_moe": partial(qwen_vl, version="3.5", text="qwen3_5_moe_text"),
    "glm4v": partial(glm_v, text="glm4v_text"),
    "glm4v_moe": partial(glm_v, text="glm4v_moe_text"),
    "kimi_vl": partial(kimi_vl, text="deepseek_v3"),
    "kimi_k25": partial(kimi_vl, text="deepseek_v3"),
}

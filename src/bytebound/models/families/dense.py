"""Dense decoders of the Llama shape: pre-, post- or parallel norms, grouped-query attention, gated or plain MLPs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Norm
from bytebound.models.families.frame import read_depth, read_frame, read_layer_types, span, text_tower
from bytebound.models.families.pieces import attention, gated_mlp, layers, plain_mlp, read_context, read_heads

if TYPE_CHECKING:
    from typing import Literal

    from bytebound.documents.architecture import Operator, Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Heads, Kind, Ops
    from bytebound.models.keys import Keys


Bias = bool | str
"""A bias that is there, is not, or is told by a key (whose default is false)."""

NORMS = {
    "pre": ("input_layernorm", "post_attention_layernorm"),
    "post": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "sandwich": (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    "glm4": ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
    "parallel": ("input_layernorm",),
}
"""Names of a layer's norms by where they stand."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What sets one dense family apart from Llama.

    Args:
        qkv_bias, out_bias, mlp_bias, head_bias: biases, or the key that tells.
        bias_defaults: what a missing key of the first three biases means.
        qk_norm: norms on queries and keys, as ``Heads.qk_norm``; ``qk_norm_key`` is the flag that turns them on.
        norms: where a layer's norms stand; ``norm_vectors`` is 1 for RMSNorm, 2 for LayerNorm, 0 for none learned.
        gated: whether the MLP has a gate; ``mlp_names`` are its matrices.
        qkv_names: the attention's projections.
        tied: whether the head is tied when no key says.
        windows: which layers look back a window when ``layer_types`` is missing.
        window: the window the class assumes where the key is missing.
        saved: width, layers, heads, key-value heads, MLP width and vocabulary that a nested config leaves out.
        head_dim: width of a head the class assumes (0: hidden / heads).
    """

    qkv_bias: Bias = False
    out_bias: Bias = False
    mlp_bias: Bias = False
    head_bias: Bias = False
    bias_defaults: tuple[bool, bool, bool] = (False, False, False)
    qk_norm: Literal["none", "head", "all"] = "none"
    qk_norm_key: str = ""
    qk_norm_vectors: int = 1
    norms: str = "pre"
    norm_vectors: int = 1
    final_vectors: int = -1
    gated: bool = True
    mlp_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    qkv_names: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    tied: bool = False
    windows: Literal["none", "all", "qwen", "alternate", "pattern"] = "none"
    pattern: int = 0
    window: int = 0
    saved: tuple[int, int, int, int, int, int] = (4096, 32, 32, 0, 11008, 32000)
    head_dim: int = 0


def told(keys: Keys, bias: Bias, *, default: bool) -> bool:
    """Return a bias that is fixed, or told by a key."""
    return keys.flag(bias, default) if isinstance(bias, str) else bias


def read_dense_heads(keys: Keys, recipe: Recipe) -> Heads:
    """Read the attention's geometry with the family's biases and norms."""
    heads = read_heads(
        keys, saved_hidden=recipe.saved[0], saved_heads=recipe.saved[2], kv_default=_saved_kv(keys, recipe)
    )
    if recipe.head_dim and not keys.has("head_dim"):
        heads = replace(heads, dim=recipe.head_dim, v_dim=recipe.head_dim)
    normed = recipe.qk_norm
    if normed != "none" and not keys.flag(recipe.qk_norm_key or "use_qk_norm", default=not recipe.qk_norm_key):
        normed = "none"
    return replace(
        heads,
        bias=told(keys, recipe.qkv_bias, default=recipe.bias_defaults[0]),
        out_bias=told(keys, recipe.out_bias, default=recipe.bias_defaults[1]),
        qk_norm=normed,
        qk_norm_vectors=recipe.qk_norm_vectors,
    )


def _saved_kv(keys: Keys, recipe: Recipe) -> int:
    """Return the key-value heads a nested config leaves out; a top-level one must say, or has as many as heads."""
    return recipe.saved[3] if keys.parent is not None else 0


def read_spans(keys: Keys, recipe: Recipe, depth: int, context: int) -> list[tuple[Kind, int]]:
    """Return kind and window of every layer."""
    named = read_layer_types(keys, depth)
    keys.skip("sliding_window_pattern", "_sliding_window_pattern", "max_window_layers", "attention_window_size")
    window = keys.maybe_int("sliding_window", also=("sliding_window_size",), least=0, most=2**34) or 0
    if not keys.has("sliding_window") and "sliding_window" not in keys.values and not window:
        window = recipe.window
    if recipe.windows == "qwen" and not keys.flag("use_sliding_window", default=False):
        window = 0
    if named is not None:
        words = {"full_attention": "full", "sliding_attention": "window", "chunked_attention": "chunk"}
        return [span(words[name], window, context) for name in named]
    return [span("window" if _slides(keys, recipe, i, depth) else "full", window, context) for i in range(depth)]


def _slides(keys: Keys, recipe: Recipe, index: int, depth: int) -> bool:
    """Tell whether layer ``index`` looks back a window only, by the family's rule."""
    if recipe.windows in ("none", "all"):
        return recipe.windows == "all"
    if recipe.windows == "qwen":
        return index >= keys.int("max_window_layers", depth, least=0)
    written = keys.values.get("sliding_window_pattern", keys.values.get("_sliding_window_pattern"))
    if isinstance(written, str) and written:
        return written[index % len(written)].upper() == "L" and not (written == "LLLG" and index == depth - 1)
    every = recipe.pattern
    if written is not None:
        name = "sliding_window_pattern" if keys.has("sliding_window_pattern") else "_sliding_window_pattern"
        every = keys.int(name, most=4096)
    return bool((index + 1) % every) if every else False


def norm_ops(recipe: Recipe, hidden: int) -> tuple[Ops, Ops]:
    """Return the norms that belong before and after the attention's output, in the order they run."""
    names = NORMS[recipe.norms]
    ops: list[Operator] = [Norm(name, hidden, recipe.norm_vectors) for name in names]
    half = (len(ops) + 1) // 2
    return tuple(ops[:half]), tuple(ops[half:])


def dense(keys: Keys, recipe: Recipe) -> list[Tower]:
    """Build a dense decoder."""
    heads = read_dense_heads(keys, recipe)
    depth = read_depth(keys, saved=recipe.saved[1])
    context = read_context(keys)
    width = keys.int("intermediate_size", also=("n_inner",), saved=recipe.saved[4])
    bias = told(keys, recipe.mlp_bias, default=recipe.bias_defaults[2])
    if recipe.gated:
        mlp = gated_mlp(heads.hidden, width, names=recipe.mlp_names, bias=bias)
    else:
        mlp = plain_mlp(heads.hidden, width, names=(recipe.mlp_names[0], recipe.mlp_names[-1]), bias=bias)
    first, second = norm_ops(recipe, heads.hidden)
    spans = read_spans(keys, recipe, depth, context)
    made = {
        found: (*first, *attention(heads, kind=found[0], window=found[1], names=recipe.qkv_names), *second, *mlp)
        for found in set(spans)
    }
    frame = replace(
        read_frame(keys, tied=recipe.tied, saved_vocab=recipe.saved[5]),
        norm_vectors=recipe.norm_vectors if recipe.final_vectors < 0 else recipe.final_vectors,
        head_bias=told(keys, recipe.head_bias, default=False),
    )
    return [text_tower(frame, layers(made[found] for found in spans), hidden=heads.hidden, context=context)]


LLAMA = Recipe(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias")
MISTRAL = Recipe(windows="all", window=4096, saved=(4096, 32, 32, 8, 14336, 32000))
QWEN2 = Recipe(qkv_bias=True, windows="qwen", saved=(4096, 32, 32, 32, 22016, 151936))
QWEN3 = replace(QWEN2, qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head", head_dim=128)
GEMMA = Recipe(
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    tied=True,
    head_dim=256,
    saved=(3072, 28, 16, 16, 24576, 256000),
)
OLMO2 = Recipe(qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="all", norms="post")

RECIPES = {
    "llama": LLAMA,
    "smollm3": replace(LLAMA, tied=True, windows="qwen"),
    "seed_oss": Recipe(
        qkv_bias="attention_bias",
        out_bias="attention_out_bias",
        mlp_bias="mlp_bias",
        bias_defaults=(True, False, False),
        head_dim=128,
    ),
    "granite": LLAMA,
    "arcee": replace(LLAMA, gated=False),
    "helium": Recipe(qkv_bias="attention_bias", head_dim=128),
    "cwm": replace(LLAMA, windows="all", window=8192),
    "mistral": MISTRAL,
    "ministral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "olmo": Recipe(qkv_bias="attention_bias", out_bias="attention_bias", norm_vectors=0),
    "olmo2": OLMO2,
    "olmo3": replace(OLMO2, windows="pattern", pattern=4, window=4096),
    "exaone4": Recipe(qk_norm="head", norms="post", windows="pattern", pattern=4, window=4096),
    "gemma": GEMMA,
    "gemma2": replace(
        GEMMA, norms="sandwich", windows="alternate", pattern=2, window=4096, saved=(2304, 26, 8, 4, 9216, 256000)
    ),
    "vaultgemma": replace(GEMMA, windows="alternate", pattern=2, window=4096, saved=(2304, 26, 8, 4, 9216, 256000)),
    "gemma3_text": replace(
        GEMMA,
        norms="sandwich",
        qk_norm="head",
        windows="pattern",
        pattern=6,
        window=4096,
        saved=(2304, 26, 8, 4, 9216, 262208),
    ),
    "glm": Recipe(
        qkv_bias="attention_bias",
        bias_defaults=(True, True, True),
        mlp_names=("gate_up_proj", "down_proj"),
        head_dim=128,
    ),
    "glm4": Recipe(
        qkv_bias="attention_bias",
        bias_defaults=(True, True, True),
        mlp_names=("gate_up_proj", "down_proj"),
        norms="glm4",
        head_dim=128,
    ),
    "phi3": Recipe(
        windows="all",
        qkv_names=("qkv_proj", "o_proj"),
        qkv_bias="attention_bias",
        mlp_bias="mlp_bias",
        head_bias="lm_head_bias",
        mlp_names=("gate_up_proj", "down_proj"),
        saved=(3072, 32, 32, 32, 8192, 32064),
    ),
    "starcoder2": Recipe(
        qkv_bias="use_bias",
        out_bias="use_bias",
        mlp_bias="use_bias",
        bias_defaults=(True, True, True),
        norm_vectors=2,
        gated=False,
        mlp_names=("c_fc", "c_proj"),
        windows="all",
        tied=True,
    ),
    "cohere": Recipe(
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        norms="parallel",
        qk_norm="all",
        qk_norm_key="use_qk_norm",
        tied=True,
    ),
    "cohere2": Recipe(
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        norms="parallel",
        tied=True,
        windows="pattern",
        pattern=4,
        window=4096,
    ),
    "stablelm": Recipe(
        qkv_bias="use_qkv_bias",
        norm_vectors=2,
        qk_norm="all",
        qk_norm_key="qk_layernorm",
        saved=(2560, 32, 32, 32, 6912, 50304),
    ),
    "nemotron": Recipe(
        qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias", norm_vectors=2, gated=False
    ),
    "ernie4_5": Recipe(qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", tied=True, head_dim=128),
    "hunyuan_v1_dense": replace(LLAMA, qk_norm="head", mlp_bias=False),
    "internlm3": Recipe(qkv_bias="qkv_bias", out_bias="bias", mlp_bias="bias", head_dim=128),
}
"""Families that are a table row; a family that needs code has a function instead."""

RECIPES["stablelm_epoch"] = RECIPES["stablelm"]

FAMILIES: dict[str, Builder] = {name: partial(dense, recipe=recipe) for name, recipe in RECIPES.items()}

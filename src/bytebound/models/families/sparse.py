"""Decoders with a mixture of experts in some or all layers, and grouped-query attention."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from bytebound.documents.architecture import Parameter
from bytebound.models.families.dense import LLAMA, MISTRAL, OLMO2, QWEN2, QWEN3, Recipe, read_dense_heads
from bytebound.models.families.experts import (
    draft_tower,
    expert_active,
    expert_count,
    granite_experts,
    per_layer,
    read_draft,
    shared_moe,
    sparse_decoder,
    sparse_layers,
)
from bytebound.models.families.frame import read_depth, read_frame
from bytebound.models.families.pieces import DEEPEST_STACK, Experts, gated_mlp, moe, read_experts

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


T = TypeVar("T")

# ---- pieces


# ---- families


def mixtral(keys: Keys) -> list[Tower]:
    """Mixtral: every layer has experts named w1, w3, w2."""
    recipe = replace(MISTRAL, window=0)
    heads = read_dense_heads(keys, recipe)
    width = keys.int("intermediate_size", saved=14336)
    geometry = Experts(
        heads.hidden,
        width,
        expert_count(keys, "num_local_experts", "num_experts"),
        expert_active(keys, 2),
        prefix="block_sparse_moe",
        names=("w1", "w3", "w2"),
    )
    experts = moe(read_experts(keys, geometry))
    depth = read_depth(keys)
    return [sparse_decoder(keys, recipe, heads=heads, sparse=[True] * depth, experts=experts, mlp=())[0]]


def phimoe(keys: Keys) -> list[Tower]:
    """Phi-3.5-MoE: Mixtral's shape with LayerNorm and biases on attention and head."""
    recipe = Recipe(qkv_bias="attention_bias", out_bias="attention_bias", norm_vectors=2, windows="all")
    heads = read_dense_heads(keys, recipe)
    width = keys.int("intermediate_size")
    count = expert_count(keys, "num_local_experts")
    names = ("w1", "w3", "w2")
    geometry = Experts(heads.hidden, width, count, expert_active(keys, 2), prefix="block_sparse_moe", names=names)
    frame = replace(read_frame(keys, tied=False), norm_vectors=2, head_bias=keys.flag("lm_head_bias", default=False))
    sparse = [True] * read_depth(keys)
    experts = moe(read_experts(keys, geometry))
    return [sparse_decoder(keys, recipe, heads=heads, sparse=sparse, experts=experts, mlp=(), frame=frame)[0]]


def qwen_moe(keys: Keys, recipe: Recipe, *, shared: bool) -> list[Tower]:
    """Qwen2-MoE and Qwen3-MoE: experts every ``decoder_sparse_step`` layers; the former with a gated shared expert."""
    heads = read_dense_heads(keys, recipe)
    depth = read_depth(keys, saved=24)
    step = keys.int("decoder_sparse_step", 1, most=DEEPEST_STACK)
    dense = set(keys.ints("mlp_only_layers", most=DEEPEST_STACK) or ())
    sparse = [index not in dense and (index + 1) % step == 0 for index in range(depth)]
    extra = keys.int("shared_expert_intermediate_size", 5632 if shared else 0, least=0)
    geometry = Experts(
        heads.hidden,
        keys.int("moe_intermediate_size", saved=768),
        expert_count(keys, "num_experts", "num_local_experts", saved=128),
        expert_active(keys, saved=8),
        shared=extra,
        shared_name="shared_expert",
        shared_gate=extra > 0,
    )
    mlp = gated_mlp(heads.hidden, keys.int("intermediate_size", saved=6144))
    experts = moe(read_experts(keys, geometry))
    return [sparse_decoder(keys, recipe, heads=heads, sparse=sparse, experts=experts, mlp=mlp)[0]]


def olmoe(keys: Keys, recipe: Recipe) -> list[Tower]:
    """OLMoE and FlexOlmo: experts in every layer, norms over all queries and keys."""
    heads = read_dense_heads(keys, recipe)
    geometry = Experts(heads.hidden, keys.int("intermediate_size"), expert_count(keys), expert_active(keys))
    sparse = [True] * read_depth(keys)
    experts = moe(read_experts(keys, geometry))
    return [sparse_decoder(keys, recipe, heads=heads, sparse=sparse, experts=experts, mlp=())[0]]


def granitemoe(keys: Keys) -> list[Tower]:
    """Granite 3 MoE, with or without a shared expert."""
    heads = read_dense_heads(keys, LLAMA)
    sparse = [True] * read_depth(keys)
    return [sparse_decoder(keys, LLAMA, heads=heads, sparse=sparse, experts=granite_experts(keys, heads), mlp=())[0]]


def deepseek_moe(keys: Keys) -> list[Tower]:
    """DeepSeekMoE 16B: first layers dense, shared experts merged into one MLP, ordinary attention."""
    heads = read_dense_heads(keys, LLAMA)
    sparse = sparse_layers(keys, read_depth(keys))
    experts, mlp = shared_moe(keys, heads.hidden)
    return [sparse_decoder(keys, LLAMA, heads=heads, sparse=sparse, experts=experts, mlp=mlp)[0]]


def glm4_moe(keys: Keys) -> list[Tower]:
    """GLM-4.5 to 4.7: query, key and value biases, optional norms, one prediction layer in the checkpoint."""
    recipe = Recipe(qkv_bias="attention_bias", qk_norm="head", qk_norm_key="use_qk_norm")
    heads = read_dense_heads(keys, recipe)
    depth = read_depth(keys)
    sparse = sparse_layers(keys, depth, dense_first=1)
    experts, mlp = shared_moe(keys, heads.hidden, shared_default=1)
    frame = read_frame(keys, tied=False)
    tower, made = sparse_decoder(keys, recipe, heads=heads, sparse=sparse, experts=experts, mlp=mlp, frame=frame)
    ahead = read_draft(keys)
    return [tower, *draft_tower(made["full", 0, sparse[-1]], frame, heads.hidden, ahead, index=depth)]


def solar_open(keys: Keys) -> list[Tower]:
    """Solar-Open: shared experts in every layer, ordinary attention."""
    heads = read_dense_heads(keys, LLAMA)
    experts, mlp = shared_moe(keys, heads.hidden, shared_default=1)
    sparse = sparse_layers(keys, read_depth(keys))
    return [sparse_decoder(keys, LLAMA, heads=heads, sparse=sparse, experts=experts, mlp=mlp)[0]]


def dots1(keys: Keys) -> list[Tower]:
    """dots.llm1: norms on queries and keys, first layers dense."""
    recipe = replace(QWEN3, head_dim=0)
    heads = read_dense_heads(keys, recipe)
    experts, mlp = shared_moe(keys, heads.hidden)
    sparse = sparse_layers(keys, read_depth(keys))
    return [sparse_decoder(keys, recipe, heads=heads, sparse=sparse, experts=experts, mlp=mlp)[0]]


def ernie_moe(keys: Keys) -> list[Tower]:
    """ERNIE 4.5 MoE: experts between two layer numbers, balance vectors that are parameters."""
    recipe = Recipe(qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", tied=True)
    heads = read_dense_heads(keys, recipe)
    depth = read_depth(keys)
    start = keys.int("moe_layer_start_index", 1, least=0, most=DEEPEST_STACK)
    stop = keys.int("moe_layer_end_index", -1, least=-1, most=DEEPEST_STACK)
    step = keys.int("moe_layer_interval", 1, most=DEEPEST_STACK)
    last = depth - 1 if stop < 0 else stop
    sparse = [(index + 1) % step == 0 and start <= index <= last for index in range(depth)]
    width = keys.int("moe_intermediate_size")
    bias = keys.flag("use_bias", default=False)
    geometry = Experts(
        heads.hidden,
        width,
        expert_count(keys, "moe_num_experts"),
        expert_active(keys),
        shared=keys.int("moe_num_shared_experts", 0, least=0, most=1024) * width,
        bias=bias,
        correction="moe_statics.e_score_correction_bias",
    )
    mlp = gated_mlp(heads.hidden, keys.int("intermediate_size"), bias=bias)
    keys.skip(
        "moe_gate",
        "moe_use_aux_free",
        "moe_use_hard_gate",
        "use_moe",
        "moe_group",
        "moe_multimodal_dispatch_use_allgather",
    )
    experts = moe(read_experts(keys, geometry))
    return [sparse_decoder(keys, recipe, heads=heads, sparse=sparse, experts=experts, mlp=mlp)[0]]


def hunyuan_moe(keys: Keys) -> list[Tower]:
    """Hunyuan-A13B: every layer has experts and a shared MLP."""
    recipe = replace(LLAMA, qk_norm="head", mlp_bias=False)
    heads = read_dense_heads(keys, recipe)
    depth = read_depth(keys)

    def one(name: str, default: int | None = None) -> int:
        """Read a value that may be written once per layer, all alike."""
        if isinstance(keys.values.get(name), list):
            found = set(per_layer(keys, name, keys.ints(name, least=1) or (), depth))
            if len(found) != 1:
                raise keys.error(name, "the layers differ", "only equal layers are read")
            return found.pop()
        return keys.int(name) if default is None else keys.int(name, default)

    width = keys.int("intermediate_size")
    inner = one("moe_intermediate_size", width)
    shared = one("num_shared_expert", 1)
    count, active = one("num_experts"), one("moe_topk", 1)
    keys.skip(
        "use_mixed_mlp_moe", "moe_layer_num_skipped", "cla_share_factor", "use_cla", "use_mla", "num_media_embeds"
    )
    geometry = Experts(
        heads.hidden, inner, count, active, shared=shared * inner, gate="gate.wg", shared_name="shared_mlp"
    )
    experts = moe(read_experts(keys, geometry))
    return [sparse_decoder(keys, recipe, heads=heads, sparse=[True] * depth, experts=experts, mlp=())[0]]


def gpt_oss(keys: Keys) -> list[Tower]:
    """gpt-oss: alternating windows, attention sinks, biases everywhere, experts with gate and up in one matrix."""
    recipe = Recipe(
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        bias_defaults=(True, True, True),
        windows="pattern",
        pattern=2,
        window=128,
    )
    heads = read_dense_heads(keys, recipe)
    geometry = Experts(
        heads.hidden,
        keys.int("intermediate_size"),
        expert_count(keys, "num_local_experts", "num_experts"),
        expert_active(keys, 4),
        gate="router",
        names=("gate_up_proj", "down_proj"),
        bias=True,
        gate_bias=True,
    )
    sinks: Ops = (Parameter("self_attn.sinks", (heads.heads,)),)
    sparse = [True] * read_depth(keys)
    experts = moe(read_experts(keys, geometry))
    return [sparse_decoder(keys, recipe, heads=heads, sparse=sparse, experts=experts, mlp=(), extra=sinks)[0]]


FAMILIES: dict[str, Builder] = {
    "mixtral": mixtral,
    "phimoe": phimoe,
    "qwen2_moe": partial(
        qwen_moe, recipe=replace(QWEN2, qkv_bias="qkv_bias", bias_defaults=(True, False, False)), shared=True
    ),
    "qwen3_moe": partial(qwen_moe, recipe=QWEN3, shared=False),
    "qwen3_vl_moe_text": partial(qwen_moe, recipe=QWEN3, shared=False),
    "olmoe": partial(olmoe, recipe=Recipe(qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="all")),
    "flex_olmo": partial(olmoe, recipe=OLMO2),
    "granitemoe": granitemoe,
    "granitemoeshared": granitemoe,
    "deepseek": deepseek_moe,
    "glm4_moe": glm4_moe,
    "solar_open": solar_open,
    "dots1": dots1,
    "ernie4_5_moe": ernie_moe,
    "hunyuan_v1_moe": hunyuan_moe,
    "hunyuan": hunyuan_moe,
    "gpt_oss": gpt_oss,
}

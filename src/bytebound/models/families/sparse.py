"""Decoders with a mixture of experts in some or all layers, and grouped-query attention."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from bytebound.documents.architecture import Block, Norm, Parameter, Tower
from bytebound.models.families.dense import (
    LLAMA,
    MISTRAL,
    OLMO2,
    QWEN2,
    QWEN3,
    Recipe,
    norm_ops,
    read_dense_heads,
    read_spans,
)
from bytebound.models.families.pieces import (
    DEEPEST_STACK,
    Experts,
    Frame,
    Heads,
    Kind,
    Ops,
    attention,
    gated_mlp,
    layers,
    moe,
    read_context,
    read_depth,
    read_experts,
    read_frame,
    text_tower,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.models.families import Builder
    from bytebound.models.keys import Keys

T = TypeVar("T")

# ---- pieces


def expert_count(keys: Keys, *names: str, saved: int = 8) -> int:
    """Read the number of routed experts under any of the names files use."""
    wanted = names or ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return keys.int(wanted[0], also=wanted[1:], most=65536, saved=saved)


def expert_active(keys: Keys, default: int | None = None, *, saved: int = 2) -> int:
    """Read how many experts a token visits."""
    also = ("num_experts_per_token", "experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts")
    if default is None:
        return keys.int("num_experts_per_tok", also=also, most=65536, saved=saved)
    return keys.int("num_experts_per_tok", default, also=also, most=65536)


def sparse_layers(keys: Keys, depth: int, *, dense_first: int = 0, period: int = 1) -> list[bool]:
    """Return which layers hold experts: ``mlp_layer_types``, ``moe_layer_freq``, or the first dense ones."""
    named = keys.words("mlp_layer_types")
    if named is not None:
        keys.skip("first_k_dense_replace", "moe_layer_freq")
        return [name != "dense" for name in per_layer(keys, "mlp_layer_types", named, depth)]
    first = keys.int("first_k_dense_replace", dense_first, least=0, most=DEEPEST_STACK)
    if isinstance(keys.values.get("moe_layer_freq"), list):
        flags = keys.ints("moe_layer_freq", most=1) or ()
        return [bool(flag) for flag in per_layer(keys, "moe_layer_freq", flags, depth)]
    every = keys.int("moe_layer_freq", period, most=DEEPEST_STACK)
    return [index >= first and index % every == 0 for index in range(depth)]


def per_layer(keys: Keys, name: str, values: Sequence[T], depth: int) -> Sequence[T]:
    """Return the first ``depth`` entries of a list with one entry per layer."""
    if len(values) < depth:
        raise keys.error(name, f"the list has {len(values)} entries for {depth} layers", "write one entry per layer")
    return values[:depth]


def draft_tower(
    body: Ops, frame: Frame, hidden: int, depth: int, *, index: int, shared: bool = True, prefix: str = "model.layers"
) -> list[Tower]:
    """Return the multi-token-prediction tower of ``depth`` layers, in the checkpoint and not in the served model.

    Args:
        body: operators of one of its layers.
        frame: embedding and head of the model; ``shared`` says the checkpoint stores a copy of both.
        hidden: width of the stream.
        depth: prediction layers; none gives no tower.
        index: number of its first layer.
        shared: whether embedding and head are stored again.
        prefix: name of the list of layers.
    """
    if not depth:
        return []
    start: Ops = (Norm("enorm", hidden), Norm("hnorm", hidden), whole("eh_proj", 2 * hidden, hidden, "other"))
    copy = text_tower(replace(frame, embed="embed_tokens", head="shared_head.head"), (), hidden=hidden)
    embed, head = copy.blocks[0].operators[0], copy.blocks[-1].operators[-1]
    end: Ops = (Norm("shared_head.norm", hidden), *((head,) if shared and not frame.tied else ()))
    ops: Ops = (*((embed,) if shared else ()), *start, *body, *end)
    return [Tower("mtp", "draft", layers([ops] * depth, prefix=prefix, first=index), hidden)]


def sparse_decoder(
    keys: Keys,
    recipe: Recipe,
    *,
    heads: Heads,
    sparse: Sequence[bool],
    experts: Ops,
    mlp: Ops,
    frame: Frame | None = None,
    extra: Ops = (),
    gated: bool = False,
) -> tuple[Tower, dict[tuple[Kind, int, bool], Ops]]:
    """Return a decoder whose layers hold experts or a dense MLP, and the operators of each distinct layer.

    Args:
        keys: the config.
        recipe: norms, windows and defaults.
        heads: the attention.
        sparse: which layers hold experts.
        experts: operators of the mixture.
        mlp: operators of a dense layer's MLP.
        frame: embedding and head when they are not the usual ones.
        extra: operators every attention adds (sinks).
        gated: whether queries carry an output gate.
    """
    context = read_context(keys)
    spans = read_spans(keys, recipe, len(sparse), context)
    first, second = norm_ops(recipe, heads.hidden)
    kinds = [(*found, flag) for found, flag in zip(spans, sparse, strict=True)]
    made = {
        (kind, window, flag): (
            *first,
            *extra,
            *attention(heads, kind=kind, window=window, names=recipe.qkv_names, gated=gated),
            *second,
            *(experts if flag else mlp),
        )
        for kind, window, flag in dict.fromkeys(kinds)
    }
    if frame is None:
        frame = read_frame(keys, tied=recipe.tied, saved_vocab=recipe.saved[5])
        frame = replace(frame, norm_vectors=recipe.norm_vectors)
    tower = text_tower(frame, layers(made[kind] for kind in kinds), hidden=heads.hidden, context=context)
    return tower, made


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


def granite_experts(keys: Keys, heads: Heads) -> Ops:
    """Return Granite's experts, gate and up in one matrix, and its shared MLP."""
    count = keys.int("num_local_experts", least=0, most=65536)
    width = keys.int("intermediate_size")
    shared = keys.int("shared_intermediate_size", 0, least=0)
    names = ("input_linear", "output_linear")
    ops: Ops = gated_mlp(heads.hidden, shared, prefix="shared_mlp", names=names) if shared else ()
    if count:
        active = expert_active(keys, 2)
        geometry = Experts(
            heads.hidden, width, count, active, prefix="block_sparse_moe", gate="router.layer", names=names
        )
        ops = (*moe(read_experts(keys, geometry)), *ops)
    return ops


def deepseek_moe(keys: Keys) -> list[Tower]:
    """DeepSeekMoE 16B: first layers dense, shared experts merged into one MLP, ordinary attention."""
    heads = read_dense_heads(keys, LLAMA)
    sparse = sparse_layers(keys, read_depth(keys))
    experts, mlp = shared_moe(keys, heads.hidden)
    return [sparse_decoder(keys, LLAMA, heads=heads, sparse=sparse, experts=experts, mlp=mlp)[0]]


def shared_moe(
    keys: Keys, hidden: int, *, shared_default: int = 0, names: tuple[str, ...] = (), correction: str = ""
) -> tuple[Ops, Ops]:
    """Return the experts and the dense MLP of DeepSeek-like layers.

    The balance vector ``e_score_correction_bias`` is a buffer, not a parameter, and is not counted.
    """
    width = keys.int("moe_intermediate_size", also=("expert_ffn_hidden_size",))
    shared = keys.int("n_shared_experts", shared_default, also=("num_shared_experts",), least=0, most=1024)
    geometry = Experts(
        hidden,
        width,
        expert_count(keys, *(names or ("n_routed_experts", "num_experts", "num_local_experts"))),
        expert_active(keys),
        shared=shared * width,
        correction=correction,
    )
    inner = keys.maybe_int("intermediate_size")
    return moe(read_experts(keys, geometry)), gated_mlp(hidden, inner) if inner else ()


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


def read_draft(keys: Keys) -> int:
    """Read the number of multi-token-prediction layers."""
    return keys.int("num_nextn_predict_layers", 0, also=("num_mtp_layers",), least=0, most=64)


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
    "qwen2_moe": partial(qwen_moe, recipe=QWEN2, shared=True),
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

__all__ = [
    "FAMILIES",
    "Block",
    "draft_tower",
    "expert_active",
    "expert_count",
    "granite_experts",
    "per_layer",
    "read_draft",
    "shared_moe",
    "sparse_decoder",
    "sparse_layers",
]

"""Decoders that need code of their own: MiniMax M2 and M3, MiMo, Step, Llama 4, DBRX, Arctic, Ling, AFMoE."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Attention, Norm, Parameter
from bytebound.models.families.dense import LLAMA, QWEN2, Recipe, dense, norm_ops, read_dense_heads, read_spans
from bytebound.models.families.experts import (
    draft_tower,
    expert_active,
    expert_count,
    per_layer,
    read_draft,
    shared_moe,
    sparse_decoder,
    sparse_layers,
)
from bytebound.models.families.frame import Frame, read_depth, read_frame, read_layer_types, span, text_tower
from bytebound.models.families.pieces import (
    DEEPEST_STACK,
    Experts,
    Heads,
    attention,
    column,
    gated_mlp,
    layers,
    moe,
    read_context,
    read_experts,
    read_heads,
    whole,
)

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


def minimax_m2(keys: Keys) -> list[Tower]:
    """MiniMax-M2: experts in every layer, one norm over all queries and one over all keys.

    The config speaks of prediction modules; the published checkpoint holds none (its total is main model and scales).
    """
    recipe = Recipe(qk_norm="all", head_dim=128)
    heads = read_dense_heads(keys, recipe)
    keys.skip(
        "use_mtp", "mtp_transformer_layers", "num_mtp_modules", "qk_norm_type", "use_routing_bias", "attn_type_list"
    )
    width = keys.int("intermediate_size")
    geometry = Experts(
        heads.hidden,
        width,
        expert_count(keys, "num_local_experts"),
        expert_active(keys),
        shared=keys.int("shared_intermediate_size", 0, least=0),
        prefix="block_sparse_moe",
        names=("w1", "w3", "w2"),
    )
    sparse = [True] * read_depth(keys)
    experts = moe(read_experts(keys, geometry))
    return [sparse_decoder(keys, recipe, heads=heads, sparse=sparse, experts=experts, mlp=())[0]]


def minimax_m3(keys: Keys) -> list[Tower]:
    """MiniMax-M3: first layers dense and fully attending, then experts under block-sparse attention."""
    heads = replace(read_heads(keys), qk_norm="head")
    depth = read_depth(keys)
    context = read_context(keys)
    sparse = sparse_layers(keys, depth)
    keys.skip(
        "n_shared_experts",
        "use_qk_norm",
        "qk_norm_type",
        "num_mtp_modules",
        "attention_output_gate",
        "use_routing_bias",
    )
    geometry = Experts(
        heads.hidden,
        keys.int("moe_intermediate_size", also=("intermediate_size",)),
        expert_count(keys, "num_local_experts", "n_routed_experts"),
        expert_active(keys),
        shared=keys.int("shared_intermediate_size", 0, least=0),
        shared_name="shared_experts",
    )
    experts = moe(read_experts(keys, geometry))
    mlp = gated_mlp(heads.hidden, keys.int("dense_intermediate_size", 12288))
    chosen = [False] * depth
    indexed: Ops = ()
    config = keys.maybe_child("sparse_attention_config")
    top = index = dim = 0
    if config is not None and config.flag("use_sparse_attention", default=True):
        flags = per_layer(config, "sparse_attention_freq", config.ints("sparse_attention_freq", most=1) or (), depth)
        chosen = [bool(flag) for flag in flags]
        index = config.int("sparse_num_index_heads", most=65536)
        dim = config.int("sparse_index_dim")
        top = config.int("sparse_topk_blocks") * config.int("sparse_block_size")
        config.skip("sparse_disable_index_value", "sparse_init_block", "sparse_local_block", "sparse_score_type")
    elif keys.has("index_n_heads"):
        named = keys.words("layer_types")
        found = per_layer(keys, "layer_types", named or ("full_attention",) * depth, depth)
        chosen = ["sparse" in name for name in found]
        index, dim = keys.int("index_n_heads", most=65536), keys.int("index_head_dim")
        top = keys.int("index_topk_blocks") * keys.int("index_block_size")
        keys.skip("index_local_blocks")
    if dim:
        indexed = (
            whole("self_attn.indexer.q_proj", heads.hidden, index * dim, "attention"),
            whole("self_attn.indexer.k_proj", heads.hidden, dim, "attention"),
            Norm("self_attn.indexer.q_norm", dim, token_scale=float(index)),
            Norm("self_attn.indexer.k_norm", dim),
        )
    first, second = norm_ops(LLAMA, heads.hidden)

    def layer(*, selects: bool, routed: bool) -> Ops:
        attend = attention(heads)
        if selects:
            flop = 2 * index * dim
            attend = tuple(
                replace(op, selected=top, index_elements=float(dim), index_flop=flop)
                if isinstance(op, Attention)
                else op
                for op in (*indexed, *attend)
            )
        return (*first, *attend, *second, *(experts if routed else mlp))

    kinds = list(zip(chosen, sparse, strict=True))
    made = {kind: layer(selects=kind[0], routed=kind[1]) for kind in dict.fromkeys(kinds)}
    frame = read_frame(keys, tied=False)
    tower = text_tower(frame, layers(made[kind] for kind in kinds), hidden=heads.hidden, context=context)
    return [tower, *draft_tower(made[kinds[-1]], frame, heads.hidden, read_draft(keys), index=depth, shared=False)]


def mimo(keys: Keys) -> list[Tower]:
    """MiMo-7B: Qwen2 with prediction layers that share embedding and head."""
    ahead = read_draft(keys)
    keys.flag("attention_bias", default=True)
    (tower,) = dense(keys, QWEN2)
    frame = Frame(keys.int("vocab_size"), tied=False)
    body = tower.blocks[-2].operators
    return [tower, *draft_tower(body, frame, tower.hidden, ahead, index=0, shared=False, prefix="model.mtp_layers")]


def mimo_v2(keys: Keys) -> list[Tower]:
    """MiMo-V2-Flash: window layers with more key-value heads and sinks, experts after the first layer.

    The checkpoint holds three dense prediction layers with window attention that the config does not name
    (model card: 0.33 B parameters each).
    """
    depth = read_depth(keys)
    context = read_context(keys)
    full = replace(read_heads(keys), v_dim=keys.int("v_head_dim"), bias=keys.flag("attention_bias", default=False))
    swa = replace(
        full,
        heads=keys.int("swa_num_attention_heads", full.heads, most=65536),
        kv_heads=keys.int("swa_num_key_value_heads", full.kv_heads, most=65536),
        dim=keys.int("swa_head_dim", full.dim),
        v_dim=keys.int("swa_v_head_dim", full.v_dim),
    )
    window = keys.int("sliding_window", also=("sliding_window_size", "attention_chunk_size"))
    named = read_layer_types(keys, depth)
    flags = keys.ints("hybrid_layer_pattern", most=1) or tuple(int(name == "sliding_attention") for name in named or ())
    slides = [bool(flag) for flag in per_layer(keys, "hybrid_layer_pattern", flags, depth)]
    sparse = sparse_layers(keys, depth)
    experts, mlp = shared_moe(keys, full.hidden)
    sinks = {
        True: keys.flag("add_swa_attention_sink_bias", default=True),
        False: keys.flag("add_full_attention_sink_bias", default=False),
    }
    first, second = norm_ops(LLAMA, full.hidden)

    def layer(*, slide: bool, routed: bool) -> Ops:
        heads = swa if slide else full
        extra: Ops = (Parameter("self_attn.attention_sink_bias", (heads.heads,)),) if sinks[slide] else ()
        kind, reach = span("window" if slide else "full", window, context)
        attend = attention(heads, kind=kind, window=reach)
        return (*first, *extra, *attend, *second, *(experts if routed else mlp))

    blocks = layers(layer(slide=slide, routed=routed) for slide, routed in zip(slides, sparse, strict=True))
    frame = read_frame(keys, tied=False)
    ahead = keys.int("num_nextn_predict_layers", 3, least=0, most=64)
    body = layer(slide=True, routed=False)
    drafts = draft_tower(body, frame, full.hidden, ahead, index=0, shared=False, prefix="model.mtp.layers")
    return [text_tower(frame, blocks, hidden=full.hidden, context=context), *drafts]


def step3(keys: Keys) -> list[Tower]:
    """Step-3.5 and 3.7 Flash: window layers, a gate per head, experts after the first layers, prediction layers."""
    hidden = keys.int("hidden_size")
    count = keys.int("num_attention_heads", most=65536)
    groups = keys.int("num_key_value_heads", count, also=("num_attention_groups",), most=65536)
    dim = keys.int("head_dim")
    full = Heads(hidden, count, groups, dim, dim, qk_norm="head")
    other = keys.maybe_child("attention_other_setting")
    swa = full
    if other is not None:
        other.skip(*other.values)
        swa = replace(
            full,
            heads=other.int("num_attention_heads", count, most=65536),
            kv_heads=other.int("num_attention_groups", groups, most=65536),
            dim=other.int("head_dim", dim),
        )
    swa = replace(swa, heads=keys.int("num_sliding_attention_heads", swa.heads, most=65536), v_dim=swa.dim)
    depth = read_depth(keys)
    context = read_context(keys)
    keys.skip(
        "use_head_wise_attn_gate",
        "use_moe",
        "moe_every_n_layer",
        "share_q_dim",
        "need_fp32_gate",
        "use_qk_norm",
        "use_swa",
    )
    sparse = [index >= 3 for index in range(depth)]
    if "moe_layers_enum" in keys.values:
        listed = str(keys.take("moe_layers_enum"))
        named = {int(part) for part in listed.strip("[]").split(",") if part.strip().isdigit()}
        sparse = [index in named for index in range(depth)]
    elif keys.has("first_k_dense_replace") or keys.has("mlp_layer_types"):
        sparse = sparse_layers(keys, depth)
    keys.skip("n_shared_experts")
    geometry = Experts(
        hidden,
        keys.int("moe_intermediate_size"),
        expert_count(keys),
        expert_active(keys),
        shared=keys.int("share_expert_dim", 0, also=("share_expert_dims",), least=0),
    )
    experts, mlp = moe(read_experts(keys, geometry)), gated_mlp(hidden, keys.int("intermediate_size"))
    spans = read_spans(keys, Recipe(), depth, context)
    first, second = norm_ops(LLAMA, hidden)

    def layer(kind: str, window: int, *, routed: bool) -> Ops:
        heads = full if kind == "full" else swa
        gate = column("self_attn.g_proj", hidden, heads.heads, "attention", units=heads.heads)
        attend = attention(heads, kind="window" if kind == "window" else "full", window=window)
        return (*first, gate, *attend, *second, *(experts if routed else mlp))

    blocks = layers(layer(*found, routed=flag) for found, flag in zip(spans, sparse, strict=True))
    frame = read_frame(keys, tied=False)
    tower = text_tower(frame, blocks, hidden=hidden, context=context)
    return [tower, *draft_tower(layer(*spans[-1], routed=False), frame, hidden, read_draft(keys), index=depth)]


def llama4_text(keys: Keys) -> list[Tower]:
    """Llama 4: chunked attention in three layers of four, experts every ``interleave_moe_layer_step`` layers."""
    heads = read_dense_heads(
        keys, Recipe(qkv_bias="attention_bias", out_bias="attention_bias", saved=(5120, 48, 40, 8, 8192, 202048))
    )
    if not keys.has("head_dim"):
        heads = replace(heads, dim=128, v_dim=128)
    depth = read_depth(keys, saved=48)
    context = read_context(keys)
    step = keys.int("interleave_moe_layer_step", 1, most=DEEPEST_STACK)
    listed = keys.ints("moe_layers", most=DEEPEST_STACK)
    chosen = set(listed) if listed is not None else set(range(step - 1, depth, step))
    # ``use_qk_norm`` switches norms without learned values.
    keys.skip("use_qk_norm", "for_llm_compressor")
    width = keys.int("intermediate_size", saved=8192)
    count = expert_count(keys, "num_local_experts", saved=16)
    geometry = Experts(
        heads.hidden,
        width,
        count,
        expert_active(keys, 1),
        shared=width,
        prefix="feed_forward",
        gate="router",
        shared_name="shared_expert",
    )
    experts = moe(read_experts(keys, geometry))
    mlp = gated_mlp(heads.hidden, keys.int("intermediate_size_mlp", saved=16384), prefix="feed_forward")
    chunk = keys.int("attention_chunk_size", 8192)
    every = keys.int("no_rope_layer_interval", 4, most=DEEPEST_STACK)
    named = keys.words("layer_types")
    ropes = keys.ints("no_rope_layers", most=1) or tuple(int((index + 1) % every != 0) for index in range(depth))
    local = [name == "chunked_attention" for name in named] if named else [bool(flag) for flag in ropes]
    first, second = norm_ops(LLAMA, heads.hidden)

    def layer(index: int) -> Ops:
        kind, reach = span("chunk" if local[index] else "full", chunk, context)
        return (*first, *attention(heads, kind=kind, window=reach), *second, *(experts if index in chosen else mlp))

    if len(local) < depth:
        raise keys.error("layer_types", f"{len(local)} entries for {depth} layers", "write one entry per layer")
    frame = read_frame(keys, tied=False, saved_vocab=202048)
    return [text_tower(frame, layers(layer(i) for i in range(depth)), hidden=heads.hidden, context=context)]


FAMILIES: dict[str, Builder] = {
    "minimax_m2": minimax_m2,
    "minimax_m3": minimax_m3,
    "minimax_m3_vl_text": minimax_m3,
    "mimo": mimo,
    "mimo_v2_flash": mimo_v2,
    "step3p5": step3,
    "step3p7": step3,
    "llama4_text": llama4_text,
}

"""Decoders that stray from a common shape: DBRX, Arctic, Ling, AFMoE, Nemotron by architecture search, Apertus."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Norm, Parameter
from bytebound.models.families.dense import LLAMA, Recipe, dense, read_dense_heads
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
from bytebound.models.families.frame import Frame, read_depth, read_frame, span, text_tower
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
)

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


def dbrx(keys: Keys) -> list[Tower]:
    """DBRX: fused attention without biases, LayerNorm without bias, fine-grained experts."""
    hidden = keys.int("d_model")
    count = keys.int("n_heads", most=65536)
    inner, ffn = keys.child("attn_config"), keys.child("ffn_config")
    groups = inner.int("kv_n_heads", 1, most=65536)
    inner.skip("clip_qkv")
    keys.skip("num_key_value_heads")
    heads = Heads(hidden, count, groups, hidden // count, hidden // count)
    ffn.skip("hidden_size")
    ffn.skip(
        "ffn_act_fn", "moe_loss_weight", "moe_jitter_eps", "moe_normalize_expert_weights", "uniform_expert_assignment"
    )
    geometry = Experts(
        hidden,
        ffn.int("ffn_hidden_size"),
        ffn.int("moe_num_experts", 4, most=65536),
        ffn.int("moe_top_k", 1, most=65536),
        prefix="ffn",
        gate="router.layer",
        names=("w1", "v1", "w2"),
    )
    ops: Ops = (
        Norm("norm_attn_norm.norm_1", hidden),
        *attention(heads, prefix="norm_attn_norm.attn", names=("Wqkv", "out_proj")),
        Norm("norm_attn_norm.norm_2", hidden),
        *moe(read_experts(ffn, geometry)),
    )
    frame = Frame(keys.int("vocab_size"), keys.tied(default=False), embed="transformer.wte", norm="transformer.norm_f")
    blocks = layers([ops] * read_depth(keys), prefix="transformer.blocks")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


def arctic(keys: Keys) -> list[Tower]:
    """Snowflake Arctic: a dense residual MLP of the stream's width beside the experts of every MoE layer."""
    heads = read_dense_heads(keys, LLAMA)
    depth = read_depth(keys)
    step = keys.int("moe_layer_frequency", 2, most=DEEPEST_STACK)
    sparse = [(index + 1) % step == 0 for index in range(depth)]
    width = keys.int("intermediate_size")
    beside = keys.flag("parallel_attn_mlp_res", default=False)
    keys.skip("use_residual", "quantization", "moe_token_dropping", "moe_train_capacity_factor")
    count = expert_count(keys, "num_local_experts")
    names = ("w1", "w3", "w2")
    geometry = Experts(heads.hidden, width, count, expert_active(keys, 1), prefix="block_sparse_moe", names=names)
    experts = moe(read_experts(keys, geometry))
    if beside:
        residual = gated_mlp(heads.hidden, heads.hidden, prefix="residual_mlp", names=names)
        experts = (*experts, Norm("residual_layernorm", heads.hidden), *residual)
    mlp = gated_mlp(heads.hidden, width, prefix="block_sparse_moe.mlp", names=names)
    return [sparse_decoder(keys, LLAMA, heads=heads, sparse=sparse, experts=experts, mlp=mlp)[0]]


def ling(keys: Keys) -> list[Tower]:
    """Ling and Ring (bailing_moe): fused attention, shared experts, dense first layers, optional norms."""
    normed = keys.flag("use_qk_norm", default=keys.values.get("model_type") == "bailing_moe_v2")
    recipe = Recipe(
        qkv_bias="use_qkv_bias",
        out_bias="use_bias",
        qk_norm="head" if normed else "none",
        qkv_names=("query_key_value", "dense"),
    )
    heads = read_dense_heads(keys, recipe)
    depth = read_depth(keys)
    sparse = sparse_layers(keys, depth)
    experts, mlp = shared_moe(keys, heads.hidden, names=("num_experts",))
    keys.skip(
        "moe_router_enable_expert_bias",
        "norm_head",
        "norm_softmax",
        "use_expert_bias",
        "moe_shared_expert_intermediate_size",
    )
    frame = read_frame(keys, tied=False)
    tower, made = sparse_decoder(keys, recipe, heads=heads, sparse=sparse, experts=experts, mlp=mlp, frame=frame)
    body = made[next(iter(made))[0], next(iter(made))[1], sparse[-1]]
    return [tower, *draft_tower(body, frame, heads.hidden, read_draft(keys), index=depth, shared=False)]


def afmoe(keys: Keys) -> list[Tower]:
    """AFMoE (Trinity): four norms a layer, a gate on attention's output, windows in three layers of four."""
    recipe = Recipe(
        qk_norm="head",
        windows="pattern",
        pattern=keys.int("global_attn_every_n_layers", 4),
        window=1024,
        norms="sandwich",
    )
    heads = read_dense_heads(keys, recipe)
    gate = column("self_attn.gate_proj", heads.hidden, heads.q_width, "attention", units=heads.heads)
    width = keys.int("moe_intermediate_size")
    keys.skip("mup_enabled", "score_func", "route_norm", "route_scale", "load_balance_coeff", "use_grouped_mm")
    geometry = Experts(
        heads.hidden,
        width,
        expert_count(keys, "num_experts"),
        expert_active(keys),
        shared=keys.int("num_shared_experts", 0, least=0, most=1024) * width,
        gate="router.gate",
        correction="expert_bias",
    )
    depth = read_depth(keys)
    first = keys.int("num_dense_layers", 1, least=0, most=DEEPEST_STACK)
    sparse = [index >= first for index in range(depth)]
    mlp = gated_mlp(heads.hidden, keys.int("intermediate_size"))
    experts = moe(read_experts(keys, geometry))
    return [sparse_decoder(keys, recipe, heads=heads, sparse=sparse, experts=experts, mlp=mlp, extra=(gate,))[0]]


def decilm(keys: Keys) -> list[Tower]:
    """Nemotron found by architecture search (DeciLM): every layer has its own groups and MLP width, or none."""
    hidden = keys.int("hidden_size")
    count = keys.int("num_attention_heads", most=65536)
    depth = read_depth(keys)
    context = read_context(keys)
    keys.skip("num_key_value_heads", "intermediate_size")
    bias, mlp_bias = keys.flag("attention_bias", default=False), keys.flag("mlp_bias", default=False)
    dim = keys.int("head_dim", hidden // count)
    configs = keys.objects("block_configs") or ()

    def attend(config: Keys) -> Ops:
        config.skip(*config.values)
        if config.flag("no_op", default=False):
            return ()
        norm = Norm("input_layernorm", hidden)
        if config.flag("replace_with_linear", default=False):
            return (norm, column("self_attn.linear_attn", hidden, hidden, "attention"))
        group = config.int("n_heads_in_group", most=65536)
        heads = Heads(hidden, count, max(1, count // group), dim, dim, bias=bias, out_bias=bias)
        kind, reach = span("window", config.maybe_int("window_length") or 0, context)
        return (norm, *attention(heads, kind=kind, window=reach))

    def feed(config: Keys) -> Ops:
        config.skip(*config.values)
        if config.flag("no_op", default=False):
            return ()
        norm = Norm("post_attention_layernorm", hidden)
        if config.flag("replace_with_linear", default=False):
            return (norm, column("mlp.linear_mlp", hidden, hidden, "mlp"))
        if config.has("intermediate_size"):
            return (norm, *gated_mlp(hidden, config.int("intermediate_size"), bias=mlp_bias))
        # Two thirds of twice the multiple, rounded up to 256, as in the published model code.
        width = -(-int(2 * config.number("ffn_mult", 1.0) * hidden / 3) // 256) * 256
        return (norm, *gated_mlp(hidden, width, bias=mlp_bias))

    entries = per_layer(keys, "block_configs", configs, depth)
    blocks = layers((*attend(entry.child("attention")), *feed(entry.child("ffn"))) for entry in entries)
    return [text_tower(read_frame(keys, tied=False), blocks, hidden=hidden, context=context)]


def apertus(keys: Keys) -> list[Tower]:
    """Apertus: an MLP whose activation learns two values, and norms under other names."""
    (tower,) = dense(
        keys,
        Recipe(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias", gated=False, qk_norm="head"),
    )
    learned: Ops = (Parameter("mlp.act_fn.alpha_p", (1,)), Parameter("mlp.act_fn.alpha_n", (1,)))
    names = {"input_layernorm": "attention_layernorm", "post_attention_layernorm": "feedforward_layernorm"}
    blocks = tuple(
        replace(
            block,
            operators=(*(replace(op, name=names.get(op.name, op.name)) for op in block.operators), *learned),
        )
        if block.name
        else block
        for block in tower.blocks
    )
    return [replace(tower, blocks=blocks)]


FAMILIES: dict[str, Builder] = {
    "dbrx": dbrx,
    "arctic": arctic,
    "bailing_moe": ling,
    "bailing_moe_v2": ling,
    "afmoe": afmoe,
    "nemotron-nas": decilm,
    "nemotron_nas": decilm,
    "apertus": apertus,
}

"""Families with linear attention or short convolutions: Qwen3-Next, Qwen3.5, Kimi Linear, MiniMax-01, LFM2."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Norm
from bytebound.models.families.dense import Recipe, read_dense_heads
from bytebound.models.families.experts import (
    draft_tower,
    expert_active,
    expert_count,
    per_layer,
    read_draft,
    sparse_layers,
)
from bytebound.models.families.frame import read_depth, read_frame, text_tower
from bytebound.models.families.hybrid import layer_kinds
from bytebound.models.families.latent import latent_attention, read_latent
from bytebound.models.families.pieces import (
    DEEPEST_STACK,
    Experts,
    attention,
    column,
    gated_mlp,
    layers,
    moe,
    read_context,
    read_experts,
    whole,
)
from bytebound.models.families.recurrent import Delta, gated_delta, kimi_delta, lightning, read_delta, short_conv

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


def qwen_hybrid(keys: Keys, *, split: bool, routed: bool) -> list[Tower]:
    """Qwen3-Next and Qwen3.5: three gated delta layers, then one gated attention; experts or a dense MLP."""
    recipe = Recipe(qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head", head_dim=256)
    if split:
        recipe = replace(recipe, saved=(2048, 40, 16, 2, 0, 248320) if routed else (4096, 32, 16, 4, 12288, 248320))
    heads = read_dense_heads(keys, recipe)
    hidden, depth = heads.hidden, read_depth(keys, saved=recipe.saved[1])
    shape = read_delta(keys, hidden)
    every = keys.int("full_attention_interval", 4, most=DEEPEST_STACK)
    listed = [name == "attention" for name in layer_kinds(keys, depth, attending=range(every - 1, depth, every))]
    keys.skip(
        "attn_output_gate",
        "mlp_only_layers",
        "decoder_sparse_step",
        "use_sliding_window",
        "mtp_use_dedicated_embeddings",
    )
    dense = set(keys.ints("mlp_only_layers", most=DEEPEST_STACK) or ())
    step = keys.int("decoder_sparse_step", 1, most=DEEPEST_STACK)
    sparse = [routed and index not in dense and (index + 1) % step == 0 for index in range(depth)]
    experts: Ops = ()
    width = keys.maybe_int("intermediate_size")
    if routed:
        shared = keys.int("shared_expert_intermediate_size", 512, least=0)
        geometry = Experts(
            hidden,
            keys.int("moe_intermediate_size", saved=512),
            expert_count(keys, "num_experts", saved=256),
            expert_active(keys, saved=8),
            shared=shared,
            shared_name="shared_expert",
            shared_gate=shared > 0,
        )
        experts = moe(read_experts(keys, geometry))
    elif width is None:
        width = keys.int("intermediate_size", saved=recipe.saved[4])
    mlp = gated_mlp(hidden, width) if width else ()
    mixers = {True: attention(heads, gated=True), False: gated_delta(shape, split=split)}
    first, second = Norm("input_layernorm", hidden), Norm("post_attention_layernorm", hidden)

    def layer(*, attends: bool, mixes: bool) -> Ops:
        return (first, *mixers[attends], second, *(experts if mixes else mlp))

    blocks = layers(layer(attends=attends, mixes=mixes) for attends, mixes in zip(listed, sparse, strict=True))
    frame = read_frame(keys, tied=False, saved_vocab=recipe.saved[5])
    tower = text_tower(frame, blocks, hidden=hidden, context=read_context(keys))
    ahead = keys.int("mtp_num_hidden_layers", 0 if split else 1, also=("num_nextn_predict_layers",), least=0, most=64)
    body = layer(attends=True, mixes=routed)
    return [tower, *draft_tower(body, frame, hidden, ahead, index=0, shared=False, prefix="mtp.layers")]


def kimi_linear(keys: Keys) -> list[Tower]:
    """Kimi Linear and the text of Kimi K3: delta attention with a latent attention layer in four, experts."""
    latent = read_latent(keys)
    hidden, depth = latent.hidden, read_depth(keys)
    context = read_context(keys)
    config = keys.maybe_child("linear_attn_config") or keys
    nested = config is not keys
    count = config.int("num_heads" if nested else "linear_num_heads", latent.heads, most=65536)
    dim = config.int("head_dim" if nested else "linear_head_dim", 128)
    kernel = config.int("short_conv_kernel_size" if nested else "linear_conv_kernel_dim", 4, most=1024)
    full_gate = config.flag("use_full_rank_gate", default=False)
    if nested:
        attending = {index - 1 for index in config.ints("full_attn_layers", most=DEEPEST_STACK) or ()}
        config.skip("kda_layers")
        kinds = ["attention" if index in attending else "mamba" for index in range(depth)]
    else:
        kinds = layer_kinds(keys, depth, attending=range(3, depth, 4))
    keys.skip("head_dim", "mla_use_nope", "attn_res_block_size", "latent_moe_use_norm")
    attend = latent_attention(latent)
    if keys.flag("mla_use_output_gate", default=False):
        gate = column("self_attn.g_proj", hidden, latent.heads * latent.value, "attention", units=latent.heads)
        attend = (*attend[:-1], gate, attend[-1])
    delta = Delta(hidden, count, count, dim, dim, kernel)
    mixers = {"attention": attend, "mamba": kimi_delta(delta, full_gate=full_gate)}
    experts, mlp = kimi_experts(keys, hidden), gated_mlp(hidden, keys.int("intermediate_size"))
    sparse = sparse_layers(keys, depth, dense_first=1)
    first, second = Norm("input_layernorm", hidden), Norm("post_attention_layernorm", hidden)
    made = {
        key: (first, *mixers[key[0]], second, *(experts if key[1] else mlp))
        for key in set(zip(kinds, sparse, strict=True))
    }
    blocks = layers(made[key] for key in zip(kinds, sparse, strict=True))
    frame = read_frame(keys, tied=False)
    tower = text_tower(frame, blocks, hidden=hidden, context=context)
    return [tower, *draft_tower(made[kinds[-1], sparse[-1]], frame, hidden, read_draft(keys), index=depth)]


def kimi_experts(keys: Keys, hidden: int) -> Ops:
    """Return Kimi's experts, in a narrower latent stream where the config has one (Kimi K3)."""
    width = keys.int("moe_intermediate_size")
    shared = keys.int("num_shared_experts", 0, also=("n_shared_experts",), least=0, most=1024) * width
    inner = keys.int("routed_expert_hidden_size", hidden)
    names = ("num_experts", "n_routed_experts", "num_local_experts")
    geometry = Experts(inner, width, expert_count(keys, *names), expert_active(keys), prefix="block_sparse_moe")
    ops = moe(read_experts(keys, geometry))
    router = whole("block_sparse_moe.gate", hidden, geometry.count, "router")
    around: Ops = ()
    if inner != hidden:
        around = (
            whole("block_sparse_moe.latent_down_proj", hidden, inner, "mlp"),
            Norm("block_sparse_moe.latent_norm", inner),
            whole("block_sparse_moe.latent_up_proj", inner, hidden, "mlp"),
        )
    extra = gated_mlp(hidden, shared, prefix="block_sparse_moe.shared_experts") if shared else ()
    return (router, *around, *ops[1:], *extra)


def minimax(keys: Keys) -> list[Tower]:
    """MiniMax-Text-01 and M1: seven lightning layers, then one attention; experts in every layer."""
    heads = read_dense_heads(keys, Recipe())
    hidden, depth = heads.hidden, read_depth(keys)
    flags = keys.ints("attn_type_list", most=1)
    if flags is not None:
        keys.skip("layer_types")
        kinds = ["attention" if flag else "mamba" for flag in per_layer(keys, "attn_type_list", flags, depth)]
    else:
        kinds = layer_kinds(keys, depth, attending=range(0, depth, 2))
    keys.skip("block_size", "postnorm", "block", "shared_moe_mode", "use_qk_norm", "sliding_window")
    geometry = Experts(
        hidden,
        keys.int("intermediate_size"),
        expert_count(keys, "num_local_experts", "num_experts"),
        expert_active(keys, 2),
        shared=keys.int("shared_intermediate_size", 0, least=0),
        prefix="block_sparse_moe",
        names=("w1", "w3", "w2"),
        shared_name="shared_mlp",
    )
    experts = moe(read_experts(keys, geometry))
    mixers = {"attention": attention(heads), "mamba": lightning(hidden, heads.heads, heads.dim)}
    first, second = Norm("input_layernorm", hidden), Norm("post_attention_layernorm", hidden)
    blocks = layers((first, *mixers[kind], second, *experts) for kind in kinds)
    return [text_tower(read_frame(keys, tied=False), blocks, hidden=hidden, context=read_context(keys))]


def lfm2(keys: Keys, *, routed: bool) -> list[Tower]:
    """LFM2: short convolutions with attention in some layers; a dense MLP or experts."""
    heads = replace(read_dense_heads(keys, Recipe()), qk_norm="head")
    hidden, depth = heads.hidden, read_depth(keys)
    every = keys.ints("full_attn_idxs", most=DEEPEST_STACK)
    kinds = layer_kinds(keys, depth, attending=range(depth) if every is None else every)
    kernel = keys.int("conv_L_cache", 3, most=1024)
    bias = keys.flag("conv_bias", default=False)
    keys.skip("block_dim", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "block_mlp_init_scale", "block_norm_eps")
    keys.skip("block_out_init_scale", "block_use_swiglu", "block_use_xavier_init", "num_attention_heads", "use_pos_enc")
    width = keys.int("intermediate_size", also=("block_ff_dim",))
    if keys.flag("block_auto_adjust_ff_dim", default=not routed):
        multiple = keys.int("block_multiple_of", 256)
        scaled = int(keys.number("block_ffn_dim_multiplier", 1.0) * int(2 * width / 3))
        width = -(-scaled // multiple) * multiple
    keys.skip("block_multiple_of", "block_ffn_dim_multiplier")
    names = ("w1", "w3", "w2")
    mlp = gated_mlp(hidden, width, prefix="feed_forward", names=names)
    first = depth
    experts: Ops = ()
    if routed:
        first = keys.int("num_dense_layers", 2, least=0, most=DEEPEST_STACK)
        keys.skip("use_expert_bias")
        inner, count = keys.int("moe_intermediate_size"), expert_count(keys, "num_experts")
        geometry = Experts(hidden, inner, count, expert_active(keys), prefix="feed_forward", names=names)
        experts = moe(read_experts(keys, geometry))
    attends = attention(heads, names=("q_proj", "k_proj", "v_proj", "out_proj"), norms=("q_layernorm", "k_layernorm"))
    mixers = {"attention": attends, "mamba": short_conv(hidden, kernel, bias=bias)}
    mixers["conv"] = mixers["mamba"]
    before, after = Norm("operator_norm", hidden), Norm("ffn_norm", hidden)
    blocks = layers(
        (before, *mixers[kind], after, *(mlp if index < first else experts)) for index, kind in enumerate(kinds)
    )
    frame = replace(read_frame(keys, tied=keys.flag("tie_embedding", default=True)), norm="model.embedding_norm")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


FAMILIES: dict[str, Builder] = {
    "qwen3_next": partial(qwen_hybrid, split=False, routed=True),
    "qwen3_5_text": partial(qwen_hybrid, split=True, routed=False),
    "qwen3_5_moe_text": partial(qwen_hybrid, split=True, routed=True),
    "kimi_linear": kimi_linear,
    "minimax": minimax,
    "minimax_text_01": minimax,
    "minimax_m1": minimax,
    "MiniMaxText01": minimax,
    "lfm2": partial(lfm2, routed=False),
    "lfm2_moe": partial(lfm2, routed=True),
}

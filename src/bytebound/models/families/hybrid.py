"""Families with recurrent layers: Mamba, Jamba, Nemotron-H, Falcon-H1, Qwen3-Next, Kimi Linear, MiniMax-01, LFM2."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Norm, Parameter, Recurrence
from bytebound.models.families.dense import LLAMA, Recipe, read_dense_heads
from bytebound.models.families.experts import (
    draft_tower,
    expert_active,
    expert_count,
    granite_experts,
    per_layer,
    read_draft,
)
from bytebound.models.families.frame import Frame, read_depth, read_frame, text_tower
from bytebound.models.families.pieces import (
    DEEPEST_STACK,
    Experts,
    attention,
    column,
    gated_mlp,
    layers,
    moe,
    plain_mlp,
    read_context,
    read_experts,
    row,
    whole,
)
from bytebound.models.families.recurrent import Mamba, Mamba2, mamba, mamba2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.architecture import Operator, Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


MIXERS = {
    "mamba": "mamba", "linear_attention": "mamba", "attention": "attention", "full_attention": "attention",
    "moe": "moe", "mlp": "mlp", "hybrid": "hybrid", "conv": "conv",
}  # fmt: skip
"""What layer kinds are called in files, and here."""


def layer_kinds(keys: Keys, depth: int, *, attending: Sequence[int] = ()) -> list[str]:
    """Return the kind of every layer: ``layer_types`` under either name, or the numbers of the attending ones."""
    name = "layers_block_type" if keys.has("layers_block_type") else "layer_types"
    listed = keys.words(name)
    keys.skip("layers_block_type", "layer_types")
    if listed is None:
        return ["attention" if index in attending else "mamba" for index in range(depth)]
    for word in listed:
        if word not in MIXERS:
            raise keys.error(name, f"{word!r} is not a kind of layer this family has", f"use {', '.join(MIXERS)}")
    return [MIXERS[word] for word in per_layer(keys, name, listed, depth)]


def read_mamba(keys: Keys, hidden: int, *, prefix: str = "", norms: bool = False) -> Mamba:
    """Read a first-generation state space; ``prefix`` is Jamba's ``mamba_``."""
    inner = keys.int(f"{prefix}expand", 2, most=64) * hidden
    if not prefix:
        inner = keys.int("intermediate_size", inner, also=("d_inner",))
    name = f"{prefix}dt_rank" if prefix else "time_step_rank"
    automatic = keys.values.get(name, "auto") == "auto"
    if automatic:
        keys.skip(name)
    return Mamba(
        hidden,
        inner,
        keys.int(f"{prefix}d_state" if prefix else "state_size", 16, most=65536),
        -(-hidden // 16) if automatic else keys.int(name),
        keys.int(f"{prefix}d_conv" if prefix else "conv_kernel", 4, most=1024),
        bias=keys.flag(f"{prefix}proj_bias" if prefix else "use_bias", default=False),
        conv_bias=keys.flag(f"{prefix}conv_bias" if prefix else "use_conv_bias", default=True),
        norms=norms,
    )


def state_space(keys: Keys) -> list[Tower]:
    """Mamba and Falcon-Mamba: nothing but selective state spaces."""
    hidden = keys.int("hidden_size", also=("d_model",))
    keys.skip("ssm_cfg", "rms_norm", "fused_add_norm", "layer_types")
    ops: Ops = (Norm("norm", hidden), *mamba(read_mamba(keys, hidden)))
    blocks = layers([ops] * read_depth(keys), prefix="backbone.layers")
    frame = Frame(keys.int("vocab_size"), keys.tied(default=True), embed="backbone.embeddings", norm="backbone.norm_f")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


def state_space2(keys: Keys) -> list[Tower]:
    """Mamba-2 (and Mamba-Codestral): nothing but state-space duality layers."""
    hidden = keys.int("hidden_size")
    dim = keys.int("head_dim", 64)
    expand = keys.int("expand", 2, most=64)
    keys.skip("rms_norm", "time_step_rank", "intermediate_size", "layer_types", "norm_before_gate")
    bias = keys.flag("use_bias", default=False)
    shape = Mamba2(
        hidden,
        keys.int("num_heads", expand * hidden // dim, most=65536),
        dim,
        keys.int("n_groups", 8, most=65536),
        keys.int("state_size", 128, most=65536),
        keys.int("conv_kernel", 4, most=1024),
        bias=bias,
        conv_bias=keys.flag("use_conv_bias", default=True),
        out_bias=bias,
    )
    ops: Ops = (Norm("norm", hidden), *mamba2(shape))
    blocks = layers([ops] * read_depth(keys), prefix="backbone.layers")
    frame = Frame(keys.int("vocab_size"), keys.tied(default=False), embed="backbone.embeddings", norm="backbone.norm_f")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


def jamba(keys: Keys) -> list[Tower]:
    """Jamba: one attention in eight layers, experts in every second one."""
    heads = read_dense_heads(keys, Recipe())
    hidden, depth = heads.hidden, read_depth(keys)
    period, offset = keys.int("attn_layer_period", 8, most=DEEPEST_STACK), keys.int("attn_layer_offset", 4, least=0)
    every, start = keys.int("expert_layer_period", 2, most=DEEPEST_STACK), keys.int("expert_layer_offset", 1, least=0)
    kinds = layer_kinds(keys, depth, attending=[i for i in range(depth) if i % period == offset])
    normed = keys.flag("mamba_inner_layernorms", default=True)
    shape = read_mamba(keys, hidden, prefix="mamba_", norms=normed)
    width, count = keys.int("intermediate_size"), expert_count(keys, "num_experts")
    geometry = Experts(hidden, width, count, expert_active(keys, 2), prefix="feed_forward", gate="router")
    experts, mlp = moe(read_experts(keys, geometry)), gated_mlp(hidden, width, prefix="feed_forward")

    def layer(index: int) -> Ops:
        mixer = attention(heads) if kinds[index] == "attention" else mamba(shape, prefix="mamba")
        routed = count > 1 and index % every == start
        return (
            Norm("input_layernorm", hidden),
            *mixer,
            Norm("pre_ff_layernorm", hidden),
            *(experts if routed else mlp),
        )

    frame = replace(read_frame(keys, tied=False), norm="model.final_layernorm")
    return [text_tower(frame, layers(map(layer, range(depth))), hidden=hidden, context=read_context(keys))]


def read_mamba2(keys: Keys, hidden: int, *, norm: bool = True) -> Mamba2:
    """Read a Mamba-2 layer under the ``mamba_`` names of Bamba, Granite 4 and Falcon-H1."""
    inner = keys.int("mamba_expand", 2, most=64) * hidden
    inner = keys.int("mamba_d_ssm", inner)
    count = keys.int("mamba_n_heads", 128, most=65536)
    dim = 0 if keys.values.get("mamba_d_head") == "auto" else keys.maybe_int("mamba_d_head") or 0
    keys.skip("mamba_d_head", "mamba_use_mlp")
    bias = keys.flag("mamba_proj_bias", default=False)
    return Mamba2(
        hidden,
        count,
        dim or inner // count,
        keys.int("mamba_n_groups", 1, most=65536),
        keys.int("mamba_d_state", 256, most=65536),
        keys.int("mamba_d_conv", 4, most=1024),
        bias=bias,
        conv_bias=keys.flag("mamba_conv_bias", default=True),
        norm=norm,
        out_bias=bias,
    )


def bamba(keys: Keys) -> list[Tower]:
    """Bamba: Mamba-2 layers with attention at listed places."""
    heads = read_dense_heads(keys, LLAMA)
    hidden, depth = heads.hidden, read_depth(keys)
    kinds = layer_kinds(keys, depth, attending=keys.ints("attn_layer_indices") or ())
    mixers = {"attention": attention(heads), "mamba": mamba2(read_mamba2(keys, hidden), prefix="mamba")}
    bias = keys.flag("mlp_bias", default=False)
    mlp = gated_mlp(hidden, keys.int("intermediate_size"), prefix="feed_forward", bias=bias)
    first, second = Norm("input_layernorm", hidden), Norm("pre_ff_layernorm", hidden)
    blocks = layers((first, *mixers[kind], second, *mlp) for kind in kinds)
    frame = replace(read_frame(keys, tied=False), norm="model.final_layernorm")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys))]


def granite_hybrid(keys: Keys) -> list[Tower]:
    """Granite 4: Mamba-2 and attention layers, each followed by experts and a shared MLP, or the MLP alone."""
    heads = read_dense_heads(keys, LLAMA)
    hidden, depth = heads.hidden, read_depth(keys)
    kinds = layer_kinds(keys, depth)
    mixers = {"attention": attention(heads), "mamba": mamba2(read_mamba2(keys, hidden), prefix="mamba")}
    feed = granite_experts(keys, heads)
    keys.skip("position_embedding_type", "attention_type", "init_method")
    first, second = Norm("input_layernorm", hidden), Norm("post_attention_layernorm", hidden)
    blocks = layers((first, *mixers[kind], second, *feed) for kind in kinds)
    return [text_tower(read_frame(keys, tied=False), blocks, hidden=hidden, context=read_context(keys))]


def falcon_h1(keys: Keys) -> list[Tower]:
    """Falcon-H1: attention and Mamba-2 side by side in every layer."""
    heads = read_dense_heads(keys, LLAMA)
    hidden, depth = heads.hidden, read_depth(keys)
    keys.skip("layer_types", "layers_block_type", "attn_layer_indices", "ssm_multipliers", "mlp_expansion_factor")
    normed = keys.flag("mamba_rms_norm", default=False)
    shape = replace(read_mamba2(keys, hidden, norm=normed), out_bias=keys.flag("projectors_bias", default=False))
    bias = keys.flag("mlp_bias", default=False)
    ops: Ops = (
        Norm("input_layernorm", hidden),
        *mamba2(shape, prefix="mamba"),
        *attention(heads),
        Norm("pre_ff_layernorm", hidden),
        *gated_mlp(hidden, keys.int("intermediate_size"), prefix="feed_forward", bias=bias),
    )
    frame = replace(read_frame(keys, tied=False), norm="model.final_layernorm")
    return [text_tower(frame, layers([ops] * depth), hidden=hidden, context=read_context(keys))]


PATTERN = {"M": "mamba", "-": "mlp", "*": "attention", "E": "moe"}
"""Letters of Nemotron-H's ``hybrid_override_pattern``."""


def nemotron_kinds(keys: Keys, name: str, listed: str) -> list[str]:
    """Return the kinds of layers of a pattern, or of the list that newer configs write."""
    if keys.has(listed):
        keys.skip(name)
        words = keys.words(listed) or ()
        for word in words:
            if word not in MIXERS:
                raise keys.error(listed, f"{word!r} is not a kind of layer this family has", f"use {', '.join(MIXERS)}")
        return [MIXERS[word] for word in words]
    pattern = keys.word(name, "")
    for letter in pattern:
        if letter not in PATTERN:
            raise keys.error(name, f"{letter!r} is not a kind of layer", f"use {' '.join(PATTERN)}")
    if len(pattern) > DEEPEST_STACK:
        raise keys.error(name, f"the pattern has {len(pattern)} layers", f"write at most {DEEPEST_STACK}")
    return [PATTERN[letter] for letter in pattern]


def nemotron_h(keys: Keys) -> list[Tower]:
    """Nemotron-H and Nemotron 3: one mixer a layer, Mamba-2, attention, MLP or experts, as a pattern says."""
    heads = read_dense_heads(keys, Recipe(qkv_bias="attention_bias", out_bias="attention_bias", head_dim=128))
    hidden = heads.hidden
    kinds = nemotron_kinds(keys, "hybrid_override_pattern", "layers_block_type")
    depth = read_depth(keys, default=len(kinds))
    kinds = list(per_layer(keys, "hybrid_override_pattern", kinds, depth))
    keys.skip("expand", "time_step_rank", "use_bias", "moe_shared_expert_overlap")
    projected = keys.flag("mamba_proj_bias", default=False) or keys.flag("use_bias", default=False)
    shape = Mamba2(
        hidden,
        keys.int("mamba_num_heads", 128, most=65536),
        keys.int("mamba_head_dim", 64),
        keys.int("n_groups", 8, most=65536),
        keys.int("ssm_state_size", 128, most=65536),
        keys.int("conv_kernel", 4, most=1024),
        bias=projected,
        conv_bias=keys.flag("use_conv_bias", default=True),
        out_bias=projected,
    )
    bias = keys.flag("mlp_bias", default=False)
    ahead = read_draft(keys)
    tails = nemotron_kinds(keys, "mtp_hybrid_override_pattern", "mtp_layers_block_type") or ["attention", "moe"]
    mixers: dict[str, Ops] = {
        "mamba": mamba2(shape),
        "attention": attention(heads, prefix="mixer"),
        "mlp": plain_mlp(hidden, keys.int("intermediate_size", 21504), prefix="mixer", bias=bias),
        "moe": nemotron_experts(keys, hidden, bias=bias) if "moe" in kinds else (),
    }
    norm = Norm("norm", hidden)
    blocks = layers(((norm, *mixers[kind]) for kind in kinds), prefix="backbone.layers")
    frame = replace(read_frame(keys, tied=False), embed="backbone.embeddings", norm="backbone.norm_f")
    tower = text_tower(frame, blocks, hidden=hidden, context=read_context(keys))
    body: Ops = tuple(op for kind in tails for op in (norm, *mixers[kind]))
    drafts = draft_tower(body, frame, hidden, ahead, index=0, shared=False, prefix="mtp.layers")
    return [tower, *drafts]


def nemotron_experts(keys: Keys, hidden: int, *, bias: bool) -> Ops:
    """Return Nemotron 3's experts: two matrices each, in a narrower latent stream where the config has one."""
    latent = keys.int("moe_latent_size", 0, least=0)
    count, active = expert_count(keys, "n_routed_experts"), expert_active(keys)
    width = keys.int("moe_intermediate_size")
    read_experts(keys, Experts(hidden, width, count, active))
    shared = keys.int("n_shared_experts", 1, least=0, most=1024) * keys.int(
        "moe_shared_expert_intermediate_size", width
    )
    inner = latent or hidden
    ops: list[Operator] = [whole("mixer.gate", hidden, count, "router")]
    if latent:
        ops += [
            whole("mixer.fc1_latent_proj", hidden, latent, "mlp"),
            whole("mixer.fc2_latent_proj", latent, hidden, "mlp"),
        ]
    ops += plain_mlp(inner, width, prefix="mixer.experts.{}", bias=bias, role="expert", copies=count, active=active)
    if shared:
        ops += plain_mlp(hidden, shared, prefix="mixer.shared_experts", bias=bias)
    return tuple(ops)


def rwkv(keys: Keys) -> list[Tower]:
    """RWKV-4: time mixing with a decaying sum per channel, channel mixing with a squared activation (arXiv 2305.13048)."""
    hidden, depth = keys.int("hidden_size"), read_depth(keys)
    inner = keys.int("attention_hidden_size", hidden)
    width = keys.int("intermediate_size", 4 * hidden)
    time = tuple(Parameter(f"attention.time_{name}", (inner,), role="mixer") for name in ("decay", "first"))
    mixes = tuple(
        Parameter(f"attention.time_mix_{name}", (hidden,), role="mixer") for name in ("key", "value", "receptance")
    )
    # Numerator, denominator and running maximum in fp32, and the last token of both mixings: 5 values a channel.
    state = Recurrence("attention.wkv", state_elements=3 * inner, conv_elements=2 * hidden, flop_per_token=12.0 * inner)
    ops: Ops = (
        Norm("ln1", hidden, 2),
        *time,
        *mixes,
        *(column(f"attention.{name}", hidden, inner, "mixer") for name in ("key", "value", "receptance")),
        state,
        row("attention.output", inner, hidden, "mixer"),
        Norm("ln2", hidden, 2),
        *(Parameter(f"feed_forward.time_mix_{name}", (hidden,), role="mixer") for name in ("key", "receptance")),
        column("feed_forward.key", hidden, width, "mlp"),
        column("feed_forward.receptance", hidden, hidden, "mlp"),
        row("feed_forward.value", width, hidden, "mlp"),
    )
    frame = Frame(
        keys.int("vocab_size"),
        keys.tied(default=False),
        embed="rwkv.embeddings",
        norm="rwkv.ln_out",
        norm_vectors=2,
        head="head",
        extra=(Norm("rwkv.blocks.0.pre_ln", hidden, 2),),
    )
    blocks = layers([ops] * depth, prefix="rwkv.blocks")
    return [text_tower(frame, blocks, hidden=hidden, context=read_context(keys, "context_length"))]


FAMILIES: dict[str, Builder] = {
    "rwkv": rwkv,
    "mamba": state_space,
    "falcon_mamba": state_space,
    "mamba2": state_space2,
    "jamba": jamba,
    "bamba": bamba,
    "granitemoehybrid": granite_hybrid,
    "falcon_h1": falcon_h1,
    "nemotron_h": nemotron_h,
}

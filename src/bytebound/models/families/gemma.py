"""Gemma 3n and Gemma 4 text models: per-layer inputs, shared key-value layers, wide global heads, experts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bytebound.documents.architecture import Embedding, Norm, Parameter
from bytebound.models.families.experts import expert_active, expert_count, per_layer
from bytebound.models.families.frame import Frame, read_depth, read_layer_types, span, text_tower
from bytebound.models.families.pieces import (
    Experts,
    Heads,
    attention,
    gated_mlp,
    layers,
    moe,
    read_context,
    read_experts,
    whole,
)

if TYPE_CHECKING:
    from bytebound.documents.architecture import Tower
    from bytebound.models.families import Builder
    from bytebound.models.families.pieces import Ops
    from bytebound.models.keys import Keys


SANDWICH = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True, slots=True)
class PerLayer:
    """Embeddings looked up for every layer: ``width`` values per layer from a table of ``rows``."""

    rows: int
    width: int
    depth: int
    hidden: int

    def before(self) -> Ops:
        """Return the table and the projection of the first embedding."""
        if not self.width:
            return ()
        total = self.width * self.depth
        return (
            Embedding("model.embed_tokens_per_layer", self.rows, total),
            whole("model.per_layer_model_projection", self.hidden, total, "other"),
            Norm("model.per_layer_projection_norm", self.width, token_scale=float(self.depth)),
        )

    def inside(self) -> Ops:
        """Return the operators each layer adds."""
        if not self.width:
            return ()
        return (
            whole("per_layer_input_gate", self.hidden, self.width, "mlp"),
            whole("per_layer_projection", self.width, self.hidden, "mlp"),
            Norm("post_per_layer_input_norm", self.hidden),
        )


def read_per_layer(keys: Keys, depth: int, hidden: int, *, saved_rows: int = 262144) -> PerLayer:
    """Read the per-layer embeddings."""
    width = keys.int("hidden_size_per_layer_input", 256, least=0)
    return PerLayer(keys.int("vocab_size_per_layer_input", saved_rows), width, depth, hidden)


def local_layers(keys: Keys, depth: int, *, every: int) -> list[bool]:
    """Return which layers look back a window only; the last layer never does."""
    named = read_layer_types(keys, depth)
    if named is not None:
        return [name == "sliding_attention" for name in named]
    return [(index + 1) % every != 0 and index < depth - 1 for index in range(depth)]


def gemma3n(keys: Keys) -> list[Tower]:
    """Gemma 3n: four parallel streams (AltUp), a low-rank residual (LAuReL), layers that read older keys and values."""
    hidden = keys.int("hidden_size", saved=2048)
    depth = read_depth(keys, saved=35)
    context = read_context(keys) or 32768
    bias = keys.flag("attention_bias", default=False)
    dim = keys.int("head_dim", 256)
    groups = keys.int("num_key_value_heads", 2, most=65536)
    heads = Heads(
        hidden,
        keys.int("num_attention_heads", 8, most=65536),
        groups,
        dim,
        dim,
        bias=bias,
        out_bias=bias,
        qk_norm="head",
    )
    window = keys.int("sliding_window", 512)
    if isinstance(keys.values.get("intermediate_size"), list):
        listed = keys.ints("intermediate_size", least=1) or ()
        widths = tuple(per_layer(keys, "intermediate_size", listed, depth))
    else:
        widths = (keys.int("intermediate_size", saved=16384),) * depth
    local = local_layers(keys, depth, every=5)
    shared = keys.int("num_kv_shared_layers", 15, least=0, most=depth)
    streams = keys.int("altup_num_inputs", 4, most=64)
    rank = keys.int("laurel_rank", 64)
    scale = keys.flag("altup_correct_scale", default=True)
    extra = read_per_layer(keys, depth, hidden)
    altup: Ops = (
        *((Parameter("altup.correct_output_scale", (hidden,)),) if scale else ()),
        whole("altup.correction_coefs", streams, streams, "other"),
        whole("altup.prediction_coefs", streams, streams * streams, "other"),
        whole("altup.modality_router", hidden, streams, "other"),
        Norm("altup.router_norm", hidden),
        whole("laurel.linear_left", hidden, rank, "other"),
        whole("laurel.linear_right", rank, hidden, "other"),
        Norm("laurel.post_laurel_norm", hidden),
    )
    norms = tuple(Norm(name, hidden) for name in SANDWICH)

    def layer(index: int) -> Ops:
        kind, reach = span("window" if local[index] else "full", window, context)
        attend = attention(heads, kind=kind, window=reach, cached=index < depth - shared)
        return (*altup, *norms[:1], *attend, *norms[1:], *gated_mlp(hidden, widths[index]), *extra.inside())

    merge: Ops = tuple(
        whole(f"model.altup_{name}.{index}", hidden, hidden, "other")
        for name in ("projections", "unembed_projections")
        for index in range(streams - 1)
    )
    vocab = keys.int("vocab_size", saved=262400)
    frame = Frame(vocab, keys.tied(default=True), extra=(*extra.before(), *merge))
    return [text_tower(frame, layers(map(layer, range(depth))), hidden=hidden, context=context)]


def gemma4(keys: Keys) -> list[Tower]:
    """Gemma 4: global layers with wide heads (keys doubling as values), per-layer inputs or experts beside the MLP."""
    hidden = keys.int("hidden_size", saved=2304)
    depth = read_depth(keys, saved=30)
    context = read_context(keys) or 131072
    count = keys.int("num_attention_heads", saved=8, most=65536)
    groups = keys.int("num_key_value_heads", 4 if keys.parent is not None else count, most=65536)
    dim = keys.int("head_dim", 256)
    bias = keys.flag("attention_bias", default=False)
    same = keys.flag("attention_k_eq_v", default=False)
    sliding = Heads(hidden, count, groups, dim, dim, bias=bias, out_bias=bias, qk_norm="head")
    wide = keys.int("global_head_dim", 512)
    wide_groups = keys.int("num_global_key_value_heads", groups, most=65536) if same else groups
    keys.skip("num_global_key_value_heads")
    globals_ = replace(sliding, dim=wide, v_dim=wide, kv_heads=wide_groups)
    window = keys.int("sliding_window", 512)
    local = local_layers(keys, depth, every=6)
    local[-1] = False
    shared = keys.int("num_kv_shared_layers", 0, least=0, most=depth)
    double = keys.flag("use_double_wide_mlp", default=False)
    width = keys.int("intermediate_size", saved=9216)
    extra = read_per_layer(keys, depth, hidden)
    experts: Ops = ()
    if keys.flag("enable_moe_block", default=False):
        geometry = Experts(
            hidden, keys.int("moe_intermediate_size"), expert_count(keys, "num_experts"), expert_active(keys), prefix=""
        )
        routed = moe(read_experts(keys, replace(geometry, gate="router.proj")))
        experts = (
            Parameter("router.scale", (hidden,), role="router"),
            Parameter("router.per_expert_scale", (geometry.count,), role="router"),
            *routed,
            Norm("pre_feedforward_layernorm_2", hidden),
            Norm("post_feedforward_layernorm_1", hidden),
            Norm("post_feedforward_layernorm_2", hidden),
        )
    keys.skip("num_experts", "top_k_experts", "moe_intermediate_size")
    norms = tuple(Norm(name, hidden) for name in SANDWICH)

    def layer(index: int) -> Ops:
        kind, reach = span("window" if local[index] else "full", window, context)
        cached = index < depth - shared
        attend = attention(sliding if local[index] else globals_, kind=kind, window=reach, cached=cached)
        if same and not local[index]:
            attend = tuple(op for op in attend if not op.name.endswith("v_proj"))
        inner = width * (2 if double and not cached else 1)
        return (*norms[:1], *attend, *norms[1:], *gated_mlp(hidden, inner), *experts, *extra.inside())

    vocab = keys.int("vocab_size", saved=262144)
    frame = Frame(vocab, keys.tied(default=True), extra=extra.before())
    return [text_tower(frame, layers(map(layer, range(depth))), hidden=hidden, context=context)]


FAMILIES: dict[str, Builder] = {"gemma3n_text": gemma3n, "gemma4_text": gemma4}

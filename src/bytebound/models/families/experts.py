"""Parts of decoders with a mixture of experts: which layers hold them, their keys, and prediction layers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from bytebound.documents.architecture import Norm, Tower
from bytebound.models.families.dense import norm_ops, read_spans
from bytebound.models.families.frame import read_frame, text_tower
from bytebound.models.families.pieces import (
    DEEPEST_STACK,
    Experts,
    attention,
    gated_mlp,
    layers,
    moe,
    read_context,
    read_experts,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.models.families.dense import Recipe
    from bytebound.models.families.frame import Frame
    from bytebound.models.families.pieces import Heads, Kind, Ops
    from bytebound.models.keys import Keys

T = TypeVar("T")


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


def read_draft(keys: Keys) -> int:
    """Read the number of multi-token-prediction layers."""
    return keys.int("num_nextn_predict_layers", 0, also=("num_mtp_layers",), least=0, most=64)


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

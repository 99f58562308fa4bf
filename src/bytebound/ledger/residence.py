"""What stays in memory: weights, KV cache and states, and the activation peak, on the fullest device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger import table as t
from bytebound.ledger.request import expert_plan, in_layers, kv_share, shard_fraction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.ledger.request import Request
    from bytebound.ledger.table import OpTable, Scores

    Array = NDArray[Any]


def kv_bytes_at(s: Scores, context: Array, kv_bits: Array) -> Array:
    """Return KV bytes one sequence keeps per occurrence of each row at ``context`` tokens, unsharded.

    Source: 2 n_kv d_h per token (GQA), d_c + d_r (MLA); windows keep at most their width; an indexer keeps all.
    """
    kept = np.minimum(context, s.window[:, None])
    return np.asarray((s.own[:, None] * kept + s.index_elements[:, None] * context) * kv_bits / 8)


def kv_bytes_per_token(table: OpTable, r: Request) -> Array:
    """Return KV bytes per token on one device while every window has room, (requests,)."""
    s = table.scores
    mains = (s.stream == t.MAIN) & (s.kind != t.CROSSED)
    each = (s.own + s.index_elements)[:, None] * kv_share(s, r.tp) * (s.repeat * mains)[:, None]
    return np.asarray(each.sum(axis=0) * r.kv_bits / 8 * r.kv_scale / r.pp)


def kv_bytes_per_sequence(table: OpTable, r: Request, context: Array) -> Array:
    """Return KV and state bytes one sequence of ``context`` tokens keeps on one device, (requests,)."""
    s, x = table.scores, table.streams
    mains = ((s.stream == t.MAIN) & (s.kind != t.CROSSED))[:, None]
    self_kv = np.where(mains, kv_bytes_at(s, context, r.kv_bits) * kv_share(s, r.tp), 0.0)
    crossed = (s.kind == t.CROSSED) & (s.stream == t.MAIN) & (table.kind == "decoder")
    cross_tokens = table.encoder_tokens or r.prompt
    cross_kv = (s.kv_heads * (s.qk_dim + s.v_dim) * crossed)[:, None] * cross_tokens * r.kv_bits / 8 * kv_share(s, r.tp)
    kept = ((self_kv + cross_kv) * s.repeat[:, None]).sum(axis=0) * r.kv_scale
    states = (x.state_bytes * x.repeat).sum() / r.tp
    return np.asarray((kept + states) / r.pp)


def resident_weight_bytes(table: OpTable, r: Request) -> Array:
    """Return weight bytes the fullest device holds, (requests,): its share of every layer it serves, plus an end.

    With a pipeline the fullest stage holds ⌈layers / pp⌉ layers and either the embedding or the head. Of weights that stay
    in host memory one layer's at a time are here: vLLM's ``--cpu-offload-gb`` and accelerate copy a layer before it runs.
    """
    p, x = table.products, table.streams
    is_expert, _, expert_tp = expert_plan(p, r)
    body_rows = in_layers(p)
    share = shard_fraction(p.shard, p.units, np.where(is_expert, expert_tp, r.tp))
    held = np.where(is_expert, np.ceil(p.copies[:, None] / r.ep), 1.0)
    each = p.elements[:, None] * r.weight_bits / 8 * share * held * p.repeat[:, None] * (1 - p.tied[:, None])
    matrices = np.where(body_rows, each * r.scale, 0.0).sum(axis=0)
    head = np.where(body_rows, 0.0, each * r.width_scale).sum(axis=0)
    tables = x.elements[:, None] * r.table_bits / 8 * x.repeat[:, None]
    looked_up = (x.looked_up > 0)[:, None]
    small = np.where(looked_up, 0.0, tables).sum(axis=0)
    embedding = np.where(looked_up, tables, 0.0).sum(axis=0) / r.tp * r.width_scale
    stage = np.minimum(np.ceil(table.layers / r.pp) / table.layers, 1.0)
    ends = np.where(
        r.pp > 1, np.maximum(embedding, np.maximum(head, embedding * (p.tied.max(initial=0) > 0))), embedding + head
    )
    passing = matrices * r.host_weights / table.layers
    return np.asarray((matrices * (1 - r.host_weights) + small) * stage + passing + ends)


HIDDEN_ALIVE = 4
"""Copies of the residual stream alive at the peak of a step: residual, normalised input, product, embedding. Source: printed
activation peaks of vLLM 0.7 (Qwen2.5-1.5B, 32,768 tokens, 2.02 GiB: 4.05; Qwen2.5-7B, 8,192 tokens, 1.09 GiB: 4.07;
Qwen3-4B, 10,000 tokens, 0.74 GiB: 4.1) and 0.6.4 (Llama-3.1-8B, 29,000 tokens, 2.99 GiB: 3.0)."""


def activation_peak_bytes(
    table: OpTable,
    r: Request,
    *,
    pass_tokens: Array | None = None,
    logit_bytes: float = 4.0,
    every_logit: bool = False,
) -> Array:
    """Return the largest set of activations alive at once in one step, (requests,).

    In a layer the widest product's output and the next product's input are alive beside ``HIDDEN_ALIVE`` copies of the
    residual stream (3 I + 4 H elements per token for a gated MLP); eager attention adds one layer's scores
    and their fp32 softmax. After the last
    layer only logits are alive, so the larger of the two is the peak. Engines that profile at start keep the peak of a
    full chunk and of their largest batch of logits free for ever. An estimate with an interval, not a bound.

    Args:
        table: the model.
        r: the request; ``r.profiled`` sequences are sampled together in the start-up pass.
        pass_tokens: tokens of that pass; None: a chunk of the request.
        logit_bytes: bytes alive per sampled sequence and vocabulary entry: 4 for fp32 logits, 38.9 where vLLM sorts them.
        every_logit: whether logits of every prompt token are made, not of each sequence's last alone.
    """
    p, s = table.products, table.scores
    encoder_only = table.kind != "decoder"
    per_request = np.maximum(table.main_tokens, 1.0) if table.kind == "denoiser" else r.prompt
    if encoder_only:
        step_tokens = r.batch * per_request
    else:
        whole = r.chunk if pass_tokens is None else pass_tokens
        asked = whole if r.profiled else np.minimum(np.maximum(r.prompt, r.batch), r.chunk)
        step_tokens = np.maximum(asked, r.batch)
    inner = np.array([role not in {"head", "embedding", "expert"} for role in p.roles])
    mains = (inner & (p.stream == t.MAIN))[:, None]
    share = shard_fraction(p.shard, p.units, r.tp)
    row = (p.shard == t.ROW)[:, None]
    scale = p.token_scale[:, None]
    widest_out = np.where(mains & ~row, p.outputs[:, None] * share * scale, 0.0).max(axis=0, initial=0.0)
    widest_in = np.where(mains & row, p.inputs[:, None] * share * scale, 0.0).max(axis=0, initial=0.0)
    expert = (p.copies > 1)[:, None]
    dealt = p.active[:, None] / np.maximum(r.tp, r.ep)
    experts_out = np.where(expert & ~row, dealt * p.outputs[:, None], 0.0).max(axis=0, initial=0.0)
    experts_in = np.where(expert & row, dealt * p.inputs[:, None], 0.0).max(axis=0, initial=0.0)
    widest = np.maximum(widest_out + widest_in, experts_out + experts_in)
    alive = step_tokens * (HIDDEN_ALIVE * table.hidden + widest) * r.activation_bytes * r.width_scale
    heads = np.ceil(s.heads[:, None] / r.tp).max(axis=0, initial=0.0)
    scores = step_tokens * np.minimum(r.prompt, per_request) * heads * (r.activation_bytes + 4.0) if r.eager else 0.0
    if encoder_only:
        return np.asarray(alive + scores)
    vocabulary = np.where(p.shard == t.VOCAB, p.outputs, 0.0).max(initial=0.0)
    positions = step_tokens if every_logit else np.maximum(r.batch, r.profiled)
    return np.asarray(np.maximum(alive + scores, positions * vocabulary * logit_bytes))


def usable_bytes(
    basis: str, share: float, *, visible: Array, weights: Array, activations: Array, reserve: Array
) -> Array:
    """Return the bytes of one device that weights, activations, reserve and cache may take together, (requests,).

    Args:
        basis: what ``share`` is a share of. ``total``: all a program can get (vLLM). ``static``: what is free before
            loading, for weights and cache; activations live in the rest (SGLang). ``free``: what loading and start-up leave,
            for the cache alone (TensorRT-LLM).
        share: the engine's share, 0 to 1.
        visible: memory a program can get [B].
        weights: resident weights [B].
        activations: their peak [B].
        reserve: what the engine keeps beside them [B].
    """
    if basis == "static":
        return np.asarray(np.minimum(reserve + activations + share * (visible - reserve), visible))
    if basis == "free":
        held = weights + activations + reserve
        return np.asarray(held + share * (visible - held))
    return np.asarray(share * visible + np.zeros_like(weights))

"""The inference ledger: decode steps and prefill passes of one device.

Every function broadcasts: request quantities have shape (requests,), rows of a table (rows, 1), results
(rows, requests). The formulas are stated once, here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.facts.formats import FORMS
from bytebound.ledger import table as t
from bytebound.ledger.ledger import (
    ALL_REDUCE,
    ALL_TO_ALL,
    ATTENTION,
    COLLECTIVE,
    CONTEXT,
    ELEMENTWISE,
    EXPERT,
    GEMM,
    HOST,
    MATH,
    NONE,
    SCALE_OUT,
    SEND,
    Ledger,
    stack,
)
from bytebound.ledger.request import expert_plan, in_layers, kv_share, shard_fraction
from bytebound.ledger.residence import kv_bytes_per_token

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.ledger.request import Request
    from bytebound.ledger.table import OpTable, Scores

    Array = NDArray[Any]

STATE_PASSES = 2.0
"""A recurrent state is read and written once per step."""
HALF_WIDTH_BITS = 9.0
"""A KV cache of at most this many bits a value is read by the kernels for 8-bit caches."""
SCORE_PASSES = 4.0
"""Eager attention writes scores, reads them for softmax, writes probabilities and reads them for the weighted sum."""


def experts_hit(copies: Array, active: Array, tokens: Array) -> Array:
    """Return distinct experts visited by ``tokens`` tokens under uniform routing: E (1 − (1 − k/E)^B).

    Source: expectation of distinct bins; levers of MoE batching (DeepSeek-V3 technical report section 3.4).
    """
    return np.asarray(copies * -np.expm1(tokens * np.log1p(-np.minimum(active / copies, 1 - 1e-12))))


def product_rows(table: OpTable, r: Request, tokens: Array, passes: Array) -> Ledger:
    """Return the ledger rows of every matrix product.

    Args:
        table: the compiled model.
        r: the request.
        tokens: tokens per stream code (4, requests): main, sequences, encoder, cross.
        passes: how often weights are re-read (prompt chunks), (requests,).
    """
    p = table.products
    n = tokens[p.stream] * p.token_scale[:, None]
    working = n > 0
    is_expert, group_tokens, expert_tp = expert_plan(p, r)
    body = in_layers(p)
    grown = np.where(body, r.scale, r.width_scale)
    wide = np.where(body, r.width_scale, 1.0)
    degree = np.where(is_expert, expert_tp, r.tp)
    share = shard_fraction(p.shard, p.units, degree)
    copies, active = p.copies[:, None], p.active[:, None]
    expert_n = n * group_tokens
    hit = np.where(is_expert, experts_hit(copies, active, expert_n / passes), 1.0)
    held_hit = np.where(is_expert, np.minimum(hit / np.minimum(r.ep, copies), np.ceil(copies / r.ep)), 1.0)
    used = np.where(is_expert, expert_n * active / np.minimum(r.ep, copies), n)
    rows_in = np.where((p.shard == t.ROW)[:, None], share, 1.0)
    rows_out = np.where((p.shard == t.ROW)[:, None], 1.0, share)
    values = (p.inputs[:, None] * rows_in + p.outputs[:, None] * rows_out) * wide
    weights = p.elements[:, None] * grown * share * r.weight_bits / 8 * held_hit
    repeats = np.where((p.stream == t.SEQUENCE)[:, None], 1.0, passes)
    launches = p.launches[:, None] * np.where(working, repeats, 0.0)
    zero = np.zeros((1, 1))
    return Ledger(
        names=p.names, roles=p.roles, op_class=np.where(p.copies > 1, EXPERT, GEMM), pattern=np.full(len(p.names), NONE),
        math=r.math, form=r.form, repeat=p.repeat[:, None], flops=p.flop_per_token[:, None] * grown * share * used,
        weight_bytes=np.where(working, weights * repeats, 0.0), kv_bytes=zero,
        activation_bytes=used * values * r.activation_bytes, network_bytes=zero, group=zero + 1.0, launches=launches,
    )  # fmt: skip


def reads_at(s: Scores, context: Array) -> Array:
    """Return keys one query reads at ``context`` tokens, (rows, requests): the window, the selection or all of them."""
    inside = np.minimum(context, s.window[:, None])
    return np.asarray(np.minimum(inside, s.selected[:, None]))


def _pairs(count: Array, limit: Array) -> Array:
    """Return query-key pairs of causal attention over positions 1 … count with at most ``limit`` keys each."""
    capped = np.minimum(count, limit)
    finite = np.where(np.isfinite(limit), limit, 0.0)
    return np.asarray(capped * (capped + 1) / 2 + np.maximum(count - capped, 0.0) * finite)


def attention_decode_rows(table: OpTable, r: Request, context: Array, encoder: Array) -> Ledger:
    """Return the attention rows of one decode step at ``context`` tokens per sequence."""
    s = table.scores
    mains = (s.stream == t.MAIN)[:, None]
    crossed = (s.kind == t.CROSSED)[:, None]
    latent = (s.kind == t.LATENT)[:, None]
    queries = np.where(mains, r.microbatch * (1 + r.draft), 0.0)
    sequences = np.where(mains, r.microbatch, 0.0)
    length = np.where(crossed, encoder, context) + np.zeros_like(queries)
    reads = reads_at(s, length)
    heads = s.heads[:, None] * np.ceil(s.heads[:, None] / r.tp) / s.heads[:, None]
    widths = np.where(latent, 2 * s.latent[:, None] + s.rope[:, None], s.qk_dim[:, None] + s.v_dim[:, None])
    entries = reads / s.stride[:, None]
    own = np.where(crossed, s.kv_heads[:, None] * (s.qk_dim + s.v_dim)[:, None], s.own[:, None] * s.stride[:, None])
    shared = np.where((s.own == 0)[:, None] & ~crossed, s.kv_heads[:, None] * (s.qk_dim + s.v_dim)[:, None], own)
    per_query = np.where(latent, s.latent[:, None] + s.rope[:, None], shared)
    read_bytes = sequences * (entries * per_query + s.index_elements[:, None] * length) * r.kv_bits / 8
    written = queries * (s.own + s.index_elements)[:, None] * r.kv_bits / 8
    flops = 2.0 * queries * heads * entries * widths + queries * s.index_flop[:, None] * length
    passed = queries * heads * (s.qk_dim + s.v_dim)[:, None] * r.activation_bytes
    return _attention_ledger(
        s, r, flops=flops * r.kv_scale, kv=(read_bytes + written) * kv_share(s, r.tp) * r.kv_scale,
        passed=passed * r.width_scale, launches=np.where(mains, 1.0, 0.0), queries=queries * heads,
        pairs=queries * heads * entries, op_class=ATTENTION,
    )  # fmt: skip


def attention_prefill_rows(table: OpTable, r: Request, tokens: Array, past: Array, passes: Array) -> Ledger:
    """Return the attention rows of a prefill of ``tokens[MAIN]`` new tokens after ``past`` cached ones.

    ``tokens`` are totals over the requests taken together; ``tokens[SEQUENCE]`` is how many requests those are.
    """
    s = table.scores
    images = np.where((s.stream == t.ENCODER)[:, None] & (not table.crosses), np.maximum(r.images, 1.0), 1.0)
    requests = np.maximum(tokens[t.SEQUENCE], 1.0) * images  # images do not attend to each other
    crossed = (s.kind == t.CROSSED)[:, None]
    scale = s.token_scale[:, None]
    new = tokens[s.stream] * scale / requests
    before = np.where((s.stream == t.MAIN)[:, None] & ~crossed, past, 0.0)
    limit = np.minimum(s.window, s.selected)[:, None] + np.zeros_like(new)
    triangle = _pairs(before + new, limit) - _pairs(before + 0 * new, limit)
    keys = np.where(crossed, tokens[t.CROSS] / np.maximum(tokens[t.SEQUENCE], 1.0), np.minimum(before + new, limit))
    square = new * keys
    pairs = np.where((s.causal > 0)[:, None] & ~crossed, triangle, square) / s.stride[:, None]
    heads = np.ceil(s.heads[:, None] / r.tp)
    widths = (s.qk_dim + s.v_dim)[:, None]
    unlimited = np.full_like(new, np.inf)
    flops = requests * (
        2.0 * pairs * heads * widths
        + s.index_flop[:, None] * (_pairs(before + new, unlimited) - _pairs(before + 0 * new, unlimited))
    )
    own = np.maximum(s.own * s.stride, np.where(s.kind == t.LATENT, 0.0, s.kv_heads * (s.qk_dim + s.v_dim)))[:, None]
    reread = np.where(crossed, keys, np.minimum(passes * before + new * (passes + 1) / 2, limit * passes))
    kv = requests * (reread * own + new * s.own[:, None]) * r.kv_bits / 8 * kv_share(s, r.tp)
    scores = SCORE_PASSES * pairs * heads * r.activation_bytes if r.eager else 0.0
    passed = requests * (new * heads * widths * r.activation_bytes * r.width_scale + scores)
    return _attention_ledger(
        s, r, flops=flops * r.width_scale, kv=np.where(new > 0, kv, 0.0) * r.kv_scale, passed=passed,
        launches=np.where(new > 0, passes, 0.0), queries=requests * new * heads, pairs=requests * pairs * heads, op_class=CONTEXT,
    )  # fmt: skip


def _attention_ledger(
    s: Scores,
    r: Request,
    *,
    flops: Array,
    kv: Array,
    passed: Array,
    launches: Array,
    queries: Array,
    pairs: Array,
    op_class: int,
) -> Ledger:
    zero = np.zeros((1, 1))
    count = len(s.names)
    return Ledger(
        names=s.names, roles=("attention-scores",) * count, op_class=np.full(count, op_class),
        pattern=np.full(count, NONE), math=np.full((count, 1), MATH.index("bf16")), repeat=s.repeat[:, None], flops=flops,
        weight_bytes=zero, kv_bytes=kv, activation_bytes=passed, network_bytes=zero, group=zero + 1.0,
        launches=launches + np.zeros_like(r.tp), queries=queries, pairs=pairs,
        form=np.broadcast_to(np.where(r.kv_bits <= HALF_WIDTH_BITS, FORMS.index("fp8"), 0)[None, :], (count, len(r.kv_bits))),
    )  # fmt: skip


def stream_rows(table: OpTable, r: Request, tokens: Array, sequences: Array, passes: Array) -> Ledger:
    """Return the rows that only pass data through: norms, look-ups, recurrent states, small parameters."""
    x = table.streams
    n = tokens[x.stream] * x.token_scale[:, None]
    working = np.where(n > 0, 1.0, 0.0)
    values = 2.0 * n * x.width[:, None] * r.width_scale * r.activation_bytes
    state = STATE_PASSES * sequences * x.state_bytes[:, None] / r.tp * passes * working
    own = np.where((x.looked_up > 0)[:, None], 0.0, x.elements[:, None] * r.table_bits / 8) * working * passes
    zero = np.zeros((1, 1))
    count = len(x.names)
    return Ledger(
        names=x.names, roles=x.roles, op_class=np.full(count, ELEMENTWISE), pattern=np.full(count, NONE),
        math=np.full((count, 1), MATH.index("fp32")), repeat=x.repeat[:, None],
        flops=n * x.flop_per_token[:, None] / r.tp, weight_bytes=own, kv_bytes=state, activation_bytes=values,
        network_bytes=zero, group=zero + 1.0, launches=x.launches[:, None] * working * passes,
    )  # fmt: skip


def collective_rows(table: OpTable, r: Request, tokens: Array, passes: Array) -> list[Ledger]:
    """Return what is communicated: tensor all-reduces, expert exchanges, pipeline hand-overs, the sharded head.

    Payloads are what one device contributes; ``predict.links`` turns them into traffic per link. Source: Megatron-LM
    (arXiv 1909.08053) section 3 for the all-reduce after each row-split product; DeepSeek-V3 section 3.4 for dispatch
    and combine of k hidden vectors per token.
    """
    p = table.products
    reduces = np.flatnonzero((p.reduces > 0) & (p.copies == 1))
    experts = np.flatnonzero((p.reduces > 0) & (p.copies > 1))
    n = tokens[p.stream] * p.token_scale[:, None]
    hidden = p.outputs[:, None] * r.width_scale * r.activation_bytes
    payload = n * hidden
    # a device sends the tokens it owns: those of the replica are dealt to the devices that share its attention
    exchanged = payload * np.minimum(p.active[:, None], r.ep) / np.minimum(r.tp, r.ep)
    by_exchange = (r.ep > 1)[None, :]
    head = np.flatnonzero(p.shard == t.VOCAB)
    logits = n[head] * p.outputs[head, None] * r.activation_bytes
    sent = tokens[t.MAIN][None, :] * table.hidden * r.width_scale * r.activation_bytes
    parts = [
        (reduces, "all-reduce", ALL_REDUCE, payload[reduces], r.tp, r.tp > 1),
        (
            experts,
            "all-reduce",
            ALL_REDUCE,
            np.where(by_exchange, 0.0, payload[experts]),
            r.tp,
            (r.tp > 1) & (r.ep <= 1),
        ),
        (experts, "dispatch", ALL_TO_ALL, np.where(by_exchange, exchanged[experts], 0.0), r.ep, r.ep > 1),
        (experts, "combine", ALL_TO_ALL, np.where(by_exchange, exchanged[experts], 0.0), r.ep, r.ep > 1),
        (head, "logits gather", ALL_TO_ALL, logits, r.tp, r.tp > 1),
    ]
    ledgers = [
        _collective(
            tuple(f"{p.names[i]} {what}" for i in rows),
            pattern,
            p.repeat[rows, None],
            bytes_,
            group=group,
            live=live,
            passes=passes,
        )
        for rows, what, pattern, bytes_, group, live in parts
        if len(rows) and bool(np.any(live))
    ]
    if bool(np.any(r.pp > 1)):
        hops = np.maximum(r.pp - 1, 1.0)[None, :]
        ledgers.append(
            _collective(("pipeline hand-over",), SEND, hops, sent, group=r.tp * r.pp, live=r.pp > 1, passes=passes)
        )
    return ledgers


def transfer_row(name: str, pattern: int, payload: Array) -> Ledger:
    """Return one row that moves ``payload`` bytes over the host link (HOST) or to another node (SCALE_OUT)."""
    one = np.ones((1, 1))
    ones = np.ones_like(payload)
    return _collective((name,), pattern, one, payload[None, :], group=ones, live=payload > 0, passes=ones)


def streamed_weights(table: OpTable, r: Request, products: Ledger) -> list[Ledger]:
    """Return the row of layers' weights that cross the host link in one pass, none where none stay in host memory.

    They are the bytes ``products`` reads, so of experts only those hit and of a chunked prompt once a chunk. The device reads
    them again from its own memory once they are there. Nothing hides the crossing: vLLM and accelerate copy a layer, then
    run it (FlexGen's overlap would take the longer of the two). Source: FlexGen (arXiv 2303.06865) section 3, with no overlap.
    """
    if not bool(np.any(r.host_weights > 0)):
        return []
    read = np.where(in_layers(table.products), products.weight_bytes * products.repeat, 0.0).sum(axis=0)
    return [transfer_row("weights from host memory", HOST, read * r.host_weights)]


def _collective(
    names: tuple[str, ...], pattern: int, repeat: Array, payload: Array, *, group: Array, live: Array, passes: Array
) -> Ledger:
    zero = np.zeros((1, 1))
    count = len(names)
    return Ledger(
        names=names, roles=("network",) * count, op_class=np.full(count, COLLECTIVE), pattern=np.full(count, pattern),
        math=np.zeros((1, 1), dtype=np.int64), repeat=repeat, flops=zero, weight_bytes=zero, kv_bytes=zero,
        activation_bytes=zero, network_bytes=np.where(live, payload, 0.0), group=np.maximum(group, 1.0)[None, :],
        launches=np.where(live, passes, 0.0)[None, :],
    )  # fmt: skip


def _tokens(main: Array, sequences: Array, encoder: Array, cross: Array) -> Array:
    return np.stack(np.broadcast_arrays(main, sequences, encoder, cross))


def decode_ledger(table: OpTable, r: Request) -> Ledger:
    """Return one decode step (or one denoising step) of a pipeline's micro-batch, at the mean context.

    The mean context of a request is its prompt plus half of its output.
    """
    zero = np.zeros_like(r.batch * r.prompt)
    one = np.ones((1,))
    if table.kind == "denoiser":
        images = r.microbatch * np.maximum(table.main_tokens, 1.0) + zero
        tokens = _tokens(images, r.microbatch + zero, zero, r.microbatch * r.prompt)
        attention = attention_prefill_rows(table, r, tokens, zero, one)
        products = product_rows(table, r, tokens, one)
        return stack(
            [
                products,
                attention,
                stream_rows(table, r, tokens, r.microbatch, one),
                *collective_rows(table, r, tokens, one),
                *streamed_weights(table, r, products),
            ]
        )
    per_step = r.microbatch * (1 + r.draft) + zero
    tokens = _tokens(per_step, per_step, zero, zero)
    context = r.prompt + r.output / 2
    encoder = (table.encoder_tokens or r.prompt) + zero
    products = product_rows(table, r, tokens, one)
    return stack(
        [
            products,
            attention_decode_rows(table, r, np.where(table.crosses, r.output / 2 + zero, context), encoder),
            stream_rows(table, r, tokens, r.microbatch, one),
            *collective_rows(table, r, tokens, one),
            *streamed_weights(table, r, products),
        ]
    )


def prefill_ledger(table: OpTable, r: Request, requests: Array) -> Ledger:
    """Return the prefill of ``requests`` prompts together (one for latency, a chunk full of them for throughput).

    Tokens found in device or host memory are not computed; host ones cross the host link. Encoders run once here.
    """
    zero = np.zeros_like(r.batch * r.prompt)
    encoder_only = table.kind == "encoder"
    found = 0.0 if encoder_only else r.prefix_hit + r.offload_hit
    new = np.maximum(r.prompt * (1 - found), 1.0)
    past = r.prompt - new
    encoder = (
        requests * np.where(table.crosses, table.encoder_tokens or r.prompt, table.encoder_tokens * r.images) + zero
    )
    if table.kind == "denoiser":
        encoder, new, past = requests * r.prompt + zero, zero, zero
    if table.crosses and table.kind == "decoder":
        new, past = np.ones_like(new), zero
    passes = np.maximum(np.ceil(requests * new / r.chunk), 1.0) if not encoder_only else np.ones((1,))
    main = requests * new + zero
    sequences = np.zeros_like(main) if table.kind == "denoiser" else requests + zero
    cross = np.where(table.crosses & (table.kind == "decoder"), encoder, 0.0)
    tokens = _tokens(main, sequences, encoder, cross)
    products = product_rows(table, r, tokens, passes)
    parts = [
        products,
        attention_prefill_rows(table, r, tokens, past, passes),
        stream_rows(table, r, tokens, requests, passes),
        *collective_rows(table, r, tokens, passes),
        *streamed_weights(table, r, products),
    ]
    per_token = kv_bytes_per_token(table, r) * r.pp  # every stage moves its part in turn
    if bool(np.any(r.offload_hit > 0)):
        parts.append(transfer_row("KV from host memory", HOST, requests * r.prompt * r.offload_hit * per_token + zero))
    if bool(np.any(r.disaggregated > 0)):
        parts.append(
            transfer_row(
                "KV to the decode pool",
                SCALE_OUT,
                np.where(r.disaggregated > 0, requests * r.prompt * per_token, 0.0) + zero,
            )
        )
    return stack(parts)

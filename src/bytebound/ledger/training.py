"""The training ledger: what one micro-batch computes and moves forward, backward and again, and what the optimizer moves.

Rows hold the forward work of one micro-batch on one device over all layers (a pipeline stage does 1 / pp of it); ``times`` says how
often the forward pass, the backward pass and recomputation do that work. Quantities are (rows, requests).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.work import Train
from bytebound.ledger import table as t
from bytebound.ledger.ledger import CONTEXT, ELEMENTWISE, EXPERT, GEMM, MATH, NONE, Ledger, stack
from bytebound.ledger.request import KV_GROWTH_EXPONENT, WIDTH_GROWTH_EXPONENT, shard_fraction
from bytebound.ledger.schedules import bubble_share, stage_layers
from bytebound.ledger.training_exchanges import exchanges
from bytebound.ledger.training_job import AGAIN, BACKWARD, FORWARD, WEIGHT_BYTES, lay_out
from bytebound.ledger.training_passing import optimizer_work, passing_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.ledger.table import OpTable, Products
    from bytebound.ledger.training_exchanges import Exchanges
    from bytebound.ledger.training_job import Job

    Array = NDArray[Any]

FLASH_BACKWARD = 2.5
"""A flash backward pass does five products for the forward pass's two. Source: FlashAttention-2 (arXiv 2307.08691) section 4.1."""
SCORE_BYTES = {FORWARD: 13.0, BACKWARD: 17.0}
"""Bytes per attention score that is written to memory, 16-bit: product 2, softmax 2 + 2, dropout 2 + 1 + 2 and read 2 forward; dropout
2 + 1 + 2, softmax 2 + 2 + 2 and three reads of products 2 + 2 + 2 backward. Counted from Korthikanti et al. 2022 (arXiv 2205.05198) 4.1."""

ALIGNED = 8
"""Matrix units take 16-bit operands in 16-byte pieces (NVIDIA, Matrix Multiplication Background, table 1: multiples of 8 before cuBLAS
11, most efficient since; BLOOM's trials ran a quarter slower with heads of 108 than of 112 or 144). That all others run at the fp32 rate
is assumed; flash attention pads them."""


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """Forward FLOPs of one micro-batch of a replica that count as the model's, (requests,).

    ``matrices``: all products, ``head`` the output matrix among them; ``causal`` and ``full``: attention with the scores its mask
    leaves, or with all; ``looked_up``: what the embedding would cost if it multiplied (a tied one does, as the head);
    ``again``: what is recomputed.
    """

    matrices: Array
    head: Array
    causal: Array
    full: Array
    looked_up: Array
    again: Array

    def under(self, convention: str) -> Array:
        """Return FLOPs under one of ``documents.training.CONVENTIONS``."""
        scores = self.full if convention.startswith("full") else self.causal
        return self.matrices + scores + (self.looked_up if convention.endswith("+embedding") else 0.0)


@dataclass(frozen=True, slots=True)
class TrainingLedger:
    """What one optimizer step asks of one device.

    Args:
        job: the request.
        rows: forward work of one micro-batch over all layers; ``times`` how often each pass does it, (3, rows, requests).
        layered: rows of layers, which a pipeline deals out; the others (vocabulary, loss) are on its last stage, (rows,).
        edges: sum of the reciprocal sides of a product as one device multiplies it, (rows, requests).
        flops: forward FLOPs of one micro-batch of a whole replica.
        layers: of the model; ``stages`` those of the first, second and last stage, (3, requests); ``bubble`` the schedule's share of
            waiting with equal stages, (requests,).
        optimizer_bytes, optimizer_flops: of one step on the device with most parameters, (requests,).
        exchanges: what devices tell each other.
    """

    job: Job
    rows: Ledger
    times: Array
    layered: NDArray[np.bool_]
    edges: Array
    flops: ModelFlops
    layers: float
    stages: Array
    bubble: Array
    optimizer_bytes: Array
    optimizer_flops: Array
    exchanges: Exchanges

    @property
    def moved_bytes(self) -> Array:
        """Bytes one device moves to and from memory in one step, (requests,)."""
        rows = self.rows
        each = (rows.weight_bytes + rows.activation_bytes) * rows.repeat * self.times.sum(axis=0)
        return np.asarray(each.sum(axis=0) * self.job.microbatches / self.job.pp + self.optimizer_bytes)


def train_ledger(table: OpTable, job: Job) -> TrainingLedger:
    """Return the rows of one micro-batch, the optimizer's work and the exchanges of a step."""
    products, product_times, edges = _products(table, job, _streams(table, job))
    scores, score_times = _scores(table, job)
    passing, passing_times, layered = passing_rows(table, job)
    parts = (product_times, score_times, passing_times)
    width = max(part.shape[2] for part in parts)
    times = np.concatenate([np.broadcast_to(part, (*part.shape[:2], width)) for part in parts], axis=1)
    rows = stack([products, scores, passing])
    count, first = len(rows.names), len(products.names)
    in_layers = np.ones(count, dtype=bool)
    in_layers[:first] = [role != "head" for role in products.roles]
    in_layers[count - len(layered) :] = layered
    all_edges = np.zeros((count, edges.shape[1]))
    all_edges[:first] = edges
    moved, flops = optimizer_work(table, job)
    stages = stage_layers(job.work, table.layers).reshape(3, -1)
    bubble = np.broadcast_to(bubble_share(job.work), job.work.shape).reshape(-1)
    return TrainingLedger(
        job,
        rows,
        times,
        in_layers,
        all_edges,
        model_flops(table, job),
        table.layers,
        stages,
        bubble,
        moved,
        flops,
        exchanges(table, job),
    )


def model_flops(table: OpTable, job: Job) -> ModelFlops:
    """Return forward FLOPs of one micro-batch of one replica, and what of them is done again.

    Source: Narayanan et al. 2021 (arXiv 2104.04473) appendix, whose eq. 3 counts all scores and the output matrix and no look-up.
    """
    p, s, x = table.products, table.scores, table.streams
    tokens = _streams(table, job) * job.cp
    body = np.array([role not in {"head", "embedding"} for role in p.roles])[:, None]
    grown = np.where(body, job.scale, job.scale**WIDTH_GROWTH_EXPONENT)
    products = (p.flop_per_token * p.active * p.repeat * p.token_scale)[:, None] * grown * tokens[_trained_on(p)]
    states = (x.flop_per_token * x.repeat)[:, None] * tokens[x.stream] * job.scale
    matrices = products.sum(axis=0) + states.sum(axis=0)
    seen, square, indexed = _pairs(table, job)
    per_pair = (2.0 * s.heads * (s.qk_dim + s.v_dim) * s.repeat)[:, None]
    grown_scores = job.micro * job.scale ** (KV_GROWTH_EXPONENT + WIDTH_GROWTH_EXPONENT)
    index = indexed * s.repeat[:, None]
    causal, full = (
        ((per_pair * pairs + index) * grown_scores).sum(axis=0) for pairs in (np.minimum(seen, square), square)
    )
    head = products[[role == "head" for role in p.roles]].sum(axis=0)
    looked_up = float((x.elements * x.repeat * (x.looked_up > 0) * (x.stream == t.MAIN)).sum())
    looked_up -= float((p.elements * p.repeat * p.tied).sum())  # a tied head's products are counted already
    selective = job.work.recompute == "selective" and job.work.attention == "eager"
    return ModelFlops(
        matrices, head, causal, full, 2.0 * job.micro * job.seq * looked_up * job.scale**WIDTH_GROWTH_EXPONENT,
        job.again * (matrices - head + causal) + (causal if selective else 0.0),
    )  # fmt: skip


def train_flop_per_token(table: OpTable, seq: float) -> float:
    """Return training FLOPs per token, 3 × forward, causal attention at ``seq`` tokens, without recomputation."""
    flops = model_flops(table, lay_out(table, Train(seq=seq)))
    return 3.0 * float(flops.under("causal")[0]) / seq


def _streams(table: OpTable, job: Job) -> Array:
    """Return tokens of a micro-batch on one device per stream code, (4, requests): main, one per sequence, encoder and cross.

    Of the encoders only those a decoder reads are trained.
    """
    n = job.tokens
    encoder = job.micro * (table.encoder_tokens or job.seq) / job.cp if table.crosses else 0.0
    return np.stack(np.broadcast_arrays(n, job.micro / job.cp, encoder, encoder))


def _trained_on(p: Products) -> NDArray[np.int64]:
    """Return the stream of every product: in training the output matrix works on every token, not on a sequence's last."""
    return np.where([role == "head" for role in p.roles], t.MAIN, p.stream)


def _pairs(table: OpTable, job: Job) -> tuple[Array, Array, Array]:
    """Return query-key pairs of one sequence that the mask leaves, all of them, and FLOPs of an indexer, (rows, requests)."""
    s = table.scores
    crossed = (s.kind == t.CROSSED)[:, None]
    encoder = table.encoder_tokens or job.seq
    mains = (s.stream == t.MAIN)[:, None]
    new = np.where(mains, job.seq, encoder) * s.token_scale[:, None] * (mains | table.crosses)
    keys = np.where(crossed, encoder, new)
    limit = np.minimum(s.window, s.selected)[:, None]
    stride = s.stride[:, None]
    masked = (s.causal > 0)[:, None] & ~crossed
    seen = np.where(masked, causal_pairs(new, limit), new * np.minimum(keys, limit))
    return seen / stride, new * keys / stride, s.index_flop[:, None] * new * (new + 1) / 2


def _products(table: OpTable, job: Job, tokens: Array) -> tuple[Ledger, Array, Array]:
    """Return the products' rows, how often each pass does them, and their edges."""
    p = table.products
    used = tokens[_trained_on(p)] * p.token_scale[:, None]
    expert = (p.copies > 1)[:, None]
    head = np.array([role == "head" for role in p.roles])
    inner = ~head & np.array([role not in {"embedding", "router"} for role in p.roles])
    body = np.array([role not in {"head", "embedding"} for role in p.roles])[:, None]
    grown = np.where(body, job.scale, job.scale**WIDTH_GROWTH_EXPONENT)
    wide = np.where(body, job.scale**WIDTH_GROWTH_EXPONENT, 1.0)
    share = shard_fraction(p.shard, p.units, np.where(expert, job.expert_tp, job.tp))
    dealt = job.expert_tp / job.tp  # tokens an expert's device works on: those of its tensor group are dealt out
    m = np.maximum(
        np.where(expert, used * p.active[:, None] * dealt * job.ep / p.copies[:, None], used), 1.0
    )  # per expert or per product
    done = np.where(expert, used * p.active[:, None] * dealt, used)
    k = p.inputs[:, None] * wide * np.where((p.shard == t.ROW)[:, None], share, 1.0)
    out = p.outputs[:, None] * wide * np.where(((p.shard == t.COLUMN) | (p.shard == t.VOCAB))[:, None], share, 1.0)
    dtype = np.where(inner, MATH.index(job.narrow), MATH.index(job.wide))
    value_bytes = np.where(inner, WEIGHT_BYTES[job.narrow], WEIGHT_BYTES[job.wide])[:, None]
    held = np.where(expert, np.maximum(p.copies[:, None] / job.ep, 1.0), 1.0)
    rows = Ledger(
        names=p.names, roles=p.roles, op_class=np.where(p.copies > 1, EXPERT, GEMM), pattern=np.full(len(p.names), NONE),
        math=dtype[:, None], repeat=p.repeat[:, None], flops=p.flop_per_token[:, None] * grown * share * done,
        weight_bytes=p.elements[:, None] * grown * share * held * value_bytes * (used > 0), kv_bytes=np.zeros((1, 1)),
        activation_bytes=done * (k * value_bytes + out * WEIGHT_BYTES[job.wide]), network_bytes=np.zeros((1, 1)),
        group=np.ones((1, 1)), launches=p.launches[:, None] * (used > 0),
    )  # fmt: skip
    backward = 2.0 if job.work.trainable == "full" else 1.0
    again = np.where(head[:, None], 0.0, job.again)
    return rows, _times(backward, again), 1 / m + 1 / np.maximum(k, 1.0) + 1 / np.maximum(out, 1.0)


def _times(backward: Array | float, again: Array, forward: Array | float = 1.0) -> Array:
    """Return how often each pass does rows, (3, rows, requests), from arrays that broadcast to ``again``."""
    times = np.empty((3, *again.shape))
    times[FORWARD], times[BACKWARD], times[AGAIN] = forward, backward, again
    return times


def causal_pairs(count: Array, limit: Array) -> Array:
    """Return query-key pairs of causal attention over ``count`` positions with at most ``limit`` keys each."""
    capped = np.minimum(count, limit)
    finite = np.where(np.isfinite(limit), limit, 0.0)
    return np.asarray(capped * (capped + 1) / 2 + np.maximum(count - capped, 0.0) * finite)


def _scores(table: OpTable, job: Job) -> tuple[Ledger, Array]:
    """Return attention's rows and how often each pass does them.

    Eager attention multiplies the whole square and writes it to memory; flash attention skips what the mask hides. Eager products of
    heads whose width is no multiple of ``ALIGNED`` run outside the matrix units, at the rate of fp32.
    """
    s = table.scores
    seen, square, indexed = _pairs(table, job)
    eager = job.work.attention == "eager"
    pairs = square if eager else seen
    odd = eager & ((s.qk_dim % ALIGNED > 0) | (s.v_dim % ALIGNED > 0))
    heads = np.ceil(s.heads[:, None] / job.tp)
    widths = (s.qk_dim + s.v_dim)[:, None]
    grown = job.scale ** (KV_GROWTH_EXPONENT + WIDTH_GROWTH_EXPONENT)
    each = job.micro / job.cp * grown
    zero, count = np.zeros((1, 1)), len(s.names)
    value = WEIGHT_BYTES[job.wide]
    queries = np.sqrt(square) * s.stride[:, None] ** 0.5
    work = Ledger(
        names=s.names, roles=("attention-scores",) * count, op_class=np.full(count, GEMM if eager else CONTEXT),
        pattern=np.full(count, NONE), math=np.where(odd, MATH.index("fp32"), MATH.index(job.wide))[:, None], repeat=s.repeat[:, None],
        flops=each * (2.0 * pairs * heads * widths + indexed), weight_bytes=zero, kv_bytes=zero, network_bytes=zero,
        group=zero + 1.0, activation_bytes=2.0 * each * queries * heads * widths * value,
        launches=np.where(square > 0, 1.0, 0.0), queries=each * queries * heads, pairs=each * pairs * heads,
    )  # fmt: skip
    selective = 1.0 if job.work.recompute == "selective" and eager else 0.0
    again = np.maximum(job.again, selective) + np.zeros_like(work.flops)
    trips = _times(2.0 if eager else FLASH_BACKWARD, again)
    if not eager or not count:
        return work, trips
    traffic = Ledger(
        names=tuple(f"{name} softmax" for name in s.names), roles=("attention-scores",) * count,
        op_class=np.full(count, ELEMENTWISE), pattern=np.full(count, NONE), math=np.zeros((1, 1), dtype=np.int64),
        repeat=s.repeat[:, None], flops=zero, weight_bytes=zero, kv_bytes=zero, network_bytes=zero, group=zero + 1.0,
        activation_bytes=each * pairs * heads * SCORE_BYTES[FORWARD] * value / 2, launches=np.where(square > 0, 2.0, 0.0),
    )  # fmt: skip
    written = _times(SCORE_BYTES[BACKWARD] / SCORE_BYTES[FORWARD], again)
    return stack([work, traffic]), np.concatenate([trips, written], axis=1)

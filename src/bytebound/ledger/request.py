"""A serving request as arrays, and how parallel degrees deal a model's weights and caches to devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.facts.formats import bits_of
from bytebound.ledger import table as t
from bytebound.ledger.precision import cache_bits, form_codes, math_codes, table_bits, weight_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.work import Serve
    from bytebound.ledger.table import OpTable, Products, Scores

    Array = NDArray[Any]

KV_GROWTH_EXPONENT = 1 / 3
"""KV bytes per token against parameters as a model family grows: Llama-3.1 8B -> 70B -> 405B gives 0.42 and 0.26."""
WIDTH_GROWTH_EXPONENT = 1 / 3
"""Activation width against parameters for isotropic growth (depth × width²); Llama-3.1 8B -> 405B gives 0.35."""


@dataclass(frozen=True, slots=True)
class Request:
    """A Serve request as float arrays of shape (requests,) or (1,), with what the engine and checkpoint fill in."""

    batch: Array
    prompt: Array
    output: Array
    tp: Array
    pp: Array
    ep: Array
    dp: Array
    chunk: Array
    prefix_hit: Array
    offload_hit: Array
    host_weights: Array
    draft: Array
    images: Array
    scale: Array
    kv_bits: Array
    weight_bits: Array
    table_bits: Array
    math: NDArray[np.int64]
    form: NDArray[np.int64]
    activation_bytes: float
    eager: bool
    disaggregated: Array
    profiled: float

    @property
    def microbatch(self) -> Array:
        """Sequences that pass a pipeline stage together."""
        return np.maximum(self.batch / self.pp, 1.0)

    @property
    def width_scale(self) -> Array:
        """Activation width of the grown model over today's."""
        return self.scale**WIDTH_GROWTH_EXPONENT

    @property
    def kv_scale(self) -> Array:
        """KV bytes per token of the grown model over today's."""
        return self.scale**KV_GROWTH_EXPONENT


def lay_out(table: OpTable, work: Serve, *, dtype: str, engine_chunk: float, profiled: float = 0.0) -> Request:
    """Return ``work`` as arrays, with precision resolved against the checkpoint and chunk against the engine.

    ``profiled`` is how many sequences the engine's start-up profiling pass assumes (0: it has none).
    """

    def flat(value: Any) -> Array:
        return np.atleast_1d(
            np.asarray(np.broadcast_to(value, work.shape) if np.ndim(value) else value, dtype=float)
        ).ravel()

    def names(value: Any) -> NDArray[np.str_]:
        return np.atleast_1d(np.asarray(np.broadcast_to(value, work.shape) if np.ndim(value) else value)).ravel()

    chunk = flat(work.chunk)
    weights = names(work.weights)
    return Request(
        batch=flat(work.batch), prompt=flat(work.prompt), output=flat(work.output), tp=flat(work.tp), pp=flat(work.pp),
        ep=flat(work.ep), dp=flat(work.dp), chunk=np.where(chunk > 0, chunk, engine_chunk),
        prefix_hit=flat(work.prefix_hit), offload_hit=flat(work.offload_hit), host_weights=flat(work.host_weights),
        draft=flat(work.draft_tokens), images=flat(work.images), scale=flat(work.model_scale), kv_bits=cache_bits(names(work.kv), dtype),
        weight_bits=weight_bits(table.products, weights), table_bits=table_bits(table.streams, weights),
        math=math_codes(table.products, weights, work.activations), form=form_codes(table.products, weights),
        activation_bytes=float(bits_of(work.activations)) / 8, eager=work.attention == "eager",
        disaggregated=flat(work.disaggregated), profiled=profiled,
    )  # fmt: skip


def shard_fraction(shard: NDArray[np.int64], units: Array, degree: Array) -> Array:
    """Return the share of a weight the fullest of ``degree`` devices holds, (rows, requests).

    Whole units (attention heads) are dealt out: with more devices than units the units are replicated.
    """
    whole = np.where(units > 0, units, np.inf)[:, None]
    dealt = np.where(
        np.isfinite(whole), np.ceil(whole / degree) / np.where(np.isfinite(whole), whole, 1.0), 1.0 / degree
    )
    return np.asarray(np.where((shard == t.REPLICATE)[:, None], 1.0, dealt))


def in_layers(p: Products) -> NDArray[np.bool_]:
    """Return which rows are layers' and not the embedding's or the head's, (rows, 1)."""
    return np.array([role not in {"head", "embedding"} for role in p.roles], dtype=bool)[:, None]


def expert_plan(p: Products, r: Request) -> tuple[Array, Array, Array]:
    """Return (is expert row, tokens multiplier of the expert group, tensor degree inside an expert)."""
    is_expert = (p.copies > 1)[:, None]
    return is_expert, np.maximum(1.0, r.ep / r.tp), np.maximum(1.0, r.tp / r.ep)


def kv_share(s: Scores, tp: Array) -> Array:
    """Return the share of the KV cache on the fullest of ``tp`` devices; latents are replicated."""
    heads = s.kv_heads[:, None]
    return np.asarray(np.where((s.kind == t.LATENT)[:, None], 1.0, np.ceil(heads / tp) / heads))

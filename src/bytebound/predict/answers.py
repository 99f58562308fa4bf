"""Run the kernel over any number of requests, in cache-sized pieces on the cores there are, and name every result."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import QuantityError
from bytebound.ledger.ledger import MATH
from bytebound.ledger.request import lay_out
from bytebound.predict.prediction import predict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.work import Serve
    from bytebound.ledger.ledger import Ledger
    from bytebound.ledger.table import OpTable
    from bytebound.predict.prediction import Overheads, Prediction
    from bytebound.predict.roofline import Ceilings, Timing

    Array = NDArray[Any]

PIECE = 4096
"""Requests per piece: a few dozen rows × 4096 × 8 bytes × a dozen arrays stay inside a core's cache."""

LARGE_BLOCK = 31 * 2**20 // 8
"""Numbers in a block just under the largest size from which glibc stops learning (32 MiB)."""


@cache
def keep_freed_memory() -> None:
    """Let the C library keep freed blocks for the next array instead of giving their pages back to the system.

    A piece makes dozens of arrays of a megabyte; when every one is mapped afresh, two fifths of the time are page faults.
    glibc raises both of its thresholds to the largest mapped block that was ever freed, so one block, made and freed untouched,
    is enough; elsewhere nothing happens. Source: mallopt(3), "dynamic mmap threshold".
    """
    np.empty(LARGE_BLOCK)


def _flat(work: Serve, value: Any) -> Array:
    """Return a quantity as (requests,), or (1,) where it is one number."""
    return np.atleast_1d(
        np.asarray(np.broadcast_to(value, work.shape) if np.ndim(value) else value, dtype=float)
    ).ravel()


def run(
    table: OpTable,
    work: Serve,
    ceilings: Ceilings,
    engine: Overheads,
    *,
    dtype: str,
    engine_chunk: float,
    profiled: float,
) -> Prediction:
    """Return the prediction of ``work`` as it stands (no pieces): used where rows are wanted."""
    request = lay_out(table, work, dtype=dtype, engine_chunk=engine_chunk, profiled=profiled)
    return predict(
        table, request, ceilings, engine, acceptance=_flat(work, work.acceptance),
        draft_cost=_flat(work, work.draft_cost),
        denoise_steps=_flat(work, work.denoise_steps),
        continuous=work.scheduling == "continuous",
    )  # fmt: skip


def answer(
    table: OpTable,
    work: Serve,
    ceilings: Ceilings,
    engine: Overheads,
    *,
    dtype: str,
    engine_chunk: float,
    profiled: float,
) -> dict[str, Array]:
    """Return every number of the estimate as arrays of shape (requests,), computed in pieces when there are many.

    One question and the same question inside a million give the same answer: pieces share no state.
    """
    shape = work.shape
    asked = int(np.prod(shape)) if shape else 1
    count = max(asked, ceilings.requests)
    if min(asked, ceilings.requests) not in {1, count}:
        raise QuantityError(f"{asked} requests do not match ceilings of {ceilings.requests}", place="ceilings")
    if count <= PIECE:
        prediction = run(table, work, ceilings, engine, dtype=dtype, engine_chunk=engine_chunk, profiled=profiled)
        return {name: np.broadcast_to(value, (count,)) for name, value in columns(prediction, ceilings).items()}
    flat = {
        f.name: np.broadcast_to(getattr(work, f.name), shape).ravel()
        for f in fields(work)
        if np.ndim(getattr(work, f.name))
    }

    def piece(start: int) -> dict[str, Array]:
        cut: dict[str, Any] = {name: value[start : start + PIECE] for name, value in flat.items()}
        part = replace(work, **cut)
        return answer(
            table,
            part,
            ceilings.part(start, start + PIECE),
            engine,
            dtype=dtype,
            engine_chunk=engine_chunk,
            profiled=profiled,
        )

    keep_freed_memory()
    starts = range(0, count, PIECE)
    workers = min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(starts)
    )
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(piece, starts))
    else:
        parts = [piece(start) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def columns(p: Prediction, ceilings: Ceilings) -> dict[str, Array]:
    """Return the named numbers of a prediction; what does not fit has no speed (NaN)."""
    fits = p.residence.fits
    blank = np.where(fits, 1.0, np.nan)
    named: dict[str, Array] = {
        "ttft_s": p.ttft_s * blank,
        "tpot_s": p.tpot_s * blank,
        "request_s": p.request_s * blank,
        "tokens_per_s": p.tokens_per_s * blank,
        "prefill_request_s": p.prefill_request_s * blank,
        "decode_time_share": p.decode_time_share,
        "ttft_loaded_s": (p.ttft_s + p.queue_s) * blank,
        "verdict": np.asarray(p.verdict, dtype=float),
        "weights_bytes": p.residence.weights,
        "kv_bytes": p.residence.kv,
        "activation_bytes": p.residence.activations,
        "reserve_bytes": p.residence.reserve,
        "total_bytes": p.residence.total,
        "usable_bytes": p.residence.usable,
        "kv_bytes_per_token": p.residence.kv_per_token,
        "max_kv_tokens": p.residence.max_kv_tokens,
        "fits": np.asarray(fits, dtype=float),
    }
    for phase, timing, ledger in (("decode", p.decode, p.decode_ledger), ("prefill", p.prefill, p.prefill_ledger)):
        named |= {f"{phase}.{name}": value for name, value in _phase(timing, ledger, ceilings).items()}
    share = p.spent / p.spent.sum(axis=0)
    named |= {f"share.{index}": value for index, value in enumerate(share)}
    return named


def _phase(timing: Timing, ledger: Ledger, ceilings: Ceilings) -> dict[str, Array]:
    flops, weight, kv = ledger.total("flops"), ledger.total("weight_bytes"), ledger.total("kv_bytes")
    activation = ledger.total("activation_bytes")
    moved = weight + kv + activation
    peak = ceilings.flop_per_s
    rate = np.take(peak, ledger.math, axis=0) if peak.ndim == 1 else np.take(peak, MATH.index("bf16"), axis=0)
    at_peak = (ledger.flops * ledger.repeat / rate).sum(axis=0)
    total = timing.total
    bound = timing.spent.argmax(axis=0)
    named = {
        "seconds": total,
        "floor_s": timing.floor_s,
        "flops": flops,
        "weight_bytes": weight,
        "kv_bytes": kv,
        "activation_bytes": activation,
        "network_bytes": ledger.total("network_bytes"),
        "intensity": flops / np.maximum(moved, 1e-300),
        "mbu": (weight + kv) / total / ceilings.memory_bytes_per_s,
        "mfu": at_peak / total,
        "bound": np.asarray(bound, dtype=float),
    }
    share = timing.spent / total
    named |= {f"share.{index}": value for index, value in enumerate(share)}
    return named

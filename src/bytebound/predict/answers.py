"""Every number of an estimate for any number of requests: by the formulas as they stand, or recorded once and run on all."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import QuantityError
from bytebound.ledger.request import lay_out
from bytebound.predict.columns import columns
from bytebound.predict.fused import Question, chosen, fused
from bytebound.predict.prediction import predict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.work import Serve
    from bytebound.ledger.table import OpTable
    from bytebound.predict.prediction import Overheads, Prediction
    from bytebound.predict.roofline import Ceilings

    Array = NDArray[Any]

PIECE = 1024
"""Most requests that the formulas answer themselves: recording them takes as long as answering some thousands, once."""

CHUNK = 2**20
"""Requests laid out at a time, which bounds what is held beside the answers."""

PLANNED = (
    "ttft_s", "ttft_loaded_s", "tpot_s", "request_s", "tokens_per_s", "prefill.seconds", "decode.seconds", "weights_bytes", "kv_bytes",
    "activation_bytes", "reserve_bytes", "total_bytes", "usable_bytes", "max_kv_tokens", "fits", "verdict",
)  # fmt: skip
"""What one plan is chosen by: prefill, decode, memory and verdict. Cost is the price over ``tokens_per_s``."""


def _question(
    table: OpTable, work: Serve, ceilings: Ceilings, engine: Overheads, *, dtype: str, engine_chunk: float, profiled: float
) -> Question:  # fmt: skip
    def flat(value: Any) -> Array:
        return np.atleast_1d(
            np.asarray(np.broadcast_to(value, work.shape) if np.ndim(value) else value, dtype=float)
        ).ravel()

    return Question(
        lay_out(table, work, dtype=dtype, engine_chunk=engine_chunk, profiled=profiled), ceilings, engine,
        {name: flat(getattr(work, name)) for name in ("acceptance", "draft_cost", "denoise_steps")},
        continuous=work.scheduling == "continuous",
    )  # fmt: skip


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
    """Return the prediction of ``work`` by the formulas as they stand: used where rows are wanted."""
    asked = _question(table, work, ceilings, engine, dtype=dtype, engine_chunk=engine_chunk, profiled=profiled)
    return predict(table, asked.request, ceilings, engine, **asked.others, continuous=asked.continuous)


def answer(
    table: OpTable,
    work: Serve,
    ceilings: Ceilings,
    engine: Overheads,
    *,
    dtype: str,
    engine_chunk: float,
    profiled: float,
    names: tuple[str, ...] | None = None,
) -> dict[str, Array]:
    """Return numbers of the estimate as arrays of shape (requests,): all of them, or ``names`` alone, which is faster.

    One question and the same question inside a million give the same answer: requests share nothing.

    Raises:
        QuantityError: requests and ceilings do not match.
        UnknownNameError: there is no number of that name.
    """
    shape = work.shape
    asked = int(np.prod(shape)) if shape else 1
    count = max(asked, ceilings.requests)
    if min(asked, ceilings.requests) not in {1, count}:
        raise QuantityError(f"{asked} requests do not match ceilings of {ceilings.requests}", place="ceilings")
    given: dict[str, Any] = {"dtype": dtype, "engine_chunk": engine_chunk, "profiled": profiled}

    def by_formulas(part: Serve, limits: Ceilings, size: int) -> dict[str, Array]:
        named = chosen(columns(run(table, part, limits, engine, **given), limits), names)
        return {name: np.broadcast_to(value, (size,)) for name, value in named.items()}

    if count <= PIECE:
        return by_formulas(work, ceilings, count)
    arrays = {
        f.name: np.broadcast_to(getattr(work, f.name), shape).ravel()
        for f in fields(work)
        if np.ndim(getattr(work, f.name))
    }
    varying = {name: array for name, array in arrays.items() if bool((array != array[0]).any())}
    level: Any = {name: array[0].item() for name, array in arrays.items() if name not in varying}
    narrow = replace(work, **level)
    if not varying and ceilings.requests == 1:
        return {name: np.broadcast_to(value, (count,)) for name, value in by_formulas(narrow, ceilings, 1).items()}

    def cut(index: slice | NDArray[np.int64]) -> tuple[Serve, Ceilings]:
        columns_: Any = {name: array[index] for name, array in varying.items()}
        return replace(narrow, **columns_), ceilings.part(index)

    def chunk(start: int) -> dict[str, Array]:
        part, limits = cut(slice(start, start + CHUNK))
        return fused(
            table, _question(table, part, limits, engine, **given), names,
            lambda odd: by_formulas(*cut(start + odd), len(odd)),
        )  # fmt: skip

    parts = [chunk(start) for start in range(0, count, CHUNK)]
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

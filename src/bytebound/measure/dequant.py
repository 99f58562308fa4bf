"""How fast weights are read when they must be dequantised on the way: the matrix-vector products of decoding."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bytebound.measure.sampling import Probe, interleave

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float32]

Format = Literal["q8_0", "q4_0", "f16", "bf16", "f32"]
FORMATS: tuple[Format, ...] = ("q8_0", "q4_0", "f16", "bf16", "f32")
COLUMNS = 8192
"""Inputs of the probed product: wide enough that a row is a long stream, as in models of 8 G parameters and up."""
PAGE = 4096
HOW = {
    "q8_0": "blocks of 32 8-bit weights with an fp16 scale × 8-bit activations",
    "q4_0": "blocks of 32 4-bit weights with an fp16 scale × 8-bit activations",
    "f16": "fp16 weights widened to fp32 × fp32 activations",
    "bf16": "bf16 weights widened to fp32 × fp32 activations",
    "f32": "fp32 weights × fp32 activations",
}


@dataclass(frozen=True, slots=True)
class Activations:
    """A vector as a kernel wants it: 8-bit blocks with (scale, sum) each, or fp32 with nothing."""

    values: NDArray[Any]
    scales: NDArray[Any]


def quantize(matrix: Floats, kind: Format) -> Bytes:
    """Return fp32 ``matrix`` (rows, columns) as rows of bytes in the layout of ggml's ``kind``.

    Columns are a multiple of 32. Q8_0: scale = largest magnitude / 127. Q4_0: scale = the largest value by magnitude
    / −8, stored plus 8 (ggml-quants.c, ``quantize_row_q8_0_ref`` and ``quantize_row_q4_0_ref``).
    """
    rows = len(matrix)
    if kind in ("f32", "f16"):
        return _bytes(matrix.astype("<f4" if kind == "f32" else "<f2"), rows)
    if kind == "bf16":
        bits = matrix.astype("<f4").view("<u4")
        even = (bits >> 16) & 1  # round to nearest, ties to even
        return _bytes(((bits + 0x7FFF + even) >> 16).astype("<u2"), rows)
    blocks = matrix.reshape(-1, 32)
    if kind == "q8_0":
        scale = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float32)
        whole = _bytes(np.round(_over(blocks, scale)).astype(np.int8), len(blocks))
    else:
        peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
        scale = (peak / -8).astype(np.float32)
        codes = np.clip(np.floor(_over(blocks, scale) + 8.5), 0, 15).astype(np.uint8)
        whole = codes[:, :16] | codes[:, 16:] << 4
    return _bytes(np.hstack([_bytes(scale.astype("<f2"), len(blocks)), whole]), rows)


def _bytes(values: NDArray[Any], rows: int) -> Bytes:
    return np.ascontiguousarray(values).view(np.uint8).reshape(rows, -1)


def _over(blocks: Floats, scale: Floats) -> Floats:
    inverse: Floats = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    return blocks * inverse


def activations(vector: Floats, kind: Format) -> Activations:
    """Return fp32 ``vector`` as the products of ``kind`` take it: fp32, or 8-bit blocks of 32 for integer formats."""
    if kind not in ("q8_0", "q4_0"):
        return Activations(vector.astype(np.float32), np.zeros(0, dtype=np.int32))
    blocks = vector.reshape(-1, 32).astype(np.float32)
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float32)
    whole = np.round(_over(blocks, scale)).astype(np.int8)
    sums = whole.sum(axis=1, dtype=np.int32)
    return Activations(whole, np.stack([scale[:, 0].view(np.int32), sums], axis=1).copy())


def matvec(
    weights: Bytes, vector: Activations, kind: Format, result: Floats, *,
    pool: ThreadPoolExecutor, threads: int, way: tuple[int, int] = (2, 512),
) -> None:  # fmt: skip
    """Multiply rows of ``weights`` (as ``quantize`` makes them) with ``vector`` into ``result`` on ``threads`` threads.

    Rows are a multiple of four; each thread takes a run of rows and works on them in one of ``dequant_kernels.WAYS``.
    """
    from bytebound.measure.dequant_kernels import BLOCK_BYTES, ROWS, kernel  # noqa: PLC0415 - needs numba

    run = kernel(kind, *way)
    row_bytes = weights.shape[1]
    blocks = row_bytes // BLOCK_BYTES[kind]
    edges = np.linspace(0, len(weights) // ROWS, threads + 1).astype(int) * ROWS

    def part(first: int, last: int) -> None:
        rows = (last - first) // way[0]
        place, answer = weights.ctypes.data + first * row_bytes, result.ctypes.data + 4 * first
        run(place, row_bytes, rows, vector.values.ctypes.data, vector.scales.ctypes.data, blocks, answer, rows)

    waiting = [pool.submit(part, int(first), int(last)) for first, last in pairwise(edges[1:])]
    part(int(edges[0]), int(edges[1]))
    for each in waiting:
        each.result()


@contextmanager
def dequant_probe(kind: Format, *, matrix_bytes: float, threads: int) -> Iterator[Probe]:
    """Give a probe of weight bytes per second [B/s] of a product with about ``matrix_bytes`` of weights.

    It works in the way that was fastest of three interleaved trials.

    Args:
        kind: one of ``FORMATS``.
        matrix_bytes: well above the last cache, so that weights come from memory as they do in decoding.
        threads: as many as the read ceiling was taken with.
    """
    from bytebound.measure.dequant_kernels import WAYS  # noqa: PLC0415 - needs numba

    random = np.random.default_rng(0)
    few = quantize(random.standard_normal((4 * threads, COLUMNS), dtype=np.float32), kind)
    weights = _tiled(few, max(int(matrix_bytes / few.nbytes), 1))
    vector = activations(random.standard_normal(COLUMNS, dtype=np.float32), kind)
    result = np.zeros(len(weights), dtype=np.float32)
    with ThreadPoolExecutor(max(threads - 1, 1), thread_name_prefix="dequant") as pool:
        multiply = partial(matvec, weights, vector, kind, result, pool=pool, threads=threads)
        trials = [Probe(str(way), "s", 1.0, partial(multiply, way=way), "") for way in WAYS]
        taken = interleave(trials, rounds=3)
        rows, ahead = min(WAYS, key=lambda way: min(each.seconds for each in taken[str(WAYS.index(way))]))
        how = f"{HOW[kind]}; {rows} rows at once" + (f", asked for {ahead} bytes ahead" if ahead else "")
        yield Probe(
            f"dequant.{kind}", "B/s", float(weights.nbytes), partial(multiply, way=(rows, ahead)), how,
            {"rows": float(len(weights)), "columns": float(COLUMNS), "threads": float(threads)},
        )  # fmt: skip


def _tiled(few: Bytes, copies: int) -> Bytes:
    """Return ``few`` rows ``copies`` times over, from the start of a page on.

    Every row has memory of its own; that the content repeats, no cache can tell.
    """
    size = copies * few.nbytes
    room = np.empty(size + PAGE, dtype=np.uint8)
    start = -room.ctypes.data % PAGE
    weights = room[start : start + size].reshape(copies * len(few), -1)
    weights.reshape(copies, *few.shape)[:] = few
    return weights

"""Kernels in Triton that only move bytes, for where PyTorch's own do not reach the ceiling of the memory.

Imported only where Triton is (CUDA and ROCm builds of PyTorch carry it). Every kernel is persistent: a few programs per
multiprocessor stride over the array, so that enough loads are under way; sizes are whole tiles, so that no load is
masked and the compiler uses its widest. ``TRITON_INTERPRET=1`` runs all of them on the processor, for tests.
"""
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-any-return"
# ruff: noqa: ANN001, ANN202, N803, PLR0917 - Triton reads the signatures of kernels, and wants constants in capitals

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

TILE = 4096
"""Elements a program handles at once: 16 KiB of fp32, eight 16-byte loads under way per thread of four warps."""
PROGRAMS_PER_CORE = 8
WARPS = 4


@triton.jit
def _read(source, out, tiles, passes, TILE: tl.constexpr):
    """Sum every tile ``passes`` times; each pass starts further on, so that no pass finds its tiles in the L1 cache."""
    total = tl.zeros([TILE], dtype=tl.float32)
    for turn in range(passes):
        for step in range(tl.program_id(0), tiles, tl.num_programs(0)):
            spots = (step + turn) % tiles * tl.full((), TILE, tl.int64) + tl.arange(0, TILE)
            total += tl.load(source + spots, cache_modifier=".cg")
    tl.store(out + tl.program_id(0), tl.sum(total))


@triton.jit
def _write(target, tiles, value, TILE: tl.constexpr):
    for step in range(tl.program_id(0), tiles, tl.num_programs(0)):
        spots = step * tl.full((), TILE, tl.int64) + tl.arange(0, TILE)
        tl.store(target + spots, tl.full([TILE], value, dtype=tl.float32))


@triton.jit
def _copy(source, target, tiles, TILE: tl.constexpr):
    for step in range(tl.program_id(0), tiles, tl.num_programs(0)):
        spots = step * tl.full((), TILE, tl.int64) + tl.arange(0, TILE)
        tl.store(target + spots, tl.load(source + spots))


@triton.jit
def _triad(first, second, target, scale, tiles, TILE: tl.constexpr):
    for step in range(tl.program_id(0), tiles, tl.num_programs(0)):
        spots = step * tl.full((), TILE, tl.int64) + tl.arange(0, TILE)
        tl.store(target + spots, tl.load(first + spots) + scale * tl.load(second + spots))


@triton.jit
def _matvec(weights, vector, out, columns, ROWS: tl.constexpr, STEP: tl.constexpr):
    """``ROWS`` rows of ``weights @ vector``, ``STEP`` columns at a time, accumulated in fp32."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    total = tl.zeros([ROWS, STEP], dtype=tl.float32)
    for start in range(0, columns, STEP):
        spots = start + tl.arange(0, STEP)
        block = tl.load(weights + rows[:, None] * columns + spots[None, :], cache_modifier=".cg")
        total += block.to(tl.float32) * tl.load(vector + spots)[None, :].to(tl.float32)
    tl.store(out + rows, tl.sum(total, axis=1))


@triton.jit
def _attend(query, key, value, part, peak, mass, tokens, chunk, scale,
            GROUP: tl.constexpr, PAD: tl.constexpr, SIZE: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    """One chunk of the context for one key/value head: the ``GROUP`` queries that share it, softmax taken as it goes.

    ``PAD`` is ``GROUP`` filled up to what the matrix units need. ``part`` is the weighted sum of values relative to
    ``peak`` (the largest score, in powers of two), ``mass`` the sum of weights.
    """
    head, piece, pieces = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    inner, ranks = tl.arange(0, SIZE), tl.arange(0, PAD)
    asked = tl.load(
        query + (head * GROUP + ranks[:, None]) * SIZE + inner[None, :], mask=ranks[:, None] < GROUP, other=0
    )
    top = tl.full([PAD], -1e30, dtype=tl.float32)
    weight = tl.zeros([PAD], dtype=tl.float32)
    total = tl.zeros([PAD, SIZE], dtype=tl.float32)
    end = tl.minimum((piece + 1) * chunk, tokens)
    for start in range(piece * chunk, end, STEP):
        spots = start + tl.arange(0, STEP)
        inside = spots < end
        cells = (head * tokens + spots)[:, None] * SIZE + inner[None, :]
        keys = tl.load(key + cells, mask=inside[:, None], other=0)
        scores = tl.where(inside[None, :], tl.dot(asked, tl.trans(keys)) * scale, -1e30)
        higher = tl.maximum(top, tl.max(scores, axis=1))
        shrink, share = tl.exp2(top - higher), tl.exp2(scores - higher[:, None])
        values = tl.load(value + cells, mask=inside[:, None], other=0)
        total = total * shrink[:, None] + tl.dot(share.to(values.dtype), values)
        weight = weight * shrink + tl.sum(share, axis=1)
        top = higher
    place = (head * pieces + piece) * PAD + ranks
    tl.store(part + place[:, None] * SIZE + inner[None, :], total)
    tl.store(peak + place, top)
    tl.store(mass + place, weight)


@triton.jit
def _join(part, peak, mass, out, pieces,
          GROUP: tl.constexpr, PAD: tl.constexpr, SIZE: tl.constexpr):  # fmt: skip
    """Join the chunks of one key/value head into the attention of its queries."""
    head = tl.program_id(0).to(tl.int64)
    inner, ranks = tl.arange(0, SIZE), tl.arange(0, PAD)
    top = tl.full([PAD], -1e30, dtype=tl.float32)
    weight = tl.zeros([PAD], dtype=tl.float32)
    total = tl.zeros([PAD, SIZE], dtype=tl.float32)
    for piece in range(pieces):
        place = (head * pieces + piece) * PAD + ranks
        mine = tl.load(peak + place)
        higher = tl.maximum(top, mine)
        shrink, grow = tl.exp2(top - higher), tl.exp2(mine - higher)
        total = total * shrink[:, None] + grow[:, None] * tl.load(part + place[:, None] * SIZE + inner[None, :])
        weight = weight * shrink + grow * tl.load(mass + place)
        top = higher
    answer = total / weight[:, None]
    spots = (head * GROUP + ranks[:, None]) * SIZE + inner[None, :]
    tl.store(out + spots, answer.to(out.dtype.element_ty), mask=ranks[:, None] < GROUP)


def _programs(tiles: int, cores: int) -> tuple[int]:
    return (max(1, min(tiles, cores * PROGRAMS_PER_CORE)),)


def read(source: Tensor, out: Tensor, *, cores: int, passes: int = 1) -> int:
    """Read the whole tiles of ``source`` (fp32, flat) ``passes`` times; return the bytes read.

    ``out`` (fp32) takes one partial sum per program and needs ``cores * PROGRAMS_PER_CORE`` elements.
    """
    tiles = source.numel() // TILE
    _read[_programs(tiles, cores)](source, out, tiles, passes, TILE=TILE, num_warps=WARPS)
    return tiles * TILE * 4 * passes


def write(target: Tensor, *, cores: int, value: float = 1.0) -> int:
    """Fill the whole tiles of ``target`` (fp32, flat); return the bytes written."""
    tiles = target.numel() // TILE
    _write[_programs(tiles, cores)](target, tiles, value, TILE=TILE, num_warps=WARPS)
    return tiles * TILE * 4


def copy(source: Tensor, target: Tensor, *, cores: int) -> int:
    """Copy the whole tiles of ``source`` (fp32, flat); return the bytes read and written."""
    tiles = source.numel() // TILE
    _copy[_programs(tiles, cores)](source, target, tiles, TILE=TILE, num_warps=WARPS)
    return tiles * TILE * 8


def triad(first: Tensor, second: Tensor, target: Tensor, *, cores: int, scale: float = 3.0) -> int:
    """``target = first + scale * second`` over whole tiles (fp32, flat); return the bytes read and written."""
    tiles = first.numel() // TILE
    _triad[_programs(tiles, cores)](first, second, target, scale, tiles, TILE=TILE, num_warps=WARPS)
    return tiles * TILE * 12


def matvec(weights: Tensor, vector: Tensor, out: Tensor, *, rows: int = 4, step: int = 1024) -> int:
    """``out = weights @ vector`` as decoding does it; return the bytes of ``weights``.

    Args:
        weights: (n, k), contiguous; n a multiple of ``rows``, k of ``step``.
        vector: (k,).
        out: (n,), fp32.
        rows: of one program.
        step: columns it takes at a time.
    """
    n, k = weights.shape
    if n % rows or k % step:
        raise ValueError(f"a matrix of {n} x {k} is not made of blocks of {rows} x {step}")
    _matvec[(n // rows,)](weights, vector, out, k, ROWS=rows, STEP=step, num_warps=WARPS)
    return weights.numel() * weights.element_size()


def decode_attention(query: Tensor, key: Tensor, value: Tensor, *, cores: int, step: int = 64) -> Tensor:
    """Attention of one new token per sequence over its context, the context split among programs.

    Args:
        query: (batch, heads, 1, size), contiguous; heads a multiple of the key/value heads.
        key: (batch, kv heads, tokens, size), contiguous, as ``value``; size a power of two of at least 16.
        value: as ``key``.
        cores: multiprocessors; the context is split so that each gets about four programs.
        step: tokens a program takes at a time.

    Returns:
        (batch, heads, 1, size), as ``scaled_dot_product_attention(..., enable_gqa=True)`` without a mask.
    """
    batch, heads, tokens, size = key.shape
    group = query.shape[1] // heads
    pad = max(16, triton.next_power_of_2(group))
    wanted = max(1, 4 * cores // (batch * heads))
    chunk = triton.cdiv(triton.cdiv(tokens, wanted), step) * step
    pieces = triton.cdiv(tokens, chunk)
    part = torch.empty(batch * heads, pieces, pad, size, device=key.device, dtype=torch.float32)
    peak, mass = (torch.empty(batch * heads, pieces, pad, device=key.device, dtype=torch.float32) for _ in range(2))
    out = torch.empty_like(query)
    scale = 1.4426950408889634 / size**0.5  # log2(e): the softmax is taken in powers of two
    _attend[(batch * heads, pieces)](
        query, key, value, part, peak, mass, tokens, chunk, scale,
        GROUP=group, PAD=pad, SIZE=size, STEP=step, num_warps=WARPS, num_stages=3,
    )  # fmt: skip
    _join[(batch * heads,)](part, peak, mass, out, pieces, GROUP=group, PAD=pad, SIZE=size, num_warps=WARPS)
    return out

"""Matrix-vector products that dequantise as they read, in machine code for the processor in hand.

As in ``kernels``, the loops are LLVM code and numba only compiles them. A kernel works on several rows at once that lie
far apart: more streams keep more of the memory busy, and each block of activations is loaded once for all. Integer
formats multiply 8-bit weights with 8-bit activations and add up in 32 bits, as llama.cpp does; with VNNI that is one
instruction for 32 products, elsewhere widening multiplications.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from bytebound.errors import RequestError
from bytebound.measure.kernels import prefetch

try:
    from llvmlite import binding, ir
    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic
except ImportError as error:
    raise RequestError(
        "measuring dequantising products needs numba, which is not installed",
        mend='run: pip install "bytebound[measure]"',
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Run = Callable[[int, int, int, int, int, int, int, int], None]
    """``run(weights, row_bytes, apart, values, scales, blocks, result, rows)``: see ``kernel``."""

WAYS = ((1, 512), (2, 512), (4, 0), (4, 512))
"""Rows worked on at once, and how many bytes ahead of each they are asked for (0: not); the fastest depends on the machine."""
ROWS = 4
"""Every matrix is a multiple of so many rows: the most of ``WAYS``."""
BLOCK = 32
"""Weights that share a scale, in both formats of blocks; the step of the loop in the plain ones."""
BLOCK_BYTES = {"q8_0": 34, "q4_0": 18, "f16": 64, "bf16": 64, "f32": 128}
"""Bytes of 32 weights: an fp16 scale and 32 × 8 or 32 × 4 bits, or 32 plain values (layouts of ggml-common.h)."""

_I8, _I16, _I32, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_HALF, _F32 = ir.HalfType(), ir.FloatType()


@cache
def has_vnni() -> bool:
    """Return whether the processor multiplies unsigned with signed bytes and adds up in one instruction on 256 bits."""
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512vnni") and features.get("avx512vl"))


def _vector(kind: Any, count: int) -> Any:
    return ir.VectorType(kind, count)


def _load(b: ir.IRBuilder, address: Any, kind: Any) -> Any:
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = 1  # blocks of 18 and 34 bytes are aligned to nothing
    return value


def _pick(b: ir.IRBuilder, value: Any, other: Any, places: Sequence[int]) -> Any:
    return b.shuffle_vector(value, other, ir.Constant(_vector(_I32, len(places)), list(places)))


def _splat(b: ir.IRBuilder, value: Any, count: int) -> Any:
    one = _vector(value.type, 1)
    first = b.insert_element(ir.Constant(one, ir.Undefined), value, _I32(0))
    return _pick(b, first, first, [0] * count)


def _call(b: ir.IRBuilder, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


def _products(b: ir.IRBuilder, start: Any, weights: Any, values: Any, *, signed: bool) -> Any:
    """Return ``start`` plus eight sums of four products each: 32 weights × 32 activations of 8 bits."""
    eight = start.type
    if has_vnni():
        if signed:  # the instruction wants the first factor unsigned: move the sign of each weight to its activation
            zero = ir.Constant(weights.type, [0] * BLOCK)
            negative = b.icmp_signed("<", weights, zero)
            weights = b.select(negative, b.sub(zero, weights), weights)
            values = b.select(negative, b.sub(zero, values), values)
        factors = b.bitcast(weights, eight), b.bitcast(values, eight)
        return _call(b, "llvm.x86.avx512.vpdpbusd.256", eight, start, *factors)
    wide = _vector(_I32, BLOCK)
    sums = b.mul(b.sext(weights, wide), b.sext(values, wide))
    for count in (16, 8):
        even, odd = (_pick(b, sums, sums, range(first, 2 * count, 2)) for first in (0, 1))
        sums = b.add(even, odd)
    return b.add(start, sums)


def _nibbles(b: ir.IRBuilder, address: Any) -> Any:
    """Return 32 numbers from 0 to 15: the low halves of 16 bytes, then the high ones."""
    packed = _load(b, address, _vector(_I8, 16))
    low = b.and_(packed, ir.Constant(packed.type, [15] * 16))
    high = b.lshr(packed, ir.Constant(packed.type, [4] * 16))
    return _pick(b, low, high, range(BLOCK))


def _integer_block(kind: str) -> Callable[..., Any]:
    signed = kind == "q8_0"
    eight = _vector(_I32, 8)

    def block(b: ir.IRBuilder, weights: Any, values: Any, scales: Any, total: Any) -> Any:
        first = b.add(weights, _I64(2))
        bytes_ = _load(b, first, _vector(_I8, BLOCK)) if signed else _nibbles(b, first)
        start = ir.Constant(eight, [0] * 8)
        if not signed:  # weights are stored plus 8: take 8 × the sum of the activations away, an eighth in each lane
            start = _splat(b, b.neg(_load(b, b.add(scales, _I64(4)), _I32)), 8)
        sums = _products(b, start, bytes_, _load(b, values, _vector(_I8, BLOCK)), signed=signed)
        halves = b.bitcast(_splat(b, _load(b, weights, _I16), 8), _vector(_HALF, 8))
        scale = b.fmul(b.fpext(halves, total.type), _splat(b, _load(b, scales, _F32), 8))
        return _fma(b, b.sitofp(sums, total.type), scale, total)

    return block


def _plain_block(kind: str) -> Callable[..., Any]:
    half = BLOCK // 2

    def block(b: ir.IRBuilder, weights: Any, values: Any, scales: Any, total: Any) -> Any:
        del scales
        stored = {"f16": _HALF, "bf16": _I16, "f32": _F32}[kind]
        for part in range(2):
            place = b.add(weights, _I64(part * BLOCK_BYTES[kind] // 2))
            found = _load(b, place, _vector(stored, half))
            if kind == "bf16":  # the upper half of an fp32
                wide = b.zext(found, _vector(_I32, half))
                found = b.bitcast(b.shl(wide, ir.Constant(wide.type, [16] * half)), total.type)
            elif kind == "f16":
                found = b.fpext(found, total.type)
            total = _fma(b, found, _load(b, b.add(values, _I64(part * half * 4)), total.type), total)
        return total

    return block


def _fma(b: ir.IRBuilder, one: Any, two: Any, three: Any) -> Any:
    return b.fadd(b.fmul(one, two, flags=["contract"]), three, flags=["contract"])


def _body(kind: str, count: int, ahead: int) -> Callable[[ir.IRBuilder, Sequence[Any]], None]:
    integer = kind in ("q8_0", "q4_0")
    block = _integer_block(kind) if integer else _plain_block(kind)
    kind_of_total = _vector(_F32, 8 if integer else 16)
    value_bytes = BLOCK if integer else 4 * BLOCK

    def body(b: ir.IRBuilder, arguments: Sequence[Any]) -> None:
        weights, row_bytes, apart, values, scales, blocks, result = arguments
        step = b.mul(row_bytes, apart)
        rows = [b.add(weights, b.mul(step, _I64(i))) for i in range(count)]
        zero = ir.Constant(kind_of_total, [0.0] * kind_of_total.count)
        totals = [cgutils.alloca_once_value(b, zero) for _ in rows]
        with cgutils.for_range_slice(b, _I64(0), blocks, _I64(1), _I64) as (index, _):
            here = b.add(values, b.mul(index, _I64(value_bytes)))
            scale = b.add(scales, b.mul(index, _I64(8)))
            for row, total in zip(rows, totals, strict=True):
                place = b.add(row, b.mul(index, _I64(BLOCK_BYTES[kind])))
                if ahead:
                    prefetch(b, b.add(place, _I64(ahead)))
                b.store(block(b, place, here, scale, b.load(total)), total)
        for i, total in enumerate(totals):
            found = b.load(total)
            parts = [b.extract_element(found, _I32(j)) for j in range(kind_of_total.count)]
            while len(parts) > 1:
                parts = [b.fadd(one, two) for one, two in zip(parts[::2], parts[1::2], strict=True)]
            offset = b.mul(apart, _I64(4 * i))
            b.store(parts[0], b.inttoptr(b.add(result, offset), _F32.as_pointer()))

    return body


@cache
def kernel(kind: str, count: int, ahead: int) -> Run:
    """Return the kernel of a format of ``BLOCK_BYTES``, compiled on first use; it releases the interpreter lock.

    ``run(weights, row_bytes, apart, values, scales, blocks, result, rows)`` multiplies ``count`` × ``rows`` rows: for each
    of ``rows`` rows from address ``weights`` also those ``apart``, 2 × ``apart``, … rows further on, and stores fp32
    results in the same places from address ``result``. ``values`` is the address of the activations (8-bit
    integers, or fp32 for plain formats), ``scales`` of a pair per block: the fp32 scale, and the sum of the block's
    activations as a 32-bit integer (integer formats only). A row holds ``blocks`` blocks.
    """
    body = _body(kind, count, ahead)

    @intrinsic  # type: ignore[untyped-decorator]
    def work(  # noqa: PLR0917 - numba has no keywords
        typing: Any, w: Any, row_bytes: Any, apart: Any, x: Any, s: Any, blocks: Any, y: Any
    ) -> Any:
        del typing, w, row_bytes, apart, x, s, blocks, y

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            del signature
            body(builder, arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    @njit("void(int64, int64, int64, int64, int64, int64, int64, int64)", nogil=True)  # type: ignore[untyped-decorator]
    def run(  # noqa: PLR0917 - numba has no keywords
        w: int, row_bytes: int, apart: int, x: int, s: int, blocks: int, y: int, rows: int
    ) -> None:
        for row in range(rows):
            work(w + row * row_bytes, row_bytes, apart, x, s, blocks, y + 4 * row)

    return run  # type: ignore[no-any-return]

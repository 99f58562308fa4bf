"""The loops that touch memory, in machine code for the processor in hand, without a compiler on the machine.

numba's own vectoriser keeps to 256-bit vectors, plain stores and one stream, so the loops are written here as LLVM code
with vectors as wide as the processor has, and numba only compiles them. A kernel is ``run(base, part, passes)``: it
works ``passes`` times on the ``part`` bytes at address ``base`` and returns a number that depends on all it read. A part
holds one array (read, write), two (copy: from, to) or three (triad: to, from, from) of equal size, each a multiple of
``GRAIN``. Bytes are counted as STREAM counts them (https://www.cs.virginia.edu/stream/ref.html): what the program names,
not what a store reads beforehand; so each kernel moves ``part`` bytes per pass. Kernels release the interpreter lock.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from bytebound.errors import RequestError

try:
    from llvmlite import binding, ir
    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic
except ImportError as error:
    raise RequestError(
        "measuring memory needs numba, which is not installed", mend='run: pip install "bytebound[measure]"'
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Run = Callable[[int, int, int], float]
    """A compiled kernel: address, bytes of the part, passes -> a number that depends on what was read."""
    Body = Callable[[ir.IRBuilder, Any, Any, Any], Any]
    """Writes a kernel's LLVM code: builder, address, bytes, passes -> the double to return."""

GRAIN = 1024
"""Every array of a part is a multiple of this many bytes, so that no kernel has a remainder to treat."""

ARRAYS = {"read": 1, "write": 1, "copy": 2, "triad": 3}
"""Arrays of equal size in the part of each kind of kernel."""

VARIANTS = {
    "read": ("read.1", "read.2", "read.4", "read.8", "read.4.ahead"),
    "write": ("write.plain", "write.streaming"),
    "copy": ("copy.plain", "copy.streaming"),
    "triad": ("triad.plain", "triad.streaming"),
}
"""Ways to do the same work; which is fastest depends on the machine, and on where in the caches the part lies. Reads:
streams in step, and prefetching. Stores: plain, or streaming (non-temporal), which do not first read what they replace."""

FMA_LOOP, CHAIN_LOOP = 32, 64
"""Fused multiply-adds per accumulator, and dependent one-cycle operations, in one pass of the canaries."""

_AHEAD = 1024  # bytes asked for beforehand
_I32, _I64, _F32, _F64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()


@cache
def vector_bytes() -> int:
    """Return the width of the processor's vectors [bytes]: AVX-512 64, AVX 32, anything else 16 (SSE2, NEON)."""
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


def lanes() -> int:
    """Return how many vector accumulators hide the latency of an addition without running out of registers."""
    return 16 if vector_bytes() != 32 else 12


def _vector(kind: Any) -> Any:
    return ir.VectorType(kind, vector_bytes() // (4 if kind is _F32 else 8))


def _at(b: ir.IRBuilder, base: Any, *offsets: Any) -> Any:
    for offset in offsets:
        base = b.add(base, _I64(offset) if isinstance(offset, int) else offset)
    return base


def _load(b: ir.IRBuilder, address: Any) -> Any:
    value = b.load(b.inttoptr(address, _vector(_F64).as_pointer()))
    value.align = vector_bytes()
    return value


def _store(b: ir.IRBuilder, value: Any, address: Any, *, streaming: bool) -> None:
    store = b.store(value, b.inttoptr(address, value.type.as_pointer()))
    store.align = vector_bytes()
    if streaming:
        store.set_metadata("nontemporal", b.module.add_metadata([_I32(1)]))


def _splat(b: ir.IRBuilder, value: Any) -> Any:
    vector = _vector(value.type)
    for i in range(vector.count):
        filled = b.insert_element(ir.Constant(vector, ir.Undefined) if i == 0 else filled, value, _I32(i))  # noqa: F821
    return filled


def _total(b: ir.IRBuilder, accumulators: Sequence[Any]) -> Any:
    total = b.load(accumulators[0])
    for accumulator in accumulators[1:]:
        total = b.fadd(total, b.load(accumulator))
    parts = [b.extract_element(total, _I32(i)) for i in range(total.type.count)]
    total = parts[0]
    for part in parts[1:]:
        total = b.fadd(total, part)
    return total if total.type == _F64 else b.fpext(total, _F64)


def _end_of_pass(b: ir.IRBuilder) -> None:
    """Let no pass be merged with the next, and let streaming stores arrive (on x86 they need a fence)."""
    b.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)


def _steps(b: ir.IRBuilder, stop: Any, step: int) -> Any:
    return cgutils.for_range_slice(b, _I64(0), stop, _I64(step), _I64)


def _read(streams: int, ahead: int) -> Body:
    width, unroll = vector_bytes(), 16 // streams

    def body(b: ir.IRBuilder, base: Any, part: Any, passes: Any) -> Any:
        zero = ir.Constant(_vector(_F64), [0.0] * (width // 8))
        sums = [cgutils.alloca_once_value(b, zero) for _ in range(16)]
        span = b.udiv(part, _I64(streams))
        with _steps(b, passes, 1):
            with _steps(b, span, unroll * width) as (offset, _):
                for i, total in enumerate(sums):
                    start = b.mul(span, _I64(i % streams))
                    address = _at(b, base, start, offset, i // streams * width)
                    if ahead and i // streams * width % 64 == 0:
                        _prefetch(b, _at(b, address, ahead))
                    b.store(b.fadd(b.load(total), _load(b, address)), total)
            _end_of_pass(b)
        return _total(b, sums)

    return body


def _prefetch(b: ir.IRBuilder, address: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    b.call(function, [b.inttoptr(address, byte), _I32(0), _I32(3), _I32(1)])  # for reading, keep, data


def _storing(arrays: int, *, streaming: bool) -> Body:
    """Write the first array (one array), the second from the first (two), or the first from the others (three)."""
    width = vector_bytes()

    def body(b: ir.IRBuilder, base: Any, part: Any, passes: Any) -> Any:
        span = b.udiv(part, _I64(arrays))
        target = _at(b, base, span) if arrays == 2 else base
        scale = _splat(b, b.sitofp(b.add(passes, _I64(2)), _F64))  # known only when it runs: nothing to fold
        with _steps(b, passes, 1) as (done, _):
            value = _splat(b, b.sitofp(done, _F64))
            with _steps(b, span, 4 * width) as (offset, _):
                places = [_at(b, offset, i * width) for i in range(4)]
                if arrays == 2:
                    values = [_load(b, _at(b, base, place)) for place in places]
                elif arrays == 3:
                    firsts = [_load(b, _at(b, base, span, place)) for place in places]
                    seconds = [_load(b, _at(b, base, span, span, place)) for place in places]
                    values = [
                        b.fadd(one, b.fmul(scale, two, flags=["contract"]), flags=["contract"])
                        for one, two in zip(firsts, seconds, strict=True)
                    ]
                else:
                    values = [value] * 4
                for place, each in zip(places, values, strict=True):
                    _store(b, each, _at(b, target, place), streaming=streaming)
            if streaming:
                b.fence("seq_cst")
            _end_of_pass(b)
        return b.load(b.inttoptr(target, _F64.as_pointer()))

    return body


def _fma(b: ir.IRBuilder, base: Any, part: Any, passes: Any) -> Any:
    del base, part
    vector = _vector(_F32)
    factor = _splat(b, b.fptrunc(b.fdiv(_F64(1.0), b.sitofp(b.add(passes, _I64(2)), _F64)), _F32))
    sums = [cgutils.alloca_once_value(b, ir.Constant(vector, [float(i)] * vector.count)) for i in range(lanes())]
    with _steps(b, passes, 1):
        for _ in range(FMA_LOOP):
            for total in sums:
                product = b.fmul(b.load(total), factor, flags=["contract"])
                b.store(b.fadd(product, factor, flags=["contract"]), total)
    return _total(b, sums)


def _chain(b: ir.IRBuilder, base: Any, part: Any, passes: Any) -> Any:
    value = cgutils.alloca_once_value(b, passes)
    with _steps(b, passes, 1):
        link = b.load(value)
        for _ in range(CHAIN_LOOP // 2):
            link = b.xor(b.add(link, base), part)  # neither is known when compiling: the chain cannot be shortened
        b.store(link, value)
    return b.sitofp(b.load(value), _F64)


def _chase(b: ir.IRBuilder, base: Any, part: Any, passes: Any) -> Any:
    place = cgutils.alloca_once_value(b, part)
    with _steps(b, passes, 1):
        b.store(b.load(b.inttoptr(_at(b, base, b.load(place)), _I64.as_pointer())), place)
    return b.sitofp(b.load(place), _F64)


def _bodies() -> dict[str, Body]:
    stores = {
        f"{kind}.{how}": _storing(ARRAYS[kind], streaming=how == "streaming")
        for kind in ("write", "copy", "triad")
        for how in ("plain", "streaming")
    }
    reads = {f"read.{streams}": _read(streams, 0) for streams in (1, 2, 4, 8)}
    return {**reads, "read.4.ahead": _read(4, _AHEAD), **stores, "fma": _fma, "chain": _chain, "chase": _chase}


@cache
def kernel(name: str) -> Run:
    """Return the kernel ``name``, compiled on first use (about 0.1 s).

    Args:
        name: one of ``VARIANTS``; ``fma``: ``passes`` × ``FMA_LOOP`` × ``lanes()`` vectors of fp32 multiply-adds in
            registers; ``chain``: ``passes`` × ``CHAIN_LOOP`` dependent integer operations of one cycle; ``chase``:
            ``passes`` loads, each from ``base`` plus the offset that the one before it found, starting at offset
            ``part``; returns the last offset.
    """
    body = _bodies()[name]

    @intrinsic
    def work(typing: Any, base: Any, part: Any, passes: Any) -> Any:
        del typing, base, part, passes

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            del context, signature
            return body(builder, *arguments)

        return types.float64(types.int64, types.int64, types.int64), generate

    @njit("float64(int64, int64, int64)", nogil=True)
    def run(base: int, part: int, passes: int) -> float:
        return work(base, part, passes)  # type: ignore[no-any-return, call-arg, arg-type]

    return run  # type: ignore[no-any-return]

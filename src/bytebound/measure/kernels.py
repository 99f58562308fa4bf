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

FMA_LOOP, CHAIN_LOOP = 32, 64
"""Fused multiply-adds per accumulator, and dependent one-cycle operations, in one pass of the canaries."""

_AHEAD = 2048  # bytes asked for beforehand
_SUMS = 16  # vectors a read adds into: what hides the latency of an addition, and fits the registers
_I32, _I64, _F32, _F64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()


@cache
def vector_bytes() -> int:
    """Return the width of the processor's vectors [bytes]: AVX-512 64, AVX 32, anything else 16 (SSE2, NEON)."""
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


def lanes() -> int:
    """Return the vectors of the ``fma`` kernel: enough to hide its latency, few enough for the registers."""
    return 16 if vector_bytes() != 32 else 12  # AVX has 16 registers, and constants need some


def _vector(kind: Any, width: int) -> Any:
    return ir.VectorType(kind, width // (4 if kind is _F32 else 8))


def _at(b: ir.IRBuilder, base: Any, *offsets: Any) -> Any:
    for offset in offsets:
        base = b.add(base, _I64(offset) if isinstance(offset, int) else offset)
    return base


def _load(b: ir.IRBuilder, address: Any, width: int) -> Any:
    value = b.load(b.inttoptr(address, _vector(_F64, width).as_pointer()))
    value.align = width
    return value


def _store(b: ir.IRBuilder, value: Any, address: Any, width: int, *, streaming: bool) -> None:
    store = b.store(value, b.inttoptr(address, value.type.as_pointer()))
    store.align = width
    if streaming:
        store.set_metadata("nontemporal", b.module.add_metadata([_I32(1)]))


def prefetch(b: ir.IRBuilder, address: Any) -> None:
    """Ask for the line at ``address`` before it is needed, to be read and kept."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    b.call(function, [b.inttoptr(address, byte), _I32(0), _I32(3), _I32(1)])  # for reading, keep, data


def _splat(b: ir.IRBuilder, value: Any, width: int) -> Any:
    vector = _vector(value.type, width)
    filled = ir.Constant(vector, ir.Undefined)
    for i in range(vector.count):
        filled = b.insert_element(filled, value, _I32(i))
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
    """Let no pass be merged with the next."""
    b.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", [], side_effect=True)


def _steps(b: ir.IRBuilder, stop: Any, step: int) -> Any:
    return cgutils.for_range_slice(b, _I64(0), stop, _I64(step), _I64)


def _read(streams: int, width: int) -> Body:
    """Add up the part, ``streams`` stretches of it in step."""
    turn = _SUMS // streams * width  # bytes of each stream per step

    def body(b: ir.IRBuilder, base: Any, part: Any, passes: Any) -> Any:
        zero = ir.Constant(_vector(_F64, width), [0.0] * (width // 8))
        sums = [cgutils.alloca_once_value(b, zero) for _ in range(_SUMS)]
        span = b.udiv(part, _I64(streams))
        with _steps(b, passes, 1):
            with _steps(b, span, turn) as (offset, _):
                for i, total in enumerate(sums):
                    address = _at(b, base, b.mul(span, _I64(i % streams)), offset, i // streams * width)
                    b.store(b.fadd(b.load(total), _load(b, address, width)), total)
            _end_of_pass(b)
        return _total(b, sums)

    return body


def _storing(arrays: int, width: int, *, streaming: bool, ahead: bool = False) -> Body:
    """Fill one array; copy the first of two into the second; or make the first of three from the others (a = b + s·c).

    ``ahead`` asks for what is read ``_AHEAD`` bytes beforehand.
    """
    source = {1: (), 2: (0,), 3: (1, 2)}[arrays]

    def body(b: ir.IRBuilder, base: Any, part: Any, passes: Any) -> Any:
        span = b.udiv(part, _I64(arrays))
        starts = [base, b.add(base, span), _at(b, base, span, span)]
        target = starts[1 if arrays == 2 else 0]
        scale = _splat(b, b.sitofp(b.add(passes, _I64(2)), _F64), width)  # not known beforehand: nothing to fold
        with _steps(b, passes, 1) as (done, _):
            # never 0: some processors write zeros faster than anything else
            fill = _splat(b, b.sitofp(b.add(done, _I64(1)), _F64), width)
            with _steps(b, span, 4 * width) as (offset, _):
                for place in range(0, 4 * width, width):
                    addresses = [_at(b, starts[which], offset, place) for which in source]
                    if ahead and place % 64 == 0:
                        for address in addresses:
                            prefetch(b, _at(b, address, _AHEAD))
                    read = [_load(b, address, width) for address in addresses]
                    value = read[0] if read else fill
                    if arrays == 3:
                        value = b.fadd(value, b.fmul(scale, read[1], flags=["contract"]), flags=["contract"])
                    _store(b, value, _at(b, target, offset, place), width, streaming=streaming)
            if streaming:
                b.fence("seq_cst")  # the pass ends when its stores have arrived
            _end_of_pass(b)
        return b.load(b.inttoptr(target, _F64.as_pointer()))

    return body


@cache
def ways(kind: str) -> dict[str, Body]:
    """Return the ways to do the work of ``kind`` (a key of ``ARRAYS``): name -> what writes its code.

    Which is fastest depends on the machine and on where in the caches the part lies. Reads differ in the streams read
    in step and in the width of the vectors (beyond the caches the widest are not always best). Stores are plain, or
    streaming: they do not first read what they replace.
    """
    wide, narrow = vector_bytes(), min(vector_bytes(), 32)
    if kind == "read":
        pairs = dict.fromkeys([(2, narrow), (4, narrow), (2, wide), (4, wide), (1, wide), (8, wide)])
        return {f"read, {streams} × {8 * width} bit": _read(streams, width) for streams, width in pairs}
    arrays = ARRAYS[kind]
    found = {
        f"{kind}, {8 * wide} bit": _storing(arrays, wide, streaming=False),
        f"{kind}, streaming, {8 * narrow} bit": _storing(arrays, narrow, streaming=True),
    }
    if arrays > 1:
        found[f"{kind}, streaming, prefetched, {8 * narrow} bit"] = _storing(arrays, narrow, streaming=True, ahead=True)
    return found


def _fma(b: ir.IRBuilder, base: Any, part: Any, passes: Any) -> Any:
    del base, part
    vector = _vector(_F32, vector_bytes())
    small = b.fptrunc(b.fdiv(_F64(1.0), b.sitofp(b.add(passes, _I64(2)), _F64)), _F32)
    factor = _splat(b, small, vector_bytes())
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


@cache
def kernel(name: str) -> Run:
    """Return the kernel ``name``, compiled on first use (about 0.1 s).

    Args:
        name: one of ``ways``; ``fma``: ``passes`` × ``FMA_LOOP`` × ``lanes()`` vectors of fp32 multiply-adds in
            registers; ``chain``: ``passes`` × ``CHAIN_LOOP`` dependent integer operations of one cycle; ``chase``:
            ``passes`` loads, each from ``base`` plus the offset that the one before it found, starting at offset
            ``part``; returns the last offset.
    """
    kind = name.partition(",")[0]
    body = ways(kind)[name] if kind in ARRAYS else {"fma": _fma, "chain": _chain, "chase": _chase}[name]

    @intrinsic  # type: ignore[untyped-decorator]
    def work(typing: Any, base: Any, part: Any, passes: Any) -> Any:
        del typing, base, part, passes

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            del context, signature
            return body(builder, *arguments)

        return types.float64(types.int64, types.int64, types.int64), generate

    @njit("float64(int64, int64, int64)", nogil=True)  # type: ignore[untyped-decorator]
    def run(base: int, part: int, passes: int) -> float:
        return work(base, part, passes)  # type: ignore[no-any-return]

    return run  # type: ignore[no-any-return]

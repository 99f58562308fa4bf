"""Matrix rates per dtype, what theory allows, and what starting an operator costs; through numpy and PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.measurement import Missing, Reading
from bytebound.errors import RequestError
from bytebound.measure.sampling import Probe
from bytebound.units import show_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Work = Callable[[], object]

TORCH_DTYPES = ("fp32", "bf16", "fp16", "int8")
SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Square products tried in this order: each is eight times the work of the one before it."""
LEAST_SIZE = 256
"""A smaller product says more about starting it than about its rate."""
SAMPLE_S = 0.06
"""A product is large enough when it takes this long; eight times as long at most."""
EMULATED = 0.5
"""A narrow dtype that reaches less than this share of the fp32 rate is converted in software: no ceiling of the machine."""


@contextlib.contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """Let numpy's BLAS and PyTorch (where it is installed) use ``threads`` threads inside the block.

    Raises:
        RequestError: threadpoolctl is not installed.
    """
    try:
        from threadpoolctl import threadpool_limits  # noqa: PLC0415 - optional: in the measure extra
    except ImportError:
        raise RequestError(
            "measuring matrix rates needs threadpoolctl, which is not installed",
            mend='run: pip install "bytebound[measure]"',
        ) from None
    torch = find_torch()
    before = torch.get_num_threads() if torch is not None else 0
    with threadpool_limits(limits=threads):
        if torch is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            if torch is not None:
                torch.set_num_threads(before)


def find_torch() -> Any:
    """Return the module ``torch``, or None where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch  # noqa: PLC0415 - seconds to import

    return torch


def matrix_probes(*, threads: int, memory_bytes: float) -> Iterator[Probe | Missing]:
    """Yield a probe (or why there is none) per dtype and library: operations per second of square matrix products.

    Every product is first tried at 64 × 64 and then at twice the size until it takes ``SAMPLE_S``: half precision that a
    processor lacks can be 700 times slower than fp32, and a full-sized product of it would take minutes.
    """
    yield from _sized("fp32", "numpy", _numpy_product, threads, memory_bytes)
    torch = find_torch()
    for dtype in TORCH_DTYPES:
        if torch is None:
            if dtype != "fp32":
                yield Missing(probe=f"matrix.{dtype}", why="numpy has no such product and PyTorch is not installed")
            continue
        yield from _sized(dtype, "torch", partial(_torch_product, torch, dtype), threads, memory_bytes)


def _sized(
    dtype: str, library: str, product: Callable[[int], Work], threads: int, memory_bytes: float
) -> Iterator[Probe | Missing]:
    name = f"matrix.{dtype}"
    try:
        size, work = largest(product, [n for n in SIZES if 16 * n * n < memory_bytes / 4], SAMPLE_S)
    except (
        RuntimeError,
        NotImplementedError,
        MemoryError,
    ) as error:  # what torch raises for a dtype it cannot multiply
        yield Missing(probe=name, why=f"{library} cannot multiply {dtype} here: {_first_line(error)}")
        return
    if size < LEAST_SIZE:
        yield Missing(
            probe=name,
            why=f"{library} multiplies {dtype} so slowly here that a {2 * size} × {2 * size} product was not tried",
        )
        return
    yield Probe(
        name, "FLOP/s", 2.0 * size**3, work, f"{library} product of square matrices",
        {"library": library, "size": float(size), "threads": float(threads)},
    )  # fmt: skip


def largest(product: Callable[[int], Work], sizes: Sequence[int], target_s: float) -> tuple[int, Work]:
    """Return the first size whose product takes ``target_s``, or the last before one that might take eight times that.

    Raises:
        MemoryError: there is room for no size at all.
    """
    found: tuple[int, Work] | None = None
    for size in sizes:
        work = product(size)
        work()
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        found = size, work
        if seconds > target_s / 1.5:
            break
    if found is None:
        raise MemoryError("there is no room for a matrix")
    return found


def _square(size: int) -> NDArray[np.float32]:
    return np.random.default_rng(size).random((size, size), dtype=np.float32) - np.float32(0.5)


def _numpy_product(size: int) -> Work:
    matrix = _square(size)
    out = np.empty_like(matrix)
    return lambda: np.matmul(matrix, matrix, out=out)


def _torch_product(torch: Any, dtype: str, size: int) -> Work:
    left = torch.from_numpy(_square(size))
    if dtype == "int8":
        whole = (left * 254).to(torch.int8)
        return lambda: torch._int_mm(whole, whole)  # noqa: SLF001 - the one 8-bit product PyTorch has
    narrow = left.to({"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype])
    out = torch.empty_like(narrow)
    return lambda: torch.mm(narrow, narrow, out=out)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def peak_per_cycle(dtype: str, vendor: str, family: int, instructions: Sequence[str]) -> tuple[float, str] | None:
    """Return the most operations of ``dtype`` a core can do per cycle and from what, or None where that is not known.

    From the vendors' optimisation guides: two fused multiply-add units of 512 bits (Intel servers, AMD from family 26)
    or of 256 bits (AMD up to family 25, and AVX2); VNNI multiplies four 8-bit numbers, AVX512-BF16 two 16-bit numbers, where
    fp32 multiplies one; AMX does 16 × 16 × 64 bytes of products in 16 cycles. Parts with one unit reach half.
    """
    has = set(instructions)
    if f"amx-{dtype}" in has:
        return (2048.0 if dtype == "int8" else 1024.0), "AMX"
    if "avx512f" in has:
        wide = vendor == "Intel" or family >= 26
        base, units = (64.0, "2 units of 512 bits") if wide else (32.0, "2 units of 256 bits, AVX-512 in two halves")
    elif {"avx2", "fma"} <= has:
        base, units = 32.0, "2 units of 256 bits"
    else:
        return None  # Arm cores have one to four vector units, and Apple's matrix unit is not documented
    if dtype == "int8":
        return (base * 4, f"VNNI, {units}") if has & {"avx512-vnni", "avx-vnni"} else None
    doubled = f"avx512-{dtype}"
    return (base * 2, f"AVX512-{dtype.upper()}, {units}") if doubled in has else (base, units)


def beside_theory(
    found: Reading, *, cores: float, clock_hz: float, per_cycle: tuple[float, str] | None
) -> tuple[Reading, Reading | None]:
    """Return ``found`` with its share of the theoretical rate in the note, and that rate as a reading of its own.

    peak = cores × operations per cycle × measured clock. What exceeds it by over 5 % is flagged: then the clock was
    measured too low, or the processor has more units than we know.
    """
    if per_cycle is None or clock_hz <= 0:
        return found, None
    value = cores * per_cycle[0] * clock_hz
    share = found.best / value
    how = f"{cores:g} cores × {per_cycle[0]:.0f} operations per cycle ({per_cycle[1]}) × {clock_hz / 1e9:.2f} GHz measured"
    note = f"{share:.0%} of {show_rate(value, 'FLOP/s')} = {how}"
    if share > 1.05:
        note = f"above what theory allows, do not trust one of the two: {note}"
    dtype = found.name.removeprefix("matrix.")
    peak = Reading(
        name=f"matrix.peak.{dtype}", unit="FLOP/s", best=value, median=value, p10=value, p90=value, low=value, high=value,
        samples=1, where={"threads": found.where.get("threads", cores)}, how=how, when=found.when,
        note="theory, not a measurement",
    )  # fmt: skip
    return found.model_copy(update={"note": f"{found.note}; {note}" if found.note else note}), peak


def launch_probes(*, calls: int = 1000) -> Iterator[Probe | Missing]:
    """Yield what starting an operator costs from Python [s per call]: a numpy function, a PyTorch operator, numba threads."""
    few = np.ones(16, dtype=np.float32)
    out = np.empty_like(few)
    yield _calls(
        "launch.numpy-ufunc", lambda: np.add(few, few, out=out), calls, "numpy.add of 16 numbers, called from Python"
    )
    torch = find_torch()
    if torch is None:
        yield Missing(probe="launch.torch-op", why="PyTorch is not installed")
    else:
        one, result = torch.ones(16), torch.empty(16)
        how = "torch.add of 16 numbers, called from Python without gradients"
        yield _calls("launch.torch-op", lambda: torch.add(one, one, out=result), calls, how)
    region = _parallel_region()
    yield _calls(
        "launch.numba-parallel", region, calls // 10, "a numba parallel loop over its threads, called from Python"
    )


def _calls(name: str, call: Work, calls: int, how: str) -> Probe:
    def work() -> None:
        for _ in range(calls):
            call()

    return Probe(name, "s", float(calls), work, how, {"calls": float(calls)}, ceiling=False)


def _parallel_region() -> Work:
    from numba import get_num_threads, njit, prange  # noqa: PLC0415 - optional: in the measure extra

    @njit("void(float64[::1])", parallel=True)  # type: ignore[untyped-decorator]
    def region(out: Any) -> None:
        for i in prange(out.size):
            out[i] += 1.0

    cells = np.zeros(get_num_threads())
    return lambda: region(cells)


def ceilings(readings: Sequence[Reading]) -> Mapping[str, Reading]:
    """Return dtype -> the best of its matrix readings; without dtypes that are only emulated (see ``EMULATED``)."""
    best: dict[str, Reading] = {}
    for each in readings:
        dtype = each.name.removeprefix("matrix.")
        if (
            each.name.startswith("matrix.")
            and "." not in dtype
            and each.best > (best[dtype].best if dtype in best else 0)
        ):
            best[dtype] = each
    least = EMULATED * best["fp32"].best if "fp32" in best else 0.0
    return {dtype: each for dtype, each in best.items() if each.best >= least}

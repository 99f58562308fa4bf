"""The matrix units of an accelerator: rate per dtype over sizes, through the operators engines call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bytebound.documents.measurement import Missing
from bytebound.measure.gpu_time import failures, keep_best, time_probes, why_failed
from bytebound.measure.sampling import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bytebound.documents.measurement import Reading
    from bytebound.measure.gpu import Accelerator
    from bytebound.measure.gpu_time import Effort, Outcome

Product = Callable[[int, int, int], Callable[[], object]]
"""(m, n, k) -> a call that multiplies an (m, k) by a (k, n) matrix once."""

LONGEST_SAMPLE_S = 1.0
"""A product expected to take longer than this is not started: an emulated dtype can be hundreds of times slow."""


def matrix_rates(accelerator: Accelerator, effort: Effort, *, budget_s: float = math.inf) -> Iterator[Outcome]:
    """Yield ``matrix.<dtype>`` [FLOP/s, 2 m n k counted] per dtype and shape, dtypes in turn so that all see one clock.

    Shapes grow; a dtype that failed, or that would take over a second at the next shape, is not asked again.
    """
    products, absent = _products(accelerator)
    yield from absent
    slowest: dict[str, float] = {}
    for step, (m, n, k) in enumerate(effort.shapes):
        if 16.0 * (m * k + k * n + m * n) > accelerator.free_bytes():
            yield Missing(probe="matrix", why=f"{m} x {k} by {k} x {n} does not fit the free memory")
            return
        probes = []
        for dtype, (product, how) in list(products.items()):
            if 2.0 * m * n * k / slowest.get(dtype, math.inf) > LONGEST_SAMPLE_S:
                why = f"{dtype} runs at {slowest[dtype]:.3g} FLOP/s; larger products would take over a second"
                yield Missing(probe=f"matrix.{dtype}", why=why)
                del products[dtype]
                continue
            try:
                work = product(m, n, k)
            except failures() as error:
                yield Missing(probe=f"matrix.{dtype}", why=f"{how}: {why_failed(accelerator, error)}")
                del products[dtype]
                continue
            where: dict[str, float | str] = {"m": float(m), "n": float(n), "k": float(k), "device": accelerator.device}
            probes.append(Probe(f"matrix.{dtype}", "FLOP/s", 2.0 * m * n * k, work, how, where))
        share = budget_s / (len(effort.shapes) - step)
        for outcome in keep_best(time_probes(accelerator, probes, effort, budget_s=share)):
            yield outcome
            dtype = (outcome.probe if isinstance(outcome, Missing) else outcome.name).removeprefix("matrix.")
            if isinstance(outcome, Missing):
                products.pop(dtype, None)
            else:
                slowest[dtype] = outcome.best
        budget_s -= share
        del probes


def best_rates(readings: tuple[Reading, ...]) -> Mapping[str, Reading]:
    """Return the fastest reading of each dtype, over all shapes."""
    best: dict[str, Reading] = {}
    for item in readings:
        dtype = item.name.removeprefix("matrix.")
        if item.name.startswith("matrix.") and (dtype not in best or item.best > best[dtype].best):
            best[dtype] = item
    return best


def _products(accelerator: Accelerator) -> tuple[dict[str, tuple[Product, str]], list[Missing]]:
    """Return the dtypes this device may multiply, in what way, and a sentence for each it does not."""
    import torch  # noqa: PLC0415 - optional

    place, kind = accelerator.device, accelerator.kind
    products: dict[str, tuple[Product, str]] = {
        "fp32": (_float(place, torch.float32, "highest"), "torch.mm fp32, TF32 off, normal random values"),
        "bf16": (_float(place, torch.bfloat16), "torch.mm bf16, normal random values"),
        "fp16": (_float(place, torch.float16), "torch.mm fp16, normal random values"),
    }
    absent = []
    if accelerator.capability >= 8.0:
        products["tf32"] = (_float(place, torch.float32, "high"), "torch.mm fp32 with TF32, normal random values")
    else:
        absent.append(_without("tf32", accelerator, "it needs an NVIDIA device of compute capability 8.0"))
    if kind == "mps":
        absent.append(_without("int8", accelerator, "PyTorch has no int8 product for Metal"))
    else:
        products["int8"] = (_int8(place), "torch._int_mm, int32 result")
    eight = _eight_bit_float(torch, accelerator)
    if eight is None:
        absent.append(_without("fp8", accelerator, "it needs compute capability 8.9, or an AMD gfx94x or gfx95x"))
    else:
        products["fp8"] = (
            _fp8(place, eight),
            f"torch._scaled_mm {eight}, one scale per matrix, bf16 result, fast sums",
        )
    if accelerator.capability >= 10.0 and hasattr(torch, "float4_e2m1fn_x2"):
        products["fp4"] = (_fp4(place), "torch._scaled_mm NVFP4 (e2m1, a scale per 16 values), bf16 result")
    else:
        absent.append(
            _without("fp4", accelerator, "it needs compute capability 10.0 and PyTorch 2.8 (MXFP4 on AMD is not tried)")
        )
    return products, absent


def _without(dtype: str, accelerator: Accelerator, needs: str) -> Missing:
    label = f" ({accelerator.architecture})" if accelerator.architecture else ""
    return Missing(probe=f"matrix.{dtype}", why=f"{accelerator.name}{label} was not asked for {dtype}: {needs}")


def _eight_bit_float(torch: Any, accelerator: Accelerator) -> Any:
    """Return the e4m3 dtype the device multiplies: gfx94x has its own encoding without negative zero."""
    if accelerator.architecture.startswith("gfx94"):
        return torch.float8_e4m3fnuz
    if (
        accelerator.capability >= 8.9
        or accelerator.architecture.startswith(("gfx95", "gfx12"))
        or accelerator.kind == "cpu"
    ):
        return torch.float8_e4m3fn
    return None


def _float(place: str, dtype: Any, precision: str = "") -> Product:
    """A product of floats; ``precision`` is PyTorch's word for whether fp32 may be rounded to TF32, restored after."""
    import torch  # noqa: PLC0415 - optional

    def product(m: int, n: int, k: int) -> Callable[[], object]:
        a, b = torch.randn(m, k, device=place).to(dtype), torch.randn(k, n, device=place).to(dtype)
        c = torch.empty(m, n, device=place, dtype=dtype)

        def work() -> None:
            before = torch.get_float32_matmul_precision()
            try:
                torch.set_float32_matmul_precision(precision)
                torch.mm(a, b, out=c)
            finally:
                torch.set_float32_matmul_precision(before)

        return work if precision else lambda: torch.mm(a, b, out=c)

    return product


def _int8(place: str) -> Product:
    """Signed bytes; the right matrix column by column, as the tensor cores want it."""
    import torch  # noqa: PLC0415 - optional

    def product(m: int, n: int, k: int) -> Callable[[], object]:
        a, b = (torch.randint(-127, 128, (rows, k), dtype=torch.int8, device=place) for rows in (m, n))
        return lambda: torch._int_mm(a, b.t())  # noqa: SLF001 - the only int8 product PyTorch has

    return product


def _fp8(place: str, dtype: Any) -> Product:
    """e4m3, left row-major and right column-major, sides multiples of 16: the only layout the operator takes."""
    import torch  # noqa: PLC0415 - optional

    def product(m: int, n: int, k: int) -> Callable[[], object]:
        a, b = (torch.randn(rows, k, device=place).to(dtype) for rows in (m, n))
        one = torch.ones((), device=place)
        return lambda: torch._scaled_mm(  # noqa: SLF001 - the operator engines call
            a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return product


def _fp4(place: str) -> Product:
    """NVFP4: two e2m1 values a byte along k, an e4m3 scale per 16 of them, scales in 128 x 4 blocks (padded)."""
    import torch  # noqa: PLC0415 - optional

    def product(m: int, n: int, k: int) -> Callable[[], object]:
        four = torch.float4_e2m1fn_x2
        a, b = (torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8, device=place).view(four) for rows in (m, n))
        blocks = math.ceil(k / 16 / 4) * 4
        scales = [
            torch.ones(math.ceil(rows / 128) * 128 * blocks, device=place).to(torch.float8_e4m3fn) for rows in (m, n)
        ]
        return lambda: torch._scaled_mm(a, b.t(), *scales, out_dtype=torch.bfloat16)  # noqa: SLF001

    return product

"""Matrix rates and what theory allows: products are right, emulated dtypes are tried small, peaks are arithmetic."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from bytebound.documents.measurement import Missing, Reading
from bytebound.errors import RequestError
from bytebound.measure import compute
from bytebound.measure.sampling import Probe

threadpoolctl = pytest.importorskip("threadpoolctl", reason="the measure extra is not installed")


def rate(name: str, best: float, **where) -> Reading:
    """A reading without spread."""
    return Reading(
        name=name, unit="FLOP/s", best=best, median=best, p10=best, p90=best, low=best, high=best, samples=3, where=where, how="test"
    )  # fmt: skip


def test_products_are_products():
    """Numpy's and PyTorch's products give what a plain sum of products gives."""
    square = compute._square(64).astype(np.float64)
    assert np.allclose(compute._numpy_product(64)(), square @ square, atol=1e-4)
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for dtype, tolerance in (("fp32", 1e-4), ("bf16", 0.1), ("fp16", 0.02)):
        assert np.allclose(compute._torch_product(torch, dtype, 64)().float().numpy(), square @ square, atol=tolerance)
    whole = (compute._square(64) * 254).astype(np.int8).astype(np.int64)
    assert (compute._torch_product(torch, "int8", 64)().numpy() == whole @ whole).all()


def test_the_size_grows_until_a_product_takes_long_enough():
    """A slow product is never tried at a size that would take minutes."""
    tried = []

    def product(size):
        tried.append(size)
        return lambda: time.sleep(1e-3 * (size / 64) ** 3)

    size, _ = compute.largest(product, (64, 128, 256, 512), 0.05)

    assert size == 256
    assert tried == [64, 128, 256]


def test_an_emulated_dtype_is_left_alone():
    """700 times slower than fp32: the product is given up small, and a sentence says so."""

    def slow(size):
        return lambda: time.sleep(0.05)

    (found,) = compute._sized("fp16", "torch", slow, 2, 1e9)

    assert isinstance(found, Missing)
    assert "so slowly here that a 128 × 128 product was not tried" in found.why


def test_a_dtype_a_library_refuses():
    def refuse(size):
        raise RuntimeError('"addmm_impl_cpu_" not implemented for Half\nC++ trace')

    (found,) = compute._sized("fp16", "torch", refuse, 2, 1e9)

    assert found == Missing(
        probe="matrix.fp16", why='torch cannot multiply fp16 here: "addmm_impl_cpu_" not implemented for Half'
    )


def test_too_little_memory_for_any_matrix():
    (found,) = compute._sized("fp32", "numpy", compute._numpy_product, 2, 1e3)
    assert "no room for a matrix" in found.why


def test_without_torch(monkeypatch):
    """Numpy's product is measured, the rest is said to be missing."""
    monkeypatch.setattr(compute, "find_torch", lambda: None)
    monkeypatch.setattr(compute, "SAMPLE_S", 5e-3)
    monkeypatch.setattr(compute, "LEAST_SIZE", 64)

    found = list(compute.matrix_probes(threads=1, memory_bytes=1e8))
    launches = list(compute.launch_probes(calls=10))

    assert isinstance(found[0], Probe)
    assert found[0].amount == 2 * found[0].where["size"] ** 3
    assert [each.probe for each in found[1:]] == ["matrix.bf16", "matrix.fp16", "matrix.int8"]
    assert launches[1] == Missing(probe="launch.torch-op", why="PyTorch is not installed")


@pytest.mark.parametrize(
    ("dtype", "vendor", "family", "instructions", "operations"),
    [
        ("fp32", "AMD", 25, ("avx2", "fma", "avx512f"), 32),  # Zen 4: 2 × 8 lanes × 2
        ("bf16", "AMD", 25, ("avx512f", "avx512-bf16"), 64),
        ("int8", "AMD", 25, ("avx512f", "avx512-vnni"), 128),
        ("fp32", "AMD", 26, ("avx512f",), 64),  # Zen 5: full width
        ("fp32", "Intel", 6, ("avx512f",), 64),
        ("bf16", "Intel", 6, ("avx512f", "amx-bf16"), 1024),
        ("int8", "Intel", 6, ("avx512f", "amx-int8"), 2048),
        ("fp32", "Intel", 6, ("avx2", "fma"), 32),
        ("bf16", "Intel", 6, ("avx512f",), 64),  # widened to fp32
    ],
)
def test_operations_per_cycle(dtype, vendor, family, instructions, operations):
    assert compute.peak_per_cycle(dtype, vendor, family, instructions)[0] == operations


def test_no_peak_where_none_is_known():
    assert compute.peak_per_cycle("fp32", "Apple", 0, ("neon",)) is None
    assert compute.peak_per_cycle("int8", "Intel", 6, ("avx2", "fma")) is None


def test_a_rate_above_its_peak_is_flagged():
    """2 cores × 32 × 3 GHz = 192 GFLOP/s."""
    allowed = (32.0, "2 units of 256 bits")
    fine, peak = compute.beside_theory(rate("matrix.fp32", 180e9), cores=2, clock_hz=3e9, per_cycle=allowed)
    wrong, _ = compute.beside_theory(rate("matrix.fp32", 220e9), cores=2, clock_hz=3e9, per_cycle=allowed)

    assert peak.name == "matrix.peak.fp32"
    assert peak.best == 192e9
    assert fine.note.startswith("94% of 192 GFLOP/s = 2 cores × 32 operations per cycle")
    assert wrong.note.startswith("above what theory allows")


def test_ceilings_are_the_best_and_never_emulated():
    """fp16 at a hundredth of fp32 is software, not a ceiling; peaks and dequantising are no rates."""
    found = compute.ceilings(
        [rate("matrix.fp32", 1e11, library="torch"), rate("matrix.fp32", 2e11, library="numpy"), rate("matrix.fp16", 2e9),
         rate("matrix.bf16", 4e11), rate("matrix.peak.fp32", 9e11)]
    )  # fmt: skip

    assert {dtype: each.best for dtype, each in found.items()} == {"fp32": 2e11, "bf16": 4e11}
    assert found["fp32"].where["library"] == "numpy"


def test_threads_are_set_and_set_back():
    """Inside the block BLAS has one thread, after it what it had."""
    before = [each["num_threads"] for each in threadpoolctl.threadpool_info()]
    with compute.threads_set(1):
        assert all(each["num_threads"] == 1 for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas")
    assert [each["num_threads"] for each in threadpoolctl.threadpool_info()][: len(before)] == before


def test_launches_run():
    pytest.importorskip("numba", reason="the measure extra is not installed")
    for each in compute.launch_probes(calls=10):
        if isinstance(each, Probe):
            each.work()
            assert each.unit == "s"


def test_without_threadpoolctl(monkeypatch):
    """A missing package is named with the extra that brings it."""
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(RequestError, match="needs threadpoolctl") as caught, compute.threads_set(1):
        pass
    assert "bytebound[measure]" in caught.value.mend

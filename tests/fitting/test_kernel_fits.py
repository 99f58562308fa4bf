"""Kernel tables read with bounds; fits that find what made the rows, and refuse what no device could do."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from bytebound.errors import DocumentError, RequestError, UnfinishedError, UnknownNameError
from bytebound.fitting.kernel_table import CALIBRATION, borrowed, fit_groups, kernel_lines, pooled
from bytebound.fitting.kernels import (
    EXPONENTS,
    FLOOR_S,
    Loads,
    fit_kernels,
    kernel_loads,
    kernel_s,
    power_law_touched,
    usable,
)
from bytebound.truth.kernels import (
    LAYOUTS,
    NOT_A_SHAPE,
    NOT_A_TIME,
    REASONS,
    UNKNOWN_DTYPE,
    UNKNOWN_SYSTEM,
    UNKNOWN_TABLE,
    Kernels,
    count_kernels,
    read_kernels,
)

pytest.importorskip("scipy", reason="a refit needs scipy")
arrow = pytest.importorskip("pyarrow", reason="kernel tables are parquet files")
parquet = pytest.importorskip("pyarrow.parquet")

PEAK, BANDWIDTH = 989.4e12, 3.352e12
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None, reason="aiconfigurator-core is not installed"
)


def made(floor_s, bandwidth, compute, *, noise=0.05, exponent=2.0, rows=3000, seed=0):
    rng = np.random.default_rng(seed)
    streamed = 10 ** rng.uniform(6, 10, rows)
    loads = Loads(10 ** rng.uniform(-9, -2.5, rows), streamed / BANDWIDTH, streamed, 5e7)
    seconds = kernel_s(floor_s, bandwidth, compute, loads=loads, exponent=exponent)
    return loads, seconds * np.exp(rng.normal(0, noise, rows))


def products(system="h100_sxm", *, floor_s=3e-6, bandwidth=0.85, compute=0.8, engine="vllm", rows=900, seed=1):
    """Rows of a bf16 product on an H100, as the reader gives them."""
    rng = np.random.default_rng(seed)
    shape = {
        name: 2.0 ** rng.integers(low, high, rows) for name, low, high in (("m", 0, 13), ("n", 9, 15), ("k", 9, 15))
    }
    texts = dict.fromkeys(("version", "kernel", "storage", "label"), np.full(rows, ""))
    kernels = Kernels(
        operator="gemm",
        system=np.full(rows, system),
        engine=np.full(rows, engine),
        dtype=np.full(rows, "bf16"),
        shape=shape,
        seconds=np.ones(rows),
        **texts,
    )
    seconds = kernel_s(floor_s, bandwidth, compute, loads=kernel_loads(kernels))
    seconds = seconds * np.exp(rng.normal(0, 0.04, rows))
    return Kernels(**{name: getattr(kernels, name) for name in kernels.__slots__} | {"seconds": seconds})


def joined(*parts):
    names = ("system", "engine", "version", "kernel", "dtype", "storage", "label", "seconds")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    shape = {name: np.concatenate([part.shape[name] for part in parts]) for name in parts[0].shape}
    return Kernels(operator=parts[0].operator, shape=shape, **arrays)


def write(path: Path, rows: dict, *, name="gemm_perf"):
    file = path / "h100_sxm" / "gemm" / "vllm" / "0.24.0" / f"{name}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table(rows), file)
    return file


GOOD = {
    "kernel_source": ["cublas"] * 3,
    "gemm_dtype": ["bfloat16", "fp8", "bfloat16"],
    "m": [1, 2, 4],
    "n": [512, 512, 512],
    "k": [512, 512, 512],
    "latency": [0.003, 0.004, 0.005],
}


@pytest.mark.parametrize("exponent", [1.0, 2.0, 4.0])
@pytest.mark.parametrize(
    ("floor_s", "bandwidth", "compute"), [(3e-6, 0.87, 0.8), (1.2e-5, 0.45, 0.3), (5e-5, 0.9, 0.6)]
)
def test_a_fit_finds_what_made_the_rows(floor_s, bandwidth, compute, exponent):
    loads, seconds = made(floor_s, bandwidth, compute, exponent=exponent)
    fit = fit_kernels(loads, seconds, exponent=exponent)
    assert fit.floor_s == pytest.approx(floor_s, rel=0.06)
    assert fit.bandwidth_share == pytest.approx(bandwidth, rel=0.04)
    assert fit.compute_share == pytest.approx(compute, rel=0.04)
    assert 0.02 < fit.median_error < 0.05


def test_a_fit_withstands_wrong_rows():
    loads, seconds = made(3e-6, 0.85, 0.8)
    seconds[::20] *= 30
    fit = fit_kernels(loads, seconds)
    assert fit.bandwidth_share == pytest.approx(0.85, rel=0.05)
    assert fit.compute_share == pytest.approx(0.8, rel=0.05)


def test_fitted_shares_and_floors_are_physical():
    for seed in range(5):
        fit = fit_kernels(*made(4e-6, 0.9, 0.7, noise=0.2, seed=seed))
        assert 0 < fit.bandwidth_share <= 1
        assert 0 < fit.compute_share <= 1
        assert fit.floor_s >= 0
        for name, (low, high) in fit.ranges.items():
            assert low <= high <= (1 if name.endswith("share") else 1e-4)


def test_ranges_hold_the_value():
    fit = fit_kernels(*made(4e-6, 0.8, 0.7, noise=0.1))
    assert set(fit.ranges) == {"floor_s", "bandwidth_share", "compute_share"}
    assert all(low <= getattr(fit, name) <= high for name, (low, high) in fit.ranges.items())


@pytest.mark.parametrize(("bandwidth", "compute", "name"), [(1.3, 0.7, "bandwidth"), (0.8, 1.4, "compute")])
def test_a_share_above_one_is_an_error(bandwidth, compute, name):
    with pytest.raises(UnfinishedError, match=f"fitted {name} share is 1.[34]") as caught:
        fit_kernels(*made(3e-6, bandwidth, compute))
    assert caught.value.exit_code == 3


def test_a_switch_that_adds_up_may_pass_the_link():
    loads, seconds = made(5e-6, 1.3, 1.0, exponent=0.6)
    loads = Loads(np.zeros_like(seconds), loads.memory_s, loads.streamed_bytes, 0.0)
    assert fit_kernels(loads, seconds, exponent=0.6, most_share=1.75).bandwidth_share == pytest.approx(1.3, rel=0.05)


def test_rows_of_no_kernel_are_an_error():
    loads, _ = made(3e-6, 0.8, 0.8)
    with pytest.raises(UnfinishedError):
        fit_kernels(loads, np.full(len(loads.compute_s), 2e3))


def test_a_fit_that_does_not_converge_is_an_error(monkeypatch):
    class Stopped:
        success = False
        x = np.zeros(3)

    monkeypatch.setattr("scipy.optimize.least_squares", lambda *_, **__: Stopped())
    with pytest.raises(UnfinishedError, match="does not converge"):
        fit_kernels(*made(3e-6, 0.8, 0.8))


def test_too_few_rows_are_bad_input():
    with pytest.raises(RequestError, match="7 kernel rows are too few") as caught:
        fit_kernels(*made(3e-6, 0.8, 0.8, rows=7))
    assert caught.value.exit_code == 2


def test_a_roof_no_row_reaches_is_not_reported():
    loads, seconds = made(3e-6, 0.8, 0.8)
    slow = loads.where(loads.compute_s < 1e-8)
    fit = fit_kernels(slow, seconds[loads.compute_s < 1e-8])
    assert fit.compute_share is None
    assert fit.bandwidth_share == pytest.approx(0.8, rel=0.05)


def test_a_kernel_is_never_faster_than_its_roofs():
    loads, _ = made(3e-6, 1.0, 1.0)
    for exponent in (1.0, 2.0, 4.0):
        seconds = kernel_s(0.0, 1.0, 1.0, loads=loads, exponent=exponent)
        assert np.all(seconds >= np.maximum(loads.compute_s, loads.memory_s) * (1 - 1e-12))
    link = kernel_s(5e-6, 1.0, 1.0, loads=loads, exponent=0.6)
    assert np.all(link >= 5e-6 + loads.memory_s)


def test_rows_read_from_cache_are_left_out_only_where_they_show():
    loads, seconds = made(3e-6, 0.8, 0.8)
    assert loads.uncached(seconds).all()
    small = loads.streamed_bytes < 2 * loads.cache_bytes
    warm = np.where(small, 1e-6 + loads.memory_s / 2 + loads.compute_s, seconds)
    kept = loads.uncached(warm)
    assert not kept[small & (loads.memory_s > 1e-6) & (loads.compute_s < loads.memory_s)].any()
    assert kept[~small].all()
    assert loads.uncached(seconds, strict=True).sum() < len(seconds)


def test_bytes_and_flops_of_a_product():
    kernels = products(rows=50)
    loads = kernel_loads(kernels)
    m, n, k = (kernels.shape[name] for name in "mnk")
    np.testing.assert_allclose(loads.compute_s, 2 * m * n * k / PEAK)
    np.testing.assert_allclose(loads.memory_s, 2 * (n * k + m * k + m * n) / BANDWIDTH)


def test_rows_of_two_systems_are_not_fitted_together():
    with pytest.raises(RequestError, match="more than one system"):
        kernel_loads(joined(products(), products("b200_sxm")))


def test_touched_experts_grow_with_tokens_and_shrink_with_skew():
    tokens = 2.0 ** np.arange(0, 14)
    touched = power_law_touched(tokens, np.full(14, 8.0), np.full(14, 128.0), 1.2)
    assert np.all((touched > 0) & (touched <= 1))
    many = power_law_touched(np.array([4096.0]), np.array([8.0]), np.array([128.0]), 1.01)
    assert touched[-3:].max() <= many[0] + 0.05


def test_a_system_borrows_from_its_family_first():
    rows = joined(products(), products("h200_sxm", bandwidth=0.83, seed=2), products("b200_sxm", bandwidth=0.6, seed=3))
    groups = fit_groups(rows)
    assert [group.system for group in groups] == ["b200_sxm", "h100_sxm", "h200_sxm"]
    fit, origin = borrowed(groups[1], groups)
    assert origin == "h200_sxm (family and engine)"
    assert fit.bandwidth_share == pytest.approx(0.83, rel=0.03)
    _, origin = borrowed(groups[0], groups)
    assert origin == "h100_sxm, h200_sxm (engine)"


def test_a_test_system_sets_no_parameter():
    assert "gb200" not in CALIBRATION
    groups = fit_groups(joined(products("b200_sxm"), products("gb200", compute=0.4, seed=4)))
    lines = kernel_lines(groups, "a test")
    family = {line.quantity: line.value for line in lines if line.scope == "family" and not line.engine}
    assert family["compute_share"] == pytest.approx(0.8, rel=0.04)
    missed = [line for line in lines if line.scope == "borrowed"]
    assert [(line.system, line.split) for line in missed] == [("gb200", "test")]
    with pytest.raises(RequestError, match="no kernel fit to pool"):
        pooled([group for group in groups if group.system == "gb200"])


def test_the_reader_counts_every_row(tmp_path):
    bad = {
        **{name: values * 2 for name, values in GOOD.items()},
        "gemm_dtype": ["bfloat16", "fp8", "bfloat16", "fp7", "bfloat16", "bfloat16"],
        "m": [1, 2, 4, 4, 0, 4],
        "latency": [0.003, 0.004, 0.005, 0.003, 0.004, float("nan")],
    }
    write(tmp_path, bad)
    write(tmp_path, {"latency": [1.0, 2.0]}, name="kda_perf")
    counts = count_kernels(tmp_path)
    assert counts.understood == {("gemm", "h100_sxm"): 3}
    assert counts.unexpressed == {
        ("gemm", UNKNOWN_DTYPE): 1,
        ("gemm", NOT_A_SHAPE): 1,
        ("gemm", NOT_A_TIME): 1,
        ("kda", UNKNOWN_TABLE): 2,
    }
    assert counts.total == 8
    assert {reason for _, reason in counts.unexpressed} <= set(REASONS)


def test_rows_are_read_in_our_words(tmp_path):
    write(tmp_path, GOOD)
    found = read_kernels("gemm", tmp_path, limit=10)
    assert found.seen == 3
    assert found.rows.dtype.tolist() == ["bf16", "fp8", "bf16"]
    assert found.rows.engine.tolist() == ["vllm"] * 3
    np.testing.assert_allclose(found.rows.seconds, [3e-6, 4e-6, 5e-6])
    assert usable(found.rows).all()


def test_a_sample_is_bounded_and_repeats(tmp_path):
    write(tmp_path, {name: values * 1000 for name, values in GOOD.items()})
    first, again = (read_kernels("gemm", tmp_path, limit=300, seed=3).rows for _ in range(2))
    assert 200 < len(first) < 400
    np.testing.assert_array_equal(first.seconds, again.seconds)


def test_columns_may_say_the_system(tmp_path):
    more = {"system": ["h100_sxm", "b200_sxm", "moon"], "src_framework": ["trtllm"] * 3, "src_version": ["1"] * 3}
    parquet.write_table(arrow.table(GOOD | more), tmp_path / "aic_gemm.parquet")
    found = read_kernels("gemm", tmp_path, systems=("b200_sxm",), limit=10)
    assert found.rows.engine.tolist() == ["tensorrt-llm"]
    assert found.unexpressed == {UNKNOWN_SYSTEM: 1}


def test_bad_files_are_named(tmp_path):
    file = write(tmp_path, {name: values for name, values in GOOD.items() if name != "k"})
    with pytest.raises(DocumentError, match="column k is missing") as caught:
        read_kernels("gemm", tmp_path)
    assert str(file) in str(caught.value)
    file.write_bytes(b"PAR1 not parquet")
    with pytest.raises(DocumentError, match="not a readable parquet file"):
        count_kernels(tmp_path)
    write(tmp_path, GOOD | {"m": ["one", "two", "three"]})
    with pytest.raises(DocumentError, match="column m does not hold numbers"):
        read_kernels("gemm", tmp_path)
    with pytest.raises(DocumentError, match="no such file or folder"):
        read_kernels("gemm", tmp_path / "nowhere")


def test_too_large_a_file_is_refused(tmp_path, monkeypatch):
    write(tmp_path, GOOD)
    monkeypatch.setattr("bytebound.truth.kernels.MAX_FILE_ROWS", 2)
    with pytest.raises(DocumentError, match="more than 2 rows"):
        count_kernels(tmp_path)


def test_unknown_names_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="kernel operator 'gem'"):
        read_kernels("gem", tmp_path)
    with pytest.raises(UnknownNameError, match="nearest: h100_sxm"):
        read_kernels("gemm", tmp_path, systems=("h100",))
    with pytest.raises(RequestError, match="no kernel rows of moe"):
        read_kernels("moe", tmp_path)


@needs_package
def test_real_rows_give_physical_parameters():
    for operator in ("gemm", "attention-decode"):
        rows = read_kernels(operator, systems=("h100_sxm",), limit=40_000).rows
        groups = [group for group in fit_groups(rows) if group.calibrates and group.dtype == "bf16"]
        assert groups
        for group in groups:
            assert 0.3 < group.fit.bandwidth_share <= 1
            assert FLOOR_S[0] < group.fit.floor_s < 5e-5
            assert group.fit.median_error < 0.2
    assert set(EXPONENTS) == set(LAYOUTS)

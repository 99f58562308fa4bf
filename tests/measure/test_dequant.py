"""Dequantising products: bytes as gguf writes them, results as plain arithmetic gives them, on every path."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bytebound.measure.dequant import FORMATS, activations, dequant_probe, matvec, quantize

pytest.importorskip("numba", reason="the measure extra is not installed")
from bytebound.measure import dequant_kernels

SCALES = {"q8_0": 127, "q4_0": 127}


def product(matrix, vector, kind, threads=2, way=(2, 512)):
    """Return the kernel's product."""
    weights, result = quantize(matrix, kind), np.full(len(matrix), np.nan, dtype=np.float32)
    with ThreadPoolExecutor(2) as pool:
        matvec(weights, activations(vector, kind), kind, result, pool=pool, threads=threads, way=way)
    return result


def plain(vector, kind):
    """Return the activations as the kernel sees them, in fp64: 8-bit blocks for integer formats."""
    if kind not in SCALES:
        return vector.astype(np.float64)
    blocks = vector.astype(np.float64).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    return (np.round(np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0)) * scale).ravel()


def reference(weights, kind, columns):
    """Return the weights as gguf dequantises them, in fp64."""
    gguf = pytest.importorskip("gguf", reason="the observe extra is not installed")
    stored = {"f16": np.float16, "f32": np.float32}.get(kind, np.uint8)
    found = gguf.quants.dequantize(weights.view(stored), gguf.GGMLQuantizationType[kind.upper()])
    return found.reshape(-1, columns).astype(np.float64)


@pytest.mark.parametrize("kind", FORMATS)
def test_bytes_are_ggufs(kind):
    """Our quantised rows are gguf's, byte for byte."""
    gguf = pytest.importorskip("gguf", reason="the observe extra is not installed")
    matrix = np.random.default_rng(0).standard_normal((8, 256), dtype=np.float32)
    matrix[0, :32] = 0  # a block without scale
    theirs = gguf.quants.quantize(matrix, gguf.GGMLQuantizationType[kind.upper()])

    assert (quantize(matrix, kind) == theirs.view(np.uint8).reshape(8, -1)).all()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("threads", "way"), list(zip([1, 2, 3, 2], dequant_kernels.WAYS, strict=True)))
def test_products_are_right(kind, threads, way):
    """Against gguf's dequantised weights, in fp64, however many rows are worked on at once."""
    random = np.random.default_rng(1)
    matrix, vector = random.standard_normal((24, 512), dtype=np.float32), random.standard_normal(512, dtype=np.float32)
    expected = reference(quantize(matrix, kind), kind, 512) @ plain(vector, kind)

    assert np.allclose(product(matrix, vector, kind, threads, way), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_without_vnni(kind, monkeypatch):
    """The path for processors without that instruction gives the same results."""
    random = np.random.default_rng(2)
    matrix, vector = random.standard_normal((4, 128), dtype=np.float32), random.standard_normal(128, dtype=np.float32)
    usual = product(matrix, vector, kind)
    monkeypatch.setattr(dequant_kernels, "has_vnni", lambda: False)
    dequant_kernels.kernel.cache_clear()
    try:
        assert np.allclose(product(matrix, vector, kind), usual, atol=1e-4)
    finally:
        dequant_kernels.kernel.cache_clear()


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_extremes(kind):
    """Largest codes of either sign, and blocks of zeros, do not overflow."""
    matrix = np.tile(np.array([1.0, -1.0], dtype=np.float32) * 1000, (4, 64))
    matrix[1], matrix[2] = 0, -1000
    vector = np.where(np.arange(128) % 2 == 0, 1.0, -1.0).astype(np.float32)
    expected = reference(quantize(matrix, kind), kind, 128) @ plain(vector, kind)

    assert np.allclose(product(matrix, vector, kind), expected, rtol=1e-4)


def test_a_probe_counts_weight_bytes():
    """34 bytes of Q8_0 hold 32 weights; every row is worked on."""
    with dequant_probe("q8_0", matrix_bytes=2**21, threads=2) as probe:
        probe.work()
        assert probe.name == "dequant.q8_0"
        assert probe.amount == probe.where["rows"] * probe.where["columns"] / 32 * 34
        assert abs(probe.amount / 2**21 - 1) < 0.1

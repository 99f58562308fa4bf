"""Random GGUF files, read by gguf's own reader and by ours, and dequantized with gguf's own code."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from bytebound.engines.random_gguf import BLOCKS, GGML_NAMES, Shape, random_matrix, write_random_gguf
from bytebound.errors import QuantityError, UnfinishedError, UnknownNameError
from bytebound.facts.formats import find_format
from bytebound.models import read_model

TINY = Shape(2, 256, 512, 4, 2, 64, vocabulary=96)
QUANTIZED = [name for name, block in BLOCKS.items() if block[2]]


def kind(name):
    """Return gguf's type of our format."""
    return gguf.GGMLQuantizationType[GGML_NAMES.get(name, name.upper())]


def expected(shape):
    """Return every tensor of a Llama of ``shape``, counted by hand: name -> (rows, columns)."""
    own, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    found = {"token_embd.weight": (shape.vocabulary, shape.width)}
    if not shape.tied:
        found["output.weight"] = (shape.vocabulary, shape.width)
    for layer in range(shape.layers):
        found |= {
            f"blk.{layer}.attn_q.weight": (own, shape.width),
            f"blk.{layer}.attn_k.weight": (kv, shape.width),
            f"blk.{layer}.attn_v.weight": (kv, shape.width),
            f"blk.{layer}.attn_output.weight": (shape.width, own),
            f"blk.{layer}.ffn_gate.weight": (shape.feed_forward, shape.width),
            f"blk.{layer}.ffn_up.weight": (shape.feed_forward, shape.width),
            f"blk.{layer}.ffn_down.weight": (shape.width, shape.feed_forward),
        }
    return found


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_those_of_gguf(name):
    """Elements and bytes per block equal gguf's own table, and our format table's bits."""
    elements, size, _ = BLOCKS[name]
    assert gguf.GGML_QUANT_SIZES[kind(name)] == (elements, size)
    assert find_format(name).bits == pytest.approx(size * 8 / elements)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_file_of_every_format(name, tmp_path):
    """The reader of gguf sees the shapes and types we meant, and our reader counts the same parameters and bytes."""
    shape = replace(TINY, tied=name != "q8_0")
    path = write_random_gguf(tmp_path / "x.gguf", shape, name, head="q8_0" if name == "q4_0" else "")
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    matrices = expected(shape)
    norms = {t for t in tensors if t.endswith("norm.weight")}

    assert set(tensors) == set(matrices) | norms
    assert len(norms) == 2 * shape.layers + 1
    for tensor, (rows, columns) in matrices.items():
        own = "q8_0" if name == "q4_0" and tensor == "token_embd.weight" else name
        elements, size, _ = BLOCKS[own]
        assert tensors[tensor].tensor_type == kind(own), tensor
        assert tuple(tensors[tensor].shape) == (columns, rows), tensor  # GGUF counts columns first
        assert tensors[tensor].n_bytes == rows * columns // elements * size, tensor
    architecture = read_model(str(path))
    assert architecture.parameters == sum(int(t.n_elements) for t in tensors.values())
    stored = sum(find_format(t.stored).tensor_bytes(t.shape) * t.copies for t in architecture.tensors() if not t.tied)
    assert stored == sum(int(t.n_bytes) for t in tensors.values())


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("columns", [256, 1024])
def test_values_are_centred_with_unit_variance_over_width(name, columns):
    """Dequantized by gguf's own code: finite, mean near zero, variance near 1 / columns, and scales that differ."""
    blocks = random_matrix(np.random.default_rng(3), 128, columns, name)
    values = dequantize(blocks, kind(name)) * np.sqrt(columns)

    assert np.isfinite(values).all()
    assert values.std() == pytest.approx(1.0, abs=0.1)
    assert abs(values.mean()) < 0.15
    elements, size, places = BLOCKS[name]
    for at in places:
        scales = blocks.reshape(-1, size)[:, at : at + 2].copy().view(np.float16).astype(float)
        assert len(np.unique(scales)) > len(scales) / 20
        assert 0.2 < np.log(np.abs(scales)).std() < 0.4
    assert blocks.shape == (128, columns // elements * size)


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_plain_values(name):
    blocks = random_matrix(np.random.default_rng(3), 64, 512, name)
    values = dequantize(blocks, kind(name)) * np.sqrt(512)
    assert values.shape == (64, 512)
    assert values.std() == pytest.approx(1.0, abs=0.02)


@given(st.sampled_from(list(BLOCKS)), st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**32))
def test_any_matrix_dequantizes_to_its_shape(name, rows, blocks, seed):
    columns = blocks * BLOCKS[name][0]
    raw = random_matrix(np.random.default_rng(seed), rows, columns, name)
    values = dequantize(raw, kind(name))
    assert values.shape == (rows, columns)
    assert np.isfinite(values).all()


def test_large_matrices_repeat_what_was_drawn(monkeypatch):
    """Rows beyond a tile repeat it: as large as asked, and drawn in a moment."""
    monkeypatch.setattr("bytebound.engines.random_gguf.TILE", 1024)
    found = random_matrix(np.random.default_rng(0), 11, 256, "q8_0")
    assert found.shape == (11, 8 * 34)
    assert (found[4:8] == found[:4]).all()
    assert (found[8:] == found[:3]).all()


def test_the_same_seed_gives_the_same_file(tmp_path):
    first, again = (write_random_gguf(tmp_path / f"{i}.gguf", TINY, "q4_k", seed=5).read_bytes() for i in range(2))
    other = write_random_gguf(tmp_path / "2.gguf", TINY, "q4_k", seed=6).read_bytes()
    assert first == again
    assert first != other


def test_bad_requests(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown GGUF format to write 'q4_2'; nearest: .*q4_"):
        write_random_gguf(tmp_path / "x.gguf", TINY, "q4_2")
    with pytest.raises(UnknownNameError, match="'fp8'"):
        write_random_gguf(tmp_path / "x.gguf", TINY, "fp16", head="fp8")
    with pytest.raises(QuantityError, match="64 columns are no whole number of q4_k blocks of 256"):
        write_random_gguf(tmp_path / "x.gguf", replace(TINY, width=64), "q4_k")
    with pytest.raises(UnfinishedError, match="cannot write a small model"):
        write_random_gguf(tmp_path / "absent" / "x.gguf", TINY, "fp16")

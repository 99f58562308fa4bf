"""The small models that stand for a large one: its bytes, its heads, whole blocks; every bundled model or a sentence."""

from __future__ import annotations

from math import prod

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.engines.random_gguf import BLOCKS, Shape, write_random_gguf
from bytebound.errors import RequestError, UnknownNameError
from bytebound.ledger.table import compile_table
from bytebound.models import read_model
from bytebound.models.catalogue import model_ids
from bytebound.observe.shape import (
    LARGEST_LAYER_BYTES,
    MOST_FILLER_BYTES,
    Target,
    attention_shape,
    body_shape,
    empty_shape,
    filler_bytes,
    filler_shape,
    head_shape,
    layer_bytes,
    target_of,
)


def target(name, weights="auto"):
    return target_of(compile_table(read_model(name)), weights)


def matrices(shape, weights):
    """Return bytes of each matrix of one layer, counted apart."""
    own, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = [(own, shape.width), (kv, shape.width), (kv, shape.width), (shape.width, own), *[(shape.feed_forward, shape.width)] * 2, (shape.width, shape.feed_forward)]  # fmt: skip
    elements, size, _ = BLOCKS[weights]
    assert all(columns % elements == 0 for _, columns in sizes), shape
    return sum(prod(each) // elements * size for each in sizes)


@pytest.mark.parametrize(
    ("weights", "head", "tied"),
    [("q4_0", "", True), ("q8_0", "", False), ("q4_k", "q6_k", True), ("fp16", "q8_0", False)],
)
def test_a_targets_bytes_are_its_files(weights, head, tied, tmp_path):
    """Counted by gguf in the file itself: matrices of the layers, and the output matrix."""
    shape = Shape(3, 256, 768, 6, 2, 128, 320, tied=tied)
    path = write_random_gguf(tmp_path / "x.gguf", shape, weights, head=head)
    held = {t.name: int(t.n_bytes) for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1}
    found = target(str(path))
    assert found.body_bytes == {weights: sum(size for name, size in held.items() if name.startswith("blk."))}
    assert found.head_bytes == held["token_embd.weight" if tied else "output.weight"]
    assert found.head_weights == (head or weights)
    assert (found.layers, found.width, found.heads, found.kv_heads, found.head_dim) == (3, 256, 6, 2, 128)
    assert found.head_rows == 320
    assert found.kv_bytes_per_token == 3 * 2 * 2 * 128 * 2
    assert found.weight_bytes == sum(found.body_bytes.values()) + found.head_bytes


def test_known_shapes():
    """Published shapes: grouped heads; a latent that all heads share; experts count as visited; towers of images apart."""
    llama = target("meta-llama/Llama-3.1-8B")
    assert (llama.layers, llama.width, llama.heads, llama.kv_heads, llama.head_dim) == (32, 4096, 32, 8, 128)
    assert llama.body_elements == 32 * 4096 * (2 * 4096 + 2 * 1024 + 3 * 14336)
    experts = target("Qwen/Qwen3-30B-A3B", "fp16")
    assert experts.body_elements == 48 * 2048 * (2 * 4096 + 2 * 512 + 8 * 3 * 768 + 128)
    latent = target("deepseek-ai/DeepSeek-V2-Lite", "q8_0")
    assert (latent.heads, latent.kv_heads, latent.head_dim) == (16, 1, 576)
    seeing = target("mistralai/Ministral-3-3B-Instruct-2512", "q8_0")
    assert (seeing.heads, seeing.kv_heads, seeing.head_dim) == (32, 8, 128)


@pytest.mark.parametrize("weights", ["auto", "fp16", "q8_0", "q4_0", "q4_k_m"])
def test_every_bundled_model_has_probes_or_a_reason(weights):
    """Whole blocks, whole groups of heads, and a layer's bytes within the rounding, but where memory sets a limit."""
    refused = 0
    for name in model_ids():
        try:
            found = target(name, weights)
        except (RequestError, UnknownNameError) as error:
            refused += 1
            assert error.place in {"--calibrate", "--weights"}, name
            assert error.mend, name
            continue
        for kind in found.body_bytes:
            shape = body_shape(found, kind)
            unit = max(BLOCKS[kind][0], 32)
            assert shape.width % unit == shape.feed_forward % unit == 0
            assert 0 <= shape.width - found.width < unit
            assert shape.heads % shape.kv_heads == 0
            assert shape.head_dim % 2 == 0
            assert 2 <= shape.layers <= max(found.layers, 2)
            assert layer_bytes(shape, kind) == matrices(shape, kind), name
            one, wanted = (
                layer_bytes(shape, kind),
                found.body_elements / found.layers * BLOCKS[kind][1] / BLOCKS[kind][0],
            )
            if wanted > LARGEST_LAYER_BYTES:
                assert one < 1.4 * LARGEST_LAYER_BYTES, name
            elif shape.heads == found.heads:
                rounding = 3 * shape.width * unit * BLOCKS[kind][1] / BLOCKS[kind][0]
                attention = (
                    shape.head_dim * shape.kv_heads * 4 * shape.width * 2
                )  # latents have fewer weights than heads
                wider = wanted * (shape.width / found.width - 1)
                assert abs(one - wanted) <= rounding + wider + (attention if shape.kv_heads == 1 else 0), name
        for shape in (head_shape(found), attention_shape(found), filler_shape(found), empty_shape(8)):
            assert shape.heads % shape.kv_heads == 0
            matrices(shape, "fp16")
    assert refused < len(model_ids()) / 3


@given(
    layers=st.integers(1, 200), width=st.integers(1, 300), groups=st.integers(1, 16), kv_heads=st.integers(1, 8),
    head_dim=st.sampled_from([32, 64, 80, 96, 128, 576]), weights=st.sampled_from(list(BLOCKS)),
    elements=st.integers(10**4, 10**9), rows=st.integers(100, 300_000),
)  # fmt: skip
def test_shapes_of_any_decoder(*, layers, width, groups, kv_heads, head_dim, weights, elements, rows):
    """Whatever a file says, probes are whole blocks and small enough to write."""
    bits = BLOCKS[weights][1] / BLOCKS[weights][0]
    found = Target(
        layers, width * 16, groups * kv_heads, kv_heads, head_dim, {weights: elements * layers * bits}, float(elements * layers),
        rows * width * 16 * bits, rows, weights, 1e3,
    )  # fmt: skip
    body, head = body_shape(found, weights), head_shape(found)
    assert matrices(body, weights) == layer_bytes(body, weights)
    assert body.heads % body.kv_heads == 0
    assert head.width % BLOCKS[weights][0] == 0
    assert head.vocabulary * head.width * bits < 60e6 + 33 * head.width * bits + 1024 * head.width * bits
    assert filler_bytes(found) < 1.1 * MOST_FILLER_BYTES
    assert attention_shape(found).heads == found.heads


def test_what_is_no_decoder_is_refused():
    with pytest.raises(RequestError, match="only decoders with attention"):
        target("Snowflake/snowflake-arctic-embed-m")
    with pytest.raises(UnknownNameError, match=r"unknown llama.cpp weight format 'fp8"):
        target("meta-llama/Llama-3.1-8B", "fp8")
    with pytest.raises(UnknownNameError, match="'int4'"):
        target("meta-llama/Llama-3.1-8B", "int4")

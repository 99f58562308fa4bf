"""Llama-shaped GGUF files with random weights and no tokenizer: what decodes as fast as the real model of that shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import DocumentError, QuantityError, UnfinishedError, UnknownNameError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BLOCKS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "fp32": (1, 4, ()), "fp16": (1, 2, ()), "bf16": (1, 2, ()),
    "q4_0": (32, 18, (0,)), "q4_1": (32, 20, (0, 2)), "q5_0": (32, 22, (0,)), "q5_1": (32, 24, (0, 2)),
    "q8_0": (32, 34, (0,)), "iq4_nl": (32, 18, (0,)), "iq4_xs": (256, 136, (0,)),
    "q2_k": (256, 84, (80, 82)), "q3_k": (256, 110, (108,)), "q4_k": (256, 144, (0, 2)), "q5_k": (256, 176, (0, 2)),
    "q6_k": (256, 210, (208,)),
}  # fmt: skip
"""Format -> elements and bytes of one block, and where its half-precision scales lie. Source: ggml's public block structs."""
GGML_NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""Our name of a format -> ggml's, where it is not the same in capitals."""
SCALE_SPREAD = 0.3
"""Log-spread of block scales. Kernels look half-precision scales up in a table: one constant scale always hits the first
cache and decodes 10 to 20 % faster than real weights do (SmolLM2-135M in Q4_1, whose scales have a log-spread of 0.30)."""
STEPS = {
    "q4_0": 5.0, "q4_1": 6.1, "q5_0": 10.0, "q5_1": 12.3, "q8_0": 80.0, "iq4_nl": 74.0, "iq4_xs": 1360.0,
    "q2_k": 16.0, "q3_k": 47.0, "q4_k": 300.0, "q5_k": 620.0, "q6_k": 1520.0,
}  # fmt: skip
"""Standard deviation of a format's random integers times sub-scales, so that weights come out near unit variance over width."""
MINIMA = {"q4_1": -7.5, "q5_1": -15.5, "q2_k": 1.5, "q4_k": 7.5, "q5_k": 15.5}
"""A block's second scale over its first: formats with a minimum, which is as far below zero as the values reach above."""
TILE = 1 << 22
"""Values drawn afresh; larger matrices repeat them. Their bytes still lie apart in memory, which is all that costs time."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense Llama-shaped decoder."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = True


def write_random_gguf(path: Path, shape: Shape, weights: str, *, head: str = "", seed: int = 0) -> Path:
    """Write a GGUF of ``shape`` at ``path``; matrices in ``weights``, the embedding (and head) in ``head`` or the same.

    Weights are drawn so that activations stay finite; values have no meaning.

    Raises:
        UnknownNameError: a format we do not write.
        QuantityError: a matrix has columns that are no whole number of its format's blocks.
        DocumentError: the gguf package is missing.
        UnfinishedError: the disk is full or cannot be written.
    """
    try:
        import gguf  # noqa: PLC0415 - optional
    except ImportError:
        raise DocumentError(
            "writing a GGUF needs the gguf package", place="gguf", mend='pip install "bytebound[observe]"'
        ) from None
    for name in (weights, head or weights):
        if name not in BLOCKS:
            raise UnknownNameError("GGUF format to write", name, BLOCKS)
    random = np.random.default_rng(seed)
    writer: Any = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, shape)

    def matrix(name: str, rows: int, columns: int, kind: str) -> None:
        data = random_matrix(random, rows, columns, kind)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[GGML_NAMES.get(kind, kind.upper())])

    def vector(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    kv, own = shape.kv_heads * shape.head_dim, shape.heads * shape.head_dim
    matrix("token_embd.weight", shape.vocabulary, shape.width, head or weights)
    vector("output_norm.weight", shape.width)
    if not shape.tied:
        matrix("output.weight", shape.vocabulary, shape.width, head or weights)
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        vector(at + "attn_norm.weight", shape.width)
        vector(at + "ffn_norm.weight", shape.width)
        matrix(at + "attn_q.weight", own, shape.width, weights)
        matrix(at + "attn_k.weight", kv, shape.width, weights)
        matrix(at + "attn_v.weight", kv, shape.width, weights)
        matrix(at + "attn_output.weight", shape.width, own, weights)
        matrix(at + "ffn_gate.weight", shape.feed_forward, shape.width, weights)
        matrix(at + "ffn_up.weight", shape.feed_forward, shape.width, weights)
        matrix(at + "ffn_down.weight", shape.width, shape.feed_forward, weights)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:
        raise UnfinishedError(
            f"cannot write a small model: {error.strerror}",
            place=str(path),
            mend="free disk, or set TMPDIR to a larger one",
        ) from None
    finally:
        writer.close()
    return path


def _describe(writer: Any, shape: Shape) -> None:
    """Write the metadata of ``shape``."""
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(1 << 17)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(1e4)


def random_matrix(random: np.random.Generator, rows: int, columns: int, kind: str) -> NDArray[Any]:
    """Return raw weights of ``kind``: floats (rows, columns), or blocks as bytes (rows, bytes per row)."""
    fresh = max(min(rows, TILE // columns), 1)
    if fresh < rows:
        drawn = random_matrix(random, fresh, columns, kind)
        return np.ascontiguousarray(np.tile(drawn, (-(-rows // fresh), 1))[:rows])
    scale = 1.0 / np.sqrt(columns)
    if not BLOCKS[kind][2]:
        floats = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)
        if kind == "bf16":
            return (floats.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return floats.astype(np.float16) if kind == "fp16" else floats
    size, wide, scales = BLOCKS[kind]
    if columns % size:
        raise QuantityError(f"{columns} columns are no whole number of {kind} blocks of {size}", place="shape")
    blocks = random.integers(0, 256, (rows, columns // size, wide), dtype=np.uint8)
    for nth, at in enumerate(scales):
        spread = np.exp(SCALE_SPREAD * random.standard_normal((rows, columns // size)))
        values = spread * scale / STEPS[kind] * (MINIMA[kind] if nth else 1.0)
        blocks[..., at : at + 2] = values.astype(np.float16)[..., None].view(np.uint8)
    return np.ascontiguousarray(blocks.reshape(rows, -1))

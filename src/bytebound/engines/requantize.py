"""A GGUF model in another weight format: every matrix unpacked and packed again by ggml's own quantizer."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.engines.llamacpp import load_llamacpp
from bytebound.engines.random_gguf import BLOCKS, GGML_NAMES
from bytebound.errors import DocumentError, QuantityError, RequestError, UnfinishedError, UnknownNameError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FALLBACK = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "q3_k": "q4_0", "q2_k": "q4_0"}
"""Format of a matrix whose columns are no whole number of 256-blocks. Source: llama.cpp, llama-quant.cpp, fallback quantization."""
FILE_TYPES = {"fp32": 0, "fp16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k": 15, "bf16": 32}
"""``general.file_type``. Source: llama.h, enum llama_ftype."""


def requantize(source: Path, target: Path, weights: str) -> dict[str, int]:
    """Write the model at ``source`` to ``target`` with its matrices in ``weights``; vectors stay as they are.

    The source is only read. What its own format has lost stays lost.

    Returns:
        Format -> matrices in it (two where some matrices' columns do not fill whole blocks).

    Raises:
        UnknownNameError: a format we do not write. DocumentError: no gguf package, or not a GGUF that it can read.
        QuantityError: columns that no fallback fits. UnfinishedError: the disk is full.
    """
    try:
        import gguf  # noqa: PLC0415 - optional
        from gguf import quants  # noqa: PLC0415
    except ImportError:
        raise DocumentError(
            "quantizing a GGUF needs the gguf package", place="gguf", mend='pip install "bytebound[prove]"'
        ) from None
    if weights not in FILE_TYPES:
        raise UnknownNameError("GGUF format to write", weights, FILE_TYPES)
    try:
        reader: Any = gguf.GGUFReader(str(source))
        kind = str(reader.fields["general.architecture"].contents())
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise DocumentError(
            f"not a GGUF that can be quantized: {error}", place=str(source), mend="check that the file is whole"
        ) from None
    writer: Any = gguf.GGUFWriter(str(target), kind)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in {"general.architecture", "general.file_type"}:
            continue
        writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    writer.add_file_type(FILE_TYPES[weights])
    counts: dict[str, int] = {}
    for tensor in reader.tensors:
        if len(tensor.shape) < 2:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        used = fitting(weights, values.shape[-1])
        counts[used] = counts.get(used, 0) + 1
        packed = pack(values, used)
        writer.add_tensor(tensor.name, packed, raw_dtype=gguf.GGMLQuantizationType[GGML_NAMES.get(used, used.upper())])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:
        raise UnfinishedError(
            f"cannot write the quantized model: {error.strerror}", place=str(target), mend="free disk, or set TMPDIR"
        ) from None
    finally:
        writer.close()
    return counts


def fitting(weights: str, columns: int) -> str:
    """Return ``weights``, or the format llama.cpp falls back to where ``columns`` do not fill its blocks.

    Raises:
        QuantityError: neither fits.
    """
    for name in (weights, FALLBACK.get(weights, "")):
        if name and columns % BLOCKS[name][0] == 0:
            return name
    raise QuantityError(
        f"{columns} columns are no whole number of {weights} blocks", place="weights", mend="choose another format"
    )


def pack(values: NDArray[np.float32], weights: str) -> NDArray[Any]:
    """Return (rows, columns) floats in ``weights``: floats, or blocks as bytes (rows, bytes per row)."""
    if weights == "fp32":
        return values.astype(np.float32)
    if weights == "fp16":
        return values.astype(np.float16)
    handle = load_llamacpp().handle
    chunk = getattr(handle, "ggml_quantize_chunk", None)
    if chunk is None:
        raise RequestError("this llama.cpp cannot quantize", place="ggml_quantize_chunk", mend="install xllamacpp")
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    import gguf  # noqa: PLC0415 - optional, and there: the caller has read a GGUF with it

    floats = np.ascontiguousarray(values, np.float32)
    columns = floats.shape[-1]
    rows = floats.size // columns
    size, wide, _ = BLOCKS[weights]
    packed = np.empty((*floats.shape[:-1], columns // size * wide), np.uint8)
    number = int(gguf.GGMLQuantizationType[GGML_NAMES.get(weights, weights.upper())])
    done = chunk(number, floats.ctypes.data, packed.ctypes.data, 0, rows, columns, None)
    if done != packed.nbytes:
        raise UnfinishedError(f"ggml packed {done} bytes of {packed.nbytes}", place=weights)
    return packed

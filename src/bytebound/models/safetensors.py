"""Read a safetensors checkpoint: its config.json gives the structure, its headers the exact storage."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bytebound.documents.architecture import Architecture
from bytebound.errors import DocumentError
from bytebound.models.checkpoint import Piece, Rules, settle
from bytebound.models.config import DEEPEST, depth, group, parse, read_text
from bytebound.models.families import build, family
from bytebound.models.keys import Keys, finish
from bytebound.models.quantization import checkpoint_dtype, quantize, read_schemes
from bytebound.models.safetensors_header import (
    DTYPES,
    DtypeTotal,
    SafeTensor,
    SafetensorsFile,
    read_safetensors_header,
    totals_by_dtype,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from os import PathLike


PACKED: Final = ("weight_packed", "qweight", "blocks")
"""Names of packed values; their scales stand beside them."""

SCALES: Final = (
    "weight_scale_inv", "weight_scale_2", "weight_global_scale", "weight_zero_point", "weight_shape", "weight_scale",
    "input_global_scale", "input_scale", "qzeros", "scales", "g_idx", "zeros", "SCB", "weight_format",
    "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map", "activation_scale",
    "weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4", "k_scale", "v_scale",
)  # fmt: skip
"""Names of what is stored beside quantized values."""

_SCALE = re.compile(rf"^(?P<base>.*?)[._](?:{'|'.join(re.escape(name) for name in SCALES)})$")
_PACKED = re.compile(rf"^(?P<base>.*?)[._](?:{'|'.join(PACKED)})$")

BUFFERS: Final = re.compile(
    r"(^|\.)(position_ids|token_type_ids|inv_freq|rotary_emb\..*|masked_bias|attn\.bias|attention\.bias|"
    r"num_batches_tracked|e_score_correction_bias|gate\.bias|expert_bias|pos_embed\.pos_embed|relative_position_index|"
    r"logits_bias|final_logits_bias|embeddings\.position_ids|std_bias|std_scale|(input|output)_(min|max))$"
)
"""Tensors of checkpoints that the library registers as buffers, not as parameters."""

_SWAPS: Final = (
    (re.compile(r"^model\.language_model\.model\."), "model."),
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^language_model\.model\."), "model."),
    (re.compile(r"^language_model\."), ""),
    (re.compile(r"^model\.(?=visual\.|vision_tower\.|vision_model\.|multi_modal_projector\.|connector\.)"), ""),
    (re.compile(r"^(model\.)?vision_tower\.vision_model\."), "vision_model."),
    (re.compile(r"^(model\.)?vision_tower\."), ""),
    (re.compile(r"^(model\.)?vision_model\."), "vision_model."),
    (re.compile(r"^[a-z0-9_]+\."), ""),
    (re.compile(r"^"), "model."),
    (re.compile(r"^"), "transformer."),
    (re.compile(r"^"), "vision_model."),
)
_EXPERT = re.compile(r"(experts?)\.\d+\.")


def read_safetensors(path: str | PathLike[str], name: str = "") -> Architecture:
    """Read a checkpoint: structure from its config.json, storage from its headers.

    Args:
        path: the folder, one ``.safetensors`` file, or the index of its shards.
        name: what to call the model; the folder's name when empty.

    Raises:
        DocumentError: no config.json beside the files, or the files do not hold what it describes.
    """
    start = Path(path)
    header = read_safetensors_header(start)
    folder = start if start.is_dir() else start.parent
    config = folder / "config.json"
    if not config.is_file():
        raise DocumentError(
            "headers tell names and shapes of tensors and not what they do",
            place=str(folder),
            mend="put the model's config.json beside the safetensors files",
        )
    text = read_text(config)
    values = parse(text, str(config))
    if depth(values) > DEEPEST:
        raise DocumentError(
            f"the object is nested deeper than {DEEPEST} levels", place=str(config), mend="check the file"
        )
    keys = Keys(values, file=str(config), text=text)
    named = family(keys)
    dtype = checkpoint_dtype(keys)
    quantized = bool(read_schemes(keys))
    towers = quantize(build(keys), keys, dtype=dtype)
    rules = Rules(
        names=_names,
        extra=re.compile(r"(?!)"),
        ignored=BUFFERS,
        absent=re.compile(r"^pooler\.|^model\.(en|de)coder\.embed_positions\."),
        strict=True,
        place=str(header.path),
    )
    settled = settle(towers, list(_pieces(header.tensors, quantized=quantized)), rules)
    notes = (*finish(keys), *settled.notes)
    grouped = tuple(group(tower) for tower in settled.towers)
    stored = _commonest(header.tensors, dtype)
    return Architecture(
        name=name or folder.resolve().name, family=named, towers=grouped, source=str(start), dtype=stored, notes=notes
    )


def _commonest(tensors: Sequence[SafeTensor], default: str) -> str:
    """Return the 16-, 32- or 64-bit dtype most of the bytes have."""
    bytes_of: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.dtype in ("F64", "F32", "F16", "BF16"):
            bytes_of[DTYPES[tensor.dtype][0]] += tensor.bytes
    return bytes_of.most_common(1)[0][0] if bytes_of else default


def _pieces(tensors: Iterable[SafeTensor], *, quantized: bool) -> Iterator[Piece]:
    """Yield the tensors; with quantization, packed values take their scales' bytes with them."""
    if not quantized:
        for tensor in tensors:
            yield Piece(tensor.name, tensor.shape, DTYPES[tensor.dtype][0], tensor.bytes)
        return
    tensors = list(tensors)
    beside: Counter[str] = Counter()
    values = []
    for tensor in tensors:
        found = _SCALE.match(tensor.name)
        if found is not None:
            beside[found["base"]] += tensor.bytes
        else:
            values.append(tensor)
    for tensor in values:
        packed = _PACKED.match(tensor.name)
        base = packed["base"] if packed is not None else tensor.name.removesuffix(".weight")
        raw = packed is not None or (
            tensor.name.endswith(".weight") and DTYPES[tensor.dtype][0] in ("uint8", "int32", "")
        )
        if raw:
            size = tensor.bytes
            yield Piece(f"{base}.weight", tensor.shape, "", size + beside[base], packed=size)
        else:
            yield Piece(tensor.name, tensor.shape, DTYPES[tensor.dtype][0], tensor.bytes)


def _names(piece: Piece) -> Iterator[str]:
    """Yield the names the architecture may give a tensor: without wrappers, with experts counted, old norm names."""
    name = _EXPERT.sub(r"\1.{}.", piece.name)
    name = re.sub(r"(LayerNorm|layer_norm)\.gamma$", r"\1.weight", name)
    name = re.sub(r"(LayerNorm|layer_norm)\.beta$", r"\1.bias", name)
    stacked = re.sub(r"(experts?)\.(?=[a-z])", r"\1.{}.", name)
    for one in dict.fromkeys((name, stacked, f"{stacked}.weight")):
        yield one
        for pattern, put in _SWAPS:
            changed = pattern.sub(put, one, count=1)
            if changed != one:
                yield changed


__all__ = [
    "DtypeTotal",
    "SafeTensor",
    "SafetensorsFile",
    "read_safetensors",
    "read_safetensors_header",
    "totals_by_dtype",
]

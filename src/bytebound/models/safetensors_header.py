"""Read the headers of safetensors files, checked to the last byte; tensor data is never read.

Source of the layout: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bytebound.errors import DocumentError, UnknownNameError
from bytebound.models.bounded import BoundedReader
from bytebound.models.config import parse, read_text
from bytebound.models.keys import short

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from os import PathLike

HEADER_LIMIT: Final = 100_000_000
"""Bytes of the largest JSON header, as the format's own reader has it."""

TENSOR_LIMIT: Final = 1_000_000
RANK_LIMIT: Final = 16
DIMENSION_LIMIT: Final = 2**48
SHARD_LIMIT: Final = 10_000
INDEX_LIMIT: Final = 256 * 2**20

DTYPES: Final[dict[str, tuple[str, int]]] = {
    "F64": ("fp64", 64),
    "F32": ("fp32", 32),
    "F16": ("fp16", 16),
    "BF16": ("bf16", 16),
    "F8_E4M3": ("uint8", 8),
    "F8_E5M2": ("uint8", 8),
    "F8_E8M0": ("uint8", 8),
    "F4": ("", 4),
    "F6_E2M3": ("", 6),
    "F6_E3M2": ("", 6),
    "I64": ("int64", 64),
    "U64": ("int64", 64),
    "I32": ("int32", 32),
    "U32": ("int32", 32),
    "I16": ("int16", 16),
    "U16": ("int16", 16),
    "I8": ("uint8", 8),
    "U8": ("uint8", 8),
    "BOOL": ("uint8", 8),
    "C64": ("int64", 64),
}
"""Format name (of the raw bytes) and bits per value, by dtype of the header."""

_FIRST_CHOICE = ("model.safetensors", "diffusion_pytorch_model.safetensors")


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """One tensor of a header: its name, dtype as written, shape, and where its bytes lie in which file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: str

    @property
    def bytes(self) -> int:
        """Bytes of its data."""
        return self.end - self.begin

    @property
    def elements(self) -> int:
        """Values it holds (packed values counted as the bytes or words they sit in)."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """The headers of one file, or of all shards of a checkpoint."""

    path: str
    files: tuple[str, ...]
    tensors: tuple[SafeTensor, ...]
    metadata: Mapping[str, str]

    @property
    def elements(self) -> int:
        """Values in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class DtypeTotal:
    """What one dtype holds: tensors, values and bytes."""

    tensors: int
    elements: int
    bytes: int


def totals_by_dtype(file: SafetensorsFile) -> dict[str, DtypeTotal]:
    """Return tensors, values and bytes by the dtype the headers write, largest first."""
    found: dict[str, DtypeTotal] = {}
    for tensor in file.tensors:
        old = found.get(tensor.dtype, DtypeTotal(0, 0, 0))
        found[tensor.dtype] = DtypeTotal(old.tensors + 1, old.elements + tensor.elements, old.bytes + tensor.bytes)
    return dict(sorted(found.items(), key=lambda item: -item[1].bytes))


def read_safetensors_header(path: str | PathLike[str]) -> SafetensorsFile:
    """Read the headers of a checkpoint.

    Args:
        path: a ``.safetensors`` file, an ``.index.json`` of shards, or the folder that holds them.

    Raises:
        DocumentError: missing, truncated, hostile or inconsistent.
        UnknownNameError: a dtype that is not known.
    """
    start = Path(path)
    index, files, wanted = _find(start)
    tensors: list[SafeTensor] = []
    metadata: dict[str, str] = {}
    for file in files:
        found, extra = _read_one(file)
        tensors += found
        metadata |= extra
    _unique(tensors, str(index or start))
    if wanted is not None:
        _check_index(tensors, wanted, str(index))
    return SafetensorsFile(str(start), tuple(str(file) for file in files), tuple(tensors), metadata)


# ---- which files


def _find(start: Path) -> tuple[Path | None, list[Path], dict[str, str] | None]:
    """Return the index (or None), the files, and the index's map from tensor to file."""
    try:
        folder = start.is_dir()
        names = (
            sorted(item.name for item in start.iterdir() if item.name.endswith((".safetensors", ".index.json")))
            if folder
            else []
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DocumentError(
            f"the folder cannot be read: {reason}", place=repr(str(start))[:200], mend="check the path"
        ) from None
    if not folder:
        if start.name.endswith(".index.json"):
            return _from_index(start)
        return None, [start], None
    indexes = [name for name in names if name.endswith(".safetensors.index.json")]
    preferred = [f"{name}.index.json" for name in _FIRST_CHOICE]
    chosen = next((name for name in preferred if name in indexes), indexes[0] if len(indexes) == 1 else "")
    if chosen:
        return _from_index(start / chosen)
    single = next((name for name in _FIRST_CHOICE if name in names), "")
    files = [name for name in names if name.endswith(".safetensors")]
    if single:
        files = [single]
    elif len(files) > 1:
        files = [name for name in files if not name.startswith("consolidated")] or files
    if not files:
        raise DocumentError(
            "the folder holds no .safetensors file", place=str(start), mend="give the folder of a checkpoint"
        )
    if len(files) > SHARD_LIMIT:
        raise DocumentError(f"the folder holds {len(files)} shards", place=str(start), mend="give one checkpoint")
    return None, [start / name for name in files], None


def _from_index(path: Path) -> tuple[Path, list[Path], dict[str, str]]:
    values = parse(read_text(path, INDEX_LIMIT), str(path))
    table = values.get("weight_map")
    if not isinstance(table, dict) or not table:
        raise DocumentError("the index has no weight_map", place=str(path), mend="fetch the index again")
    for tensor, name in table.items():
        plain = isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name and "\\" not in name
        if not plain or "\0" in name:
            message = f"{tensor!r} is said to be in {short(name)}, which is not a .safetensors file beside the index"
            raise DocumentError(message, place=str(path), mend="fetch the index again")
    files = sorted(set(table.values()))
    if len(files) > SHARD_LIMIT:
        raise DocumentError(f"the index names {len(files)} shards", place=str(path), mend="fetch the index again")
    return path, [path.parent / name for name in files], table


def _check_index(tensors: Sequence[SafeTensor], wanted: Mapping[str, str], place: str) -> None:
    have = {tensor.name: Path(tensor.file).name for tensor in tensors}
    for name, file in wanted.items():
        if have.get(name) != file:
            where = f"it is in {have[name]}" if name in have else "it is not there"
            message = f"the index puts {name!r} in {file} and {where}"
            raise DocumentError(message, place=place, mend="fetch the index and its shards again")
    for name, file in have.items():
        if name not in wanted:
            message = f"{file} holds {name!r}, which the index does not list"
            raise DocumentError(message, place=place, mend="fetch the index and its shards again")


def _unique(tensors: Iterable[SafeTensor], place: str) -> None:
    seen: dict[str, str] = {}
    for tensor in tensors:
        if tensor.name in seen:
            message = f"the tensor {tensor.name!r} is in {Path(seen[tensor.name]).name} and in {Path(tensor.file).name}"
            raise DocumentError(message, place=place, mend="leave one copy of the checkpoint in the folder")
        seen[tensor.name] = tensor.file


# ---- one header


def _read_one(path: Path) -> tuple[list[SafeTensor], dict[str, str]]:
    with BoundedReader(path, limit=HEADER_LIMIT + 8) as reader:
        length = reader.value("Q", "the header's length")
        if length > HEADER_LIMIT:
            raise reader.error(
                f"the header would have {length} bytes, more than {HEADER_LIMIT}", "give a .safetensors file"
            )
        data = reader.take(length, "the header")
        room = reader.size - reader.position
    place = str(path)
    try:
        values = json.loads(data.decode("utf-8"), object_pairs_hook=_pairs)
    except UnicodeDecodeError:
        raise DocumentError("the header is not UTF-8", place=place, mend="give a .safetensors file") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DocumentError(
            f"the header is not JSON: {short(reason)}", place=place, mend="fetch the file again"
        ) from None
    if not isinstance(values, dict) or len(values) > TENSOR_LIMIT:
        raise DocumentError("the header is not an object of tensors", place=place, mend="fetch the file again")
    extra = values.pop("__metadata__", None)
    extra = {} if extra is None else extra
    if not isinstance(extra, dict) or not all(isinstance(item, str) for item in extra.values()):
        raise DocumentError("__metadata__ is not an object of strings", place=place, mend="fetch the file again")
    tensors = sorted(
        (_tensor(name, entry, place) for name, entry in values.items()), key=lambda item: (item.begin, item.end)
    )
    _check_layout(tensors, room=room, place=place)
    return tensors, extra


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        message = "a name is written twice"
        raise ValueError(message)
    return found


def _whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _tensor(name: str, entry: Any, place: str) -> SafeTensor:
    where = f"{place}: {short(name)}"
    mend = "fetch the file again"
    if not isinstance(entry, dict):
        raise DocumentError(f"{short(entry)} is not a tensor entry", place=where, mend=mend)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UnknownNameError("safetensors dtype", short(dtype), DTYPES, place=where)
    if (
        not isinstance(shape, list)
        or len(shape) > RANK_LIMIT
        or not all(_whole(size, DIMENSION_LIMIT) for size in shape)
    ):
        raise DocumentError(f"{short(shape)} is not a shape", place=where, mend=mend)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_whole(item, 2**62) for item in offsets):
        raise DocumentError(f"{short(offsets)} is not a pair of offsets", place=where, mend=mend)
    bits = math.prod(shape) * DTYPES[dtype][1]
    if bits % 8 or bits >= 2**65 or offsets[1] - offsets[0] != bits // 8:
        size = f"{bits // 8} bytes" if bits < 2**65 else "more bytes than any file has"
        message = f"{dtype} of shape {short(shape)} needs {size} and has {offsets[1] - offsets[0]}"
        raise DocumentError(message, place=where, mend=mend)
    return SafeTensor(name, dtype, tuple(shape), offsets[0], offsets[1], place)


def _check_layout(tensors: Sequence[SafeTensor], *, room: int, place: str) -> None:
    """Check that the tensors fill the data without gap or overlap, to the last byte."""
    end, last = 0, "the start"
    for tensor in tensors:
        if tensor.begin != end:
            kind = "overlaps" if tensor.begin < end else "leaves a gap after"
            message = f"the tensor {tensor.name!r} {kind} {last}"
            raise DocumentError(message, place=place, mend="the file is damaged; fetch it again")
        end, last = tensor.end, repr(tensor.name)
    if end != room:
        word = "cut short" if end > room else "longer than its tensors"
        message = f"the file is {word}: tensors end at byte {end} of the data, which has {room}"
        raise DocumentError(message, place=place, mend="fetch the file again")

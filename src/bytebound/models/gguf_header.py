"""Read the header of a GGUF file: metadata and tensor table, never tensor data.

Source of the layout: ggml documentation ``docs/gguf.md`` (versions 2 and 3, little and big endian).
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from bytebound.errors import DocumentError, UnknownNameError
from bytebound.models.bounded import BoundedReader
from bytebound.models.ggml_types import GGML_TYPES, REFUSED_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from os import PathLike

HEADER_LIMIT: Final = 256 * 2**20
TENSOR_LIMIT: Final = 100_000
KEY_LIMIT: Final = 100_000
ITEM_LIMIT: Final = 16 * 2**20
STRING_LIMIT: Final = 16 * 2**20
NAME_LIMIT: Final = 1024
DIMENSION_LIMIT: Final = 8
ARRAY_DEPTH: Final = 4
KEPT_ITEMS: Final = 4096
SHARD_LIMIT: Final = 1000

_SCALARS: Final[dict[int, tuple[str, str]]] = {
    0: ("B", "u8"),
    1: ("b", "i8"),
    2: ("H", "u16"),
    3: ("h", "i16"),
    4: ("I", "u32"),
    5: ("i", "i32"),
    6: ("f", "f32"),
    7: ("B", "bool"),
    10: ("Q", "u64"),
    11: ("q", "i64"),
    12: ("d", "f64"),
}
_STRING: Final = 8
_ARRAY: Final = 9
_SPLIT: Final = re.compile(r"^(?P<stem>.*)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class GgufArray:
    """A metadata array: its kind of item, how many, and the items themselves when they are few numbers."""

    kind: str
    count: int
    items: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of the table.

    Args:
        shape: outermost axis first, as the rest of the package writes it (GGUF stores the reverse).
        format: name in ``facts.formats``.
        offset: bytes from the start of its file's data section.
        bytes: bytes of its data, without padding.
        file: which shard holds it, from 0.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    offset: int
    bytes: int
    file: int = 0

    @property
    def elements(self) -> int:
        """Values in the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The header of a GGUF file, or of all shards of a split one."""

    path: str
    version: int
    little_endian: bool
    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    data_start: int
    files: tuple[str, ...]

    @property
    def elements(self) -> int:
        """Values in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors' data, without padding."""
        return sum(tensor.bytes for tensor in self.tensors)

    def bytes_by_format(self) -> dict[str, int]:
        """Return bytes of tensor data by format."""
        return _total(self.tensors, "bytes")

    def elements_by_format(self) -> dict[str, int]:
        """Return values by format."""
        return _total(self.tensors, "elements")


def _total(tensors: Iterable[GgufTensor], what: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in tensors:
        found[tensor.format] = found.get(tensor.format, 0) + getattr(tensor, what)
    return found


def read_gguf_header(path: str | PathLike[str]) -> GgufFile:
    """Read the header of a GGUF file; of a split file, any shard's name reads them all.

    Args:
        path: a ``.gguf`` file; its tensor data is never read.

    Raises:
        DocumentError: missing, truncated, hostile or inconsistent.
        UnknownNameError: a tensor has a type that is not known.
    """
    first = Path(path)
    split = _SPLIT.match(first.name)
    if split is None:
        found = _read_one(first)
        if found.metadata.get("split.count", 1) not in (0, 1):
            raise DocumentError(
                f"this is shard {found.metadata.get('split.no')} of {found.metadata['split.count']} and its name does not say so",
                place=str(first),
                mend="name the shards name-00001-of-0000N.gguf",
            )
        return found
    count = int(split["count"])
    if not 1 <= count <= SHARD_LIMIT:
        raise DocumentError(f"{count} shards are not believable", place=str(first), mend="check the file's name")
    shards = [_read_one(first.with_name(f"{split['stem']}-{no:05}-of-{count:05}.gguf")) for no in range(1, count + 1)]
    return _join(shards, str(first))


def _join(shards: Sequence[GgufFile], place: str) -> GgufFile:
    tensors: list[GgufTensor] = []
    for number, shard in enumerate(shards):
        said = shard.metadata.get("split.no", number), shard.metadata.get("split.count", len(shards))
        if said != (number, len(shards)):
            message = f"the file says it is shard {said[0]} of {said[1]}, its name says {number} of {len(shards)}"
            raise DocumentError(message, place=shard.path, mend="put the shards of one model together")
        tensors += [replace(tensor, file=number) for tensor in shard.tensors]
    _unique((tensor.name for tensor in tensors), place)
    wanted = shards[0].metadata.get("split.tensors.count", len(tensors))
    if wanted != len(tensors):
        raise DocumentError(
            f"the shards hold {len(tensors)} tensors and should hold {wanted}", place=place, mend="fetch them again"
        )
    return replace(shards[0], tensors=tuple(tensors), files=tuple(shard.path for shard in shards))


def _unique(names: Iterable[str], place: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DocumentError(f"the tensor {name!r} is listed twice", place=place, mend="the file is damaged")
        seen.add(name)


def _read_one(path: Path) -> GgufFile:
    with BoundedReader(path, limit=HEADER_LIMIT) as reader:
        magic = reader.take(4, "the magic number")
        if magic != b"GGUF":
            raise DocumentError(
                f"not a GGUF file: it starts with {magic!r}",
                place=str(path),
                mend="give a .gguf file of version 2 or 3",
            )
        version = _version(reader)
        tensor_count = reader.value("Q", "the tensor count")
        key_count = reader.value("Q", "the metadata count")
        if tensor_count > TENSOR_LIMIT or key_count > KEY_LIMIT:
            raise reader.error(
                f"{tensor_count} tensors and {key_count} keys are more than {TENSOR_LIMIT} and {KEY_LIMIT}"
            )
        metadata = _metadata(reader, key_count)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
            raise reader.error(f"general.alignment is {alignment!r}, not a power of two up to {2**20}")
        tensors = tuple(_tensor(reader) for _ in range(tensor_count))
        _unique((tensor.name for tensor in tensors), str(path))
        start = -(-reader.position // alignment) * alignment
        _check_layout(tensors, room=reader.size - start, alignment=alignment, place=str(path))
        return GgufFile(
            path=str(path),
            version=version,
            little_endian=reader.little,
            metadata=MappingProxyType(metadata),
            tensors=tensors,
            data_start=start,
            files=(str(path),),
        )


def _version(reader: BoundedReader) -> int:
    """Read the version, and from it the byte order: a small number in one order is a huge one in the other."""
    raw = reader.take(4, "the version")
    little, big = struct.unpack("<I", raw)[0], struct.unpack(">I", raw)[0]
    reader.little = little <= big
    version = min(little, big)
    if version not in (2, 3):
        raise reader.error(f"GGUF version {version} is not read", "convert the file to version 3")
    return int(version)


def _metadata(reader: BoundedReader, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    budget = [ITEM_LIMIT]
    for _ in range(count):
        key = _name(reader, "a metadata key")
        if key in found:
            raise reader.error(f"the metadata key {key!r} is written twice")
        kind = reader.value("I", f"the type of {key}")
        found[key] = _value(reader, kind, what=key, depth=0, budget=budget)
    return found


def _name(reader: BoundedReader, what: str) -> str:
    length = reader.value("Q", f"the length of {what}")
    if not 1 <= length <= NAME_LIMIT:
        raise reader.error(f"{what} has {length} bytes, not 1 to {NAME_LIMIT}")
    try:
        return reader.take(length, what).decode("utf-8")
    except UnicodeDecodeError:
        raise reader.error(f"{what} is not UTF-8") from None


def _string(reader: BoundedReader, what: str, *, keep: bool) -> str:
    length = reader.value("Q", f"the length of {what}")
    if length > STRING_LIMIT:
        raise reader.error(f"{what} has {length} bytes, more than {STRING_LIMIT}")
    if keep:
        return reader.take(length, what).decode("utf-8", errors="replace")
    reader.skip(length, what)
    return ""


def _value(reader: BoundedReader, kind: int, *, what: str, depth: int, budget: list[int], keep: bool = True) -> Any:
    if kind in _SCALARS:
        code, name = _SCALARS[kind]
        value = reader.value(code, what)
        return bool(value) if name == "bool" else value
    if kind == _STRING:
        return _string(reader, what, keep=keep)
    if kind == _ARRAY:
        return _array(reader, what=what, depth=depth + 1, budget=budget)
    raise reader.error(f"{what} has the unknown metadata type {kind}; types are 0 to 12")


def _array(reader: BoundedReader, *, what: str, depth: int, budget: list[int]) -> GgufArray:
    if depth > ARRAY_DEPTH:
        raise reader.error(f"{what} is nested deeper than {ARRAY_DEPTH} levels")
    kind = reader.value("I", f"the item type of {what}")
    count = reader.value("Q", f"the length of {what}")
    budget[0] -= count
    if budget[0] < 0:
        raise reader.error(f"{what} has {count} items; the file may hold {ITEM_LIMIT} in all")
    if kind in _SCALARS:
        code, name = _SCALARS[kind]
        size = struct.calcsize(f"<{code}")
        if count > KEPT_ITEMS:
            reader.skip(count * size, what)
            return GgufArray(name, count, None)
        data = reader.take(count * size, what)
        values = struct.unpack(f"{'<' if reader.little else '>'}{count}{code}", data)
        return GgufArray(name, count, tuple(map(bool, values)) if name == "bool" else values)
    if kind not in (_STRING, _ARRAY):
        raise reader.error(f"{what} has the unknown item type {kind}; types are 0 to 12")
    reader.need(count * (8 if kind == _STRING else 12), what)
    for _ in range(count):
        _value(reader, kind, what=what, depth=depth, budget=budget, keep=False)
    return GgufArray("string" if kind == _STRING else "array", count, None)


def _tensor(reader: BoundedReader) -> GgufTensor:
    name = _name(reader, "a tensor name")
    rank = reader.value("I", f"the rank of {name}")
    if not 1 <= rank <= DIMENSION_LIMIT:
        raise reader.error(f"{name} has {rank} dimensions, not 1 to {DIMENSION_LIMIT}")
    widths = [reader.value("Q", f"a dimension of {name}") for _ in range(rank)]
    kind = reader.value("I", f"the type of {name}")
    offset = reader.value("Q", f"the offset of {name}")
    elements = math.prod(widths)
    if not 1 <= elements < 2**62:
        raise reader.error(f"{name} has the impossible shape {tuple(widths)}")
    if kind in REFUSED_TYPES:
        raise reader.error(f"{name} has ggml type {kind} ({REFUSED_TYPES[kind]})", "quantize the model again")
    if kind not in GGML_TYPES:
        known = {f"{number} {entry[0]}": abs(number - kind) for number, entry in GGML_TYPES.items()}
        closest = sorted(known, key=lambda entry: known[entry])[:1]
        raise UnknownNameError(
            "ggml type", f"{kind} (nearest number: {closest[0]})", (), place=f"{reader.place}: {name}"
        )
    label, block, size = GGML_TYPES[kind]
    if widths[0] % block:
        raise reader.error(f"{name} has rows of {widths[0]} values, not a multiple of {label}'s {block}")
    return GgufTensor(name, tuple(reversed(widths)), label, offset, elements // block * size)


def _check_layout(tensors: Sequence[GgufTensor], *, room: int, alignment: int, place: str) -> None:
    """Check that every tensor lies aligned, within the file and over no other."""
    end, last = 0, ""
    for tensor in sorted(tensors, key=lambda item: item.offset):
        if tensor.offset % alignment:
            message = f"the tensor {tensor.name!r} starts at {tensor.offset}, not a multiple of {alignment}"
        elif tensor.offset < end:
            message = f"the tensor {tensor.name!r} overlaps {last!r}"
        elif tensor.offset + tensor.bytes > room:
            message = (
                f"the tensor {tensor.name!r} ends {tensor.offset + tensor.bytes - max(room, 0)} bytes after the file"
            )
        else:
            end, last = tensor.offset + tensor.bytes, tensor.name
            continue
        raise DocumentError(message, place=place, mend="the file is damaged or cut; fetch it again")

"""Read a ``config.json`` as published into an ``Architecture``: bounded, strict, and never a guess."""

from __future__ import annotations

import json
import re
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.documents.architecture import Architecture, Block, Tower
from bytebound.errors import DocumentError
from bytebound.models.families import build, family
from bytebound.models.keys import Keys, finish, short
from bytebound.models.quantization import checkpoint_dtype, quantize, written_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LARGEST_FILE = 8 * 2**20
"""Bytes of the largest config that is read; the largest published ones have 70 kB."""

DEEPEST = 32
"""Levels of nesting that are believed."""


def read_config(source: str | PathLike[str] | Mapping[str, Any], name: str = "") -> Architecture:
    """Read one model config.

    Args:
        source: path to a ``config.json``, or its object.
        name: what to call the model; the file's folder or stem when empty.

    Returns:
        The exact architecture; keys that were not read and cannot change a shape are in its notes.

    Raises:
        DocumentError: the file cannot be read, is too large or too deep, or a key is missing, damaged or unknown.
        UnknownNameError: the family or the quantization method is not known.
    """
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        text = read_text(path)
        stem = path.parent.name if path.name == "config.json" else path.stem
        values = parse(text, str(path))
        beside = path.with_name("hf_quant_config.json")
        if "quantization_config" not in values and path.name == "config.json" and beside.is_file():
            values["quantization_config"] = parse(read_text(beside), str(beside))
        return build_architecture(values, file=str(path), name=name or stem, text=text)
    return build_architecture(source, file=name or "config", name=name or "config")


def build_architecture(values: Mapping[str, Any], *, file: str, name: str, text: str = "") -> Architecture:
    """Build the architecture of a config's object; ``file`` and ``text`` place its errors."""
    architecture, _ = build_with_keys(values, file=file, name=name, text=text)
    return architecture


def build_with_keys(values: Mapping[str, Any], *, file: str, name: str, text: str = "") -> tuple[Architecture, Keys]:
    """Build as ``build_architecture`` and return the reader too, which knows the keys that were consumed."""
    if depth(values) > DEEPEST:
        raise DocumentError(f"the object is nested deeper than {DEEPEST} levels", place=file, mend="check the file")
    keys = Keys(values, file=file, text=text)
    named = family(keys)
    dtype = checkpoint_dtype(keys)
    towers = build(keys)
    towers = quantize(towers, keys, dtype=dtype)
    notes = finish(keys)
    if written_dtype(keys) is None:
        notes = (*notes, "torch_dtype is not written: bf16 is assumed")
    grouped = tuple(group(tower) for tower in towers)
    return Architecture(name=name, family=named, towers=grouped, source=file, dtype=dtype, notes=notes), keys


def group(tower: Tower) -> Tower:
    """Return the tower with equal layers merged into one block that repeats, wherever they stand."""
    merged: dict[tuple[str, tuple[Any, ...]], int] = {}
    for block in tower.blocks:
        key = (re.sub(r"(?<![^.])\d+(?=\.)", "{}", block.name), block.operators)
        merged[key] = merged.get(key, 0) + block.repeat
    blocks = tuple(Block(name, operators, repeat) for (name, operators), repeat in merged.items())
    return Tower(tower.name, tower.kind, blocks, tower.hidden, tower.tokens, tower.tokens_out, tower.context)


def read_text(path: Path, largest: int = LARGEST_FILE) -> str:
    """Return the text of a file of at most ``largest`` bytes.

    Raises:
        DocumentError: missing, not a file, too large, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise DocumentError(f"the file cannot be read: {reason}", place=str(path), mend="check the path") from None
    except ValueError as error:
        raise DocumentError(f"not a path: {error}", place=short(str(path)), mend="check the path") from None
    if len(data) > largest:
        raise DocumentError(f"the file has more than {largest} bytes", place=str(path), mend="give a config.json")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"byte {error.start} is not UTF-8", place=str(path), mend="give a config.json, which is text"
        ) from None


def parse(text: str, file: str) -> dict[str, Any]:
    """Return the object of a JSON text.

    Infinity and NaN are read as numbers here, because published configs hold them in keys that shape nothing
    (``time_step_limit``); any key that shapes the model refuses them.

    Raises:
        DocumentError: not JSON, not an object, or the same key twice with different values.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise DocumentError(f"not JSON: {error.msg}", place=f"{file}:{error.lineno}", mend="check the file") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]
        raise DocumentError(f"not a config: {reason}", place=file, mend="check the file") from None
    if not isinstance(value, dict):
        raise DocumentError(f"{short(value)} is not a JSON object", place=file, mend="give a config.json")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            message = f"the key {key!r} is written twice with different values"
            raise ValueError(message)
        found[key] = value
    return found


def depth(value: Any) -> int:
    """Return how deeply lists and objects are nested, at most one more than is believed."""
    level: list[Any] = [value]
    for deep in range(DEEPEST + 1):
        if not level:
            return deep
        level = [item for holder in level for item in _inside(holder)]
    return DEEPEST + 1


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()

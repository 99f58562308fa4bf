"""Files that people write in TOML: bounded reading, and every problem of a file in one message, each with line, key and mend."""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

from bytebound.errors import DocumentError, QuantityError
from bytebound.units import parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_LIMIT_BYTES = 1 << 20
UNION_PARTS = frozenset(
    {"Lengths", "int", "float", "str", "bool", "constrained-int", "constrained-float", "constrained-str"}
)
"""What pydantic adds to the place of a value that may be of several types."""

Record = TypeVar("Record", bound=BaseModel)


def quantity(dimension: str) -> BeforeValidator:
    """Return a validator that reads a text such as ``"50ms"`` as a number of ``dimension`` in SI units."""

    def read(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return parse(value, dimension)
        except QuantityError as error:  # pydantic collects ValueErrors with their place
            raise ValueError(str(error)) from None

    return BeforeValidator(read)


def read_toml(path: Path, *, kind: str) -> str:
    """Return the text of ``path``; ``kind`` names the file in errors, such as ``"fleet"``.

    Raises:
        DocumentError: missing, too large, unreadable or not UTF-8.
    """
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise DocumentError(
                f"larger than {FILE_LIMIT_BYTES} bytes", place=str(path), mend=f"a {kind} file is a few kilobytes"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DocumentError("no such file", place=str(path), mend=f"give the path of a {kind} file") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DocumentError(f"cannot be read: {error}", place=str(path)) from None


def parse_toml(
    model: type[Record], text: str, *, place: str, tables: Mapping[str, type[BaseModel]], mend: str
) -> Record:
    """Return the ``model`` that ``text`` (TOML) describes; ``tables`` are the records of its tables, by their last name.

    Raises:
        DocumentError: not TOML, or wrong; every problem is named with file, line and key.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{place}:{line[1]}" if line else place
        raise DocumentError(f"not TOML: {error}", place=where, mend="check the brackets and quotes there") from None
    except (RecursionError, ValueError) as error:  # a number of more than 4,300 digits, nesting without end
        why = "nested too deeply" if isinstance(error, RecursionError) else f"not TOML: {error}"
        raise DocumentError(why, place=place) from None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise DocumentError(_sentences(error, text, place, model, tables), mend=mend) from None


def _sentences(
    error: ValidationError, text: str, place: str, model: type[BaseModel], tables: Mapping[str, type[BaseModel]]
) -> str:
    found = []
    problems = error.errors(include_url=False)
    inner = {item["loc"][:depth] for item in problems for depth in range(1, len(item["loc"]))}
    for item in problems:
        if item["type"] == "too_short" and item["loc"] in inner:
            continue  # pydantic counts what is left after the wrong ones, which are named themselves
        path, message = item["loc"], str(item["msg"]).removeprefix("Value error, ")
        pointed = re.match(r"@([\w.]+)@", message)
        if pointed:
            path = tuple(int(part) if part.isdigit() else part for part in pointed[1].split("."))
            message = message[pointed.end() :]
        parts = [part for part in path if not (isinstance(part, str) and part in UNION_PARTS)]
        line = line_of(text, parts)
        key = dotted(parts)
        if item["type"] == "extra_forbidden":
            message = f"unknown key{_nearest_key(parts, model, tables)}"
        given = item.get("input")
        shown = (
            f" (given {given!r:.100})"
            if isinstance(given, str | int | float) and item["type"] != "extra_forbidden"
            else ""
        )
        found.append((line, f"{place}:{line}: {key}: {message}{shown}" if key else f"{place}:{line}: {message}"))
    return "\n".join(dict.fromkeys(sentence for _, sentence in sorted(found)))


def dotted(parts: list[Any]) -> str:
    """Return a key as people write it: ``pool[0].device``."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _nearest_key(parts: list[Any], model: type[BaseModel], tables: Mapping[str, type[BaseModel]]) -> str:
    inside = [part for part in parts[:-1] if isinstance(part, str) and part in tables]
    known = list(tables[inside[-1]].model_fields) if inside else list(model.model_fields)
    near = difflib.get_close_matches(str(parts[-1]), known, n=2, cutoff=0.5) if parts else []
    return f"; nearest: {', '.join(near)}" if near else f"; known: {', '.join(name.rstrip('_') for name in known)}"


def line_of(text: str, parts: list[Any]) -> int:
    """Return the line of the key ``parts`` names (``["pool", 0, "device"]``), or of the table that should hold it."""
    names = [part for part in parts if isinstance(part, str)]
    index = next((part for part in parts if isinstance(part, int)), 0)
    seen: dict[str, int] = {}
    best, inside, header = 1, not names or len(names) == 1, ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        table = re.match(r"\[\[?\s*([\w.\-\"]+)\s*\]\]?", line)
        if table:
            header = table[1].replace('"', "")
            if line.startswith("[["):
                seen[header] = seen.get(header, -1) + 1
            root = header.split(".")[0]
            inside = bool(names) and root == names[0] and seen.get(root, 0) == index
            if inside and header == ".".join(names[: header.count(".") + 1]):
                best = number
        elif inside and names:
            key = re.match(r"([\w\-\".]+)\s*=", line)
            if key:
                full = [*header.split("."), *key[1].replace('"', "").split(".")] if header else key[1].split(".")
                if full == names or (full == names[: len(full)] and len(full) > header.count(".") + 1):
                    return number
    return best

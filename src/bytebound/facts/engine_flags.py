"""Flags of engines, as far as a command of ours uses them: each was seen in the source of the stated version."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, cast

from bytebound.errors import QuantityError, UnknownNameError
from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

Place = Literal["flag", "yaml", "json", "environment", "proxy", "image", "manifest"]
Kind = Literal["switch", "flag", "count", "number", "share", "choice", "text", "json"]


@dataclass(frozen=True, slots=True)
class EngineFlag:
    """One flag, YAML key, JSON key, environment variable or image of one version of an engine.

    Args:
        place: where it is written; ``proxy``: what routes between prefill and decode.
        kind: what it takes; ``switch``: nothing.
        values: the choices we use or know, for ``choice``.
        since: first version it was seen in, where known.
    """

    engine: str
    version: str
    place: Place
    flag: str
    kind: Kind
    values: tuple[str, ...]
    meaning: str
    since: str
    status: str
    source: str


@cache
def engine_flags() -> Mapping[tuple[str, str, str], EngineFlag]:
    """Return every row of ``engine_flags.csv`` by engine, place and flag."""
    found: dict[tuple[str, str, str], EngineFlag] = {}
    for line, row in read_table("engine_flags.csv"):
        key = (row["engine"], row["place"], row["flag"])
        if key in found:
            raise QuantityError(f"{' '.join(key)} is given twice", place=f"engine_flags.csv:{line}")
        found[key] = EngineFlag(
            engine=row["engine"],
            version=row["version"],
            place=cast("Place", row["place"]),
            flag=row["flag"],
            kind=cast("Kind", row["kind"]),
            values=tuple(part for part in row["values"].split("|") if part),
            meaning=row["meaning"],
            since=row["since"],
            status=row["status"],
            source=row["source"],
        )
    return found


def find_flag(engine: str, name: str, place: str = "flag") -> EngineFlag:
    """Return the flag ``name`` of ``engine``.

    Raises:
        UnknownNameError: it is not in the table; carries the nearest that are.

    Example:
        >>> find_flag("vllm", "--tensor-parallel-size").version
        '0.33.0'
    """
    found = engine_flags().get((engine, place, name))
    if found is None:
        known = [flag for owner, where, flag in engine_flags() if owner == engine and where == place]
        raise UnknownNameError(f"{place} of {engine}", name, known, mend="add it to engine_flags.csv with its source")
    return found


def version_of(engine: str) -> str:
    """Return the version of ``engine`` that its flags are of.

    Raises:
        UnknownNameError: no flag of it is known.
    """
    versions = {owner: flag.version for (owner, _, _), flag in engine_flags().items()}
    if engine not in versions:
        raise UnknownNameError("engine", engine, versions)
    return versions[engine]


def written(engine: str, name: str, value: object = None, *, place: str = "flag") -> str:
    """Return ``value`` as the flag takes it; an empty text for a switch.

    Raises:
        UnknownNameError: no such flag, or a choice it does not have.
        QuantityError: a value that is not of the flag's kind.
    """
    flag = find_flag(engine, name, place)
    where = f"{engine} {name}"
    if flag.kind == "switch":
        if value is not None:
            raise QuantityError(f"takes no value, given {value!r}", place=where)
        return ""
    if flag.kind == "choice" and str(value) not in flag.values:
        raise UnknownNameError("choice", str(value), flag.values, place=where)
    if flag.kind in {"count", "number", "share"}:
        return _number(flag, value, where)
    return json.dumps(value) if flag.kind == "json" else str(value)


def _number(flag: EngineFlag, value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise QuantityError(f"takes a number, given {value!r}", place=where)
    if flag.kind == "count" and value != int(value):
        raise QuantityError(f"takes a whole number, given {value!r}", place=where)
    if flag.kind == "share" and not 0 < value <= 1:
        raise QuantityError(f"takes a share above 0 up to 1, given {value!r}", place=where)
    return str(int(value)) if value == int(value) and flag.kind != "share" else f"{value:g}"

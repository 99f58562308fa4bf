"""Generations of links and memories: what one slot, device, stack or channel moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

from bytebound.errors import UnknownNameError
from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.device import How


@dataclass(frozen=True, slots=True)
class Standard:
    """One generation of a link or a memory.

    ``bytes_per_s`` is of one ``unit``: a link's x16 slot, device or lane, in one direction; a memory's stack, chip or
    channel. ``capacity_bytes`` is of one stack or chip, None for links and channels.
    """

    name: str
    released: str
    unit: str
    bytes_per_s: float | None
    capacity_bytes: float | None
    how: How
    confidence: str
    source: str
    note: str


@cache
def links() -> Mapping[str, Standard]:
    """Return PCIe, CXL, NVLink and other link generations by name, rates per direction."""
    return _table("links.csv", "scope", "bytes_per_s_per_direction")


@cache
def memory_standards() -> Mapping[str, Standard]:
    """Return HBM, GDDR, DDR and LPDDR generations by name."""
    return _table("standards.csv", "unit", "bytes_per_s")


def find_link(name: str) -> Standard:
    """Return the link generation called ``name``, in any case.

    Raises:
        UnknownNameError: no such link.

    Example:
        >>> find_link("pcie 5.0").bytes_per_s
        63000000000.0
    """
    known = {link.lower(): standard for link, standard in links().items()}
    if name.strip().lower() not in known:
        raise UnknownNameError("link", name, links())
    return known[name.strip().lower()]


def _table(file: str, unit: str, rate: str) -> dict[str, Standard]:
    return {
        row["name"]: Standard(
            name=row["name"],
            released=row["released"],
            unit=row[unit],
            bytes_per_s=_number(row[rate]),
            capacity_bytes=_number(row.get("capacity_bytes", "")),
            how=cast("How", row["how"]),
            confidence=row["confidence"],
            source=row["source"],
            note=row["note"],
        )
        for _, row in read_table(file)
    }


def _number(text: str) -> float | None:
    return float(text) if text else None

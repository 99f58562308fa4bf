"""Which readings of two measurements are of the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bytebound.documents.measurement import Reading

DRAM, READ, CANARY = "DRAM", "memory.read", "canary.read"
CHOSEN = {"kernel", "edge_bytes"}  # what a probe found out by itself, not where it was asked to look
HEADLINES = (READ, "memory.copy", "memory.latency", "matrix.", "link.", "cache.l2")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """What is read: name, unit and where. Where the size is the largest of its ladder, ``bytes`` is ``DRAM``."""

    name: str
    unit: str
    where: tuple[tuple[str, float | str], ...]

    @property
    def of_memory(self) -> bool:
        """Whether it is a memory reading beyond the caches."""
        return self.name.startswith("memory.") and dict(self.where).get("bytes", DRAM) == DRAM


def by_place(readings: Iterable[Reading]) -> dict[Place, Reading]:
    """Return readings by place; of several at one place (a probe repeated at the end), the first.

    A quick and a full ladder may end at different sizes; both ends are DRAM and are matched. The DRAM read of the ladder
    takes moments, the canary (the same read) is spread over the run: whichever saw the faster memory stands for it.
    """
    every = tuple(readings)
    largest: dict[Place, float] = {}
    for reading in every:
        group = _place(reading, {})
        largest[group] = max(largest.get(group, 0.0), _size(reading))
    table: dict[Place, Reading] = {}
    for reading in every:
        size = _size(reading)
        named: dict[str, float | str] = (
            {"bytes": DRAM if size == largest[_place(reading, {})] else size} if size else {}
        )
        table.setdefault(_place(reading, named), reading)
    for canary in (reading for reading in every if reading.name == CANARY):
        read = canary.model_copy(update={"name": READ})
        place = _place(read, {"bytes": DRAM})
        if place in table and _size(read) > 0.5 * _size(table[place]):
            table[place] = max(table[place], read, key=lambda reading: reading.best)
    return table


def headlines(table: Mapping[Place, Reading]) -> frozenset[Place]:
    """Return the ceilings that other verbs use: DRAM with most threads on all nodes, matrices, links and L2.

    Not the disk, whose rate on shared storage halves and doubles from minute to minute.
    """
    most: dict[str, float] = {}
    for place, reading in table.items():
        most[place.name] = max(most.get(place.name, 0.0), _threads(reading))
    return frozenset(
        place
        for place, reading in table.items()
        if place.name.startswith(HEADLINES)
        and (place.of_memory or not place.name.startswith("memory."))
        and reading.where.get("node", "all") == "all"
        and _threads(reading) in {0.0, most[place.name]}
    )


def _place(reading: Reading, size: Mapping[str, float | str]) -> Place:
    where = {key: value for key, value in reading.where.items() if key not in CHOSEN}
    if reading.name.startswith("memory."):
        where.pop("bytes", None)
        where.update(size)
    return Place(reading.name, reading.unit, tuple(sorted(where.items())))


def _size(reading: Reading) -> float:
    size = reading.where.get("bytes", 0.0)
    return float(size) if isinstance(size, int | float) else 0.0


def _threads(reading: Reading) -> float:
    count = reading.where.get("threads", 0.0)
    return float(count) if isinstance(count, int | float) else 0.0

"""What an inference engine keeps for itself: memory, page size, scheduling limits and host time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

from bytebound.documents.device import Figure
from bytebound.errors import UnknownNameError
from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.device import How


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine.

    Args:
        name, version: which engine, and the versions the values are of.
        memory_share: share of device memory the engine may use by default.
        reserve_bytes: what it uses beside weights, KV cache and activations: context, graphs, allocator slack [B].
        block_tokens: tokens per page of the KV cache.
        max_batched_tokens: most prompt tokens in one step by default.
        profiled_sequences: sequences the start-up profiling pass assumes; its activation peak is kept free for ever (0: none).
        host_s_per_step: host time per step that the device waits for [s].
        host_s_per_request: host time per request: tokenising, queueing, first scheduling [s].
        how: how the reserve and the host times are known; ``source`` tells them apart.
    """

    name: str
    version: str
    memory_share: float
    reserve_bytes: float
    block_tokens: int
    max_batched_tokens: int
    profiled_sequences: int
    host_s_per_step: float
    host_s_per_request: float
    status: str
    how: How
    source: str
    note: str
    reserve: Figure
    host_per_step: Figure
    host_per_request: Figure


@cache
def engines() -> Mapping[str, Engine]:
    """Return every engine by its name, in the order to show them."""
    return {row["name"]: _engine(row) for _, row in read_table("engines.csv")}


@cache
def _aliases() -> Mapping[str, str]:
    rows = [row for _, row in read_table("engines.csv")]
    return {alias: row["name"] for row in rows for alias in row["aliases"].split("|") if alias}


def find_engine(name: str, *, place: str = "") -> Engine:
    """Return the engine called ``name`` (or an alias, any case).

    Raises:
        UnknownNameError: no such engine.

    Example:
        >>> find_engine("vLLM").block_tokens
        16
    """
    key = str(name).strip().lower()
    key = _aliases().get(key, key)
    if key not in engines():
        raise UnknownNameError("engine", str(name), (*engines(), *_aliases()), place=place)
    return engines()[key]


def _engine(row: Mapping[str, str]) -> Engine:
    how = cast("How", row["how"])

    def figure(column: str, low: str, high: str, unit: str, how: How) -> Figure:
        return Figure(
            value=float(row[column]),
            low=float(row[low]),
            high=float(row[high]),
            unit=unit,
            how=how,
            source=row["source"],
            when=row["date"],
        )

    return Engine(
        name=row["name"],
        version=row["version"],
        memory_share=float(row["memory_share"]),
        reserve_bytes=float(row["reserve_bytes"]),
        block_tokens=int(row["block_tokens"]),
        max_batched_tokens=int(row["max_batched_tokens"]),
        profiled_sequences=int(row["profiled_sequences_count"] or 0),
        host_s_per_step=float(row["host_s_per_step"]),
        host_s_per_request=float(row["host_s_per_request"]),
        status=row["status"],
        how=how,
        source=row["source"],
        note=row["note"],
        reserve=figure("reserve_bytes", "reserve_low_bytes", "reserve_high_bytes", "B", how),
        host_per_step=figure("host_s_per_step", "host_low_s_per_step", "host_high_s_per_step", "s", "assumed"),
        host_per_request=figure(
            "host_s_per_request", "host_low_s_per_request", "host_high_s_per_request", "s", "assumed"
        ),
    )

"""How far our predictions of memory and energy are from measured ones, by metric and engine."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from bytebound.errors import UnknownNameError
from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

POOLED = "*"
"""The row of all engines together."""


@cache
def memory_spreads() -> Mapping[tuple[str, str], float]:
    """Return (metric, engine) -> half-width of the 80 % interval, in natural logarithms of the ratio."""
    return MappingProxyType(
        {
            (row["metric"], row["engine"]): float(row["log_half_width_ratio"])
            for _, row in read_table("memory_spreads.csv")
        }
    )


def half_width(metric: str, engine: str) -> float:
    """Return the half-width of the 80 % interval of ``metric`` with ``engine``, in natural logarithms of the ratio.

    An engine without measured rows enough takes that of all engines.

    Example:
        >>> half_width("kv_tokens", "vllm") <= half_width("kv_tokens", "tensorrt-llm")
        True

    Raises:
        UnknownNameError: a metric without a row.
    """
    known = memory_spreads()
    if (metric, POOLED) not in known:
        raise UnknownNameError("metric", metric, sorted({name for name, _ in known}), place="memory_spreads.csv")
    return known.get((metric, engine), known[metric, POOLED])

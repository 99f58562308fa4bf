"""Which share of a *measured* read ceiling an engine reaches, by weight format, as seen on other machines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.device import How

ANY = "*"


@dataclass(frozen=True, slots=True)
class EngineShare:
    """Decode bandwidth over the read ceiling measured on the same machine, with its interval."""

    value: float
    low: float
    high: float
    how: How
    source: str
    date: str


@cache
def engine_shares() -> Mapping[tuple[str, str, str], EngineShare]:
    """Return (engine, device kind, weight format or ``attention-flash``/``attention-eager``) -> share."""
    return MappingProxyType(
        {
            (row["engine"], row["kind"], row["part"]): EngineShare(
                float(row["share"]), float(row["low_share"]), float(row["high_share"]), cast("How", row["how"]), row["source"], row["date"]
            )
            for _, row in read_table("engine_shares.csv")
        }
    )  # fmt: skip


def engine_share(engine: str, kind: str, part: str) -> EngineShare | None:
    """Return an engine's share, its row for any format where that one was not tried, or None.

    Example:
        >>> engine_share("llama.cpp", "cpu", "q8_0").how
        'measured'
        >>> engine_share("vllm", "gpu", "bf16") is None
        True
    """
    table = engine_shares()
    found = table.get((engine, kind, part))
    return found or (None if part.startswith("attention") else table.get((engine, kind, ANY)))

"""How far each cost of a deployment may be from ours before anything of it was measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.device import How


@dataclass(frozen=True, slots=True)
class PriorSd:
    """Standard deviation of the logarithm of one effect, and how it is known."""

    log_sd: float
    how: How
    source: str


@cache
def correction_prior() -> Mapping[str, PriorSd]:
    """Return effect -> its standard deviation; ``noise`` is what no effect explains, ``noise-loaded`` the same of first tokens under load.

    Example:
        >>> 0 < correction_prior()["noise"].log_sd < 0.2
        True
    """
    return MappingProxyType(
        {
            row["effect"]: PriorSd(float(row["log_sd_ratio"]), cast("How", row["how"]), row["source"])
            for _, row in read_table("correction_prior.csv")
        }
    )

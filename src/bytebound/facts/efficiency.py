"""Which share of a ceiling kernels attain, and the least time one takes, by device family and operator class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, cast

from bytebound.errors import UnknownNameError
from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.device import How

OPERATORS: dict[str, tuple[str, ...]] = {
    "gemm": ("compute_share", "bandwidth_share", "floor_s"),
    "expert": ("compute_share", "bandwidth_share", "floor_s"),
    "attention-decode": ("compute_share", "bandwidth_share", "floor_s"),
    "attention-prefill": ("compute_share", "bandwidth_share", "floor_s"),
    "elementwise": ("bandwidth_share", "floor_s"),
    "collective": ("link_share", "floor_s"),
}
"""Operator class -> what is known of it: shares of a datasheet ceiling (link: per direction), and seconds per kernel."""

KIND_POOLS = {
    "gpu": "pool:pcie-gpu",
    "asic": "pool:asic",
    "npu": "pool:asic",
    "cpu": "pool:cpu",
    "tpu": "pool:tpu",
    "apple-soc": "pool:apple",
    "phone-soc": "pool:phone",
}
"""Pool of a device whose family is not in our table, by its kind."""

GENERIC = "generic"


@dataclass(frozen=True, slots=True)
class Share:
    """One share (0 to 1) or floor (seconds) with its interval.

    ``level`` says how far the look-up had to go: ``family`` (this family), ``kind`` (families like it) or ``generic``;
    ``origin`` names the row that was used.
    """

    value: float
    low: float
    high: float
    how: How
    source: str
    level: Literal["family", "kind", "generic"]
    origin: str


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Every share and floor of one family: ``efficiency("nvidia-hopper").of("gemm", "compute_share")``."""

    family: str
    pool: str
    shares: Mapping[tuple[str, str], Share]

    def of(self, operator: str, quantity: str) -> Share:
        """Return one share or floor.

        Raises:
            UnknownNameError: no such operator class or quantity.
        """
        if (operator, quantity) not in self.shares:
            known = [f"{name} {what}" for name, what in self.shares]
            raise UnknownNameError("efficiency", f"{operator} {quantity}", known)
        return self.shares[operator, quantity]

    @property
    def level(self) -> Literal["family", "kind", "generic"]:
        """The coarsest level any share of matrix products came from; other operators follow them."""
        levels = {
            share.level
            for (operator, quantity), share in self.shares.items()
            if operator == "gemm" and quantity != "floor_s"
        }
        return "generic" if "generic" in levels else "kind" if "kind" in levels else "family"


@cache
def families() -> Mapping[str, tuple[str, str]]:
    """Return family -> (pool, title)."""
    return MappingProxyType({row["family"]: (row["pool"], row["title"]) for _, row in read_table("families.csv")})


@cache
def efficiency(family: str, kind: str = "") -> Efficiency:
    """Return the shares and floors of a device family.

    A value the family does not have comes from its pool (families of the same kind), and one the pool does not have
    from the generic row; every ``Share`` says which level it came from. A family we do not know is pooled by the
    device's ``kind``.

    Args:
        family: such as ``"nvidia-hopper"``; see ``families``.
        kind: the device's kind (gpu, asic, npu, cpu, tpu, apple-soc, phone-soc), for families not in our table.

    Example:
        >>> efficiency("nvidia-hopper").of("gemm", "compute_share").level
        'family'
        >>> efficiency("never-seen", "cpu").of("gemm", "compute_share").level
        'kind'
    """
    pool = families()[family][0] if family in families() else KIND_POOLS.get(kind, GENERIC)
    levels = {family: "family", pool: "kind", GENERIC: "generic"}
    chain = list(dict.fromkeys(levels))
    table = _table()
    shares = {}
    for operator, quantities in OPERATORS.items():
        for quantity in quantities:
            origin = next(name for name in chain if (name, operator, quantity) in table)
            value, low, high, how, source = table[origin, operator, quantity]
            level = cast("Literal['family', 'kind', 'generic']", "generic" if origin == GENERIC else levels[origin])
            shares[operator, quantity] = Share(value, low, high, how, source, level, origin)
    return Efficiency(family, pool, MappingProxyType(shares))


@cache
def _table() -> Mapping[tuple[str, str, str], tuple[float, float, float, How, str]]:
    return {
        (row["family"], row["operator"], row["quantity"]): (
            float(row["value"]),
            float(row["low"]),
            float(row["high"]),
            cast("How", row["how"]),
            f"{row['source']}; {row['note']}" if row["note"] else row["source"],
        )
        for _, row in read_table("efficiency.csv")
    }

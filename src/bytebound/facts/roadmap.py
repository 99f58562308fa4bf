"""What is expected to ship when, and what memory has cost: every line dated, graded, and marked plan or observation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Literal, cast

from bytebound.documents.device import Figure
from bytebound.errors import QuantityError
from bytebound.facts.rows import parse_date
from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from bytebound.documents.device import How

HORIZON = "2026-10"
"""The last month anything was observed; what is dated later is a plan or a report."""

MAX_MONTHS = 240


@dataclass(frozen=True, slots=True)
class RoadmapRow:
    """One expected or observed event.

    ``date`` and ``until`` are the months (``YYYY-MM``) between which it falls; how far plans slip is the caller's to
    say. ``confidence`` A: vendor statement seen quoted by two or more sources; B: one good secondary source, or a
    vendor preview without numbers; C: report, rumour or derived value. ``device_id`` may be empty.
    """

    date: str
    until: str
    device_id: str
    event: str
    memory_bytes: float | None
    memory_bytes_per_s: float | None
    confidence: Literal["A", "B", "C"]
    nature: Literal["plan", "observation"]
    how: How
    source: str
    note: str


@dataclass(frozen=True, slots=True)
class DramQuarter:
    """Contract price of conventional DRAM over the quarter before, as a ratio: what was last reported, low to high."""

    quarter: str
    low_ratio: float
    high_ratio: float
    nature: Literal["plan", "observation"]
    source: str

    @property
    def ratio(self) -> float:
        """Middle of the reported range."""
        return (self.low_ratio + self.high_ratio) / 2


@cache
def all_events() -> tuple[RoadmapRow, ...]:
    """Return every row of the roadmap, by date."""
    return tuple(
        RoadmapRow(
            date=row["date"],
            until=row["until"] or row["date"],
            device_id=row["device_id"],
            event=row["event"],
            memory_bytes=float(row["memory_bytes"]) if row["memory_bytes"] else None,
            memory_bytes_per_s=float(row["memory_bytes_per_s"]) if row["memory_bytes_per_s"] else None,
            confidence=cast("Literal['A', 'B', 'C']", row["confidence"]),
            nature=cast("Literal['plan', 'observation']", row["nature"]),
            how=cast("How", row["how"]),
            source=row["source"],
            note=row["note"],
        )
        for _, row in read_table("roadmap.csv")
    )


def roadmap(months: int, start: str) -> tuple[RoadmapRow, ...]:
    """Return what falls, as announced, within ``months`` months from ``start``.

    Args:
        months: how far to look, 1 to 240.
        start: first month, ``YYYY-MM`` (or a date).

    Raises:
        QuantityError: months or start cannot be read.
    """
    if not 1 <= months <= MAX_MONTHS:
        raise QuantityError(f"{months} months is outside 1 to {MAX_MONTHS}", place="roadmap")
    try:
        first = parse_date(start)
    except ValueError as error:
        raise QuantityError(f"cannot read {start!r:.40} as a month ({error})", place="roadmap") from None
    last = month_after(first, months)
    return tuple(row for row in all_events() if row.until >= f"{first:%Y-%m}" and row.date < f"{last:%Y-%m}")


def month_after(first: date, months: int) -> date:
    """Return the first day of the month ``months`` after that of ``first``.

    Example:
        >>> month_after(date(2026, 11, 21), 18)
        datetime.date(2028, 5, 1)
    """
    index = first.year * 12 + first.month - 1 + months
    return date(index // 12, index % 12 + 1, 1)


@cache
def dram_quarters() -> tuple[DramQuarter, ...]:
    """Return the quarter-on-quarter contract prices of conventional DRAM, oldest first (TrendForce, as quoted)."""
    return tuple(
        DramQuarter(
            quarter=row["quarter"],
            low_ratio=float(row["low_ratio"]),
            high_ratio=float(row["high_ratio"]),
            nature=cast("Literal['plan', 'observation']", row["nature"]),
            source=row["source"],
        )
        for _, row in read_table("dram_prices.csv")
    )


def dram_price_ratio() -> Figure:
    """Return how much conventional DRAM costs at the last quarter against the quarter before the first (about 5.9)."""
    quarters = dram_quarters()
    return Figure(
        value=math.prod(quarter.ratio for quarter in quarters),
        unit="",
        low=math.prod(quarter.low_ratio for quarter in quarters),
        high=math.prod(quarter.high_ratio for quarter in quarters),
        how="derived",
        source=f"contract prices quarter on quarter, {quarters[0].quarter} to {quarters[-1].quarter}, midpoints compounded",
        when=quarters[-1].quarter,
    )

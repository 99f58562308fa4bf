"""What a device costs: rental per hour and purchase, each from dated offers."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import TYPE_CHECKING

from bytebound.documents.device import Figure
from bytebound.facts.catalogue import load_catalogue
from bytebound.facts.rows import PriceRow, parse_date
from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bytebound.documents.device import How

WINDOW = timedelta(days=31)  # snapshots of different providers are taken on different days of a month
SAME_KIND = {"on-demand": ("on-demand", "secure")}  # "secure" is what one provider calls on-demand in a data centre
PURCHASE_KINDS = ("market", "retail", "release")


@dataclass(frozen=True, slots=True)
class Purchase:
    """One purchase price of one device in US dollars; ``kind`` is release, market, retail, used or an estimate."""

    device_id: str
    kind: str
    usd: float
    usd_low: float | None
    usd_high: float | None
    date: str
    source: str
    how: str
    confidence: str
    note: str


def price_history(
    device_id: str, kind: str = "on-demand", *, catalogue: str | Path | None = None
) -> tuple[PriceRow, ...]:
    """Return every rental offer of one device and kind, oldest first, USD per device and hour."""
    kinds = SAME_KIND.get(kind, (kind,))
    offers = (offer for offer in load_catalogue(catalogue).prices.get(device_id, ()) if offer.kind in kinds)
    return tuple(sorted(offers, key=lambda offer: parse_date(offer.date)))


def rental(
    device_id: str, when: str | date | None = None, kind: str = "on-demand", *, catalogue: str | Path | None = None
) -> Figure | None:
    """Return the going rental price in USD per device and hour, or None where no offer is known.

    The value is the median over providers of each provider's newest offers within 31 days of the newest one; low and
    high are the 10th and 90th percentile over providers.

    Args:
        device_id: a device id of the catalogue.
        when: only offers seen on or before this date (``YYYY-MM-DD``); default: all.
        kind: ``on-demand``, ``spot``, ``serverless``, ``community``.
        catalogue: a user's catalogue folder, whose offers of a device replace ours.
    """
    offers = price_history(device_id, kind, catalogue=catalogue)
    if when is not None:
        last = parse_date(when) if isinstance(when, str) else when
        offers = tuple(offer for offer in offers if parse_date(offer.date) <= last)
    if not offers:
        return None
    newest = parse_date(offers[-1].date)
    offers = tuple(offer for offer in offers if parse_date(offer.date) >= newest - WINDOW)
    by_provider = _newest_by_provider(offers)
    prices = sorted(statistics.median(offer.usd_per_device_hour for offer in group) for group in by_provider.values())
    used = [offer for group in by_provider.values() for offer in group]
    sources = ", ".join(
        sorted({f"{offer.source} ({offer.licence})" if offer.licence else offer.source for offer in used})
    )
    dates = sorted({offer.date for offer in used})
    return Figure(
        value=statistics.median(prices),
        unit="USD/h",
        low=percentile(prices, 0.1),
        high=percentile(prices, 0.9),
        how="derived",
        source=f"median of {len(used)} {kind} offers by {len(prices)} providers, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}: {sources}",
        when=dates[-1],
    )


def _newest_by_provider(offers: Sequence[PriceRow]) -> dict[str, list[PriceRow]]:
    grouped: dict[str, list[PriceRow]] = defaultdict(list)
    for offer in offers:  # oldest first
        held = grouped[offer.provider]
        if held and held[0].date != offer.date:
            held.clear()
        held.append(offer)
    return grouped


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the ``share`` quantile of sorted values, linear between neighbours.

    Example:
        >>> percentile([1.0, 2.0, 3.0], 0.25)
        1.5
    """
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


@cache
def purchases() -> tuple[Purchase, ...]:
    """Return every purchase price of our table, by device and date."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    return tuple(
        Purchase(
            device_id=row["device_id"],
            kind=row["kind"],
            usd=float(row["usd"]),
            usd_low=number(row["usd_low"]),
            usd_high=number(row["usd_high"]),
            date=row["date"],
            source=row["source"],
            how=row["how"],
            confidence=row["confidence"],
            note=row["note"],
        )
        for _, row in read_table("purchase_prices.csv")
    )


def purchase(device_id: str) -> Figure | None:
    """Return the newest purchase price of a device in USD, or None; costs of parts and used cards are not asked.

    An estimated market range is worth more than a price at release, so the newest of the former is taken first.
    """
    for kinds in (PURCHASE_KINDS[:2], PURCHASE_KINDS[2:]):
        known = [item for item in purchases() if item.device_id == device_id and item.kind in kinds]
        if known:
            item = max(known, key=lambda one: parse_date(one.date))
            source = f"{item.kind} price: {item.source}"
            how: How = "assumed" if item.how == "assumed" else "cited"
            return Figure(
                value=item.usd, unit="USD", low=item.usd_low, high=item.usd_high, how=how, source=source, when=item.date
            )
    return None

"""Rental and purchase prices, the roadmap, and what DRAM has cost."""

import pytest

from bytebound.errors import QuantityError
from bytebound.facts.catalogue import built_in
from bytebound.facts.prices import percentile, price_history, purchase, rental
from bytebound.facts.roadmap import all_events, dram_price_ratio, roadmap


@pytest.mark.parametrize(
    ("name", "usd"), [("h100-sxm", 3.25), ("h200-sxm", 4.47), ("b200-sxm", 6.74), ("mi300x", 2.79), ("l40s", 1.57)]
)
def test_medians_agree_with_the_published_ones_of_august_2026(name, usd):
    assert rental(name).value == pytest.approx(usd, rel=0.06)


def test_a_price_of_a_day():
    early, late = rental("h100-sxm", "2025-12-31"), rental("h100-sxm", "2026-08-31")

    assert early.when <= "2025-12-31"
    assert late.when == "2026-08-22"
    assert rental("h100-sxm", "2024-01-01") is None
    with pytest.raises(ValueError, match="date"):
        rental("h100-sxm", "last week")


def test_low_and_high_are_between_the_cheapest_and_the_dearest():
    offers = [offer.usd_per_device_hour for offer in price_history("h100-sxm") if offer.date >= "2026-07"]
    price = rental("h100-sxm")

    assert min(offers) <= price.low < price.value < price.high <= max(offers)


def test_spot_is_cheaper_than_on_demand():
    assert rental("h100-sxm", kind="spot").value < rental("h100-sxm").value


def test_nothing_known_is_none():
    assert rental("m2-ultra") is None
    assert rental("no-such-device") is None
    assert rental("h100-sxm", kind="lease") is None
    assert purchase("no-such-device") is None


def test_purchase_prices():
    assert purchase("rtx-4090").value == 1599
    assert purchase("h100-sxm").low >= 20_000
    assert purchase("b200-sxm") is None  # only a bill of materials is known, which nobody can buy at


def test_no_offer_without_a_licence_and_none_of_an_unclear_one():
    offers = [offer for group in built_in().prices.values() for offer in group]

    assert len(offers) > 1200
    assert all(offer.licence in {"MIT", "CC BY 4.0", "Apache-2.0", "fact"} for offer in offers)
    assert all(offer.how == "assumed" for offer in offers if "recalled" in offer.source)


def test_percentile():
    assert percentile([1.0], 0.9) == 1.0
    assert percentile([1.0, 2.0], 0.5) == 1.5
    assert percentile([0.0, 10.0, 20.0], 0.1) == 2.0


def test_dram_compounds_to_5_9():
    ratio = dram_price_ratio()

    assert ratio.value == pytest.approx(1.475 * 1.925 * 1.605 * 1.155 * 1.125)
    assert ratio.value == pytest.approx(5.9, abs=0.05)
    assert ratio.low < ratio.value < ratio.high


def test_roadmap_of_eighteen_months():
    rows = roadmap(18, "2026-11")
    ids = {row.device_id for row in rows}

    assert {"trainium4", "rubin-ultra-2die", "ascend-960", "mi500"} <= ids
    assert "ascend-970" not in ids
    assert {row.confidence for row in rows} <= {"A", "B", "C"}
    assert all(row.nature == "plan" for row in rows if row.date > "2026-10")
    assert all(row.source for row in rows)
    assert rows == tuple(sorted(rows, key=lambda row: row.date))


def test_capacity_is_flat_from_b300_to_rubin():
    by_id = {row.device_id: row for row in all_events()}

    assert by_id["vr200"].memory_bytes == 288e9
    assert by_id["vr200"].memory_bytes_per_s == 22e12
    assert by_id["rubin-ultra-2die"].confidence == "C"


@pytest.mark.parametrize(
    ("months", "start"), [(0, "2026-11"), (-1, "2026-11"), (10**9, "2026-11"), (18, "soon"), (18, "2026-13"), (18, "")]
)
def test_roadmap_refuses_nonsense(months, start):
    with pytest.raises(QuantityError):
        roadmap(months, start)

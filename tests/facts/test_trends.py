"""The fits must reproduce the published growth rates, and recover a known one."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.documents.trends import Trends
from bytebound.documents.values import from_json, to_json
from bytebound.errors import QuantityError, UnknownNameError
from bytebound.facts.trends import decimal_year, fit, student_quantile, trends

# series: (factor per 2 years, low, high, n, r2), as published or recomputed independently with numpy.polyfit
REFERENCE = {
    "compute": (3.026, 2.693, 3.399, 37, 0.909),
    "dram-bandwidth": (1.592, 1.464, 1.730, 12, 0.922),
    "dram-bandwidth-2021": (1.391, 1.290, 1.499, 10, 0.903),
    "device-bandwidth": (1.810, 1.652, 1.982, 13, 0.937),
    "interconnect": (1.415, 1.352, 1.481, 10, 0.965),
    "interconnect-device": (1.638, 1.479, 1.814, 14, 0.883),
    "model-size": (413.1, 120.4, 1418, 10, 0.920),
    "model-size-2021": (239.9, 9.874, 5827, 10, 0.586),
    "model-size-two-later": (24.26, 7.041, 83.57, 12, 0.719),
    "model-size-six-later": (10.09, 4.191, 24.31, 16, 0.655),
    "model-size-frontier": (11.44, 6.26, 20.89, 33, 0.670),
    "model-size-records": (26.17, 9.992, 68.53, 15, 0.773),
    "model-size-largest": (1.492, 0.6132, 3.629, 5, 0.206),
    "accelerator-memory": (1.863, 1.477, 2.349, 7, 0.847),
    "accelerator-memory-vendors": (1.776, 1.61, 1.959, 26, 0.845),
    "training-compute": (750.7, 109, 5169, 10, 0.850),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_published_fits(name):
    factor, low, high, n, r2 = REFERENCE[name]
    found = fit(name)

    assert found.n == n
    assert found.factor_per_2_years == pytest.approx(factor, rel=0.002)
    assert (found.low95, found.high95) == pytest.approx((low, high), rel=0.005)
    assert found.r2 == pytest.approx(r2, abs=0.001)


@pytest.mark.parametrize(("name", "factor"), [("compute", 64_000), ("dram-bandwidth", 104), ("interconnect", 32)])
def test_growth_over_twenty_years(name, factor):
    assert fit(name).factor_per_20_years == pytest.approx(factor, rel=0.01)


def test_the_410_claim_rests_on_ten_points_and_a_wide_interval():
    series = next(series for series in trends().series if series.id == "model-size")

    assert len(series.points) == 10
    assert series.claim.factor_per_2_years == 410
    assert series.claim.inside
    assert 115 < series.fit.low95 < 125
    assert 1350 < series.fit.high95 < 1450
    without_last = [(point.date, point.value) for point in sorted(series.points, key=lambda point: point.date)[:-1]]
    assert fit(without_last).factor_per_2_years > 900


def test_the_19_claim_depends_on_who_is_counted():
    claimed = [series for series in trends().series if series.claim and series.claim.factor_per_2_years == 19]

    assert len(claimed) >= 4
    assert all("no data set" in series.claim.source for series in claimed)
    factors = [series.fit.factor_per_2_years for series in claimed]
    assert min(factors) < 11
    assert max(factors) > 24
    assert fit("model-size-largest").low95 < 1 < fit("model-size-largest").high95


def test_every_point_has_a_source_and_every_series_a_unit():
    for series in trends().series:
        assert series.unit
        assert all(point.source and point.value > 0 for point in series.points)


def test_the_document_round_trips():
    assert from_json(Trends, to_json(trends())) == trends()


@settings(deadline=None)  # the machine may be busy
@given(st.floats(1.01, 1000), st.floats(1e-3, 1e15), st.integers(3, 12))
def test_a_known_growth_is_recovered(factor, start, count):
    points = [
        (f"{2000 + year}-01-01", start * factor ** ((decimal_year(f"{2000 + year}-01-01") - 2000) / 2))
        for year in range(count)
    ]
    found = fit(points)

    assert found.factor_per_2_years == pytest.approx(factor, rel=1e-6)
    assert found.r2 == pytest.approx(1, abs=1e-6)
    assert found.value_at(2000) == pytest.approx(start, rel=1e-6)


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(st.tuples(st.integers(1990, 2026), st.floats(1e-6, 1e12)), min_size=3, max_size=20), st.floats(1e-6, 1e6)
)
def test_the_unit_does_not_matter(pairs, unit):
    points = [(str(year), value) for year, value in pairs]
    if len({date for date, _ in points}) < 2:
        return
    ours, scaled = fit(points), fit([(date, value * unit) for date, value in points])

    assert scaled.factor_per_2_years == pytest.approx(ours.factor_per_2_years, rel=1e-6)
    assert ours.low95_t <= ours.low95 <= ours.factor_per_2_years <= ours.high95 <= ours.high95_t


@pytest.mark.parametrize(
    "points",
    [[], [("2020", 1.0), ("2021", 2.0)], [("2020", 1.0)] * 3, [("2020", 1.0), ("2021", 0.0), ("2022", 1.0)],
     [("2020", 1.0), ("2021", math.nan), ("2022", 1.0)], [("2020", 1.0), ("2021", math.inf), ("2022", 1.0)]],
)  # fmt: skip
def test_no_fit_from_nothing(points):
    with pytest.raises(QuantityError):
        fit(points)


def test_an_unknown_series():
    with pytest.raises(UnknownNameError) as caught:
        fit("model-sise")
    assert "model-size" in caught.value.nearest


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (3, 3.182), (5, 2.571), (8, 2.306), (30, 2.042), (1000, 1.962)]
)
def test_student_quantile(degrees, quantile):
    assert student_quantile(degrees) == pytest.approx(quantile, rel=0.005)

"""Growth of compute, memory, bandwidth, links and models: the points, and the fits that the claims rest on."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.trends import TrendClaim, TrendFit, TrendPoint, Trends, TrendSeries
from bytebound.errors import QuantityError, UnknownNameError
from bytebound.facts.rows import parse_date
from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Z95 = 1.959964  # 97.5 % quantile of the normal distribution
DAYS_PER_YEAR = 365.25


def decimal_year(date: str) -> float:
    """Return a date as a decimal year.

    Example:
        >>> round(decimal_year("2022-07-02"), 2)
        2022.5
    """
    day = parse_date(date)
    return day.year + (day.timetuple().tm_yday - 1) / DAYS_PER_YEAR


def fit(series: str | Iterable[tuple[str, float]]) -> TrendFit:
    """Return the exponential growth of a series by ordinary least squares in log space.

    Args:
        series: the id of one of our series, or (date, value) points of your own.

    Raises:
        UnknownNameError: no such series.
        QuantityError: fewer than three points, one date only, or a value that is not positive.

    Example:
        >>> round(fit("model-size").factor_per_2_years)
        413
    """
    if isinstance(series, str):
        return find_series(series).fit
    points = list(series)
    if len(points) < 3 or len({date for date, _ in points}) < 2:
        raise QuantityError("a trend needs at least three points on two dates", place="trend")
    if not all(value > 0 and math.isfinite(value) for _, value in points):
        raise QuantityError("a trend of a value that is not positive and finite", place="trend")
    years = np.array([decimal_year(date) for date, _ in points])
    logs = np.log([value for _, value in points])
    from_mean = years - years.mean()
    spread = float(from_mean @ from_mean)
    slope = float(from_mean @ (logs - logs.mean())) / spread
    left = logs - logs.mean() - slope * from_mean
    error = math.sqrt(float(left @ left) / (len(points) - 2) / spread)
    total = float(((logs - logs.mean()) ** 2).sum())
    wide = student_quantile(len(points) - 2)
    start = float(years.min())
    return TrendFit(
        factor_per_2_years=math.exp(2 * slope),
        low95=math.exp(2 * (slope - Z95 * error)),
        high95=math.exp(2 * (slope + Z95 * error)),
        low95_t=math.exp(min(2 * (slope - wide * error), 700.0)),
        high95_t=math.exp(min(2 * (slope + wide * error), 700.0)),
        n=len(points),
        r2=1 - float(left @ left) / total if total else 1.0,
        start_year=start,
        end_year=float(years.max()),
        start_value=math.exp(float(logs.mean()) + slope * (start - float(years.mean()))),
    )


def student_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t, by the Cornish-Fisher series (within 0.5 % from 4 degrees on).

    Source: Abramowitz and Stegun 26.7.5; exact values for 1 to 3 degrees.
    """
    exact = {1: 12.7062, 2: 4.30265, 3: 3.18245}
    if degrees in exact:
        return exact[degrees]
    z, n = Z95, float(degrees)
    terms = (
        (z**3 + z) / 4 / n,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96 / n**2,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / n**3,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160 / n**4,
    )
    return z + sum(terms)


@cache
def trends() -> Trends:
    """Return every series with its points, fit and claim, ready to render."""
    return Trends(series=tuple(_series(row) for _, row in read_table("trend_series.csv")))


def find_series(name: str) -> TrendSeries:
    """Return the series with the id ``name``.

    Raises:
        UnknownNameError: no such series.
    """
    known = {series.id: series for series in trends().series}
    if name not in known:
        raise UnknownNameError("trend", name, known, mend="`bytebound trends` lists every series")
    return known[name]


def _series(row: Mapping[str, str]) -> TrendSeries:
    points = tuple(
        TrendPoint(cells["name"], cells["date"], float(cells[row["column"]]), cells["source"], cells["note"])
        for _, cells in read_table(row["file"])
        if _chosen(cells, row)
    )
    fitted = fit((point.date, point.value) for point in points)
    claim = None
    if row["claim"]:
        factor = float(row["claim_factor_per_2_years_ratio"])
        inside = fitted.low95 <= factor <= fitted.high95
        claim = TrendClaim(row["claim"], factor, row["claim_source"], inside)
    return TrendSeries(row["id"], row["title"], row["unit"], points, fitted, claim, row["note"])


def _chosen(cells: Mapping[str, str], row: Mapping[str, str]) -> bool:
    """A row of a points table belongs to a series by its subset, and by its marks where the series asks for them."""
    wanted = [pair.split(":") for pair in row["members"].split("|")]
    held = cells.get("marks", "").split("|")
    return any(cells["subset"] == subset and (not mark or mark in held) for subset, mark in wanted)

"""Trends: the points behind the memory-wall figures, what was claimed of them, and what a fit supports."""

from __future__ import annotations

from dataclasses import dataclass

TRENDS_SCHEMA = "bytebound.trends/1"


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """One observation: what, when (``YYYY-MM-DD``), its value in the unit of its series, and from where."""

    name: str
    date: str
    value: float
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TrendFit:
    """Exponential growth by ordinary least squares of log(value) on time.

    ``factor_per_2_years`` with its 95 % interval (``low95``, ``high95``: normal quantile, as the published rates were
    computed; ``low95_t``, ``high95_t``: Student quantile, the honest one for few points); ``n`` points; ``r2`` the
    share of variance explained; ``start_value`` the fitted value at ``start_year``, to draw the line.
    """

    factor_per_2_years: float
    low95: float
    high95: float
    low95_t: float
    high95_t: float
    n: int
    r2: float
    start_year: float
    end_year: float
    start_value: float

    @property
    def factor_per_20_years(self) -> float:
        """The same growth compounded over ten two-year periods."""
        return float(self.factor_per_2_years**10)

    def value_at(self, year: float) -> float:
        """Fitted value at a decimal year, in the unit of the series."""
        return float(self.start_value * self.factor_per_2_years ** ((year - self.start_year) / 2))


@dataclass(frozen=True, slots=True)
class TrendClaim:
    """A published growth factor, and whether the 95 % interval of our fit holds it."""

    text: str
    factor_per_2_years: float
    source: str
    inside: bool


@dataclass(frozen=True, slots=True)
class TrendSeries:
    """One series: its points, their fit, and the claim made of it (None where nobody claimed anything)."""

    id: str
    title: str
    unit: str
    points: tuple[TrendPoint, ...]
    fit: TrendFit
    claim: TrendClaim | None
    note: str


@dataclass(frozen=True, slots=True)
class Trends:
    """Every series, in the order to show them."""

    series: tuple[TrendSeries, ...]
    schema_: str = TRENDS_SCHEMA

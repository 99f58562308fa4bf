"""The memory-wall figures, redrawn: points, the line they support, and the line that was claimed."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from bytebound.report.vega import BAD, MUTED, PALETTE, POWERS, Chart, Spec, brief, frame
from bytebound.report.words import clean
from bytebound.units import show_rate, significant

if TYPE_CHECKING:
    from bytebound.documents.trends import Trends, TrendSeries

WALLS = (
    ("wall-hardware", "Arithmetic outgrew memory and links", ("compute", "dram-bandwidth", "interconnect")),
    (
        "wall-models",
        "Models outgrew the memory of one device",
        ("model-size", "model-size-frontier", "training-compute", "accelerator-memory-vendors"),
    ),
)
"""Figures that lay several series over each other, each relative to its own fitted start."""

DAYS = 365.2425


def day_of(year: float) -> str:
    """Return a decimal year as a date.

    Example:
        >>> day_of(2020.5)
        '2020-07-01'
    """
    whole = int(year)
    return (dt.date(whole, 1, 1) + dt.timedelta(days=(year - whole) * DAYS)).isoformat()


def _dates(chosen: list[TrendSeries]) -> Spec:
    years = [year for s in chosen for year in (s.fit.start_year, s.fit.end_year)]
    step = max(1, round((max(years) - min(years)) / 7))
    axis = {"title": None, "format": "%Y", "grid": False, "tickCount": {"interval": "year", "step": step}}
    return {"field": "date", "type": "temporal", "scale": {"type": "utc"}, "axis": axis}


def wall_charts(trends: Trends) -> list[Chart]:
    """Return the figures of several series, as growth since each series' own start."""
    known = {series.id: series for series in trends.series}
    found = []
    for chart_id, title, wanted in WALLS:
        chosen = [known[name] for name in wanted if name in known]
        if len(chosen) > 1:
            found.append(_wall(chart_id, title, chosen))
    return found


def _wall(chart_id: str, title: str, chosen: list[TrendSeries]) -> Chart:
    x = _dates(chosen)
    names = [clean(series.title) for series in chosen]
    points = [
        {
            "s": clean(s.title),
            "date": p.date,
            "v": brief(p.value / s.fit.start_value),
            "name": clean(p.name),
            "src": clean(p.source),
        }
        for s in chosen
        for p in s.points
    ]
    lines = [
        {"s": clean(s.title), "date": day_of(year), "v": brief(s.fit.value_at(year) / s.fit.start_value)}
        for s in chosen
        for year in (s.fit.start_year, s.fit.end_year)
    ]
    y: Spec = {
        "field": "v",
        "type": "quantitative",
        "scale": {"type": "log"},
        "axis": {
            "title": "growth since the start of the series",
            "labelExpr": "'×' + format(datum.value, datum.value < 1 ? '~g' : '~s')",
            "values": POWERS,
        },
    }
    colour: Spec = {
        "field": "s",
        "type": "nominal",
        "scale": {"domain": names, "range": PALETTE[: len(names)]},
        "legend": {"title": None, "orient": "bottom", "columns": 1, "labelLimit": 400},
    }
    dim: Spec = {"condition": {"param": "pick", "value": 1}, "value": 0.12}
    spec = frame(
        height=420,
        layer=[
            {
                "data": {"values": lines},
                "mark": {"type": "line", "strokeWidth": 2},
                "encoding": {"x": x, "y": y, "color": colour, "opacity": dim},
            },
            {
                "data": {"values": points},
                "params": [{"name": "pick", "select": {"type": "point", "fields": ["s"]}, "bind": "legend"}],
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {"x": x, "y": y, "color": colour, "opacity": dim, "tooltip": _tip("growth", ".3~s")},
            },
        ],
    )
    rows = tuple(
        (clean(s.title), f"×{significant(s.fit.factor_per_2_years)}", _interval(s), str(s.fit.n)) for s in chosen
    )
    columns = ("series", "per 2 years", "95 % interval", "points")
    return Chart(chart_id, title, f"{title}: points and fitted growth.", spec, columns, rows)


def _interval(series: TrendSeries) -> str:
    return f"{significant(series.fit.low95_t)} to {significant(series.fit.high95_t)}"


def _tip(title: str, form: str) -> list[Spec]:
    return [
        {"field": "name", "title": "what"},
        {"field": "date", "type": "temporal", "format": "%b %Y", "title": "when"},
        {"field": "v", "title": title, "format": form},
        {"field": "src", "title": "source"},
    ]


def series_chart(series: TrendSeries) -> Chart:
    """Return one series: its points, its fitted line, and the claimed growth from the same start."""
    fit, unit, x = series.fit, clean(series.unit), _dates([series])
    years = (fit.start_year, fit.end_year)
    lines = [{"kind": "fit", "date": day_of(year), "v": brief(fit.value_at(year))} for year in years]
    if series.claim is not None:
        rate = series.claim.factor_per_2_years
        lines += [
            {"kind": "claim", "date": day_of(year), "v": brief(fit.start_value * rate ** ((year - fit.start_year) / 2))}
            for year in years
        ]
    points = [
        {"kind": "points", "date": p.date, "v": brief(p.value), "name": clean(p.name), "src": clean(p.source)}
        for p in series.points
    ]
    kinds = ["points", "fit", *(["claim"] if series.claim else [])]
    y: Spec = {
        "field": "v",
        "type": "quantitative",
        "scale": {"type": "log"},
        "axis": {"title": unit, "format": "~s", "values": POWERS},
    }
    colour: Spec = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": kinds, "range": [PALETTE[0], MUTED, BAD][: len(kinds)]},
        "legend": {"title": None, "orient": "bottom"},
    }
    dim: Spec = {"condition": {"param": "pick", "value": 1}, "value": 0.1}
    spec = frame(
        height=260,
        layer=[
            {
                "data": {"values": lines},
                "mark": {"type": "line", "strokeWidth": 2},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "opacity": dim,
                    "strokeDash": {"condition": {"test": "datum.kind === 'claim'", "value": [6, 4]}, "value": [1, 0]},
                },
            },
            {
                "data": {"values": points},
                "params": [{"name": "pick", "select": {"type": "point", "fields": ["kind"]}, "bind": "legend"}],
                "mark": {"type": "point", "filled": True, "size": 55},
                "encoding": {"x": x, "y": y, "color": colour, "opacity": dim, "tooltip": _tip(unit, ".3~s")},
            },
        ],
    )
    rows = tuple(
        (clean(p.name) or "–", p.date, show_rate(p.value, "").strip(), clean(p.source), clean(p.note))
        for p in series.points
    )
    return Chart(
        id=f"series-{clean(series.id)}",
        title=clean(series.title),
        description=f"{clean(series.title)}, {unit}: points, fitted growth and claimed growth.",
        spec=spec,
        columns=("what", "when", unit, "source", "note"),
        rows=rows,
    )

"""A validation as one page: weak spots first, then predicted against measured to be filtered, then every table."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from bytebound.documents.truth import METRICS
from bytebound.documents.validation import KEYS
from bytebound.report import validation_words as said
from bytebound.report.html import filled
from bytebound.report.vega import brief
from bytebound.report.words import clean, glued, moment
from bytebound.units import show_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.validation import Contradiction, GroupScore, Validation, WorstRow

LISTED = 60
"""Groups of one key, contradictions and regressions listed; all are in the JSON document."""
NEAR = 0.25
TEXT_LIMIT = 240
HEADS = ("rows", "median error", "mean", "90 %", "bias", "within 25 %", "coverage", "|ln|", "even |ln|", "noise")
"""Columns of the tables by group, after its name."""


def validation_html(validation: Validation) -> str:
    """Return a validation as one self-contained page, whose plots can be filtered."""
    simple = tuple(clean(name) for name in said.baseline_names(validation.groups))
    left = len(validation.contradictions) - LISTED
    return filled(
        "validation.html.j2",
        title=f"How wrong is bytebound {clean(validation.version)}?",
        script=_script(),
        data=_data(validation),
        validation=validation,
        sentence=glued(said.headline(validation)),
        meta=" · ".join(filter(None, (said.protocol_words(validation), moment(validation.when)))),
        tiles=[(name, value, glued(note)) for name, value, note in _tiles(validation)],
        weak=[(glued(spot.text), [glued(item) for item in spot.items]) for spot in said.weak_spots(validation)],
        worse=[said.regression_words(r) for r in validation.regressions[:LISTED]],
        keys=[(key, said.key_name(key)) for key in KEYS],
        heads=HEADS,
        simple=simple,
        tables=_tables(validation),
        worst=[_worst(row) for row in validation.worst],
        unexpressed=[
            (clean(u.reason), said.number_words(u.rows), said.sources_words(u, 6), clean(u.example))
            for u in said.ranked(validation)
        ],
        contradictions=[_contradiction(row) for row in validation.contradictions[:LISTED]],
        contradictions_left=max(left, 0),
        level=said.share(validation.level),
        near=said.share(NEAR),
        protocol=said.protocol_words(validation).capitalize(),
        truth=", ".join(clean(name) for name in validation.truth) or "not stated",
        notes=[clean(note) for note in validation.notes],
        provenance=validation.provenance,
    )


@cache
def _script() -> str:
    return (files("bytebound.report") / "templates" / "validation.js").read_text(encoding="utf-8")


def _data(validation: Validation) -> dict[str, Any]:
    """What the page's script draws: texts as codes into lists of names, figures with four digits."""
    points = validation.points
    return {
        "keys": {key: _coded(getattr(points, key)) for key in KEYS},
        "texts": {name: _coded(getattr(points, name)) for name in ("work", "locator")},
        "id": [_short(text) for text in points.id],
        "metrics": {_short(name): [said.metric_name(name), _unit(name)] for name in dict.fromkeys(points.metric)},
        "near": NEAR,
        "overall": said.OVERALL,
        "large": said.LARGE_GROUP,
        "many": said.LARGE,
        **{
            name: [None if value is None else brief(value) for value in getattr(points, name)]
            for name in ("measured", "predicted", "low", "high", "floor")
        },
    }


def _coded(column: Sequence[str]) -> dict[str, list[Any]]:
    names: dict[str, int] = {}
    codes = [names.setdefault(_short(text), len(names)) for text in column]
    return {"names": list(names), "codes": codes}


def _short(text: str) -> str:
    known = clean(text)
    return known if len(known) <= TEXT_LIMIT else f"{known[: TEXT_LIMIT - 1]}…"


def _unit(metric: str) -> str:
    unit = METRICS.get(metric, ("", ""))[0]
    if unit == "1/s":
        return "requests/s" if metric == "requests_per_s" else "tok/s"
    return unit


def _tiles(validation: Validation) -> list[tuple[str, str, str]]:
    group = said.whole(validation)
    if group is None:
        return []
    noise = f"{said.share(group.noise_low)} to {said.share(group.noise_high)}"
    unread = sum(u.rows for u in validation.unexpressed)
    return [
        ("median error", said.share(group.median_error), f"{noise} is its noise"),
        ("90 % are within", said.share(group.p90_error), f"mean {said.share(group.mean_error)}"),
        ("bias", said.share(group.bias, signed=True), "median of predicted over measured, minus one"),
        ("within 25 %", said.share(group.within_25), f"{said.share(group.even_within_25)} with sources weighed alike"),
        (f"{said.share(validation.level)} intervals hold", said.share(group.coverage), "of the measurements"),
        (
            "measurements",
            said.number_words(group.rows),
            f"{said.number_words(unread)} not expressed; {show_time(validation.seconds)}"
            if validation.seconds > 0
            else f"{said.number_words(unread)} not expressed",
        ),
    ]


def _tables(validation: Validation) -> list[tuple[str, list[dict[str, Any]], int]]:
    """Key, its rows with all rows first, and how many groups were left out."""
    group = said.whole(validation)
    simple = said.baseline_names(validation.groups)
    found = []
    for by in said.keys_of(validation):
        groups = said.totals(validation, by)
        first = [] if group is None else [{**_row(group, simple), "name": "all rows"}]
        rows = [*first, *(_row(each, simple) for each in groups[:LISTED])]
        found.append((said.key_name(by), rows, max(len(groups) - LISTED, 0)))
    return found


def _row(group: GroupScore, simple: Sequence[str]) -> dict[str, Any]:
    noise = "–" if group.noise_low is None else f"{said.share(group.noise_low)} to {said.share(group.noise_high)}"
    cells = (
        said.number_words(group.rows),
        said.share(group.median_error),
        said.share(group.mean_error),
        said.share(group.p90_error),
        said.share(group.bias, signed=True),
        said.share(group.within_25),
        said.share(group.coverage),
        f"{said.log_error(group.median_log_error)} / {said.log_error(group.p90_log_error)}",
        f"{said.log_error(group.even_median_log_error)} / {said.log_error(group.even_p90_log_error)}",
        noise,
        *(said.share(group.baselines.get(name)) for name in simple),
    )
    return {"name": said.label(group), "cells": cells, "off": said.outside(group)}


def _worst(row: WorstRow) -> dict[str, str]:
    return {
        "id": clean(row.id),
        "work": said.row_words(row),
        "metric": said.metric_name(row.metric),
        "measured": said.measure(row.metric, row.measured),
        "predicted": said.measure(row.metric, row.predicted),
        "ends": said.ends(row.metric, row.low, row.high),
        "error": said.share(row.error, signed=True),
        "why": clean(row.explanation),
        "locator": row.locator,
    }


def _contradiction(row: Contradiction) -> dict[str, str]:
    return {
        "id": clean(row.id),
        "work": f"{clean(row.device)} · {clean(row.model)}",
        "metric": said.metric_name(row.metric),
        "measured": said.measure(row.metric, row.measured),
        "limit": said.measure(row.metric, row.floor),
        "why": clean(row.why),
        "locator": row.locator,
    }

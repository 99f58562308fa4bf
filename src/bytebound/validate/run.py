"""Predicted beside measured, under one protocol: scores by group, coverage, the worst rows, and what contradicts physics."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.validation import KEYS, Contradiction, Unread, Validation, WorstRow
from bytebound.documents.values import Provenance
from bytebound.errors import RequestError
from bytebound.facts.calibration import offsets
from bytebound.facts.devices import devices
from bytebound.facts.intervals import seen, terms
from bytebound.fitting.cases import TIMED, groups
from bytebound.fitting.fit import Design, contradicts, design, seconds
from bytebound.fitting.intervals import crossed, half_widths
from bytebound.fitting.refit import columns_of, deployments, leave_out
from bytebound.validate.baselines import nearest_scaled, roofline_06
from bytebound.validate.explain import explain
from bytebound.validate.groups import group_scores, points_of
from bytebound.validate.held import held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.truth import Truth
    from bytebound.documents.validation import Protocol
    from bytebound.truth.readings import Unexpressed

    Array = NDArray[np.float64]
    Names = NDArray[np.str_]

LEFT_OUT = {"leave-one-device-out": "device", "leave-one-model-out": "shape", "leave-one-engine-out": "engine",
            "leave-one-generation-out": "family"}  # fmt: skip
"""Protocol -> the column that says which rows a fit may not see together."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Predictions of measured rows, (rows,), in the unit of each metric: NaN where we cannot say.

    ``floor`` is the limit of physics; ``beyond`` says which measurements pass it.
    """

    value: Array
    low: Array
    high: Array
    floor: Array
    beyond: NDArray[np.bool_]
    fits: NDArray[np.bool_]


def predicted(
    rows: Sequence[Truth], *, protocol: Protocol = "fit", left_out: Array | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Answers:  # fmt: skip
    """Return what we predict for measured rows.

    Args:
        rows: measured rows of any metric.
        protocol: ``fit`` uses the shipped offsets; the others refit without the rows of each device, model, engine or
            hardware generation and predict those.
        left_out: what ``fitting.refit`` found for this protocol on these very rows; None: found here.
        tell: progress.

    Raises:
        RequestError: no row can be predicted.
        UnfinishedError: a refit does not settle.
    """
    value, low, high = (np.array(x) for x in held(rows))
    floor = np.full(len(rows), np.nan)
    beyond, fits = np.zeros(len(rows), dtype=bool), np.ones(len(rows), dtype=bool)
    timed = [i for i, row in enumerate(rows) if row.metric in TIMED]
    subset = [rows[i] for i in timed]
    d = _design(subset, needed=not np.isfinite(value).any())
    if d is not None:
        at = np.array(timed)
        where = at[d.rows]
        columns = {name: values[d.rows] for name, values in columns_of(subset).items()}
        shipped = shipped_offsets(d)
        sign = np.where(d.is_rate, -1.0, 1.0)
        wrong = contradicts(d)
        if protocol == "fit":
            log_predicted = np.log(seconds(d, shipped)[1])
            width = shipped_widths(columns)
        else:
            column = LEFT_OUT[protocol]
            usable = (d.weight > 0) & ~wrong
            ratio = leave_out(d, columns[column], usable, tell=tell) if left_out is None else left_out
            log_predicted = np.log(d.measured) - sign * ratio
            width = crossed(columns["clock"], columns, np.where(usable, ratio, np.nan), deployments(columns))
        value[where] = np.where(d.weight > 0, np.exp(log_predicted), np.nan)
        low[where], high[where] = value[where] / np.exp(width), value[where] * np.exp(width)
        least = np.where(d.is_rate, d.amount / np.maximum(d.floor_total, 1e-300), d.floor_total)
        floor[where] = least
        low[where] = np.where(d.is_rate, low[where], np.minimum(np.maximum(low[where], least), value[where]))
        high[where] = np.where(d.is_rate, np.maximum(np.minimum(high[where], least), value[where]), high[where])
        beyond[where], fits[where] = wrong, d.weight > 0
    return Answers(value, low, high, floor, beyond, fits)


def _design(rows: Sequence[Truth], *, needed: bool) -> Design | None:
    """Return the design of timed rows; None where none of them can be predicted and others can (``needed`` False)."""
    if not rows:
        return None
    try:
        return design(rows)
    except RequestError:
        if needed:
            raise
        return None


def shipped_offsets(d: Design) -> Array:
    """Return the shipped offsets in the order of a design's keys; 0 where nothing was fitted."""
    table = offsets()
    return np.array([table[key].offset if key in table else 0.0 for key in d.keys])


def shipped_widths(columns: Mapping[str, Names]) -> Array:
    """Return log half-widths under the shipped terms, wider for devices, families and engines the fit had no row of."""
    width = half_widths({key: (value, 0) for key, value in terms().items()}, columns["clock"], columns)
    for what in ("device", "family", "engine"):
        unknown = {str(name) for name in np.unique(columns[what]) if not seen(what, str(name))}
        if unknown:
            missing = np.isin(columns[what], sorted(unknown))
            factor = np.array([np.exp(terms().get((clock, "unseen", what), 0.0)) for clock in columns["clock"]])
            width = np.where(missing, width * factor, width)
    return width


def validate(
    rows: Sequence[Truth], unexpressed: Sequence[Unexpressed] = (), *, protocol: Protocol = "fit",
    by: Sequence[str] = KEYS, worst: int = 20, left_out: Array | None = None, tell: Callable[[str], None] = lambda _: None,
) -> Validation:  # fmt: skip
    """Return how wrong predictions of ``rows`` are.

    Rows beyond physics are listed and scored nowhere; rows that we say do not fit in memory are unanswered.

    Args:
        rows: measured rows.
        unexpressed: rows of the same files that are not among them.
        protocol: what the fit may have seen, see ``documents.validation.PROTOCOLS``.
        by: columns to group by.
        worst: rows furthest off to list.
        left_out: see ``predicted``.
        tell: progress.

    Raises:
        RequestError: no row can be predicted.
        UnfinishedError: a refit does not settle.
    """
    begun = time.perf_counter()
    answers = predicted(rows, protocol=protocol, left_out=left_out, tell=tell)
    measured = np.array([row.value for row in rows])
    names = columns_of(rows)
    keys = {key: names[key] for key in KEYS}
    kept = ~answers.beyond
    simple = {name: values[kept] for name, values in simple_predictors(rows).items()}
    scores = group_scores(
        {key: values[kept] for key, values in keys.items()}, measured[kept], answers.value[kept],
        low=answers.low[kept], high=answers.high[kept], by=by, baselines=simple,
    )  # fmt: skip
    words = np.array([work_words(row) for row in rows])
    locators = np.array([row.locator for row in rows])
    ids = np.array([row.id for row in rows])
    figures = {"measured": measured, "predicted": answers.value, "low": answers.low, "high": answers.high, "floor": answers.floor}  # fmt: skip
    points = points_of(
        {name: column[kept] for name, column in {"id": ids, **keys, "work": words, "locator": locators}.items()},
        {name: column[kept] for name, column in figures.items()},
    )
    return Validation(
        when=datetime.now(tz=UTC).isoformat(timespec="seconds"), version=version("bytebound"), protocol=protocol,
        rows=len(rows) + len(unexpressed), sources=_counts(names["source"][kept & np.isfinite(answers.value)]),
        groups=scores, points=points, worst=_worst(rows, answers, words, worst), unexpressed=_unread(unexpressed),
        contradictions=_contradictions(rows, answers), seconds=time.perf_counter() - begun,
        provenance=(Provenance("offsets and intervals", "calibrated", _source()),),
    )  # fmt: skip


def simple_predictors(rows: Sequence[Truth]) -> dict[str, Array]:
    """Return what the two simple predictors say of every row, (rows,), NaN where they say nothing."""
    roof = np.full(len(rows), np.nan)
    for group in groups(rows):
        roof[group.rows] = roofline_06(group)
    bandwidth = np.array([devices()[r.device].memory_bytes_per_s or np.nan for r in rows])
    return {"0.6 × roofline": roof, "nearest device": nearest_scaled(rows, bandwidth)}


def work_words(row: Truth) -> str:
    """Return a deployment in a few words."""
    w = row.work
    parts = [
        f"{w.prompt:g} in, {w.output:g} out",
        f"batch {w.batch:g}",
        str(w.weights),
        f"{row.devices} device{'s' if row.devices > 1 else ''}",
    ]
    parts += [f"{name} {getattr(w, name):g}" for name in ("tp", "pp", "ep", "dp") if getattr(w, name) > 1]
    return ", ".join([*parts, row.engine_version] if row.engine_version else parts)


def _counts(names: Names) -> dict[str, int]:
    found, count = np.unique(names, return_counts=True)
    return {str(name): int(n) for name, n in sorted(zip(found, count, strict=True), key=lambda pair: -pair[1])}


def _worst(rows: Sequence[Truth], answers: Answers, words: Names, count: int) -> tuple[WorstRow, ...]:
    measured = np.array([row.value for row in rows])
    far = np.where(answers.beyond, np.nan, np.abs(np.log(answers.value / measured)))
    order = np.argsort(-np.nan_to_num(far, nan=-1.0))[:count]
    reasons = explain(rows, np.where(answers.beyond, np.nan, answers.value))

    def number(values: Array, i: int) -> float | None:
        return float(values[i]) if np.isfinite(values[i]) else None

    return tuple(
        WorstRow(
            id=rows[i].id, source=rows[i].source, device=rows[i].device, engine=rows[i].engine, model=rows[i].model,
            metric=rows[i].metric, regime=rows[i].regime, work=str(words[i]), measured=float(measured[i]),
            predicted=float(answers.value[i]), low=number(answers.low, i), high=number(answers.high, i),
            floor=number(answers.floor, i), error=float(answers.value[i] / measured[i] - 1),
            explanation=reasons[i], locator=rows[i].locator,
        )
        for i in map(int, order) if np.isfinite(far[i])
    )  # fmt: skip


def _contradictions(rows: Sequence[Truth], answers: Answers) -> tuple[Contradiction, ...]:
    return tuple(
        Contradiction(
            id=row.id, source=row.source, device=row.device, model=row.model, metric=row.metric, measured=row.value,
            floor=float(answers.floor[i]), locator=row.locator,
            why=(
                f"{abs(np.log(row.value / answers.floor[i])):.2f} in logarithms beyond every byte at full bandwidth and every "
                "FLOP at the device's fastest rate: the row or our reading of it is not as it ran, or the device does more than our catalogue says"
            ),
        )
        for i, row in enumerate(rows) if answers.beyond[i]
    )  # fmt: skip


def _unread(items: Sequence[Unexpressed]) -> tuple[Unread, ...]:
    found: dict[str, list[Unexpressed]] = {}
    for item in items:
        found.setdefault(item.reason, []).append(item)
    return tuple(
        Unread(reason, len(same), _counts(np.array([x.source for x in same])), f"{same[0].id}: {same[0].detail}")
        for reason, same in sorted(found.items(), key=lambda pair: -len(pair[1]))
    )


def _source() -> str:
    found = sorted({f"{o.source}, {o.date}" for o in offsets().values()})
    return "; ".join(found) or "none: published shares alone"

"""Intervals from residuals: how far measurements fell from predictions that had not seen them.

The log half-width of an interval is a sum of terms: one per clock, and one each for the engine, the device's family and the
kind of model, shrunk to 0 where rows are few; what a prediction has no evidence of widens it. The base is then set so that
the interval holds the stated share of residuals. ``crossed`` does both on other deployments than a row's own, and is what
coverage is reported with.

Source: conformal prediction with a scale model, Lei et al. 2018 (JASA 113) section 5.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bytebound.facts.intervals import NARROWEST, WIDEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.facts.intervals import Term

    Array = NDArray[np.float64]
    Names = NDArray[np.str_]

LEVEL = 0.8
KINDS = ("engine", "family", "kind", "regime")
SHRINK = 12.0
"""Deployments' worth of rows that hold a term at 0 (assumed)."""
FOLDS = 5
SMALLEST = 0.01
"""Residuals under a per cent count as one: their logarithm says nothing."""


def fit_terms(
    clocks: Names, columns: Mapping[str, Names], residual: Array, deployment: NDArray[np.int64]
) -> dict[Term, tuple[float, int]]:
    """Return the terms of ``facts.intervals.half_width`` from residuals, each with the rows behind it.

    Args:
        clocks: (rows,).
        columns: engine, family, kind of model and regime of each row, (rows,).
        residual: ln(measured / predicted) of predictions that did not see the row, (rows,).
        deployment: which rows are no independent evidence of each other, (rows,).
    """
    found: dict[Term, tuple[float, int]] = {}
    for clock in np.unique(clocks):
        here = clocks == clock
        size = np.log(np.maximum(np.abs(residual[here]), SMALLEST))
        names = {kind: columns[kind][here] for kind in KINDS}
        weight = _even(deployment[here])
        effects = _additive(size, names, weight)
        spread = sum((np.array([effects[kind][name] for name in names[kind]]) for kind in KINDS), np.zeros(here.sum()))
        found[str(clock), "base", "all"] = (_base(residual[here], spread, weight), int(here.sum()))
        for kind in KINDS:
            for name, value in effects[kind].items():
                found[str(clock), kind, name] = (value, int((names[kind] == name).sum()))
    return found


def _even(deployment: NDArray[np.int64]) -> Array:
    """Return weights by which a deployment of many rows counts as the root of their number."""
    count = np.bincount(deployment)[deployment]
    return np.asarray(1 / np.sqrt(count))


def _additive(size: Array, names: Mapping[str, Names], weight: Array) -> dict[str, dict[str, float]]:
    """Return shrunken additive effects on log |residual| by backfitting, centred on its weighted mean."""
    centre = float(np.average(size, weights=weight))
    effects = {kind: dict.fromkeys(map(str, np.unique(names[kind])), 0.0) for kind in KINDS}
    at = {kind: np.unique(names[kind], return_inverse=True) for kind in KINDS}
    current = {kind: np.zeros(len(size)) for kind in KINDS}
    for _ in range(20):
        for kind in KINDS:
            rest = size - centre - sum(current[other] for other in KINDS if other != kind)
            labels, place = at[kind]
            total = np.bincount(place, weight, len(labels))
            mean = np.bincount(place, weight * rest, len(labels)) / (total + SHRINK)
            current[kind] = mean[place]
            effects[kind] = {str(label): float(value) for label, value in zip(labels, mean, strict=True)}
    return effects


def _base(residual: Array, spread: Array, weight: Array) -> float:
    """Return the log scale at which ``LEVEL`` of the weighted residuals are inside ``exp(base + spread)``."""
    ratio = np.log(np.maximum(np.abs(residual), 1e-6)) - spread
    order = np.argsort(ratio)
    share = np.cumsum(weight[order]) / weight.sum()
    return float(ratio[order][min(int(np.searchsorted(share, LEVEL)), len(order) - 1)])


def widen(clocks: Names, near: Array, far: Array, what: str) -> dict[Term, tuple[float, int]]:
    """Return how much wider intervals are without evidence of ``what``, per clock.

    Args:
        clocks: (rows,).
        near: ln(measured / predicted) of predictions with that evidence, (rows,).
        far: the same without it.
        what: what they had not seen.
    """
    found: dict[Term, tuple[float, int]] = {}
    for clock in np.unique(clocks):
        here = (clocks == clock) & np.isfinite(near) & np.isfinite(far)
        if here.sum() >= 10:
            wide = [np.log(np.quantile(np.abs(x[here]), LEVEL)) for x in (near, far)]
            found[str(clock), "unseen", what] = (max(float(wide[1] - wide[0]), 0.0), int(here.sum()))
    return found


def half_widths(
    terms: Mapping[Term, tuple[float, int]], clocks: Names, columns: Mapping[str, Names], unseen: Sequence[str] = ()
) -> Array:
    """Return the log half-width of every row under ``terms``, (rows,); see ``facts.intervals.half_width``."""
    table = {key: value for key, (value, _) in terms.items()}
    total = np.array([table.get((clock, "base", "all"), np.log(0.35)) for clock in clocks])
    for kind in KINDS:
        total += np.array(
            [table.get((clock, kind, name), 0.0) for clock, name in zip(clocks, columns[kind], strict=True)]
        )
    for what in unseen:
        total += np.array([table.get((clock, "unseen", what), 0.0) for clock in clocks])
    return np.asarray(np.clip(np.exp(total), NARROWEST, WIDEST))


def crossed(clocks: Names, columns: Mapping[str, Names], residual: Array, deployment: NDArray[np.int64]) -> Array:
    """Return half-widths of rows from terms fitted on other deployments only, (rows,)."""
    out = np.full(len(residual), np.nan)
    fold = deployment * 2654435761 % 2**32 % FOLDS
    known = np.isfinite(residual)
    for k in range(FOLDS):
        train, test = known & (fold != k), fold == k
        if train.any() and test.any():
            terms = fit_terms(
                clocks[train], {n: c[train] for n, c in columns.items()}, residual[train], deployment[train]
            )
            out[test] = half_widths(terms, clocks[test], {n: c[test] for n, c in columns.items()})
    return out

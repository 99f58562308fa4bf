"""How wrong predictions are by group: errors, bias, coverage, and the noise of a median. Pure functions of arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.validation import KEYS, GroupScore, Points
from bytebound.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Texts = NDArray[np.str_]
    Codes = NDArray[np.intp]

DEPLOYMENT = ("source", "device", "engine", "model")
"""What rows of one deployment share; its rows are no independent evidence."""
NEAR = 0.25
"""Relative error within which a prediction counts as near. Source: the protocol of the corpus, "share within 25 %"."""
DRAWS, NOISE = 1000, (0.05, 0.95)
"""Resamples behind the noise of a median, and its ends."""


def group_scores(
    keys: Mapping[str, Texts],
    measured: ArrayLike,
    predicted: ArrayLike,
    *,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    by: Sequence[str] = KEYS,
    baselines: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
) -> tuple[GroupScore, ...]:
    """Return the score of all rows, then of each group of each key: over every metric, then by metric.

    Args:
        keys: the columns of ``documents.validation.KEYS``, each of shape (rows,).
        measured: (rows,), in the SI unit of each row's metric.
        predicted: (rows,), the same; a prediction that is NaN or not positive is unanswered.
        low: (rows,), lower ends of the intervals; without them coverage is None.
        high: (rows,), upper ends.
        by: keys to group by, in order; groups of one key stand most rows first.
        baselines: name -> (rows,) predictions of simpler predictors.
        seed: of the resamples.

    Raises:
        UnknownNameError: ``by`` names no column of ``keys``.
    """
    for key in by:
        if key not in keys or key not in KEYS:
            raise UnknownNameError("group", key, [name for name in KEYS if name in keys], place="--by")
    truth, answer = np.asarray(measured, float), np.asarray(predicted, float)
    missing = np.full(truth.shape, math.nan)
    ends = [missing if end is None else np.asarray(end, float) for end in (low, high)]
    simple = {name: np.asarray(values, float) for name, values in (baselines or {}).items()}
    metrics = keys["metric"]
    source, device, engine, model = (_codes(keys[key]) for key in DEPLOYMENT)
    deployment = _codes(np.stack([source, device, engine, model]), axis=1)
    found: list[GroupScore] = []
    for name_of, name, group in _groups(by, keys, len(truth)):
        parts = _parts(metrics, group)
        split = [("", group), *parts] if len(parts) > 1 and name_of != "metric" else parts
        split = split[:1] if name_of == "all" else split
        found += [
            score(
                (name_of, name, metric),
                truth[rows],
                answer[rows],
                low=ends[0][rows],
                high=ends[1][rows],
                source=source[rows],
                device=device[rows],
                deployment=deployment[rows],
                baselines={label: values[rows] for label, values in simple.items()},
                seed=seed,
            )
            for metric, rows in split
        ]
    return tuple(found)


def _codes(column: NDArray[np.generic], axis: int | None = None) -> Codes:
    found: Codes = np.unique(column, return_inverse=True, axis=axis)[1].reshape(-1)
    return found


def _groups(by: Sequence[str], keys: Mapping[str, Texts], rows: int) -> Iterator[tuple[str, str, NDArray[np.intp]]]:
    if rows:
        yield "all", "all", np.arange(rows)
    for key in by:
        yield from ((key, name, group) for name, group in _parts(keys[key], np.arange(rows)))


def _parts(column: Texts, rows: NDArray[np.intp]) -> list[tuple[str, NDArray[np.intp]]]:
    """Return the rows of each value of a column, most rows first."""
    names, place, counts = np.unique(column[rows], return_inverse=True, return_counts=True)
    ordered = rows[np.argsort(place, kind="stable")]
    ends = np.cumsum(counts)
    parts = [(str(name), ordered[end - count : end]) for name, count, end in zip(names, counts, ends, strict=True)]
    return sorted(parts, key=lambda part: -len(part[1]))


def score(
    label: tuple[str, str, str],
    measured: Floats,
    predicted: Floats,
    *,
    low: Floats,
    high: Floats,
    source: NDArray[np.generic],
    device: NDArray[np.generic],
    deployment: NDArray[np.generic],
    baselines: Mapping[str, Floats] | None = None,
    seed: int = 0,
) -> GroupScore:
    """Return the score of one group called ``label`` (by, name, metric).

    Every array has shape (rows,); ``source``, ``device`` and ``deployment`` hold anything that tells them apart.
    """
    by, name, metric = label
    good = answered(measured, predicted)
    truth, answer = measured[good], predicted[good]
    signed, logs = answer / truth - 1, np.abs(np.log(answer / truth))
    errors, near = np.abs(signed), np.abs(signed) <= NEAR
    bounded = np.isfinite(low[good]) & np.isfinite(high[good])
    inside = ((low[good] <= truth) & (truth <= high[good]))[bounded]
    weight = even_weights(source[good], device[good])
    deployments = len(np.unique(deployment[good]))
    noise = median_noise(errors, deployments, seed=seed)
    simple = {
        title: float(np.median(np.abs(values[both] / measured[both] - 1)))
        for title, values in (baselines or {}).items()
        if (both := good & answered(measured, values)).any()
    }
    return GroupScore(
        by=by,
        name=name,
        metric=metric,
        rows=len(truth),
        median_error=_known(np.median, errors),
        mean_error=_known(np.mean, errors),
        p90_error=_known(lambda v: np.quantile(v, 0.9), errors),
        bias=_known(np.median, signed),
        coverage=_known(np.mean, inside),
        within_25=_known(np.mean, near),
        median_log_error=_known(np.median, logs),
        p90_log_error=_known(lambda v: np.quantile(v, 0.9), logs),
        even_median_log_error=_known(lambda v: weighted_quantile(v, weight, 0.5), logs),
        even_p90_log_error=_known(lambda v: weighted_quantile(v, weight, 0.9), logs),
        even_within_25=_known(lambda v: np.sum(v * weight), near),
        noise_low=noise[0],
        noise_high=noise[1],
        deployments=deployments,
        unanswered=int(len(measured) - len(truth)),
        baselines=simple,
    )


def answered(measured: Floats, predicted: Floats) -> NDArray[np.bool_]:
    """Return where both numbers are finite and positive, shape (rows,)."""
    return np.isfinite(measured) & np.isfinite(predicted) & (measured > 0) & (predicted > 0)


def _known(figure: object, values: NDArray[np.generic]) -> float | None:
    return float(figure(values)) if len(values) else None  # type: ignore[operator]


def even_weights(source: NDArray[np.generic], device: NDArray[np.generic]) -> Floats:
    """Return weights (rows,) that sum to 1: sources alike, devices of a source alike, rows of a device alike.

    Example:
        >>> even_weights(np.array(["a", "a", "a", "b"]), np.array(["x", "x", "y", "x"])).tolist()
        [0.125, 0.125, 0.25, 0.5]
    """
    if not len(source):
        return np.zeros(0)
    names, of_source = np.unique(source, return_inverse=True)
    chips, of_device = np.unique(device, return_inverse=True)
    pairs, of_pair, rows = np.unique(of_source * len(chips) + of_device, return_inverse=True, return_counts=True)
    devices = np.bincount(pairs // len(chips), minlength=len(names))
    weights: Floats = 1.0 / (len(names) * devices[of_source] * rows[of_pair])
    return weights


def weighted_quantile(values: Floats, weights: Floats, share: float) -> float:
    """Return the smallest value at which at least ``share`` of the weight lies at or under it.

    Example:
        >>> weighted_quantile(np.array([3.0, 1.0, 2.0]), np.array([0.2, 0.5, 0.3]), 0.5)
        1.0
    """
    return float(np.quantile(values, share, weights=weights, method="inverted_cdf"))


def median_noise(errors: Floats, independent: int, *, seed: int = 0) -> tuple[float | None, float | None]:
    """Return the ends of the 90 % range of the median, were ``independent`` rows drawn again from these.

    The k-th of m uniform draws is Beta(k, m + 1 − k), so the median of a resample is read off the sorted errors without
    resampling them: the bootstrap, exactly, at the cost of one draw a resample (two for an even m).

    Args:
        errors: (rows,).
        independent: how many of them are independent evidence, 1 to rows.
        seed: of the draws.

    Example:
        >>> median_noise(np.full(9, 0.25), 9)
        (0.25, 0.25)
    """
    if not len(errors):
        return None, None
    random = np.random.default_rng(seed)
    ordered, m = np.sort(errors), max(min(independent, len(errors)), 1)
    k = (m + 1) // 2
    first = random.beta(k, m + 1 - k, DRAWS)
    middles = _at(ordered, first)
    if m % 2 == 0:  # the next one up is the least of the m − k draws above the k-th
        second = first + (1 - first) * (1 - random.random(DRAWS) ** (1 / (m - k)))
        middles = (middles + _at(ordered, second)) / 2
    low, high = np.quantile(middles, NOISE)
    return float(low), float(high)


def _at(ordered: Floats, share: Floats) -> Floats:
    places = np.minimum((share * len(ordered)).astype(np.intp), len(ordered) - 1)
    found: Floats = ordered[places]
    return found


def points_of(columns: Mapping[str, Iterable[str]], figures: Mapping[str, ArrayLike]) -> Points:
    """Return rows as the document holds them: texts by column, and figures (rows,) in which what is not finite is None.

    Args:
        columns: id, the keys, work and locator; absent ones are empty texts.
        figures: measured, predicted, low, high, floor; absent ones are unknown.
    """
    texts = {name: tuple(str(text) for text in column) for name, column in columns.items()}
    rows = len(texts["id"])
    unknown = np.full(rows, math.nan)
    numbers = {
        name: tuple(
            value if math.isfinite(value) else None for value in np.asarray(figures.get(name, unknown), float).tolist()
        )
        for name in ("measured", "predicted", "low", "high", "floor")
    }
    return Points(**{**dict.fromkeys((*KEYS, "work", "locator"), ("",) * rows), **texts, **numbers})  # type: ignore[arg-type]

"""Step times of each publication predicted by a fit that had seen none of its rows, with intervals from the other publications."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bytebound.fitting.training import cases, fit_training
from bytebound.validate.training import TIMES, one_per_run, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.train_truth import TrainTruth

    Array = NDArray[np.float64]

LEVEL = 0.8
"""Share of measurements an interval should hold."""


def left_out_times(
    rows: Sequence[TrainTruth], *, tell: Callable[[str], None] = lambda _: None
) -> dict[str, tuple[float, float]]:
    """Return row id -> log of predicted over measured step time, and log half-width of its 80 % interval.

    The width of a publication is the quantile of the other publications' errors, each publication counting alike, so neither
    the prediction nor its interval has seen the row.

    Args:
        rows: measured rows; those of other metrics than a step time are left aside.
        tell: progress.
    """
    timed = [row for row in one_per_run(rows) if row.metric in TIMES and not refusal(row)]
    ratios: dict[str, dict[str, float]] = {}
    for source in dict.fromkeys(row.source for row in timed):
        tell(f"step times without {source}")
        fitted = fit_training(cases([row for row in timed if row.source != source]))
        ratios[source] = {}
        for case in cases([row for row in timed if row.source == source]):
            off = np.log(case.predicted_s(fitted) / case.measured_s)
            ratios[source] |= {row.id: float(value) for row, value in zip(case.rows, off, strict=True)}
    widths = {
        source: width_of({other: list(r.values()) for other, r in ratios.items() if other != source})
        for source in ratios
    }
    return {name: (ratio, widths[source]) for source, found in ratios.items() for name, ratio in found.items()}


def width_of(errors: dict[str, list[float]]) -> float:
    """Return the ``LEVEL`` quantile of absolute log errors, every publication weighing alike; infinite where there are none."""
    if not errors:
        return float("inf")
    size = np.concatenate([np.abs(values) for values in errors.values()])
    weight = np.concatenate([np.full(len(values), 1 / len(values)) for values in errors.values()])
    order = np.argsort(size)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(size[order][np.searchsorted(reached, LEVEL)])

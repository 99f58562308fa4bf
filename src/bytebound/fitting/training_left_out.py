"""Training predictions of publications the fit had not seen, and the intervals that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.facts.calibration import Offset
from bytebound.facts.training_shares import FACTOR
from bytebound.fitting.training import fit_training, source_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.train_truth import TrainTruth
    from bytebound.facts.calibration import Key
    from bytebound.fitting.training import Case

    Array = NDArray[Any]

SAME_PUBLICATION = {
    "bloom": "bloom-tuning", "korthikanti-2022-mfu": "korthikanti-2022", "megatron-bridge-memory": "megatron-bridge",
    "megatron-bridge-recompute": "megatron-bridge", "megatron-bridge-moe": "megatron-bridge",
}  # fmt: skip
"""Sources that are one publication's: they are left out together."""
INSIDE = 0.8
"""Share of rows an interval should hold."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One row predicted by a fit without its publication: log of predicted over measured seconds, and that prediction's deviation."""

    row: TrainTruth
    error: float
    sd: float


def publication(source: str) -> str:
    """Return the publication a source belongs to."""
    return SAME_PUBLICATION.get(source, source)


def leave_publications_out(found: Sequence[Case]) -> tuple[LeftOut, ...]:
    """Return every row predicted by a fit to all other publications, which started from nothing."""
    names = sorted({publication(case.rows[0].source) for case in found})
    left: list[LeftOut] = []
    for name in names:
        fitted = fit_training([case for case in found if publication(case.rows[0].source) != name])
        for case in found:
            if publication(case.rows[0].source) == name:
                left += _errors(case, fitted)
    return tuple(left)


def _errors(case: Case, fitted: Mapping[Key, Offset]) -> list[LeftOut]:
    errors = np.log(case.predicted_s(fitted) / case.measured_s)
    return [
        LeftOut(row, float(e), float(sd)) for row, e, sd in zip(case.rows, errors, case.log_sd(fitted), strict=True)
    ]


def interval_factor(left: Sequence[LeftOut], *, source: str = "", date: str = "") -> dict[Key, Offset]:
    """Return how many of their own deviations hold ``INSIDE`` of left-out rows, publications of many rows weighing alike."""
    weight = source_weights([one.row for one in left])
    size = np.abs([one.error / one.sd for one in left])
    order = np.argsort(size)
    reached = np.cumsum(weight[order]) / weight.sum()
    factor = float(size[order][min(int(np.searchsorted(reached, INSIDE)), len(size) - 1)])
    return {FACTOR: Offset(factor, 0.0, len(left), source, date)}


def half_widths(left: Sequence[LeftOut]) -> Array:
    """Return the log half-width of each row's interval, whose factor the other publications' left-out rows give, (rows,)."""
    found = np.zeros(len(left))
    names = np.array([publication(one.row.source) for one in left])
    for name in set(names.tolist()):
        told = interval_factor([one for one, own in zip(left, names, strict=True) if own != name])
        found[names == name] = told[FACTOR].offset
    return np.asarray(found * np.array([one.sd for one in left]))

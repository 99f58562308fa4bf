"""Training predictions of publications the fit had not seen, and the intervals that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.facts.calibration import Offset
from bytebound.facts.training_shares import spread_key, unseen_in
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
FEWEST = 8
"""Rows below which a width of its own is not read off."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One row predicted by a fit without its publication: log of predicted over measured seconds."""

    row: TrainTruth
    error: float
    kind: str
    unseen: bool


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
    unseen = unseen_in(fitted, case.device.family, case.framework)
    errors = np.log(case.predicted_s(fitted) / case.measured_s)
    return [LeftOut(row, float(e), case.kind, bool(unseen)) for row, e in zip(case.rows, errors, strict=True)]


def widths(left: Sequence[LeftOut], *, source: str = "", date: str = "") -> dict[Key, Offset]:
    """Return the logarithmic half-widths that hold ``INSIDE`` of left-out rows, sources weighing alike.

    One for dense models and one for routed experts where family and framework had been seen, and the factor by which both grow where one
    of them had not.
    """
    weight = source_weights([one.row for one in left])
    error = np.abs([one.error for one in left])
    unseen = np.array([one.unseen for one in left])
    kinds = np.array([one.kind for one in left])
    whole = _quantile(error[~unseen], weight[~unseen])
    found: dict[Key, Offset] = {}
    each = {}
    for kind in ("dense", "moe"):
        own = (kinds == kind) & ~unseen
        each[kind] = _quantile(error[own], weight[own]) if own.sum() >= FEWEST else whole
        found[spread_key(kind)] = Offset(each[kind], 0.0, int(own.sum()), source, date)
    if unseen.sum() >= FEWEST:
        relative = error[unseen] / np.array([each[kind] for kind in kinds[unseen]])
        factor = max(_quantile(relative, weight[unseen]), 1.0)
        found[spread_key("unseen")] = Offset(factor, 0.0, int(unseen.sum()), source, date)
    return found


def _quantile(values: Array, weight: Array) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][min(int(np.searchsorted(reached, INSIDE)), len(values) - 1)])


def covered(left: Sequence[LeftOut]) -> Array:
    """Return whether each row lies in the interval that the other publications' left-out rows give, (rows,)."""
    inside = np.zeros(len(left), dtype=bool)
    for name in {publication(one.row.source) for one in left}:
        told = widths([one for one in left if publication(one.row.source) != name])
        for at, one in enumerate(left):
            if publication(one.row.source) == name:
                width = told[spread_key(one.kind)].offset
                factor = told[spread_key("unseen")].offset if one.unseen and spread_key("unseen") in told else 1.0
                inside[at] = abs(one.error) <= width * factor
    return inside

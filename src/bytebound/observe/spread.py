"""Repeated timings in five numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.observation import Spread

if TYPE_CHECKING:
    from collections.abc import Sequence


def spread_of(seconds: Sequence[float]) -> Spread:
    """Return the best, median and 10/90 % points of repeated times."""
    values = np.asarray(seconds, dtype=float)
    return Spread(
        best=float(values.min()), median=float(np.median(values)), p10=float(np.quantile(values, 0.1)),
        p90=float(np.quantile(values, 0.9)), samples=len(values),
    )  # fmt: skip

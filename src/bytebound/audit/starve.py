"""Need against supply over draws and months: when it first falls short, and by how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.audit.surface import LIMITS
from bytebound.documents.audit import Headroom, Starves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

NEVER = int(np.iinfo(np.int64).max)
"""The month of a draw that does not starve within the horizon."""
MOST_HEADROOM = 99.0
"""Headroom is shown up to here: a resource nobody uses has no useful ratio."""


def headroom(need: Array, supply: Array) -> Array:
    """Return supply / need − 1, between −1 (nothing meets the need) and ``MOST_HEADROOM``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(need > 0, supply / need, np.inf) - 1.0
    return np.asarray(np.clip(np.nan_to_num(ratio, nan=-1.0, posinf=MOST_HEADROOM), -1.0, MOST_HEADROOM))


def bands(values: Array) -> Headroom:
    """Return the 10, 50 and 90 % bands over draws, per month."""
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=0)
    return Headroom(tuple(map(float, low)), tuple(map(float, middle)), tuple(map(float, high)))


def starving_months(room: Array) -> NDArray[np.int64]:
    """Return the first month (draws,) whose ``room`` (headroom; draws, months) is below 0, ``NEVER`` where none is."""
    short = room < 0
    return np.where(short.any(axis=1), short.argmax(axis=1), NEVER)


def starves(first: NDArray[np.int64], codes: NDArray[np.int64]) -> Starves:
    """Return the summary over the draws: ``first`` (draws,) as above, ``codes`` what limits each draw that starves."""
    if not len(codes):
        return Starves(0.0, None, None, None, None)
    months = [int(m) if m < NEVER else None for m in np.quantile(first, (0.1, 0.5, 0.9), method="inverted_cdf")]
    most = int(np.bincount(codes, minlength=len(LIMITS)).argmax())
    return Starves(float((first < NEVER).mean()), months[0], months[1], months[2], LIMITS[most])


def first_starvation(need: Array, supply: Array, limit: NDArray[np.int64]) -> Starves:
    """Return when need first passes supply over the draws, and what most often limits then."""
    first = starving_months(headroom(need, supply))
    rows = np.flatnonzero(first < NEVER)
    return starves(first, np.broadcast_to(limit, np.shape(need))[rows, first[rows]])

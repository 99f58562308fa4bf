"""What training holds, as its document shows it: parts, the interval of the total, and the chance that it fits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.training import TrainingMemory
from bytebound.ledger.training_memory import PEAKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.values import Number
    from bytebound.predict.training import TrainingTime

    Array = NDArray[Any]

LEVEL_Z = 1.2815515655446004
"""Standard normal quantile of the 80 % interval's edge."""


def memory(timed: TrainingTime, shape: tuple[int, ...]) -> TrainingMemory:
    """Return what the fullest device holds, with the 80 % interval of the total and the chance that it fits."""
    held = timed.held

    def out(value: Any) -> Number:
        whole = np.broadcast_to(value, shape)
        return np.array(whole, dtype=float) if shape else float(whole)

    low, high = bounds(timed)
    fits, chance = np.broadcast_to(timed.fits, shape), chance_of_fitting(timed)
    peak = np.broadcast_to(np.array(PEAKS)[held.peak], shape)
    return TrainingMemory(
        parameters=out(held.parameters), gradients=out(held.gradients), optimizer=out(held.optimizer),
        activations=out(held.activations), temporary=out(held.temporary), reserve=out(held.reserve),
        allocated_bytes=out(timed.total_bytes - held.reserve), total_bytes=out(timed.total_bytes),
        low_bytes=out(low), high_bytes=out(high), usable_bytes=out(timed.usable_bytes),
        fits=np.array(fits) if shape else bool(fits), probability_fits=out(chance), host_bytes=out(held.host_bytes),
        peak=np.array(peak) if shape else str(peak),
    )  # fmt: skip


def bounds(timed: TrainingTime) -> tuple[Array, Array]:
    """Return the 80 % interval of the bytes held; what fits is asked of its high end, so that it has nine chances in ten."""
    return timed.held.low_bytes, timed.held.high_bytes


def chance_of_fitting(timed: TrainingTime) -> Array:
    """Return the probability that the bytes held are at most the usable ones: of a normal error with the half-width of that side."""
    return chance_within(timed.total_bytes, *bounds(timed), timed.usable_bytes)


def chance_within(total: Array | float, low: Array | float, high: Array | float, usable: Array | float) -> Array:
    """Return the probability that ``total`` bytes are at most ``usable``, its 80 % interval being ``low`` to ``high``."""
    room = np.asarray(usable) - total
    half = np.maximum(np.where(room >= 0, np.asarray(high) - total, np.asarray(total) - low), 1.0)
    return normal_cdf(LEVEL_Z * room / half)


def normal_cdf(z: Array) -> Array:
    """Return the standard normal distribution function, of any shape.

    Example:
        >>> float(normal_cdf(np.array(0.0)))
        0.5
    """
    values = np.asarray(z, dtype=float)
    return np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in values.ravel()]).reshape(values.shape)

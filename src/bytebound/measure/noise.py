"""Whether two readings of one thing differ by more than their own noise.

A reading holds a few dozen samples at most, often of a shared machine whose single samples scatter by 12 %. The error
of its figure is taken from three places, the largest counts:

* the gaps between its best samples: the 90 % bootstrap range of a maximum ends about three samples below it, which for
  an exponential tail of scale s is s (1 + 1/2 + 1/3), while the maximum itself scatters by s π/√6 (Gumbel);
* its 10–90 % spread: a median scatters by 1.25 σ/√n, and best-of-n on a shared virtual machine by σ n^-0.8 (measured
  over 100 rounds: 12 % for single samples, 4.8 % best of 3, 3.1 % of 5, 1.4–2.2 % of 10);
* ``FLOOR``, by which best-of-10 differs between quiet runs of one machine.

Because that scale rests on about three gaps (χ² with 6 degrees of freedom), the difference over its error is judged by
Student's t with 6 degrees. Simulated pairs of the same distribution (capped, dips, log-normal, heavy tails; CV 12 %)
are called different in 1 to 5 % of cases: tests/history/test_compare.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bytebound.documents.measurement import Reading

FLOOR = 0.015
SINGLE = 0.12  # scatter of one sample on a shared machine: the error where nothing was repeated
FEW = 5  # under so many samples their own spread says too little, and that of a shared machine is taken
TAIL = math.pi / math.sqrt(6) / (1 + 1 / 2 + 1 / 3)
NORMAL_SPREAD = 2.563  # p10 to p90 of a normal distribution, in standard deviations
NORMAL_RANGE = 3.290  # width of a 90 % interval, in standard deviations

Figure = Literal["best", "median"]


@dataclass(frozen=True, slots=True)
class Difference:
    """How far ``after`` is from ``before``: ratio of the compared figure, gain (log, positive is better) and its error."""

    figure: Figure
    ratio: float
    gain: float
    error: float

    @property
    def confidence(self) -> float:
        """How sure it is that the gain is not noise, 0 to 1."""
        return student6(self.gain / self.error)


def difference(before: Reading, after: Reading) -> Difference | None:
    """Return how two readings of one thing differ, by whichever of best and median is the steadier; None at zero.

    Workloads (whose bootstrap range is the median's) are compared by medians. Where one reading has more samples than
    the other, its best is better by that alone, by the tail scale times the logarithm of the ratio: this is taken off.
    """
    figures: tuple[Figure, ...] = ("best", "median") if is_ceiling(before) and is_ceiling(after) else ("median",)
    found = [_by(figure, before, after) for figure in figures if _positive(figure, before, after)]
    return min(found, key=lambda item: item.error, default=None)


def is_ceiling(reading: Reading) -> bool:
    """Whether the best counts: the range of a best ends at it, the range of a median does not."""
    return (reading.low if reading.unit == "s" else reading.high) == reading.best


def relative_error(reading: Reading, figure: Figure) -> float:
    """Return the standard error of a reading's best or median, relative to it (formulas: see the module)."""
    n = reading.samples
    if n < 2:
        return SINGLE
    floor = FLOOR if n >= FEW else SINGLE * n**-0.8
    cv = (reading.p90 - reading.p10) / NORMAL_SPREAD / reading.median
    if figure == "best":
        error = max(TAIL * (reading.high - reading.low) / reading.best, cv * n**-0.8)
    else:
        spread = 0.0 if is_ceiling(reading) else (reading.high - reading.low) / NORMAL_RANGE / reading.median
        error = max(spread, 1.253 * cv / math.sqrt(n))
    return float(max(error, floor) * math.sqrt((n + 2) / (n - 1)))  # few samples show too little of their spread


def student6(t: float) -> float:
    """Return P(abs(T) < abs(t)) of Student's t with 6 degrees of freedom (Abramowitz and Stegun 26.7.4).

    Example:
        >>> round(student6(2.447), 3), round(student6(3.707), 3)
        (0.95, 0.99)
    """
    angle = math.atan(abs(t) / math.sqrt(6))
    square = math.cos(angle) ** 2
    return math.sin(angle) * (1 + square / 2 + 3 * square**2 / 8)


def _positive(figure: Figure, before: Reading, after: Reading) -> bool:
    return bool(min(before.median, after.median, getattr(before, figure), getattr(after, figure)) > 0)


def _by(figure: Figure, before: Reading, after: Reading) -> Difference:
    ratio = getattr(after, figure) / getattr(before, figure)
    gain = -math.log(ratio) if after.unit == "s" else math.log(ratio)
    if figure == "best":
        tail = max(r.high - r.low for r in (before, after)) / min(before.best, after.best) / (1 + 1 / 2 + 1 / 3)
        by_count = tail * math.log(after.samples / before.samples)
        gain = math.copysign(max(abs(gain) - max(math.copysign(by_count, gain * by_count), 0.0), 0.0), gain)
    error = math.hypot(relative_error(before, figure), relative_error(after, figure))
    return Difference(figure, ratio, gain, error)

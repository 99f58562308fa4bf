"""Judge a trial: ratios of interleaved timings with their bootstrap interval, beside what was predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bytebound.documents.proof import TOLERANCE, Compared
from bytebound.documents.values import Interval
from bytebound.engines.summary import spread
from bytebound.errors import UnfinishedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.prove.trial import Forecast

    Array = NDArray[Any]
    Verdict = Literal["confirmed", "refuted", "inconclusive"]
    Effect = Literal["helps", "no-effect", "hurts", "saves-memory"]

BOOTSTRAPS, LEVEL = 2000, 0.9
MOST_NOISE = TOLERANCE
"""A measured ratio whose 90 % interval is wider than this to either side decides nothing."""
MOST_DISTURBED = 0.5
"""Share of the timings during which others used the machine, beyond which none of them is believed."""
LEAST_EFFECT = 0.05
"""A ratio nearer to one than this is no effect: two runs of one thing differ as much on a shared machine."""


def ratio_of(before: Array, after: Array, *, seed: int = 0) -> Interval:
    """Return the ratio of medians, after over before, with a 90 % bootstrap interval over rounds.

    Whole rounds are drawn again, both sides of one together, so that what slowed both cancels. Source: Efron and Tibshirani,
    An Introduction to the Bootstrap (1993), section 8.3 (paired data).

    Args:
        before: seconds (rounds, timings per round); ``after`` likewise, of the same rounds.
        after: see ``before``.
        seed: of the draws.
    """
    rounds = len(before)
    drawn = np.random.default_rng(seed).integers(0, rounds, (BOOTSTRAPS, rounds))
    ratios = np.median(after[drawn].reshape(BOOTSTRAPS, -1), axis=1) / np.median(
        before[drawn].reshape(BOOTSTRAPS, -1), axis=1
    )
    low, high = np.quantile(ratios, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(np.median(after) / np.median(before)), float(low), float(high), LEVEL)


def compared(metric: str, before: Array, after: Array, forecast: Forecast | None) -> Compared:
    """Return one metric before and after beside its forecast; both sides hold (rounds, timings) of one unit each.

    Raises:
        UnfinishedError: nothing was measured, or a side is nothing.
    """
    one, other = spread(before.ravel()), spread(after.ravel())
    if one is None or other is None or not one.median > 0 or not other.median > 0:
        raise UnfinishedError(f"{metric} was not measured on both sides", place=metric)
    measured = ratio_of(before, after)
    error = None if forecast is None else float(forecast.ratio.value) / float(measured.value) - 1
    return Compared(
        metric, one, other, measured, forecast.ratio if forecast else None, forecast.how if forecast else "", error,
        None if error is None else abs(error) <= TOLERANCE,
    )  # fmt: skip


def noisy(found: Compared) -> bool:
    """Return whether the measured ratio is too uncertain to decide anything."""
    m = found.measured
    return max(float(m.high) - float(m.value), float(m.value) - float(m.low)) > MOST_NOISE * float(m.value)


def verdict_of(found: Sequence[Compared], disturbed: float) -> Verdict:
    """Return whether every predicted ratio came out within the tolerance; inconclusive where noise hides it."""
    predicted = [each for each in found if each.within is not None]
    if disturbed > MOST_DISTURBED or not predicted or any(noisy(each) for each in predicted):
        return "inconclusive"
    return "confirmed" if all(each.within for each in predicted) else "refuted"


def effect_of(found: Sequence[Compared], aim: str) -> Effect:
    """Return what the lever did for its aim, or else whether it saved memory."""
    main = next((each for each in found if each.metric == aim), None)
    if main is not None and abs(float(main.measured.value) - 1) > LEAST_EFFECT:
        if float(main.measured.high) < 1:
            return "saves-memory" if aim in {"memory", "kv_memory", "bytes"} else "helps"
        if float(main.measured.low) > 1:
            return "hurts"
    saved = any(
        float(each.measured.value) < 1 - LEAST_EFFECT for each in found if each.metric in {"memory", "kv_memory"}
    )
    return "saves-memory" if saved else "no-effect"


WORDS = {
    "decode": "a decode step", "prefill": "prefill", "request": "a request", "step": "a training step",
    "memory": "memory", "kv_memory": "KV cache", "bytes": "bytes",
}  # fmt: skip


def sentence_of(title: str, found: Sequence[Compared], verdict: Verdict, aim: str, disturbed: float) -> str:
    """Return one sentence: what it did, what was predicted, and whether that held."""
    first = sorted(found, key=lambda each: each.metric != aim)
    said = ", ".join(_change(each) for each in first)
    if verdict == "inconclusive":
        wide = [each for each in first if noisy(each)]
        if disturbed > MOST_DISTURBED:
            return f"{title}: inconclusive, other work ran during {100 * disturbed:.0f} % of the timings ({said})"
        if wide:
            return f"{title}: inconclusive, the ratio of {WORDS[wide[0].metric]} lies anywhere from {wide[0].measured.low:.2f} to {wide[0].measured.high:.2f}"
        return f"{title}: {said}; nothing was predicted"
    missed = [each for each in first if each.within is False]
    if missed:
        worst = max(missed, key=lambda each: abs(each.error or 0.0))
        return f"{title}: {said}; {WORDS[worst.metric]} was predicted ×{_value(worst.predicted):.2f} and came out ×{worst.measured.value:.2f}, {100 * abs(worst.error or 0.0):.0f} % off"
    return f"{title}: {said}, as predicted within {100 * TOLERANCE:.0f} %"


def _change(each: Compared) -> str:
    return f"{WORDS[each.metric]} ×{float(each.measured.value):.2f}"


def _value(interval: Interval | None) -> float:
    return float("nan") if interval is None else float(interval.value)

"""The chance that a predicted deployment meets an objective, from the intervals it was predicted with."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]

CORRELATION = 0.13
"""Correlation of the logarithms of our errors of TTFT and TPOT in one run: 0.13 over the 1,644 closed-loop runs of aiconfigurator's
end-to-end sample (ai-dynamo/aiconfigurator@095f58a) and InferenceX that give both, predicted by offsets that had not seen the model."""
NODES = 48
"""Equally likely parts of the TTFT error that the joint chance adds up; a simulation agrees within half a percent."""
WIDEST = 8.0


@cache
def _normal() -> tuple[Array, Array]:
    """Return the standard normal distribution as a table: points and cumulative chance (linear between: error under 1e-6)."""
    points = np.linspace(-WIDEST, WIDEST, 3201)
    one = NormalDist()
    return points, np.array([one.cdf(float(point)) for point in points])


def below(z: Array) -> Array:
    """Return the chance that a standard normal draw is below ``z``."""
    points, chances = _normal()
    return np.asarray(np.interp(z, points, chances))


def quantile(chance: Array | float) -> Array:
    """Return the standard normal draw that ``chance`` of draws lie below."""
    points, chances = _normal()
    return np.asarray(np.interp(chance, chances, points))


def chance_of(
    first_s: Array,
    each_s: Array,
    bounds: Mapping[str, float | None],
    *,
    first_sd: Array | float,
    each_sd: Array | float,
    steps: float,
    correlation: float = CORRELATION,
) -> Array:
    """Return the chance that every bound is met, in the shape of the times; 0 where a time is unknown (NaN).

    The true times are taken to be lognormal around the predicted ones, TTFT ``first_s exp(x)`` and TPOT ``each_s exp(y)``, and
    ``x`` and ``y`` to be jointly normal. A request takes ``ttft + steps × tpot``. Given ``x`` the chance of the rest is closed; it is
    added up over equally likely parts of ``x``, the last as far as the bound on TTFT reaches into it, so a looser bound never counts less.

    Args:
        first_s: predicted TTFT, waiting included [s].
        each_s: predicted TPOT [s].
        bounds: by ``ttft``, ``tpot``, ``request`` [s]; None or missing: not bounded.
        first_sd: standard deviation of ``x``.
        each_sd: standard deviation of ``y``.
        steps: output tokens after the first; 0: the first answer is the whole answer.
        correlation: of ``x`` and ``y``.
    """
    ttft, tpot, request = (bounds.get(name) for name in ("ttft", "tpot", "request"))
    first_s, each_s = np.asarray(first_s, dtype=float), np.asarray(each_s, dtype=float)
    if steps == 0 and request is not None:
        ttft, request = min(request, ttft or np.inf), None
    known = ~np.isnan(first_s) & (np.isfinite(each_s) if tpot is not None or request is not None else True)
    share = np.ones(first_s.shape)
    if ttft is not None:
        share = below(_standing(ttft / np.where(known, first_s, 1.0), first_sd))
    if tpot is None and request is None:
        return np.where(known, share, 0.0)
    each, total = np.where(known, each_s, 1.0), np.zeros(first_s.shape)
    rest = np.sqrt(1 - correlation**2)
    for node in range(NODES):
        x = float(quantile((node + 0.5) / NODES))
        left = np.full(first_s.shape, np.inf if tpot is None else tpot)
        if request is not None:
            left = np.minimum(
                left, np.maximum(request - np.where(known, first_s, 1.0) * np.exp(first_sd * x), 0.0) / steps
            )
        total += np.clip(share * NODES - node, 0.0, 1.0) * below(
            (_standing(left / each, each_sd) - correlation * x) / rest
        )
    return np.where(known, total / NODES, 0.0)


def _standing(ratio: Array, sd: Array | float) -> Array:
    """Return how many standard deviations of its logarithm a bound lies above the predicted value."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(ratio) / sd)

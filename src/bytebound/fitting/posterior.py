"""What measured points say about the effects of a deployment: maximum a posteriori, and the covariance around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import UnfinishedError
from bytebound.facts.correction_prior import correction_prior
from bytebound.predict.parts import EFFECTS, LOADED, Parted, slopes, with_effects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

MOST_STEPS, SHORTEST_STEP, SETTLED = 300, 2.0**-12, 1e-6


@dataclass(frozen=True, slots=True)
class Prior:
    """What is thought of the effects before a run: independent, centred on ours.

    Args:
        log_sd: standard deviation of the logarithm of each effect, (effects,).
        noise: relative standard deviation of one measurement around what the effects explain.
        loaded_noise: the same of a first token that waited at a busy replica; None: ``noise``.
    """

    log_sd: Array
    noise: float
    loaded_noise: float | None = None

    def noise_of(self, metric: str) -> float:
        """Return the noise of a metric."""
        return self.loaded_noise if metric == LOADED and self.loaded_noise is not None else self.noise

    def widened(self, factor: float) -> Prior:
        """Return the prior with every effect ``factor`` times as uncertain; the noise stays."""
        return replace(self, log_sd=self.log_sd * factor)


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is thought of the effects after a run: ``mean`` (effects,) and ``covariance`` (effects, effects)."""

    mean: Array
    covariance: Array


def shipped_prior() -> Prior:
    """Return the prior of our table."""
    table = correction_prior()
    log_sd = np.array([table[name].log_sd for name in EFFECTS])
    return Prior(log_sd, table["noise"].log_sd, table["noise-loaded"].log_sd)


def stacked(points: Sequence[Parted]) -> Parted:
    """Return points of several metrics as one: all as times of their amounts."""
    seconds = np.concatenate([p.seconds for p in points], axis=1)
    amounts = [np.ones(p.seconds.shape[1]) if p.amount is None else p.amount for p in points]
    return Parted(seconds, np.concatenate(amounts), np.concatenate([p.drift for p in points], axis=1))


def log_seconds(points: Parted) -> Array:
    """Return log of the summed parts, (points,)."""
    return np.asarray(np.log(points.seconds.sum(axis=0)))


def posterior(points: Parted, measured_s: Array, prior: Prior, noise: Array | None = None) -> Posterior:
    """Return the effects that explain the points best, and how sure that is.

    Minimises ``Σ (log t − log t'(z))² / noise² + Σ z² / sd²`` by Gauss-Newton with halved steps; the covariance is that
    of the linearised problem at the minimum, ``S − S Jᵀ (J S Jᵀ + N)⁻¹ J S``.

    Args:
        points: predicted parts of every measured time, (parts, points).
        measured_s: the measured times [s], (points,).
        prior: what is thought before.
        noise: relative standard deviation of each point, (points,); None: the prior's.

    Raises:
        UnfinishedError: the steps do not settle.

    Source: Tarantola, Inverse Problem Theory (2005), section 3.2.3 (quasi-Newton and linearised covariance).
    """
    observed = np.log(measured_s)
    error = np.full(len(observed), prior.noise) if noise is None else np.maximum(noise, prior.noise)
    spread = prior.log_sd**2

    def cost(z: Array) -> float:
        misses = observed - log_seconds(with_effects(points, z))
        return float((misses**2 / error**2).sum() + (z**2 / spread).sum())

    z = np.zeros(len(spread))
    lowest = cost(z)
    for _ in range(MOST_STEPS):
        changed = with_effects(points, z)
        along = slopes(changed)
        gain = (spread[:, None] * along) @ np.linalg.inv((along.T * spread) @ along + np.diag(error**2))
        step = gain @ (observed - log_seconds(changed) + along.T @ z) - z
        size = 1.0
        while size > SHORTEST_STEP and cost(z + size * step) > lowest:
            size /= 2
        if size > SHORTEST_STEP:
            z = z + size * step
        before, lowest = lowest, min(cost(z), lowest)
        if size <= SHORTEST_STEP or before - lowest <= SETTLED * (1 + lowest):
            along = slopes(with_effects(points, z))
            gain = (spread[:, None] * along) @ np.linalg.inv((along.T * spread) @ along + np.diag(error**2))
            return Posterior(z, np.diag(spread) - gain @ (along.T * spread))
    raise UnfinishedError("the correction does not settle", mend="leave out points that contradict each other")

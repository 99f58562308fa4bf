"""Estimate, over many deployments, how far each cost may be from ours: the prior a correction starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import UnfinishedError
from bytebound.fitting.posterior import Prior, log_seconds, posterior
from bytebound.predict.parts import slopes, with_effects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.predict.parts import Parted

    Array = NDArray[Any]

LEAST_SD = 0.01
"""No effect is called certain: a run may always say something new of it."""


@dataclass(frozen=True, slots=True)
class Group:
    """The measured points of one deployment: predicted parts (parts, points) and measured seconds (points,)."""

    points: Parted
    measured_s: Array


def fit_prior(groups: Sequence[Group], start: Prior, *, rounds: int = 60, weight: float = 3.0) -> Prior:
    """Return the prior under which the groups' effects are as large as they were found to be.

    Expectation-maximisation: each group's effects given the prior, then the prior as the groups' mean square. ``start``
    counts as ``weight`` more groups, so that what no group tells keeps its stated width.

    Raises:
        UnfinishedError: fewer than three groups, or a standard deviation that is not a finite number.

    Source: Dempster, Laird, Rubin 1977; Laird and Ware 1982 for random effects.
    """
    if len(groups) < 3:
        raise UnfinishedError(
            f"{len(groups)} deployments do not make a prior", mend="give three or more, of several points each"
        )
    prior = start
    for _ in range(rounds):
        square, misses, count = np.zeros(len(prior.log_sd)), 0.0, 0
        for group in groups:
            found = posterior(group.points, group.measured_s, prior)
            square += found.mean**2 + np.diag(found.covariance)
            changed = with_effects(group.points, found.mean)
            along = slopes(changed)
            misses += float(((np.log(group.measured_s) - log_seconds(changed)) ** 2).sum())
            misses += float(np.einsum("ip,ij,jp->", along, found.covariance, along))
            count += len(group.measured_s)
        log_sd = np.sqrt((square + weight * start.log_sd**2) / (len(groups) + weight))
        after = Prior(np.maximum(log_sd, LEAST_SD), float(np.sqrt(misses / count)), start.loaded_noise)
        if not bool(np.all(np.isfinite(after.log_sd))) or not np.isfinite(after.noise):
            raise UnfinishedError("the prior does not converge", mend="look for points that are not finite")
        moved = float(np.max(np.abs(np.log(after.log_sd / prior.log_sd))))
        prior = after
        if moved < 1e-3:
            break
    return prior

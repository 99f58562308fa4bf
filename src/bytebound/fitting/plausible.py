"""What is measured, and whether it can be: the physical floor, and shifts that are hard to believe, with likely causes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import QuantityError, RequestError
from bytebound.fitting.posterior import Prior, log_seconds
from bytebound.predict.parts import LOADED, TIMES, Parted, floor_s, log_sd
from bytebound.units import show_time, significant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.correction import Effect
    from bytebound.documents.work import Serve

    Array = NDArray[Any]

UNDER_FLOOR = 0.02
"""A clock may be this far off: a measurement further under the physical floor is not of this deployment."""
FAR_SD, MOST_FACTOR = 3.0, 1e4
FASTER = "more devices, fewer bits, speculative decoding or a prefix cache than the request says, or a clock that misses the prompt"
SLOWER = "fewer devices, wider formats, eager mode, power or heat limits, or other load than the request says"


@dataclass(frozen=True, slots=True)
class Point:
    """One measured number of the user's own engine: ``metric`` (TIMES or RATES), SI ``value``, one request, where it is from.

    ``noise``: relative standard deviation of the value itself, where repeats tell; 0: not known.
    """

    metric: str
    value: float
    work: Serve
    source: str = ""
    noise: float = 0.0


def metric_of(point: Point) -> str:
    """Return the metric our predictions have for a point: TTFT of several requests at once includes waiting."""
    busy = float(np.max(point.work.batch)) > 1 and point.work.scheduling == "continuous"
    return LOADED if point.metric == "ttft_s" and busy else point.metric


def bound_of(named: Mapping[str, Array], p: Parted) -> float:
    """Return the least a time, or the most a rate, can physically be."""
    least = float(floor_s(named, p)[0])
    return least if p.amount is None else float(p.amount[0]) / least


def check_physics(named: Mapping[str, Array], p: Parted, point: Point, time_s: float) -> None:
    """Raise RequestError where a value is faster than physics, QuantityError where its unit must be wrong."""
    least = float(floor_s(named, p)[0])
    ours = float(p.seconds.sum())
    if time_s < least * (1 - UNDER_FLOOR):
        raise RequestError(
            f"{point.metric} of {_worded(point, point.value)} is faster than physics allows ({_worded(point, bound_of(named, p))}): "
            "this is not the deployment that was named",
            place=point.metric, mend=f"look for {FASTER}",
        )  # fmt: skip
    if not 1 / MOST_FACTOR < time_s / ours < MOST_FACTOR:
        raise QuantityError(
            f"{point.metric} of {point.value:.4g} is {max(time_s / ours, ours / time_s):.0e} times off the prediction",
            place=point.metric, mend="check the unit: seconds and 1/s are meant",
        )  # fmt: skip


def _worded(point: Point, value: float) -> str:
    return show_time(value) if point.metric in TIMES else f"{significant(value)}/s"


def warnings_of(
    points: Sequence[Point], parts: Sequence[Parted], times: Sequence[float], effects: Sequence[Effect], prior: Prior
) -> tuple[str, ...]:
    """Return what is hard to believe about the run, with likely causes."""
    found = []
    for point, p, time in zip(points, parts, times, strict=True):
        off = float(np.log(time) - log_seconds(p)[0])
        sd = float(log_sd(p, np.diag(prior.log_sd**2), prior.noise_of(metric_of(point)))[0])
        if abs(off) > FAR_SD * sd:
            found.append(
                f"{point.metric} is {np.exp(abs(off)):.2f} times {'slower' if off > 0 else 'faster'} than predicted, beyond what "
                f"deployments like this one differ by (×/÷ {np.exp(FAR_SD * sd):.2f}): look for {SLOWER if off > 0 else FASTER}"
            )
    found += [
        f"the points ask for {effect.name} ×{np.exp(effect.log_shift):.2f}, more than {FAR_SD:g} standard deviations from ours"
        for effect in effects
        if abs(effect.log_shift) > FAR_SD * effect.prior_log_sd
    ]
    return tuple(found)

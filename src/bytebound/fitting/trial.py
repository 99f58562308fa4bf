"""How much one measured point of a deployment helps with its others, over many deployments of a truth file."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import ByteboundError
from bytebound.fitting.one_run import base_spread, based, fitted_to
from bytebound.fitting.posterior import Prior, posterior
from bytebound.fitting.prior_fit import Group
from bytebound.predict.attained import era_of
from bytebound.predict.corrected import deployment_of
from bytebound.predict.parts import LOADED, Z80, log_sd, parted, with_effects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.truth import Truth

    Array = NDArray[Any]

SKIPPED = ("joules_per_token", "resident_bytes", "kv_tokens", "weights_bytes")
VARYING = ("batch", "prompt", "output")


@dataclass(frozen=True, slots=True)
class Deployment:
    """Measured points of one metric of one deployment, beside their predicted parts.

    ``base_log_sd``: half-width of the predictions' own interval, in logarithms and standard deviations; ``load`` (points,)
    orders the points: batch × context.
    """

    model: str
    device: str
    engine: str
    engine_version: str
    metric: str  # as our predictions name it: a first token at a busy replica includes waiting
    dense: bool
    group: Group
    base_log_sd: float
    load: Array


@dataclass(frozen=True, slots=True)
class Trial:
    """Errors (points,) of every point but the given one, before and after it was given, as predicted / measured − 1.

    ``ratio`` is the simplest correction, one factor on everything; ``held_before`` and ``held_after`` say whether the 80 %
    interval held the measured value.
    """

    before: Array
    after: Array
    ratio: Array
    held_before: Array
    held_after: Array


def deployments(rows: Iterable[Truth], metrics: Sequence[str]) -> tuple[Deployment, ...]:
    """Return the deployments of ``rows`` that have two points or more of one of ``metrics`` each.

    Rows we cannot answer (a model or machine not known, work that does not fit) are left out.
    """
    shared: dict[tuple[Any, ...], list[Truth]] = defaultdict(list)
    for row in rows:
        if row.metric in metrics and row.metric not in SKIPPED and row.statistic in {"mean", "median", ""}:
            fixed = replace(row.work, batch=1, prompt=1, output=1)
            era = era_of(row.date, row.engine_version)
            shared[row.model, row.device, row.devices, row.engine, row.engine_version, era, row.metric, fixed].append(
                row
            )
    found = (_deployment(members) for members in shared.values() if len(members) > 1)
    return tuple(each for each in found if each is not None)


def _deployment(rows: Sequence[Truth]) -> Deployment | None:
    first = rows[0]
    columns: dict[str, Any] = {
        name: np.array([getattr(row.work, name) for row in rows], dtype=float) for name in VARYING
    }
    slots = np.array([row.load.slots or np.inf for row in rows])
    columns["batch"] = np.minimum(columns["batch"], slots)
    work = replace(first.work, **columns)
    try:
        setting = based(first.model, f"{max(row.devices for row in rows)}x {first.device}", work,
                        version=first.engine_version, era=era_of(first.date, first.engine_version))  # fmt: skip
        deployment_of(setting, work)
        named = setting.answer(work)
    except ByteboundError:
        return None
    busy = first.metric == "ttft_s" and work.scheduling == "continuous" and bool(np.any(columns["batch"] > 1))
    p = parted(named, work, LOADED if busy else first.metric)
    value = np.array([row.value for row in rows])
    keep = np.isfinite(p.value)
    if keep.sum() < 2:
        return None
    p, value = p.take(keep), value[keep]
    measured = value if p.amount is None else p.amount / value
    facts = setting.architecture
    return Deployment(
        first.model, first.device, first.engine, first.engine_version, LOADED if busy else first.metric,
        dense=facts.active_parameters > 0.9 * facts.parameters, group=Group(p, measured),
        base_log_sd=float(np.log(base_spread(setting, first.metric)) / Z80),
        load=(columns["batch"] * (columns["prompt"] + columns["output"]))[keep],
    )  # fmt: skip


def middle(deployment: Deployment) -> int:
    """Return the point of the middling load."""
    return int(np.argsort(deployment.load, kind="stable")[len(deployment.load) // 2])


def trial(
    found: Sequence[Deployment], prior: Prior, *, given: Callable[[Deployment], int] = middle, widen: bool = False
) -> Trial:
    """Return the errors of every deployment's other points when one of it is given.

    Args:
        found: deployments.
        prior: what a correction starts from.
        given: which point of a deployment is given.
        widen: scale the prior to the predictions' own intervals, as a user's correction does.
    """
    columns: list[tuple[Array, ...]] = []
    for each in found:
        p, measured, index = each.group.points, each.group.measured_s, given(each)
        one = p.take([index])
        start = fitted_to(prior, one, np.array([each.base_log_sd])) if widen else prior
        noise = start.noise_of(each.metric)
        known = posterior(one, measured[[index]], start, np.array([noise]))
        changed = with_effects(p, known.mean)
        rest = np.arange(len(measured)) != index
        before, after = (np.log(x.seconds.sum(axis=0) / measured) for x in (p, changed))
        sd = log_sd(changed, known.covariance, noise)
        if widen and each.metric != LOADED:
            sd = np.minimum(sd, max(each.base_log_sd, abs(before[index]) / Z80))  # see most_spread
        columns.append(
            tuple(
                x[rest]
                for x in (
                    before,
                    after,
                    before - before[index],
                    np.abs(before) <= Z80 * each.base_log_sd,
                    np.abs(after) <= Z80 * sd,
                )
            )
        )
    before, after, ratio, held_before, held_after = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Trial(np.expm1(before), np.expm1(after), np.expm1(ratio), held_before, held_after)


def held_to(found: Sequence[Deployment], prior: Prior, level: float = 0.8) -> Prior:
    """Return the prior, noise included, scaled until its intervals hold ``level`` of the points that were not given.

    Scaling both leaves every corrected value as it is and changes the intervals alone. Each deployment counts once, so that
    a long sweep does not decide.

    Source: split conformal prediction (Lei et al. 2018, arXiv 1604.04173) with normalised residuals.
    """
    score: list[float] = []
    for each in found:
        p, measured, index = each.group.points, each.group.measured_s, middle(each)
        noise = prior.noise_of(each.metric)
        known = posterior(p.take([index]), measured[[index]], prior, np.array([noise]))
        changed = with_effects(p, known.mean)
        off = np.log(changed.seconds.sum(axis=0) / measured) / log_sd(changed, known.covariance, noise)
        score.append(float(np.quantile(np.abs(np.delete(off, index)), level)))
    factor = float(np.mean(np.clip(score, 0.0, 4 * np.median(score)))) / Z80
    return Prior(prior.log_sd * factor, prior.noise * factor, prior.loaded_noise)

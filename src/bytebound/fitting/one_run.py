"""One run calibrates: measured points of a deployment in, a correction of its predictions out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from bytebound.documents.correction import CorrectedPoint, Correction, Effect, Outlook
from bytebound.documents.values import Interval, Provenance
from bytebound.documents.work import Serve, check_range
from bytebound.errors import RequestError
from bytebound.fitting.plausible import Point, bound_of, check_physics, metric_of, warnings_of
from bytebound.fitting.posterior import Posterior, Prior, posterior, shipped_prior, stacked
from bytebound.predict.calibrated import calibrated
from bytebound.predict.corrected import corrected, deployment_of
from bytebound.predict.estimate import check_degrees, settle
from bytebound.predict.parts import EFFECTS, LOADED, Z80, Parted, log_sd, most_spread, parted, surprise
from bytebound.predict.scaled import scaled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.calibration import Calibration
    from bytebound.documents.device import Machine
    from bytebound.documents.values import Number
    from bytebound.predict.estimate import Setting

    Array = NDArray[Any]

WIDEST = 4.0
"""Where the predictions' own interval is wider than the prior, far from evidence, the prior widens to it, up to this (assumed)."""


def correct(
    model: str | Architecture, machine: str | Machine, work: Serve, measured: Mapping[str, Number], *,
    source: str = "given by hand", engine_version: str = "", calibration: Calibration | None = None,
) -> Correction:  # fmt: skip
    """Return what measured numbers of one deployment say about its costs.

    Args:
        model: as for ``estimate``.
        machine: as for ``estimate``.
        work: the deployment and what was asked; batch and lengths may be arrays.
        measured: metric -> value in SI units, of the shape of ``work``: tpot_s, ttft_s, request_s [s],
            decode_tokens_per_s, prefill_tokens_per_s, tokens_per_s, total_tokens_per_s, requests_per_s [1/s]. TTFT at a
            batch above one includes waiting.
        source: where the numbers are from, for the record.
        engine_version: the version that ran, for the record.
        calibration: the probes the predictions start from, where they do.

    Raises:
        UnknownNameError, DocumentError, QuantityError: the request could not be understood.
        RequestError: several deployments at once, nothing measured, or faster than physics allows.

    Example:
        >>> import bytebound as bb
        >>> found = bb.correct("llama-3.1-8b", "h100-sxm", bb.Serve(batch=8), {"tpot_s": 0.0091})
        >>> found.points[0].before.value < found.points[0].after.value < 0.0092
        True
    """
    shape = work.shape
    points = []
    for metric, given in measured.items():
        values = np.broadcast_to(np.asarray(given, dtype=float), shape).ravel() if shape else np.atleast_1d(given)
        for index, value in enumerate(np.asarray(values, dtype=float)):
            points.append(Point(metric, float(value), _one(work, index), source))
    setting = based(model, machine, points[0].work if points else work, calibration)
    return correct_points(setting, points, engine_version=engine_version)


def based(
    model: str | Architecture, machine: str | Machine, work: Serve, calibration: Calibration | None = None, *,
    version: str = "", era: str = "",
) -> Setting:  # fmt: skip
    """Return the setting whose predictions are corrected: as ``estimate`` makes it, of an engine's version and era."""
    setting = settle(model, machine, work.engine, version=version, era=era)
    weights = str(work.weights)
    return calibrated(setting, calibration, weights) if calibration else scaled(setting, weights, work.attention)


def correct_points(
    setting: Setting, points: Sequence[Point], *, prior: Prior | None = None, engine_version: str = ""
) -> Correction:
    """Return the correction that ``points``, all of one deployment on ``setting``, ask for.

    Raises:
        RequestError: no points, several deployments, or a value faster than the physical floor.
        QuantityError: a value that is not a positive number.
    """
    if not points:
        raise RequestError(
            "nothing measured was given", place="measured", mend='give one number, such as {"tpot_s": 0.012}'
        )
    deployments = [deployment_of(setting, point.work) for point in points]
    for point, found in zip(points, deployments, strict=True):
        check_range(point.metric, point.value, 1e-12, 1e12)
        check_degrees(setting, point.work)
        if found != deployments[0]:
            name = next(key for key in found if found[key] != deployments[0][key])
            raise RequestError(
                f"the points differ in {name}; a correction is of one deployment", place=name, mend="give each its own"
            )
    named = [setting.answer(point.work) for point in points]
    parts = [_parts(values, point) for values, point in zip(named, points, strict=True)]
    times = [_seconds(p, point.value) for p, point in zip(parts, points, strict=True)]
    for values, p, point, time in zip(named, parts, points, times, strict=True):
        check_physics(values, p, point, time)
    together = stacked(parts)
    spreads = [base_spread(setting, point.metric) for point in points]
    prior = fitted_to(prior or shipped_prior(), together, np.log(spreads) / Z80)
    own = [prior.noise_of(metric_of(point)) for point in points]
    spreads = [
        spread
        if metric_of(point) != LOADED
        else max(spread, float(np.exp(Z80 * log_sd(p, np.diag(prior.log_sd**2), each)[0])))
        for point, p, spread, each in zip(points, parts, spreads, own, strict=True)
    ]  # waiting is no part of the interval of an unloaded first token
    noise = np.hypot(own, [point.noise for point in points])
    found_ = posterior(together, np.array(times), prior, noise)
    surprised = surprise(
        np.array([point.value for point in points]), np.array([float(p.value[0]) for p in parts]), np.array(spreads)
    )
    after = [
        _after(values, point, found_, each, most_spread(spread, surprised))
        for values, point, each, spread in zip(named, points, own, spreads, strict=True)
    ]
    effects = tuple(
        Effect(name, float(found_.mean[i]), float(np.sqrt(max(found_.covariance[i, i], 0.0))), float(prior.log_sd[i]))
        for i, name in enumerate(EFFECTS)
    )
    return Correction(
        id=f"corr-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:6]}",
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("bytebound"),
        model=setting.architecture.name,
        machine=setting.machine.device.id,
        engine=setting.engine.name,
        engine_version=engine_version,
        deployment=deployments[0],
        grade=setting.grade,
        effects=effects,
        covariance=tuple(tuple(float(x) for x in row) for row in found_.covariance),
        noise=prior.noise,
        points=tuple(
            CorrectedPoint(
                point.metric, _asked(point.work), point.value,
                Interval(float(p.value[0]), float(p.value[0] / spread), float(p.value[0] * spread)),
                each, bound_of(values, p), point.source,
            )
            for values, p, point, spread, each in zip(named, parts, points, spreads, after, strict=True)
        ),
        outlook=_outlook(setting, points[0].work, found_, prior.noise, surprised),
        warnings=warnings_of(points, parts, times, effects, prior),
        provenance=(
            Provenance("measured points", "measured", "; ".join(dict.fromkeys(point.source for point in points if point.source)) or "not stated"),
            *_prior_provenance(),
        ),
    )  # fmt: skip


def base_spread(setting: Setting, metric: str) -> float:
    """Return the factor by which the uncorrected prediction's interval reaches to both sides."""
    first = metric in {"ttft_s", LOADED, "prefill_tokens_per_s"}
    return setting.evidence.ttft_spread if first else setting.evidence.tpot_spread


def _one(work: Serve, index: int) -> Serve:
    """Return request ``index`` of ``work`` as scalars."""
    if not work.shape:
        return work
    picked: dict[str, Any] = {}
    for name in Serve.__dataclass_fields__:
        value = getattr(work, name)
        if np.ndim(value):
            picked[name] = np.broadcast_to(value, work.shape).ravel()[index].item()
    return replace(work, **picked)


def _parts(named: Mapping[str, Array], point: Point) -> Parted:
    """Return the parts of what was measured."""
    p = parted(named, point.work, metric_of(point))
    if not np.isfinite(p.value[0]):
        raise RequestError(
            "the measured request does not fit on this machine by our count of its memory",
            place="machine", mend="check devices, tp, weight and KV formats; `bytebound fit` says what fits",
        )  # fmt: skip
    return p


def _seconds(p: Parted, value: float) -> float:
    return value if p.amount is None else float(p.amount[0]) / value


def fitted_to(prior: Prior, points: Parted, base_sd: Array) -> Prior:
    """Return the prior at least as wide, at the points, as the intervals the predictions carry (``base_sd``, in logarithms)."""
    ours = log_sd(points, np.diag(prior.log_sd**2), 0.0)
    wanted = np.sqrt(np.maximum(base_sd**2 - prior.noise**2, (prior.noise / 2) ** 2))
    return prior.widened(float(np.clip(np.sqrt(np.mean(wanted**2) / np.mean(ours**2)), 1.0, WIDEST)))


def interval(
    named: Mapping[str, Array], p: Parted, covariance: Array, noise: float, most: float = float("inf")
) -> Interval:
    """Return the 80 % interval of a corrected metric; not under its physical floor, nor wider than ×/÷ ``most``."""
    value = float(p.value[0])
    spread = min(float(np.exp(Z80 * log_sd(p, covariance, noise)[0])), most)
    low, high, bound = value / spread, value * spread, bound_of(named, p)
    if p.amount is None:
        return Interval(value, min(max(low, bound), value), high)
    return Interval(value, low, max(min(high, bound), value))


def _after(named: Mapping[str, Array], point: Point, found: Posterior, noise: float, most: float) -> Interval:
    changed = corrected(named, found.mean, point.work)
    return interval(changed, parted(changed, point.work, metric_of(point)), found.covariance, noise, most)


def _outlook(setting: Setting, work: Serve, found: Posterior, noise: float, surprised: float) -> tuple[Outlook, ...]:
    """Return TPOT before and after at other batches of the same request, as far as they fit."""
    batch = float(np.max(work.batch))
    batches = np.unique(np.round([1, *(batch * 4.0 ** np.arange(-2, 4))]))
    batches = batches[(batches >= 1) & (batches <= 4096)]
    asked = replace(work, batch=batches)
    named = setting.answer(asked)
    changed = corrected(named, found.mean, asked)
    was, now = parted(named, asked, "tpot_s"), parted(changed, asked, "tpot_s")
    spread = base_spread(setting, "tpot_s")
    rows = []
    for i, size in enumerate(batches):
        if np.isfinite(was.value[i]):
            one = {name: values[i : i + 1] for name, values in changed.items()}
            value = float(was.value[i])
            rows.append(
                Outlook(
                    _asked(replace(work, batch=float(size))),
                    Interval(value, value / spread, value * spread),
                    interval(one, now.take(slice(i, i + 1)), found.covariance, noise, most_spread(spread, surprised)),
                )
            )
    return tuple(rows)


def _asked(work: Serve) -> dict[str, float | str]:
    return {
        "batch": float(np.max(work.batch)), "prompt": float(np.max(work.prompt)), "output": float(np.max(work.output)),
        "scheduling": work.scheduling,
    }  # fmt: skip


def _prior_provenance() -> tuple[Provenance, ...]:
    from bytebound.facts.correction_prior import correction_prior  # noqa: PLC0415

    return tuple(
        Provenance(f"{name}: ×/÷ {np.exp(each.log_sd):.2f} before the run", each.how, each.source)
        for name, each in correction_prior().items()
    )


__all__ = ["Point", "base_spread", "based", "correct", "correct_points", "fitted_to", "interval"]

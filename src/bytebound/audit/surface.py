"""What one request costs in device-seconds, over a grid of context growth, model growth and model error.

The ledger is run once on the grid; thousands of draws then interpolate. A grid axis that does not vary has one point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.work import Serve, Train
from bytebound.plan.case import Today
from bytebound.plan.today import batches, serving_today
from bytebound.predict.roofline import TIME_RESOURCES
from bytebound.predict.train_memory import LEVEL_Z, bounds
from bytebound.predict.training import train_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.plan.case import Case

    Array = NDArray[Any]

CAPACITY, BANDWIDTH, COMPUTING, LINKS, OVERHEADS, OBJECTIVE = range(6)
LIMITS = ("capacity", "memory-bandwidth", "compute", "links", "overhead", "objective")
TRAINING_PARTS = (
    ("memory", "optimizer"),
    ("compute", "recompute"),
    ("scale_up_link", "scale_out_link", "host_link"),
    ("bubble", "overhead"),
)
"""Parts of a training step by what they wait for: bandwidth, compute, links, and overhead, a pipeline's bubble among it."""
_OF_TIME = np.array([BANDWIDTH, BANDWIDTH, BANDWIDTH, COMPUTING, LINKS, LINKS, LINKS, OVERHEADS])


@dataclass(frozen=True, slots=True)
class Axes:
    """Grid points of the three factors (each ascending, at least one point)."""

    context: Array
    model: Array
    error: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Points per axis."""
        return len(self.context), len(self.model), len(self.error)


@dataclass(frozen=True, slots=True)
class Surface:
    """Over the grid: device-seconds per unit of demand (inf where nothing meets the objective), what limits, and in use.

    ``use`` (5, context, model, error) is the share of a busy replica's capacity, bandwidth, compute, links and host time.
    """

    axes: Axes
    device_s: Array
    limit: NDArray[np.int64]
    use: Array
    batch: Array

    def at(self, context: Array, model: Array, error: Array) -> tuple[Array, NDArray[np.int64]]:
        """Return (device-seconds, limit) at broadcast factors: log-linear between points, the limit from the nearest."""
        weights, cells = zip(
            *(
                _place(axis, value)
                for axis, value in ((self.axes.context, context), (self.axes.model, model), (self.axes.error, error))
            ),
            strict=True,
        )
        shape = np.broadcast_shapes(*(cell.shape for cell in cells))
        finite = np.isfinite(self.device_s)
        logs = np.log(np.where(finite, self.device_s, 1.0))
        total, known = np.zeros(shape), np.zeros(shape)
        for corner in np.ndindex(*(min(2, size) for size in self.axes.shape)):
            weight = np.ones(())
            index = []
            for step, w, cell, size in zip(corner, weights, cells, self.axes.shape, strict=True):
                weight = weight * (w if step else 1 - w)
                index.append(np.minimum(cell + step, size - 1))
            spot = tuple(index)
            weight = np.where(finite[spot], weight, 0.0)
            total, known = total + weight * logs[spot], known + weight
        near = tuple(
            np.minimum(cell + (w > 0.5), size - 1)
            for w, cell, size in zip(weights, cells, self.axes.shape, strict=True)
        )
        seconds = np.exp(total / np.maximum(known, 1e-300))
        return np.where(finite[near], seconds, np.inf), self.limit[near]

    def use_at(self, context: Array, model: Array, error: Array) -> Array:
        """Return the share of a busy replica's resources in use at broadcast factors, (5, ...), from the nearest point."""
        near = []
        for axis, value in ((self.axes.context, context), (self.axes.model, model), (self.axes.error, error)):
            weight, cell = _place(axis, value)
            near.append(np.minimum(cell + (weight > 0.5), len(axis) - 1))
        return np.asarray(self.use[:, near[0], near[1], near[2]])


def _place(axis: Array, value: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return (weight of the upper neighbour, index of the lower one) on a log axis, clamped to its ends."""
    if len(axis) == 1:
        return np.zeros(()), np.zeros((), dtype=np.int64)
    logs, x = np.log(axis), np.log(value)
    cell = np.clip(np.searchsorted(logs, x, side="right") - 1, 0, len(axis) - 2)
    return np.clip((x - logs[cell]) / (logs[cell + 1] - logs[cell]), 0.0, 1.0), cell


def error_sigma(case: Case) -> float:
    """Return the standard deviation of the logarithm of the model's own time error."""
    if isinstance(case.work, Train):
        return float(np.log(np.max(train_time(case.setting, case.work).spread)) / LEVEL_Z)
    return float(np.log(case.setting.evidence.tpot_spread) / LEVEL_Z)


def surface(case: Case, axes: Axes) -> Surface:
    """Return the surface of a case."""
    return (
        _train_surface(case, case.work, axes) if isinstance(case.work, Train) else _serve_surface(case, case.work, axes)
    )


def grid_answers(case: Case, work: Serve, axes: Axes) -> tuple[dict[str, Array], Array]:
    """Return every number on (context, model, batch), and the batches."""
    tried = np.ones(1) if case.kind == "edge" else batches(case.batch_limit)
    grown = replace(
        work,
        prompt=np.maximum(np.round(np.asarray(work.prompt) * axes.context), 1)[:, None, None],
        model_scale=axes.model[None, :, None],
        batch=tried[None, None, :],
    )
    shape = (len(axes.context), len(axes.model), len(tried))
    return {name: value.reshape(shape) for name, value in case.setting.answer(grown).items()}, tried


def _serve_surface(case: Case, work: Serve, axes: Axes) -> Surface:
    named, tried = grid_answers(case, work, axes)
    error = axes.error[None, None, :, None]
    fits = (named["fits"] > 0)[:, :, None, :]
    meets = np.ones((), dtype=bool)
    margin = np.full((1, 1, 1, 1), np.inf)
    for bound, name in (
        (case.objective.ttft, "ttft_s" if case.kind == "edge" else "ttft_loaded_s"),
        (case.objective.tpot, "tpot_s"),
        (case.objective.request, "request_s"),
    ):
        if bound is not None and not bool(np.all(np.isnan(named[name][named["fits"] > 0]))):
            took = named[name][:, :, None, :] * error
            meets = meets & (took <= bound)
            margin = np.minimum(margin, bound / took)
    per_request = {"decoder": work.output, "encoder": grown_prompt(work, axes), "denoiser": 1.0}[
        case.setting.table.kind
    ]
    rate = named["tokens_per_s"][:, :, None, :] / per_request / error
    if case.kind == "edge":
        room = (named["usable_bytes"] / named["total_bytes"])[:, :, None, :]
        score = np.where(fits, np.where(np.isfinite(margin), margin, rate), room * 1e-3)
        allowed = np.broadcast_to(np.ones((), dtype=bool), score.shape)
        cost = 1.0
    else:
        allowed = np.broadcast_to(fits & meets, np.broadcast_shapes(rate.shape, fits.shape, meets.shape))
        score = np.where(allowed, np.broadcast_to(rate, allowed.shape), 0.0)
        cost = float(case.devices_per_replica)
    best = np.nan_to_num(score, nan=0.0).argmax(axis=3)
    top = np.take_along_axis(np.nan_to_num(score, nan=0.0), best[..., None], axis=3)[..., 0]
    with np.errstate(divide="ignore"):
        device_s = np.where(top > 0, cost / top, np.inf)
    pick = best  # [context, model, error]
    if case.kind == "edge":
        named = named | deciding_shares(case, named)
    share = np.stack([_picked(named[f"share.{index}"], pick) for index in range(len(TIME_RESOURCES))])
    by_limit = np.stack([share[code == _OF_TIME].sum(axis=0) for code in (BANDWIDTH, COMPUTING, LINKS, OVERHEADS)])
    held = _picked(named["total_bytes"] / named["usable_bytes"], pick)
    limit = by_limit.argmax(axis=0) + BANDWIDTH
    stopped = _stopped_by_memory(np.broadcast_to(fits, allowed.shape), best, len(tried))
    limit = np.where(stopped, CAPACITY, limit)
    any_fit = np.broadcast_to(fits, allowed.shape).any(axis=3)
    limit = np.where(any_fit, np.where(device_s == np.inf, OBJECTIVE, limit), CAPACITY)
    if case.kind == "edge":
        limit = np.where(any_fit, limit, CAPACITY)
    use = np.concatenate([held[None], by_limit])
    return Surface(axes, device_s, limit.astype(np.int64), np.nan_to_num(use, nan=1.0), tried[pick])


def deciding_shares(case: Case, named: dict[str, Array]) -> dict[str, Array]:
    """Return the shares of time of the phase whose objective is tighter: prefill for TTFT, decoding for TPOT.

    One user waits for one thing at a time; what starves the device is what makes the tighter promise late.
    """
    if case.setting.table.kind == "denoiser":
        return {}  # its first answer is its whole answer
    first = (case.objective.ttft or np.inf) / named["ttft_s"]
    each = (case.objective.tpot or np.inf) / named["tpot_s"]
    whole = (case.objective.request or np.inf) / named["request_s"]
    prefill, decode = (first <= each) & (first <= whole), (each < first) & (each <= whole)
    return {
        f"share.{i}": np.where(
            prefill, named[f"prefill.share.{i}"], np.where(decode, named[f"decode.share.{i}"], named[f"share.{i}"])
        )
        for i in range(len(TIME_RESOURCES))
    }


def grown_prompt(work: Serve, axes: Axes) -> Array:
    """Return prompt tokens along the context axis, (context, 1, 1, 1)."""
    return np.maximum(np.round(np.asarray(work.prompt) * axes.context), 1)[:, None, None, None]


def _picked(values: Array, pick: NDArray[np.int64]) -> Array:
    return np.take_along_axis(
        np.broadcast_to(values[:, :, None, :], (*pick.shape, values.shape[-1])), pick[..., None], axis=3
    )[..., 0]


def _stopped_by_memory(fits: NDArray[np.bool_], best: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Return where the next larger batch would not fit: memory, not time, ends the climb."""
    following = np.minimum(best + 1, count - 1)
    return np.asarray((best + 1 < count) & ~np.take_along_axis(fits, following[..., None], axis=3)[..., 0])


def _train_surface(case: Case, work: Train, axes: Axes) -> Surface:
    """Return the surface of a training job: what it holds varies with the same quantile of the draw as its time.

    That a job slower than predicted also holds more is assumed; each of the two errors keeps its own spread.
    """
    cp = int(np.max(work.cp))
    longer = np.maximum(np.round(np.asarray(work.seq) * axes.context / cp) * cp, cp)
    timed = train_time(case.setting, replace(work, seq=longer[:, None], model_scale=axes.model[None, :]))
    error = axes.error[None, None, :]
    z = np.log(error) / max(error_sigma(case), 1e-9)
    low, high = bounds(timed)
    total = timed.total_bytes[..., None]
    held = total + z / LEVEL_Z * np.where(z > 0, high[..., None] - total, total - low[..., None])
    usable = timed.usable_bytes[..., None]
    per_device = timed.tokens_per_s / case.devices_per_replica
    device_s = np.where(held <= usable, error / per_device[..., None], np.inf)
    spent = [sum(timed.parts[name] for name in names) / timed.step_s for names in TRAINING_PARTS]
    shares = np.broadcast_arrays(held / usable, *(share[..., None] for share in spent))
    use = np.broadcast_to(np.stack(shares), (len(shares), *axes.shape))
    limit = np.where(np.isfinite(device_s), use[1:].argmax(axis=0) + BANDWIDTH, CAPACITY)
    return Surface(
        axes,
        np.broadcast_to(device_s, axes.shape),
        limit.astype(np.int64),
        use,
        np.broadcast_to(np.asarray(float(work.micro_batch)), axes.shape),
    )


def today(case: Case, found: Surface) -> Today:
    """Return today's numbers at the best batch (every factor nearest 1)."""
    spot = tuple(
        int(np.abs(np.log(axis)).argmin()) for axis in (found.axes.context, found.axes.model, found.axes.error)
    )
    limited = int(found.limit[spot]) == CAPACITY
    if isinstance(case.work, Train):
        use = found.use[:, spot[0], spot[1], spot[2]]
        return Today(1.0, 0.0, 0.0, float(use[COMPUTING]), limited, 0.0, 0.0)
    return serving_today(case.setting, case.work, batch=max(float(found.batch[spot]), 1.0), limited=limited)

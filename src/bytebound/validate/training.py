"""Predicted beside measured training runs: step times, memory by what it counts, and whether they fit."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.training_validation import (
    KINDS,
    SHOWN_KEYS,
    Outcomes,
    TrainingMiss,
    TrainingPoints,
    TrainingScore,
    TrainingValidation,
)
from bytebound.documents.values import Provenance
from bytebound.documents.work import Train
from bytebound.errors import RequestError
from bytebound.facts.training_reserves import find_training_reserve
from bytebound.fitting.training import setting_of
from bytebound.ledger import training_plan
from bytebound.predict.training import train_time
from bytebound.truth.training_sources import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.train_truth import TrainTruth
    from bytebound.documents.training_validation import TrainingProtocol
    from bytebound.predict.estimate import Setting
    from bytebound.predict.training import TrainingTime

    Array = NDArray[np.float64]

TIMES = ("step_s", "tokens_per_s_per_device", "flop_per_s_per_device", "mfu")
"""Metrics that say a step time, best first: of a run one counts, the others repeat it."""

MEMORY = ("allocated_bytes", "reserved_bytes", "device_bytes")
WORDS = tuple(f.name for f in fields(Train) if isinstance(getattr(Train(), f.name), str))


@dataclass(frozen=True, slots=True)
class TrainAnswers:
    """Predictions of rows, (rows,): seconds per step or bytes, NaN where nothing is said; ``measured`` in the same unit.

    ``said_fits`` is 1 or 0 for rows of ``fits``. ``refused`` is why our plan check refuses a row, else an empty string.
    """

    measured: Array
    value: Array
    low: Array
    high: Array
    said_fits: Array
    refused: tuple[str, ...]


def one_per_run(rows: Sequence[TrainTruth]) -> tuple[TrainTruth, ...]:
    """Return the rows without those that repeat their run's time: of ``TIMES`` the first a run has stays."""
    best: dict[str, TrainTruth] = {}
    for row in rows:
        if row.metric in TIMES and (row.run not in best or TIMES.index(row.metric) < TIMES.index(best[row.run].metric)):
            best[row.run] = row
    return tuple(row for row in rows if row.metric not in TIMES or best[row.run] is row)


def alike(rows: Sequence[TrainTruth]) -> Iterator[tuple[Setting, Train, NDArray[np.int64]]]:
    """Yield the rows as array requests: those of one model, device and wording together, with where they stand."""
    grouped: dict[tuple[Any, ...], list[int]] = {}
    for at, row in enumerate(rows):
        key = (
            row.shape,
            row.device,
            row.per_node,
            NETWORKS.get(row.source),
            *(getattr(row.work, name) for name in WORDS),
        )
        grouped.setdefault(key, []).append(at)
    for found in grouped.values():
        first = rows[found[0]]
        numbers: dict[str, Any] = {
            f.name: np.array([getattr(rows[at].work, f.name) for at in found])
            for f in fields(Train) if f.name not in WORDS
        }  # fmt: skip
        yield setting_of([rows[at] for at in found]), replace(first.work, **numbers), np.array(found)


def predicted_training(rows: Sequence[TrainTruth]) -> TrainAnswers:
    """Return what we predict of measured rows.

    Rates and utilisations become seconds per step under their own convention, so that one figure judges them all.
    """
    count = len(rows)
    refused = [refusal(row) for row in rows]
    measured, value, low, high, said = (np.full(count, np.nan) for _ in range(5))
    able = [at for at, why in enumerate(refused) if not why]
    for setting, work, found in alike([rows[at] for at in able]):
        where = np.array(able)[found]
        timed = train_time(setting, training_plan.resolve(work, setting.table))
        ends = {kind: memory_of(timed, kind) for kind in MEMORY}
        for metric in {rows[at].metric for at in where}:
            here = [i for i, at in enumerate(where) if rows[at].metric == metric]
            at = where[here]
            numbers = np.array([rows[i].value for i in at])
            if metric == "fits":
                said[at] = np.broadcast_to(timed.fits, len(where))[here]
                measured[at] = numbers
                continue
            if metric in MEMORY:
                middle, least, most = (np.broadcast_to(x, len(where))[here] for x in ends[metric])
                measured[at] = numbers
            else:
                middle = np.broadcast_to(timed.step_s, len(where))[here]
                spread = np.broadcast_to(timed.spread, len(where))[here]
                least, most = middle / spread, middle * spread
                per_step = amounts(timed, metric, [rows[i].basis for i in at], len(where))
                measured[at] = numbers if per_step is None else per_step[here] / numbers
            value[at], low[at], high[at] = middle, least, most
    return TrainAnswers(measured, value, low, high, said, tuple(refused))


def refusal(row: TrainTruth) -> str:
    """Return why our own plan check refuses a row, or an empty string."""
    from bytebound.ledger.table import compile_table  # noqa: PLC0415

    try:
        training_plan.check(row.work, row.architecture, compile_table(row.architecture), row.devices)
    except RequestError as error:
        return error.place or error.message
    return ""


def amounts(timed: TrainingTime, metric: str, bases: Sequence[str], count: int) -> Array | None:
    """Return what a device does per step in the unit of a rate, (rows,): tokens, FLOPs or peak-seconds; None for a step time.

    ``hardware``: all scores are counted, and what is recomputed is counted again (Narayanan et al. 2021, equation 3).
    """
    if metric == "step_s":
        return None
    if metric == "tokens_per_s_per_device":
        return np.broadcast_to(timed.tokens / timed.devices, count)
    (basis,) = set(bases)
    if basis == "hardware":
        flops = timed.flops_by_convention["full"] * timed.hardware_flops / timed.model_flops
    else:
        flops = timed.flops_by_convention[basis]
    each = np.broadcast_to(flops / timed.devices, count)
    return each / np.broadcast_to(timed.peak_flop_per_s, count) if metric == "mfu" else each


def memory_of(timed: TrainingTime, kind: str) -> tuple[Array, Array, Array]:
    """Return predicted bytes of the fullest device and their 80 % interval: allocated, held by the allocator, seen by the driver.

    The allocator holds no context and no buffers of links; the driver sees both.
    """
    held = timed.held
    allocated = held.allocated_bytes
    if kind == "allocated_bytes":
        return allocated, allocated / held.spread, allocated * held.spread
    if kind == "device_bytes":
        return held.total_bytes, held.low_bytes, held.high_bytes
    low, middle, high = (
        allocated * share for share in find_training_reserve(timed.ledger.job.work.framework).fragmentation
    )
    spread = allocated * (held.spread - 1)
    return middle, middle - np.hypot(spread, middle - low), middle + np.hypot(spread, high - middle)


def validate_training(
    rows: Sequence[TrainTruth], unread: Mapping[str, int] | None = None, *, protocol: TrainingProtocol = "fit",
    by: Sequence[str] = SHOWN_KEYS, worst: int = 20, left_out: Mapping[str, tuple[float, float]] | None = None,
) -> TrainingValidation:  # fmt: skip
    """Return how wrong predictions of training runs are.

    Args:
        rows: measured rows of any metric.
        unread: lines of the same files that are not among them, by reason.
        protocol: what the fit of step times may have seen; ``leave-one-source-out`` needs ``left_out``.
        by: columns to group by.
        worst: rows furthest off to list.
        left_out: row id -> log of predicted over measured step time, and log half-width of its interval, by fits that had not
            seen the row's publication.

    Raises:
        RequestError: no row can be predicted.
    """
    begun = time.perf_counter()
    once = one_per_run(rows)
    answers = predicted_training(once)
    value, low, high = answers.value.copy(), answers.low.copy(), answers.high.copy()
    if left_out is not None:
        for at, row in enumerate(once):
            if row.metric in TIMES:
                ratio, width = left_out.get(row.id, (math.nan, math.nan))
                value[at] = answers.measured[at] * math.exp(ratio)
                low[at], high[at] = value[at] / math.exp(width), value[at] * math.exp(width)
    kinds = np.array(["step_s" if row.metric in TIMES else row.metric for row in once])
    known = np.isfinite(value)
    if not known.any() and not np.isfinite(answers.said_fits).any():
        why = next((word for word in answers.refused if word), "no row is of a metric we predict")
        raise RequestError(f"no row can be predicted: {why}", place="--truth", mend="give rows whose plans can be")
    columns = {
        "source": [row.source for row in once], "device": [row.device for row in once],
        "framework": [row.work.framework for row in once], "precision": [row.work.precision for row in once],
        "model": [row.model for row in once], "metric": [row.metric for row in once],
        "recompute": [row.work.recompute for row in once], "trainable": [row.work.trainable for row in once],
    }  # fmt: skip
    keys = {name: np.array(values) for name, values in columns.items()}
    figures = (answers.measured, value, low, high)
    return TrainingValidation(
        when=datetime.now(tz=UTC).isoformat(timespec="seconds"), version=version("bytebound"), protocol=protocol,
        rows=len(rows) + sum((unread or {}).values()), groups=tuple(scores(keys, kinds, figures, by)),
        outcomes=outcomes(once, answers), points=points(once, kinds, figures), worst=misses(once, kinds, figures, worst),
        unread=dict(Counter(unread or {}).most_common()),
        refused=dict(Counter(why for why in answers.refused if why).most_common()),
        repeated=len(rows) - len(once), seconds=time.perf_counter() - begun,
        provenance=(Provenance("step times", "calibrated", "facts/data/training_shares.csv"),
                    Provenance("memory", "derived", "ledger.training_memory; reserves: facts/data/training_reserves.csv")),
    )  # fmt: skip


def scores(
    keys: Mapping[str, Any], kinds: Any, figures: tuple[Array, ...], by: Sequence[str]
) -> Iterator[TrainingScore]:
    """Yield the scores of every kind over all rows and in each group, largest group first."""
    known = np.isfinite(figures[1])
    for kind in KINDS:
        here = known & (kinds == kind)
        if not here.any():
            continue
        yield score("all", "", kind, here, figures)
        for key in by:
            names, counts = np.unique(keys[key][here], return_counts=True)
            for name, _ in sorted(zip(names, counts, strict=True), key=lambda pair: (-pair[1], pair[0])):
                yield score(key, str(name), kind, here & (keys[key] == name), figures)


def score(by: str, name: str, kind: str, here: NDArray[np.bool_], figures: tuple[Array, ...]) -> TrainingScore:
    """Return one group's score."""
    measured, value, low, high = (values[here] for values in figures)
    bias = value / measured - 1
    error = np.abs(bias)
    inside = (low <= measured) & (measured <= high)
    return TrainingScore(
        by, name, kind, int(here.sum()), float(np.median(error)), float(error.mean()), float(np.quantile(error, 0.9)),
        float(np.median(bias)), float(inside.mean()), float((error <= 0.25).mean()),
    )  # fmt: skip


def outcomes(rows: Sequence[TrainTruth], answers: TrainAnswers) -> Outcomes:
    """Return the confusion of fits and out of memory."""
    known = np.isfinite(answers.said_fits)
    ran = known & (np.array([row.metric == "fits" and row.value == 1 for row in rows]))
    failed = known & ~ran
    said = answers.said_fits == 1
    ids = np.array([row.id for row in rows])
    return Outcomes(
        int((ran & said).sum()), int((ran & ~said).sum()), int((failed & said).sum()), int((failed & ~said).sum()),
        tuple(ids[failed & said].tolist()), tuple(ids[ran & ~said].tolist()),
    )  # fmt: skip


def points(rows: Sequence[TrainTruth], kinds: Any, figures: tuple[Array, ...]) -> TrainingPoints:
    """Return the answered rows by column."""
    known: list[int] = np.flatnonzero(np.isfinite(figures[1])).tolist()
    chosen = [rows[at] for at in known]
    measured, value, low, high = (tuple(float(x) for x in values[known]) for values in figures)
    return TrainingPoints(
        tuple(r.id for r in chosen), tuple(r.source for r in chosen), tuple(r.device for r in chosen),
        tuple(r.work.framework for r in chosen), tuple(r.work.precision for r in chosen), tuple(r.model for r in chosen),
        tuple(str(k) for k in kinds[known]), tuple(work_words(r) for r in chosen), tuple(r.locator for r in chosen),
        measured, value, low, high,
    )  # fmt: skip


def misses(rows: Sequence[TrainTruth], kinds: Any, figures: tuple[Array, ...], count: int) -> tuple[TrainingMiss, ...]:
    """Return the rows furthest off."""
    measured, value, low, high = figures
    far = np.abs(np.log(value / measured))
    order = np.argsort(-np.nan_to_num(far, nan=-1.0))[:count]
    return tuple(
        TrainingMiss(
            rows[i].id, rows[i].source, rows[i].device, rows[i].model, str(kinds[i]), work_words(rows[i]), float(measured[i]),
            float(value[i]), float(low[i]), float(high[i]), float(value[i] / measured[i] - 1), rows[i].uncertain, rows[i].locator,
        )
        for i in map(int, order) if np.isfinite(far[i])
    )  # fmt: skip


def work_words(row: TrainTruth) -> str:
    """Return a plan in a few words."""
    w = row.work
    parts = [
        f"{w.framework}, {w.precision}",
        f"{row.devices} devices" if row.devices > 1 else "1 device",
        f"seq {w.seq:g}",
    ]
    parts.append(f"batch {w.global_batch:g} by {w.micro_batch:g}")
    parts += [f"{name} {getattr(w, name):g}" for name in ("tp", "pp", "cp", "ep") if getattr(w, name) > 1]
    parts += [f"{w.recompute} recompute"] if w.recompute != "none" else []
    return ", ".join([*parts, str(w.trainable)] if w.trainable != "full" else parts)

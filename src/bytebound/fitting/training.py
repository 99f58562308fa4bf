"""Fit what training attains to published training runs: penalised least squares on log step time.

Every offset has a prior width; the data pull it from there. Rows are weighted equally per source, residuals beyond ``NOISE`` count
linearly (Huber), and no parameter belongs to one source, model or row.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bytebound.documents.device import Machine
from bytebound.facts.calibration import Offset
from bytebound.facts.devices import find_device
from bytebound.facts.training_shares import NOISE, prior_sd
from bytebound.ledger.training import train_ledger
from bytebound.ledger.training_job import lay_out
from bytebound.predict.estimate import settle
from bytebound.predict.training import narrow_of
from bytebound.predict.training_attained import training_keys
from bytebound.predict.training_spread import log_sd, log_step, slopes
from bytebound.truth.training_sources import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.device import Device
    from bytebound.documents.train_truth import TrainTruth
    from bytebound.facts.calibration import Key
    from bytebound.ledger.training import TrainingLedger
    from bytebound.predict.estimate import Setting
    from bytebound.predict.roofline import Ceilings

    Array = NDArray[Any]

METRICS = ("step_s", "tokens_per_s_per_device", "flop_per_s_per_device", "mfu")
"""Metrics that are a step time, best first: one number of a run counts, the others repeat it."""
ENGINE = "vllm"
"""``settle`` wants a serving engine; training uses none of what it says."""
ROWS_PER_SOURCE = 20.0
"""Most weight one source may have, in rows."""
STEPS, SETTLED = 8, 1e-2
STEPS_PER_JACOBIAN = 4
"""Steps that share one matrix of derivatives; it costs two dozen predictions of every row."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Rows that share a model, a device and the words of their request: their ledger and measured seconds."""

    rows: tuple[TrainTruth, ...]
    index: NDArray[np.int64]
    ledger: TrainingLedger
    ceilings: Ceilings
    device: Device
    framework: str
    narrow: str
    measured_s: Array

    def predicted_s(self, fitted: Mapping[Key, Offset]) -> Array:
        """Return seconds per step, (rows,)."""
        log = log_step(
            self.ledger, self.ceilings, device=self.device, framework=self.framework, narrow=self.narrow, fitted=fitted
        )
        return np.asarray(np.broadcast_to(np.exp(log), len(self.rows)))

    def log_sd(self, fitted: Mapping[Key, Offset]) -> Array:
        """Return the standard deviation of the logarithm of what ``predicted_s`` says, (rows,)."""
        sd = log_sd(
            self.ledger, self.ceilings, device=self.device, framework=self.framework, narrow=self.narrow, fitted=fitted
        )
        return np.asarray(np.broadcast_to(sd, len(self.rows)))


def one_per_run(rows: Sequence[TrainTruth]) -> tuple[TrainTruth, ...]:
    """Return the rows that are a time, one per run: the first of ``METRICS`` it has."""
    best: dict[str, TrainTruth] = {}
    for row in rows:
        if row.metric in METRICS and (
            row.run not in best or METRICS.index(row.metric) < METRICS.index(best[row.run].metric)
        ):
            best[row.run] = row
    return tuple(best.values())


def cases(rows: Sequence[TrainTruth]) -> tuple[Case, ...]:
    """Return the rows grouped so that each group is one array request."""
    grouped: dict[tuple[Any, ...], list[int]] = {}
    for at, row in enumerate(rows):
        words = tuple(v for f in fields(row.work) if isinstance(v := getattr(row.work, f.name), str))
        grouped.setdefault((row.architecture, row.device, row.per_node, NETWORKS.get(row.source), words), []).append(at)
    return tuple(_case([rows[at] for at in found], found) for found in grouped.values())


def setting_of(rows: Sequence[TrainTruth]) -> Setting:
    """Return the model and the machine of rows of one publication, model and device: large enough for each, with its cluster's network."""
    first = rows[0]
    nodes = max(math.ceil(max(row.devices for row in rows) / first.per_node), 1)
    machine = Machine(name=first.device, device=find_device(first.device), per_node=first.per_node, nodes=nodes)
    setting = settle(first.architecture, machine, ENGINE)
    own = NETWORKS.get(first.source)
    return (
        replace(setting, ceilings=replace(setting.ceilings, scaleout_bytes_per_s=np.full(1, own))) if own else setting
    )


def _case(rows: list[TrainTruth], index: list[int]) -> Case:
    first, setting = rows[0], setting_of(rows)
    numbers = {
        f.name: np.array([float(getattr(row.work, f.name)) for row in rows])
        for f in fields(first.work) if not isinstance(getattr(first.work, f.name), str)
    }  # fmt: skip
    work = replace(first.work, **cast("dict[str, Any]", numbers))
    narrow = narrow_of(setting, work)
    job = lay_out(setting.table, work, narrow)
    ledger = train_ledger(setting.table, job)
    c, device = setting.ceilings, setting.machine.device
    peak = float(c.flop_per_s[1])
    replicas = job.dp * job.microbatches
    passes = 3.0 if job.work.trainable == "full" else 2.0

    def seconds(row: TrainTruth, at: int) -> float:
        def one(value: Array) -> float:
            return float(np.broadcast_to(value, len(rows))[at])

        devices = one(job.devices)
        if row.metric == "step_s":
            return row.value
        if row.metric == "tokens_per_s_per_device":
            return one(job.seq * job.micro * replicas) / (row.value * devices)
        rate = row.value * (peak if row.metric == "mfu" else 1.0)
        if row.basis == "hardware":
            return one((passes * ledger.flops.under("full") + 1.0 * ledger.flops.again) * replicas) / (rate * devices)
        return one(passes * ledger.flops.under(row.basis or "causal") * replicas) / (rate * devices)

    return Case(
        tuple(rows), np.array(index), ledger, c, device, job.work.framework, narrow,
        np.array([seconds(row, at) for at, row in enumerate(rows)]),
    )  # fmt: skip


def keys_of(case: Case) -> tuple[Key, ...]:
    """Return the offsets a case's prediction depends on."""
    return tuple(key for own in training_keys(case.device, case.framework, case.narrow).values() for key in own)


def fit_training(found: Sequence[Case], *, source: str = "", date: str = "") -> dict[Key, Offset]:
    """Return the offsets that fit ``found`` best under their priors, with their standard deviations.

    Gauss-Newton with Huber weights and halved steps; a case is timed again only for the offsets it depends on.
    """
    owners = [keys_of(case) for case in found]
    keys = tuple(dict.fromkeys(key for own in owners for key in own))
    sds = np.array([prior_sd(key) for key in keys])
    weight = source_weights([row for case in found for row in case.rows])
    measured = np.log(np.concatenate([case.measured_s for case in found]))

    def residual(x: Array) -> Array:
        told = _offsets(keys, x)
        return np.asarray(np.log(np.concatenate([case.predicted_s(told) for case in found])) - measured)

    def cost(r: Array, x: Array) -> float:
        size = np.abs(r) / NOISE
        return float((weight * np.where(size <= 1, size**2, 2 * size - 1)).sum() + ((x / sds) ** 2).sum())

    x = np.zeros(len(keys))
    r = residual(x)
    jacobian = np.zeros((len(r), len(keys)))
    hessian = np.diag(1 / sds**2)
    for count in range(STEPS):
        if count % STEPS_PER_JACOBIAN == 0:
            jacobian = _jacobian(found, owners, keys, x)
        w = weight / (NOISE**2 * np.maximum(np.abs(r) / NOISE, 1.0))
        hessian = (jacobian * w[:, None]).T @ jacobian + np.diag(1 / sds**2)
        step = -np.linalg.solve(hessian, jacobian.T @ (w * r) + x / sds**2)
        step *= min(1.0, 1.0 / max(float(np.abs(step).max()), 1e-12))
        tried = residual(x + step)
        while np.abs(step).max() > SETTLED and cost(tried, x + step) > cost(r, x):
            step /= 2
            tried = residual(x + step)
        x, r = x + step, tried
        if np.abs(step).max() <= SETTLED:
            break
    width = np.sqrt(np.diag(np.linalg.inv(hessian)))
    seen = dict.fromkeys(keys, 0)
    for case, own in zip(found, owners, strict=True):
        for key in own:
            seen[key] += len(case.rows)
    return {key: Offset(float(x[i]), float(width[i]), seen[key], source, date) for i, key in enumerate(keys)}


def _offsets(keys: tuple[Key, ...], x: Array) -> dict[Key, Offset]:
    return {key: Offset(float(value), 0.0, 0, "", "") for key, value in zip(keys, x, strict=True)}


def _jacobian(found: Sequence[Case], owners: Sequence[tuple[Key, ...]], keys: tuple[Key, ...], x: Array) -> Array:
    """Return the derivative of every row's log time by every offset, (rows, keys)."""
    at = {key: index for index, key in enumerate(keys)}
    told = _offsets(keys, x)
    rows = []
    for case, own in zip(found, owners, strict=True):
        part = np.zeros((len(case.rows), len(keys)))
        part[:, [at[key] for key in own]] = _slopes(case, own, told) if x.any() else _first_slopes(case)
        rows.append(part)
    return np.concatenate(rows)


@lru_cache(maxsize=4096)
def _first_slopes(case: Case) -> Array:
    """Return the derivatives before any fit, which every fit starts from."""
    own = keys_of(case)
    return _slopes(case, own, _offsets(own, np.zeros(len(own))))


def _slopes(case: Case, own: tuple[Key, ...], told: Mapping[Key, Offset]) -> Array:
    """Return the derivatives of a case's rows by ``own`` offsets, (rows, offsets): those of one quantity add, so theirs are equal."""
    found = slopes(
        case.ledger, case.ceilings, device=case.device, framework=case.framework, narrow=case.narrow, fitted=told
    )
    of = {
        key: found[one] for one, keys in training_keys(case.device, case.framework, case.narrow).items() for key in keys
    }
    return np.stack([np.broadcast_to(of[key], len(case.rows)) for key in own], axis=1)


def source_weights(rows: Sequence[TrainTruth]) -> Array:
    """Return the weight of each row: sources of many rows count alike, those of few by their rows."""
    counts = Counter(row.source for row in rows)
    return np.array([min(ROWS_PER_SOURCE / counts[row.source], 1.0) for row in rows])

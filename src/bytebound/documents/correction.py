"""Correction: what one local run, or a few, say about one deployment."""

from __future__ import annotations

from dataclasses import dataclass, field

from bytebound.documents.values import Interval, Provenance

CORRECTION_SCHEMA = "bytebound.correction/1"


@dataclass(frozen=True, slots=True)
class Effect:
    """One cost beside ours: ``exp(log_shift)`` times, with the standard deviations of its logarithm after and before the run."""

    name: str
    log_shift: float
    log_sd: float
    prior_log_sd: float


@dataclass(frozen=True, slots=True)
class CorrectedPoint:
    """One measured number: what was asked, what came out, and our prediction before and after it was known.

    Seconds or 1/s as ``metric`` says; ``floor`` is the least a time, or the most a rate, can physically be.
    """

    metric: str
    work: dict[str, float | str]
    measured: float
    before: Interval
    after: Interval
    floor: float
    source: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """What changes for a request that was not measured: time per output token before and after."""

    work: dict[str, float | str]
    before: Interval
    after: Interval


@dataclass(frozen=True, slots=True)
class Correction:
    """How the costs of one deployment differ from ours, by resource, as drawn from measured points of it.

    A deployment is a model on a device under an engine, with the formats and parallel degrees in ``deployment``.
    ``covariance`` (effects, effects) is that of the logarithms after the run; ``noise`` the relative standard deviation
    that no effect explains. ``grade`` is how the predictions were made that were corrected.
    """

    id: str
    when: str
    version: str
    model: str
    machine: str
    engine: str
    engine_version: str
    deployment: dict[str, float | str]
    grade: str
    effects: tuple[Effect, ...]
    covariance: tuple[tuple[float, ...], ...]
    noise: float
    points: tuple[CorrectedPoint, ...]
    outlook: tuple[Outlook, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: tuple[Provenance, ...] = field(default=())
    schema_: str = CORRECTION_SCHEMA

"""Validation: our predictions beside public measurements, with how wrong they are by group and where they fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bytebound.documents.values import Provenance

VALIDATION_SCHEMA = "bytebound.validation/1"
BASELINE_SCHEMA = "bytebound.baseline/1"

Protocol = Literal["fit", "leave-one-device-out", "leave-one-model-out", "leave-one-engine-out", "leave-one-generation-out"]  # fmt: skip
PROTOCOLS: dict[str, str] = {
    "fit": "every row was seen by the fit",
    "leave-one-device-out": "each device was predicted by a fit that had seen none of its rows",
    "leave-one-model-out": "each model was predicted by a fit that had seen no row of it, nor of another of the same shape",
    "leave-one-engine-out": "each engine was predicted by a fit that had seen none of its rows",
    "leave-one-generation-out": "each hardware generation was predicted by a fit that had seen none of its rows",
}
"""Protocol -> what the fit behind a prediction had seen."""
KEYS = ("source", "device", "family", "engine", "model", "kind", "metric", "regime")
"""What rows can be grouped by."""


@dataclass(frozen=True, slots=True)
class Points:
    """Every answered row, by column; one entry a row in each, in the units of its metric.

    ``floor`` is the limit physics sets: no time is shorter and no rate higher. ``work`` is the deployment in words.
    """

    id: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    family: tuple[str, ...] = ()
    engine: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    metric: tuple[str, ...] = ()
    regime: tuple[str, ...] = ()
    work: tuple[str, ...] = ()
    locator: tuple[str, ...] = ()
    measured: tuple[float, ...] = ()
    predicted: tuple[float | None, ...] = ()
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    floor: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupScore:
    """How wrong predictions of one group are. None: nothing to judge by.

    Errors are ``|predicted / measured − 1|``; ``bias`` is the median of ``predicted / measured − 1``. ``coverage`` is the
    share of measurements inside their interval, ``within_25`` the share with an error of at most 25 %. Log errors are
    ``|ln(predicted / measured)|``. ``even_…`` weigh sources alike, then devices inside a source, then rows. ``noise_low``
    and ``noise_high`` hold 90 % of the medians of resampled deployments. ``baselines`` is the median error of simpler
    predictors on the same rows.
    """

    by: str  # one of KEYS, or all
    name: str
    metric: str  # empty: every metric of the group together
    rows: int
    median_error: float | None
    mean_error: float | None
    p90_error: float | None
    bias: float | None
    coverage: float | None
    within_25: float | None
    median_log_error: float | None
    p90_log_error: float | None
    even_median_log_error: float | None
    even_p90_log_error: float | None
    even_within_25: float | None
    noise_low: float | None
    noise_high: float | None
    deployments: int  # distinct source, device, engine and model among the rows
    unanswered: int = 0  # rows of the group without a prediction, in no figure above
    baselines: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorstRow:
    """One row that is far off, and why as far as we can tell. ``error`` is predicted / measured − 1."""

    id: str
    source: str
    device: str
    engine: str
    model: str
    metric: str
    regime: str
    work: str
    measured: float
    predicted: float
    low: float | None
    high: float | None
    floor: float | None
    error: float
    explanation: str
    locator: str


@dataclass(frozen=True, slots=True)
class Unread:
    """Rows that cannot be expressed, for one reason: how many, by source, and one of them in detail."""

    reason: str
    rows: int
    sources: dict[str, int] = field(default_factory=dict)
    example: str = ""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A measurement beyond what physics allows: a time under the floor, a rate above it."""

    id: str
    source: str
    device: str
    model: str
    metric: str
    measured: float
    floor: float
    why: str
    locator: str = ""


@dataclass(frozen=True, slots=True)
class Regression:
    """A group whose median error exceeds the committed one by more than noise. ``now`` is None where it has no rows."""

    by: str
    name: str
    metric: str
    committed: float
    allowed: float
    now: float | None
    rows_committed: int
    rows_now: int


@dataclass(frozen=True, slots=True)
class Validation:
    """Predicted beside measured, under one protocol; every figure can be recomputed from ``points``."""

    when: str
    version: str
    protocol: Protocol
    rows: int  # read, including those that cannot be expressed
    sources: dict[str, int]  # answered rows by source
    groups: tuple[GroupScore, ...]
    points: Points
    worst: tuple[WorstRow, ...] = ()
    unexpressed: tuple[Unread, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    regressions: tuple[Regression, ...] = ()
    truth: tuple[str, ...] = ()  # which tables were read
    level: float = 0.8  # of the intervals
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    provenance: tuple[Provenance, ...] = ()
    schema_: str = VALIDATION_SCHEMA


@dataclass(frozen=True, slots=True)
class CommittedScore:
    """What was committed of one group: its median error and the upper end of that median's noise."""

    by: str
    name: str
    metric: str
    rows: int
    median_error: float
    noise_high: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """Committed figures that later runs are compared with."""

    when: str
    version: str
    protocol: Protocol
    groups: tuple[CommittedScore, ...]
    schema_: str = BASELINE_SCHEMA

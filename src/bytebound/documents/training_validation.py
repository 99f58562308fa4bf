"""Training validation: predicted step times, memory and fits beside published runs. Schema ``bytebound.training-validation/1``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bytebound.documents.values import Provenance

TRAINING_VALIDATION_SCHEMA = "bytebound.training-validation/1"

TrainingProtocol = Literal["fit", "leave-one-source-out"]
TRAINING_PROTOCOLS: dict[str, str] = {
    "fit": "every row was seen by the fit of step times; memory is not fitted to rows",
    "leave-one-source-out": "step times of each publication were predicted by a fit that had seen none of its rows",
}
"""Protocol -> what the fit behind a predicted step time had seen."""

TRAINING_KEYS = ("source", "device", "framework", "precision", "model", "metric", "recompute", "trainable")
"""What rows can be grouped by: ``metric`` as published, before rates and utilisations become step times."""

SHOWN_KEYS = TRAINING_KEYS[:4]
"""What they are grouped by where nobody says."""

KINDS = {
    "step_s": "step time",
    "allocated_bytes": "allocated memory",
    "reserved_bytes": "reserved memory",
    "device_bytes": "memory the driver shows",
}
"""What is compared -> its name. Rates and utilisations are step times of their runs; a run's time counts once."""


@dataclass(frozen=True, slots=True)
class TrainingPoints:
    """Every answered row, by column; seconds per step or bytes of the fullest device."""

    id: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    framework: tuple[str, ...] = ()
    precision: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    work: tuple[str, ...] = ()
    locator: tuple[str, ...] = ()
    measured: tuple[float, ...] = ()
    predicted: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingScore:
    """How wrong predictions of one group are.

    Errors are ``|predicted / measured − 1|``; ``bias`` is the median of ``predicted / measured − 1``; ``coverage`` the share of
    measurements inside their 80 % interval.
    """

    by: str  # one of TRAINING_KEYS, or all
    name: str
    kind: str  # one of KINDS
    rows: int
    median_error: float
    mean_error: float
    p90_error: float
    bias: float
    coverage: float
    within_25: float


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Whether runs fitted, beside what we say: a false "fits" is the costly error.

    The four counts are measured outcome first: ``ran_said_oom`` fitted although we said it would not. ``false_fits`` and
    ``false_oom`` name those runs.
    """

    ran_said_fits: int = 0
    ran_said_oom: int = 0
    oom_said_fits: int = 0
    oom_said_oom: int = 0
    false_fits: tuple[str, ...] = ()
    false_oom: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingMiss:
    """One row that is far off; ``error`` is predicted / measured − 1."""

    id: str
    source: str
    device: str
    model: str
    kind: str
    work: str
    measured: float
    predicted: float
    low: float
    high: float
    error: float
    assumed: tuple[str, ...]
    locator: str


@dataclass(frozen=True, slots=True)
class TrainingValidation:
    """Predicted beside measured training runs, under one protocol.

    ``rows`` lines were read; ``unread`` counts by reason those that cannot be expressed, ``refused`` those our own plan check
    refuses, ``repeated`` those that repeat their run's time in another unit.
    """

    when: str
    version: str
    protocol: TrainingProtocol
    rows: int
    truth: tuple[str, ...] = ()
    groups: tuple[TrainingScore, ...] = ()
    outcomes: Outcomes = field(default_factory=Outcomes)
    points: TrainingPoints = field(default_factory=TrainingPoints)
    worst: tuple[TrainingMiss, ...] = ()
    unread: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    provenance: tuple[Provenance, ...] = ()
    schema_: str = TRAINING_VALIDATION_SCHEMA

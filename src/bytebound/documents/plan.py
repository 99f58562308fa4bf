"""Plan: the cheapest deployments that meet an objective, the Pareto front, what binds each, and the commands to start one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bytebound.documents.values import Interval, Provenance

PLAN_SCHEMA = "bytebound.plan/1"


@dataclass(frozen=True, slots=True)
class Command:
    """How to start one deployment on one engine: shell lines or a manifest, in the flags of a stated engine version."""

    engine: str
    version: str
    text: str
    kind: str = "shell"  # shell, kubernetes
    notes: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One way to serve one model.

    ``replicas`` copies of ``tp × pp × dp`` devices each; disaggregated: ``replicas`` decode and ``prefill_replicas`` prefill copies.
    Times and rates carry the interval they were predicted with; ``probability`` is the chance that every part of the objective is met.
    ``quality`` as on the lever cards; ``levers`` names what differs from the plain deployment of the checkpoint.
    """

    model: str
    machine: str
    device: str
    devices: int
    replicas: int
    prefill_replicas: int
    work: dict[str, Any]  # the Serve request of one replica, as understood
    ttft_s: Interval
    tpot_s: Interval
    tokens_per_s: Interval  # of all replicas
    requests_per_s: float  # it can take, at the objective
    utilization: float  # demand over that
    memory_bytes: float  # on the fullest device
    usable_bytes: float
    usd_per_month: Interval | None
    usd_per_mtok: Interval | None
    joules_per_token: Interval | None
    probability: float
    binds: str
    quality: str
    quality_note: str
    levers: tuple[str, ...] = ()
    proven: tuple[str, ...] = ()
    engine: str = "vllm"
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Searched:
    """How much was searched: full predictions, how many fitted and met the objective, seconds, and the ranges."""

    predictions: int
    fitting: int
    meeting: int
    seconds: float
    ranges: dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why nothing meets the objective: the limit that forbids it, how near the best came, and the nearest deployment that runs."""

    limit: str  # capacity, ttft, tpot, request, devices, budget, probability, quality
    sentence: str
    nearest: Deployment | None
    mend: str


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """The answer for one model: ``best`` is the cheapest that meets the objective, ``front`` the Pareto front with it."""

    model: str
    demand_per_s: float
    prompt: float
    output: float
    objective: dict[str, float | None]
    best: Deployment | None
    front: tuple[Deployment, ...]
    infeasible_because: Infeasible | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """``bytebound plan``. One model: ``best`` and ``front`` are its own; several sharing a pool: ``models`` has each, totals cover all."""

    best: Deployment | None
    front: tuple[Deployment, ...]
    searched: Searched
    infeasible_because: Infeasible | None
    models: tuple[ModelPlan, ...]
    devices: int | None
    usd_per_month: float | None
    pool: str = ""
    notes: tuple[str, ...] = ()
    provenance: tuple[Provenance, ...] = ()
    schema_: str = PLAN_SCHEMA

"""Sweep: a fleet under many plans, roadmap scenarios and draws, cut into parts; and what it says once all parts are there."""

from __future__ import annotations

from dataclasses import dataclass

from bytebound.documents.architecture import Architecture
from bytebound.documents.audit import Starves
from bytebound.documents.device import Machine
from bytebound.documents.fleet import Fleet

SWEEP_SCHEMA = "bytebound.sweep/1"
SUMMARY_SCHEMA = "bytebound.sweep-summary/1"
AS_IS = "as-is"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One future of the roadmap: every addition ``slip_months`` later than planned, memory at ``memory_price`` times its price."""

    name: str
    slip_months: float = 0.0
    memory_price: float = 1.0


@dataclass(frozen=True, slots=True)
class SweptWorkload:
    """What the driver settles once for a workload, so that a part needs no file and no other workload.

    ``context``, ``model`` and ``error`` are the grid its ledger is run on; ``weight`` is its share of its pool (``audit.deal``).
    """

    name: str
    architecture: Architecture
    context: tuple[float, ...]
    model: tuple[float, ...]
    error: tuple[float, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Coming:
    """A machine of the roadmap, at today's memory prices, and the month from which it is there."""

    machine: Machine
    month: int


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """Everything that decides the numbers. The same request gives the same tables, wherever and in whichever order it runs."""

    tool: str
    fleet: Fleet
    months: int
    draws: int
    seed: int
    part_draws: int
    plans: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    workloads: tuple[SweptWorkload, ...]
    machines: dict[str, Machine]
    coming: tuple[Coming, ...]


@dataclass(frozen=True, slots=True)
class SweepPart:
    """One workload under one plan, every scenario, for the draws ``first_draw`` … ``first_draw + draws − 1``: one file."""

    index: int
    workload: str
    plan: str
    first_draw: int
    draws: int
    file: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """``sweep.json``, written before the first part: the request, its SHA-256, library versions, and every part."""

    request: SweepRequest
    sha256: str
    versions: dict[str, str]
    parts: tuple[SweepPart, ...]
    schema_: str = SWEEP_SCHEMA


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """One workload under one plan and scenario, over all draws. US dollars are over the whole horizon, medians; None: unknown.

    Args:
        allowed: whether the plan keeps the workload's quality floor.
        risk_by_month: share of the draws that have starved by each month.
        need_now, need_last, need_peak: devices needed, medians; None where nothing meets the objective in half of the draws.
        usd_needed: what the devices needed cost; ``usd_paid`` what those held or needed cost, whichever are more.
        refused: why the plan cannot be applied here; every figure is then None.
        caution: why it must be proven before it is taken (``bytebound prove``); such a plan is never chosen as the cheapest.
    """

    workload: str
    plan: str
    scenario: str
    quality: str
    allowed: bool
    starves: Starves | None = None
    risk_by_month: tuple[float, ...] = ()
    headroom_p10: float | None = None
    need_now: float | None = None
    need_last: float | None = None
    need_peak: float | None = None
    usd_needed: float | None = None
    usd_paid: float | None = None
    refused: str = ""
    caution: str = ""


@dataclass(frozen=True, slots=True)
class Cheapest:
    """The plan of one workload and scenario to take: the cheapest that keeps the risk; else None, and ``sentence`` says what comes nearest."""

    workload: str
    scenario: str
    plan: str | None
    probability: float
    before: float
    usd_paid: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """``bytebound sweep``: what the parts in ``folder`` say. ``rows`` counts the table's rows, ``run`` how it was run."""

    name: str
    months: tuple[str, ...]
    draws: int
    seed: int
    folder: str
    sha256: str
    parts: int
    rows: int
    risk: float
    cheapest: tuple[Cheapest, ...]
    outcomes: tuple[SweepOutcome, ...]
    run: dict[str, str]
    schema_: str = SUMMARY_SCHEMA

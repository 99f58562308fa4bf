"""Audit: which workload of a fleet starves first, on which resource, in which month, and what helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bytebound.documents.values import Interval, Provenance

AUDIT_SCHEMA = "bytebound.audit/1"

AUDIT_RESOURCES = (
    "capacity",
    "memory-bandwidth",
    "compute",
    "links",
    "overhead",
    "objective",
    "devices",
    "budget",
    "power",
)
"""Why supply falls short. The first five name what binds a replica that is busy; ``objective`` means that no batch meets
the latency objective; ``devices``, ``budget`` and ``power`` are the pool's own limits."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """Supply over need minus one, per month: 0.2 means 20 % to spare, below 0 starves. 10, 50 and 90 % of the draws."""

    p10: tuple[float, ...]
    p50: tuple[float, ...]
    p90: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Starves:
    """When need first passes supply. Months count from 0, the first month; None where fewer draws than that starve."""

    probability: float
    month_p10: int | None
    month_p50: int | None
    month_p90: int | None
    resource: str | None


@dataclass(frozen=True, slots=True)
class Fix:
    """One lever, or a set of them, applied and re-run through the same ledger.

    ``effect`` is the throughput at the objective as a multiple of today's; ``usd_per_month`` the change of the bill in
    the last month (negative saves; the whole bill where today's deployment does not run); ``status`` whether it helps here, where
    ``prove-first`` means that it should by the ledger and was measured elsewhere to hurt in such a case; ``proven`` is what a proof
    on this kind of machine showed, empty where there is none.
    """

    lever: str
    title: str
    effect: float | None = None
    usd_per_month: float | None = None
    starves_after: Starves | None = None
    quality_note: str = "none"
    status: Literal["recommended", "helps", "prove-first", "little-effect", "rejected"] = "rejected"
    reason: str = ""
    source: str = ""
    proven: str = ""


@dataclass(frozen=True, slots=True)
class RooflinePoint:
    """Where one phase of a workload sits on its device's roofline."""

    workload: str
    phase: str
    device: str
    intensity: float
    flop_per_s: float
    roof_bytes_per_s: float
    roof_flop_per_s: float


@dataclass(frozen=True, slots=True)
class WorkloadAudit:
    """One workload: where it stands, when it starves, what helps."""

    name: str
    kind: str
    model: str
    pool: str
    deployment: str
    verdict_now: str
    why: str
    headroom_now: float
    starves: Starves
    by_resource: dict[str, Headroom]
    headroom: Headroom
    fixes: tuple[Fix, ...]
    need_devices: Headroom
    supply_devices: tuple[float, ...]
    best_batch: int | None
    metrics: dict[str, Interval]
    roofline: tuple[RooflinePoint, ...]
    usd_per_month: Interval | None
    provenance: tuple[Provenance, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolAudit:
    """One pool: devices by month, bill, power, and how much of it the workloads need."""

    name: str
    device: str
    devices_by_month: tuple[float, ...]
    usd_per_month: tuple[float, ...]
    power_w: tuple[float, ...]
    needed: Headroom


@dataclass(frozen=True, slots=True)
class FleetTotals:
    """The fleet in one line."""

    usd_per_month_now: float | None
    usd_per_month_end: float | None
    power_w_now: float | None
    workloads_starving: int
    first: str | None
    first_month: int | None
    first_resource: str | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Assumption:
    """One input that was stated in the fleet file, taken from the facts, or assumed by us."""

    what: str
    value: str
    how: str
    source: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The whole audit; everything printed is a rendering of this."""

    name: str
    start: str
    months: tuple[str, ...]
    draws: int
    seed: int
    scenario: tuple[str, ...]
    workloads: tuple[WorkloadAudit, ...]
    pools: tuple[PoolAudit, ...]
    fleet: FleetTotals
    assumptions: tuple[Assumption, ...]
    run: dict[str, str]
    schema_: str = AUDIT_SCHEMA

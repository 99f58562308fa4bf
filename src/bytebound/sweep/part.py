"""One part of a sweep: a pure function of the request's text and the part. The audit's own functions, for a slice of the draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.audit.deal import share
from bytebound.audit.draws import supply
from bytebound.audit.fixes import need_devices
from bytebound.audit.run import case_of, dearer, sample
from bytebound.audit.starve import NEVER, headroom, starving_months
from bytebound.audit.surface import Axes, surface, today
from bytebound.documents.sweep import SweepRequest
from bytebound.documents.values import from_json
from bytebound.errors import ByteboundError, PhysicsError, UnfinishedError
from bytebound.plan.case import Refusal
from bytebound.sweep.plans import Planned, apply
from bytebound.sweep.table import encoded
from bytebound.units import HOURS_PER_MONTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.audit.draws import Factors
    from bytebound.audit.surface import Surface
    from bytebound.documents.fleet import Pool, Workload
    from bytebound.documents.sweep import Scenario, SweepPart
    from bytebound.plan.case import Case, Today

    Array = NDArray[Any]

TRIES = 5
"""How often a part is tried whose worker dies under it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A part whose file is written, and how often it was tried."""

    part: SweepPart
    tries: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A workload as it stands, before any plan."""

    workload: Workload
    pool: Pool
    case: Case
    base: float
    axes: Axes
    found: Surface
    now: Today
    weight: float


def tool() -> str:
    """Return what makes the numbers, as the request names it."""
    return f"bytebound {version('bytebound')}"


def run_part(text: str, sha256: str, part: SweepPart) -> bytes:
    """Return the Parquet file of a part of the request ``text`` (JSON), whose hash is ``sha256``.

    Raises:
        UnfinishedError: this worker has another version than the driver.
    """
    request = _opened(text)
    if request.tool != tool():
        raise UnfinishedError(
            f"a worker has {tool()}, and the sweep was asked with {request.tool}",
            place="--on-ray", mend="install one version on every node",
        )  # fmt: skip
    standing = _standing(text, part.workload)
    try:
        planned = apply(part.plan, standing.case, standing.now, axes=standing.axes, coming=request.coming)
        rows = {} if isinstance(planned, Refusal) else _rows(request, part, standing, planned)
        said = {"refused": planned.reason} if isinstance(planned, Refusal) else {"caution": planned.caution}
    except PhysicsError:
        raise
    except ByteboundError as error:
        rows, said = {}, {"refused": error.message}
    names = tuple(scenario.name for scenario in request.scenarios)
    return encoded(rows, part=part, scenarios=names, sha256=sha256, said=said)


@lru_cache(maxsize=2)
def _opened(text: str) -> SweepRequest:
    return from_json(SweepRequest, text, place="sweep request")


@lru_cache(maxsize=64)
def _standing(text: str, name: str) -> Standing:
    request = _opened(text)
    workload = next(w for w in request.fleet.workload if w.name == name)
    pool = next(pool for pool in request.fleet.pool if pool.name == workload.pool)
    given = next(w for w in request.workloads if w.name == name)
    axes = Axes(np.array(given.context), np.array(given.model), np.array(given.error))
    case, base = case_of(workload, request.machines[pool.name], (), given.architecture)
    found = surface(case, axes)
    return Standing(workload, pool, case, base, axes, found, today(case, found), given.weight)


def _rows(request: SweepRequest, part: SweepPart, s: Standing, planned: Planned) -> dict[str, Array]:
    """Return the columns, scenario after scenario, every draw of the part in each."""
    only = slice(part.first_draw, part.first_draw + part.draws)
    factors = sample(s.workload, s.case, months=request.months, draws=request.draws, seed=request.seed, only=only)
    need, limit = _need(s, planned, factors, request.months)
    per_scenario = [
        _scenario_rows(request, scenario, s, planned, need=need, limit=limit, only=only)
        for scenario in request.scenarios
    ]
    draws = {
        "draw": np.arange(part.first_draw, part.first_draw + part.draws, dtype=np.int32),
        "need_now": need[:, 0], "need_last": need[:, -1], "need_peak": need.max(axis=1),
    }  # fmt: skip
    repeated = {name: np.tile(values, len(per_scenario)) for name, values in draws.items()}
    return repeated | {name: np.concatenate([rows[name] for rows in per_scenario]) for name in per_scenario[0]}


def _need(s: Standing, planned: Planned, factors: Factors, months: int) -> tuple[Array, NDArray[np.int64]]:
    """Return (devices needed, what limits) over (draws, months): as it stands until the plan's month, then as planned."""
    if planned.case is s.case:
        return need_devices(s.found, factors, s.base, case=s.case, months=months)
    then = need_devices(surface(planned.case, s.axes), factors, s.base, case=planned.case, months=months)
    if not planned.from_month:
        return then
    before = need_devices(s.found, factors, s.base, case=s.case, months=months)
    moved = np.arange(months) >= planned.from_month
    return np.where(moved, then[0], before[0]), np.where(moved, then[1], before[1])


def _scenario_rows(
    request: SweepRequest, scenario: Scenario, s: Standing, planned: Planned, *, need: Array,
    limit: NDArray[np.int64], only: slice,
) -> dict[str, Array]:  # fmt: skip
    stock = supply(
        request.fleet, s.pool, price=request.machines[s.pool.name].usd_per_device_hour, months=request.months,
        draws=request.draws, seed=request.seed, slip_months=scenario.slip_months, memory_price=scenario.memory_price, only=only,
    )  # fmt: skip
    held = share(request.fleet, s.workload, stock.devices, weight=s.weight) + planned.added
    room = headroom(need, held)
    first = starving_months(room)
    starved = first < NEVER
    least = room.argmin(axis=1)
    rows = np.arange(len(need))
    usd = _usd_per_device(stock.usd_per_hour, scenario, s, planned, request.months)
    with np.errstate(invalid="ignore"):  # endless need at an unknown or no price
        needed, paid = need @ usd, np.maximum(need, held) @ usd
    return {
        "starves_month": np.where(starved, first, -1),
        "limit": np.where(starved, limit[rows, np.where(starved, first, 0)], -1),
        "headroom_now": room[:, 0], "headroom_least": room[rows, least], "least_month": least, "supply_now": held[:, 0],
        "supply_last": held[:, -1], "usd_needed": needed, "usd_paid": paid,
    }  # fmt: skip


def _usd_per_device(
    pool: Array | None, scenario: Scenario, s: Standing, planned: Planned, months: int
) -> NDArray[np.float64]:
    """Return US dollars a device costs in each month (months,), NaN where unknown: the pool's, or the machine's moved to."""
    usd = np.full(months, np.nan) if pool is None or s.workload.kind == "edge" else pool
    if planned.machine is not None:
        price = dearer(planned.machine, scenario.memory_price).usd_per_device_hour
        usd = np.where(np.arange(months) >= planned.from_month, np.nan if price is None else price.value, usd)
    return np.asarray(usd * HOURS_PER_MONTH)

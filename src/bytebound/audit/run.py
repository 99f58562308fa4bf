"""Run the audit: read the fleet, settle every workload, sample, compare need with supply, try every fix."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.audit.deal import deal, share
from bytebound.audit.draws import EVERY, HBM_SHARE_OF_PRICE, Factors, Supply, factors, month_index, supply
from bytebound.audit.fixes import Situation, all_fixes, need_devices, roadmap_machines
from bytebound.audit.record import assumptions, totals, workload_record
from bytebound.audit.starve import bands, first_starvation, headroom
from bytebound.audit.surface import Axes, error_sigma, surface, today
from bytebound.documents.audit import Audit, Headroom, PoolAudit, WorkloadAudit
from bytebound.documents.device import Figure, Machine
from bytebound.documents.fleet import Fleet, Job, Lengths, Pool, Workload, place_in, read_fleet
from bytebound.documents.work import Serve, Train
from bytebound.errors import ByteboundError, DocumentError, QuantityError
from bytebound.facts.devices import devices
from bytebound.facts.machines import find_machine
from bytebound.facts.roadmap import roadmap
from bytebound.ledger import training_plan
from bytebound.plan.case import Case
from bytebound.predict.ceilings import ceilings_of
from bytebound.predict.estimate import check_degrees, settle
from bytebound.predict.train_request import check_precision
from bytebound.units import SECONDS_PER_HOUR, SECONDS_PER_MONTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.audit.surface import Surface
    from bytebound.documents.architecture import Architecture
    from bytebound.documents.proof import Proof

    Array = NDArray[Any]

GRID = {"context": 7, "model": 5, "error": 7}
EDGE = (0.002, 0.998)
"""Quantiles of the sampled factors the grid spans; draws beyond are clamped to its edge."""
CURRENT_DEVICES = ("h200-sxm", "b200-sxm", "b300-sxm", "gb300", "mi355x", "vr200")
"""Data-centre devices that ship at the start of the window (facts/data/roadmap.csv) and are tried as replacements."""
DRAW_LIMIT = 1_000_000
CELL_LIMIT = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Studied:
    """One workload while the audit runs."""

    workload: Workload
    case: Case
    axes: Axes
    factors: Factors
    surface: Surface
    base_demand: float
    need: Array
    limit: NDArray[np.int64]


def audit_fleet(
    fleet: Fleet | str | Path,
    *,
    months: int | None = None,
    draws: int = 10_000,
    seed: int = 0,
    memory_price: float = 1.0,
    slip_months: float = 0.0,
    proofs: Sequence[Proof] = (),
) -> Audit:
    """Return the audit of a fleet: which workload starves first, on what, when, and the cheapest fix.

    Args:
        fleet: a Fleet, or the path of a fleet file (TOML).
        months: horizon, else the fleet's own.
        draws: samples of growth, slip and model error.
        seed: of the random streams; the same seed gives the same audit.
        memory_price: factor on memory prices (scenario), such as 1.5 or 2.
        slip_months: extra delay of every roadmap addition (scenario).
        proofs: what ``bytebound prove`` showed; those of a workload's own kind of machine and engine decide its fixes.

    Raises:
        DocumentError, UnknownNameError, QuantityError: the file or an argument is wrong; names its place.
    """
    place = "fleet" if isinstance(fleet, Fleet) else str(fleet)
    fleet = fleet if isinstance(fleet, Fleet) else read_fleet(Path(fleet))
    began = time.perf_counter()
    horizon = fleet.months if months is None else months
    check(horizon, draws, seed, memory_price, slip_months)
    if horizon * draws * len(fleet.workload) > CELL_LIMIT:
        raise QuantityError(
            f"{draws:,} draws × {horizon} months × {len(fleet.workload)} workloads is more than {CELL_LIMIT:,}",
            place="--draws",
            mend="lower --draws",
        )
    machines = {pool.name: pool_machine(pool, index, place) for index, pool in enumerate(fleet.pool)}
    supplies = {
        pool.name: supply(
            fleet,
            pool,
            price=machines[pool.name].usd_per_device_hour,
            months=horizon,
            draws=draws,
            seed=seed,
            slip_months=slip_months,
            memory_price=memory_price,
        )
        for pool in fleet.pool
    }
    coming = upcoming_machines(fleet, horizon, memory_price)
    studied = [
        _study(w, index, machines[w.pool], coming, months=horizon, draws=draws, seed=seed, place=place)
        for index, w in enumerate(fleet.workload)
    ]
    weights = deal(fleet, {s.workload.name: float(np.median(s.need[:, 0])) for s in studied})
    shares = {
        w.name: share(fleet, w, supplies[w.pool].devices, weight=weights.get(w.name, 0.0)) for w in fleet.workload
    }
    names = tuple(month_name(fleet.start, m) for m in range(horizon))
    fleet_need = _fleet_need(fleet, studied, supplies, machines)
    audits = [_conclude(s, shares[s.workload.name], supplies[s.workload.pool], fleet_need, proofs) for s in studied]
    audits.sort(key=urgency)
    pools = tuple(
        _pool_audit(
            pool, machines[pool.name], supplies[pool.name], [s for s in studied if s.workload.pool == pool.name]
        )
        for pool in fleet.pool
    )
    scenario = tuple(
        text
        for text, on in (
            (f"memory price ×{memory_price:g}", memory_price != 1.0),
            (f"roadmap additions {slip_months:g} months late", slip_months != 0.0),
        )
        if on
    )
    return Audit(
        name=fleet.name, start=fleet.start, months=names, draws=draws, seed=seed, scenario=scenario, workloads=tuple(audits),
        pools=pools, fleet=totals(audits, pools, names), assumptions=assumptions(fleet, studied, machines, memory_price),
        run={"tool": f"bytebound {version('bytebound')}", "file": Path(place).name, "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "seconds": f"{time.perf_counter() - began:.2f}"},
    )  # fmt: skip


def starving(audit: Audit, within: int) -> list[str]:
    """Return workloads whose median starvation month is below ``within`` months."""
    return [w.name for w in audit.workloads if w.starves.month_p50 is not None and w.starves.month_p50 < within]


def urgency(audit: WorkloadAudit) -> tuple[float, float, float, float]:
    """Sort key: earliest median month, then 10 % month, then probability, then least headroom."""
    late = 1e9
    s = audit.starves
    return (
        late if s.month_p50 is None else s.month_p50, late if s.month_p10 is None else s.month_p10, -s.probability, audit.headroom_now,
    )  # fmt: skip


def check(months: int, draws: int, seed: int, memory_price: float, slip: float) -> None:
    """Raise QuantityError where an argument is outside its range."""
    for name, value, low, high in (
        ("--months", months, 1, 120), ("--draws", draws, 10, DRAW_LIMIT), ("--seed", seed, 0, 2**63 - 1),
        ("--memory-price", memory_price, 0.01, 100), ("--slip-months", slip, 0, 120),
    ):  # fmt: skip
        if not (low <= value <= high):
            raise QuantityError(f"{name} is {value:g}, outside {low:g} … {high:g}", place=name)


def pool_machine(pool: Pool, index: int, place: str) -> Machine:
    """Return a pool's devices as one machine, at the pool's own price where it states one.

    Raises:
        UnknownNameError, DocumentError, QuantityError: the device is not understood; placed in the fleet file.
    """
    try:
        found = find_machine(pool.device)
    except ByteboundError as error:
        error.place = ""
        raise error.at(place_in(Path(place), ["pool", index, "device"])) from None
    price = found.usd_per_device_hour
    if pool.price is not None:
        price = (
            None if pool.price == 0 else Figure(value=pool.price, unit="USD/h", how="cited", source="the fleet file")
        )
    return Machine(
        name=f"{pool.count}x {found.device.id}", device=found.device, per_node=min(pool.node, pool.count),
        nodes=max(1, -(-pool.count // pool.node)), usd_per_device_hour=price,
    )  # fmt: skip


def upcoming_machines(fleet: Fleet, horizon: int, memory_price: float = 1.0) -> tuple[tuple[Machine, int], ...]:
    """Return machines of the public roadmap and of the fleet's own pools, with the month each is available."""
    found: dict[str, tuple[Machine, int]] = {}
    own = {event.pool for event in fleet.roadmap if event.add}
    wanted = {pool.device: 0 for pool in fleet.pool if pool.name in own or pool.count > 1}
    wanted |= {row.id: 0 for row in devices().values() if row.id in CURRENT_DEVICES}
    for row in roadmap(horizon, fleet.start):
        if row.device_id:
            wanted.setdefault(row.device_id, max(0, month_index(fleet.start, row.until)))
    for device, month in wanted.items():
        try:
            machine = find_machine(f"8x {device}")
            ceilings_of(machine, Serve().engine)
        except ByteboundError:
            continue  # announced without a rate or a bandwidth: nothing can be computed on it yet
        if machine.device.kind in {"gpu", "tpu", "asic"} and machine.device.scaleup_bytes_per_s is not None:
            found[machine.device.id] = (dearer(machine, memory_price), month)
    return tuple(found.values())


def dearer(machine: Machine, memory_price: float) -> Machine:
    """Return the machine at the price a memory-price scenario gives it."""
    price, factor = machine.usd_per_device_hour, 1 + HBM_SHARE_OF_PRICE * (memory_price - 1)
    if price is None or factor == 1.0:
        return machine
    changed = Figure(
        value=price.value * factor,
        unit=price.unit,
        how="derived",
        source=f"{price.source}; memory price ×{memory_price:g}",
    )
    return machine.model_copy(update={"usd_per_device_hour": changed})


def _study(
    w: Workload,
    index: int,
    machine: Machine,
    coming: tuple[tuple[Machine, int], ...],
    *,
    months: int,
    draws: int,
    seed: int,
    place: str,
) -> Studied:
    try:
        case, base = case_of(w, machine, coming)
        sampled = sample(w, case, months=months, draws=draws, seed=seed)
        axes = axes_of(sampled)
        found = surface(case, axes)
    except ByteboundError as error:
        raise placed(error, w, index, place) from None
    need, limit = need_devices(found, sampled, base, case=case, months=months)
    return Studied(w, case, axes, sampled, found, base, need, limit)


def placed(error: ByteboundError, w: Workload, index: int, place: str) -> ByteboundError:
    """Return the error of a workload placed at its line of the fleet file."""
    if w.job is not None and error.place in Job.model_fields:
        parts: list[str | int] = ["workload", index, "job", error.place]
        error.place = ""
    else:
        key = {"model": "model", "dtype": "deployment"}.get(getattr(error, "kind", ""), "name")
        parts = ["workload", index, key]
    return error.at(f"{place_in(Path(place), parts)} ({w.name})")


def sample(w: Workload, case: Case, *, months: int, draws: int, seed: int, only: slice = EVERY) -> Factors:
    """Return the workload's sampled factors, of every draw or of ``only`` some."""
    found = factors(w.demand, name=w.name, months=months, draws=draws, seed=seed, sigma=error_sigma(case), only=only)
    if w.kind == "edge":  # one device serves one user however many users there are
        return replace(found, demand=np.ones_like(found.demand))
    return found


def axes_of(sampled: Factors) -> Axes:
    """Return the grid that the sampled factors span."""
    return Axes(*(_axis(getattr(sampled, name), GRID[name]) for name in ("context", "model", "error")))


def _axis(values: Array, points_: int) -> Array:
    """Return log-spaced grid points over the sampled range, 1 among them; one point where nothing varies."""
    low, high = np.quantile(values, EDGE)
    low, high = min(low, 1.0), max(high, 1.0)
    if high / low < 1.0001:
        return np.ones(1)
    return np.unique(np.append(np.geomspace(low, high, points_ - 1), 1.0))


def tokens_of(value: int | Lengths) -> float:
    """Return mean tokens of a stated count or spread."""
    return value.mean if isinstance(value, Lengths) else float(value)


def case_of(
    w: Workload, machine: Machine, coming: tuple[tuple[Machine, int], ...], model: Architecture | None = None
) -> tuple[Case, float]:
    """Return the case and its base demand (requests/s at the peak, or training tokens/s).

    ``model`` is what the workload's model name stands for, where it has been read already.

    Raises:
        ByteboundError: the deployment or job is not possible on the machine.
    """
    d, j = w.deployment, w.job
    setting = settle(model or w.model, machine, d.engine)
    if w.kind in {"train", "finetune"}:
        if j is None:
            raise DocumentError("has no job table", mend="give [workload.job]")
        train = Train(**{name: value for name, value in j if name != "days"})
        used = j.tp * j.pp * j.dp * j.cp
        if used > machine.devices:
            raise QuantityError(
                f"tp × pp × dp × cp is {used} and the pool has {machine.devices} devices",
                place="dp",
                mend="lower a degree",
            )
        check_precision(train, machine.device)
        training_plan.check(train, setting.architecture, setting.table, None)
        case = Case(w.kind, setting, train, w.objective, 1, roadmap=roadmap_machines(coming, machine.device.id))
        return case, j.tokens / (j.days * 24 * SECONDS_PER_HOUR)
    serve = Serve(
        batch=1, prompt=tokens_of(w.demand.prompt), output=tokens_of(w.demand.output), weights=d.weights, kv=d.kv, tp=d.tp,
        pp=d.pp, ep=d.ep, dp=d.dp, engine=d.engine, prefix_hit=d.prefix_hit, disaggregated=d.disaggregated, images=w.demand.images,
        denoise_steps=d.denoise_steps,
    )  # fmt: skip
    check_degrees(setting, serve)
    replica = d.tp * d.pp * d.dp
    if w.devices is not None and w.devices < replica:
        raise QuantityError(
            f"devices is {w.devices} and one replica takes {replica}",
            place="devices",
            mend="raise devices, or lower tp",
        )
    if w.objective.tpot is not None and setting.table.kind == "encoder":
        raise DocumentError(
            "an encoder gives no output tokens, so tpot cannot be its objective", mend="give ttft or request"
        )
    if w.kind == "edge" and not (w.objective.ttft or w.objective.tpot or w.objective.request):
        raise DocumentError(
            "an edge workload needs an objective", mend='give [workload.objective] such as tpot = "100ms"'
        )
    case = Case(
        w.kind, setting, serve, w.objective, d.batch, shared_prefix=w.demand.shared_prefix, reused_context=w.demand.reused_context,
        roadmap=() if w.kind == "edge" else roadmap_machines(coming, machine.device.id),
    )  # fmt: skip
    return case, (w.demand.requests or 1.0) * w.demand.peak if w.kind == "serve" else 1.0


@dataclass(frozen=True, slots=True)
class FleetNeed:
    """What all needs together cost and draw, as headroom against the fleet's limits (None: no limit stated)."""

    budget: Array | None
    power: Array | None


def _fleet_need(
    fleet: Fleet, studied: list[Studied], supplies: dict[str, Supply], machines: dict[str, Machine]
) -> FleetNeed:
    """Return headroom against the fleet's limits: each pool pays for what it has or what it needs, whichever is more."""
    hours = SECONDS_PER_MONTH / SECONDS_PER_HOUR
    usd, watts = np.zeros((1, 1)), np.zeros((1, 1))
    for pool in fleet.pool:
        mine = [s for s in studied if s.workload.pool == pool.name and s.workload.kind != "edge"]
        if not mine:
            continue
        need = sum((np.where(np.isfinite(s.need), s.need, 0.0) for s in mine), np.zeros((1, 1)))
        devices = np.maximum(need, supplies[pool.name].devices)
        price, board = supplies[pool.name].usd_per_hour, machines[pool.name].device.power_w
        usd = usd + (devices * price * hours if price is not None else 0.0)
        watts = watts + (devices * board.value if board is not None else 0.0)
    limits = fleet.limits
    return FleetNeed(
        None if limits.usd_per_month is None else headroom(usd, np.full_like(usd, limits.usd_per_month)),
        None if limits.power is None else headroom(watts, np.full_like(watts, limits.power)),
    )


def _conclude(s: Studied, share: Array, pool: Supply, fleet_need: FleetNeed, proofs: Sequence[Proof]) -> WorkloadAudit:
    engine, device = s.case.setting.engine.name, s.case.setting.machine.device.id
    proven = {proof.lever: proof for proof in proofs if (proof.engine, proof.machine) == (engine, device)}
    before = first_starvation(s.need, share, s.limit)
    now = today(s.case, s.surface)
    usd = None if pool.usd_per_hour is None else float(pool.usd_per_hour[-1])
    situation = Situation(
        case=s.case, axes=s.axes, now=s.surface, need=s.need, limit=s.limit, today=now, factors=s.factors,
        base_demand=s.base_demand, supply=share, usd_per_hour=usd, quality_floor=s.workload.quality_floor, proven=proven,
    )  # fmt: skip
    return workload_record(
        s, share, pool=pool, fleet_need=fleet_need, before=before, fixes=all_fixes(situation, before), now=now
    )


def _pool_audit(pool: Pool, machine: Machine, found: Supply, mine: list[Studied]) -> PoolAudit:
    hours = SECONDS_PER_MONTH / SECONDS_PER_HOUR
    devices = np.median(found.devices, axis=0)
    needs = [np.minimum(s.need, 1e12) for s in mine if s.workload.kind != "edge"]
    need = np.sum(needs, axis=0) if needs else np.zeros((1, found.devices.shape[1]))
    power = machine.device.power_w.value if machine.device.power_w else 0.0
    usd = found.usd_per_hour if found.usd_per_hour is not None else np.zeros(found.devices.shape[1])
    return PoolAudit(
        pool.name, machine.device.id, tuple(map(float, devices)), tuple(map(float, devices * usd * hours)),
        tuple(map(float, devices * power)), bands(need) if needs else Headroom((0.0,) * len(devices), (0.0,) * len(devices), (0.0,) * len(devices)),
    )  # fmt: skip


def month_name(start: str, offset: int) -> str:
    """Return the month ``offset`` months after ``start``, as ``YYYY-MM``."""
    year, month = (int(part) for part in start.split("-"))
    index = month - 1 + offset
    return f"{year + index // 12:04d}-{index % 12 + 1:02d}"

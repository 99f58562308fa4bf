"""Plan: every deployment of a model on every kind of device, the cheapest that meets the objective, and the Pareto front."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.plan import Infeasible, ModelPlan, Plan, PlanRequest, Searched, Wanted, read_objective
from bytebound.documents.values import Provenance
from bytebound.errors import QuantityError, RequestError, UnknownNameError
from bytebound.models import read_model
from bytebound.plan.choose import Menu, front, readable, share_out
from bytebound.plan.deployments import deployments
from bytebound.plan.infeasible import why_infeasible
from bytebound.plan.objective import CORRELATION
from bytebound.plan.ranges import read_ranges
from bytebound.plan.scoring import Terms, best_of, cheapest_by_devices, meeting, preferred, slabs, taken
from bytebound.plan.space import LARGEST_REPLICA, NUMERIC, ORDER, Space, space_of
from bytebound.plan.supply import Supply, supplies
from bytebound.predict.ceilings import ceilings_of
from bytebound.predict.estimate import settle
from bytebound.units import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.plan import Minimize, Quality
    from bytebound.plan.scoring import Rows

    Array = NDArray[Any]
    Progress = Callable[[int, int], None]

MOST_SHOWN = 24
"""Deployments of a front that are shown; the rest is merged into them."""
CHOICES = ("cost", "throughput", "latency", "energy")


@dataclass(frozen=True, slots=True)
class Found:
    """What a search of one model kept: rows on the fronts of its spaces and the cheapest for each number of devices."""

    terms: Terms
    spaces: tuple[Space, ...]
    rows: Rows | None
    front: NDArray[np.int64]
    predictions: int
    fitting: int
    meeting: int


def plan(
    models: str | Sequence[str],
    *,
    demand: float | str | Sequence[float | str] = 1.0,
    prompt: float | Sequence[float] = 1024,
    output: float | Sequence[float] = 256,
    meet: str | Sequence[str] = "",
    shared_prefix: float = 0.0,
    reused_context: float = 0.0,
    devices: Sequence[str] | str = (),
    pool: str = "",
    ranges: Mapping[str, Any] | None = None,
    minimize: Minimize = "cost",
    sure: float = 0.8,
    quality: Quality = "near-lossless",
    engine: str = "vllm",
    max_devices: int | None = None,
    usd_per_month: float | None = None,
    whole_nodes: bool = False,
    most_used: float = 0.9,
    most: float = 2e8,
    progress: Progress | None = None,
) -> Plan:
    """Return the cheapest deployments of ``models`` that meet an objective, and the Pareto front of each.

    Args:
        models: one model or several; several share ``pool`` where one is given.
        demand: requests per second at the busiest hour (``"5/s"``, ``"300/min"``), one for all or one for each.
        prompt: tokens in per request, one for all or one for each.
        output: tokens out per request, one for all or one for each.
        meet: bounds such as ``"ttft<1s,tpot<50ms,request<20s"``, one for all or one for each.
        shared_prefix: share of the prompt that requests have in common.
        reused_context: share of the prompt that an earlier turn computed.
        devices: device ids, machines or files to choose from, or ``all``; empty: the usual rented GPUs.
        pool: the devices there are, such as ``"64x h100-sxm, 32x l40s"``.
        ranges: by name (``tp``, ``weights``, ``batch`` ...): values to try, as a sequence or as ``"1,2,4"`` or ``"1:512"``.
        minimize: ``cost``, ``throughput``, ``latency`` or ``energy``; see ``PlanRequest``.
        sure: least probability of meeting every bound.
        quality: floor of quality.
        engine: whose reserve and host cost to assume.
        max_devices: most devices of one model.
        usd_per_month: most money for one model.
        whole_nodes: rent whole nodes.
        most_used: most of what a copy can take that is planned for.
        most: most predictions to make.
        progress: called with predictions made and predictions in all, after every slab.

    Raises:
        UnknownNameError, QuantityError, DocumentError, RequestError: the question is not understood, or its space is too large.

    Example:
        >>> found = plan("llama-3.1-8b", demand="2/s", meet="tpot<50ms", devices="l4,h100-sxm")
        >>> found.best.replicas >= 1 and found.best.tpot_s.value < 0.05
        True
    """
    names = (models,) if isinstance(models, str) else tuple(models)
    each = {
        "demand": [parse(value, "requests per second", place="demand") for value in _each(demand, len(names), "demand")],
        "prompt": _each(prompt, len(names), "prompt"), "output": _each(output, len(names), "output"),
        "meet": [read_objective(text) for text in _each(meet, len(names), "for")],
    }  # fmt: skip
    wanted = tuple(
        Wanted(name, demand_per_s=each["demand"][i], prompt=each["prompt"][i], output=each["output"][i], objective=each["meet"][i],
               shared_prefix=shared_prefix, reused_context=reused_context)
        for i, name in enumerate(names)
    )  # fmt: skip
    return plan_of(
        PlanRequest(
            wanted, (devices,) if isinstance(devices, str) else tuple(devices), pool, dict(ranges or {}), minimize, sure, quality, engine,
            max_devices, usd_per_month, whole_nodes, most_used, most,
        ),
        progress=progress,
    )  # fmt: skip


def _each(value: Any, count: int, place: str) -> list[Any]:
    """Return one value for each model: the only one again and again, or the stated ones."""
    values = [value] if isinstance(value, str | int | float) else list(value)
    if len(values) not in {1, count}:
        raise QuantityError(
            f"{len(values)} values of {place} for {count} models", place=place, mend="state one for all or one for each"
        )
    return values * count if len(values) == 1 else values


def plan_of(request: PlanRequest, *, progress: Progress | None = None) -> Plan:
    """Return the plan that ``request`` asks for; see ``plan``."""
    started = time.perf_counter()
    _check(request)
    ranges = read_ranges(request.ranges)
    supply = supplies(request)
    asked = [
        (_terms(request, wanted, supply, ranges), _spaces(request, wanted, supply, ranges)) for wanted in request.models
    ]
    total = sum(space.size for _, spaces in asked for space in spaces)
    if total > request.most:
        raise QuantityError(
            f"{total:.2e} predictions, and {request.most:.0e} are the most to be made", place="most",
            mend="narrow a range (batch, tp, chunk ...), name fewer devices, or raise the limit",
        )  # fmt: skip
    done = 0
    found = []
    for terms, spaces in asked:
        found.append(_search(terms, spaces, lambda made, before=done: progress and progress(before + made, total)))  # type: ignore[misc]
        done += found[-1].predictions
    picked, short = _pick(request, found, supply)
    plans = tuple(_model_plan(each, best, supply, ranges) for each, best in zip(found, picked, strict=True))
    return _whole(request, found, plans, supply, short=short, seconds=time.perf_counter() - started)


def _check(request: PlanRequest) -> None:
    """Raise where a limit is none."""
    if not request.models:
        raise RequestError("no model is named", place="models", mend='name one, such as "llama-3.1-8b"')
    if request.minimize not in CHOICES:
        raise UnknownNameError("objective", str(request.minimize), CHOICES, place="objective")
    if request.quality not in ORDER:
        raise UnknownNameError("quality", str(request.quality), ORDER, place="quality")
    for name, value, low, high in (
        ("sure", request.sure, 0.0, 0.999), ("utilization", request.most_used, 0.01, 1.0), ("most", request.most, 1, 1e12),
        ("max_devices", request.max_devices, 1, 1e9), ("budget", request.usd_per_month, 1e-9, 1e15),
    ):  # fmt: skip
        if value is not None and not low <= value <= high:
            raise QuantityError(f"{name} is {value:g}, outside {low:g} … {high:g}", place=name)


def _terms(request: PlanRequest, wanted: Wanted, supply: Sequence[Supply], ranges: Mapping[str, Any]) -> Terms:
    there = [each.count for each in supply if each.count is not None]
    most = min(request.max_devices or np.inf, sum(there) if len(there) == len(supply) else np.inf)
    acceptance = ranges.get("acceptance")
    return Terms(request, wanted, most, None if acceptance is None else float(acceptance[0]))


def _spaces(
    request: PlanRequest, wanted: Wanted, supply: Sequence[Supply], ranges: Mapping[str, Any]
) -> tuple[Space, ...]:
    """Return the space of one model on every kind of device.

    Raises:
        RequestError: no kind of device can take a stated range, or a bound that such a model does not have.
    """
    architecture = read_model(wanted.model)
    found = []
    for each in supply:
        setting = settle(architecture, each.machine, request.engine)
        most = int(min(LARGEST_REPLICA, each.count or np.inf, request.max_devices or np.inf))
        across = ceilings_of(each.nodes(2), setting.engine.name)
        found.append(
            space_of(setting, across, wanted, ranges, node=each.node, most=max(most, 1), quality=request.quality)
        )
    if all(space.size == 0 for space in found):
        raise RequestError(
            f"{wanted.model} cannot be dealt out or stored as the ranges say on any of these devices", place="ranges",
            mend="state degrees that divide its heads, layers and experts, and formats the hardware has",
        )  # fmt: skip
    if wanted.objective.get("tpot") is not None and found[0].setting.table.kind == "encoder":
        raise RequestError(
            "an encoder answers in one pass and has no time per output token", place="for", mend="bound ttft or request"
        )
    return tuple(found)


def _search(terms: Terms, spaces: tuple[Space, ...], made: Callable[[int], Any]) -> Found:
    """Go through every row of every space and keep those that a choice can fall on."""
    pooled = bool(terms.request.pool)
    kept: list[Rows] = []
    predictions = fitting = met = 0
    for number, space in enumerate(spaces):
        mine: list[Rows] = []
        for slab in slabs(space, terms, number=number):
            rows = meeting(slab, terms)
            predictions += len(slab["batch"])
            fitting += int(slab["fits"].sum())
            met += len(rows["batch"])
            if len(rows["batch"]):
                mine.append(taken(rows, _worth_keeping(rows, pooled=pooled)))
            made(predictions)
        if mine:
            rows = _joined(mine)
            kept.append(taken(rows, _worth_keeping(rows, pooled=pooled)))
    if not kept:
        return Found(terms, spaces, None, np.zeros(0, dtype=np.int64), predictions, fitting, met)
    rows = _joined(kept)
    return Found(terms, spaces, rows, front(respects(rows)), predictions, fitting, met)


def respects(rows: Rows) -> Array:
    """Return what the front is of, (rows, 6), less is better: money, TPOT, TTFT, device-seconds a token, energy, loss of quality."""
    columns = (
        rows["usd"], rows["each_s"], rows["first_s"], rows["devices"] / rows["tokens_per_s"], rows["joules"], rows["worse"],
    )  # fmt: skip
    return np.asarray(np.nan_to_num(np.stack(columns, axis=1), nan=np.inf, posinf=np.inf))


def _worth_keeping(rows: Rows, *, pooled: bool) -> NDArray[np.int64]:
    """Return the front, the best of the rows and, where a pool is shared, the best of every number of devices."""
    kept = [front(respects(rows)), np.array([best_of(rows)])]
    return np.unique(np.concatenate([*kept, cheapest_by_devices(rows)] if pooled else kept))


def _joined(parts: Sequence[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _pick(request: PlanRequest, found: Sequence[Found], supply: Sequence[Supply]) -> tuple[list[int | None], str]:
    """Return the best row of each model (None: it has none) and, where a pool cannot hold them all, how much it lacks."""
    alone: list[int | None] = [None if each.rows is None else best_of(each.rows) for each in found]
    if not request.pool or any(each is None for each in alone):
        return alone, ""
    priced = all(each.machine.usd_per_device_hour is not None for each in supply)
    menus = [
        Menu(each.rows["space"], each.rows["devices"].astype(np.int64), _pool_score(each.rows, request.minimize, priced=priced))
        for each in found if each.rows is not None
    ]  # fmt: skip
    chosen = share_out(menus, [each.count or 0 for each in supply])
    if chosen is not None:
        return list(chosen), ""
    need = sum(int(menu.devices.min()) for menu in menus)
    there = sum(each.count or 0 for each in supply)
    return (
        alone,
        f"the models need {need} devices together at the least, and the pool has {there}"
        if need > there
        else (f"no split of the pool's {there} devices by kind serves every model"),
    )


def _pool_score(rows: Rows, minimize: Minimize, *, priced: bool) -> Array:
    """Return the scores a pool is shared by: by devices where money is asked for and a price is unknown."""
    return rows["devices"] if minimize == "cost" and not priced else rows["score"]


def _model_plan(
    found: Found, best: int | None, supply: Sequence[Supply], ranges: Mapping[str, Any]
) -> tuple[ModelPlan, float]:
    """Return the plan of one model and the margin its front was merged within."""
    wanted = found.terms.wanted
    objective = {name: wanted.objective.get(name) for name in ("ttft", "tpot", "request")}
    empty = ModelPlan(wanted.model, wanted.demand_per_s, wanted.prompt, wanted.output, objective, None, ())
    if found.rows is None or best is None:
        wider = _spaces(replace(found.terms.request, quality="any"), wanted, supply, ranges)
        return replace(empty, infeasible_because=why_infeasible(found.terms, wider, supply)), 0.0
    on = taken(found.rows, found.front)
    order = preferred(on)
    on, values = taken(on, order), respects(on)[order]
    shown, margin = readable(values, on["worse"], MOST_SHOWN)
    chosen = deployments(taken(found.rows, np.array([best])), found.spaces, supply, found.terms)[0]
    shown_front = deployments(taken(on, shown), found.spaces, supply, found.terms)
    others = tuple(each for each in shown_front if each != chosen)
    return replace(empty, best=chosen, front=(chosen, *others)), margin


def _whole(
    request: PlanRequest, found: Sequence[Found], plans: Sequence[tuple[ModelPlan, float]], supply: Sequence[Supply], *,
    short: str, seconds: float,
) -> Plan:  # fmt: skip
    models = tuple(each for each, _ in plans)
    searched = Searched(
        predictions=sum(each.predictions for each in found), fitting=sum(each.fitting for each in found),
        meeting=sum(each.meeting for each in found), seconds=seconds, ranges=_ranges(found, supply),
        front=sum(len(each.front) for each in found), merged_within=max((margin for _, margin in plans), default=0.0),
    )  # fmt: skip
    why = next((each.infeasible_because for each in models if each.infeasible_because is not None), None)
    if short:
        need = sum(each.best.devices for each in models if each.best is not None)
        why = Infeasible("devices", short, None, f"a pool of {need} devices holds the cheapest deployment of each")
    bests = [each.best for each in models if each.best is not None] if why is None else []
    bills = [best.usd_per_month for best in bests]
    return Plan(
        best=models[0].best if len(models) == 1 else None, front=models[0].front if len(models) == 1 else (), searched=searched,
        infeasible_because=why, models=models, devices=sum(best.devices for best in bests) if bests else None,
        usd_per_month=sum(float(bill.value) for bill in bills if bill is not None) if bills and None not in bills else None,
        pool=request.pool, notes=_notes(request, supply, searched), provenance=_provenance(found, bests),
    )  # fmt: skip


def _ranges(found: Sequence[Found], supply: Sequence[Supply]) -> dict[str, list[Any]]:
    """Return every value that was tried, by name."""
    spaces = [space for each in found for space in each.spaces]
    stated: dict[str, list[Any]] = {"device": [each.machine.asked or each.machine.device.id for each in supply]}
    for i, name in enumerate(("tp", "pp", "ep", "dp")):
        stated[name] = sorted({int(value) for space in spaces for value in space.degrees[:, i]})
    for name in ("weights", "kv"):
        stated[name] = list(dict.fromkeys(value for space in spaces for value in getattr(space, name)))
    stated["prefix_hit"] = sorted({a for space in spaces for a, _ in space.reuse})
    stated["offload_hit"] = sorted({b for space in spaces for _, b in space.reuse})
    for name in NUMERIC:
        stated[name] = sorted({value for space in spaces for value in space.numeric[name]})
    stated["disaggregated"] = [bool(value) for value in stated["disaggregated"]]
    batches = spaces[0].batch
    stated["batch"] = (
        list(batches) if len(batches) <= 1000 else [f"{batches[0]} to {batches[-1]}, {len(batches)} values"]
    )
    stated["devices_per_node"] = [each.node for each in supply]
    return stated


def _notes(request: PlanRequest, supply: Sequence[Supply], searched: Searched) -> tuple[str, ...]:
    notes = [
        f"copies carry the demand at {request.most_used:.0%} of what they can take; TTFT includes the wait at a copy that is busy all the time",
        f"chance of meeting the objective: lognormal errors of the predicted intervals, those of TTFT and TPOT correlated by {CORRELATION} (as measured); at least {request.sure:.0%} is asked for",
        "whole nodes are rented"
        if request.whole_nodes
        else "devices are rented one by one; --whole-nodes rounds up to nodes",
    ]
    if searched.merged_within:
        notes.append(
            f"{searched.front} deployments are on the front; those within {searched.merged_within:.0%} of a shown one in every respect are left out"
        )
    unpriced = [each.machine.device.id for each in supply if each.machine.usd_per_device_hour is None]
    if unpriced:
        notes.append(f"no rental price is known for {', '.join(unpriced)}")
    return tuple(notes)


def _provenance(found: Sequence[Found], bests: Sequence[Any]) -> tuple[Provenance, ...]:
    used = {best.device for best in bests}
    settings = {space.setting.machine.device.id: space.setting for each in found for space in each.spaces}
    items = []
    for name in sorted(used):
        price = settings[name].machine.usd_per_device_hour
        if price is not None:
            items.append(
                Provenance(
                    f"price of {name}", price.how, f"{price.source} ({price.when})" if price.when else price.source
                )
            )
        items += [item for item in settings[name].evidence.provenance if item.what.startswith("interval")]
    return tuple(items)

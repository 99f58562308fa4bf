"""Plan: every deployment of a model on every kind of device, the cheapest that meets the objective, and the Pareto front."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.plan import QUALITIES, PlanRequest, Wanted, read_objective
from bytebound.errors import QuantityError, RequestError, UnknownNameError
from bytebound.models import read_model
from bytebound.plan.choose import Menu, front, share_out
from bytebound.plan.document import Found, model_plan, respects, whole_plan
from bytebound.plan.ranges import read_ranges
from bytebound.plan.scoring import Terms, best_of, cheapest_by_devices, meeting, slabs, taken
from bytebound.plan.space import LARGEST_REPLICA, space_of
from bytebound.plan.supply import supplies
from bytebound.predict.ceilings import ceilings_of
from bytebound.predict.estimate import settle
from bytebound.units import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.plan import Minimize, Plan, Quality
    from bytebound.plan.scoring import Rows
    from bytebound.plan.space import Space
    from bytebound.plan.supply import Supply

    Array = NDArray[Any]
    Progress = Callable[[int, int], None]

CHOICES = ("cost", "throughput", "latency", "energy")


def find_plan(
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
        >>> found = find_plan("llama-3.1-8b", demand="2/s", meet="tpot<50ms", devices="l4,h100-sxm")
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
    """Return the plan that ``request`` asks for; see ``find_plan``."""
    started = time.perf_counter()
    _check(request)
    ranges = read_ranges(request.ranges)
    supply = supplies(request)
    asked = []
    for wanted in request.models:
        spaces = _spaces(request, wanted, supply, ranges)
        asked.append((_terms(request, wanted, ranges, spaces[0].setting.table.kind), spaces))
    total = sum(space.size for _, spaces in asked for space in spaces)
    if total > request.most:
        raise QuantityError(
            f"{total:.2e} predictions, and {request.most:.0e} are the most to be made", place="most",
            mend="narrow a range (batch, tp, chunk ...), name fewer devices, or raise the limit",
        )  # fmt: skip
    found: list[Found] = []
    for terms, spaces in asked:
        before = sum(each.predictions for each in found)
        found.append(_search(terms, spaces, partial(_tell, progress, before, total)))
    picked, short = _pick(request, found, supply)
    plans = tuple(
        model_plan(
            each, best, supply, partial(_spaces, replace(request, quality="any"), each.terms.wanted, supply, ranges)
        )
        for each, best in zip(found, picked, strict=True)
    )
    return whole_plan(request, found, plans, supply, short=short, seconds=time.perf_counter() - started)


def _tell(progress: Progress | None, before: int, total: int, made: int) -> None:
    if progress is not None:
        progress(before + made, total)


def _check(request: PlanRequest) -> None:
    """Raise where a limit is none."""
    if not request.models:
        raise RequestError("no model is named", place="models", mend='name one, such as "llama-3.1-8b"')
    if request.minimize not in CHOICES:
        raise UnknownNameError("objective", str(request.minimize), CHOICES, place="objective")
    if request.quality not in QUALITIES:
        raise UnknownNameError("quality", str(request.quality), QUALITIES, place="quality")
    for name, value, low, high in (
        ("sure", request.sure, 0.0, 0.999), ("utilization", request.most_used, 0.01, 1.0), ("most", request.most, 1, 1e12),
        ("max_devices", request.max_devices, 1, 1e9), ("budget", request.usd_per_month, 1e-9, 1e15),
    ):  # fmt: skip
        if value is not None and not low <= value <= high:
            raise QuantityError(f"{name} is {value:g}, outside {low:g} … {high:g}", place=name)


def _terms(request: PlanRequest, wanted: Wanted, ranges: Mapping[str, Any], kind: str) -> Terms:
    acceptance = ranges.get("acceptance")
    if acceptance is not None and len(acceptance) != 1:
        raise QuantityError(
            f"{len(acceptance)} acceptances are stated", place="acceptance", mend="state the one that was measured"
        )
    stated = None if acceptance is None else float(acceptance[0])
    return Terms(request, wanted, request.max_devices or np.inf, stated, kind)


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
            space_of(
                setting,
                across,
                wanted,
                ranges,
                node=each.node,
                there=each.count or np.inf,
                most=max(most, 1),
                quality=request.quality,
            )
        )
    if all(space.size == 0 for space in found):
        raise RequestError(
            f"{wanted.model} cannot be dealt out or stored as the ranges say on any of these devices", place="ranges",
            mend="state degrees that divide its heads, layers and experts, and formats the hardware has",
        )  # fmt: skip
    if wanted.objective.get("tpot") is not None and found[0].setting.table.kind != "decoder":
        raise RequestError(
            f"{wanted.model} gives its whole answer at once and has no time per output token",
            place="for",
            mend="bound ttft or request",
        )
    return tuple(found)


def _search(terms: Terms, spaces: tuple[Space, ...], made: Callable[[int], None]) -> Found:
    """Go through every row of every space and keep those that a choice can fall on."""
    pooled = bool(terms.request.pool)
    kept: list[Rows] = []
    predictions = fitting = met = 0
    for number, space in enumerate(spaces):
        for slab in slabs(space, terms, number=number):
            rows = meeting(slab, terms)
            predictions += len(slab["batch"])
            fitting += int(slab["fits"].sum())
            met += len(rows["batch"])
            if len(rows["batch"]):
                kept.append(taken(rows, _worth_keeping(rows, pooled=pooled)))
            made(predictions)
    if not kept:
        return Found(terms, spaces, None, np.zeros(0, dtype=np.int64), predictions, fitting, met)
    rows = _joined(kept)
    return Found(terms, spaces, rows, front(respects(rows)), predictions, fitting, met)


def _worth_keeping(rows: Rows, *, pooled: bool) -> NDArray[np.int64]:
    """Return the front, the best of the rows and, where a pool is shared, the best of every number of devices."""
    kept = [front(respects(rows)), np.array([best_of(rows)])]
    return np.unique(np.concatenate([*kept, cheapest_by_devices(rows)] if pooled else kept))


def _joined(parts: Sequence[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _pick(request: PlanRequest, found: Sequence[Found], supply: Sequence[Supply]) -> tuple[list[int | None], str]:
    """Return the best row of each model (None: it has none) and, where a pool cannot hold them all, how much it lacks."""
    alone: list[int | None] = [None if each.rows is None else best_of(each.rows) for each in found]
    if not request.pool or len(found) == 1 or any(each is None for each in alone):
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

"""Why nothing meets an objective: the limit that forbids it, how near the best comes, and what would have to give."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.plan import BOUNDS, QUALITIES, Infeasible
from bytebound.plan.deployments import deployments
from bytebound.plan.objective import quantile
from bytebound.plan.scoring import ROUNDED, allowed, chances, slabs, taken
from bytebound.units import show_capacity, show_time, show_usd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.plan.scoring import Rows, Terms
    from bytebound.plan.space import Space
    from bytebound.plan.supply import Supply

    Array = NDArray[Any]

QUALITY_STEP = 0.25
"""A step down in quality weighs as much as a quarter more of a time or of money (assumed)."""
CAPACITY, TOGETHER = "capacity", "together"
PATIENCE = 60


@dataclass(frozen=True, slots=True)
class Near:
    """The row that comes nearest once one limit is taken away, and by what share of that limit it is over."""

    excess: float
    row: Rows


def why_infeasible(terms: Terms, spaces: Sequence[Space], supply: Sequence[Supply]) -> Infeasible:
    """Return the limit that forbids every deployment, the nearest deployment that runs, and the mend.

    Every limit is taken away by itself: the one that then has to give least is named. Where taking one away does not help, the
    row that is least over its worst limit is the nearest, and that limit is named. Where nothing fits, capacity is.

    Args:
        terms: what is asked for.
        spaces: all that is tried, of any quality.
        supply: what each space runs on.
    """
    near: dict[str, Near] = {}
    for number, space in enumerate(spaces):
        for slab in slabs(space, terms, number=number):
            for limit, excess in _excesses(slab, terms).items():
                best = int(np.argmin(excess))
                if np.isfinite(excess[best]) and (limit not in near or excess[best] < near[limit].excess):
                    near[limit] = Near(float(excess[best]), taken(slab, np.array([best])))
    alone = {limit: each for limit, each in near.items() if limit not in {CAPACITY, TOGETHER}}
    if not alone and TOGETHER not in near:
        return _too_large(terms, near.get(CAPACITY), spaces, supply)
    limit = min(alone, key=lambda name: alone[name].excess) if alone else TOGETHER
    row = near[limit].row
    nearest = deployments(row, spaces, supply, terms)[0]
    one = {name: float(column[0]) for name, column in row.items()}
    if limit == TOGETHER:
        limit = max(_over(row, terms), key=lambda name: float(_over(row, terms)[name][0]))
        reached = f"ttft {show_time(one['first_s'])}, tpot {show_time(one['each_s'])} on {int(one['devices'])} devices"
        return Infeasible(
            limit, f"no deployment of {terms.wanted.model} meets all limits, and none would with one of them lifted: the nearest reaches {reached}",
            nearest, _mend_all(row, terms),
        )  # fmt: skip
    sentence, mend = _said(
        limit, one, terms, _needed(row, terms, limit) if limit in BOUNDS else 0.0, levers=nearest.levers
    )
    return Infeasible(limit, sentence, nearest, mend)


def _excesses(slab: Rows, terms: Terms) -> dict[str, Array]:
    """Return by limit how far each row is over it where it keeps every other (infinity where it does not)."""
    request = terms.request
    within = allowed(slab, terms)
    chance = chances(slab, terms)
    sure = chance >= request.sure - ROUNDED
    found = {CAPACITY: np.where(slab["worse"] <= len(QUALITIES) - 1 - terms.quality, slab["held"], np.inf)}
    kept = allowed(slab, terms, "devices") & sure
    found["devices"] = np.where(kept, slab["devices"] / slab["most"] - 1, np.inf)
    if request.usd_per_month is not None:
        kept = allowed(slab, terms, "budget") & sure
        found["budget"] = np.where(kept, slab["usd"] / request.usd_per_month - 1, np.inf)
    floor = len(QUALITIES) - 1 - terms.quality
    kept = allowed(slab, terms, "quality") & sure & (slab["worse"] > floor)
    found["quality"] = np.where(kept, QUALITY_STEP * (slab["worse"] - floor), np.inf)
    over = _over(slab, terms)
    worst = np.maximum.reduce([np.zeros(len(chance)), *over.values()])
    found["probability"] = np.where(within & (worst <= 0), 1 - chance / max(request.sure, 1e-9), np.inf)
    for name, bound in terms.wanted.objective.items():
        if bound is not None:
            rest = chances(slab, terms, name)
            need = _time(slab, terms, name) * np.exp(
                _sd(slab, name) * quantile(np.minimum(request.sure / np.maximum(rest, 1e-9), 1.0))
            )
            found[name] = np.where(within & (rest > request.sure), need / bound - 1, np.inf)
    whole = slab["fits"] & (slab["worse"] <= floor)
    found[TOGETHER] = np.where(whole, worst, np.inf)
    return {name: np.nan_to_num(excess, nan=np.inf, posinf=np.inf) for name, excess in found.items()}


def _time(rows: Rows, terms: Terms, name: str) -> Array:
    return {"ttft": rows["first_s"], "tpot": rows["each_s"]}.get(
        name, rows["first_s"] + terms.steps * np.nan_to_num(rows["each_s"])
    )


def _sd(rows: Rows, name: str) -> Array:
    return rows["first_sd"] if name == "ttft" else rows["each_sd"]


def _over(rows: Rows, terms: Terms) -> dict[str, Array]:
    """Return by limit the share that a row's predicted value is over it; not positive: within."""
    over = {
        name: _time(rows, terms, name) / bound - 1
        for name, bound in terms.wanted.objective.items()
        if bound is not None
    }
    if bool(np.isfinite(rows["most"]).any()):
        over["devices"] = rows["devices"] / rows["most"] - 1
    if terms.request.usd_per_month is not None:
        over["budget"] = rows["usd"] / terms.request.usd_per_month - 1
    return over


def _met(row: Rows, terms: Terms, bounds: dict[str, float | None]) -> bool:
    changed = replace(terms, wanted=replace(terms.wanted, objective=bounds))
    return float(chances(row, changed)[0]) >= terms.request.sure - ROUNDED


def _needed(row: Rows, terms: Terms, name: str, others: dict[str, float | None] | None = None) -> float:
    """Return the bound, rounded up to two digits, that the row would meet surely enough, its other bounds as they are."""
    bounds = dict(others or terms.wanted.objective)
    value = float(_time(row, terms, name)[0])
    for _ in range(PATIENCE):
        bounds[name] = _up(value)
        if _met(row, terms, bounds):
            break
        value *= 1.05
    return _up(value)


def _up(value: float) -> float:
    """Return ``value`` rounded up to two significant digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step - 1e-9) * step:.2g}")


def _asked(bounds: dict[str, float | None]) -> str:
    return ",".join(f"{name}<{bound:g}s" for name, bound in bounds.items() if bound is not None)


def _said(
    limit: str, one: dict[str, float], terms: Terms, needed: float, *, levers: tuple[str, ...]
) -> tuple[str, str]:
    """Return the sentence and the mend of a single limit."""
    request, wanted = terms.request, terms.wanted
    if limit in BOUNDS:
        bound = wanted.objective[limit] or 0.0
        time = {"ttft": one["first_s"], "tpot": one["each_s"]}.get(limit, one["first_s"] + terms.steps * one["each_s"])
        return (
            f"no deployment of {wanted.model} keeps {limit} under {show_time(bound)} with a chance of {request.sure:.0%}: the nearest is predicted at {show_time(time)}",
            f'--for "{_asked({**wanted.objective, limit: needed})}"',
        )  # fmt: skip
    if limit == "devices":
        need = int(one["devices"])
        return (
            f"{wanted.model} takes {need} devices at the least, and {int(one['most'])} are the most",
            f"a pool of {need} such devices" if request.pool else f"--max-devices {need}",
        )  # fmt: skip
    if limit == "budget":
        return (
            f"{wanted.model} costs {show_usd(one['usd'])} a month at the least, and {show_usd(request.usd_per_month or 0.0)} is the most",
            f"--budget {_up(one['usd']):.0f}",
        )  # fmt: skip
    if limit == "quality":
        quality = QUALITIES[len(QUALITIES) - 1 - int(one["worse"])]
        return f"only formats below the quality floor meet the objective: {', '.join(levers)}", f"--quality {quality}"
    chance = (1 - _excess_of(one, terms)) * request.sure
    return (
        f"{wanted.model} meets the objective with a chance of {chance:.0%} at best, and {request.sure:.0%} is asked for",
        f"--sure {math.floor(chance * 100) / 100:g}",
    )  # fmt: skip


def _excess_of(one: dict[str, float], terms: Terms) -> float:
    row = {name: np.array([value]) for name, value in one.items()} | {"fits": np.array([True])}
    return 1 - float(chances(row, terms)[0]) / max(terms.request.sure, 1e-9)


def _mend_all(row: Rows, terms: Terms) -> str:
    """Return the limits that the nearest row needs, those it is over changed to what it reaches."""
    over = {name for name, excess in _over(row, terms).items() if excess[0] > 0}
    bounds = dict(terms.wanted.objective)
    late = [
        name
        for name in BOUNDS
        if bounds.get(name) is not None and (name in over or not _met(row, terms, {name: bounds[name]}))
    ]
    for name in late:
        bounds[name] = None
    for name in late:
        bounds[name] = _needed(row, terms, name, bounds)
    for _ in range(PATIENCE):
        if not late or _met(row, terms, bounds):
            break
        bounds |= {name: _up((bounds[name] or 0.0) * 1.05) for name in late}
    parts = [f'--for "{_asked(bounds)}"'] if late else []
    parts += [f"--max-devices {int(row['devices'][0])}"] if "devices" in over else []
    parts += [f"--budget {_up(float(row['usd'][0])):.0f}"] if "budget" in over and np.isfinite(row["usd"][0]) else []
    return " ".join(parts)


def _too_large(terms: Terms, near: Near | None, spaces: Sequence[Space], supply: Sequence[Supply]) -> Infeasible:
    """Return that nothing fits, with the try that is nearest to fitting."""
    mend = (
        'name a larger device, allow larger copies (--tp, --pp, --max-devices), or narrower formats ("--quality any")'
    )
    if near is None:
        return Infeasible(
            CAPACITY, f"nothing of {terms.wanted.model} could be tried within the quality floor", None, mend
        )
    row = near.row
    space, place = spaces[int(row["space"][0])], supply[int(row["space"][0])]
    group = int(row["tp"][0] * row["pp"][0] * row["dp"][0])
    weights = space.weights[int(row["weights"][0])]
    if bool(row["fits"][0]) and not np.isfinite(row["usd"][0]):
        return Infeasible(
            "budget", f"no rental price is known for {space.setting.machine.device.id}, so nothing on it can be held against a budget",
            deployments(row, spaces, supply, terms)[0], "leave --budget out, or state a price in a machine file",
        )  # fmt: skip
    return Infeasible(
        CAPACITY,
        f"{terms.wanted.model} does not fit: on {place.copy_name(group)} with weights {weights} the fullest device needs {show_capacity(float(row['total_bytes'][0]))} of {show_capacity(float(row['usable_bytes'][0]))}",
        None, mend,
    )  # fmt: skip

"""Plans as documents: one model's best and front, and all of them with what was searched, notes and sources."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.plan import BOUNDS, Infeasible, ModelPlan, Plan, Searched
from bytebound.documents.values import Provenance
from bytebound.plan.choose import readable
from bytebound.plan.deployments import deployments
from bytebound.plan.infeasible import why_infeasible
from bytebound.plan.objective import CORRELATION
from bytebound.plan.scoring import preferred, taken
from bytebound.plan.space import NUMERIC

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.plan import PlanRequest
    from bytebound.plan.scoring import Rows, Terms
    from bytebound.plan.space import Space
    from bytebound.plan.supply import Supply

    Array = NDArray[Any]

MOST_SHOWN = 24
"""Deployments of a front that are shown; the rest is merged into them."""


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


def respects(rows: Rows) -> Array:
    """Return what the front is of, (rows, 6), less is better: money, TPOT, TTFT, device-seconds a token, energy, loss of quality."""
    columns = (
        rows["usd"], rows["each_s"], rows["first_s"], rows["devices"] / rows["tokens_per_s"], rows["joules"], rows["worse"],
    )  # fmt: skip
    return np.asarray(np.nan_to_num(np.stack(columns, axis=1), nan=np.inf, posinf=np.inf))


def model_plan(
    found: Found, best: int | None, supply: Sequence[Supply], wider: Callable[[], Sequence[Space]]
) -> tuple[ModelPlan, float]:
    """Return the plan of one model and the margin its front was merged within.

    Args:
        found: what the search kept.
        best: the row that was chosen; None: nothing meets the objective.
        supply: what each space runs on.
        wider: the spaces without a floor of quality, asked for where nothing meets the objective.
    """
    wanted = found.terms.wanted
    objective = {name: wanted.objective.get(name) for name in BOUNDS}
    empty = ModelPlan(wanted.model, wanted.demand_per_s, wanted.prompt, wanted.output, objective, None, ())
    if found.rows is None or best is None:
        return replace(empty, infeasible_because=why_infeasible(found.terms, wider(), supply)), 0.0
    on = taken(found.rows, found.front)
    order = preferred(on)
    on, values = taken(on, order), respects(on)[order]
    shown, margin = readable(values, on["worse"], MOST_SHOWN)
    chosen = deployments(taken(found.rows, np.array([best])), found.spaces, supply, found.terms)[0]
    shown_front = deployments(taken(on, shown), found.spaces, supply, found.terms)
    others = tuple(each for each in shown_front if each != chosen)
    return replace(empty, best=chosen, front=(chosen, *others)), margin


def whole_plan(
    request: PlanRequest, found: Sequence[Found], plans: Sequence[tuple[ModelPlan, float]], supply: Sequence[Supply], *,
    short: str, seconds: float,
) -> Plan:  # fmt: skip
    """Return the whole plan.

    Args:
        request: the question.
        found: what the search of each model kept.
        plans: the plan of each model, with the margin its front was merged within.
        supply: what was chosen from.
        short: what a pool lacks for all models together; empty: nothing.
        seconds: that the search took.
    """
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
        f"copies carry the demand at {request.most_used:.0%} or less of what they can take, so many that it is carried as surely as the bounds are met; TTFT includes the mean wait at a copy that is busy all the time",
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

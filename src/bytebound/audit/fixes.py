"""Every lever applied to a workload and re-run through the same ledger, priced and ranked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bytebound.audit.replan import difference, replanned
from bytebound.audit.starve import first_starvation
from bytebound.audit.surface import surface
from bytebound.documents.audit import Fix, Starves
from bytebound.documents.plan import QUALITIES
from bytebound.errors import ByteboundError
from bytebound.plan.case import Refusal
from bytebound.plan.levers import ALL_LEVERS, LEVERS
from bytebound.predict.estimate import settle
from bytebound.units import HOURS_PER_MONTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.audit.draws import Factors
    from bytebound.audit.surface import Axes, Surface
    from bytebound.documents.device import Machine
    from bytebound.documents.proof import Proof
    from bytebound.plan.case import Case, Lever, Today

    Array = NDArray[Any]
    Spot = tuple[int, int, int]

FIX_DRAWS = 1000
"""Draws for a fix: the 10/50/90 % months move by less than one month beyond this."""
LITTLE = 0.03
SAFE_PROBABILITY = 0.1
HARDWARE = ("more-devices", "roadmap-device")
ROADMAP_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Situation:
    """A workload as the fixes see it: its case, surface and need, its share of supply, what a device costs, what was proven."""

    case: Case
    axes: Axes
    now: Surface
    need: Array
    limit: NDArray[np.int64]
    today: Today
    factors: Factors
    base_demand: float
    supply: Array
    usd_per_hour: float | None
    quality_floor: str
    proven: Mapping[str, Proof] = field(default_factory=dict)


def need_devices(
    found: Surface, factors: Factors, base_demand: float, *, case: Case, months: int
) -> tuple[Array, NDArray[np.int64]]:
    """Return (devices needed, limit) over (draws, months): at least those of one replica, but for an edge device."""
    seconds, limit = found.at(factors.context, factors.model, factors.error)
    least = 0.0 if case.kind == "edge" else float(case.devices_per_replica)
    need = np.maximum(base_demand * factors.demand * seconds, least) + np.zeros((1, months))
    return need, np.broadcast_to(limit, need.shape)


def all_fixes(s: Situation, before: Starves) -> tuple[Fix, ...]:
    """Return every lever's outcome, the recommended one first, then what helps by price, then what was refused."""
    few = replace_draws(s)
    spot = centre(few.now)
    fixes = [_try(few, lever, spot, before) for lever in LEVERS if few.case.kind in lever.kinds]
    if before.probability > SAFE_PROBABILITY:
        fixes += _replan(few, spot, before)
    fixes.append(_more_devices(few, before))
    fixes += _roadmap_devices(few, spot, before)
    return _ranked(fixes, before)


def _try(s: Situation, lever: Lever, spot: Spot, before: Starves) -> Fix:
    blank = Fix(lever.name, lever.title, quality_note=lever.quality_note, source=lever.source)
    changed = lever.apply(s.case, s.today)
    if isinstance(changed, Refusal):
        return replace(blank, reason=changed.reason)
    fix = _outcome(s, changed, spot, before, blank=blank, quality=lever.quality)
    return as_proven(fix, s.proven.get(lever.name), lever.caution(s.case, s.today))


def as_proven(fix: Fix, proof: Proof | None, caution: str) -> Fix:
    """Return a fix with what a proof on this kind of machine says of it; without one, a caution asks for it first."""
    if fix.status != "helps":
        return fix
    if proof is not None and proof.verdict != "inconclusive":
        fix = replace(fix, proven=f"{proof.sentence} ({proof.engine} on {proof.machine}, {proof.when[:10]})")
        if proof.effect in {"hurts", "no-effect"}:
            return replace(fix, status="rejected", reason=f"proven here: {proof.sentence}")
        return fix
    return replace(fix, status="prove-first", reason=f"{fix.reason} by the ledger, but {caution}") if caution else fix


def _replan(s: Situation, spot: Spot, before: Starves) -> list[Fix]:
    """Return the planner's cheapest deployment on the workload's own kind of device, where there is one and it is another."""
    found = replanned(s.case, s.base_demand, s.quality_floor)
    if found is None:
        return []
    changed, best = found
    blank = Fix(
        "plan",
        f"Deploy anew: {difference(s.case, changed)}",
        quality_note=best.quality_note,
        source="bytebound plan, exhaustive over this device",
    )
    fix = _outcome(s, changed, spot, before, blank=blank, quality=best.quality)
    cautions = [
        lever.caution(s.case, s.today)
        for name in best.levers
        if (lever := ALL_LEVERS.get(name)) and name not in s.proven
    ]
    return [as_proven(fix, None, next(filter(None, cautions), ""))]


def replace_draws(s: Situation) -> Situation:
    """Return the situation with the first draws only."""
    part = slice(0, FIX_DRAWS)
    f = s.factors
    return replace(
        s,
        need=s.need[part],
        limit=s.limit[part],
        factors=type(f)(f.demand[part], f.context[part], f.model[part], f.error[part]),
        supply=s.supply[part] if s.supply.shape[0] > 1 else s.supply,
    )


def centre(found: Surface) -> Spot:
    """Return the grid point of no growth and no error."""
    axes = (found.axes.context, found.axes.model, found.axes.error)
    return tuple(int(np.abs(np.log(axis)).argmin()) for axis in axes)  # type: ignore[return-value]


def _outcome(
    s: Situation, changed: Case, spot: Spot, before: Starves, *, blank: Fix, quality: str, usd_per_hour: float | None = None,
    from_month: int = 0,
) -> Fix:  # fmt: skip
    """Return ``blank`` with what the changed case gives, re-run over the same draws."""
    found = surface(changed, s.axes)
    old, new = float(s.now.device_s[spot]), float(found.device_s[spot])
    need, limit = need_devices(found, s.factors, s.base_demand, case=changed, months=s.need.shape[1])
    was = s.need
    if from_month:
        months = np.arange(need.shape[1]) >= from_month
        need = np.where(months, need, was)
    after = first_starvation(need, s.supply, limit)
    effect = None if not np.isfinite(new) else (old / new if np.isfinite(old) else None)
    price = s.usd_per_hour if usd_per_hour is None else usd_per_hour
    usd = None
    if price is not None and s.case.kind != "edge":
        last, last_was = float(np.median(need[:, -1])), float(np.median(was[:, -1]))
        if np.isfinite(last):  # what does not run today has no bill to compare with: the whole one counts
            usd = (
                last * price - (last_was * (s.usd_per_hour or price) if np.isfinite(last_was) else 0.0)
            ) * HOURS_PER_MONTH
    allowed = QUALITIES.index(quality) >= QUALITIES.index(s.quality_floor)
    reason, status = _judge(old, new, effect=effect, before=before, after=after, allowed=allowed)
    return replace(blank, effect=effect, usd_per_month=usd, starves_after=after, status=status, reason=reason)


def _judge(
    old: float, new: float, *, effect: float | None, before: Starves, after: Starves, allowed: bool
) -> tuple[str, Literal["helps", "little-effect", "rejected"]]:
    if not np.isfinite(new):
        return "still does not meet the objective or does not fit", "rejected"
    if not np.isfinite(old) and not allowed:
        return "makes an objective reachable that was not, but below this workload's quality floor", "little-effect"
    if not np.isfinite(old):
        return "makes an objective reachable that was not", "helps"
    if effect is not None and effect < 1 - LITTLE:
        return f"makes it slower here: {effect:.2f}× throughput at the objective", "rejected"
    if effect is not None and effect < 1 + LITTLE and after.probability >= before.probability - LITTLE:
        return f"{effect:.2f}× throughput at the objective", "little-effect"
    if not allowed:
        return "helps, but below this workload's quality floor", "little-effect"
    return f"{effect or 1:.2f}× throughput at the objective", "helps"


def _more_devices(s: Situation, before: Starves) -> Fix:
    device = s.case.setting.machine.device.id
    blank = Fix("more-devices", f"Add {device}", source="the pool's own price")
    if s.case.kind == "edge":
        return replace(blank, reason="an edge workload runs on the device it has")
    need, limit = s.need, s.limit
    short = np.quantile(np.nan_to_num(need - s.supply, posinf=np.inf).max(axis=1), 0.9, method="lower")
    if not np.isfinite(short):
        return replace(blank, reason="no number of these devices meets the objective or holds the model")
    replica = s.case.devices_per_replica
    count = max(int(np.ceil(max(short, 0.0) / replica)) * replica, 0)
    if not count:
        return replace(
            blank, effect=1.0, usd_per_month=0.0, starves_after=before, status="little-effect",
            reason="supply already covers 90 % of the draws",
        )  # fmt: skip
    return replace(
        blank, title=f"Add {count} × {device}", effect=1 + count / max(float(np.median(s.supply[:, 0])), 1.0),
        usd_per_month=None if s.usd_per_hour is None else count * s.usd_per_hour * HOURS_PER_MONTH,
        starves_after=first_starvation(need, s.supply + count, limit), status="helps",
        reason=f"{count} more devices cover 90 % of the draws to the last month",
    )  # fmt: skip


def _roadmap_devices(s: Situation, spot: Spot, before: Starves) -> list[Fix]:
    found = []
    for machine, month in s.case.roadmap:
        blank = Fix(
            "roadmap-device",
            f"Move to {machine.device.id}, one for one, from month {month}",
            source=machine.device.memory_bytes_per_s.source,
        )
        price = machine.usd_per_device_hour
        try:
            changed = replace(s.case, setting=settle(s.case.setting.architecture, machine, s.case.setting.engine.name))
            fix = _outcome(
                s, changed, spot, before, blank=blank, quality="lossless", usd_per_hour=price.value if price else None,
                from_month=month,
            )  # fmt: skip
        except ByteboundError as error:
            fix = replace(blank, title=f"Move to {machine.device.id}", reason=error.message, source="facts")
        found.append(fix if price or fix.usd_per_month is None else replace_price(fix))
    better = sorted(
        (fix for fix in found if fix.status == "helps"), key=lambda fix: (round(_risk(fix), 2), _price(fix))
    )
    return better[:ROADMAP_SHOWN] or found[:1]


def replace_price(fix: Fix) -> Fix:
    """Return the fix without a price: none is known for its device."""
    return replace(fix, usd_per_month=None, reason=f"{fix.reason}; no price is known yet")


def _ranked(fixes: list[Fix], before: Starves) -> tuple[Fix, ...]:
    """Mark the fix to try first and sort: software before hardware, then by price.

    A workload at risk gets the cheapest fix that makes it safe, else the one that lowers the risk most. One that is safe
    already gets the largest saving, if any.
    """
    helping = [fix for fix in fixes if fix.status == "helps"]
    chosen: Fix | None = None
    if before.probability > SAFE_PROBABILITY:
        safe = [fix for fix in helping if _risk(fix) <= SAFE_PROBABILITY]
        lower = [fix for fix in helping if _risk(fix) < before.probability - LITTLE]
        if safe:
            chosen = min(safe, key=_price)
        elif lower:
            chosen = min(lower, key=lambda fix: (round(_risk(fix), 2), _price(fix)))
    else:
        saving = [
            fix
            for fix in helping
            if fix.lever not in HARDWARE and (fix.usd_per_month or 0.0) < 0 and _risk(fix) <= SAFE_PROBABILITY
        ]
        chosen = min(saving, key=_price) if saving else None
    order = {"recommended": 0, "helps": 1, "prove-first": 2, "little-effect": 3, "rejected": 4}
    marked = [replace(fix, status="recommended") if fix is chosen else fix for fix in fixes]
    return tuple(
        sorted(
            marked,
            key=lambda fix: (order[fix.status], round(_risk(fix), 2) if fix.status == "helps" else 0.0, _price(fix)),
        )
    )


def _price(fix: Fix) -> tuple[bool, float]:
    return fix.lever in HARDWARE, fix.usd_per_month if fix.usd_per_month is not None else 1e15


def _risk(fix: Fix) -> float:
    return fix.starves_after.probability if fix.starves_after else 1.0


def roadmap_machines(machines: tuple[tuple[Machine, int], ...], device: str) -> tuple[tuple[Machine, int], ...]:
    """Return the machines that are not the workload's own device."""
    return tuple(pair for pair in machines if pair[0].device.id != device)

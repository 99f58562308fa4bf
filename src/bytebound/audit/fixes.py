"""Every lever applied to a workload and re-run through the same ledger, priced and ranked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bytebound.audit.starve import first_starvation
from bytebound.audit.surface import surface
from bytebound.documents.audit import Fix, Starves
from bytebound.errors import ByteboundError
from bytebound.plan.case import Refusal
from bytebound.plan.levers import LEVERS
from bytebound.predict.estimate import settle
from bytebound.units import SECONDS_PER_HOUR, SECONDS_PER_MONTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.audit.draws import Factors
    from bytebound.audit.surface import Axes, Surface
    from bytebound.documents.device import Machine
    from bytebound.plan.case import Case, Today

    Array = NDArray[Any]

FIX_DRAWS = 1000
"""Draws for a fix: the 10/50/90 % months move by less than one month beyond this."""
LITTLE = 0.03
SAFE_PROBABILITY = 0.1
HARDWARE = ("more-devices", "roadmap-device")
ROADMAP_SHOWN = 3
QUALITY_ORDER = ("any", "near-lossless", "lossless")
HOURS = SECONDS_PER_MONTH / SECONDS_PER_HOUR


@dataclass(frozen=True, slots=True)
class Situation:
    """A workload as the fixes see it: its case, surface and need, its share of supply, what a device costs."""

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
    fixes: list[Fix] = []
    for lever in LEVERS:
        if few.case.kind not in lever.kinds:
            continue
        changed = lever.apply(few.case, few.today)
        if isinstance(changed, Refusal):
            fixes.append(
                Fix(
                    lever.name,
                    lever.title,
                    None,
                    None,
                    None,
                    lever.quality_note,
                    "rejected",
                    changed.reason,
                    lever.source,
                )
            )
            continue
        fixes.append(
            _outcome(
                few,
                changed,
                spot,
                before,
                name=lever.name,
                title=lever.title,
                quality_note=lever.quality_note,
                quality=lever.quality,
                source=lever.source,
            )
        )
    fixes.append(_more_devices(few, before))
    fixes += _roadmap_devices(few, spot, before)
    return _ranked(fixes, before)


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


def centre(found: Surface) -> tuple[int, int, int]:
    """Return the grid point of no growth and no error."""
    axes = (found.axes.context, found.axes.model, found.axes.error)
    return tuple(int(np.abs(np.log(axis)).argmin()) for axis in axes)  # type: ignore[return-value]


def _outcome(
    s: Situation, changed: Case, spot: tuple[int, int, int], before: Starves, *, name: str, title: str, quality_note: str,
    quality: str, source: str, usd_per_hour: float | None = None, from_month: int = 0,
) -> Fix:  # fmt: skip
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
            usd = (last * price - (last_was * (s.usd_per_hour or price) if np.isfinite(last_was) else 0.0)) * HOURS
    reason, status = _judge(
        old,
        new,
        effect=effect,
        before=before,
        after=after,
        allowed=QUALITY_ORDER.index(quality) >= QUALITY_ORDER.index(s.quality_floor) or s.quality_floor == "any",
    )
    return Fix(name, title, effect, usd, after, quality_note, status, reason, source)


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
    title = f"Add {s.case.setting.machine.device.id}"
    source = "the pool's own price"
    if s.case.kind == "edge":
        return Fix(
            "more-devices",
            title,
            None,
            None,
            None,
            "none",
            "rejected",
            "an edge workload runs on the device it has",
            source,
        )
    need, limit = s.need, s.limit
    short = np.quantile(np.nan_to_num(need - s.supply, posinf=np.inf).max(axis=1), 0.9, method="lower")
    if not np.isfinite(short):
        return Fix(
            "more-devices",
            title,
            None,
            None,
            None,
            "none",
            "rejected",
            "no number of these devices meets the objective or holds the model",
            source,
        )
    replica = s.case.devices_per_replica
    count = max(int(np.ceil(max(short, 0.0) / replica)) * replica, 0)
    if not count:
        return Fix(
            "more-devices",
            title,
            1.0,
            0.0,
            before,
            "none",
            "little-effect",
            "supply already covers 90 % of the draws",
            source,
        )
    after = first_starvation(need, s.supply + count, limit)
    usd = None if s.usd_per_hour is None else count * s.usd_per_hour * HOURS
    effect = 1 + count / max(float(np.median(s.supply[:, 0])), 1.0)
    return Fix(
        "more-devices",
        f"Add {count} × {s.case.setting.machine.device.id}",
        effect,
        usd,
        after,
        "none",
        "helps",
        f"{count} more devices cover 90 % of the draws to the last month",
        source,
    )


def _roadmap_devices(s: Situation, spot: tuple[int, int, int], before: Starves) -> list[Fix]:
    found = []
    for machine, month in s.case.roadmap:
        try:
            setting = settle(s.case.setting.architecture, machine, s.case.setting.engine.name)
            changed = replace(s.case, setting=setting)
            price = machine.usd_per_device_hour
            fix = _outcome(
                s, changed, spot, before, name="roadmap-device", title=f"Move to {machine.device.id}, one for one, from month {month}",
                quality_note="none", quality="lossless", source=machine.device.memory_bytes_per_s.source,
                usd_per_hour=price.value if price else None, from_month=month,
            )  # fmt: skip
        except ByteboundError as error:
            fix = Fix(
                "roadmap-device",
                f"Move to {machine.device.id}",
                None,
                None,
                None,
                "none",
                "rejected",
                error.message,
                "facts",
            )
        found.append(fix if machine.usd_per_device_hour or fix.usd_per_month is None else replace_price(fix))
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
    order = {"recommended": 0, "helps": 1, "little-effect": 2, "rejected": 3}
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

"""Turn what the audit found into its documents. No physics here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.audit.starve import bands, headroom
from bytebound.audit.surface import LIMITS, OBJECTIVE
from bytebound.documents.audit import Assumption, FleetTotals, RooflinePoint, WorkloadAudit
from bytebound.documents.values import Interval, Provenance
from bytebound.documents.work import Serve, Train
from bytebound.ledger.ledger import MATH
from bytebound.predict.training import train_time
from bytebound.units import HOURS_PER_MONTH, show_usd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.audit.draws import Supply
    from bytebound.audit.run import FleetNeed, Studied
    from bytebound.documents.audit import Fix, PoolAudit, Starves
    from bytebound.documents.device import Machine
    from bytebound.documents.fleet import Fleet
    from bytebound.plan.case import Today

    Array = NDArray[Any]

USED_RESOURCES = ("capacity", "memory-bandwidth", "compute", "links", "overhead")
RESOURCE_DRAWS = 2000
"""Draws for the bands per resource: a quantile's own error is 1 % of the spread there. The verdict uses every draw."""


def workload_record(
    s: Studied, share: Array, *, pool: Supply, fleet_need: FleetNeed, before: Starves, fixes: tuple[Fix, ...], now: Today,
) -> WorkloadAudit:  # fmt: skip
    """Return the record of one workload."""
    room = headroom(s.need, share)
    part = slice(0, RESOURCE_DRAWS)
    f = s.factors
    few = np.where(np.isfinite(s.need[part]), s.need[part], np.inf)
    use = s.surface.use_at(f.context[part], f.model[part], f.error[part])
    few_share = share[part] if len(share) > 1 else share
    by_resource = {
        name: bands(headroom(few * np.maximum(use[index], 1e-9), few_share))
        for index, name in enumerate(USED_RESOURCES)
        if name == "capacity" or bool(np.any(use[index] > 0))
    }
    for name, values in (("budget", fleet_need.budget), ("power", fleet_need.power)):
        if values is not None:
            by_resource[name] = bands(np.broadcast_to(values, s.need.shape)[part])
    limit_now = int(np.bincount(s.limit[:, 0], minlength=len(LIMITS)).argmax())
    edge = s.workload.kind == "edge"
    usd = None
    if pool.usd_per_hour is not None and not edge:
        cost = np.where(np.isfinite(s.need[:, 0]), s.need[:, 0], np.nan) * pool.usd_per_hour[0] * HOURS_PER_MONTH
        if np.isfinite(cost).any():
            low, middle, high = np.nanquantile(cost, (0.1, 0.5, 0.9))
            usd = Interval(float(middle), float(low), float(high))
    return WorkloadAudit(
        name=s.workload.name, kind=s.workload.kind, model=s.case.setting.architecture.name, pool=s.workload.pool,
        deployment=describe(s), verdict_now=LIMITS[limit_now], why=_why(s, limit_now, now), headroom_now=float(np.median(room[:, 0])),
        starves=before, by_resource=by_resource, headroom=bands(room), fixes=fixes,
        need_devices=bands(np.minimum(s.need, 1e12)), supply_devices=tuple(map(float, np.median(share, axis=0))),
        best_batch=None if isinstance(s.case.work, Train) or limit_now == OBJECTIVE else int(now.batch), metrics=_metrics(s, now),
        roofline=points(s), usd_per_month=usd, provenance=_provenance(s), notes=_notes(s),
    )  # fmt: skip


def describe(s: Studied) -> str:
    """Return the deployment in one line."""
    work, device = s.case.work, s.case.setting.machine.device.id
    if isinstance(work, Train):
        degrees = " ".join(
            f"{name}{value}"
            for name, value in (("tp", work.tp), ("pp", work.pp), ("dp", work.dp), ("cp", work.cp), ("ep", work.ep))
            if value != 1
        )
        kept = f"recompute {work.recompute}" + ("" if work.offload == "none" else f" {work.offload} offloaded")
        return f"{device} {degrees or 'one device'} ZeRO-{work.zero} {work.precision} {work.optimizer} {kept} {work.trainable} seq {work.seq}"
    degrees = " ".join(
        f"{name}{value}"
        for name, value in (("tp", work.tp), ("pp", work.pp), ("dp", work.dp), ("ep", work.ep))
        if value != 1
    )
    return f"{device} {degrees or 'one device'} weights {work.weights} KV {work.kv} {work.engine}"


def _why(s: Studied, limit: int, now: Today) -> str:
    name = LIMITS[limit]
    if name == "objective":
        return "no batch meets the latency objective on these devices"
    if name == "capacity":
        held = float(np.isfinite(s.need[:, 0]).mean())
        if isinstance(s.case.work, Train):
            return "the job does not fit" if held == 0 else f"the job fits in {held:.0%} of the draws"
        return f"memory holds {now.batch:.0f} sequences per replica and no more" if held else "the model does not fit"
    if s.workload.kind == "edge" and isinstance(s.case.work, Serve):
        named, goal = s.case.setting.answer(replace(s.case.work, batch=1)), s.case.objective
        promises = {
            "TTFT": (goal.ttft, "ttft_s"),
            "TPOT": (goal.tpot, "tpot_s"),
            "request": (goal.request, "request_s"),
        }
        used = {label: float(named[key][0]) / bound for label, (bound, key) in promises.items() if bound is not None}
        tight = max(used, key=lambda label: used[label])
        return f"{tight} takes {used[tight]:.0%} of its objective, most of it {name}"
    parts = {
        "memory-bandwidth": f"KV is {now.kv_byte_share:.0%} of the bytes read per step",
        "compute": f"{now.compute_time_share:.0%} of the time is arithmetic",
    }
    batch = "" if isinstance(s.case.work, Train) or s.workload.kind == "edge" else f" at batch {now.batch:.0f}"
    return f"{name} takes the largest share of the time{batch}" + (
        f"; {parts[name]}" if name in parts and not isinstance(s.case.work, Train) else ""
    )


def _metrics(s: Studied, now: Today) -> dict[str, Interval]:
    spread = s.case.setting.evidence
    if isinstance(s.case.work, Train):
        timed = train_time(s.case.setting, s.case.work)
        if not bool(timed.fits):
            return {}
        step, rate, mfu = float(timed.step_s), float(timed.tokens_per_s), float(timed.mfu)
        k = float(timed.spread)
        return {
            "step_s": Interval(step, step / k, step * k),
            "tokens_per_s": Interval(rate, rate / k, rate * k),
            "mfu": Interval(mfu, mfu / k, min(mfu * k, 1.0)),
        }
    named = s.case.setting.answer(replace(s.case.work, batch=max(now.batch, 1.0)))
    if not named["fits"][0]:
        return {}
    pairs = (
        ("ttft_s", spread.ttft_spread),
        ("tpot_s", spread.tpot_spread),
        ("tokens_per_s", spread.tpot_spread),
        ("request_s", spread.tpot_spread),
    )
    found = {name: (float(named[name][0]), k) for name, k in pairs}
    return {name: Interval(value, value / k, value * k) for name, (value, k) in found.items() if np.isfinite(value)}


def points(s: Studied) -> tuple[RooflinePoint, ...]:
    """Return where the workload's phases sit on its device's roofline at the best batch."""
    c = s.case.setting.ceilings
    device = s.case.setting.machine.device.id
    roof = float(c.flop_per_s[MATH.index("bf16")])
    bandwidth = float(c.memory_bytes_per_s)
    if isinstance(s.case.work, Train):
        timed = train_time(s.case.setting, s.case.work)
        flops = float(timed.hardware_flops / timed.devices)
        moved = float(timed.moved_bytes)
        reached = flops / float(timed.step_s)
        return (
            RooflinePoint(s.workload.name, "training step", device, flops / max(moved, 1.0), reached, bandwidth, roof),
        )
    batch = float(
        s.surface.batch[tuple(int(np.abs(np.log(a)).argmin()) for a in (s.axes.context, s.axes.model, s.axes.error))]
    )
    named = s.case.setting.answer(replace(s.case.work, batch=max(batch, 1.0)))
    kind = s.case.setting.table.kind
    phases = {"decoder": ("decode", "prefill"), "denoiser": ("decode",), "encoder": ("prefill",)}[kind]
    labels = {
        "decode": "denoise" if kind == "denoiser" else "decode",
        "prefill": "encode" if kind == "encoder" else "prefill",
    }
    return tuple(
        RooflinePoint(
            s.workload.name, labels[phase], device, float(named[f"{phase}.intensity"][0]),
            float(named[f"{phase}.flops"][0] / named[f"{phase}.seconds"][0]), bandwidth, roof,
        )
        for phase in phases
    )  # fmt: skip


def _provenance(s: Studied) -> tuple[Provenance, ...]:
    device = s.case.setting.machine.device
    return (
        Provenance("model shape", "cited", s.case.setting.architecture.source),
        Provenance("memory capacity", device.memory_bytes.how, device.memory_bytes.source),
        Provenance("memory bandwidth", device.memory_bytes_per_s.how, device.memory_bytes_per_s.source),
        *s.case.setting.evidence.provenance,
    )


def _notes(s: Studied) -> tuple[str, ...]:
    notes = []
    if isinstance(s.case.work, Serve) and s.case.setting.table.kind == "denoiser":
        notes.append("image generation: one request is one image")
    if s.case.setting.table.kind == "encoder":
        notes.append("embedding: one request is one prompt, answered in one pass")
    return (*notes, *s.case.setting.architecture.notes[:3])


def totals(audits: list[WorkloadAudit], pools: tuple[PoolAudit, ...], months: tuple[str, ...]) -> FleetTotals:
    """Return the fleet in one line: the first to starve, the bill, and how many starve at the median."""
    priced = [pool for pool in pools if any(pool.usd_per_month)]
    now = sum(pool.usd_per_month[0] for pool in priced) if priced else None
    end = sum(pool.usd_per_month[-1] for pool in priced) if priced else None
    power = sum(pool.power_w[0] for pool in pools)
    hungry = [w for w in audits if w.starves.month_p50 is not None]
    first = audits[0] if audits and audits[0].starves.probability > 0 else None
    if first is not None and first.starves.month_p50 is not None:
        when = "already" if first.starves.month_p50 == 0 else f"in {months[first.starves.month_p50]}"
        sentence = f"{first.name} starves first, {when}, on {first.starves.resource}"
        chosen = next((fix for fix in first.fixes if fix.status == "recommended"), None)
        if chosen is not None:
            price = "" if chosen.usd_per_month is None else f" ({show_usd(chosen.usd_per_month)} a month)"
            sentence += f"; cheapest fix: {chosen.title[0].lower()}{chosen.title[1:]}{price}"
    elif first is not None:
        sentence = f"no workload starves at the median; {first.name} does in {first.starves.probability:.0%} of the draws, on {first.starves.resource}"
    else:
        sentence = f"no workload starves within {len(months)} months"
    over = [
        name
        for name in ("budget", "power")
        if audits and name in audits[0].by_resource and min(audits[0].by_resource[name].p50) < 0
    ]
    if over:
        sentence += f"; the fleet's needs pass its {' and '.join(over)} limit within the horizon"
    return FleetTotals(
        now, end, power or None, len(hungry), first.name if first else None, first.starves.month_p50 if first else None,
        first.starves.resource if first else None, sentence,
    )  # fmt: skip


def assumptions(
    fleet: Fleet, studied: list[Studied], machines: dict[str, Machine], memory_price: float
) -> tuple[Assumption, ...]:
    """Return every input that decides the outcome, with its source."""
    items = []
    for pool in fleet.pool:
        price = machines[pool.name].usd_per_device_hour
        shown = "unknown" if price is None else f"${price.value:.2f} per device-hour"
        items.append(
            Assumption(
                f"price of {pool.name}",
                shown,
                price.how if price else "assumed",
                price.source if price else "no price known",
            )
        )
    for s in studied:
        d = s.workload.demand
        if s.workload.kind in {"serve", "edge"}:
            items.append(
                Assumption(
                    f"{s.workload.name}: growth",
                    f"demand ×{d.growth:g}, context ×{d.context_growth:g}, model ×{d.model_growth:g} a year",
                    "stated",
                    "the fleet file",
                )
            )
    items += [
        Assumption("a month", "730 hours", "assumed", "8,760 h / 12, as cloud bills count"),
        Assumption(
            "KV and width of a grown model",
            "parameters^(1/3)",
            "derived",
            "Llama-3.1 8B, 70B and 405B: exponents 0.42 and 0.26",
        ),
        Assumption(
            "memory share of device prices",
            "45 %",
            "assumed",
            "35–58 % of the bill of materials, siliconanalysts.com cost models (low confidence)",
        ),
        Assumption(
            "roadmap delay", "exponential with each event's mean slip", "assumed", "plans slip and do not come early"
        ),
        Assumption(
            "speculative decoding",
            "3 draft tokens, acceptance 0.7, 5 % of a step each",
            "assumed",
            "EAGLE-3 Table 3 gives 1.3–1.8× at batch 2–64",
        ),
    ]
    if memory_price != 1.0:
        items.append(
            Assumption("memory price", f"×{memory_price:g} from the first month", "assumed", "scenario of this run")
        )
    return tuple(items)

"""Deployments as documents: a scored row with its intervals, levers, quality and notes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.fleet import Objective
from bytebound.documents.plan import Deployment
from bytebound.documents.values import Interval
from bytebound.documents.work import Serve
from bytebound.facts.formats import find_format
from bytebound.plan.cards import find_lever
from bytebound.plan.case import Case
from bytebound.plan.formats import AUTO, format_levers, quality_note, quality_of
from bytebound.plan.scoring import chances, taken, work_of
from bytebound.plan.today import serving_today
from bytebound.predict.parts import Z80
from bytebound.predict.roofline import TIME_RESOURCES
from bytebound.units import HOURS_PER_MONTH, SECONDS_PER_MONTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.plan.scoring import Rows, Terms
    from bytebound.plan.space import Space
    from bytebound.plan.supply import Supply

    Array = NDArray[Any]


def levers_of(row: dict[str, float], weights: str, kv: str) -> tuple[str, ...]:
    """Return what a deployment changes about the plain one of the checkpoint, by the names of lever cards."""
    used = {
        "speculative-decoding": row["draft_tokens"] > 0, "prefix-cache": row["prefix_hit"] > 0, "kv-offload": row["offload_hit"] > 0,
        "weight-offload": row["host_weights"] > 0, "disaggregate": row["disaggregated"] > 0, "chunked-prefill": row["chunk"] > 0,
        "pipeline-parallel": row["pp"] > 1, "expert-parallel": row["ep"] > 1, "data-parallel": row["dp"] > 1,
    }  # fmt: skip
    return (*format_levers(weights, kv), *(name for name, on in used.items() if on))


def deployments(found: Rows, spaces: Sequence[Space], supply: Sequence[Supply], terms: Terms) -> tuple[Deployment, ...]:
    """Return scored rows as documents, in their order."""
    found = found | {"chance": chances(found, terms)}
    return tuple(_deployment(taken(found, np.array([i])), spaces, supply, terms) for i in range(len(found["batch"])))


def _deployment(one: Rows, spaces: Sequence[Space], supply: Sequence[Supply], terms: Terms) -> Deployment:
    row = {name: float(column[0]) for name, column in one.items()}
    space, place = spaces[int(row["space"])], supply[int(row["space"])]
    weights, kv = space.weights[int(row["weights"])], space.kv[int(row["kv"])]
    group = int(row["tp"] * row["pp"] * row["dp"])
    device = space.setting.machine.device
    asked = asdict(work_of(space, terms, one))
    work = {name: _plain(value) for name, value in asked.items()}
    tokens = terms.wanted.demand_per_s * terms.tokens * SECONDS_PER_MONTH / 1e6
    usd = _bill(space, row["devices"])
    energy = space.setting.evidence.energy_spread
    decoder = space.setting.table.kind == "decoder"
    return Deployment(
        model=terms.wanted.model, machine=place.copy_name(group), device=device.id, devices=int(row["devices"]),
        replicas=int(row["copies"]), prefill_replicas=int(row["prefill_copies"]), work=work,
        ttft_s=_around(row["first_s"], row["first_sd"]),
        tpot_s=_around(row["each_s"], row["each_sd"], row["floor_s"] if decoder and not row["draft_tokens"] else 0.0),
        tokens_per_s=_around(row["tokens_per_s"], row["rate_sd"]), requests_per_s=row["requests_per_s"],
        utilization=terms.wanted.demand_per_s / row["requests_per_s"], memory_bytes=row["total_bytes"],
        usable_bytes=row["usable_bytes"], usd_per_month=usd,
        usd_per_mtok=None if usd is None or space.setting.table.kind == "denoiser" else Interval(usd.value / tokens, usd.low / tokens, usd.high / tokens),
        joules_per_token=Interval(row["joules"], row["joules"] / energy, row["joules"] * energy) if np.isfinite(row["joules"]) else None,
        probability=row["chance"], binds=TIME_RESOURCES[int(row["verdict"])] if row["verdict"] >= 0 else "capacity",
        quality=quality_of(weights, kv), quality_note=quality_note(weights, kv),
        levers=levers_of(row, weights, kv), engine=space.setting.engine.name,
        notes=(*_notes(space, row, terms, weights), *_cautions(space, work, levers_of(row, weights, kv))),
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """Return a field of a request of one row as plain data, whole numbers as such."""
    value = value.tolist()[0] if isinstance(value, np.ndarray) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _around(value: float, sd: float, floor: float = 0.0) -> Interval:
    """Return the 80 % interval of a lognormal around ``value``, its low end never under the physical floor."""
    spread = float(np.exp(Z80 * sd))
    return Interval(value, min(max(value / spread, floor), value), value * spread)


def _bill(space: Space, devices: float) -> Interval | None:
    price = space.setting.machine.usd_per_device_hour
    if price is None:
        return None
    return Interval(
        *(
            devices * HOURS_PER_MONTH * each
            for each in (price.value, price.low or price.value, price.high or price.value)
        )
    )


def _cautions(space: Space, work: dict[str, Any], levers: tuple[str, ...]) -> tuple[str, ...]:
    """Return what wants a proof first in this deployment: levers that were measured elsewhere to hurt in such a case."""
    if space.setting.table.kind != "decoder":
        return ()
    asked = Serve(**work)
    case = Case("serve", space.setting, asked, Objective(), int(work["batch"]))
    now = serving_today(space.setting, asked, batch=float(work["batch"]), limited=False)
    said = ((name, find_lever(name).lever.caution(case, now)) for name in levers)
    return tuple(f"prove {name} first: {why}" for name, why in said if why)


def _notes(space: Space, row: dict[str, float], terms: Terms, weights: str) -> tuple[str, ...]:
    device = space.setting.machine.device
    notes = []
    if space.setting.machine.usd_per_device_hour is None:
        notes.append(
            f"no rental price is known for {device.id}, so it is compared by devices and never called the cheapest"
        )
    if row["draft_tokens"] > 0 and terms.acceptance is None:
        notes.append(
            "speculation assumes that 0.7 of drafted tokens are accepted and that a draft model exists: prove it first"
        )
    if row["disaggregated"] > 0:
        notes.append("prefill copies have the same shape as decode copies; TTFT waits for them alone")
    if weights != AUTO and find_format(weights).kind == "weight-only":
        notes.append("weight-only quantization does not speed up prefill (rule 1)")
    return tuple(notes)

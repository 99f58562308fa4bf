"""From a fleet and what is asked of it to a request that needs nothing else, and its parts."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from bytebound.audit.deal import deal
from bytebound.audit.draws import Factors
from bytebound.audit.fixes import need_devices
from bytebound.audit.run import DRAW_LIMIT, axes_of, case_of, check, placed, pool_machine, sample, upcoming_machines
from bytebound.audit.surface import surface
from bytebound.documents.sweep import Coming, Scenario, Sweep, SweepPart, SweepRequest, SweptWorkload
from bytebound.documents.values import from_json, to_json
from bytebound.errors import ByteboundError, QuantityError
from bytebound.sweep.part import tool
from bytebound.sweep.plans import expand

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bytebound.documents.device import Machine
    from bytebound.documents.fleet import Fleet

PART_DRAWS = 20_000
"""Draws of a part: its arrays take some 100 MB over 18 months, and it takes about a tenth of a second."""
MOST_PARTS = 1_000_000


def scenarios_of(slip_months: Iterable[float], memory_price: Iterable[float]) -> tuple[Scenario, ...]:
    """Return every combination of delay and memory price, named by what differs from the plan."""
    found = []
    for slip, price in product(dict.fromkeys(slip_months), dict.fromkeys(memory_price)):
        said = ([f"{slip:g} months late"] if slip else []) + ([f"memory ×{price:g}"] if price != 1 else [])
        found.append(Scenario(", ".join(said) or "as planned", float(slip), float(price)))
    return tuple(found)


def sweep_of(
    fleet: Fleet,
    *,
    place: str,
    months: int,
    draws: int,
    seed: int,
    part_draws: int,
    plans: Iterable[str],
    scenarios: tuple[Scenario, ...],
) -> Sweep:
    """Return the sweep: every name resolved, every pool dealt, every part listed.

    Raises:
        ByteboundError: the fleet, a plan or an argument is wrong; placed in the fleet file where it is there.
    """
    for scenario in scenarios:
        check(months, draws, seed, scenario.memory_price, scenario.slip_months)
    if not 10 <= part_draws <= DRAW_LIMIT:
        raise QuantityError(f"--part-draws is {part_draws}, outside 10 … {DRAW_LIMIT:,}", place="--part-draws")
    machines = {pool.name: pool_machine(pool, index, place) for index, pool in enumerate(fleet.pool)}
    coming = tuple(Coming(machine, month) for machine, month in upcoming_machines(fleet, months))
    names = expand(plans, kinds=[w.kind for w in fleet.workload], devices=[one.machine.device.id for one in coming])
    parts = parts_of((w.name for w in fleet.workload), names, draws, part_draws)
    request = SweepRequest(
        tool=tool(), fleet=fleet, months=months, draws=draws, seed=seed, part_draws=part_draws, plans=names,
        scenarios=scenarios, workloads=_settled(fleet, machines, place=place, months=months, draws=draws, seed=seed),
        machines=machines, coming=coming,
    )  # fmt: skip
    request = from_json(
        SweepRequest, text_of(request)
    )  # as every part reads it: a whole number is a float where floats are meant
    versions = {name: version(name) for name in ("numpy", "pyarrow")} | {"python": platform.python_version()}
    return Sweep(request, sha256_of(request), versions, parts)


def text_of(request: SweepRequest) -> str:
    """Return the request as the text that every part gets."""
    return to_json(request, indent=None)


def sha256_of(request: SweepRequest) -> str:
    """Return the hash that says whether a part belongs to a request."""
    return hashlib.sha256(text_of(request).encode()).hexdigest()


def parts_of(names: Iterable[str], plans: tuple[str, ...], draws: int, part_draws: int) -> tuple[SweepPart, ...]:
    """Return the parts of the workloads ``names``: workload, then plan, then slices of the draws.

    Raises:
        QuantityError: more than ``MOST_PARTS``.
    """
    workloads, slices = tuple(names), range(0, draws, part_draws)
    count = len(workloads) * len(plans) * len(slices)
    if count > MOST_PARTS:
        raise QuantityError(
            f"{len(workloads)} workloads × {len(plans)} plans × {len(slices)} slices of the draws are {count:,} parts, "
            f"more than {MOST_PARTS:,}",
            place="--plans", mend="name fewer plans, or raise --part-draws",
        )  # fmt: skip
    return tuple(
        SweepPart(index, name, plan, first, min(part_draws, draws - first), f"part-{index:06d}.parquet")
        for index, (name, plan, first) in enumerate(product(workloads, plans, slices))
    )


def _settled(
    fleet: Fleet, machines: dict[str, Machine], *, place: str, months: int, draws: int, seed: int
) -> tuple[SweptWorkload, ...]:
    """Return every workload with its grid over all draws and its share of its pool, as the audit finds them."""
    kept, need_now = [], {}
    for index, w in enumerate(fleet.workload):
        try:
            case, base = case_of(w, machines[w.pool], ())
            factors = sample(w, case, months=months, draws=draws, seed=seed)
            axes = axes_of(factors)
            found = surface(case, axes)
        except ByteboundError as error:
            raise placed(error, w, index, place) from None
        first = Factors(factors.demand[:, :1], factors.context[:, :1], factors.model[:, :1], factors.error)
        need_now[w.name] = float(np.median(need_devices(found, first, base, case=case, months=1)[0]))
        kept.append((w.name, case.setting.architecture, axes))
    weights = deal(fleet, need_now)
    return tuple(
        SweptWorkload(
            name, architecture, tuple(map(float, axes.context)), tuple(map(float, axes.model)),
            tuple(map(float, axes.error)), weights.get(name, 0.0),
        )
        for name, architecture, axes in kept
    )  # fmt: skip

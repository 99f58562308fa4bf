"""The planner asked for a workload of a fleet: the cheapest deployment on the kind of device it already has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bytebound.documents.plan import PlanRequest, Wanted
from bytebound.errors import ByteboundError
from bytebound.plan.search import plan_of

if TYPE_CHECKING:
    from bytebound.documents.plan import Deployment, Quality
    from bytebound.plan.case import Case

BATCHES = 24
"""Batches tried: the surface of the changed case tries its own again."""
WIDER = 4
"""Sequences tried beyond the workload's own cap, as the lever ``larger-batch`` does."""
EVEN = 0.5
"""Least chance to meet the objective here: the audit's own draws carry the model's error."""
TAKEN = (
    "tp", "pp", "ep", "dp", "weights", "kv", "chunk", "prefix_hit", "offload_hit", "host_weights", "draft_tokens", "disaggregated",
)  # fmt: skip
"""What of a planned deployment the workload takes over; its batch is the audit's to choose."""


def replanned(case: Case, demand_per_s: float, quality: str) -> tuple[Case, Deployment] | None:
    """Return the case deployed as the planner would, and that deployment; None where it finds nothing, or nothing else.

    Args:
        case: a workload that serves tokens.
        demand_per_s: requests per second at the busiest hour.
        quality: the workload's floor of quality.
    """
    work = case.serve
    if work is None or case.kind != "serve" or case.setting.table.kind != "decoder":
        return None
    machine, objective = case.setting.machine, case.objective
    try:
        wanted = Wanted(
            case.setting.asked or case.setting.architecture.name, demand_per_s, float(np.max(work.prompt)), float(np.max(work.output)),
            {"ttft": objective.ttft, "tpot": objective.tpot, "request": objective.request}, case.shared_prefix, case.reused_context,
        )  # fmt: skip
        found = plan_of(
            PlanRequest(
                (wanted,), (f"{machine.per_node}x {machine.device.id}",), ranges={"batch": steps(WIDER * case.batch_limit)},
                quality=cast("Quality", quality), sure=EVEN, engine=case.setting.engine.name, max_devices=machine.devices,
            )
        ).best  # fmt: skip
    except ByteboundError:
        return None  # a device of the user's own file, or a shape the planner does not deal out
    if found is None:
        return None
    settled: dict[str, Any] = {name: found.work[name] for name in TAKEN}
    settled |= {name: str(found.work[name]).partition(" ")[0] for name in ("weights", "kv")}
    changed = replace(work, **settled)
    limit = max(case.batch_limit, int(found.work["batch"]))
    if changed == work and limit == case.batch_limit:
        return None
    return replace(case, work=changed, batch_limit=limit), found


def difference(before: Case, after: Case) -> str:
    """Return what a new deployment changes, ``tp 8 → 1, weights auto → fp8``."""
    was, now = before.work, after.work
    pairs = ((name, getattr(was, name, None), getattr(now, name, None)) for name in TAKEN)
    cap = ("batch", before.batch_limit, after.batch_limit)
    return ", ".join(f"{name.replace('_', ' ')} {_word(a)} → {_word(b)}" for name, a, b in (*pairs, cap) if a != b)


def _word(value: object) -> str:
    return (
        ("yes" if value else "no")
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, int | float)
        else str(value)
    )


def steps(limit: int) -> tuple[int, ...]:
    """Return batches up to ``limit``, evenly spaced in logarithm."""
    return tuple(int(b) for b in np.unique(np.geomspace(1, max(limit, 1), BATCHES).round()))

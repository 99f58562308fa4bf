"""What the parts say together: risk, months, needs and costs of each plan, and the cheapest that keeps the risk."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.audit.fixes import SAFE_PROBABILITY
from bytebound.audit.run import month_name
from bytebound.audit.starve import NEVER, starves
from bytebound.audit.surface import LIMITS
from bytebound.documents.plan import QUALITIES
from bytebound.documents.sweep import AS_IS, Cheapest, SweepOutcome, SweepSummary
from bytebound.errors import UnfinishedError
from bytebound.sweep.plans import quality_of
from bytebound.sweep.table import decoded, libraries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bytebound.documents.sweep import Sweep

NEAR = 1e-3
"""Costs within this share are the same: what is needed decides, then quality."""


def summary(folder: Path, sweep: Sweep, run: dict[str, str]) -> SweepSummary:
    """Return the summary of a whole folder.

    Raises:
        UnfinishedError: a part is missing or damaged.
    """
    outcomes: list[SweepOutcome] = []
    rows = 0
    for (workload, plan), parts in groupby(sweep.parts, key=lambda part: (part.workload, part.plan)):
        tables, said = [], {}
        for part in parts:
            found = decoded(folder / part.file, part=part, sha256=sweep.sha256)
            if found is None:
                raise UnfinishedError(
                    "is missing or damaged", place=str(folder / part.file), mend="run again with --resume"
                )
            tables.append(found[0])
            said = found[1]
        together = libraries()[0].concat_tables(tables).unify_dictionaries()
        rows += together.num_rows
        outcomes += _outcomes(sweep, workload, plan, together, said)
    request = sweep.request
    cheapest = [
        _cheapest([one for one in outcomes if (one.workload, one.scenario) == (w.name, scenario.name)])
        for scenario in request.scenarios
        for w in request.workloads
    ]
    return SweepSummary(
        name=request.fleet.name, months=tuple(month_name(request.fleet.start, m) for m in range(request.months)),
        draws=request.draws, seed=request.seed, folder=str(folder), sha256=sweep.sha256, parts=len(sweep.parts), rows=rows,
        risk=SAFE_PROBABILITY, cheapest=tuple(cheapest), outcomes=tuple(outcomes), run=run,
    )  # fmt: skip


def _outcomes(sweep: Sweep, workload: str, plan: str, table: Any, said: dict[str, str]) -> list[SweepOutcome]:
    floor = next(w.quality_floor for w in sweep.request.fleet.workload if w.name == workload)
    quality = quality_of(plan)
    allowed = plan == AS_IS or floor == "any" or QUALITIES.index(quality) >= QUALITIES.index(floor)
    named = table["scenario"].to_numpy(zero_copy_only=False)
    found = []
    for scenario in sweep.request.scenarios:
        who = SweepOutcome(
            workload,
            plan,
            scenario.name,
            quality,
            allowed,
            refused=said.get("refused", ""),
            caution=said.get("caution", ""),
        )
        found.append(who if who.refused else _outcome(who, table.filter(named == scenario.name), sweep.request.months))
    return found


def _outcome(who: SweepOutcome, table: Any, months: int) -> SweepOutcome:
    first = table["starves_month"].cast("int64").fill_null(NEVER).to_numpy()
    codes = np.array([LIMITS.index(name) for name in table["resource"].drop_null().to_pylist()], dtype=np.int64)
    by_month = np.cumsum(np.bincount(first[first < NEVER], minlength=months)) / max(len(first), 1)
    return replace(
        who, starves=starves(first, codes), risk_by_month=tuple(map(float, by_month)),
        headroom_p10=_quantile(table, "headroom_least", 0.1), need_now=_quantile(table, "need_now", 0.5),
        need_last=_quantile(table, "need_last", 0.5), need_peak=_quantile(table, "need_peak", 0.5),
        usd_needed=_quantile(table, "usd_needed", 0.5), usd_paid=_quantile(table, "usd_paid", 0.5),
    )  # fmt: skip


def _quantile(table: Any, name: str, share: float) -> float | None:
    """Return a quantile over the draws, an absent value counting as endless; None where it is."""
    values = table[name].fill_null(float("inf")).to_numpy().astype(np.float64)
    found = float(np.quantile(values, share, method="inverted_cdf"))
    return found if np.isfinite(found) else None


def _cheapest(outcomes: Sequence[SweepOutcome]) -> Cheapest:
    """Return the plan to take among those of one workload and scenario, as-is first."""
    tried = [(one, one.starves.probability) for one in outcomes if one.starves is not None]
    now, before = tried[0]
    open_ = [(one, risk) for one, risk in tried if one.allowed and not one.caution]
    safe = [(one, risk) for one, risk in open_ if risk <= SAFE_PROBABILITY]
    if not safe:
        near, least = min(open_, key=lambda pair: (pair[1], *_cost(pair[0])))
        sentence = f"no plan keeps the risk at {SAFE_PROBABILITY:.0%}; nearest is {near.plan}, {least:.0%}"
        return Cheapest(now.workload, now.scenario, None, least, before, near.usd_paid, sentence)
    least_paid = min((one.usd_paid for one, _ in safe if one.usd_paid is not None), default=0.0)
    near_least = [pair for pair in safe if pair[0].usd_paid is None or pair[0].usd_paid <= least_paid * (1 + NEAR)]
    chosen, risk = min(near_least, key=lambda pair: (pair[0].usd_paid is None, *_cost(pair[0])[1:]))
    sentence = f"{chosen.plan}: risk {risk:.0%}" + ("" if chosen is now else f" instead of {before:.0%}")
    return Cheapest(now.workload, now.scenario, chosen.plan, risk, before, chosen.usd_paid, sentence)


def _cost(one: SweepOutcome) -> tuple[float, float, int, int]:
    """Sort key: what is paid, then what is needed, then quality, then fewer changes."""
    paid = float("inf") if one.usd_paid is None else one.usd_paid
    needed = float("inf") if one.usd_needed is None else one.usd_needed
    steps = 0 if one.plan == AS_IS else 1 + one.plan.count("+")
    return paid, needed, -QUALITIES.index(one.quality), steps

"""A plan as one page: what to rent, the front with the best marked, and the commands to copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bytebound.report.html import page_html
from bytebound.report.plan_charts import front_chart, memory_bar
from bytebound.report.plan_words import (
    FRONT_COLUMNS,
    answers,
    chance,
    command_title,
    copies,
    counted,
    failing,
    front_rows,
    headline,
    question,
    searched_words,
    totals,
)
from bytebound.report.words import clean, glued, interval, percent, tokens_rate, usd
from bytebound.units import show_time, significant

if TYPE_CHECKING:
    from bytebound.documents.plan import Deployment, ModelPlan, Plan

SHOWN_VALUES = 24
"""Values of a range listed; more are counted."""


def plan_page(plan: Plan) -> str:
    """Return a plan as one self-contained page."""
    sections = [_section(model, place) for place, model in enumerate(plan.models)]
    one = plan.models[0] if len(plan.models) == 1 else None
    whole = plan.infeasible_because if one is None else None
    return page_html(
        "plan.html.j2",
        title=f"Plan for {clean(one.model)}" if one is not None else f"Plan for {len(plan.models)} models",
        charts=[chart for section in sections for chart in section["charts"]],
        sentence=glued(_verdict(plan, one)),
        meta=question(one)
        if one is not None
        else f"The pool: {clean(plan.pool)}"
        if plan.pool
        else "Any number of devices can be rented",
        refusal=None if whole is None else failing(whole),
        sections=sections,
        several=one is None,
        columns=[(name, "r" in flags) for name, flags in FRONT_COLUMNS[1:]],
        searched=searched_words(plan),
        ranges=[(clean(name), _listed(values)) for name, values in plan.searched.ranges.items()],
        notes=[clean(note) for note in plan.notes],
        provenance=plan.provenance,
    )


def _verdict(plan: Plan, one: ModelPlan | None) -> str:
    if one is None:
        return (
            f"{totals(plan, pool=False)}." if plan.infeasible_because is None else failing(plan.infeasible_because)[0]
        )
    if one.best is not None:
        return headline(one.best, one.objective)
    return failing(one.infeasible_because)[0] if one.infeasible_because is not None else "No deployment."


def _section(model: ModelPlan, place: int) -> dict[str, Any]:
    best, why = model.best, model.infeasible_because
    shown = best if best is not None else why.nearest if why is not None else None
    charts = [front_chart(model, place=place)] if len(model.front) > 1 else []
    charts += [memory_bar(best, place=place)] if best is not None else []
    return {
        "place": place,
        "question": question(model),
        "headline": headline(best, model.objective) if best is not None else "",
        "refusal": failing(why) if why is not None else None,
        "tiles": _tiles(shown, model.objective) if shown is not None else [],
        "answers": answers(shown, model.objective) if shown is not None else [],
        "notes": [clean(note) for note in shown.notes] if shown is not None else [],
        "charts": [chart for chart in charts if chart.rows],
        "front": front_rows(model.front, best),
        "commands": [
            (command_title(command), command.text, [clean(note) for note in command.notes], clean(command.source))
            for command in (best.commands if best is not None else ())
            if command.text
        ],
        "refused": [
            clean(note)
            for command in (best.commands if best is not None else ())
            if not command.text
            for note in command.notes
        ],
    }


def _tiles(deployment: Deployment, objective: dict[str, float | None]) -> list[tuple[str, str, str]]:
    tiles = [("devices", counted(deployment), chance(deployment) if any(objective.values()) else copies(deployment))]
    for name, value, show in (
        ("a month", deployment.usd_per_month, usd),
        ("million output tokens", deployment.usd_per_mtok, usd),
        ("time to first token", deployment.ttft_s, show_time),
        ("time per output token", deployment.tpot_s, show_time),
        ("output of all copies", deployment.tokens_per_s, tokens_rate),
        ("energy per token", deployment.joules_per_token, lambda number: f"{significant(number)} J"),
    ):
        shown, _, band = interval(value, show).partition(" (")
        tiles.append((name, shown, band.rstrip(")")))
    load = f"of {significant(deployment.requests_per_s)} requests/s it can take"
    return [*tiles, ("used", percent(deployment.utilization), load)]


def _listed(values: list[Any]) -> str:
    shown = ", ".join(f"{value:g}" if isinstance(value, float) else clean(value) for value in values[:SHOWN_VALUES])
    more = len(values) - SHOWN_VALUES
    return f"{shown} and {more} more" if more > 0 else shown

"""A plan in the terminal: what to rent, what it reaches and costs, the front, and how to start it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.page import draw, grid, heading, indented, labelled
from bytebound.report.plan_words import (
    BRIEF,
    FRONT_COLUMNS,
    answers,
    command_title,
    counted,
    failing,
    front_rows,
    headline,
    question,
    searched_words,
    totals,
    verbatim,
)
from bytebound.report.words import clean, to_ascii

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from bytebound.documents.plan import Command, Deployment, Infeasible, ModelPlan, Plan
    from bytebound.report.page import Page

SHOWN_ENGINES = 1
"""Commands shown in full; the others are named, and stand in --json and --html."""


def plan_text(plan: Plan, page: Page) -> str:
    """Return a plan for a terminal of ``page``'s width: the best first, then the front, then how to start it."""
    parts: list[RenderableType] = []
    if len(plan.models) > 1:
        parts += [heading(f"bytebound plan · {totals(plan)}")]
        told = [each.infeasible_because for each in plan.models]
        if plan.infeasible_because is not None and plan.infeasible_because not in told:
            parts += _refusal(plan.infeasible_because, {})
        parts.append(Text(""))
    for model in plan.models:
        parts += [*_model(model, page), Text("")]
    return _drawn([*parts, *_closing(plan)], page)


def _drawn(parts: Sequence[RenderableType], page: Page) -> str:
    """Draw everything but plain texts: those are commands, and a command that is wrapped or indented is another command."""
    blocks = groupby(parts, key=lambda part: isinstance(part, str))
    return "".join(_commanded(group, page) if plain else draw(group, page) for plain, group in blocks)


def _commanded(texts: Iterable[RenderableType], page: Page) -> str:
    text = "".join(f"{verbatim(str(each))}\n" for each in texts)
    return to_ascii(text) if page.ascii else text


def _model(model: ModelPlan, page: Page) -> list[RenderableType]:
    parts: list[RenderableType] = [heading(question(model)), Text("")]
    if model.infeasible_because is not None:
        return [*parts, *_refusal(model.infeasible_because, model.objective)]
    if model.best is None:
        return [*parts, Text("– no deployment")]
    parts += [
        Text(f"✓ {headline(model.best, model.objective)}", style="bold green"),
        *_deployment(model.best, model.objective),
    ]
    if len(model.front) > 1:
        parts += [Text(""), Text("no other is better in every respect", style="bold"), _front(model, page)]
    if model.best.commands:
        parts += [Text(""), *_commands(model.best.commands)]
    return parts


def _deployment(best: Deployment, objective: dict[str, float | None]) -> list[RenderableType]:
    notes = [indented(f"note: {clean(note)}") for note in best.notes]
    return [labelled(answers(best, objective)), *notes]


def _refusal(why: Infeasible, objective: dict[str, float | None]) -> list[RenderableType]:
    sentence, mend = failing(why)
    parts: list[RenderableType] = [Text(f"✗ {sentence}", style="bold red")]
    parts += [labelled([("limit", clean(why.limit)), *([("try", mend)] if mend else [])])]
    if why.nearest is not None:
        parts += [
            Text(""),
            Text(f"nearest: {counted(why.nearest)}", style="bold"),
            *_deployment(why.nearest, objective),
        ]
    return parts


def _front(model: ModelPlan, page: Page) -> RenderableType:
    kept = range(len(FRONT_COLUMNS)) if page.wide else [i for i, (name, _) in enumerate(FRONT_COLUMNS) if name in BRIEF]
    rows = [[row[i] for i in kept] for row in front_rows(model.front, model.best)]
    return grid(*(FRONT_COLUMNS[i] for i in kept), rows=rows, indent=2)


def _commands(commands: tuple[Command, ...]) -> list[RenderableType]:
    runnable = [command for command in commands if command.text]
    parts: list[RenderableType] = []
    for command in runnable[:SHOWN_ENGINES]:
        parts += [Text(f"start it: {command_title(command)}", style="bold")]
        parts += [command.text]
        parts += [indented(f"note: {clean(note)}") for note in command.notes]
    others = [command_title(command) for command in runnable[SHOWN_ENGINES:]]
    lines = [("also for", f"{', '.join(others)} (in --json and --html)")] if others else []
    lines += [
        (command_title(command).split(" ")[0], clean(note))
        for command in commands
        if not command.text
        for note in command.notes
    ]
    return [*parts, *([labelled(lines, style="dim")] if lines else [])]


def _closing(plan: Plan) -> list[RenderableType]:
    kinds: dict[str, int] = {}
    for item in plan.provenance:
        kinds[item.how] = kinds.get(item.how, 0) + 1
    counted = ", ".join(f"{count} {how}" for how, count in kinds.items())
    lines = [("searched", searched_words(plan)), *((("basis", f"numbers: {counted}"),) if counted else ())]
    return [*(indented(f"note: {clean(note)}", style="dim") for note in plan.notes), labelled(lines, style="dim")]

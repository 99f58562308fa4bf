"""A sweep in the terminal: for each scenario, every workload's risk as it stands and the plan that keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.page import draw, grid, heading
from bytebound.report.words import clean, horizon_words, percent, usd, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bytebound.documents.sweep import Cheapest, SweepOutcome, SweepSummary
    from bytebound.report.page import Cell, Page

COLUMNS = (
    ("workload", ""), ("risk as is", "r!"), ("starves", "!"), ("cheapest safe plan", "w"), ("risk", "r!"), ("paid", "r!"),
)  # fmt: skip


def sweep_text(found: SweepSummary, page: Page) -> str:
    """Return the summary for a terminal of ``page``'s width."""
    title = f"bytebound sweep · {clean(found.name)} · {horizon_words(found.months)} · {found.draws:,} draws"
    parts: list[RenderableType] = [heading(title)]
    outcomes = {(one.workload, one.plan, one.scenario): one for one in found.outcomes}
    for scenario in dict.fromkeys(one.scenario for one in found.cheapest):
        rows = [
            _row(one, outcomes[one.workload, "as-is", scenario], found)
            for one in found.cheapest
            if one.scenario == scenario
        ]
        parts += [Text(""), Text(f"roadmap {clean(scenario)}", style="bold"), grid(*COLUMNS, rows=rows)]
    again = found.run.get("parts tried again", "0")
    lost = "" if again == "0" else f", {again} tried again after a worker was lost"
    parts += [
        Text(""),
        Text(f"paid: US dollars over the horizon for the devices held or needed; safe: risk of at most {percent(found.risk)}", style="dim"),
        Text(f"{found.rows:,} rows in {found.parts:,} parts in {clean(found.folder)}{lost}; any Parquet reader takes them", style="dim"),
    ]  # fmt: skip
    return draw(parts, page)


def _row(one: Cheapest, now: SweepOutcome, found: SweepSummary) -> list[Cell]:
    starving = "–" if now.starves is None else when(now.starves, found.months)
    plan = clean(one.plan) if one.plan is not None else f"none; {clean(one.sentence.partition('; ')[2])}"
    return [clean(one.workload), percent(one.before), starving, plan, percent(one.probability), usd(one.usd_paid)]

"""A training estimate as one self-contained page: the verdict, memory and time by part, what would change it, every source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.report.estimate_charts import elasticity_chart
from bytebound.report.html import page_html
from bytebound.report.terminal_training import (
    change_rows,
    command_of,
    cost_line,
    edges_line,
    flags_of,
    memory_line,
    mfu_line,
    title_of,
    training_sentence,
    training_tiles,
)
from bytebound.report.training_charts import memory_chart, time_chart
from bytebound.report.words import clean

if TYPE_CHECKING:
    from bytebound.documents.training import TrainEstimate


def training_html(estimate: TrainEstimate) -> str:
    """Return a training estimate as one page."""
    name, machine = clean(estimate.model.name), clean(estimate.machine.name)
    found = estimate.fitting
    changes = () if found is None else found.changes
    lines = [("memory", memory_line(estimate))]
    if "step_s" not in estimate.missing:
        lines += [("MFU", mfu_line(estimate)), ("cost", cost_line(estimate))]
    return page_html(
        "training.html.j2",
        title=f"Training {name} on {machine}",
        charts=[memory_chart(estimate), time_chart(estimate), elasticity_chart(estimate.elasticity)],
        estimate=estimate,
        sentence=training_sentence(estimate),
        question=title_of(estimate),
        tiles=training_tiles(estimate),
        lines=lines,
        edges="" if found is None else edges_line(found),
        changes=[(*row, flags_of(change)) for row, change in zip(change_rows(changes), changes, strict=True)],
        command=command_of(estimate),
    )

"""A validation in the terminal: errors, bias and coverage by group, the worst rows, and what cannot be expressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report import validation_words as said
from bytebound.report.page import draw, grid, heading, indented, labelled
from bytebound.report.words import clean, moment
from bytebound.units import show_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from bytebound.documents.validation import GroupScore, Validation
    from bytebound.report.page import Cell, Page

SHOWN_GROUPS, SHOWN_ROWS = 12, 12
ROOMY, BROAD = 76, 120
"""Columns from which a table has the bias and the mean, and from which it has the corpus' own protocol."""


def validation_text(validation: Validation, page: Page) -> str:
    """Return a validation for a terminal of ``page``'s width."""
    group = said.whole(validation)
    weak = said.weak_spots(validation)
    parts: list[RenderableType] = [
        heading(f"validation · {moment(validation.when)} · bytebound {clean(validation.version)}"),
        Text(said.headline(validation)),
        Text(""),
        labelled([row for row in _about(validation) if row[1]], by=0),
    ]
    if weak:
        parts += [Text(""), heading("weak spots")]
        for spot in weak:
            parts += [labelled([("!", spot.text)]), *(indented(item, by=5, style="dim") for item in spot.items)]
    for by in said.keys_of(validation):
        groups = said.totals(validation, by)
        parts += [Text(""), _scores(said.key_name(by), groups[:SHOWN_GROUPS], group, page)]
        if len(groups) > SHOWN_GROUPS:
            parts.append(indented(f"{len(groups) - SHOWN_GROUPS} more in --json and --html", style="dim"))
    parts += [*_worst(validation), *_unexpressed(validation, page), *_contradictions(validation, page)]
    return draw([*parts, *_worse(validation)], page)


def _about(validation: Validation) -> list[tuple[str, str]]:
    expressed = len(validation.points.id)
    return [
        ("protocol", said.protocol_words(validation)),
        ("truth", ", ".join(clean(name) for name in validation.truth)),
        ("rows", f"{said.number_words(validation.rows)} read, {said.number_words(expressed)} expressed"),
        ("took", show_time(validation.seconds) if validation.seconds > 0 else ""),
        *(("note", clean(note)) for note in validation.notes),
    ]


def _scores(title: str, groups: Sequence[GroupScore], whole: GroupScore | None, page: Page) -> RenderableType:
    """One row a group, all rows last; ``!`` marks a coverage that is wrong."""
    columns = [(title, ""), ("rows", "r!"), ("median", "r!"), ("90 %", "r!"), ("coverage", "r!")]
    columns += [("mean", "r!"), ("bias", "r!"), ("within 25 %", "r!")] if page.width >= ROOMY else []
    broad = page.width >= BROAD
    columns += [("median |ln|", "r!"), ("90 % |ln|", "r!"), ("even median |ln|", "r!")] if broad else []
    names = said.baseline_names(groups) if broad else []
    columns += [(clean(name), "r") for name in names]
    shown = [*groups, whole] if whole is not None else groups
    rows: list[list[Cell]] = []
    for group in shown:
        last = group is whole
        wrong = said.outside(group)
        covered = Text(f"{'! ' if wrong else ''}{said.share(group.coverage)}", style="red" if wrong else "")
        cells: list[Cell] = [
            Text("all rows", style="bold") if last else said.label(group).rpartition("/")[2],
            said.number_words(group.rows),
            said.share(group.median_error),
            said.share(group.p90_error),
            covered,
            said.share(group.mean_error),
            said.share(group.bias, signed=True),
            said.share(group.within_25),
            said.log_error(group.median_log_error),
            said.log_error(group.p90_log_error),
            said.log_error(group.even_median_log_error),
        ]
        fixed = len(columns) - len(names)
        rows.append([*cells[:fixed], *(said.share(group.baselines.get(name)) for name in names)])
    return grid(*columns, rows=rows)


def _worst(validation: Validation) -> list[RenderableType]:
    if not validation.worst:
        return []
    parts: list[RenderableType] = [Text(""), heading(f"the {said.count(len(validation.worst), 'row')} furthest off")]
    for row in validation.worst:
        name = f"{clean(row.id)}: {said.row_words(row)}"
        lines = (said.miss_words(row), clean(row.explanation), clean(row.locator))
        parts += [indented(name), *(indented(line, by=4, style="dim") for line in lines if line)]
    return parts


def _unexpressed(validation: Validation, page: Page) -> list[RenderableType]:
    found = said.ranked(validation)
    if not found:
        return []
    columns = [("not expressed, because", "w"), ("rows", "r!")] + ([("from", "w")] if page.width >= ROOMY else [])
    rows = [[clean(u.reason), said.number_words(u.rows), said.sources_words(u)][: len(columns)] for u in found]
    return [Text(""), grid(*columns, rows=rows)]


def _contradictions(validation: Validation, page: Page) -> list[RenderableType]:
    found = validation.contradictions
    if not found:
        return []
    columns = [("contradicts physics", ""), ("measured", "r!"), ("limit", "r!"), ("why", "w")]
    rows = [
        [clean(c.id), said.measure(c.metric, c.measured), said.measure(c.metric, c.floor), clean(c.why)]
        for c in found[:SHOWN_ROWS]
    ]
    wide = page.width >= ROOMY
    table = grid(*columns[: None if wide else 3], rows=[row[: None if wide else 3] for row in rows])
    more = len(found) - SHOWN_ROWS
    rest = [indented(f"{more} more in --json and --html", style="dim")] if more > 0 else []
    return [Text(""), table, *rest]


def _worse(validation: Validation) -> list[RenderableType]:
    if not validation.regressions:
        return []
    lines = [indented(said.regression_words(r)) for r in validation.regressions[:SHOWN_ROWS]]
    more = len(validation.regressions) - SHOWN_ROWS
    rest = [indented(f"{more} more in --json and --html", style="dim")] if more > 0 else []
    return [Text(""), heading("worse than committed"), *lines, *rest]

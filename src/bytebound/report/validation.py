"""A validation in the terminal: errors, bias and coverage by group, the worst rows, and what cannot be expressed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report import validation_words as said
from bytebound.report.page import draw, grid, heading, indented, labelled
from bytebound.report.words import clean, moment
from bytebound.units import show_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from bytebound.documents.validation import GroupScore, Validation
    from bytebound.report.page import Cell, Page

SHOWN_GROUPS, SHOWN_ROWS = 12, 12
ROOMY, GAP, LONGEST_NAME = 76, 2, 28
"""Columns of a page that is not narrow, between two columns of a table, and of the longest name of a group."""


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
    """One row a group, all rows last, in as many columns as the page holds; ``!`` marks a coverage that is wrong."""
    shown = [*groups, whole] if whole is not None else [*groups]
    names = [_short(said.label(group).rpartition("/")[2]) for group in groups]
    first: list[Cell] = [*names, *([Text("all rows", style="bold")] if whole is not None else [])]
    columns, cells = [(title, "!")], [first]
    room = page.width - max(map(len, (title, *first)))
    for head, column in _figures(shown):
        room -= GAP + max(map(len, (head, *column)))
        if room < 0:
            break
        columns.append((head, "r!"))
        cells.append(column)
    return grid(*columns, rows=list(zip(*cells, strict=True)))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _figures(groups: Sequence[GroupScore]) -> list[tuple[str, list[Cell]]]:
    """The columns of figures, those a reader misses least at the end."""

    def each(show: Callable[[GroupScore], Cell]) -> list[Cell]:
        return [show(group) for group in groups]

    return [
        ("rows", each(lambda g: said.number_words(g.rows))),
        ("median", each(lambda g: said.share(g.median_error))),
        ("90 %", each(lambda g: said.share(g.p90_error))),
        ("coverage", each(_covered)),
        ("mean", each(lambda g: said.share(g.mean_error))),
        ("bias", each(lambda g: said.share(g.bias, signed=True))),
        ("within 25 %", each(lambda g: said.share(g.within_25))),
        *((clean(name), each(partial(_baseline, name))) for name in said.baseline_names(groups)),
        ("|ln|", each(lambda g: said.log_error(g.median_log_error))),
        ("90 % |ln|", each(lambda g: said.log_error(g.p90_log_error))),
        ("even |ln|", each(lambda g: said.log_error(g.even_median_log_error))),
    ]


def _baseline(name: str, group: GroupScore) -> Cell:
    return said.share(group.baselines.get(name))


def _covered(group: GroupScore) -> Cell:
    wrong = said.outside(group)
    return Text(f"{'! ' if wrong else ''}{said.share(group.coverage)}", style="red" if wrong else "")


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

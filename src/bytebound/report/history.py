"""What is kept, and two measurements side by side, in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.page import draw, grid, heading, indented, labelled, table_text
from bytebound.report.words import clean, percent
from bytebound.units import show_capacity, show_rate, show_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from bytebound.documents.comparison import Change, Comparison, Side
    from bytebound.documents.observation import Spread
    from bytebound.documents.record import Record
    from bytebound.report.page import Page

SIGNS = {"noise": "–", "faster": "✓", "slower": "✗"}
STYLES = {"noise": "dim", "faster": "green", "slower": "red"}


def history_text(records: Sequence[Record], page: Page) -> str:
    """Return the kept records, newest first, one a line."""
    if not records:
        return draw([heading("nothing kept yet"), Text("bytebound measure keeps its first result", style="dim")], page)
    rows = [(r.id, r.kind, _minute(r.when), r.machine or "–", r.title, r.host or "–") for r in records]
    columns = [("id", "!"), ("kind", ""), ("when", "!"), ("machine", ""), ("what", "w"), ("taken on", "w")]
    shown = len(columns) if page.wide else len(columns) - 1
    return table_text(
        title=f"{len(records)} kept",
        columns=columns[:shown],
        rows=[row[:shown] for row in rows],
        page=page,
        note="bytebound measure --compare A B: ids, their beginnings, latest or previous",
    )


def comparison_text(comparison: Comparison, page: Page) -> str:
    """Return two measurements side by side: the verdict, then every reading with its spread, then what to know."""
    sides = [(word, _side(side)) for word, side in (("before", comparison.before), ("after", comparison.after))]
    parts: list[RenderableType] = [heading(clean(comparison.sentence)), Text(""), labelled(sides), Text("")]
    if comparison.changes:
        parts += [_table(comparison.changes), Text("")]
    reasons = [
        (f"{clean(change.name)} {_where(change)}", clean(change.why)) for change in comparison.changes if change.why
    ]
    if reasons:
        parts += [labelled(reasons, style="dim"), Text("")]
    parts += [indented(clean(note)) for note in comparison.notes]
    for word, names in (("before", comparison.only_before), ("after", comparison.only_after)):
        if names:
            parts.append(indented(f"only {word}: {clean(', '.join(names))}", style="dim"))
    closing = "figures are best or, where that is steadier, median (10–90 %); noise: under 95 % sure of a difference"
    return draw([*parts, Text(closing, style="dim")], page)


def _table(changes: Sequence[Change]) -> RenderableType:
    rows = [
        (
            Text(f"{SIGNS[change.verdict]} {clean(change.name)}", style="bold" if change.headline else ""),
            _where(change),
            _figure(change, change.before),
            _figure(change, change.after),
            percent(change.ratio - 1, signed=True),
            Text(change.verdict, style=STYLES[change.verdict]),
            percent(min(change.confidence, 0.99)),
        )
        for change in changes
    ]
    columns = (
        ("reading", "!"),
        ("where", "w"),
        ("before", "!"),
        ("after", "!"),
        ("change", "r!"),
        ("verdict", "!"),
        ("sure", "r!"),
    )
    return grid(*columns, rows=rows)


def _where(change: Change) -> str:
    words = [_word(key, value) for key, value in change.where.items() if key != "kernel" and value != "all"]
    return ", ".join(words)


def _word(key: str, value: float | str) -> str:
    if isinstance(value, str):
        return clean(value) if key == "device" else f"{clean(key)} {clean(value)}"
    if key == "bytes":
        return show_capacity(value)
    return f"{value:g} {clean(key.removesuffix('s') if value == 1 else key)}"


def _figure(change: Change, spread: Spread) -> str:
    value = _show(spread.best if change.figure == "best" else spread.median, change.unit)
    if spread.samples == 1:
        return value
    (middle, _, unit), (low, _, unit_low) = value.rpartition(" "), _show(spread.p10, change.unit).rpartition(" ")
    high = _show(spread.p90, change.unit)
    if unit == unit_low == high.rpartition(" ")[2]:
        return f"{middle} ({low}–{high})"
    return f"{value} ({low} {unit_low}–{high})"


def _show(value: float, unit: str) -> str:
    if unit == "s":
        return show_time(value)
    return show_capacity(value) if unit == "B" else show_rate(value, unit)


def _side(side: Side) -> str:
    state = [clean(side.ladder), *([] if side.complete else ["incomplete"]), *([] if side.stable else ["not steady"])]
    quiet = "quiet" if side.disturbed == 0 else f"disturbed {percent(side.disturbed)} of the time"
    return f"{clean(side.id)} · {_minute(side.when)} · {clean(side.machine)} · {', '.join(state)}, {quiet}"


def _minute(when: str) -> str:
    return clean(when)[:16].replace("T", " ")

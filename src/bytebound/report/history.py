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
    rows = [(r.id, r.kind, _minute(r.when), r.title, r.machine or "–", r.host or "–") for r in records]
    columns = [("id", "!"), ("kind", ""), ("when", "!"), ("what", "w"), ("machine", ""), ("taken on", "w")]
    shown = len(columns) if page.wide else len(columns) - 2
    return table_text(
        title=f"{len(records)} kept",
        columns=columns[:shown],
        rows=[row[:shown] for row in rows],
        page=page,
        note="bytebound measure --compare A B: ids, their beginnings or ends, latest, previous",
    )


def comparison_text(comparison: Comparison, page: Page) -> str:
    """Return two measurements side by side: the verdict, then every reading with its spread, then what to know."""
    sides = [(word, _side(side)) for word, side in (("before", comparison.before), ("after", comparison.after))]
    parts: list[RenderableType] = [heading(clean(comparison.sentence)), Text(""), labelled(sides), Text("")]
    if comparison.changes:
        parts += [_table(comparison.changes), Text("")]
    reasons: dict[str, list[str]] = {}
    for change in comparison.changes:
        reasons.setdefault(clean(change.why), []).append(clean(change.name))
    parts += [indented(f"{why}: {', '.join(dict.fromkeys(names))}") for why, names in reasons.items() if why]
    parts += [indented(clean(note)) for note in comparison.notes]
    for word, labels in (("before", comparison.only_before), ("after", comparison.only_after)):
        if labels:
            parts.append(indented(f"only {word}: {clean(', '.join(labels))}", style="dim"))
    closing = "best or, where that is steadier, median (10–90 %); how sure a difference is, noise where under 95 %"
    return draw([*parts, Text(closing, style="dim")], page)


def _table(changes: Sequence[Change]) -> RenderableType:
    most = max((_number(change.where.get("threads")) for change in changes), default=0.0)
    rows = [
        (
            Text(f"{SIGNS[change.verdict]} {clean(change.name)}", style="bold" if change.headline else ""),
            _where(change, most),
            _figure(change, change.before),
            _figure(change, change.after),
            percent(change.ratio - 1, signed=True),
            Text(_verdict(change), style=STYLES[change.verdict]),
        )
        for change in changes
    ]
    columns = (("reading", "!"), ("where", "w"), ("before", "!"), ("after", "!"), ("change", "r!"), ("verdict", "!"))
    return grid(*columns, rows=rows)


def _verdict(change: Change) -> str:
    return "noise" if change.verdict == "noise" else f"{change.verdict} {percent(min(change.confidence, 0.99))}"


def _where(change: Change, most: float) -> str:
    """Return where a reading was taken: sizes and names, and threads where they are not as many as elsewhere."""
    words = []
    for key, value in change.where.items():
        if isinstance(value, str):
            words += [] if key == "kernel" or value == "all" else [clean(value)]
        elif key == "bytes":
            words.append(show_capacity(value))
        elif key == "threads":
            words += [] if value == most else [f"{value:g} thread{'s' * (value != 1)}"]
        else:
            words.append(f"{clean(key)} {value:g}")
    return ", ".join(words)


def _number(value: float | str | None) -> float:
    return value if isinstance(value, int | float) else 0.0


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

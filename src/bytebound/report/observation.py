"""An observed run in the terminal: where it stands on the measured roofline, and how far the prediction was off."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report import observed
from bytebound.report.page import draw, grid, heading, indented, labelled
from bytebound.report.plot import Curve, Mark, axis, plot, sparkline
from bytebound.report.words import clean, drawable, matrix_rate, moment, percent, quantity
from bytebound.units import show_rate, show_time, significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from bytebound.documents.observation import Observation, ObservedPhase
    from bytebound.report.observed import OperatorRow
    from bytebound.report.page import Cell, Page

SHOWN_PHASES, SHOWN_OPERATORS, SHOWN_ROWS = 8, 8, 12
PICTURE_WIDTH, PICTURE_ROWS = 100, 12
ROOMY = 76
FEW = 3
"""Phases up to which each is shown in full."""
LEAST_REQUESTS = 8
"""Requests from which their TTFT is worth a line of its own."""


def observation_text(observation: Observation, page: Page) -> str:
    """Return an observation for a terminal of ``page``'s width."""
    phases = list(zip(string.ascii_uppercase, observation.phases[:SHOWN_PHASES], strict=False))
    detailed = [phase for _, phase in phases if phase.operators][:2]
    letters = iter(string.ascii_lowercase)
    tables = [
        (phase, [(next(letters), row) for row in observed.operators(phase, observation, SHOWN_OPERATORS)])
        for phase in detailed
    ]
    parts: list[RenderableType] = [
        heading(_title(observation)),
        Text(observed.headline(observation)),
        *([Text(""), *_phases(phases, page)] if phases else []),
        *_picture(observation, phases, [pair for _, rows in tables for pair in rows], page),
    ]
    for phase, rows in tables:
        parts += [Text(""), Text(f"operators of {observed.phase_name(phase)}", style="bold"), _operators(rows, page)]
    left_out = len(observation.phases) - len(phases)
    if left_out > 0:
        parts.append(indented(f"{left_out} more phases in --json and --html", style="dim"))
    return draw([*parts, Text(""), *_run(observation, page)], page)


def _title(observation: Observation) -> str:
    run = observation.run
    engine = f"{clean(run.engine)} {clean(run.engine_version)}".strip()
    words = (clean(observation.model), engine, f"on {clean(observation.machine)}")
    return " · ".join(word for word in words if word)


def _phases(phases: Sequence[tuple[str, ObservedPhase]], page: Page) -> list[RenderableType]:
    """Every phase in a line where there are several, then each in full while they are few."""
    few = phases if len(phases) <= FEW else phases[: FEW - 1]
    parts: list[RenderableType] = [] if len(phases) <= FEW else [_overview(phases, page), Text("")]
    for letter, p in few:
        head = Text(f"{letter} ", style="bold red")
        head.append(f"{observed.phase_name(p)} {observed.verdict_words(p.verdict)}", style="default bold")
        parts += [head, labelled([row for row in _detail(p) if row[1]])]
    return parts


def _overview(phases: Sequence[tuple[str, ObservedPhase]], page: Page) -> RenderableType:
    columns = [("", "!"), ("phase", ""), ("context", "r!"), ("median", "r!"), ("predicted", "r!"), ("error", "r!")]
    columns += [("MBU", "r!"), ("batch", "r!"), ("MFU", "r!"), ("verdict", "w")] if page.width >= ROOMY else []
    rows: list[list[Cell]] = []
    for letter, p in phases:
        cells = [
            clean(p.name),
            observed.value_words(p.context),
            show_time(p.seconds.median),
            observed.predicted_words(p).partition(" (")[0],
            observed.error_words(p),
            percent(p.mbu),
            observed.value_words(p.batch),
            percent(p.mfu),
            clean(p.verdict) or "–",
        ]
        rows.append([Text(letter, style="bold red"), *cells[: len(columns) - 1]])
    return grid(*columns, rows=rows)


def _detail(p: ObservedPhase) -> list[tuple[str, str]]:
    said = "" if p.predicted_s is None else f"{observed.predicted_words(p)}, {observed.error_words(p)}"
    return [
        ("took", observed.spread_words(p.seconds)),
        ("predicted", f"{said}; {observed.grade_words(p.grade)}" if said else ""),
        ("moved", f"{quantity(p.bytes_per_s, 'B/s')}, MBU {observed.share_words(p.mbu, p.mbu_datasheet)}"),
        ("computed", f"{quantity(p.flop_per_s, 'FLOP/s')}, MFU {observed.share_words(p.mfu, p.mfu_datasheet)}"),
        ("verdict", ": ".join(filter(None, (clean(p.verdict), clean(p.sentence))))),
    ]


def _picture(
    observation: Observation,
    phases: Sequence[tuple[str, ObservedPhase]],
    operators: Sequence[tuple[str, OperatorRow]],
    page: Page,
) -> list[RenderableType]:
    """The roofline with phases as capitals and operators as small letters."""
    alone = [(letter, row) for letter, row in operators if row.count == 1]
    marks = [Mark(letter, row.intensity, row.flop_per_s, "default") for letter, row in alone]
    marks += [Mark(letter, p.intensity, p.flop_per_s, "bold red") for letter, p in phases]
    marks = [mark for mark in marks if drawable(mark.x, mark.y)]
    memory = observation.memory_bytes_per_s
    rates = sorted(
        ((rate, clean(name)) for name, rate in observation.flop_per_s.items() if drawable(rate)), reverse=True
    )[:4]
    if not (marks and rates and drawable(memory, rates[0][0] / memory)):
        return []
    top = rates[0][0]
    x = axis([*(mark.x for mark in marks), top / memory], lambda value: f"{value:g}", slack=3)
    y = axis(
        [*(mark.y for mark in marks), top, x.low * memory],
        lambda value: show_rate(value, "FLOP/s"),
        slack=1.2,
    )
    corner = ((x.low, x.low * memory), (top / memory, top), (x.high, top))
    curves = [
        Curve(f"{name} {matrix_rate(name, rate)}", corner if rate == top else ((rate / memory, rate), (x.high, rate)))
        for rate, name in rates
    ]
    columns = min(page.width, PICTURE_WIDTH)
    picture = plot(curves, marks, x=x, y=y, columns=columns, rows=PICTURE_ROWS, plain=page.ascii)
    title = f"roofline: FLOP/s by FLOP per byte, under memory at {quantity(memory, 'B/s')} as measured"
    return [Text(""), Text(title, style="bold"), *picture]


def _operators(rows: Sequence[tuple[str, OperatorRow]], page: Page) -> RenderableType:
    columns = [("", "!"), ("operator", ""), ("time", "r!"), ("share", "r!"), ("bytes/s", "r!"), ("of its roof", "r!")]
    columns += [("calls", "r!"), ("FLOP/B", "r!"), ("FLOP/s", "r!")] if page.width >= 100 else []
    cells: list[list[Cell]] = [
        [
            Text(letter, style="bold") if row.count == 1 else "",
            row.name,
            show_time(row.seconds),
            percent(row.share),
            quantity(row.bytes_per_s, "B/s"),
            percent(row.of_roof),
            observed.value_words(row.calls),
            significant(row.intensity),
            quantity(row.flop_per_s, "FLOP/s"),
        ][: len(columns)]
        for letter, row in rows
    ]
    return grid(*columns, rows=cells)


def _run(observation: Observation, page: Page) -> list[RenderableType]:
    run = observation.run
    rows = [
        *observed.answers(observation),
        ("requests", observed.requests_words(observation)),
        ("TTFT in turn", _in_turn(observation, page)),
        ("meanwhile", observed.canaries(observation)),
        ("load", observed.settings_words(run.load)),
        ("settings", observed.settings_words(run.settings)),
        ("metrics", observed.settings_words(dict(list(run.metrics.items())[:SHOWN_ROWS]))),
    ]
    remarks = observed.remarks(observation)
    rows += remarks[:SHOWN_ROWS]
    more = len(remarks) - SHOWN_ROWS
    rows += [("", f"{more} more in --json and --html")] if more > 0 else []
    rows.append(("record", f"{clean(run.id)}, {moment(run.when)}; ceilings of {clean(observation.measurement)}"))
    return [labelled([row for row in rows if row[1]], by=0)]


def _in_turn(observation: Observation, page: Page) -> str:
    waits = [
        r.first_token_s - r.due_s
        for r in sorted(observation.run.requests, key=lambda r: r.due_s)
        if r.first_token_s is not None
    ]
    if len(waits) < LEAST_REQUESTS:
        return ""
    line = sparkline(waits, most=min(page.width - 40, 60), plain=page.ascii)
    return f"{line} {show_time(min(waits))} to {show_time(max(waits))}"

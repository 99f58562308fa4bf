"""A small picture of curves and points on logarithmic axes, in braille dots or, where a terminal cannot, in ASCII."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.words import drawable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

BLANK, BRAILLE = " ", 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille cell, by row and column of its dots."""
SIGNS = "*+o#%&"
"""What draws the first, second, … curve in ASCII."""
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", ".:-=+*%#"
STYLES = ("cyan", "yellow", "green", "magenta", "blue", "red")
NEAR = ((0, 0), (1, 0), (-1, 0), (0, -1), (0, 1), (2, 0), (-2, 0))
"""Cells a mark may take, in this order, where another mark is already."""
BOX, PLAIN_BOX = ("│", "┤", "└", "─", "┴"), ("|", "+", "+", "-", "+")
"""The side, a tick on it, the corner, the floor, a tick on it."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points (x, y), named at its right end."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """One letter at a point, drawn over every curve."""

    letter: str
    x: float
    y: float
    style: str = "bold"


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis from ``low`` to ``high`` with sets of labelled ticks, the finest first."""

    low: float
    high: float
    ticks: tuple[tuple[tuple[float, str], ...], ...]

    def place(self, value: float, cells: int) -> float:
        """Return where ``value`` lies among ``cells`` cells; outside the axis is under 0 or beyond ``cells`` − 1."""
        return math.log(value / self.low) / math.log(self.high / self.low) * (cells - 1)


def axis(
    values: Iterable[float],
    show: Callable[[float], str],
    *,
    base: int = 10,
    slack: float = 1.0,
) -> Axis:
    """Return an axis that holds every positive finite value, widened by ``slack`` at both ends, ticked at round numbers.

    Args:
        values: what must lie on it; without any the axis runs from 1 to 10.
        show: how a tick is printed.
        base: of the powers that carry ticks.
        slack: factor by which the ends lie outside the values.
    """
    good = [value for value in values if drawable(value)]
    low, high = min(good, default=1.0) / slack, max(good, default=10.0) * slack
    if high < low * 2:
        low, high = low / 1.5, high * 1.5
    powers = range(math.floor(math.log(low, base)), math.ceil(math.log(high, base)) + 1)

    def ticks(steps: Sequence[int], every: int) -> tuple[tuple[float, str], ...]:
        each = (step * float(base) ** power for power in powers if power % every == 0 for step in steps)
        return tuple((value, bare(show(value))) for value in each if low * 0.999 <= value <= high * 1.001)

    coarse = [ticks((1,), every) for every in (1, 2, 3, 4, 5, 6, 8, 10, 15, 20)]
    fine = [ticks(range(1, 10), 1), ticks((1, 2, 5), 1)] if base == 10 else []
    if fine and (len(fine[1]) > 2 or len(fine[0]) > 12):
        fine = fine[1:]
    return Axis(low, high, (*fine, *coarse))


def bare(text: str) -> str:
    """Return a printed quantity without zeros after its point.

    Example:
        >>> bare("16.0 KiB"), bare("250 GB/s")
        ('16 KiB', '250 GB/s')
    """
    return re.sub(r"\.0+(?= |$)", "", text)


def plot(
    curves: Sequence[Curve],
    marks: Sequence[Mark] = (),
    *,
    x: Axis,
    y: Axis,
    columns: int,
    rows: int,
    spans: Sequence[tuple[float, float, str]] = (),
    plain: bool = False,
) -> list[Text]:
    """Return a picture as lines of text.

    Args:
        curves: drawn in this order, named at their right ends.
        marks: drawn over the curves; what lies outside is put on the edge.
        x: the axis along the bottom.
        y: the axis on the left.
        columns: width of the whole, labels included.
        rows: height of the field; two lines for the x axis come below, one for ``spans`` above.
        spans: named stretches of the x axis (from, to, name).
        plain: keep to ASCII.
    """
    ylabels = _sparse(y, rows, gap=lambda label: 2)  # noqa: ARG005 - one line a label, whatever its length
    left = max((len(label) for _, label in ylabels), default=0)
    names = [f"{SIGNS[i % len(SIGNS)]} {c.name}" if plain else c.name for i, c in enumerate(curves)]
    right = max((len(name) + 1 for name in names if name), default=0)
    width = max(columns - left - 2 - right, 8)
    cells = _drawn(curves, x=x, y=y, width=width, rows=rows, plain=plain)
    taken: set[tuple[int, int]] = set()
    for mark in (mark for mark in marks if drawable(mark.x, mark.y)):
        column, row = _cell(mark, x=x, y=y, width=width, rows=rows)
        around = [
            (column + right, row + down)
            for right, down in NEAR
            if 0 <= column + right < width and 0 <= row + down < rows
        ]
        place = next((near for near in around if near not in taken), (column, row))
        taken.add(place)
        cells[place] = (mark.letter, mark.style)
    ends = _ends(curves, names, y=y, rows=rows)
    bar, tick, corner, line, under = PLAIN_BOX if plain else BOX
    at = {rows - 1 - round(y.place(value, rows)): label for value, label in ylabels}
    lines = [_strip(spans, x=x, width=width, left=left + 2, bar=bar)] if spans else []
    for row in range(rows):
        text = Text(f"{at.get(row, ''):>{left}} {tick if row in at else bar}", style="dim")
        for column in range(width):
            char, style = cells.get((column, row), (BLANK, ""))
            text.append(char, style=style or "default not dim")
        name, style = ends.get(row, ("", ""))
        text.append(f" {name}" if name else "", style=f"{style} not dim")
        lines.append(text)
    xlabels = _sparse(x, width, gap=lambda label: len(label) + 2)
    rule = [under if any(round(x.place(v, width)) == c for v, _ in xlabels) else line for c in range(width)]
    lines.append(Text(" " * (left + 1) + corner + "".join(rule), style="dim"))
    lines.append(Text(_labels(xlabels, x, offset=left + 2, width=width, limit=columns), style="dim"))
    return lines


def _strip(spans: Sequence[tuple[float, float, str]], *, x: Axis, width: int, left: int, bar: str) -> Text:
    """Return the line that names stretches of the x axis, a bar where one ends and the next begins."""
    row = [BLANK] * width
    for number, (low, high, name) in enumerate(spans):
        start = min(max(round(x.place(max(low, x.low), width)), 0), width - 1)
        end = min(round(x.place(min(high, x.high), width)), width - 1)
        if number:
            row[start] = bar
        room = max(end - start - 1, 0)
        shown = name[:room]
        at = start + 1 + (room - len(shown)) // 2
        row[at : at + len(shown)] = shown
    return Text(BLANK * left + "".join(row).rstrip(), style="dim")


def _drawn(
    curves: Sequence[Curve], *, x: Axis, y: Axis, width: int, rows: int, plain: bool
) -> dict[tuple[int, int], tuple[str, str]]:
    wide, high = (1, 1) if plain else (2, 4)
    bits: dict[tuple[int, int], int] = {}
    cells: dict[tuple[int, int], tuple[str, str]] = {}
    for place, curve in enumerate(curves):
        style = STYLES[place % len(STYLES)]
        good = [(a, b) for a, b in curve.points if drawable(a, b)]
        dots = [(x.place(a, width * wide), (rows * high - 1) - y.place(b, rows * high)) for a, b in good]
        for column, row in _walk(dots):
            if not (0 <= column < width * wide and 0 <= row < rows * high):
                continue
            cell = (column // wide, row // high)
            bits[cell] = bits.get(cell, 0) | DOTS[row % high][column % wide]
            cells[cell] = (SIGNS[place % len(SIGNS)] if plain else chr(BRAILLE + bits[cell]), style)
    return cells


def _walk(dots: Sequence[tuple[float, float]]) -> Iterable[tuple[int, int]]:
    """Yield every dot on the straight lines from point to point."""
    if len(dots) == 1:
        yield round(dots[0][0]), round(dots[0][1])
    for (x0, y0), (x1, y1) in itertools.pairwise(dots):
        steps = max(math.ceil(max(abs(x1 - x0), abs(y1 - y0))), 1)
        for step in range(steps + 1):
            yield round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps)


def _cell(mark: Mark, *, x: Axis, y: Axis, width: int, rows: int) -> tuple[int, int]:
    column = round(x.place(mark.x, width))
    row = rows - 1 - round(y.place(mark.y, rows))
    return min(max(column, 0), width - 1), min(max(row, 0), rows - 1)


def _ends(curves: Sequence[Curve], names: Sequence[str], *, y: Axis, rows: int) -> dict[int, tuple[str, str]]:
    """Return row -> name beside the right end of each curve, moved to the nearest free row."""
    ends: dict[int, tuple[str, str]] = {}
    for place, (curve, name) in enumerate(zip(curves, names, strict=True)):
        good = [b for a, b in curve.points if drawable(a, b)]
        if not good or not curve.name:
            continue
        wanted = rows - 1 - round(y.place(good[-1], rows))
        free = [row for row in range(rows) if row not in ends]
        if free:
            ends[min(free, key=lambda row: abs(row - wanted))] = (name, STYLES[place % len(STYLES)])
    return ends


def _sparse(axis: Axis, cells: int, *, gap: Callable[[str], int]) -> tuple[tuple[float, str], ...]:
    """Return the finest ticks whose labels keep their distance."""
    fitting = []
    for ticks in axis.ticks:
        places = [(axis.place(value, cells), gap(label)) for value, label in ticks]
        if all(b - a >= (wide + other) / 2 for (a, wide), (b, other) in itertools.pairwise(places)):
            fitting.append(ticks)
    return max(fitting, key=len, default=())


def _labels(ticks: Sequence[tuple[float, str]], x: Axis, *, offset: int, width: int, limit: int) -> str:
    row = [BLANK] * limit
    for value, label in ticks:
        at = offset + round(x.place(value, width)) - len(label) // 2
        at = min(max(at, 0), limit - len(label))
        row[at : at + len(label)] = label
    return "".join(row[:limit]).rstrip()


def sparkline(values: Sequence[float], *, most: int, plain: bool = False) -> str:
    """Return values as a row of bars from the smallest to the largest, neighbours averaged into ``most`` bars.

    Example:
        >>> sparkline([1, 2, 3, 8], most=4), sparkline([1, 2, 3, 8], most=4, plain=True)
        ('▁▂▃█', '.:-#')
    """
    bars = PLAIN_BARS if plain else BARS
    good = [value for value in values if math.isfinite(value)]
    count = min(max(most, 1), len(good))
    edges = [round(i * len(good) / count) for i in range(count + 1)] if count else []
    means = [sum(good[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    step = (high - low) / (len(bars) - 1)
    return "".join(bars[round((mean - low) / step)] if step > 0 else bars[0] for mean in means)

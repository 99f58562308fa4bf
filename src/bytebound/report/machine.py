"""A measured machine in the terminal: its ceilings, the cache ladder as a picture, and how far to trust them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.facts import device_text
from bytebound.report.page import draw, grid, heading, indented, labelled
from bytebound.report.plot import Curve, axis, bare, plot
from bytebound.report.readings import (
    called,
    ceiling_names,
    ceilings,
    doubts,
    ladders,
    levels,
    machine_sentence,
    reported_caches,
    size_of,
    spread_out,
    theory,
    unit_of,
)
from bytebound.report.words import clean, moment, percent, quantity, span_of
from bytebound.units import show_capacity, show_rate, significant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bytebound.documents.device import Device
    from bytebound.documents.measurement import Measured
    from bytebound.report.page import Page

SHOWN_CURVES, SHOWN_LINES = 4, 12
PICTURE_WIDTH, PICTURE_ROWS = 100, 10
ROOMY, LONGEST = 116, 40


def machine_text(device: Device, page: Page, *, saved: str = "") -> str:
    """Return a machine for a terminal; ``saved`` says where its document was written.

    A device that was not measured is shown as the catalogue knows it.
    """
    measured = device.measured
    if measured is None:
        return device_text(device, page) + (draw([Text(f"saved {clean(saved)}")], page) if saved else "")
    parts: list[RenderableType] = [
        heading(_title(device, measured)),
        Text(machine_sentence(device)),
        Text(_run(measured), style="dim"),
        *(Text(doubt, style="yellow") for doubt in doubts(measured)),
        Text(""),
        _ceilings(measured, page),
        *_ladder(measured, page),
        *_levels(measured),
        *_missing(measured),
        Text(""),
        labelled([*([("saved", clean(saved))] if saved else []), ("next", "bytebound estimate MODEL --on here")], by=0),
    ]
    return draw(parts, page)


def _title(device: Device, measured: Measured) -> str:
    system = measured.system
    cores = f"{significant(system.cores_usable)} of {system.cores_online}"
    if system.cores_usable == system.cores_online:
        cores = f"{system.cores_online}"
    words = [
        clean(device.name),
        *([f"{cores} core{'' if cores == '1' else 's'}"] if device.kind == "cpu" else []),
        f"{show_capacity(device.memory_bytes.value)} memory",
        *([f"{system.numa_nodes} NUMA nodes"] if system.numa_nodes > 1 and device.kind == "cpu" else []),
        *(["virtual machine"] if system.virtual else []),
    ]
    return " · ".join(words)


def _run(measured: Measured) -> str:
    ladder = f"{clean(measured.ladder)} ladder"
    return f"measured {moment(measured.when)} in {significant(measured.seconds, 2)} s, {ladder}, {clean(measured.id)}"


def _ceilings(measured: Measured, page: Page) -> RenderableType:
    """Every ceiling in a line, a matrix rate with its share of what theory allows."""
    peaks = theory(measured)
    readings = [r for r in ceilings(measured) if not r.name.startswith("matrix.peak.")]
    columns = [("ceiling", "!" if page.width >= ROOMY else "w"), ("best", "r!"), ("median", "r!")]
    columns += [("10–90 %", "!")] if page.width >= 76 else []
    columns += [("how", "")] if page.width >= ROOMY else []
    rows = []
    for name, r in zip(ceiling_names(readings), readings, strict=True):
        share = f" ({percent(r.best / peaks[r.name])} of theory)" if peaks.get(r.name) else ""
        unit = unit_of(r)
        row = [
            f"{name}{share}" if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…",
            quantity(r.best, unit),
            quantity(r.median, unit),
            span_of(r.p10, r.p90, unit) if r.samples > 1 else "",
            clean(r.how) + (f"; {clean(r.note)}" if r.note else ""),
        ]
        rows.append(row[: len(columns)])
    return grid(*columns, rows=rows)


def _ladder(measured: Measured, page: Page) -> list[RenderableType]:
    """The cache ladder: how fast a working set of each size is read."""
    series = ladders(measured).get("memory.read", {})
    if not series:
        return []
    curves = [
        Curve(at if len(series) > 1 else "", tuple((size_of(r), r.best) for r in series[at]))
        for at in spread_out(list(series), SHOWN_CURVES)
    ]
    points = [point for curve in curves for point in curve.points]
    x = axis((size for size, _ in points), show_capacity, base=2)
    y = axis((rate for _, rate in points), lambda rate: show_rate(rate, "B/s"), slack=1.15)
    columns = min(page.width, PICTURE_WIDTH)
    edges = [c.bytes for c in levels(measured) if x.low < c.bytes < x.high]
    names = [clean(c.name) for c in levels(measured) if x.low < c.bytes < x.high]
    spans = list(zip([x.low, *edges], [*edges, x.high], [*names, "memory"], strict=True)) if edges else []
    picture = plot(curves, x=x, y=y, columns=columns, rows=PICTURE_ROWS, spans=spans, plain=page.ascii)
    title = "cache ladder: best read rate by working set" + (f", {next(iter(series))}" if len(series) == 1 else "")
    return [Text(""), Text(title, style="bold"), *picture]


def _levels(measured: Measured) -> list[RenderableType]:
    rows = [
        (clean(c.name), bare(show_capacity(c.bytes)), quantity(c.read_bytes_per_s, "B/s")) for c in levels(measured)
    ]
    told = reported_caches(measured)
    parts: list[RenderableType] = [indented(f"the system reports {told}", by=0, style="dim")] if told else []
    if not rows:
        return parts
    return [Text(""), grid(("level", "!"), ("holds, measured", "r!"), ("read at", "r!"), rows=rows), *parts]


def _missing(measured: Measured) -> list[RenderableType]:
    rows = [("not measured", f"{called(m.probe)}: {clean(m.why)}") for m in measured.missing[:SHOWN_LINES]]
    rows += [("note", clean(note)) for note in measured.notes[:SHOWN_LINES]]
    more = max(len(measured.missing) - SHOWN_LINES, 0) + max(len(measured.notes) - SHOWN_LINES, 0)
    parts: list[RenderableType] = [Text(""), labelled(rows, by=0)] if rows else []
    return [*parts, *([indented(f"{more} more in --json and --html", style="dim")] if more else [])]

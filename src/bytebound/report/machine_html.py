"""A measured machine as one page: ceilings, cache ladder, roofline, every reading and how quiet it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.report.html import page_html
from bytebound.report.machine_charts import ladder_charts, spread_chart
from bytebound.report.plot import bare
from bytebound.report.readings import (
    called,
    ceiling_names,
    ceilings,
    doubts,
    figures,
    levels,
    machine_sentence,
    memory_roofs,
    place_of,
    plain_number,
    reported_caches,
    unit_of,
)
from bytebound.report.roofline import machine_roofline
from bytebound.report.words import clean, glued, moment, quantity, span_of
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.device import Device, Figure
    from bytebound.documents.measurement import Measured, Reading, System

MOST_READINGS = 500
"""Rows of the table of all readings; a machine with more keeps them in its JSON document."""


def machine_html(device: Device) -> str:
    """Return a machine, measured or from the catalogue, as one self-contained page."""
    measured = device.measured
    best = ceilings(measured) if measured else []
    answers = list(zip(ceiling_names(best), best, strict=True))
    ladder = ladder_charts(measured) if measured else []
    roofline = machine_roofline(memory_roofs(device), {n: f.value for n, f in device.flop_per_s.items()})
    spread = spread_chart(answers)
    steady = spread if spread.rows else None
    return page_html(
        "machine.html.j2",
        title=f"Ceilings of {clean(device.name)}",
        charts=[*ladder, roofline, *([steady] if steady else [])],
        device=device,
        measured=measured,
        sentence=glued(machine_sentence(device)),
        meta=glued(_meta(device, measured)),
        tiles=_tiles(device, answers),
        ladder=ladder,
        caches=_caches(measured) if measured else [],
        reported=reported_caches(measured) if measured else "",
        roofline=roofline,
        answers=[row(name, r) for name, r in answers],
        readings=[row(named(r), r) for r in measured.readings[:MOST_READINGS]] if measured else [],
        left_out=max(len(measured.readings) - MOST_READINGS, 0) if measured else 0,
        steady=steady,
        doubts=doubts(measured) if measured else [],
        system=_system(measured) if measured else [],
        called=called,
        figures=[(name, _shown(f, unit), f.how, f.source, f.when) for name, f, unit in figures(device)],
    )


def named(reading: Reading) -> str:
    """Return a reading's name and where it was taken."""
    where = place_of(reading)
    return called(reading.name) + (f" ({where})" if where else "")


def row(name: str, r: Reading) -> tuple[str, ...]:
    """Return name, best, range of what counts, median, 10–90 %, samples, disturbed, how and note of a reading."""
    return (
        name,
        quantity(r.best, unit_of(r)),
        span_of(r.low, r.high, unit_of(r)),
        quantity(r.median, unit_of(r)),
        span_of(r.p10, r.p90, unit_of(r)),
        str(r.samples),
        str(r.disturbed),
        clean(r.how),
        clean(r.note),
    )


def _shown(figure: Figure, unit: str) -> str:
    span = span_of(figure.low, figure.high, unit) if figure.low is not None and figure.high is not None else ""
    return quantity(figure.value, unit) + (f" ({span})" if span else "")


def _meta(device: Device, measured: Measured | None) -> str:
    if measured is None:
        return f"{clean(device.vendor)} · {device.kind} · {device.status} · not measured: figures as published"
    system = measured.system
    cores = f"{plain_number(system.cores_usable)} of {system.cores_online} cores usable" if device.kind == "cpu" else ""
    where = "virtual machine" if system.virtual else clean(system.architecture)
    words = [
        cores,
        where,
        clean(system.os),
        f"measured {moment(measured.when)} in {plain_number(round(measured.seconds))} s",
    ]
    return " · ".join(word for word in words if word)


def _tiles(device: Device, answers: Sequence[tuple[str, Reading]]) -> list[tuple[str, str, str]]:
    """The ceilings to show large: name, value, range or remark."""
    tiles = []
    for name, figure, unit in figures(device):
        value, _, span = _shown(figure, unit).partition(" (")
        tiles.append((name, value, span.rstrip(")")))
    others = [(name, r) for name, r in answers if r.name.startswith(("memory.latency", "launch.", "disk.", "link."))]
    return tiles + [
        (name, quantity(r.best, unit_of(r)), f"median {quantity(r.median, unit_of(r))}") for name, r in others
    ]


def _caches(measured: Measured) -> list[tuple[str, str, str]]:
    return [
        (clean(c.name), bare(show_capacity(c.bytes)), quantity(c.read_bytes_per_s, "B/s")) for c in levels(measured)
    ]


def _system(measured: Measured) -> list[tuple[str, str]]:
    s = measured.system
    rows = [
        ("processor", " ".join(filter(None, (clean(s.cpu), clean(s.vendor), clean(s.architecture))))),
        ("cores", f"{plain_number(s.cores_usable)} usable of {s.cores_online}, {s.numa_nodes} NUMA node(s)"),
        ("caches as reported", reported_caches(measured)),
        ("instructions", ", ".join(map(clean, s.instructions))),
        ("memory", _memory(s)),
        ("accelerators", ", ".join(map(clean, s.accelerators))),
        ("operating system", clean(s.os)),
        ("software", ", ".join(f"{clean(name)} {clean(version)}" for name, version in s.software.items())),
    ]
    return [(name, text) for name, text in rows if text]


def _memory(system: System) -> str:
    sizes = (
        ("total", system.memory_total_bytes),
        ("usable", system.memory_usable_bytes),
        ("free", system.memory_free_bytes),
        ("swap", system.swap_bytes),
    )
    return ", ".join(f"{name} {show_capacity(size)}" for name, size in sizes)

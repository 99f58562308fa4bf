"""What is drawn from a machine's readings, for the terminal and the page alike: names, ladders, ceilings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bytebound.report.plot import bare
from bytebound.report.words import clean, matrix_rate, matrix_unit, quantity
from bytebound.units import show_capacity, significant

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bytebound.documents.device import Device, Figure
    from bytebound.documents.measurement import CacheLevel, Measured, Reading

KINDS = {
    "memory": "memory {}",
    "cache": "cache {}",
    "matrix": "matrix product, {}",
    "dequant": "{} weights × vector",
    "attention": "attention, {}",
    "canary": "{} canary",
    "launch": "launch, {}",
    "link": "link, {}",
    "disk": "disk {}",
}
"""First word of a reading's name -> how it is called. Readings are shown in this order."""
LADDERS = ("memory.", "cache.")
TELLING = ("threads", "node", "device", "from", "to", "memory", "ranks", "nodes")
"""Circumstances that make two ceilings of one name; under others (a matrix size, a library) the best is the ceiling."""
ONE = {"memory.read": (1.0,)}
"""Readings whose single-thread figure is worth a line of its own."""
HEADLINE = ("bf16", "fp16", "fp32")
"""The rate a headline names: the first of these that is known, else the highest."""


def called(name: str) -> str:
    """Return a reading's name in words.

    Example:
        >>> called("dequant.q8_0"), called("link.host-to-device"), called("matrix.peak.fp32")
        ('q8_0 weights × vector', 'link, host to device', 'theoretical peak, fp32')
    """
    if name.startswith("matrix.peak."):
        return f"theoretical peak, {clean(name[12:])}"
    kind, _, what = clean(name).partition(".")
    return KINDS.get(kind, f"{kind} {{}}").format(what.replace(".", " ").replace("-", " ")).strip()


def place_of(reading: Reading, keys: Collection[str] | None = None) -> str:
    """Return at which size, thread count, node or device a reading was taken, in words; only ``keys`` where given."""
    shown = {key: value for key, value in reading.where.items() if key in keys} if keys is not None else reading.where
    return ", ".join(_part(key, value) for key, value in shown.items() if (key, value) != ("node", "all"))


def _part(key: str, value: float | str) -> str:
    if key == "bytes" and isinstance(value, int | float):
        return show_capacity(value)
    shown = clean(value) if isinstance(value, str) else plain_number(value)
    if key == "threads":
        return f"{shown} thread" + ("" if shown == "1" else "s")
    return shown if key in {"device", "dtype", "library", "memory"} else f"{clean(key)} {shown}"


def plain_number(value: float) -> str:
    """Return a count without decimals, anything else with three digits.

    Example:
        >>> plain_number(2.0), plain_number(1.5)
        ('2', '1.50')
    """
    return f"{value:,.0f}".replace(",", " ") if float(value).is_integer() else significant(value)


def size_of(reading: Reading) -> float:
    """Return the working set [bytes] of a reading, 0 where it has none."""
    value = reading.where.get("bytes", 0.0)
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0


def threads_of(reading: Reading) -> float:
    """Return the thread count of a reading, 0 where it has none."""
    value = reading.where.get("threads", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def ladders(measured: Measured) -> dict[str, dict[str, list[Reading]]]:
    """Return reading name -> where (threads, node, device, in words; most threads first) -> readings by size.

    Only what was read at three sizes or more is a ladder.
    """
    found: dict[str, dict[str, list[Reading]]] = {}
    for reading in sorted(measured.readings, key=lambda r: (-threads_of(r), size_of(r))):
        if reading.name.startswith(LADDERS) and size_of(reading) > 0 and reading.best > 0:
            found.setdefault(reading.name, {}).setdefault(place_of(reading, TELLING), []).append(reading)
    kept = {name: {at: r for at, r in series.items() if len(r) > 2} for name, series in found.items()}
    return {name: series for name, series in kept.items() if series}


def ceiling_names(readings: Sequence[Reading]) -> list[str]:
    """Return each ceiling's name, with the circumstances that tell it from others of the same name."""
    names = []
    for r in readings:
        same = [other.where for other in readings if other.name == r.name]
        keys = [key for key in TELLING if len({str(where.get(key)) for where in same}) > 1]
        where = place_of(r, [*keys, "threads"] if r.name.startswith(LADDERS) else keys)
        names.append(called(r.name) + (f" ({where})" if where else ""))
    return names


def unit_of(reading: Reading) -> str:
    """Return the unit to print: integers are operations, not floating-point ones."""
    return matrix_unit(reading.name.rpartition(".")[2]) if reading.name.startswith("matrix.") else reading.unit


def theory(measured: Measured) -> dict[str, float]:
    """Return name of a matrix reading -> the rate that theory allows it."""
    return {
        r.name.replace("matrix.peak.", "matrix."): r.best
        for r in measured.readings
        if r.name.startswith("matrix.peak.")
    }


def reported_caches(measured: Measured) -> str:
    """Return the caches as the system reports them, in words."""
    sizes = measured.system.reported_caches.items()
    return ", ".join(
        f"{clean(name).capitalize()} {bare(show_capacity(size))}" for name, size in sizes if math.isfinite(size)
    )


def spread_out(names: Sequence[str], most: int) -> list[str]:
    """Return ``most`` of ``names`` at even steps, the first and the last among them."""
    if len(names) <= most:
        return list(names)
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def ceilings(measured: Measured) -> list[Reading]:
    """Return the readings that answer: of a ladder the largest size with all threads (read with one, too); all others."""
    groups: dict[tuple[str, str], list[Reading]] = {}
    for reading in sorted(measured.readings, key=lambda r: -threads_of(r)):
        keys = TELLING if reading.name.startswith(LADDERS) else TELLING[1:]
        groups.setdefault((reading.name, place_of(reading, keys)), []).append(reading)
    answers = [max(group, key=_answer) for group in groups.values()]
    top = {name: max(threads_of(r) for r in answers if r.name == name) for name in {r.name for r in answers}}
    kept = [
        r
        for r in answers
        if not r.name.startswith(LADDERS)
        or threads_of(r) in {*ONE.get(r.name, ()), top[r.name]}
        or r.where.get("node", "all") != "all"
    ]
    kinds = {kind: place for place, kind in enumerate(KINDS)}
    names = list(dict.fromkeys(r.name for r in kept))
    return sorted(kept, key=lambda r: (kinds.get(r.name.partition(".")[0], len(kinds)), names.index(r.name)))


def _answer(reading: Reading) -> float:
    """A memory ceiling is what the largest array gives; of a message or a matrix size, the best."""
    if reading.name.startswith("memory."):
        return size_of(reading)
    return -reading.best if reading.unit == "s" else reading.best


def levels(measured: Measured) -> list[CacheLevel]:
    """Return the measured cache levels that hold anything, smallest first."""
    return sorted((c for c in measured.caches if c.bytes > 0), key=lambda c: c.bytes)


def doubts(measured: Measured) -> list[str]:
    """Return, as sentences, why the figures may be off: what was disturbed, unstable or cut short."""
    found = []
    if not measured.complete:
        found.append("Incomplete: the run was interrupted or parts of it failed; what is shown was finished.")
    if not measured.stable:
        found.append("Unstable: memory bandwidth at the end differed by over 5 % from the start; measure again.")
    if measured.disturbed > 0.005:
        share = f"{significant(100 * measured.disturbed, 2)} %"
        found.append(f"Disturbed: others used the processor during {share} of the samples.")
    return [*found, *(f"Limit: {clean(limit)}" for limit in measured.system.limits)]


def machine_sentence(device: Device) -> str:
    """Return what the machine can do in one sentence."""
    reads = f"Reads memory at {quantity(device.memory_bytes_per_s.value, 'B/s')}"
    if not device.flop_per_s:
        return f"{reads}."
    fastest = max(device.flop_per_s, key=lambda dtype: device.flop_per_s[dtype].value)
    dtype = next((name for name in HEADLINE if name in device.flop_per_s), fastest)
    rate = device.flop_per_s[dtype].value
    turn = significant(rate / device.memory_bytes_per_s.value, 2)
    return (
        f"{reads} and multiplies matrices at {matrix_rate(dtype, rate)} in {clean(dtype)}: "
        f"work under {turn} FLOP per byte waits for memory."
    )


def figures(device: Device) -> list[tuple[str, Figure, str]]:
    """Return every ceiling the device document states: name, figure, unit."""
    stated = [
        ("memory bandwidth", device.memory_bytes_per_s, "B/s"),
        ("memory", device.memory_bytes, "B"),
        *(
            (f"matrix product, {clean(dtype)}", figure, matrix_unit(dtype))
            for dtype, figure in device.flop_per_s.items()
        ),
        ("cache", device.cache_bytes, "B"),
        (f"link {clean(device.scaleup_link)}".strip(), device.scaleup_bytes_per_s, "B/s"),
        ("network", device.scaleout_bytes_per_s, "B/s"),
        (f"host link {clean(device.host_link)}".strip(), device.host_bytes_per_s, "B/s"),
        ("power", device.power_w, "W"),
    ]
    return [(name, figure, unit) for name, figure, unit in stated if figure is not None]


def memory_roofs(device: Device) -> dict[str, float]:
    """Return memory level -> read rate [B/s], measured caches first."""
    measured = device.measured
    caches = {clean(c.name): c.read_bytes_per_s for c in levels(measured)} if measured else {}
    if measured and not caches:
        caches = {clean(r.name[6:]).upper(): r.best for r in measured.readings if r.name.startswith("cache.")}
    return {**caches, clean(device.memory_type) or "memory": device.memory_bytes_per_s.value}

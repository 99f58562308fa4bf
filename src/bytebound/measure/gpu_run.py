"""Every probe of an accelerator in turn, and the device drawn from what they found, held against its datasheet."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.documents.device import Device, Figure
from bytebound.documents.measurement import Missing, Reading
from bytebound.errors import DocumentError, UnfinishedError, UnknownNameError
from bytebound.facts.catalogue import load_catalogue
from bytebound.facts.rows import rate_unit
from bytebound.measure.gpu import ask_nvidia, find_accelerators
from bytebound.measure.gpu_decode import decode_attention, decode_matvec, launches
from bytebound.measure.gpu_links import collectives, peer_copies
from bytebound.measure.gpu_matrix import best_rates, matrix_rates
from bytebound.measure.gpu_memory import NOT_CACHED, cache_of, host_link, memory_bandwidth, memory_ladder, usable_memory
from bytebound.measure.gpu_time import FULL, QUICK, TINY, failures, why_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from bytebound.measure.gpu import Accelerator
    from bytebound.measure.gpu_time import Effort, Outcome

VENDORS = {"cuda": "NVIDIA", "rocm": "AMD", "mps": "Apple", "xpu": "Intel", "cpu": "this processor"}
OVER_DATASHEET = 1.05
"""A reading over its datasheet ceiling by more than this is flagged: the sheet, the device's name or the probe is wrong."""
BUSY_PERCENT = 5.0
DIRECT_LINKS = ("link.device-to-device", "link.all-gather")
"""What a link's own rate bounds. A switch that adds up (NVLink SHARP) lifts an all-reduce's bus bandwidth above it."""


def probe_accelerators(
    kind: str, *, quick: bool, budget_s: float, on_progress: Callable[[str], None]
) -> tuple[Device | None, tuple[Reading, ...], tuple[Missing, ...]]:
    """Measure the accelerators of ``kind`` and return the device they make, every reading, and what is missing and why.

    No accelerator is no error: the device is then None and a sentence says why. To keep finished parts of a run that
    may be interrupted, find them with ``find_accelerators``, iterate over ``accelerator_outcomes`` and ask ``device_of``.

    Args:
        kind: ``auto``, ``cuda``, ``rocm``, ``mps``, ``xpu``, or ``cpu-for-tests``.
        quick: fewer sizes and samples, and no collectives.
        budget_s: seconds after which no further round starts; what a probe must do at least is done in any case.
        on_progress: told what is measured next.

    Raises:
        UnknownNameError: no such kind.
    """
    accelerators, missing = find_accelerators(kind)
    if not accelerators:
        return None, (), missing
    effort = TINY if kind == "cpu-for-tests" else QUICK if quick else FULL
    outcomes = list(accelerator_outcomes(accelerators, effort, quick=quick, budget_s=budget_s, on_progress=on_progress))
    readings = tuple(item for item in outcomes if isinstance(item, Reading))
    absent = tuple(item for item in outcomes if isinstance(item, Missing))
    return device_of(accelerators, readings), readings, absent


def accelerator_outcomes(
    accelerators: Sequence[Accelerator],
    effort: Effort,
    *,
    quick: bool = False,
    budget_s: float = 120.0,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> Iterator[Outcome]:
    """Yield each reading as it is finished, and each sentence on what could not be had, of the first accelerator.

    Others are measured through their links to the first; a device that hangs or is lost ends the run, in a sentence.
    """
    first = accelerators[0]
    seen: list[Reading] = []
    until = time.perf_counter() + budget_s
    for what, weight, rest, probe in _parts(accelerators, effort, quick=quick):
        on_progress(f"{first.name}: {what}")
        share = max(until - time.perf_counter(), 0.0) * weight / rest
        try:
            for outcome in probe(share):
                flagged = against_datasheet(first, outcome) if isinstance(outcome, Reading) else outcome
                if isinstance(flagged, Reading):
                    seen.append(flagged)
                yield flagged
            if what == "memory":
                yield cache_of(first, seen)
        except UnfinishedError as error:
            yield Missing(probe=what, why=f"{error}; the rest was not measured")
            return
        except failures() as error:
            yield Missing(probe=what, why=why_failed(first, error))


Part = tuple[str, float, float, "Callable[[float], Iterable[Outcome]]"]


def _parts(accelerators: Sequence[Accelerator], effort: Effort, *, quick: bool) -> list[Part]:
    """What is measured, in order: its name, its weight in the budget, the weight still to come with it, and how."""
    first = accelerators[0]
    parts: list[tuple[str, float, Callable[[float], Iterable[Outcome]]]] = [
        ("driver", 0.1, lambda _budget: driver_says(first)),
        ("usable memory", 0.1, lambda _budget: [usable_memory(first)]),
        ("memory", 8, lambda budget: memory_ladder(first, effort, budget_s=budget)),
        ("matrix rates", 6, lambda budget: matrix_rates(first, effort, budget_s=budget)),
        ("decode attention", 3, lambda budget: decode_attention(first, effort, budget_s=budget)),
        ("decode matrix-vector product", 1, lambda budget: decode_matvec(first, effort, budget_s=budget)),
        ("launches", 1, lambda budget: launches(first, effort, budget_s=budget)),
        ("host link", 2, lambda budget: host_link(first, effort, budget_s=budget)),
    ]
    if len(accelerators) > 1:
        parts.append(("links", 2, lambda budget: peer_copies(accelerators, effort, budget_s=budget)))
    if len(accelerators) > 1 and not quick:
        parts.append(
            ("collectives", 6, lambda budget: collectives(first.kind, len(accelerators), budget_s=max(budget, 30)))
        )
    return [(name, weight, sum(item[1] for item in parts[at:]), run) for at, (name, weight, run) in enumerate(parts)]


def driver_says(accelerator: Accelerator) -> Iterator[Outcome]:
    """Yield ``power.limit`` [W] and ``clock.highest`` [Hz] where ``nvidia-smi`` tells, and whether others use the device."""
    if accelerator.kind != "cuda":
        return
    import torch  # noqa: PLC0415 - optional

    says = torch.cuda.get_device_properties(accelerator.index)
    card = f"GPU-{str(getattr(says, 'uuid', '')).removeprefix('GPU-')}"
    rows = ask_nvidia("power.limit", "clocks.max.sm", "utilization.gpu", card=card.removesuffix("GPU-"))
    if len(rows) != 1:
        yield Missing(probe="power.limit", why=f"nvidia-smi says nothing of {accelerator.name}")
        return
    watts, megahertz, busy = (float(cell) if re.fullmatch(r"\d+(\.\d+)?", cell) else None for cell in rows[0])
    for name, unit, value in (("power.limit", "W", watts), ("clock.highest", "Hz", megahertz and megahertz * 1e6)):
        if value:
            yield _single(name, unit, value, "nvidia-smi", accelerator.device)
    if busy is not None and busy > BUSY_PERCENT:
        why = (
            f"others kept {accelerator.name} busy {busy:.0f} % of the time when measuring began: figures may be too low"
        )
        yield Missing(probe="gpu.quiet", why=why)


def _single(name: str, unit: str, value: float, how: str, device: str) -> Reading:
    from bytebound.measure.sampling import Probe, Sample, reading  # noqa: PLC0415

    return reading(Probe(name, unit, value, lambda: None, how, {"device": device}), [Sample(1.0, 0.0, 0.0)])


@dataclass(frozen=True, slots=True)
class Sheet:
    """What the catalogue says of a device we found by its name: the id, and the fields of a Device that are known."""

    id: str
    family: str
    memory_type: str
    scaleup_link: str
    host_link: str
    figures: dict[str, Figure]


def datasheet(name: str) -> Sheet | None:
    """Return the catalogue's entry for the device the driver calls ``name`` (an id or a listed alias), or None."""
    try:
        fields = load_catalogue().fields(name)
    except (UnknownNameError, DocumentError):
        return None
    figures = {
        f"matrix.{dtype}": Figure.model_validate(item) for dtype, item in (fields.get("flop_per_s") or {}).items()
    }
    for field in ("memory_bytes_per_s", "cache_bytes", "scaleup_bytes_per_s", "host_bytes_per_s", "power_w"):
        if fields.get(field) is not None:
            figures[field] = Figure.model_validate(fields[field])
    words = {key: str(fields.get(key, "")) for key in ("id", "family", "memory_type", "scaleup_link", "host_link")}
    return Sheet(figures=figures, **words)


def against_datasheet(accelerator: Accelerator, item: Reading) -> Reading:
    """Return the reading, with a note if it is over 5 % above the ceiling the datasheet gives: physics forbids that."""
    sheet = datasheet(accelerator.name)
    if sheet is None:
        return item
    told = sheet.figures.get("cache_bytes")
    cache = max(accelerator.cache_bytes, told.value if told else 0.0)
    ceiling = sheet.figures.get(_ceiling_of(item, cache))
    if ceiling is None or item.best <= OVER_DATASHEET * ceiling.value:
        return item
    over = (
        f"FLAG: {item.best / ceiling.value:.2f} times the datasheet's {ceiling.value:.4g} {ceiling.unit} of {sheet.id}"
    )
    return item.model_copy(update={"note": f"{over}; {item.note}"[:2000]})


def _ceiling_of(item: Reading, cache_bytes: float) -> str:
    """Name the datasheet figure that bounds a reading, or return an empty string: arrays the cache helps are not bounded."""
    moved = float(item.where.get("bytes", 0.0))
    if item.name.startswith(("memory.", "attention.decode", "dequant.")) and item.unit == "B/s":
        small = "bytes" in item.where and moved < NOT_CACHED * cache_bytes
        return "" if small else "memory_bytes_per_s"
    if item.name in ("link.host-to-device", "link.device-to-host"):
        return "host_bytes_per_s"
    if item.name in DIRECT_LINKS:
        return "scaleup_bytes_per_s"
    return item.name if item.name.startswith("matrix.") else ""


def device_of(
    accelerators: Sequence[Accelerator], readings: Sequence[Reading], *, source: str = "bytebound measure"
) -> Device | None:
    """Return the device the readings make, or None if its memory or no matrix rate is known.

    Every figure is measured; only rates that could not be measured, the power and the names of links are the catalogue's,
    with its source. Memory bandwidth is the best read of an array too large for the cache.

    Args:
        accelerators: as found; the first was measured.
        readings: of it.
        source: told with every measured figure.
    """
    first = accelerators[0]
    sheet = datasheet(first.name)
    told = sheet.figures if sheet else {}
    best = memory_bandwidth(first, readings)
    rates = {
        dtype: _figure(item, source).model_copy(update={"unit": rate_unit(dtype)})
        for dtype, item in best_rates(tuple(readings)).items()
    }
    rates |= {
        name.removeprefix("matrix."): item
        for name, item in told.items()
        if name.startswith("matrix.") and name.removeprefix("matrix.") not in rates
    }
    if best is None or not rates:
        return None
    links = [item for item in readings if item.name in DIRECT_LINKS]
    host = [item for item in readings if item.name == "link.host-to-device"]
    power = [item for item in readings if item.name == "power.limit"]
    cache = next((item for item in readings if item.name == "cache.l2"), None)
    flagged = [item.name for item in readings if item.note.startswith("FLAG")]
    size = first.cache_bytes or (float(cache.where["edge_bytes"]) if cache else 0.0)
    when = best.when
    return Device(
        id=sheet.id if sheet else re.sub(r"[^a-z0-9]+", "-", first.name.lower()).strip("-") or "gpu",
        name=first.name,
        vendor=VENDORS[first.kind],
        kind="cpu" if first.kind == "cpu" else "apple-soc" if first.kind == "mps" else "gpu",
        family=sheet.family if sheet else "generic",
        confidence="low" if flagged else "high",
        memory_type=sheet.memory_type if sheet else "",
        memory_bytes=_plain(first.memory_bytes, "B", f"{source}: the driver's total", when),
        memory_bytes_per_s=_figure(best, source),
        flop_per_s=rates,
        cache_bytes=_plain(
            size, "B", f"{source}: last-level cache, {cache.note if cache else 'as the driver says'}", when
        )
        if size
        else None,
        scaleup_link=sheet.scaleup_link if sheet and links else "",
        scaleup_bytes_per_s=_figure(max(links, key=lambda item: item.best), source) if links else None,
        scaleup_devices=len(accelerators) if links else 1,
        host_link=sheet.host_link if sheet else "",
        host_bytes_per_s=_figure(max(host, key=lambda item: item.best), source) if host else None,
        power_w=_figure(power[0], source) if power else told.get("power_w"),
        notes=f"over the datasheet by more than 5 %: {', '.join(dict.fromkeys(flagged))}" if flagged else "",
    )


def _figure(item: Reading, source: str) -> Figure:
    """Return the best of a reading as a figure, with its range."""
    low, high = min(item.low, item.best), max(item.high, item.best)
    told = f"{source}: {item.name}, {item.how}"[:2000]
    return Figure(value=item.best, unit=item.unit, low=low, high=high, how="measured", source=told, when=item.when)


def _plain(value: float, unit: str, source: str, when: str) -> Figure:
    return Figure(value=value, unit=unit, how="measured", source=source[:2000], when=when)

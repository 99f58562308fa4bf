"""From readings to a Device whose ceilings they are, and the file that ``here`` stands for."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from bytebound.documents.device import Device, Figure
from bytebound.documents.values import to_json
from bytebound.errors import ByteboundError, UnfinishedError
from bytebound.facts.machines import here_file
from bytebound.measure.compute import ceilings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bytebound.documents.measurement import Measured, Reading, System

DRAM = ("memory.read", "canary.read")
_NOISE = re.compile(r"\((r|tm)\)|\b(cpu|processor|\d+-core|with .* graphics)\b|@.*", re.IGNORECASE)


def cpu_name(system: System, code_name: str = "") -> str:
    """Return the processor in as few words as name it; the code name where the model has no number.

    Example:
        "Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz" -> "Intel Xeon Platinum 8480+"
    """
    words = " ".join(_NOISE.sub(" ", system.cpu).split()) or system.architecture or "processor"
    if code_name and " or " not in code_name and not re.search(r"\d{3}", words):
        words = f"{words} {code_name}"
    return words if not system.vendor or system.vendor.lower() in words.lower() else f"{system.vendor} {words}"


def device_id(name: str, cores: float) -> str:
    """Return an id such as ``amd-epyc-genoa-2c``."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-")
    return f"{slug or 'processor'}-{cores:g}c"


def family_of(system: System) -> str:
    """Return the family of ``families.csv`` whose efficiencies fit this processor."""
    machine = system.architecture.lower()
    if machine in ("x86_64", "amd64", "i686"):
        return "cpu-x86"
    return "cpu-arm" if machine.startswith(("arm", "aarch")) else "generic"


def dram_read(readings: Sequence[Reading]) -> Reading | None:
    """Return the best read of memory with most threads: the ladder's at its largest size, or the canary's.

    A canary of less than half that size does not count: it may lie in a cache.
    """
    reads = [r for r in readings if r.name in DRAM and r.where.get("node") == "all"]
    most = max((float(r.where["threads"]) for r in reads), default=0.0)
    reads = [r for r in reads if r.where["threads"] == most]
    last = max((float(r.where["bytes"]) for r in reads if r.name == "memory.read"), default=0.0)
    known = [r for r in reads if float(r.where["bytes"]) >= (last / 2 if r.name == "canary.read" else last)]
    return max(known, key=lambda r: r.best, default=None)


def cpu_device(measured: Measured, name: str) -> Device:
    """Return the processor as a device; its memory bandwidth is the read-only ceiling, its rates the best products.

    Where no matrix product was measured, the fp32 rate is that of multiply-adds in registers. Memory is what this
    process may hold at most, with what was free at the time as the lower end.

    Raises:
        UnfinishedError: nothing was measured that gives a memory bandwidth or a rate.
    """
    system, readings = measured.system, measured.readings
    read = dram_read(readings)
    rates = dict(ceilings(readings))
    fallback = next((r for r in readings if r.name == "canary.fma"), None)
    if "fp32" not in rates and fallback is not None:
        rates["fp32"] = fallback
    if read is None or not rates:
        raise UnfinishedError("too little was measured to say what this machine can do", mend="measure again")
    source = f"bytebound measure {measured.id}"
    cache = None
    if measured.caches:
        last = measured.caches[-1]
        edge = f"{source}, edge of {last.name} as measured"
        cache = Figure(value=last.bytes, unit="B", how="measured", source=edge, when=measured.when)
    free = min(system.memory_free_bytes, system.memory_usable_bytes)
    return Device(
        id=device_id(name, system.cores_usable),
        name=name,
        vendor=system.vendor,
        kind="cpu",
        family=family_of(system),
        confidence="high" if measured.complete and measured.stable and measured.disturbed < 0.1 else "medium",
        memory_bytes=Figure(
            value=system.memory_usable_bytes, low=free or None, unit="B", how="measured", source=source, when=measured.when
        ),
        memory_bytes_per_s=_figure(read, source),
        flop_per_s={dtype: _figure(r, f"{source}, {r.name}, {r.where.get('library', r.how)}") for dtype, r in rates.items()},
        cache_bytes=cache,
        notes="; ".join(("the processor this was run on", *system.limits)),
        measured=measured,
    )  # fmt: skip


def _figure(reading: Reading, source: str) -> Figure:
    """Return the best of a reading as a ceiling, between the ends of its range."""
    return Figure(
        value=reading.best, low=min(reading.low, reading.best) or None, high=max(reading.high, reading.best),
        unit=reading.unit, how="measured", source=source[:2000], when=reading.when,
    )  # fmt: skip


def save_here(device: Device) -> Path:
    """Write ``device`` as the machine that ``here`` stands for, whole or not at all, and return the file.

    Raises:
        UnfinishedError: the data folder cannot be written.
    """
    path = here_file()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(to_json(device), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UnfinishedError(
            f"cannot save the measured machine: {error.strerror}", place=str(path),
            mend="set BYTEBOUND_DATA to a folder that can be written",
        ) from None  # fmt: skip
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)
    return path


def complete_here() -> str:
    """Return when the complete measurement that ``here`` stands for was taken; empty where there is none."""
    from bytebound.facts.machines import find_machine  # noqa: PLC0415

    try:
        found = find_machine("here").device.measured if here_file().is_file() else None
    except ByteboundError:  # not one of ours, or damaged: it may be replaced
        return ""
    return found.when if found is not None and found.complete else ""

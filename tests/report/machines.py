"""Fabricated machines and runs with round numbers: a two-core processor, a large accelerator, a decode run on the first."""

from __future__ import annotations

from bytebound.documents.device import Device, Figure
from bytebound.documents.measurement import CacheLevel, Measured, Missing, Reading, System

KIB, MIB, GIB = 2.0**10, 2.0**20, 2.0**30
SIZES = tuple(16 * KIB * 2**i for i in range(17))  # 16 KiB to 1 GiB
READ = (120, 133, 116, 108, 99, 97, 96, 75, 47, 43, 42, 24.5, 24, 24, 24, 24, 24)  # GB/s, both threads


def reading(name: str, value: float, unit: str, **where: float | str) -> Reading:
    """A reading of 12 samples whose median is 4 % under its best."""
    slow = value * 1.04 if unit == "s" else value * 0.96
    worst = value * 1.1 if unit == "s" else value * 0.9
    ends = sorted((value, worst))
    return Reading(
        name=name, unit=unit, best=value, median=slow, p10=ends[0], p90=ends[1], low=ends[0], high=ends[1],
        samples=12, disturbed=1, where=where, how="numba, four streams a thread", when="2026-11-22T10:00:00+00:00",
    )  # fmt: skip


def figure(value: float, unit: str) -> Figure:
    """A measured figure, known to 2 %."""
    return Figure(
        value=value, unit=unit, low=value * 0.98, high=value * 1.01, how="measured", source="bytebound measure m-1",
        when="2026-11-22",
    )  # fmt: skip


def ladder() -> list[Reading]:
    """Read, write and copy at every size, with one thread and with two."""
    found = []
    for kernel, share in (("read", 1.0), ("write", 0.55), ("copy", 0.8), ("triad", 0.85)):
        for threads in (1.0, 2.0):
            found += [
                reading(f"memory.{kernel}", 1e9 * rate * share * threads / 2, "B/s", bytes=size, threads=threads)
                for size, rate in zip(SIZES, READ, strict=True)
            ]
    waits = (1.7, 5, 5.5, 6, 6.7, 10, 14, 108, 111, 109, 112, 112, 115, 118, 138, 182, 187)
    return found + [
        reading("memory.latency", wait * 1e-9, "s", bytes=size, threads=1.0)
        for size, wait in zip(SIZES, waits, strict=True)
    ]


def cpu() -> Device:
    """A two-core virtual machine with 24 GB/s of DRAM."""
    system = System(
        cpu="AMD EPYC 9B14", vendor="AuthenticAMD", architecture="x86_64", cores_online=2, cores_usable=2,
        reported_caches={"L1d": 32 * KIB, "L2": MIB, "L3": 32 * MIB}, instructions=("avx2", "avx512f"),
        memory_total_bytes=24 * GIB, memory_usable_bytes=22 * GIB, memory_free_bytes=20 * GIB, virtual=True,
        os="Linux 6.1", software={"numba": "0.68.1", "torch": "2.13.0"}, limits=("memory limited to 22.0 GiB by the container",),
    )  # fmt: skip
    others = [
        reading("canary.fma", 300e9, "FLOP/s", threads=2.0),
        reading("matrix.fp32", 280e9, "FLOP/s", size=2048.0),
        reading("matrix.bf16", 560e9, "FLOP/s", size=2048.0),
        reading("matrix.int8", 1100e9, "FLOP/s", size=2048.0),
        reading("dequant.q8_0", 15.4e9, "B/s", threads=2.0),
        reading("dequant.q4_0", 12.6e9, "B/s", threads=2.0),
        reading("launch.torch-op", 4.8e-6, "s"),
        reading("disk.read", 1.2e9, "B/s"),
        reading("memory.usable", 21 * GIB, "B"),
    ]
    measured = Measured(
        id="m-20261122-1", when="2026-11-22T10:00:00+00:00", seconds=83.0, disturbed=0.08, system=system,
        readings=(*ladder(), *others),
        caches=(
            CacheLevel(name="L1d", bytes=64 * KIB, read_bytes_per_s=120e9),
            CacheLevel(name="L2", bytes=2 * MIB, read_bytes_per_s=97e9),
            CacheLevel(name="L3", bytes=16 * MIB, read_bytes_per_s=43e9),
        ),
        missing=(Missing(probe="link.host-to-device", why="no accelerator is visible to torch"),),
        notes=("The last core doubled the rate: what was seen is a limit per core, not of the memory chips.",),
    )  # fmt: skip
    return Device(
        id="here", name="AMD EPYC 9B14", vendor="AMD", kind="cpu", family="x86", released="2026-11-22",
        memory_bytes=figure(22 * GIB, "B"), memory_bytes_per_s=figure(24e9, "B/s"), measured=measured,
        flop_per_s={"fp32": figure(280e9, "FLOP/s"), "bf16": figure(560e9, "FLOP/s"), "int8": figure(1100e9, "FLOP/s")},
        cache_bytes=figure(16 * MIB, "B"),
    )  # fmt: skip

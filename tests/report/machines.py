"""Fabricated machines and runs with round numbers: a two-core processor, a large accelerator, a decode run on the first."""

from __future__ import annotations

from bytebound.documents.device import Device, Figure
from bytebound.documents.measurement import CacheLevel, Measured, Missing, Reading, System
from bytebound.documents.observation import Observation, ObservedPhase, OperatorRun, PhaseRun, RequestRun, Run, Spread
from bytebound.documents.values import Interval, Provenance

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
        reading("matrix.peak.int8", 1200e9, "FLOP/s", threads=2.0),
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
        flop_per_s={"fp32": figure(280e9, "FLOP/s"), "bf16": figure(560e9, "FLOP/s"), "int8": figure(1100e9, "OP/s")},
        cache_bytes=figure(16 * MIB, "B"),
    )  # fmt: skip


def spread(median: float, *, rate: bool = False, samples: int = 30) -> Spread:
    """A spread of which the best is 5 % and the ends 8 % from the median."""
    best = median * (1.05 if rate else 0.95)
    return Spread(best, median, median * 0.92, median * 1.08, samples)


OPERATORS = (
    OperatorRun("aten::addmm ffn_down", "gemm", 30, 18e-3, 54e6, 27e7, "1x1536 @ 1536x576"),
    OperatorRun("aten::mm ffn_up", "gemm", 60, 14e-3, 80e6, 20e7),
    OperatorRun("scaled_dot_product_attention", "attention", 30, 9e-3, 24e6, 3e7),
    OperatorRun("aten::mul", "elementwise", 120, 2e-3, 2e5, 4e6),
    OperatorRun("aten::copy_", "other", 61, 1e-3, 0, 0),
)


def phase(name: str = "decode", **changes: object) -> ObservedPhase:
    """A decode step of 50 ms that reads 0.67 GB, or what ``changes`` say."""
    base = {
        "name": name, "seconds": spread(0.050), "batch": 1.0, "context": 512.0, "tokens": 1.0, "flops": 1.3e9,
        "bytes": 0.67e9, "intensity": 1.94, "bytes_per_s": 13.4e9, "flop_per_s": 26e9, "mbu": 0.558, "mfu": 0.046,
        "mbu_datasheet": 0.27, "mfu_datasheet": None, "verdict": "weight-bandwidth", "residual": 1.2,
        "sentence": "the step is within 1.20× of its ideal weight-bandwidth time", "predicted_s": Interval(0.046, 0.040, 0.053),
        "grade": "calibrated", "error": -0.08, "operators": OPERATORS,
    }  # fmt: skip
    return ObservedPhase(**(base | changes))


def observation() -> Observation:
    """A small model under llama.cpp on the two-core machine: decode and prefill."""
    prefill = phase(
        "prefill", seconds=spread(2.1), context=0.0, tokens=512.0, flops=140e9, bytes=0.7e9, intensity=200.0,
        bytes_per_s=0.33e9, flop_per_s=67e9, mbu=0.014, mfu=0.12, mbu_datasheet=None, verdict="overhead",
        sentence="the step takes 4.20× its longest ideal time", predicted_s=Interval(0.5, 0.5, 0.5), grade="bound",
        error=-0.76, operators=(),
    )  # fmt: skip
    decode = phase()
    run = Run(
        id="r-20261122-7", when="2026-11-22T11:00:00+00:00", engine="llama.cpp", engine_version="b4567",
        model="SmolLM2-135M-Instruct", settings={"threads": 2.0, "flash_attention": "off", "weights": "q8_0"},
        load={"concurrency": 1.0, "requests": 12.0},
        phases=(PhaseRun("decode", decode.seconds, 1.0, 512.0, 1.0, OPERATORS),),
        requests=tuple(
            RequestRun(i * 1.0, i * 1.0, i + 0.2 + 0.05 * i, i + 3.0, 512.0, 64.0) for i in range(12)
        ),
        metrics={"llamacpp:prompt_tokens_total": 6144.0, "llamacpp:kv_cache_usage_ratio": 0.25},
        canaries={"memory.read": spread(23.1e9, rate=True), "canary.fma": spread(290e9, rate=True)}, disturbed=0.1,
        notes=("frequency rose during warm-up",), seconds=64.0,
    )  # fmt: skip
    return Observation(
        id="o-20261122-7", when=run.when, machine="here", measurement="m-20261122-1", model=run.model, run=run,
        memory_bytes_per_s=24e9, flop_per_s={"fp32": 280e9, "bf16": 560e9}, phases=(decode, prefill),
        ttft_s=spread(2.1), tpot_s=spread(0.050), tokens_per_s=spread(20.0, rate=True),
        missing={"mfu_datasheet": "no datasheet is known for this processor"},
        provenance=(Provenance("memory bandwidth", "measured", "m-20261122-1"), Provenance("bytes of a step", "derived", "ledger")),
    )  # fmt: skip


def gpu() -> Device:
    """An accelerator like an H200: 4.8 TB/s printed, 4.4 TB/s read, an L2 of 50 MB."""
    at = {"device": "cuda:0"}
    sizes = [2.0**power for power in range(20, 33)]
    rates = (3.1, 5.2, 7.4, 8.1, 8.2, 7.6, 5.1, 4.4, 4.38, 4.39, 4.4, 4.4, 4.4)  # TB/s
    ladder = [
        reading(f"memory.{kernel}", 1e12 * rate * share, "B/s", bytes=size, **at)
        for kernel, share in (("read", 1.0), ("write", 0.85), ("copy", 0.9))
        for size, rate in zip(sizes, rates, strict=True)
    ]
    others = [
        reading("cache.l2", 8.2e12, "B/s", bytes=2.0**24, edge_bytes=2.0**25, **at),
        reading("matrix.bf16", 790e12, "FLOP/s", m=8192.0, n=8192.0, k=8192.0, **at),
        reading("matrix.bf16", 640e12, "FLOP/s", m=4096.0, n=4096.0, k=4096.0, **at),
        reading("matrix.fp8", 1500e12, "FLOP/s", m=8192.0, n=8192.0, k=8192.0, **at),
        reading("attention.decode", 3.6e12, "B/s", batch=64.0, tokens=4096.0, **at),
        reading("launch.kernel", 4.1e-6, "s", **at),
        reading("launch.graph", 1.3e-6, "s", **at),
        reading("link.host-to-device", 55e9, "B/s", memory="pinned", **at),
        reading("link.host-to-device", 12e9, "B/s", memory="pageable", **at),
    ]
    host = cpu().measured.system.model_copy(update={"accelerators": ("NVIDIA H200",), "limits": ()})
    measured = Measured(
        id="m-20261122-2", when="2026-11-22T12:00:00+00:00", seconds=140.0, system=host, readings=(*ladder, *others),
        missing=(Missing(probe="link.device-to-device", why="only one accelerator is visible"),),
    )  # fmt: skip
    return Device(
        id="here-h200", name="NVIDIA H200", vendor="NVIDIA", kind="gpu", memory_type="HBM3e", measured=measured,
        memory_bytes=figure(140.4 * GIB, "B"), memory_bytes_per_s=figure(4.4e12, "B/s"),
        flop_per_s={"bf16": figure(790e12, "FLOP/s"), "fp8": figure(1500e12, "FLOP/s")},
        host_link="PCIe", host_bytes_per_s=figure(55e9, "B/s"),
    )  # fmt: skip


def catalogue() -> Device:
    """A device as a datasheet prints it, never measured."""
    cited = Figure(value=3.35e12, unit="B/s", source="https://example.org/h100 table 1", when="2026-01-01")
    return Device(
        id="h100-sxm", name="NVIDIA H100 SXM", vendor="NVIDIA", kind="gpu", memory_bytes_per_s=cited,
        memory_bytes=Figure(value=80 * GIB, unit="B", source="datasheet"),
        flop_per_s={"bf16": Figure(value=989e12, unit="FLOP/s", source="datasheet")},
    )  # fmt: skip

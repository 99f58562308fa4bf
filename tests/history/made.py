"""Measured machines with known levels and noise, and runs, for the tests of the history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from bytebound.documents.calibration import AttentionCost, Calibration, FormatCost
from bytebound.documents.device import Device, Figure
from bytebound.documents.measurement import Measured, System
from bytebound.documents.observation import Observation, OperatorRun, PhaseRun, RequestRun, Run, Spread
from bytebound.measure.sampling import Probe, Sample, reading

TODAY = datetime(2026, 11, 21, 12, tzinfo=UTC)

NOISE = {
    # A shared virtual machine: near the ceiling, with dips while a neighbour is busy (CV 12 %).
    "dips": lambda rng, n: np.where(rng.random(n) < 0.3, rng.uniform(0.55, 0.98, n), 1) * (1 - 0.02 * np.abs(rng.standard_normal(n))),
    "capped": lambda rng, n: 1 / (1 + rng.exponential(0.12, n)),
    "log-normal": lambda rng, n: np.exp(0.12 * rng.standard_normal(n)),
    "heavy tails": lambda rng, n: np.exp(np.clip(0.07 * rng.standard_t(3, n), -1, 1)),
    "capped heavy tails": lambda rng, n: 1 / (1 + 0.07 * np.abs(rng.standard_t(3, n))),
    "quiet": lambda rng, n: 1 + 0.005 * rng.standard_normal(n),
}  # fmt: skip
"""Relative rates of ``n`` samples."""


def made_reading(name, unit, level, shape, *, where=None, ceiling=True, disturbed=0):
    """Return a reading whose samples are ``level`` times the rates ``shape`` (times: divided by them)."""
    seconds = level / shape if unit == "s" else 1 / (level * shape)
    probe = Probe(name, unit, 1.0, lambda: None, "made", where or {}, ceiling)
    return reading(probe, [Sample(float(s), float(i < disturbed), 0.0) for i, s in enumerate(seconds)])


def made_device(rng, *, days=0.0, speed=1.0, canary=1.0, noise="dips", n=20, cpu="AMD EPYC 9B14", name="", **measured):
    """Return a machine measured ``days`` ago at ``speed`` times its usual DRAM bandwidth and ``canary`` times its clock."""
    when = (TODAY - timedelta(days=days)).isoformat(timespec="seconds")

    def of(what, unit, level, **where):
        disturbed = measured.get("spoilt", 0) if what == "memory.read" else 0
        return made_reading(what, unit, level, NOISE[noise](rng, n), where=where, disturbed=disturbed)

    dram = measured.pop("dram_bytes", 2.0**29)
    readings = [
        of("memory.read", "B/s", 200e9 * canary, bytes=2.0**15, threads=2.0, node="all", kernel="one"),
        of("memory.read", "B/s", 12e9 * speed, bytes=dram, threads=1.0, node="all", kernel="one"),
        of("memory.read", "B/s", 24e9 * speed, bytes=dram, threads=2.0, node="all", kernel=str(rng.integers(9))),
        of("memory.latency", "s", 110e-9, bytes=dram, threads=1.0, node="all"),
        of("matrix.fp32", "FLOP/s", 150e9 * canary, m=2048.0),
        of("canary.fma", "FLOP/s", 300e9 * canary, threads=2.0),
    ]
    measured.pop("spoilt", None)
    system = System(
        cpu=cpu,
        cores_online=2,
        cores_usable=2,
        memory_total_bytes=24e9,
        memory_usable_bytes=24e9,
        memory_free_bytes=20e9,
    )
    figure = Figure(value=24e9 * speed, unit="B/s", how="measured", source="bytebound measure")
    return Device(
        id="here", name=cpu, vendor="AMD", kind="cpu", memory_bytes=Figure(value=24e9, unit="B", source="the system"),
        memory_bytes_per_s=figure, flop_per_s={},
        measured=Measured(
            id=name or f"m-{(TODAY - timedelta(days=days)):%Y%m%dt%H%M%S}", when=when, seconds=30.0, system=system,
            readings=tuple(readings), **measured,
        ),
    )  # fmt: skip


def made_run(name="r-1", *, when="2026-11-21T12:00:00+00:00", words=0):
    """Return a run with something in every part; ``words`` makes it longer."""
    spread = Spread(0.01, 0.011, 0.0101, 0.013, 20)
    phase = PhaseRun(
        "decode", spread, 1.0, 128.0, 1.0, (OperatorRun("mul_mat", "gemm", 210.0, 0.009, 1e9, 1e8, "576x576"),)
    )
    return Run(
        id=name, when=when, engine="llama.cpp", engine_version="b6000", model="SmolLM2-135M", settings={"threads": 2.0, "kv": "f16"},
        phases=(phase,), requests=(RequestRun(0.0, 0.001, 0.1, None, 5.0, 0.0, "cut off", (0.01, 0.02)),),
        canaries={"memory.read": Spread(24e9, 23e9, 20e9, 24e9, 20)}, notes=("word " * words,),
    )  # fmt: skip


def made_observation(name="o-1"):
    """Return an observation around ``made_run``."""
    return Observation(
        id=name, when="2026-11-21T12:01:00+00:00", machine="here", measurement="m-1", model="SmolLM2-135M", run=made_run(),
        memory_bytes_per_s=24e9, flop_per_s={"fp32": 150e9},
    )  # fmt: skip


def made_calibration(name="c-1"):
    """Return what an engine costs here, in round numbers."""
    return Calibration(
        id=name, when="2026-11-21T12:02:00+00:00", engine="llama.cpp", engine_version="b6000", machine="here", threads=2.0,
        formats=(FormatCost("body", "q8_0", 576.0, (1.0, 2.0), (1e-10, 1.1e-10)), FormatCost("head", "f16", 576.0, (1.0,), (2e-10,))),
        attention=AttentionCost("off", "f16", 9.0, 3.0, 64.0, (0.0, 512.0), (0.0, 1e-5), 1e-9), s_per_step=2e-5, s_per_layer=5e-5,
        memory_bytes_per_s=24e9, spread=0.05, samples=20, disturbed=0.0, seconds=9.0, shape={"width": 576.0},
        probes={"two layers": Spread(0.01, 0.011, 0.0101, 0.013, 20)},
    )  # fmt: skip

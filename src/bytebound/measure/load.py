"""How busy the machine is with other people's work: processor time and steal as the system counts them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Counters:
    """Processor seconds since start-up: everybody's, ours, and what the hypervisor gave to others."""

    busy_s: float
    own_s: float
    stolen_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """Processors' worth of others' work and of stolen time in a window."""

    foreign: float
    stolen: float


def read_load() -> Counters:
    """Return the counters now. Where the system has no ``/proc/stat``, psutil's, and without psutil none (zeros)."""
    own = time.process_time()
    try:
        fields = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return Counters(*_portable(own))
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _wait, irq, soft, steal = [*fields, *[0] * (8 - len(fields))][:8]
    return Counters((user + nice + system + irq + soft) / ticks, own, steal / ticks)


def _portable(own: float) -> tuple[float, float, float]:
    try:
        import psutil  # noqa: PLC0415 - optional
    except ImportError:
        return own, own, 0.0
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0), own, getattr(times, "steal", 0.0)


def load_between(before: Counters, after: Counters, seconds: float) -> Load:
    """Return the load of others in a window of ``seconds``; ticks are 10 ms, so windows under 100 ms say nothing (zeros)."""
    if seconds < 0.1:
        return Load(0.0, 0.0)
    foreign = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return Load(max(foreign, 0.0) / seconds, max(after.stolen_s - before.stolen_s, 0.0) / seconds)

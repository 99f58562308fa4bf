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


LEAST_WINDOW_S = 0.1
"""The system counts in ticks of 10 ms: what others used in a shorter window than this cannot be told."""


def read_load() -> Counters:
    """Return the counters now, of the processors this process may run on, where the system lists them one by one.

    ``/proc/stat`` in a container is the whole machine's: the processors beyond its affinity mask are left out, and what
    other containers do on the same ones counts as others' work, which it is. ``own_s`` is that of all threads of this
    process, and of no child. Where there is no ``/proc/stat``, psutil's counters; without psutil none (zeros).
    """
    own = time.process_time()
    try:
        rows = [line.split() for line in STAT.read_text().splitlines() if line.startswith("cpu")]
        usable = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)}
        rows = [row for row in rows if row[0] in usable] or rows[:1]
        fields = [sum(column) for column in zip(*([int(word) for word in row[1:]] for row in rows), strict=True)]
        user, nice, system, _idle, _wait, irq, soft, steal = [*fields, *[0] * 8][:8]
    except (OSError, ValueError, AttributeError):
        return Counters(*_portable(own))
    ticks = os.sysconf("SC_CLK_TCK")
    return Counters((user + nice + system + irq + soft) / ticks, own, steal / ticks)


def _portable(own: float) -> tuple[float, float, float]:
    try:
        import psutil  # noqa: PLC0415 - optional
    except ImportError:
        return own, own, 0.0
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0), own, getattr(times, "steal", 0.0)


def load_between(before: Counters, after: Counters, seconds: float) -> Load:
    """Return the load of others in a window of ``seconds``; one under ``LEAST_WINDOW_S`` says nothing (zeros)."""
    if seconds < LEAST_WINDOW_S:
        return Load(0.0, 0.0)
    foreign = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return Load(max(foreign, 0.0) / seconds, max(after.stolen_s - before.stolen_s, 0.0) / seconds)

"""Timing on noisy machines: interleaved samples, each with the processor time others took meanwhile.

The system counts processor time in ticks of 10 ms. Samples are often shorter, so others' work is judged over whole
rounds, as many as make ``WINDOW_S``, and every sample in them carries that judgement.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.measurement import Reading
from bytebound.measure.load import load_between, read_load
from bytebound.units import show_rate, show_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

_SHARE = 0.02 * (os.cpu_count() or 1)
FOREIGN_LIMIT, STOLEN_LIMIT = max(0.25, _SHARE), max(0.05, _SHARE / 2)
"""Processors' worth of other people's work (of stolen time) beyond which a sample counts as disturbed: a quarter of one
processor, on machines with many a fiftieth of all; and so with stolen time."""
WINDOW_S = 0.2
BOOTSTRAPS = 400


@dataclass(frozen=True, slots=True)
class Sample:
    """One call of a probe [s], and how many processors others used, and the hypervisor withheld, meanwhile."""

    seconds: float
    foreign: float
    stolen: float

    @property
    def disturbed(self) -> bool:
        """Whether others used enough of the machine to matter."""
        return self.foreign > FOREIGN_LIMIT or self.stolen > STOLEN_LIMIT


@dataclass(frozen=True, slots=True)
class Probe:
    """Something that can be timed again and again.

    Args:
        name: of the reading, such as ``memory.read``.
        unit: of the reading: ``B/s`` or ``FLOP/s`` (``amount`` over seconds), ``Hz``, or ``s`` (seconds over ``amount``).
        amount: bytes, operations or repetitions of one call.
        work: the call; it must not return before its work is done.
        how: what does the work, for the reader.
        where: at which size, thread count, dtype or device.
        ceiling: True: the best counts. False: a workload, the median counts.
    """

    name: str
    unit: str
    amount: float
    work: Callable[[], object]
    how: str
    where: Mapping[str, float | str] = field(default_factory=dict)
    ceiling: bool = True


def sample(work: Callable[[], object]) -> Sample:
    """Run ``work`` once and say how long it took and how much of the machine others used meanwhile."""
    before = read_load()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    load = load_between(before, read_load(), seconds)
    return Sample(seconds, load.foreign, load.stolen)


def interleave(
    probes: Sequence[Probe],
    *,
    rounds: int,
    budget_s: float = float("inf"),
    least: int = 3,
    on_sample: Callable[[Probe, Sample], None] | None = None,
) -> dict[str, list[Sample]]:
    """Time every probe once per round, in turn, so that all see the same weather: index in ``probes`` -> samples.

    One unrecorded warm-up round comes first. After ``budget_s`` seconds no further round starts, but never fewer than
    ``least`` are run (never more than ``rounds``). ``on_sample`` sees every sample in order, once its window is judged:
    up to ``WINDOW_S`` and a round late.

    Returns:
        Samples by the probe's position (``"0"``, ``"1"``, …): names may repeat with different ``where``.
    """
    for probe in probes:
        probe.work()
    samples: dict[str, list[Sample]] = {str(index): [] for index in range(len(probes))}
    waiting: list[tuple[int, float]] = []  # samples of the window: probe and seconds
    start = opened = time.perf_counter()
    first = before = read_load()
    for done in range(rounds):
        last = done + 1 == rounds
        for index, probe in enumerate(probes):
            began = time.perf_counter()
            probe.work()
            waiting.append((index, time.perf_counter() - began))
        now = time.perf_counter()
        last = last or (done + 1 >= least and now - start > budget_s)
        if last or now - opened >= WINDOW_S:
            after = read_load()
            if now - opened < WINDOW_S:  # what is left over is judged with all that went before
                before, opened = first, start
            load = load_between(before, after, now - opened)
            for index, seconds in waiting:
                seen = Sample(seconds, load.foreign, load.stolen)
                samples[str(index)].append(seen)
                if on_sample is not None:
                    on_sample(probes[index], seen)
            waiting, before, opened = [], after, now
        if last:
            break
    return samples


def reading(probe: Probe, samples: Sequence[Sample], *, note: str = "") -> Reading:
    """Return what ``samples`` of ``probe`` say: best, median, 10/90 % and a 90 % bootstrap range of what counts.

    What their order tells (see ``weather``) is added to ``note``.
    """
    seconds = np.array([s.seconds for s in samples])
    values = seconds / probe.amount if probe.unit == "s" else probe.amount / np.maximum(seconds, 1e-12)
    best = values.min() if probe.unit == "s" else values.max()
    draws = np.random.default_rng(0).choice(values, (BOOTSTRAPS, len(values)))
    counted = np.median(draws, axis=1)
    if probe.ceiling:
        counted = draws.min(axis=1) if probe.unit == "s" else draws.max(axis=1)
    return Reading(
        name=probe.name, unit=probe.unit, best=float(best), median=float(np.median(values)),
        p10=float(np.quantile(values, 0.1)), p90=float(np.quantile(values, 0.9)),
        low=float(np.quantile(counted, 0.05)), high=float(np.quantile(counted, 0.95)),
        samples=len(values), disturbed=sum(s.disturbed for s in samples), where=dict(probe.where), how=probe.how,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        note="; ".join(said for said in (note, weather(values, probe.unit)) if said),
    )  # fmt: skip


LEAST_SAMPLES, STEP = 8, 0.15
"""Under so many samples their order tells nothing; and speeds that differ by less than this share are one speed."""


def weather(values: NDArray[np.float64], unit: str) -> str:
    """Say what samples in the order taken tell of the machine: warm-up, slowing down, or two speeds; else nothing.

    Shared machines often have two speeds, each for seconds or minutes: then sorted samples leave a gap of more than
    15 % with a fifth of them at least on either side. Warming up and slowing down (clock, heat, a budget of bursts) show
    as a first and a last third whose ranges do not meet, their medians more than 15 % apart.
    """
    if len(values) < LEAST_SAMPLES or values.min() <= 0:
        return ""
    speeds = 1 / values if unit == "s" else values
    third, fifth = len(speeds) // 3, -(-len(speeds) // 5)
    first, last = speeds[:third], speeds[-third:]
    change = np.median(last) / np.median(first) - 1
    if change > STEP and last.min() > first.max():
        return f"grew faster while it was measured, from {_shown(first, unit)} to {_shown(last, unit)} (warming up)"
    if change < -STEP and last.max() < first.min():
        return f"grew slower while it was measured, from {_shown(first, unit)} to {_shown(last, unit)}"
    order = np.sort(speeds)
    gaps = order[fifth : len(order) - fifth + 1] / order[fifth - 1 : len(order) - fifth]
    place = fifth + int(np.argmax(gaps)) if len(gaps) else 0
    if place and order[place] / order[place - 1] > 1 + STEP:
        slow, fast = _shown(order[:place], unit), _shown(order[place:], unit)
        return f"the machine had two speeds: {slow} in {place} samples, {fast} in {len(order) - place}"
    return ""


def _shown(speeds: NDArray[np.float64], unit: str) -> str:
    """Print the median speed, as seconds where that is the unit."""
    middle = float(np.median(speeds))
    return show_time(1 / middle) if unit == "s" else show_rate(middle, unit)

"""Timing on noisy machines: interleaved samples, each with the processor time others took meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.measurement import Reading
from bytebound.measure.load import Load, load_between, read_load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FOREIGN_LIMIT, STOLEN_LIMIT = 0.25, 0.05
"""Processors' worth of other people's work (of stolen time) during a sample beyond which it counts as disturbed."""
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
    load: Load = load_between(before, read_load(), seconds)
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
    ``least`` are run.

    Returns:
        Samples by the probe's position (``"0"``, ``"1"``, …): names may repeat with different ``where``.
    """
    for probe in probes:
        probe.work()
    start = time.perf_counter()
    samples: dict[str, list[Sample]] = {str(index): [] for index in range(len(probes))}
    for done in range(rounds):
        if done >= least and time.perf_counter() - start > budget_s:
            break
        for index, probe in enumerate(probes):
            seen = sample(probe.work)
            samples[str(index)].append(seen)
            if on_sample is not None:
                on_sample(probe, seen)
    return samples


def reading(probe: Probe, samples: Sequence[Sample], *, note: str = "") -> Reading:
    """Return what ``samples`` of ``probe`` say: best, median, 10/90 % and a 90 % bootstrap range of what counts."""
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
        when=datetime.now(UTC).isoformat(timespec="seconds"), note=note,
    )  # fmt: skip

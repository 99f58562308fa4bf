"""The parts of a measurement of the processor, in order; each yields readings, or says why there is none."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.measurement import Missing, Reading, System
from bytebound.errors import UnfinishedError
from bytebound.measure.load import load_between, read_load
from bytebound.measure.sampling import FOREIGN_LIMIT, STOLEN_LIMIT, Probe, Sample, interleave, reading
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from bytebound.measure.gpu import Accelerator

    Outcome = Reading | Missing
    Progress = Callable[[str], None]

WATCH_SHARE, MATRIX_SHARE = 1 / 6, 1 / 8
"""Shares of the free memory that the canaries' array and a dequantised matrix may take; the ladder takes a third."""
WATCH_BYTES, MATRIX_BYTES = 512 * 2**20, 256 * 2**20
"""What they take at the least where that is to be had; more where the last cache is large."""
DISK_BYTES = {True: 128 * 2**20, False: 512 * 2**20}
ROUNDS = {True: 5, False: 20}
BUSY_FROM_S = 0.2
"""Processor ticks are 10 ms: shorter windows than this do not tell how busy others were."""


@dataclass
class Watch:
    """Canaries that take a turn in every round of every part: DRAM read, fp32 multiply-adds, clock.

    ``samples`` collects theirs; ``seconds`` and ``disturbed_s`` say how long was measured and how much of it while others
    used the processor.
    """

    probes: tuple[Probe, ...] = ()
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    seconds: float = 0.0
    disturbed_s: float = 0.0
    check: Callable[[], None] = lambda: None

    def take(self, probe: Probe, seen: Sample) -> None:
        """Keep a sample if it is a canary's."""
        self.check()
        if any(probe is own for own in self.probes):
            self.samples.setdefault(probe.name, []).append(seen)

    @contextmanager
    def window(self) -> Iterator[None]:
        """Count the time inside, and whether others used the processor meanwhile."""
        before, start = read_load(), time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            if seconds >= BUSY_FROM_S:
                load = load_between(before, read_load(), seconds)
                self.seconds += seconds
                self.disturbed_s += seconds * (load.foreign > FOREIGN_LIMIT or load.stolen > STOLEN_LIMIT)

    def readings(self) -> tuple[Reading, ...]:
        """Return one reading per canary that was sampled."""
        return tuple(reading(p, self.samples[p.name]) for p in self.probes if self.samples.get(p.name))

    def best(self, name: str) -> float:
        """Return the highest rate of the canary ``name`` so far, or 0."""
        probe = next((each for each in self.probes if each.name == name), None)
        times = [each.seconds for each in self.samples.get(name, [])]
        return probe.amount / min(times) if probe is not None and times else 0.0


@dataclass(frozen=True)
class Context:
    """What every part needs to know."""

    system: System
    threads: int
    quick: bool
    watch: Watch
    progress: Progress
    accelerators: tuple[Accelerator, ...] = ()

    @property
    def last_cache_bytes(self) -> float:
        """The last caches the system reports, added up; 0 where it reports none."""
        levels = self.system.reported_caches
        return levels[max(levels)] if levels else 0.0


def start_watch(context: Context, stack: ExitStack) -> None:
    """Give the watch its canaries and first samples; their threads and memory live as long as ``stack``.

    Raises:
        UnfinishedError: there is not the memory for them.
    """
    from bytebound.measure.crew import Crew, numa_nodes  # noqa: PLC0415 - needs numba
    from bytebound.measure.kernels import GRAIN  # noqa: PLC0415
    from bytebound.measure.ladder import canaries, fastest  # noqa: PLC0415

    free, threads = context.system.memory_free_bytes, context.threads
    total = min(max(WATCH_BYTES, 4 * context.last_cache_bytes), WATCH_SHARE * free)
    nodes = numa_nodes()
    cpus = [nodes[number % len(nodes)] for number in range(threads)] if len(nodes) > 1 else None
    part = int(total / threads) // GRAIN * GRAIN
    if part < GRAIN:
        raise UnfinishedError("there is no memory to measure with", mend="free some memory")
    crew = stack.enter_context(Crew(threads, part, cpus))
    name = fastest(crew, "read", part, 0.01)
    where: dict[str, float | str] = {
        "bytes": float(part * threads),
        "threads": float(threads),
        "node": "all",
        "kernel": name,
    }
    how = "the DRAM read of the ladder, one pass in every round of every part"
    read = Probe("canary.read", "B/s", float(part * threads), partial(crew.run, name, part, 1), how, where)
    context.watch.probes = (read, *canaries(crew))
    interleave(context.watch.probes, rounds=ROUNDS[True], on_sample=context.watch.take)


def timed(probes: Sequence[Probe], context: Context, *, budget_s: float) -> Iterator[Reading]:
    """Yield a reading of each probe, taken in turn with the canaries."""
    if not probes:
        return
    with context.watch.window():
        taken = interleave(
            [*probes, *context.watch.probes],
            rounds=ROUNDS[context.quick],
            budget_s=budget_s,
            on_sample=context.watch.take,
        )
    for index, probe in enumerate(probes):
        yield reading(probe, taken[str(index)])


def memory(context: Context, budget_s: float) -> Iterator[Outcome]:
    """Yield the ladder of memory: bandwidth and latency from the first cache to DRAM."""
    from bytebound.measure.ladder import climb  # noqa: PLC0415 - needs numba

    parts = climb(
        threads=context.threads, last_cache_bytes=context.last_cache_bytes, usable_bytes=context.system.memory_free_bytes,
        quick=context.quick, budget_s=budget_s, beside=context.watch.probes, on_sample=context.watch.take,
        progress=context.progress,
    )  # fmt: skip
    while True:
        with context.watch.window():
            part = next(parts, None)
        if part is None:
            return
        yield from part.readings


def usable(context: Context, budget_s: float) -> Iterator[Outcome]:
    """Yield the memory that may really be used: what is free without swapping, under every limit."""
    del budget_s
    value = context.system.memory_free_bytes
    yield Reading(
        name="memory.usable", unit="B", best=value, median=value, p10=value, p90=value, low=value, high=value, samples=1,
        how="available without swapping (MemAvailable), under control groups and ulimit",
        note=f"of {show_capacity(context.system.memory_total_bytes)} in the machine",
    )  # fmt: skip


def matrix(context: Context, budget_s: float) -> Iterator[Outcome]:
    """Yield the matrix rate of each dtype through numpy and PyTorch."""
    from bytebound.measure.compute import matrix_probes, threads_set  # noqa: PLC0415

    with threads_set(context.threads):
        found = matrix_probes(threads=context.threads, memory_bytes=context.system.memory_free_bytes * MATRIX_SHARE)
        yield from _each(found, context, budget_s)


def dequant(context: Context, budget_s: float) -> Iterator[Outcome]:
    """Yield how fast weights of each format are read by the matrix-vector product of decoding."""
    from bytebound.measure.dequant import FORMATS, dequant_probe  # noqa: PLC0415 - needs numba

    size = min(max(MATRIX_BYTES, 4 * context.last_cache_bytes), MATRIX_SHARE * context.system.memory_free_bytes)
    for kind in FORMATS:  # one matrix at a time
        context.progress(f"{kind} weights × vector")
        with dequant_probe(kind, matrix_bytes=size, threads=context.threads) as probe:
            yield from timed([probe], context, budget_s=budget_s / len(FORMATS))


def launch(context: Context, budget_s: float) -> Iterator[Outcome]:
    """Yield what starting an operator costs."""
    from bytebound.measure.compute import launch_probes, threads_set  # noqa: PLC0415

    with threads_set(context.threads):
        yield from _each(launch_probes(), context, budget_s)


def disk(context: Context, budget_s: float) -> Iterator[Outcome]:
    """Yield how fast a file is read past the page cache."""
    from bytebound.measure.disk import disk_probe  # noqa: PLC0415

    wanted = min(DISK_BYTES[context.quick], context.system.memory_free_bytes / 4)
    with disk_probe(wanted_bytes=wanted, patience_s=budget_s / 2) as probe:
        yield from _each([probe], context, budget_s / 2)


def accelerator(context: Context, budget_s: float) -> Iterator[Outcome]:
    """Yield everything of the first accelerator, and its links to the host and to others."""
    from bytebound.measure.gpu_run import accelerator_outcomes  # noqa: PLC0415 - needs PyTorch
    from bytebound.measure.gpu_time import FULL, QUICK, TINY  # noqa: PLC0415

    stands_in = context.accelerators[0].kind == "cpu"
    yield from accelerator_outcomes(
        context.accelerators, TINY if stands_in else QUICK if context.quick else FULL, quick=context.quick,
        budget_s=budget_s, on_progress=context.progress,
    )  # fmt: skip


def _each(found: Iterable[Probe | Missing], context: Context, budget_s: float) -> Iterator[Outcome]:
    probes = []
    for each in found:
        if isinstance(each, Missing):
            yield each
        else:
            context.progress(f"{each.name}, {each.how}")
            probes.append(each)
    yield from timed(probes, context, budget_s=budget_s)


@dataclass(frozen=True)
class Part:
    """A part by name: what it measures in words, its generator, and the seconds it should take, quick and in full."""

    name: str
    what: str
    run: Callable[[Context, float], Iterator[Outcome]]
    quick_s: float
    full_s: float


ACCELERATOR = Part("accelerator", "memory, matrix rates, links and launches of the accelerator", accelerator, 8.0, 80.0)
"""Measured first, where there is one."""

PARTS = (
    Part("memory", "bandwidth and latency from the first cache to DRAM", memory, 6.0, 110.0),
    Part("usable", "memory that may really be used", usable, 0.0, 0.0),
    Part("matrix", "matrix rate per dtype", matrix, 2.0, 30.0),
    Part("dequant", "dequantising matrix-vector products", dequant, 2.0, 25.0),
    Part("launch", "cost of starting an operator", launch, 1.0, 5.0),
    Part("disk", "sequential read of a file", disk, 3.0, 15.0),
)
"""What is measured on the processor, in this order."""


def thread_count(system: System, wanted: int | None) -> int:
    """Return the threads to measure with: as many whole processors as may be used, or what was asked for."""
    return wanted if wanted is not None else max(math.floor(system.cores_usable), 1)

"""The ladder of memory: bandwidth and latency from the first cache to DRAM, per thread count and NUMA node.

``bytes`` of a reading is all the memory its threads work on, whatever the number of arrays, and so is what one pass
moves by STREAM's counting. The DRAM size comes first and may be measured again at the end (``again``): a ceiling that
moved meanwhile says that the machine did. Nothing here asks the system for memory beyond a third of what is usable.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bytebound.measure.crew import Crew, numa_nodes
from bytebound.measure.kernels import ARRAYS, CHAIN_LOOP, FMA_LOOP, GRAIN, lanes, vector_bytes, ways
from bytebound.measure.sampling import Probe, Sample, interleave, reading
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bytebound.documents.measurement import Reading

FIRST_BYTES, LEAST_DRAM_BYTES, LINE_BYTES = 16 * 2**10, 512 * 2**20, 64
"""Where each thread's ladder starts, the size taken for DRAM at the least, and the line that latency goes by."""
SAFE_CACHES, WANTED_CACHES = 4, 8
"""A DRAM array must be so many times the reported last cache to be trusted, and is so many times where memory allows."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Total bytes of the ladder's rungs in rising order, the last for DRAM; ``cut`` says if memory limited it."""

    bytes: tuple[int, ...]
    cut: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part of the ladder."""

    name: str
    readings: tuple[Reading, ...]


def sizes(threads: int, last_cache_bytes: float, usable_bytes: float, *, quick: bool = False) -> Sizes:
    """Return the sizes of the ladder for ``threads`` threads.

    Args:
        threads: each starts at ``FIRST_BYTES``.
        last_cache_bytes: the last caches that the system reports, added up; 0 where it reports none.
        usable_bytes: memory that may be used now; the ladder takes a third at most.
        quick: four times as far between rungs; otherwise √2 times.
    """
    wanted = max(LEAST_DRAM_BYTES, WANTED_CACHES * last_cache_bytes)
    limit = usable_bytes / 3
    last = min(wanted, limit)
    least = threads * FIRST_BYTES
    ratio = 4.0 if quick else math.sqrt(2)
    count = max(math.ceil(math.log(max(last, least) / least, ratio)), 0)
    rungs = {_whole(least * ratio**step, threads) for step in range(count)} | {_whole(max(last, least), threads)}
    cut = ""
    if last < min(wanted, max(SAFE_CACHES * last_cache_bytes, LEAST_DRAM_BYTES / 4)):
        cut = (
            f"the ladder ends at {show_capacity(max(last, least))}, a third of the usable memory; the last cache is "
            f"{show_capacity(last_cache_bytes)}, so its last figure may partly be that cache's"
        )
    return Sizes(tuple(sorted(rungs)), cut)


def _whole(total: float, threads: int) -> int:
    """Return ``total`` bytes rounded down so that every thread has one, two or three arrays of whole grains."""
    step = threads * GRAIN * 6
    return max(int(total // step), 1) * step


def thread_counts(threads: int) -> tuple[int, ...]:
    """Return 1, 2, 4, … and ``threads``."""
    return tuple(sorted({2**power for power in range(threads.bit_length())} | {threads}))


def climb(
    *,
    threads: int,
    last_cache_bytes: float,
    usable_bytes: float,
    quick: bool = False,
    budget_s: float | None = None,
    beside: Sequence[Probe] = (),
    on_sample: Callable[[Probe, Sample], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Part]:
    """Measure the ladder part by part; what was yielded stays when the rest is interrupted.

    All threads come first, from DRAM down through every size; then, unless ``quick``, one thread at every size, the
    thread counts between and each NUMA node at the DRAM size.

    Args:
        threads: processors that may be used (under a container's quota too).
        last_cache_bytes: see ``sizes``.
        usable_bytes: see ``sizes``.
        quick: few sizes, all threads only.
        budget_s: seconds it should take; about 6 (quick) or 110 when None.
        beside: canaries that take a turn in every round, those with ``bytes`` in their ``where`` at the DRAM size only;
            their samples go to ``on_sample``.
        on_sample: sees every sample.
        progress: told what is being measured.

    Raises:
        UnfinishedError: memory within the limits cannot be had.
    """
    deadline = time.perf_counter() + (budget_s or (6.0 if quick else 110.0))
    ladder = sizes(threads, last_cache_bytes, usable_bytes, quick=quick)
    crews = _crews(threads, ladder, quick=quick)
    left = sum(_weight(step) for crew in crews for step in crew.steps)
    for plan in crews:
        with Crew(plan.threads, ladder.bytes[-1] // plan.threads, plan.cpus) as crew:
            for step in plan.steps:
                name = f"memory, {show_capacity(step.bytes)}, {plan.threads} threads"
                if plan.node != "all":
                    name += f", node {plan.node}"
                if progress is not None:
                    progress(name)
                share = max(deadline - time.perf_counter(), 0.0) * _weight(step) / left
                left -= _weight(step)
                note = ladder.cut if step.bytes == ladder.bytes[-1] else ""
                dram = step.bytes == ladder.bytes[-1]
                probes = _probes(crew, step, plan, share, least_s=0.004 if quick else 0.008, every=dram)
                others = [each for each in beside if dram or "bytes" not in each.where]  # those would empty the caches
                taken = interleave(
                    [*probes, *others],
                    rounds=40 if dram else 15,
                    budget_s=0.8 * share,
                    on_sample=on_sample,
                    least=3 if quick else 5,
                )
                yield Part(name, _kept([reading(p, taken[str(i)], note=note) for i, p in enumerate(probes)]))


@dataclass(frozen=True, slots=True)
class _Step:
    """Kinds of access measured in turn at one size."""

    bytes: int
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    threads: int
    node: float | str
    cpus: tuple[tuple[int, ...], ...] | None
    steps: tuple[_Step, ...]


def _weight(step: _Step) -> float:
    return len(step.kinds) * (6.0 if step.bytes >= LEAST_DRAM_BYTES / 4 else 1.0)


def _crews(threads: int, ladder: Sizes, *, quick: bool) -> list[_Plan]:
    nodes = numa_nodes()

    def spread(count: int) -> tuple[tuple[int, ...], ...] | None:
        return tuple(nodes[i % len(nodes)] for i in range(count)) if len(nodes) > 1 else None

    def steps(count: int) -> Iterator[_Step]:
        rungs = [_whole(size * count / threads, count) for size in ladder.bytes[:-1]]
        for number, size in enumerate([ladder.bytes[-1], *rungs]):
            yield _Step(size, ("read",) if number and (quick or number % 2 == 0) else tuple(ARRAYS))
            if count == 1 or quick:  # alone: the others write over its chain
                yield _Step(size, ("latency",))

    dram = (_Step(ladder.bytes[-1], ("read",)),)
    plans = [_Plan(threads, "all", spread(threads), tuple(steps(threads)))]
    if quick:
        return plans
    if threads > 1:
        plans.append(_Plan(1, "all", spread(1), tuple(steps(1))))
    plans += [_Plan(count, "all", spread(count), dram) for count in thread_counts(threads)[1:-1]]
    if len(nodes) > 1:
        plans += [_Plan(len(own), node, (own,) * len(own), dram) for node, own in enumerate(nodes)]
    return plans


def _kept(readings: Sequence[Reading]) -> tuple[Reading, ...]:
    """Return the best of the readings of each name: at the DRAM size every way to do the work had its turn."""
    best: dict[str, Reading] = {}
    for each in readings:
        if each.name not in best or each.best > best[each.name].best:
            best[each.name] = each
    return tuple(best.values())


def _probes(crew: Crew, step: _Step, plan: _Plan, share_s: float, *, least_s: float, every: bool) -> list[Probe]:
    """Return the probes of a step: of ``every`` way to do the work, else of the one that a short trial found fastest.

    A trial is not enough for DRAM, whose speed may change for seconds at a time: while it is slow all ways are alike.
    """
    part = step.bytes // plan.threads
    names = {kind: list(ways(kind)) for kind in step.kinds if kind in ARRAYS} if every else {}
    sample_s = min(max(share_s / (12 * max(sum(map(len, names.values())), len(step.kinds))), least_s), 0.05)
    where = {"bytes": float(step.bytes), "threads": float(plan.threads), "node": plan.node}
    probes = []
    for kind in step.kinds:
        if kind == "latency":
            probes.append(_latency(crew, part, sample_s))
            continue
        whole = part - part % (ARRAYS[kind] * GRAIN)
        for name in names.get(kind) or [fastest(crew, kind, whole, sample_s / 4)]:
            passes = _passes(partial(crew.run, name, whole), sample_s)
            work = partial(crew.run, name, whole, passes)
            how = f"machine code by numba ({name}), bytes counted as STREAM does"
            moved = float(whole * plan.threads * passes)
            probes.append(Probe(f"memory.{kind}", "B/s", moved, work, how, {**where, "kernel": name}))
    return probes


def fastest(crew: Crew, kind: str, part: int, trial_s: float) -> str:
    """Return the way to do ``kind`` that was fastest in a short trial of all of them, taking turns.

    Memory can change its speed for seconds at a time, so each round is judged by itself: what counts is the median over
    rounds of the time against the best of that round. Of ways within 2 % the first in the list is taken.
    """
    names = list(ways(kind))
    passes = _passes(partial(crew.run, names[0], part), trial_s)
    probes = [Probe(name, "s", 1.0, partial(crew.run, name, part, passes), "") for name in names]
    taken = interleave(probes, rounds=5)
    seconds = np.array([[each.seconds for each in taken[str(i)]] for i in range(len(names))])
    against = np.median(seconds / seconds.min(axis=0), axis=1)
    return next(name for name, each in zip(names, against, strict=True) if each <= 1.02 * against.min())


def _passes(run: Callable[[int], object], target_s: float) -> int:
    """Return how many passes take about ``target_s`` seconds."""
    passes, seconds = 1, 0.0
    run(1)
    while True:
        start = time.perf_counter()
        run(passes)
        seconds = time.perf_counter() - start
        if seconds > 0.25 * target_s or seconds > 0.002:
            return max(round(passes * target_s / seconds), 1)
        passes *= 4


def chain_lines(room: Sequence[float] | np.ndarray, part: int) -> None:
    """Write into ``room`` one closed walk over all lines of its first ``part`` bytes, in random order.

    The first eight bytes of a line hold the offset of the next line [bytes], as ``chase`` follows it.
    """
    lines = np.random.default_rng(0).permutation(part // LINE_BYTES) * LINE_BYTES
    words = np.asarray(room)[: part // 8].view(np.int64)
    words[lines // 8] = np.roll(lines, -1)


def _latency(crew: Crew, part: int, sample_s: float) -> Probe:
    chain_lines(crew.rooms(), part)
    place = 0

    def walk(loads: int) -> None:
        """Go on where the last walk ended: a small part of the way would soon lie in a cache."""
        nonlocal place
        place = crew.chase(place, loads)

    walk(min(part // LINE_BYTES, 2**20))  # into the caches, as far as it fits them
    loads = _passes(walk, sample_s)
    return Probe(
        "memory.latency",
        "s",
        float(loads),
        partial(walk, loads),
        "dependent loads in random order over every line, one thread, address translation included",
        {"bytes": float(part), "threads": 1.0, "node": "all"},
    )


def canaries(crew: Crew, *, sample_s: float = 0.01) -> tuple[Probe, Probe]:
    """Return probes that use no memory: ``canary.fma`` (all threads of ``crew``) and ``canary.clock`` (one thread).

    Memory ceilings hardly see a neighbour on the sibling hardware thread; these do. The first counts fp32 fused
    multiply-adds in registers [FLOP/s]. The second counts dependent integer operations of one cycle each, so that its
    rate is the clock [Hz], unless something else runs on that core.
    """
    passes = _passes(partial(crew.run, "fma", GRAIN), sample_s)
    links = _passes(partial(crew.run, "chain", GRAIN, threads=1), sample_s)
    flops = 2.0 * FMA_LOOP * lanes() * (vector_bytes() // 4) * crew.threads
    where = {"threads": float(crew.threads)}
    return (
        Probe("canary.fma", "FLOP/s", flops * passes, partial(crew.run, "fma", GRAIN, passes),
              f"fp32 multiply-adds in registers, {8 * vector_bytes()} bit vectors", where),
        Probe("canary.clock", "Hz", float(CHAIN_LOOP * links), partial(crew.run, "chain", GRAIN, links, 1),
              "dependent one-cycle additions, one thread", {"threads": 1.0}),
    )  # fmt: skip


def again(first: Reading, *, budget_s: float = 1.0) -> Reading:
    """Measure the DRAM read ``first`` once more, as it was measured; see ``steady``.

    Raises:
        UnfinishedError: its memory cannot be had any more.
    """
    threads, total, name = int(first.where["threads"]), int(first.where["bytes"]), str(first.where["kernel"])
    nodes = numa_nodes()
    cpus = [nodes[i % len(nodes)] for i in range(threads)] if len(nodes) > 1 else None
    part = total // threads
    with Crew(threads, part, cpus) as crew:
        passes = _passes(partial(crew.run, name, part), 0.04)
        work = partial(crew.run, name, part, passes)
        probe = Probe(first.name, first.unit, float(part * threads * passes), work, first.how, first.where)
        return reading(probe, interleave([probe], rounds=20, budget_s=budget_s)["0"], note="again, at the end")

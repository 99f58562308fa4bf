"""What the curve of the ladder tells: the caches, what limits the memory, and whether the machine held still."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.measurement import CacheLevel, Reading
from bytebound.units import show_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


UNSTABLE = 0.05
"""Share by which DRAM bandwidth may differ between the start and the end of a run."""
_PRICE, _DROP, _STEEP = 0.06, 0.88, 0.12
"""What a further stretch must save in squared logarithms, how much slower than the last a level must be, and the fall
from one size to the next [log] beyond which a stretch is no level."""


def steady(first: Reading, last: Reading) -> tuple[bool, str]:
    """Return whether DRAM bandwidth at the end was within 5 % of that at the start, and the sentence that says so."""
    change = last.best / first.best - 1
    held = abs(change) <= UNSTABLE
    return held, (
        f"memory bandwidth at the end was {show_rate(last.best, 'B/s')}, {change:+.1%} from the start"
        + ("" if held else ": this machine was not steady, measure again when it is quiet")
    )


def cache_levels(readings: Sequence[Reading]) -> tuple[CacheLevel, ...]:
    """Return the caches seen in the read ladder with most threads: how much fits in each, and how fast it is read.

    A size is taken to be read at least as fast as any larger one: where it was not, the machine was slower just then.
    The logarithm of bandwidth over size is cut into level stretches (least squares with a price per stretch). Between
    the first and the last, one that falls all the way or has one size only is a passage, not a level; the last is DRAM.
    A level ends at the last size nearer to its own bandwidth than to the next level's. Levels count from the processor;
    one too much like its neighbour is not seen.
    """
    reads = [each for each in readings if each.name == "memory.read" and each.where.get("node") == "all"]
    most = max((each.where["threads"] for each in reads), default=0.0)
    curve = {float(each.where["bytes"]): each.best for each in reads if each.where["threads"] == most and each.best > 0}
    at = sorted(curve)
    rates = np.maximum.accumulate([curve[size] for size in reversed(at)])[::-1]
    levels = _levels(np.log(rates)) if len(at) > 1 else []
    found = []
    for number, (own, after) in enumerate(pairwise(levels), start=1):
        rate = float(np.median(rates[own]))
        border = np.sqrt(rate * float(np.median(rates[after])))
        fits = max(size for size, seen in zip(at, rates, strict=True) if seen >= border)
        found.append(CacheLevel(name=f"L{number}", bytes=fits, read_bytes_per_s=rate))
    return tuple(found)


def _levels(logs: NDArray[np.float64]) -> list[slice]:
    """Return the level stretches of a falling curve."""
    best: list[tuple[float, list[slice]]] = [
        (0.0, [])
    ]  # for the first 0, 1, … points: what it costs, and its stretches
    for stop in range(1, len(logs) + 1):
        cuts = [
            (best[start][0] + _PRICE + float(np.var(logs[start:stop])) * (stop - start), start) for start in range(stop)
        ]
        price, start = min(cuts)
        best.append((price, [*best[start][1], slice(start, stop)]))
    stretches = best[-1][1]
    kept: list[slice] = []
    for number, stretch in enumerate(stretches):
        size = stretch.stop - stretch.start
        passage = size == 1 or (logs[stretch.start] - logs[stretch.stop - 1]) / (size - 1) > _STEEP
        if kept and np.exp(np.median(logs[stretch]) - np.median(logs[kept[-1]])) > _DROP:
            kept[-1] = slice(kept[-1].start, stretch.stop)
        elif number in {0, len(stretches) - 1} or not passage:
            kept.append(stretch)
    return kept


def last_core(readings: Sequence[Reading]) -> str:
    """Say whether DRAM bandwidth still grew with the last threads added: what limits it, the cores or the memory.

    A core can have only so many misses under way. While each added core still adds most of its share, that is what
    limits reading (more cores would read more); when it adds little, the memory itself is at its limit.
    """
    reads = [each for each in readings if each.name == "memory.read" and each.where.get("node") == "all"]
    largest = {each.where["threads"]: each for each in sorted(reads, key=lambda each: float(each.where["bytes"]))}
    counts = sorted(float(count) for count in largest)
    if len(counts) < 2:
        return "one thread count only: whether more cores would read more was not seen"
    before, after = largest[counts[-2]], largest[counts[-1]]
    share = (after.best / before.best - 1) / (counts[-1] / counts[-2] - 1)
    said = f"{counts[-2]:.0f} to {counts[-1]:.0f} threads added {share:.0%} of the bandwidth they would add if each brought its own"
    if share > 0.7:
        return f"{said}: the cores limit reading, not the memory"
    if share < 0.3:
        return f"{said}: the memory is at its limit"
    return f"{said}: near the memory's limit"

"""What the curve of the ladder tells: the caches, what limits the memory, and whether the machine held still."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.measurement import CacheLevel, Reading
from bytebound.units import show_rate

if TYPE_CHECKING:
    from collections.abc import Sequence


UNSTABLE = 0.05
"""Share by which DRAM bandwidth may differ between the start and the end of a run."""
_PRICE, _DROP = 0.06, 0.85
"""What a further stretch must save in squared logarithms, and how much slower than the last a level must be."""


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

    The logarithm of bandwidth over size is cut into level stretches (least squares with a price per stretch). A stretch
    of one size between a faster and a slower one is a passage, not a level; the last stretch is DRAM. A level ends at
    the last size nearer to its own bandwidth than to the next level's. Levels count from the processor; one too much
    like its neighbour is not seen.
    """
    reads = [each for each in readings if each.name == "memory.read" and each.where.get("node") == "all"]
    most = max((each.where["threads"] for each in reads), default=0.0)
    curve = {float(each.where["bytes"]): each.best for each in reads if each.where["threads"] == most and each.best > 0}
    at = sorted(curve)
    rates = np.array([curve[size] for size in at])
    levels = _levels(np.log(rates)) if len(at) > 1 else []
    return tuple(
        CacheLevel(
            name=f"L{number}",
            bytes=max(
                size for size, rate in zip(at[: after.stop], rates, strict=False) if rate >= _between(rates, own, after)
            ),
            read_bytes_per_s=float(np.median(rates[own])),
        )
        for number, (own, after) in enumerate(pairwise(levels), start=1)
    )


def _between(rates: np.ndarray, one: slice, other: slice) -> float:
    return float(np.sqrt(np.median(rates[one]) * np.median(rates[other])))


def _levels(logs: np.ndarray) -> list[slice]:
    """Return the level stretches of a falling curve."""
    best: list[tuple[float, list[slice]]] = [(0.0, [])]
    for stop in range(1, len(logs) + 1):
        best.append(
            min(
                (
                    best[start][0] + _PRICE + float(np.var(logs[start:stop]) * (stop - start)),
                    [*best[start][1], slice(start, stop)],
                )
                for start in range(stop)
            )
        )
    stretches = best[-1][1]
    kept: list[slice] = []
    for number, stretch in enumerate(stretches):
        passage = stretch.stop - stretch.start == 1 and 0 < number < len(stretches) - 1
        if kept and np.exp(np.median(logs[stretch]) - np.median(logs[kept[-1]])) > _DROP:
            kept[-1] = slice(kept[-1].start, stretch.stop)
        elif not passage:
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

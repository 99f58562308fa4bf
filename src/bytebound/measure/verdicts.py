"""Whether one reading changed between two runs of a machine: beyond noise, and not for a reason that passes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from bytebound.documents.comparison import Change
from bytebound.documents.observation import Spread
from bytebound.measure.noise import difference, relative_error
from bytebound.measure.pairs import CANARY, by_place, headlines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bytebound.documents.comparison import Verdict
    from bytebound.documents.measurement import Measured, Reading
    from bytebound.measure.pairs import Place

LIKELY = 0.95  # confidence from which a reading differs
DISTURBED = 0.5  # share of disturbed samples from which a slower reading is put down to the disturbance
UNSTABLE = 0.05  # least relative error of the DRAM figures of a run in which DRAM bandwidth moved by over 5 %
DRAM_BY_CANARY = 0.1
"""How much of the processor's own change (log of canary.fma) DRAM bandwidth shows: on a virtual machine whose vector rate
flips between 300 and 165 GFLOP/s for minutes, DRAM moved from 23.3 to 22.0 GB/s. All else may show all of it."""
TURNS = 2
"""Changes of side after which a machine goes back and forth: a lasting loss is one. Runs of one virtual machine, half a
minute apart, read DRAM at 60, 68, 38, 38 and 68 GB/s; no number of samples within a run tells that from a loss."""
STEP = 0.15  # speeds within a run that differ by less are one speed
COMPUTE = "canary.fma"


@dataclass(frozen=True, slots=True)
class Seen:
    """A measured run with its readings by place."""

    run: Measured
    table: Mapping[Place, Reading]

    @property
    def canary(self) -> Reading | None:
        """The DRAM read taken again and again through the run, where there is one."""
        return next(
            (reading for place, reading in self.table.items() if place.name == CANARY and reading.p10 > 0), None
        )

    @property
    def unsteady(self) -> float:
        """Relative error of the run's DRAM figures beyond their samples: the 10–90 % swing of the DRAM canary."""
        if self.run.stable:
            return 0.0
        return UNSTABLE if self.canary is None else max(UNSTABLE, math.log(self.canary.p90 / self.canary.p10))

    @property
    def two_speeds(self) -> float:
        """Usual over best DRAM speed within the run, where they are two speeds rather than one that scatters; else 1."""
        share = 1.0 if self.canary is None else self.canary.median / self.canary.best
        return share if share < 1 - STEP else 1.0


class State(NamedTuple):
    """How much faster the processor itself ran afterwards (log), and the error of that; zeros where it is unknown."""

    gain: float
    error: float

    def scaled(self, share: float) -> State:
        """Return what a reading that follows the processor by ``share`` shows of it."""
        return State(self.gain * share, self.error * share)


def seen(run: Measured) -> Seen:
    """Return a run with its readings by place."""
    return Seen(run, by_place(run.readings))


def processor_state(old: Seen, new: Seen) -> State:
    """Return how much faster the processor itself ran, by the compute canary.

    Medians, because the canary has two states and a best shows only the faster.
    """
    for place, before in old.table.items():
        after = new.table.get(place)
        if place.name == COMPUTE and after is not None and min(before.median, after.median) > 0:
            error = math.hypot(relative_error(before, "median"), relative_error(after, "median"))
            return State(math.log(after.median / before.median), error)
    return State(0.0, 0.0)


def changes(old: Seen, new: Seen, runs: Sequence[Seen]) -> dict[Place, Change]:
    """Return what changed from ``old`` to ``new``, in the order of ``old``; readings at zero are left out.

    Args:
        old: the run before.
        new: the run after.
        runs: every known run of the machine in the order of time, with those two; they show what comes and goes.
    """
    state, heads = processor_state(old, new), headlines(new.table)
    found = {}
    for place in old.table:
        if place in new.table:
            change = _change(place, old, new, state.scaled(DRAM_BY_CANARY if place.of_memory else 1.0))
            if change is not None:
                found[place] = replace(_passing(place, change, runs), headline=place in heads)
    return found


def _change(place: Place, old: Seen, new: Seen, state: State) -> Change | None:
    before, after = old.table[place], new.table[place]
    found = difference(before, after)
    if found is None:
        return None
    verdict: Verdict = "noise" if found.confidence < LIKELY else "faster" if found.gain > 0 else "slower"
    unsteady = math.hypot(old.unsteady, new.unsteady) if place.of_memory else 0.0
    found = replace(found, error=math.hypot(found.error, unsteady))
    confidence, why, slower = found.confidence, "", after if found.gain < 0 else before
    if verdict == "noise":
        pass
    elif confidence < LIKELY:
        verdict, why = "noise", "DRAM bandwidth moved as much within a run"
    elif not _undisturbed(slower):
        verdict = "noise"
        why = f"others used the processor during {slower.disturbed} of the {slower.samples} slower samples"
    elif state.gain * found.gain > 0 and not _apart(after):
        left = max(abs(found.gain) - abs(state.gain), 0.0)
        confidence = replace(found, gain=left, error=math.hypot(found.error, state.error)).confidence
        if confidence < LIKELY:
            verdict, why = "noise", "no more than the processor itself changed (canary.fma)"
    return Change(
        name=after.name, unit=after.unit, where=after.where, figure=found.figure, before=_spread(before),
        after=_spread(after), ratio=found.ratio, confidence=confidence, verdict=verdict, why=why,
    )  # fmt: skip


def _apart(reading: Reading) -> bool:
    """Whether the processor's state says nothing of it: the canaries themselves, and what an accelerator does."""
    return reading.name.startswith("canary.") or "device" in reading.where


def _passing(place: Place, change: Change, runs: Sequence[Seen]) -> Change:
    """Return ``change`` as noise where the runs of the machine went back and forth between its two figures."""
    if change.verdict == "noise":
        return change
    middle = math.sqrt(getattr(change.before, change.figure) * getattr(change.after, change.figure))
    kept = [run for run in runs if place in run.table and _undisturbed(run.table[place])]
    levels = []
    for run in kept:
        level = getattr(run.table[place], change.figure)
        levels += (
            [level * run.two_speeds, level / run.two_speeds] if place.of_memory and change.unit == "B/s" else [level]
        )
    turns = sum(first != second for first, second in pairwise(level > middle for level in levels))
    if turns < TURNS:
        return change
    return replace(change, verdict="noise", why=f"{len(kept)} runs of this machine went back and forth between the two")


def _undisturbed(reading: Reading) -> bool:
    return reading.disturbed <= DISTURBED * reading.samples


def _spread(reading: Reading) -> Spread:
    return Spread(reading.best, reading.median, reading.p10, reading.p90, reading.samples)

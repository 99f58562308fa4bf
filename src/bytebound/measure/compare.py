"""Two measurements compared reading by reading, and a machine that lost something since earlier ones noticed."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from bytebound.documents.comparison import Change, Comparison, Side
from bytebound.documents.observation import Spread
from bytebound.errors import DocumentError
from bytebound.history.describe import host_of
from bytebound.measure.noise import difference, relative_error
from bytebound.measure.pairs import by_place, headlines
from bytebound.units import show_capacity, show_rate, show_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bytebound.documents.comparison import Verdict
    from bytebound.documents.device import Device
    from bytebound.documents.measurement import Measured, Reading
    from bytebound.measure.pairs import Place

LIKELY, SURE = 0.95, 0.99
"""Confidence from which a reading differs, and from which a ceiling other than the DRAM read ceiling is put in the
sentence: several are looked at, and one in twenty differs by chance at the first."""
UNSTABLE = 0.05  # relative error of the DRAM figures of a run in which DRAM bandwidth moved by over 5 %
DISTURBED = 0.5  # share of disturbed samples from which a slower reading is put down to the disturbance
DRAM_BY_CANARY = 0.1
"""How much of the processor's own change (log of canary.fma) DRAM bandwidth shows: on a virtual machine whose vector rate
flips between 300 and 165 GFLOP/s for minutes, DRAM moved from 23.3 to 22.0 GB/s. All else may show all of it."""
CANARY, READ = "canary.fma", "memory.read"
MANY, NAMED = 20, 3  # readings from which chance is mentioned; changes named in the sentence


class State(NamedTuple):
    """How much faster the processor itself ran afterwards (log), and the error of that; zeros where it is unknown."""

    gain: float
    error: float

    def scaled(self, share: float) -> State:
        """Return what a reading that follows the processor by ``share`` shows of it."""
        return State(self.gain * share, self.error * share)


def compare(before: Device, after: Device) -> Comparison:
    """Return what differs between two measured devices, and which differences are more than noise.

    Raises:
        DocumentError: one of them was never measured.
    """
    first, second = _measured(before), _measured(after)
    sides = _side(before, first), _side(after, second)
    same = (sides[0].machine, sides[0].host) == (sides[1].machine, sides[1].host)
    old, new = by_place(first.readings), by_place(second.readings)
    found = _changes(old, new, unstable=UNSTABLE * math.hypot(not first.stable, not second.stable))
    changes = tuple(change for _, change in found)
    told = [change for change in changes if _tells(change)]
    verdicts = {change.verdict for change in told}
    return Comparison(
        before=sides[0], after=sides[1], same_machine=same,
        verdict="mixed" if len(verdicts) > 1 else next(iter(verdicts), "noise"),
        sentence=_sentence(told, changes), changes=changes,
        only_before=tuple(_label(old[place]) for place in old if place not in new),
        only_after=tuple(_label(new[place]) for place in new if place not in old),
        notes=tuple(_notes(sides, same=same, state=_state(old, new).gain, changes=changes)),
    )  # fmt: skip


def noticed(earlier: Sequence[Device], new: Device) -> tuple[str, ...]:
    """Return a sentence for each headline ceiling that ``new`` has lost since ``earlier`` measurements of the same machine.

    Each reading is held against the earlier run that is the middle one for it; the scatter between the earlier runs is
    added to the noise. Empty where nothing was lost, or nothing comparable was measured before.

    Raises:
        DocumentError: ``new`` was never measured.
    """
    now = _measured(new)
    table = by_place(now.readings)
    past = [(run, by_place(run.readings)) for run in map(_measured, earlier) if run.id != now.id]
    sentences = []
    for place in sorted(headlines(table)):
        known = sorted((readings[place].best, run.when, run.id) for run, readings in past if place in readings)
        if not known:
            continue
        run, readings = next(item for item in past if item[0].id == known[len(known) // 2][2])
        unstable = UNSTABLE * math.hypot(not run.stable, not now.stable)
        found = _changes(readings, table, unstable=unstable, scatter=_scatter([best for best, *_ in known]), only=place)
        since = run.when[:10] + (f" (the middle of {len(known)} earlier runs)" if len(known) > 1 else "")
        sentences += [
            f"since {since}, {change_words(change)}: not noise ({_sure(change)})"
            for _, change in found
            if change.verdict == "slower" and _tells(change)
        ]
    return tuple(sentences)


def change_words(change: Change) -> str:
    """Return what one reading lost or gained, in words.

    Example:
        >>> spread = Spread(24.1e9, 24.0e9, 23e9, 24.1e9, 20)
        >>> lower = Spread(21.2e9, 21.0e9, 20e9, 21.2e9, 20)
        >>> change_words(Change("memory.read", "B/s", {}, "best", spread, lower, 0.88, 0.98, "slower"))
        'memory read lost 12 % (24.1 GB/s → 21.2 GB/s)'
    """
    before, after = getattr(change.before, change.figure), getattr(change.after, change.figure)
    share = f"{abs(change.ratio - 1):.0%}".replace("%", " %")
    grew = change.ratio > 1
    verb = ("rose by" if grew else "fell by") if change.unit == "s" else ("gained" if grew else "lost")
    return f"{_words(change)} {verb} {share} ({_show(before, change.unit)} → {_show(after, change.unit)})"


def _changes(
    old: Mapping[Place, Reading],
    new: Mapping[Place, Reading],
    *,
    unstable: float,
    scatter: float = 0.0,
    only: Place | None = None,
) -> list[tuple[Place, Change]]:
    state, heads = _state(old, new), headlines(new)
    found = []
    for place in old if only is None else [only]:
        if place in new:
            more = math.hypot(unstable if place.of_memory else 0.0, scatter)
            change = _change(
                old[place], new[place], more=more, state=state.scaled(DRAM_BY_CANARY if place.of_memory else 1)
            )
            found += [] if change is None else [(place, replace(change, headline=place in heads))]
    return found


def _change(before: Reading, after: Reading, *, more: float, state: State) -> Change | None:
    """Return one reading's change; None where a figure is zero.

    ``more`` is relative error to add, ``state`` what the processor's own change explains.
    """
    found = difference(before, after, more=more)
    if found is None:
        return None
    verdict: Verdict = "noise" if found.confidence < LIKELY else "faster" if found.gain > 0 else "slower"
    confidence, why = found.confidence, ""
    slower = after if found.gain < 0 else before
    if verdict != "noise" and slower.disturbed > DISTURBED * slower.samples:
        verdict = "noise"
        why = f"others used the processor during {slower.disturbed} of the {slower.samples} slower samples"
    elif verdict != "noise" and state.gain * found.gain > 0 and not _apart(after):
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


def _tells(change: Change) -> bool:
    return change.headline and change.verdict != "noise" and (change.name == READ or change.confidence >= SURE)


def _sentence(told: Sequence[Change], changes: Sequence[Change]) -> str:
    if not changes:
        return "nothing was measured in both"
    ranked = sorted(told, key=lambda change: (change.name != READ, -abs(math.log(change.ratio))))
    words = [f"{change_words(change)}: not noise ({_sure(change)})" for change in ranked[:NAMED]]
    if len(ranked) > NAMED:
        words.append(f"{len(ranked) - NAMED} more ceilings differ")
    if not ranked:
        words.append("no ceiling differs by more than noise")
        words += [change_words(change) for change in changes if change.headline and change.name == READ][:1]
    return "; ".join(words)


def _notes(sides: tuple[Side, Side], *, same: bool, state: float, changes: Sequence[Change]) -> Iterator[str]:
    if not same:
        first, second = (f"{side.machine} ({side.host})" for side in sides)
        yield f"two machines are compared: {first} and {second}"
    if sides[0].ladder != sides[1].ladder:
        yield f"a {sides[0].ladder} run beside a {sides[1].ladder} one: fewer samples find a lower best, which is taken off"
    for side in sides:
        if side.disturbed > 0.1:
            yield f"{side.id}: others used the processor during {side.disturbed:.0%} of its samples".replace("%", " %")
        if not side.complete:
            yield f"{side.id} is incomplete"
        if not side.stable:
            yield f"{side.id}: DRAM bandwidth moved by over 5 % within the run, which is added to the noise"
    if abs(state) > math.log(1.15):
        yield (
            f"the processor itself ran at ×{math.exp(state):.2f} of before (canary.fma): on a shared machine a state that "
            "comes and goes; measure again"
        )
    odd = sum(change.verdict != "noise" for change in changes)
    if odd and len(changes) >= MANY:
        yield f"{odd} of {len(changes)} readings differ; up to one in {1 / (1 - LIKELY):.0f} does so by chance"


def _state(old: Mapping[Place, Reading], new: Mapping[Place, Reading]) -> State:
    """Return how much faster the processor itself ran, by the compute canary.

    Medians, because the canary has two states and a best shows only the faster.
    """
    for place in old:
        if place.name == CANARY and place in new and min(old[place].median, new[place].median) > 0:
            error = math.hypot(relative_error(old[place], "median"), relative_error(new[place], "median"))
            return State(math.log(new[place].median / old[place].median), error)
    return State(0.0, 0.0)


def _scatter(bests: Sequence[float]) -> float:
    """Return the robust relative scatter of three or more runs (1.4826 × median deviation), 0 for fewer."""
    middle = statistics.median(bests)
    if len(bests) < 3 or middle <= 0:
        return 0.0
    return 1.4826 * statistics.median(abs(best / middle - 1) for best in bests)


def _measured(device: Device) -> Measured:
    if device.measured is None:
        raise DocumentError(f"{device.id} was never measured", mend="compare two runs of `bytebound measure`")
    return device.measured


def _side(device: Device, run: Measured) -> Side:
    return Side(run.id, run.when, device.id, host_of(device), run.ladder, run.complete, run.stable, run.disturbed)


def _spread(reading: Reading) -> Spread:
    return Spread(reading.best, reading.median, reading.p10, reading.p90, reading.samples)


def _sure(change: Change) -> str:
    return f"{math.floor(min(change.confidence, 0.999) * 1000) / 10:.3g} % sure"


def _words(change: Change) -> str:
    device = change.where.get("device", "")
    return change.name.replace(".", " ") + (f" on {device}" if device else "")


def _label(reading: Reading) -> str:
    where = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in reading.where.items()
    )
    return f"{reading.name} ({where})" if where else reading.name


def _show(value: float, unit: str) -> str:
    if unit == "s":
        return show_time(value)
    return show_capacity(value) if unit == "B" else show_rate(value, unit)

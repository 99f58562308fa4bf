"""Two measurements compared reading by reading, and a machine that lost something since earlier ones noticed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bytebound.documents.comparison import Comparison, Side
from bytebound.errors import DocumentError
from bytebound.history.describe import host_of, seconds_of
from bytebound.measure.pairs import READ, headlines
from bytebound.measure.verdicts import LIKELY, changes, processor_state, seen
from bytebound.units import show_capacity, show_rate, show_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bytebound.documents.comparison import Change
    from bytebound.documents.device import Device
    from bytebound.documents.measurement import Measured, Reading
    from bytebound.measure.verdicts import Seen

SURE = 0.99
"""Confidence from which a ceiling other than the DRAM read ceiling is put in the sentence: several are looked at, and at
95 % one in twenty differs by chance."""
MANY, NAMED = 20, 3  # readings from which chance is mentioned; changes named in the sentence
FEW_RUNS = 3  # under so many earlier runs it is not known whether a virtual machine goes back and forth


def compare(before: Device, after: Device, others: Sequence[Device] = ()) -> Comparison:
    """Return what differs between two measured devices, and which differences are more than noise.

    Args:
        before: the earlier measurement.
        after: the later one.
        others: further measurements of the same machine: a difference that has come and gone before is noise.

    Raises:
        DocumentError: one of them was never measured.
    """
    old, new = seen(_measured(before)), seen(_measured(after))
    sides = _side(before), _side(after)
    same = (sides[0].machine, sides[0].host) == (sides[1].machine, sides[1].host)
    found = changes(old, new, _in_time([old, new, *_seen(others)]) if same else [])
    listed = tuple(found.values())
    told = [change for change in listed if _tells(change)]
    verdicts = {change.verdict for change in told}
    return Comparison(
        before=sides[0], after=sides[1], same_machine=same,
        verdict="mixed" if len(verdicts) > 1 else next(iter(verdicts), "noise"),
        sentence=_sentence(told, listed), changes=listed,
        only_before=tuple(_label(old.table[place]) for place in old.table if place not in new.table),
        only_after=tuple(_label(new.table[place]) for place in new.table if place not in old.table),
        notes=tuple(_notes(sides, same=same, state=processor_state(old, new).gain, listed=listed)),
    )  # fmt: skip


def noticed(earlier: Sequence[Device], new: Device) -> tuple[str, ...]:
    """Return a sentence for each headline ceiling that ``new`` has lost since ``earlier`` measurements of the same machine.

    Each reading is held against the earlier run that is the middle one for it. Empty where nothing was lost, where the
    machine has gone back and forth between the two before, or where nothing comparable was measured.

    Raises:
        DocumentError: ``new`` was never measured.
    """
    now = seen(_measured(new))
    past = [run for run in _in_time(_seen(earlier)) if run.run.id != now.run.id]
    doubt = "; on a virtual machine a neighbour may have it: measure again" if now.run.system.virtual else ""
    sentences = []
    for place in sorted(headlines(now.table)):
        known = sorted((run for run in past if place in run.table), key=lambda run: run.table[place].best)
        if not known:
            continue
        middle = known[len(known) // 2]
        change = changes(middle, now, [*past, now]).get(place)
        if change is not None and change.verdict == "slower" and _tells(change):
            since = middle.run.when[:10] + (f" (the middle of {len(known)} earlier runs)" if len(known) > 1 else "")
            words = f"since {since}, {change_words(change)}: not noise ({_sure(change)})"
            sentences.append(words + (doubt if len(known) < FEW_RUNS else ""))
    return tuple(sentences)


def change_words(change: Change) -> str:
    """Return what one reading lost or gained, in words: ``memory read lost 12 % (24.1 GB/s → 21.2 GB/s)``."""
    before, after = getattr(change.before, change.figure), getattr(change.after, change.figure)
    share = f"{abs(change.ratio - 1):.0%}".replace("%", " %")
    grew = change.ratio > 1
    verb = ("rose by" if grew else "fell by") if change.unit == "s" else ("gained" if grew else "lost")
    return f"{_words(change)} {verb} {share} ({_show(before, change.unit)} → {_show(after, change.unit)})"


def _tells(change: Change) -> bool:
    return change.headline and change.verdict != "noise" and (change.name == READ or change.confidence >= SURE)


def _sentence(told: Sequence[Change], listed: Sequence[Change]) -> str:
    if not listed:
        return "nothing was measured in both"
    ranked = sorted(told, key=lambda change: (change.name != READ, -abs(math.log(change.ratio))))
    words = [f"{change_words(change)}: not noise ({_sure(change)})" for change in ranked[:NAMED]]
    if len(ranked) > NAMED:
        words.append(f"{len(ranked) - NAMED} more ceilings differ")
    if not ranked:
        words.append("no ceiling differs by more than noise")
        main = [change for change in listed if change.headline and change.name == READ][:1]
        words += [change_words(change) + (f", but {change.why}" if change.why else "") for change in main]
    return "; ".join(words)


def _notes(sides: tuple[Side, Side], *, same: bool, state: float, listed: Sequence[Change]) -> Iterator[str]:
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
    odd = sum(change.verdict != "noise" for change in listed)
    if odd and len(listed) >= MANY:
        yield f"{odd} of {len(listed)} readings differ; up to one in {1 / (1 - LIKELY):.0f} does so by chance"


def _measured(device: Device) -> Measured:
    if device.measured is None:
        raise DocumentError(f"{device.id} was never measured", mend="compare two runs of `bytebound measure`")
    return device.measured


def _seen(devices: Sequence[Device]) -> list[Seen]:
    return [seen(device.measured) for device in devices if device.measured is not None]


def _in_time(runs: Sequence[Seen]) -> list[Seen]:
    """Return runs by time, each once."""
    return sorted(
        {run.run.id: run for run in runs}.values(), key=lambda run: seconds_of(run.run.when, place=run.run.id)
    )


def _side(device: Device) -> Side:
    run = _measured(device)
    return Side(run.id, run.when, device.id, host_of(device), run.ladder, run.complete, run.stable, run.disturbed)


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

"""Plans of a sweep: sets of levers, a move to a roadmap device, more devices, by one name such as ``fp8-weights+fp8-kv``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from bytebound.audit.fixes import HARDWARE
from bytebound.audit.surface import surface, today
from bytebound.documents.plan import QUALITIES
from bytebound.documents.sweep import AS_IS
from bytebound.errors import QuantityError, RequestError, UnknownNameError
from bytebound.plan.case import Refusal
from bytebound.plan.compose import apply_all, cautions_of, conflict, in_order
from bytebound.plan.levers import ALL_LEVERS, LEVERS
from bytebound.predict.estimate import settle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bytebound.audit.surface import Axes
    from bytebound.documents.device import Machine
    from bytebound.documents.sweep import Coming
    from bytebound.plan.case import Case, Today

MORE, MOVE = HARDWARE
MOST_DEVICES = 100_000_000
WORDS = ("levers", "pairs")
"""``levers``: each lever of the fleet's kinds of work alone, and each roadmap device; ``pairs``: these and every two levers."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A workload under a plan: its changed case, devices added to its share, where it moves and from which month.

    ``caution`` says why the plan must be proven before anyone takes it, or nothing.
    """

    case: Case
    added: int = 0
    machine: Machine | None = None
    from_month: int = 0
    caution: str = ""


def expand(asked: Iterable[str], *, kinds: Iterable[str], devices: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the plans that ``asked`` stands for, as-is first, each once.

    Args:
        asked: names of plans, ``levers`` or ``pairs``.
        kinds: kinds of work in the fleet; a lever for none of them is left out of the two words.
        devices: ids of the roadmap's devices.

    Raises:
        UnknownNameError, QuantityError, RequestError: a name is not a plan.
    """
    wanted, known = set(kinds), tuple(devices)
    alone = [lever.name for lever in LEVERS if wanted & set(lever.kinds)]
    words = {"levers": [*alone, *(f"{MOVE}:{device}" for device in known)]}
    words["pairs"] = [*words["levers"], *("+".join(pair) for pair in combinations(alone, 2) if not conflict(pair))]
    names = [name for given in asked for name in words.get(given, [given])]
    return tuple(dict.fromkeys([AS_IS, *("+".join(steps(name, known)) or AS_IS for name in names)]))


def steps(name: str, devices: Iterable[str]) -> tuple[str, ...]:
    """Return the steps of a plan in one order, however they were given: a move, levers as they are applied, devices last.

    Raises:
        UnknownNameError, QuantityError, RequestError: not a plan.
    """
    given = [] if name == AS_IS else [step.strip() for step in name.split("+")]
    moves = [f"{MOVE}:{device}" for device in devices]
    levers = [lever for lever in ALL_LEVERS if lever not in HARDWARE]
    for step in given:
        kind, _, value = step.partition(":")
        if kind == MORE and (not value.isdecimal() or not 0 < int(value) <= MOST_DEVICES):
            raise QuantityError(f"{step!r} says no number of devices", place="--plans", mend=f"write {MORE}:16")
        if kind != MORE and step not in (*moves, *levers):
            raise UnknownNameError("plan", step, [*moves, *levers, AS_IS, *WORDS, f"{MORE}:16"], place="--plans")
    kinds = [step.partition(":")[0] for step in given]
    if len(set(kinds)) < len(kinds):
        raise RequestError(f"plan {name!r} has a step twice", place="--plans", mend="name each step once")
    chosen = in_order(lever for lever in levers if lever in given)
    if clash := conflict(chosen):
        raise RequestError(clash, place="--plans", mend="name one of them")
    return (*(s for s in given if s in moves), *chosen, *(s for s in given if s.startswith(f"{MORE}:")))


def quality_of(name: str) -> str:
    """Return the lowest quality among a plan's levers."""
    found = [ALL_LEVERS[step].quality for step in name.split("+") if step in ALL_LEVERS]
    return min(found, key=QUALITIES.index, default=QUALITIES[-1])


def apply(name: str, case: Case, now: Today, *, axes: Axes, coming: Iterable[Coming]) -> Planned | Refusal:
    """Return the case under a plan, each step judged by the numbers the step before left, or why a step cannot be taken.

    Raises:
        ByteboundError: the changed case is not possible.
    """
    machines = {one.machine.device.id: one for one in coming}
    planned = Planned(case)
    levers = []
    for step in steps(name, machines):
        kind, _, value = step.partition(":")
        if kind not in HARDWARE:
            levers.append(step)
        elif case.kind == "edge":
            return Refusal("an edge workload runs on the device it has")
        elif kind == MORE:
            planned = replace(planned, added=int(value))
        elif value == case.setting.machine.device.id:
            return Refusal("the workload runs on this device already")
        else:
            moved = settle(case.setting.architecture, machines[value].machine, case.setting.engine.name)
            planned = Planned(replace(case, setting=moved), machine=moved.machine, from_month=machines[value].month)
    if unfit := [lever for lever in levers if case.kind not in ALL_LEVERS[lever].kinds]:
        return Refusal(f"{unfit[0]} is not for {case.kind} work")

    def numbers(of: Case) -> Today:
        return now if of is case else today(of, surface(of, axes))

    changed = apply_all(planned.case, levers, numbers)
    if isinstance(changed, Refusal):
        return changed
    return replace(planned, case=changed, caution="; ".join(cautions_of(planned.case, levers, numbers)))

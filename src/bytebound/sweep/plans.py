"""Plans of a sweep: sets of levers, a move to a roadmap device, more devices, by one name such as ``fp8-weights+fp8-kv``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from bytebound.audit.fixes import HARDWARE, QUALITY_ORDER
from bytebound.audit.surface import surface, today
from bytebound.documents.sweep import AS_IS
from bytebound.errors import QuantityError, RequestError, UnknownNameError
from bytebound.facts.levers import conflicts_of
from bytebound.plan.case import Refusal
from bytebound.plan.levers import LEVERS
from bytebound.predict.estimate import settle

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bytebound.audit.surface import Axes
    from bytebound.documents.device import Machine
    from bytebound.documents.sweep import Coming
    from bytebound.plan.case import Case, Today

MORE, MOVE = HARDWARE
LEVER = {lever.name: lever for lever in LEVERS}
MOST_DEVICES = 100_000_000
WORDS = ("levers", "pairs")
"""``levers``: each lever of the fleet's kinds of work alone, and each roadmap device; ``pairs``: these and every two levers."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A workload under a plan: its changed case, devices added to its share, and where it moves, from which month."""

    case: Case
    added: int = 0
    machine: Machine | None = None
    from_month: int = 0


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
    alone = [name for name, lever in LEVER.items() if wanted & set(lever.kinds)]
    words = {"levers": [*alone, *(f"{MOVE}:{device}" for device in known)]}
    pairs = [pair for pair in combinations(alone, 2) if pair[1] not in conflicts_of(pair[0])]
    words["pairs"] = [*words["levers"], *("+".join(pair) for pair in pairs)]
    names = [name for given in asked for name in words.get(given, [given])]
    return tuple(dict.fromkeys([AS_IS, *("+".join(steps(name, known)) or AS_IS for name in names)]))


def steps(name: str, devices: Iterable[str]) -> tuple[str, ...]:
    """Return the steps of a plan in the order they are applied: a move, levers in the order of their table, devices last.

    Raises:
        UnknownNameError, QuantityError, RequestError: not a plan.
    """
    given = [] if name == AS_IS else [step.strip() for step in name.split("+")]
    known = {f"{MOVE}:{device}" for device in devices}
    order = {step: place for place, step in enumerate([*sorted(known), *LEVER])}
    for step in given:
        kind, _, value = step.partition(":")
        if kind == MORE:
            if not value.isdecimal() or not 0 < int(value) <= MOST_DEVICES:
                raise QuantityError(f"{step!r} says no number of devices", place="--plans", mend=f"write {MORE}:16")
            order[step] = len(order)
        elif step not in order:
            raise UnknownNameError("plan", step, [*order, AS_IS, *WORDS, f"{MORE}:16"], place="--plans")
    kinds = [step.partition(":")[0] for step in given]
    if len(set(kinds)) < len(kinds):
        raise RequestError(f"plan {name!r} has a step twice", place="--plans", mend="name each step once")
    against = next(((a, b) for a, b in combinations(given, 2) if a in LEVER and b in conflicts_of(a)), None)
    if against is not None:
        raise RequestError(
            f"{against[0]} and {against[1]} do not go together", place="--plans", mend="name one of them"
        )
    return tuple(sorted(given, key=lambda step: order[step]))


def quality_of(name: str) -> str:
    """Return the lowest quality among a plan's levers."""
    found = [LEVER[step].quality for step in name.split("+") if step in LEVER]
    return min(found, key=QUALITY_ORDER.index, default=QUALITY_ORDER[-1])


def apply(name: str, case: Case, now: Today, *, axes: Axes, coming: Iterable[Coming]) -> Planned | Refusal:
    """Return the case under a plan, each step judged by the numbers the step before left, or why a step cannot be taken.

    Raises:
        ByteboundError: the changed case is not possible.
    """
    machines = {one.machine.device.id: one for one in coming}
    planned = Planned(case)
    for place, step in enumerate(steps(name, machines)):
        numbers = today(planned.case, surface(planned.case, axes)) if place else now
        taken = _step(step, planned, numbers, machines)
        if isinstance(taken, Refusal):
            return Refusal(f"{step}: {taken.reason}")
        planned = taken
    return planned


def _step(step: str, planned: Planned, now: Today, machines: dict[str, Coming]) -> Planned | Refusal:
    kind, _, value = step.partition(":")
    case = planned.case
    if kind in HARDWARE and case.kind == "edge":
        return Refusal("an edge workload runs on the device it has")
    if kind == MORE:
        return replace(planned, added=int(value))
    if kind == MOVE:
        machine, month = machines[value].machine, machines[value].month
        if value == case.setting.machine.device.id:
            return Refusal("the workload runs on this device already")
        moved = settle(case.setting.architecture, machine, case.setting.engine.name)
        return replace(planned, case=replace(case, setting=moved), machine=machine, from_month=month)
    lever = LEVER[step]
    if case.kind not in lever.kinds:
        return Refusal(f"this lever is not for {case.kind} work")
    changed = lever.apply(case, now)
    return changed if isinstance(changed, Refusal) else replace(planned, case=changed)

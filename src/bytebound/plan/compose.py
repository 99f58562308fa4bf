"""Levers together: a set, applied in one order, with today's numbers read again after each. Nothing is multiplied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.errors import RequestError
from bytebound.facts.levers import conflicts_of
from bytebound.plan.cards import find_lever
from bytebound.plan.case import Case, Refusal
from bytebound.plan.today import today_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bytebound.plan.case import Today

ORDER = (
    "hardware", "attention", "sparsity", "sharding", "precision", "kernels", "offload", "recompute", "optimizer", "caching",
    "request", "batching", "speculation",
)  # fmt: skip
"""Groups in the order they are applied: what a machine and a model are, how they are stored, then how requests are run. A batch
is chosen once memory is known, and speculation once the batch is."""


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return lever names in the order they are applied, each once; within a group, in the order given.

    Raises:
        UnknownNameError: no such lever.
    """
    cards = [find_lever(name) for name in dict.fromkeys(names)]
    return tuple(card.name for card in sorted(cards, key=lambda card: ORDER.index(card.group)))


def conflict(names: Iterable[str]) -> str:
    """Return the sentence about the first two of ``names`` that do not combine; empty: all do."""
    chosen = tuple(names)
    for position, name in enumerate(chosen):
        against = [other for other in chosen[position + 1 :] if other in conflicts_of(name)]
        if against:
            return f"{name} and {against[0]} do not combine: one replaces or undoes the other"
    return ""


def apply_all(case: Case, names: Iterable[str], today: Callable[[Case], Today] = today_of) -> Case | Refusal:
    """Return the case with every lever of ``names`` applied, or the first refusal, which names its lever.

    Args:
        case: what to change.
        names: levers, in any order: ``in_order`` is kept.
        today: reads the numbers that rules look at, again before each lever.

    Raises:
        UnknownNameError: no such lever.
    """
    chosen = in_order(names)
    if clash := conflict(chosen):
        return Refusal(clash)
    for name in chosen:
        found = find_lever(name).lever.apply(case, today(case))
        if isinstance(found, Refusal):
            return Refusal(f"{name}: {found.reason}" if len(chosen) > 1 else found.reason)
        case = found
    return case


def cautions_of(case: Case, names: Iterable[str], today: Callable[[Case], Today] = today_of) -> tuple[str, ...]:
    """Return why levers of a set must be proven first, each as it is met on the way.

    Raises:
        UnknownNameError: no such lever.
        RequestError: the set is refused (``apply_all`` says why).
    """
    found: list[str] = []
    for name in in_order(names):
        now, lever = today(case), find_lever(name).lever
        if said := lever.caution(case, now):
            found.append(said)
        changed = lever.apply(case, now)
        if isinstance(changed, Refusal):
            raise RequestError(changed.reason, place=name)
        case = changed
    return tuple(found)

"""Cards: what is known of every lever, joined with its function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.errors import UnknownNameError
from bytebound.facts.levers import lever_cards
from bytebound.plan.levers import ALL_LEVERS, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.lever import LeverCard
    from bytebound.plan.case import Lever

CARDS: Mapping[str, LeverCard] = lever_cards()
"""Every card by name, in the order of the table. Effects are predicted by ``plan.effects.predicted``."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A card and its function."""

    card: LeverCard
    lever: Lever

    @property
    def name(self) -> str:
        """How the lever is called."""
        return self.card.name

    @property
    def group(self) -> str:
        """The group it belongs to."""
        return self.card.group


def find_card(name: str) -> LeverCard:
    """Return the card of a lever.

    Raises:
        UnknownNameError: no such lever; the nearest are named.
    """
    found = CARDS.get(name.strip().lower())
    if found is None:
        raise UnknownNameError("lever", name, CARDS, mend="see `bytebound levers`")
    return found


def find_lever(name: str) -> Joined:
    """Return a lever with its function.

    Raises:
        UnknownNameError: no such lever; the nearest are named.
    """
    card = find_card(name)
    return Joined(card, ALL_LEVERS[card.name])


def flag_of(name: str, engine: str) -> str:
    """Return the flag or call that turns a lever on in ``engine``; empty: our table has none."""
    rows = sorted(rows_of(name, engine), key=lambda row: row.status != "maintained")
    return rows[0].flag if rows and rows[0].status != "removed" else ""

"""A ranking of levers as one self-contained page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.report.html import filled
from bytebound.report.levers import HEADS, WORDS, ratios, why
from bytebound.report.words import clean

if TYPE_CHECKING:
    from bytebound.documents.lever import LeverEffect, LeverRanking

NUMBERS = tuple(range(2, 8))
"""Columns of ``HEADS`` that hold numbers."""


def ranking_html(ranking: LeverRanking) -> str:
    """Return what every lever gives in one case as one page."""
    tried = [effect for effect in ranking.effects if effect.outcome != "refused"]
    helping = [_name(effect) for effect in tried if effect.outcome == "helps"]
    binds = ranking.effects[0].binds if ranking.effects else "nothing"
    return filled(
        "levers.html.j2",
        title=f"Levers for {clean(ranking.model)} on {clean(ranking.machine)}",
        script="",
        data=None,
        sentence=f"{binds} binds; {len(helping)} of {len(ranking.effects)} levers help"
        + (f", {helping[0]} first" if helping else ""),
        notes=[clean(note) for note in ranking.notes],
        heads=[title for title, _ in HEADS],
        numbers=NUMBERS,
        rows=[(_name(effect), WORDS[effect.outcome], *ratios(effect), effect.next_wall) for effect in tried],
        reasons=[(_name(effect), clean(why(effect))) for effect in tried if why(effect)],
        refused=[(_name(effect), clean(effect.reason)) for effect in ranking.effects if effect.outcome == "refused"],
        sources=[(_name(effect), clean(effect.source)) for effect in tried]
        + [(clean(item.what), clean(f"{item.how} · {item.source}")) for item in ranking.provenance],
    )


def _name(effect: LeverEffect) -> str:
    return clean(" + ".join(effect.levers))

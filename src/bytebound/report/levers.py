"""Levers in the terminal: every card, one in full, and what each gives in one case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.page import draw, grid, heading, indented, labelled, table_text
from bytebound.report.words import clean, times
from bytebound.units import significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from bytebound.documents.lever import LeverCard, LeverEffect, LeverRanking, PublishedEffect
    from bytebound.report.page import Page

UNKNOWN = "–"
WORDS = {
    "helps": "helps",
    "prove-first": "prove first",
    "little-effect": "little",
    "hurts": "hurts",
    "refused": "refused",
}
HEADS = (
    ("lever", "!"), ("outcome", "!"), ("tokens/s", "r!"), ("80 %", "!"), ("TPOT", "r!"), ("TTFT", "r!"), ("memory", "r!"),
    ("$/token", "r!"), ("then binds", ""),
)  # fmt: skip
"""Columns of a ranking and how they are drawn."""
STYLES = {"helps": "green", "prove-first": "yellow", "hurts": "red"}


def levers_text(cards: Sequence[LeverCard], page: Page) -> str:
    """Return a list of levers, one a line: group, quality and engines that have each."""
    rows = [(card.name, card.group, card.quality, _engines(card), card.title) for card in cards]
    columns = (("lever", "!"), ("group", "!"), ("quality", "!"), ("engines", ""), ("what it does", ""))
    return table_text(
        title=f"{len(cards)} levers", columns=columns, rows=rows, page=page,
        note="bytebound levers NAME explains one; bytebound levers MODEL --on MACHINE ranks all of them for a case",
    )  # fmt: skip


def _engines(card: LeverCard) -> str:
    kept = [each.engine for each in card.engines if each.status == "maintained"]
    return ", ".join(kept) or ("none maintained" if card.engines else UNKNOWN)


def lever_text(card: LeverCard, page: Page) -> str:
    """Return one card whole: what it changes, when, on which engine, at what cost, and published effects beside ours."""
    facts = [
        ("group", card.group), ("changes", card.changes), ("formula", card.formula),
        ("quality", f"{card.quality}: {card.quality_note}"), ("conflicts", ", ".join(card.conflicts) or "none known"),
        ("proof", f"bytebound prove --lever {card.proof}" if card.proof else "none can run on a machine without an accelerator"),
        ("source", card.source),
    ]  # fmt: skip
    parts: list[RenderableType] = [heading(f"{card.name}: {clean(card.title)}"), Text("")]
    parts.append(labelled([(name, clean(value)) for name, value in facts]))
    parts += _listed("Preconditions", card.preconditions) + _listed("Pitfalls", card.pitfalls)
    if card.engines:
        rows = [
            (each.engine, each.status, each.since or UNKNOWN, clean(each.flag), clean("; ".join(filter(None, (each.hardware, each.note)))))
            for each in card.engines
        ]  # fmt: skip
        columns = (("engine", "!"), ("status", "!"), ("since", "w"), ("flag or call", "w"), ("needs, notes", "w"))
        parts += [Text(""), heading("Engines"), grid(*columns, rows=rows, indent=2)]
    if card.priors:
        priors = [
            (f"{each.family} {each.parameters / 1e9:g}B", clean(each.scheme), clean(each.metric), f"{each.before:g} → {each.after:g}", clean(each.source))
            for each in card.priors
        ]  # fmt: skip
        columns = (("model", "!"), ("scheme", "w"), ("metric", "w"), ("before → after", "!"), ("source", "w"))
        parts += [Text(""), heading("Quality elsewhere"), grid(*columns, rows=priors, indent=2)]
    if card.effects:
        effects = [(clean(each.name), *effect_cells(each)) for each in card.effects]
        columns = (("published effect", "w"), ("printed", "r!"), ("predicted", "r!"), ("error", "r!"), ("kind", "!"))
        parts += [Text(""), heading("Published effects"), grid(*columns, rows=effects, indent=2)]
    return draw(parts, page)


def effect_cells(effect: PublishedEffect) -> tuple[str, str, str, str]:
    """Return printed, predicted, error and kind of one published effect."""
    if effect.predicted is None:
        return f"{significant(effect.printed, 4)} {effect.unit}", UNKNOWN, UNKNOWN, effect.kind
    error = effect.predicted / effect.printed - 1
    return (
        f"{significant(effect.printed, 4)} {effect.unit}", f"{significant(effect.predicted, 4)} {effect.unit}",
        f"{error:+.1%}", effect.kind,
    )  # fmt: skip


def _listed(title: str, sentences: Sequence[str]) -> list[RenderableType]:
    if not sentences:
        return []
    return [Text(""), heading(title), *(indented(f"· {clean(sentence)}") for sentence in sentences)]


def ranking_text(ranking: LeverRanking, page: Page) -> str:
    """Return what every lever gives in one case; refusals with their reasons last."""
    tried = [effect for effect in ranking.effects if effect.outcome != "refused"]
    refused = [effect for effect in ranking.effects if effect.outcome == "refused"]
    rows = [
        (
            clean(" + ".join(effect.levers)), Text(WORDS[effect.outcome], style=STYLES.get(effect.outcome, "")), *ratios(effect),
            effect.next_wall,
        )
        for effect in tried
    ]  # fmt: skip
    binds = ranking.effects[0].binds if ranking.effects else UNKNOWN
    parts: list[RenderableType] = [
        heading(f"{clean(ranking.model)} on {clean(ranking.machine)}: {binds} binds"),
        *(indented(clean(note), style="dim") for note in ranking.notes),
        Text(""),
    ]
    parts.append(grid(*HEADS, rows=rows) if rows else indented("no lever applies here"))
    reasons = [(" + ".join(effect.levers), clean(why(effect))) for effect in tried if why(effect)]
    if reasons:
        parts += [Text(""), heading("Why, and how to turn it on"), labelled(reasons)]
    if refused:
        parts += [Text(""), heading(f"Refused ({len(refused)})")]
        parts.append(labelled([(" + ".join(effect.levers), clean(effect.reason)) for effect in refused]))
    return draw(parts, page)


def why(effect: LeverEffect) -> str:
    """Return what to know before turning a lever on: the reason to prove it first, its quality, its flag, its proof."""
    said = [effect.reason] if effect.outcome == "prove-first" else []
    if effect.quality != "lossless":
        said.append(f"{effect.quality}: {effect.quality_note}")
    if effect.flag:
        said.append(effect.flag)
    if effect.proven:
        said.append(f"proven here: {effect.proven}")
    return " · ".join(said)


def ratios(effect: LeverEffect) -> tuple[str, str, str, str, str, str]:
    """Return rate with its interval, TPOT, TTFT, memory and price as ratios after over before."""
    speed = effect.speed
    return (
        times(None if speed is None else float(speed.value)),
        UNKNOWN if speed is None else f"{float(speed.low):.2f}–{float(speed.high):.2f}",
        times(effect.tpot), times(effect.ttft), times(effect.memory), times(effect.usd),
    )  # fmt: skip

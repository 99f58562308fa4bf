"""Levers: one typed, cited card for everything that can be changed about a deployment, and what it gives in one case."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bytebound.documents.values import Interval, Provenance

LEVERS_SCHEMA = "bytebound.levers/1"
RANKING_SCHEMA = "bytebound.lever-ranking/1"

Group = Literal[
    "precision", "sparsity", "batching", "caching", "speculation", "attention", "kernels", "offload", "sharding",
    "recompute", "optimizer", "hardware", "request",
]  # fmt: skip
Status = Literal["maintained", "prototype", "deprecated", "removed"]
Outcome = Literal["helps", "little-effect", "hurts", "prove-first", "refused"]
"""``prove-first``: measured elsewhere to hurt or to help by case, so it is never recommended before a proof here."""


@dataclass(frozen=True, slots=True)
class EngineSupport:
    """How one engine or library has a lever: since which version, how well kept, and the flag or call that turns it on."""

    engine: str
    status: Status
    since: str
    flag: str
    note: str
    source: str
    hardware: str = ""  # what it needs, in words; empty: nothing special


@dataclass(frozen=True, slots=True)
class QualityPrior:
    """What the lever cost in quality elsewhere: one metric of one model before and after."""

    family: str
    parameters: float
    metric: str  # perplexity (less is better) or the name of a benchmark (more is better)
    before: float
    after: float
    source: str
    scheme: str = ""  # which variant of the lever: a format, a group size


@dataclass(frozen=True, slots=True)
class PublishedEffect:
    """A printed effect, the setting it was printed for, and what our formula gives there."""

    name: str
    printed: float
    unit: str  # × (a ratio after over before), or a plain unit
    setting: str
    source: str
    predicted: float | None = None
    kind: Literal["formula", "engine"] = "formula"  # physics alone, or an engine's kernels too
    note: str = ""


@dataclass(frozen=True, slots=True)
class LeverCard:
    """One lever.

    Args:
        name: how the audit, plan and proofs call it.
        changes: what it changes in the ledger, in words; the change itself is the function of the same name in ``plan``.
        preconditions: what must hold, each as a sentence.
        conflicts: names of levers it does not combine with, or replaces.
        quality: ``lossless``, ``near-lossless`` or ``any``; ``quality_note`` says it in words.
        pitfalls: when it hurts, with evidence.
        proof: name of the proof that can run here (``bytebound prove --lever``); empty: none.
    """

    name: str
    title: str
    group: Group
    kinds: tuple[str, ...]
    changes: str
    formula: str
    quality: str
    quality_note: str
    source: str
    preconditions: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    pitfalls: tuple[str, ...] = ()
    engines: tuple[EngineSupport, ...] = ()
    priors: tuple[QualityPrior, ...] = ()
    effects: tuple[PublishedEffect, ...] = ()
    proof: str = ""


@dataclass(frozen=True, slots=True)
class LeverEffect:
    """What a lever (or a set of them, in order) gives in one case: everything re-run through the ledger.

    Ratios are after over before: ``speed`` of tokens per second at the objective, ``tpot``, ``ttft`` of time (less is better),
    ``memory`` of bytes on the fullest device, ``usd`` of the bill per token. None: unknown, or it did not run before.
    ``proven`` is the id of the newest proof on this machine.
    """

    levers: tuple[str, ...]
    title: str
    outcome: Outcome
    reason: str
    speed: Interval | None = None
    tpot: float | None = None
    ttft: float | None = None
    memory: float | None = None
    usd: float | None = None
    joules: float | None = None
    quality: str = "lossless"
    quality_note: str = ""
    binds: str = ""  # what binds before
    next_wall: str = ""  # what binds after
    flag: str = ""
    proven: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class LeverRanking:
    """``bytebound levers MODEL --on MACHINE``: every lever in this case, what helps most first, refusals with their reasons last."""

    model: str
    machine: str
    work: dict[str, object]
    effects: tuple[LeverEffect, ...]
    notes: tuple[str, ...] = ()
    provenance: tuple[Provenance, ...] = ()
    schema_: str = RANKING_SCHEMA


@dataclass(frozen=True, slots=True)
class Levers:
    """``bytebound levers``: every card."""

    cards: tuple[LeverCard, ...]
    schema_: str = field(default=LEVERS_SCHEMA)

"""What every lever gives in one case: each re-run through the ledger, ranked, with what binds before and after."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from bytebound.documents.fleet import Objective
from bytebound.documents.lever import LeverEffect, LeverRanking
from bytebound.documents.values import Interval
from bytebound.documents.work import Serve
from bytebound.errors import ByteboundError, RequestError
from bytebound.plan.cards import CARDS, find_lever, flag_of
from bytebound.plan.case import Case, Refusal
from bytebound.plan.compose import apply_all, cautions_of, in_order
from bytebound.plan.spot import Spot, bounds_of, look
from bytebound.predict.estimate import settle, understood

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.device import Machine
    from bytebound.documents.lever import Outcome
    from bytebound.documents.proof import Proof
    from bytebound.documents.work import Train
    from bytebound.plan.case import Today
    from bytebound.predict.estimate import Setting

Sort = Literal["time", "money", "memory", "quality"]
SORTS: tuple[Sort, ...] = ("time", "money", "memory", "quality")
LITTLE = 0.03
"""Gains under 3 % are called little: below the error of any of our ratios."""
OUTCOMES = ("helps", "prove-first", "little-effect", "hurts", "refused")
QUALITIES = ("lossless", "near-lossless", "any")


def _ratio(after: float | None, before: float | None) -> float | None:
    if after is None or before is None or not np.isfinite(after) or not np.isfinite(before) or before <= 0:
        return None
    return after / before


def effect_of(
    case: Case, before: Spot, names: Sequence[str], *, sort: Sort = "time", proven: Mapping[str, Proof] | None = None
) -> LeverEffect:
    """Return what a lever, or a set of them, gives in a case: everything re-run.

    Raises:
        UnknownNameError: no such lever.
    """
    chosen = in_order(names)
    cards = [find_lever(name).card for name in chosen]
    worst = max(cards, key=lambda card: QUALITIES.index(card.quality))
    blank = LeverEffect(
        levers=chosen, title=cards[0].title if len(cards) == 1 else " + ".join(chosen), outcome="refused", reason="",
        quality=worst.quality, quality_note="; ".join(dict.fromkeys(card.quality_note for card in cards)), binds=before.binds,
        flag=" · ".join(filter(None, (flag_of(name, case.setting.engine.name) for name in chosen))),
        source="; ".join(dict.fromkeys(card.source for card in cards)),
    )  # fmt: skip

    def today(now: Case) -> Today:
        return before.today if now is case else look(now).today

    try:
        changed = apply_all(case, chosen, today)
        if isinstance(changed, Refusal):
            return replace(blank, reason=changed.reason)
        after = look(changed)
    except ByteboundError as error:
        return replace(blank, reason=error.message)
    cautions = cautions_of(case, chosen, today)
    outcome, reason = _judged(before, after, cautions, sort)
    speed = _ratio(after.rate, before.rate)
    found = replace(
        blank, outcome=outcome, reason=reason,
        speed=None if speed is None else Interval(speed, speed / after.spread, speed * after.spread),
        tpot=_ratio(after.tpot, before.tpot), ttft=_ratio(after.ttft, before.ttft), memory=_ratio(after.memory, before.memory),
        usd=_ratio(after.usd, before.usd), joules=_ratio(after.joules, before.joules), next_wall=after.binds,
    )  # fmt: skip
    return as_proven(found, [(proven or {}).get(name) for name in chosen], sort)


def as_proven(effect: LeverEffect, proofs: Sequence[Proof | None], sort: Sort) -> LeverEffect:
    """Return an effect with what conclusive proofs on this machine say: a lever proven to hurt hurts, whatever the ledger says.

    Proofs of single levers say nothing of how a set works together: a set carries their ids and keeps its outcome.
    """
    known = [proof for proof in proofs if proof is not None and proof.verdict != "inconclusive"]
    if not known:
        return effect
    effect = replace(effect, proven=", ".join(proof.id for proof in known))
    if len(proofs) > 1 or effect.outcome == "refused":
        return effect
    said: dict[str, Outcome] = {"helps": "helps", "hurts": "hurts", "no-effect": "little-effect"}
    saves: Outcome = "helps" if sort == "memory" else "little-effect"
    outcome = said.get(known[0].effect, saves)
    if effect.outcome in {"hurts", "little-effect"} and outcome == "helps":
        return effect  # it helped the proof's model; this case is another
    return replace(effect, outcome=outcome, reason=f"proven here: {known[0].sentence}")


def gain_of(before: Spot, after: Spot, sort: Sort) -> float | None:
    """Return how many times better the case became by what is sorted by; None: one of the two is unknown."""
    if sort == "money":
        return _ratio(before.usd, after.usd)
    if sort == "memory":
        return _ratio(before.memory, after.memory)
    return _ratio(after.rate, before.rate)


def _judged(before: Spot, after: Spot, cautions: tuple[str, ...], sort: Sort) -> tuple[Outcome, str]:
    gain = gain_of(before, after, sort)
    if not after.runs:
        what = "does not fit" if not np.isfinite(after.rate) else "meets the objective at no batch"
        return "refused", f"with it the model still {what}" if not before.runs else f"with it the model {what}"
    if not before.runs:
        return (
            ("prove-first", cautions[0])
            if cautions
            else ("helps", f"runs, which it did not before: {after.rate:,.3g} tokens per second")
        )
    said = f"{after.rate / before.rate:.2f}× tokens per second, {after.memory / before.memory:.2f}× memory"
    if gain is not None and gain < 1 - LITTLE:
        return "hurts", "; ".join((said, *cautions[:1]))
    if cautions:
        return "prove-first", cautions[0]
    if gain is None or gain < 1 + LITTLE:
        return "little-effect", said
    return "helps", said


def rank(
    case: Case, *, sort: Sort = "time", sets: Sequence[Sequence[str]] = (), proven: Mapping[str, Proof] | None = None
) -> tuple[LeverEffect, ...]:
    """Return what every lever gives in a case, and every set asked for, in a documented order.

    Sets asked for come first. Then levers by outcome (helps, prove-first, little-effect, hurts, refused); within one outcome by
    what is sorted by: ``time`` the highest rate (ties: the least TPOT), ``money`` the least dollars per token, ``memory`` the least
    bytes, ``quality`` lossless before near-lossless before any, then the rate.

    Raises:
        UnknownNameError: a set names no lever.
        RequestError: ``sort`` is not one of ``SORTS``.
    """
    if sort not in SORTS:
        raise RequestError(f"cannot sort by {sort!r}", place="sort", mend=f"choose one of {', '.join(SORTS)}")
    before = look(case)
    asked = tuple(effect_of(case, before, names, sort=sort, proven=proven) for names in sets)
    single = [
        effect_of(case, before, (name,), sort=sort, proven=proven)
        for name, card in CARDS.items()
        if case.kind in card.kinds
    ]
    return (*asked, *sorted(single, key=lambda effect: _place(effect, sort)))


def _place(effect: LeverEffect, sort: Sort) -> tuple[float, ...]:
    rate = float(effect.speed.value) if effect.speed else 0.0
    tpot = effect.tpot or 1e9
    by = {
        "time": (-rate, tpot),
        "money": (effect.usd or 1e9, -rate),
        "memory": (effect.memory or 1e9, -rate),
        "quality": (float(QUALITIES.index(effect.quality)), -rate),
    }[sort]
    return (float(OUTCOMES.index(effect.outcome)), *by)


def case_of(
    setting: Setting, work: Serve | Train, *, objective: Mapping[str, float | None] | None = None, kind: str = "",
    shared_prefix: float = 0.0, reused_context: float = 0.0, batch_limit: int = 0,
) -> Case:  # fmt: skip
    """Return a case for ranking.

    Without an objective the batch stays as asked. With one, batches up to ``batch_limit`` (0: the larger of what is asked and
    256) are tried, and each lever is judged at its own best batch that meets it.

    Args:
        setting: names resolved.
        work: the request.
        objective: bounds [s] by ``ttft``, ``tpot`` and ``request``.
        kind: serve, edge, train or finetune; empty: serve or train.
        shared_prefix: share of the prompt that requests have in common.
        reused_context: share of the prompt that is an earlier turn's.
        batch_limit: most sequences together.
    """
    bounds = {name: value for name, value in (objective or {}).items() if value is not None}
    if isinstance(work, Serve):
        asked = int(np.max(work.batch))
        limit = batch_limit or (max(asked, 256) if bounds else asked)
        return Case(
            kind or "serve",
            setting,
            work,
            Objective(**bounds),
            limit,
            shared_prefix=shared_prefix,
            reused_context=reused_context,
        )
    return Case(kind or "train", setting, work, Objective(), 1)


def rank_levers(
    model: str | Architecture, machine: str | Machine, work: Serve, *, objective: Mapping[str, float | None] | None = None,
    sort: Sort = "time", sets: Sequence[Sequence[str]] = (), proven: Mapping[str, Proof] | None = None,
) -> LeverRanking:  # fmt: skip
    """Return what every lever, and every set asked for, gives ``model`` on ``machine`` under ``work``; see ``rank``.

    Args:
        model: a bundled id, a path, or an Architecture.
        machine: ``"4x h100-sxm"``, a machine file, or a Machine.
        work: the request.
        objective: bounds [s] by ``ttft``, ``tpot`` and ``request``; without one the batch stays as asked.
        sort: ``time``, ``money``, ``memory`` or ``quality``.
        sets: levers to apply together.
        proven: proofs made here, by lever.

    Raises:
        UnknownNameError, DocumentError, QuantityError, RequestError: the request could not be understood.
    """
    case = case_of(settle(model, machine, work.engine), work, objective=objective)
    return ranking(case, sort=sort, sets=sets, proven=proven)


def ranking(
    case: Case, *, sort: Sort = "time", sets: Sequence[Sequence[str]] = (), proven: Mapping[str, Proof] | None = None
) -> LeverRanking:
    """Return the ranking as a document, with the request as it was understood."""
    setting = case.setting
    work = understood(setting, case.work) if isinstance(case.work, Serve) else {}
    bounds = [name.removesuffix("_s").removesuffix("_loaded") for name in bounds_of(case)]
    how = (
        f"each lever is judged at its own best batch up to {case.batch_limit} that meets {' and '.join(bounds)}"
        if bounds
        else f"the batch stays at {case.batch_limit}: room alone buys no speed; state an objective with --for to let it grow"
    )
    return LeverRanking(
        model=setting.asked or setting.architecture.name, machine=setting.machine.name, work=work,
        effects=rank(case, sort=sort, sets=sets, proven=proven), notes=(how,) if case.serve else (),
        provenance=setting.evidence.provenance,
    )  # fmt: skip

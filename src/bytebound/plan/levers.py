"""Every lever: the facts of its card joined with its function.

A lever takes a case and today's numbers and returns the changed case, or a refusal with its reason. It changes the request or the
machine; what it gives is found by running the ledger again, never by a multiplier.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from bytebound.facts.levers import card_rows, engine_rows
from bytebound.plan.absent_levers import ABSENT_LEVERS
from bytebound.plan.case import Case, Lever, Refusal, Today
from bytebound.plan.cautions import caution_of
from bytebound.plan.precision_levers import PRECISION_LEVERS
from bytebound.plan.serving_levers import SERVING_LEVERS
from bytebound.plan.sharding_levers import HARDWARE_LEVERS, SHARDING_LEVERS
from bytebound.plan.training_levers import TRAINING_LEVERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.facts.levers import CardRow, EngineRow

    Apply = Callable[[Case, Today], Case | Refusal]

__all__ = ["ALL_LEVERS", "FUNCTIONS", "LEVERS", "Today"]

FUNCTIONS: dict[str, Apply] = (
    PRECISION_LEVERS | SERVING_LEVERS | SHARDING_LEVERS | HARDWARE_LEVERS | TRAINING_LEVERS | ABSENT_LEVERS
)
LISTED_WHOLE = ("vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers")
"""Engines whose levers our table lists whole: one that it does not list there, the engine does not have."""
ANYWHERE = ("hardware", "request", "attention", "sharding", "sparsity")
"""Groups that are no feature of a serving engine."""


@cache
def rows_of(lever: str, engine: str) -> tuple[EngineRow, ...]:
    """Return how ``engine`` has ``lever``: rows of our table, none where it does not."""
    return tuple(row for row in engine_rows() if row.lever == lever and row.engine == engine)


def lacking(row: CardRow, case: Case) -> str:
    """Return why the engine of a case cannot do what a card asks; empty: it can, or our table does not list it whole."""
    engine = case.setting.engine.name
    if case.serve is None or row.group in ANYWHERE or engine not in LISTED_WHOLE or row.name in ABSENT_LEVERS:
        return ""
    if any(each.status != "removed" for each in rows_of(row.name, engine)):
        return ""
    having = [
        each.engine for each in engine_rows() if each.lever == row.name and each.status in {"maintained", "prototype"}
    ]
    elsewhere = f"; {', '.join(having)} {'has' if len(having) == 1 else 'have'}" if having else ""
    return f"{engine} has no {row.name} in our tables{elsewhere}"


def unfinished(row: CardRow, case: Case) -> str:
    """Return that the engine of a case has a lever as a prototype, or no longer keeps it; empty: neither."""
    kinds = {each.status for each in rows_of(row.name, case.setting.engine.name)}
    if not kinds or "maintained" in kinds or case.serve is None:
        return ""
    return f"{case.setting.engine.name} has it as {'a prototype' if 'prototype' in kinds else 'deprecated code'} only"


def _joined(row: CardRow) -> Lever:
    function = FUNCTIONS[row.name]

    def apply(case: Case, now: Today) -> Case | Refusal:
        found = function(case, now)
        if isinstance(found, Refusal):
            return found
        missing = lacking(row, case)
        return Refusal(missing) if missing else found

    own = caution_of(row.name)

    def caution(case: Case, now: Today) -> str:
        return own(case, now) or unfinished(row, case)

    return Lever(
        row.name,
        row.title,
        apply,
        row.quality_note,
        row.quality,
        row.source,
        tuple(row.kinds.split("|")),
        caution,
    )


ALL_LEVERS: dict[str, Lever] = {name: _joined(row) for name, row in card_rows().items()}
"""Every lever by name, in the order of the table."""
BY_HAND = ("dynamic-activations", "structured-pruning", "fused-kernels")
"""Levers no audit tries: the eager form of another lever, a checkpoint to be made first, and one the ledger does not see."""
LEVERS: tuple[Lever, ...] = tuple(
    lever
    for name, lever in ALL_LEVERS.items()
    if name not in HARDWARE_LEVERS and name not in ABSENT_LEVERS and name not in BY_HAND
)
"""Levers that keep the device. Buying more of it and moving to a roadmap device are the audit's, since they need supply."""

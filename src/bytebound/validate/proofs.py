"""Predictions beside what was proven on a machine: error and coverage by engine and metric."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from bytebound.documents.proof import TOLERANCE, ProofError, ProofErrors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.proof import Compared, Proof


def proof_errors(proofs: Sequence[Proof]) -> ProofErrors:
    """Return how wrong the predictions of conclusive proofs were, by engine and metric."""
    told = [proof for proof in proofs if proof.verdict != "inconclusive"]
    groups: dict[tuple[str, str], list[Compared]] = defaultdict(list)
    for proof in told:
        for each in proof.compared:
            if each.predicted is not None:
                groups[proof.engine, each.metric].append(each)
    rows = tuple(_error_of(engine, metric, found) for (engine, metric), found in sorted(groups.items()))
    return ProofErrors(rows, len(told), len(proofs) - len(told))


def _error_of(engine: str, metric: str, found: Sequence[Compared]) -> ProofError:
    missed = [abs(float(each.error or 0.0)) for each in found]
    held = [
        each.predicted is not None
        and bool(float(each.predicted.low) <= float(each.measured.value) <= float(each.predicted.high))
        for each in found
    ]
    return ProofError(
        engine, metric, len(found), float(median(missed)), sum(m <= TOLERANCE for m in missed) / len(found), sum(held) / len(found)
    )  # fmt: skip

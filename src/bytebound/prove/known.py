"""What has been proven on a machine before: the newest proof of each lever in the history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.proof import Proofs
from bytebound.errors import DocumentError
from bytebound.history.store import fetch, records

if TYPE_CHECKING:
    from bytebound.documents.proof import Proof
    from bytebound.history.store import History

MOST = 100
"""Ledgers looked through, newest first."""


def proven(history: History, machine: str, *, engine: str = "") -> dict[str, Proof]:
    """Return lever -> its newest proof on ``machine`` (a device id), of ``engine`` or of any.

    A conclusive proof counts before a newer inconclusive one. Ledgers of another version of the format are passed over.

    Raises:
        DocumentError: the history cannot be read.
    """
    found: dict[str, Proof] = {}
    for record in records(history, kind="proofs", machine=machine, limit=MOST):
        try:
            ledger = fetch(history, record.id, kind="proofs")
        except DocumentError:
            continue
        if not isinstance(ledger, Proofs):
            continue
        for proof in sorted(ledger.proofs, key=lambda each: each.when, reverse=True):
            held = found.get(proof.lever)
            better = held is None or (held.verdict == "inconclusive" and proof.verdict != "inconclusive")
            if engine in {"", proof.engine} and better:
                found[proof.lever] = proof
    return found

"""What has been proven on a machine before: the newest proof of each lever in the history."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bytebound.documents.proof import Proofs
from bytebound.errors import DocumentError
from bytebound.history.place import database_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bytebound.documents.proof import Proof
    from bytebound.history.store import History

MOST = 100
"""Ledgers looked through, newest first."""


def kept() -> tuple[Proof, ...]:
    """Return the newest proof of every lever by machine and engine; none where nothing was ever saved, or nothing can be.

    Raises:
        DocumentError: the history cannot be read.
    """
    url, default = database_url()
    if find_spec("sqlalchemy") is None or (default and not Path(url).is_file()):
        return ()
    from bytebound.history.store import open_history  # noqa: PLC0415 - needs SQLAlchemy

    found: dict[tuple[str, str, str], Proof] = {}
    for proof in _ledgers(open_history(), None):
        key = (proof.machine, proof.engine, proof.lever)
        found[key] = _better(found.get(key), proof)
    return tuple(found.values())


def proven(history: History, machine: str, *, engine: str = "") -> dict[str, Proof]:
    """Return lever -> its newest proof on ``machine`` (a device id), of ``engine`` or of any.

    A conclusive proof counts before a newer inconclusive one. Ledgers of another version of the format are passed over.

    Raises:
        DocumentError: the history cannot be read.
    """
    found: dict[str, Proof] = {}
    for proof in _ledgers(history, machine):
        if engine in {"", proof.engine}:
            found[proof.lever] = _better(found.get(proof.lever), proof)
    return found


def _better(held: Proof | None, older: Proof) -> Proof:
    return older if held is None or (held.verdict == "inconclusive" and older.verdict != "inconclusive") else held


def _ledgers(history: History, machine: str | None) -> Iterator[Proof]:
    """Yield every proof kept of ``machine``, or of all machines, newest first."""
    from bytebound.history.store import fetch, records  # noqa: PLC0415 - needs SQLAlchemy

    for record in records(history, kind="proofs", machine=machine, limit=MOST):
        try:
            ledger = fetch(history, record.id, kind="proofs")
        except DocumentError:
            continue
        if isinstance(ledger, Proofs):
            yield from sorted(ledger.proofs, key=lambda each: each.when, reverse=True)

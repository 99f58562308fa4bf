"""Proofs as one page: the table of predicted against measured, each proof's sentence, and what could not be proven."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.report.html import page_html
from bytebound.report.proof import CLOSING, HEADS, NUMBERS, headline, quality_words, table_rows, title
from bytebound.report.words import clean, moment

if TYPE_CHECKING:
    from bytebound.documents.proof import Proofs


def proofs_html(ledger: Proofs) -> str:
    """Return a ledger of proofs as one self-contained page."""
    rows = [tuple(clean(cell) for cell in row) for proof in ledger.proofs for row in table_rows(proof)]
    told = [
        (title(p), clean(p.sentence), p.verdict, quality_words(p.quality) if p.quality else "", [clean(n) for n in (*p.notes, *p.errors)])
        for p in ledger.proofs
    ]  # fmt: skip
    return page_html(
        "proof.html.j2", title="Levers proven on a real machine", charts=[], heads=HEADS, numbers=NUMBERS, rows=rows,
        told=told, sentence=headline(ledger), meta=f"{clean(ledger.machine)}, {moment(ledger.when)}. {CLOSING}.",
        unproven=[(clean(u.lever), clean(u.engine), clean(u.reason)) for u in ledger.unproven],
        notes=[clean(note) for note in ledger.notes],
    )  # fmt: skip

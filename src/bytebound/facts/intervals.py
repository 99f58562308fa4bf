"""How wide intervals are: log half-widths of predictions by what was asked, on what, and how far from evidence."""

from __future__ import annotations

import csv
import io
import math
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from bytebound.facts.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping

Term = tuple[str, str, str]
"""(clock, kind of term, name): ``("decode", "engine", "vllm")``; see ``half_width``."""

CLOCKS = {
    "tpot_s": "decode", "decode_tokens_per_s": "decode", "ttft_s": "first", "prefill_tokens_per_s": "prefill",
    "request_s": "run", "tokens_per_s": "run", "total_tokens_per_s": "run", "requests_per_s": "run",
}  # fmt: skip
"""Metric -> the clock whose errors it shares."""
COLUMNS = ("clock", "kind", "name", "value", "rows", "source", "date")
NARROWEST, WIDEST = 0.04, 2.0
"""No interval is narrower than ×/÷ 1.04 (repeats of one benchmark differ by as much) nor wider than ×/÷ 7.4."""
UNSEEN = ("model", "device", "family", "engine")
"""What a prediction may have had no row of, each with a widening of its own."""


@cache
def terms() -> Mapping[Term, float]:
    """Return the shipped terms (facts/data/intervals.csv)."""
    return MappingProxyType(
        {(r["clock"], r["kind"], r["name"]): float(r["value"]) for _, r in read_table("intervals.csv")}
    )


@cache
def seen(kind: str, name: str) -> bool:
    """Return whether the shipped fit had rows of a ``device``, ``family`` or ``engine`` called ``name``."""
    return any(key[0] == "seen" and key[1] == kind and key[2] == name for key in terms())


def half_width(
    clock: str, *, engine: str, family: str, kind: str, regime: str, unseen: tuple[str, ...] = (),
    fitted: Mapping[Term, float] | None = None,
) -> float:  # fmt: skip
    """Return the log half-width of the 80 % interval: ``exp(base + Σ terms)``, widened for what was not seen.

    Args:
        clock: a value of ``CLOCKS``.
        engine: its name.
        family: of the device.
        kind: of the model (dense, moe, mla-moe, hybrid).
        regime: how requests arrive (``documents.truth.Regime``).
        unseen: names of ``UNSEEN`` without a row in the fit.
        fitted: terms to use; None: the shipped ones.

    A term that was not fitted counts 0: an unknown engine or family has the width of all.
    """
    table = terms() if fitted is None else fitted
    total = table.get((clock, "base", "all"), math.log(0.35))
    total += sum(table.get((clock, what, name), 0.0) for what, name in (
        ("engine", engine), ("family", family), ("kind", kind), ("regime", regime),
    ))  # fmt: skip
    total += sum(table.get((clock, "unseen", what), 0.0) for what in unseen)
    return float(min(max(math.exp(total), NARROWEST), WIDEST))


def format_terms(found: Mapping[Term, tuple[float, int]], *, source: str, date: str) -> str:
    """Return terms as CSV with the number of rows behind each, sorted."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key in sorted(found):
        value, rows = found[key]
        writer.writerow([*key, f"{value:.4f}", rows, source, date])
    return stream.getvalue()

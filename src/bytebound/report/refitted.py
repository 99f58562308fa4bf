"""A refit in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bytebound.documents.refitted import Refitted

WHAT = {"model": "its model", "device": "its device", "engine": "its engine", "family": "its hardware generation"}


def refitted_text(found: Refitted) -> str:
    """Return what a refit read, gave and wrote, and its errors on rows it had not seen."""
    head = [
        f"{found.used} of {found.rows} rows of {', '.join(found.truth)}; {found.beyond_physics} beyond physics left aside",
        f"{found.offsets} offsets and {found.terms} interval terms in {found.seconds:.0f} s",
        "",
        "errors on rows predicted without any row of ...",
    ]
    rows = [
        f"  {WHAT[x.what]:<24} {x.clock:<8} {x.rows:>6} rows   median {x.median_error:6.1%}   90 % {x.p90_error:6.1%}"
        for x in found.left_out
    ]
    return "\n".join([*head, *rows, "", *(f"wrote {name}" for name in found.files)])

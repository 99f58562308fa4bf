"""Read a file of measurements without being told which layout it has: the header says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.errors import DocumentError
from bytebound.facts.tables import read_bounded
from bytebound.truth.readings import Readings
from bytebound.truth.table import LARGEST_FILE, read_rows, read_truth

if TYPE_CHECKING:
    from pathlib import Path

CORPUS_MARK = "citation_locator"
"""A column that only the public corpus' layout has."""


def read_any(path: Path) -> Readings:
    """Return the rows of a table of ours, which must all be right, or of the public corpus' layout, which may be partly so.

    Raises:
        DocumentError: the file cannot be read or has neither layout; else as ``read_truth`` and ``read_corpus``.
    """
    header, _ = read_rows(read_bounded(path, LARGEST_FILE), str(path))
    if CORPUS_MARK in header:
        from bytebound.truth.corpus import read_corpus  # noqa: PLC0415 - its name tables are long

        return read_corpus(path)
    if "id" not in header or "metric" not in header:
        raise DocumentError(
            f"neither a truth table of ours nor one of the public layout: the first line is {', '.join(header)[:80]!r}",
            place=f"{path}:1",
            mend="docs/truth.md has the columns of both",
        )
    return Readings(read_truth(path))

"""Measured numbers: readers of our own table and of public layouts into ``Truth``, and what cannot be expressed, by reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.truth.corpus import read_corpus
from bytebound.truth.readings import REASONS, Readings, Unexpressed
from bytebound.truth.silicon import read_silicon
from bytebound.truth.table import has_own_layout, read_truth, shipped_truth, write_truth

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "REASONS",
    "Readings",
    "Unexpressed",
    "read_any",
    "read_corpus",
    "read_silicon",
    "read_truth",
    "shipped_truth",
    "write_truth",
]


def read_any(path: str | Path) -> Readings:
    """Return the rows of a file of either layout, told apart by its header.

    Raises:
        DocumentError: the file cannot be read or is of neither layout.
    """
    return Readings(read_truth(path)) if has_own_layout(path) else read_corpus(path)

"""What reading a file of measurements gives: rows in our vocabulary, and every other row with the reason it is not one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bytebound.documents.truth import Truth

REASONS = (
    "model shape not known",
    "weight format not stated",
    "weight format not in our table",
    "device not in the catalogue",
    "engine not in the catalogue",
    "batch not stated",
    "lengths not stated",
    "number of devices not stated",
    "speculative decoding on or unknown",
    "disaggregated deployment",
    "metric not predicted",
    "several kinds of device or host memory in one run",
    "device count contradicts the run's own id",
    "parallel degrees not possible",
    "the same run is listed twice",
    "cells do not fit their columns",
    "value is not a positive number",
    "out of memory, not a measurement",
    "memory preallocated by the engine",
    "run on the processor of a device catalogued by its accelerator",
)
"""Every reason a row may be left unexpressed for; a closed set, so that they can be counted."""


@dataclass(frozen=True, slots=True)
class Unexpressed:
    """One row that is not a Truth: its id, publication and line in the file, a reason of ``REASONS``, and what was read."""

    id: str
    source: str
    line: int
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Readings:
    """Rows of a file: together ``rows`` and ``unexpressed`` are all its lines."""

    rows: tuple[Truth, ...]
    unexpressed: tuple[Unexpressed, ...] = ()

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows each reason kept out, most frequent first."""
        return dict(Counter(item.reason for item in self.unexpressed).most_common())

    def __add__(self, other: Readings) -> Readings:
        """Return the rows of both."""
        return Readings(self.rows + other.rows, self.unexpressed + other.unexpressed)


class Inexpressible(Exception):  # noqa: N818  (it names what a row is, not a fault)
    """A row cannot be said in our vocabulary; caught by the reader, which counts it by its reason."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail

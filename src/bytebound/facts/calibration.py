"""The fitted corrections to shares, floors and host times: one row per scope, operator and quantity, each with its sources.

Each is an offset in log-odds for a share (0 to 1) and in logarithms for a time, so that no correction leaves what
is physical. Offsets of different scopes add: a pool of device families, one family, an engine, a weight form.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from bytebound.errors import DocumentError
from bytebound.facts.tables import read_bounded, read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Key = tuple[str, str, str]
"""(scope, operator, quantity): ``("engine:vllm", "step", "host_s")``, ``("nvidia-hopper", "gemm", "bandwidth_share")``."""

COLUMNS = ("scope", "operator", "quantity", "offset", "sd", "rows", "source", "date")
LARGEST_FILE = 2**24  # the shipped table is 150 kB


@dataclass(frozen=True, slots=True)
class Offset:
    """One fitted offset with its standard deviation, and how many measured rows it saw."""

    offset: float
    sd: float
    rows: int
    source: str
    date: str


@cache
def offsets() -> Mapping[Key, Offset]:
    """Return the shipped corrections (facts/data/calibration.csv)."""
    return MappingProxyType(dict(_rows(read_table("calibration.csv"))))


def read_offsets(path: Path) -> Mapping[Key, Offset]:
    """Return the corrections of a file as ``format_offsets`` writes it.

    Raises:
        DocumentError: a file that cannot be read, a missing column, a number that cannot be read, or the same row twice.
    """
    table = list(csv.DictReader(io.StringIO(read_bounded(path, LARGEST_FILE), newline="")))
    found: dict[Key, Offset] = {}
    for line, row in enumerate(table, 2):
        try:
            key, value = next(iter(_rows([(line, {k: row[k] or "" for k in COLUMNS})])))
        except (KeyError, ValueError, TypeError) as error:
            raise DocumentError(f"a calibration row cannot be read ({error})", place=f"{path}:{line}") from error
        if key in found or not math.isfinite(value.offset) or not value.sd >= 0:
            raise DocumentError("a row given twice, or an offset that is no number", place=f"{path}:{line}")
        found[key] = value
    return MappingProxyType(found)


def format_offsets(found: Mapping[Key, Offset]) -> str:
    """Return corrections as CSV, sorted, so that the same fit gives the same text."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key in sorted(found):
        c = found[key]
        writer.writerow([*key, f"{c.offset:.4f}", f"{c.sd:.4f}", c.rows, c.source, c.date])
    return stream.getvalue()


def _rows(table: Iterable[tuple[int, Mapping[str, str]]]) -> Iterable[tuple[Key, Offset]]:
    for _, row in table:
        yield (
            (row["scope"], row["operator"], row["quantity"]),
            Offset(float(row["offset"]), float(row["sd"]), int(row["rows"]), row["source"], row["date"]),
        )

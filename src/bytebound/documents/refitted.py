"""Refitted: what a refit of everything from measured rows gave, and how wrong it is on rows it had not seen."""

from __future__ import annotations

from dataclasses import dataclass

REFITTED_SCHEMA = "bytebound.refitted/1"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Errors of predictions that saw no row of the same ``what`` (model, device, engine, family), by clock.

    ``median_error`` and ``p90_error`` are |predicted / measured − 1| of the seconds.
    """

    what: str
    clock: str
    rows: int
    median_error: float
    p90_error: float


@dataclass(frozen=True, slots=True)
class Refitted:
    """A refit: rows read, used and beyond physics, how many offsets and interval terms it gave, where they were written."""

    when: str
    truth: tuple[str, ...]
    rows: int
    used: int
    beyond_physics: int
    offsets: int
    terms: int
    left_out: tuple[LeftOut, ...]
    files: tuple[str, ...]
    seconds: float
    schema_: str = REFITTED_SCHEMA

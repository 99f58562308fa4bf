"""Comparison: two measurements side by side, and for each reading whether the difference is more than noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bytebound.documents.observation import Spread

COMPARISON_SCHEMA = "bytebound.comparison/1"

Verdict = Literal["noise", "faster", "slower"]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two measurements: its id and time, the machine and host it was taken on, and how quiet that was."""

    id: str
    when: str
    machine: str
    host: str
    ladder: str
    complete: bool
    stable: bool
    disturbed: float


@dataclass(frozen=True, slots=True)
class Change:
    """One reading in both measurements.

    ``figure`` (best or median) is compared: ``ratio`` is after / before of it, in ``unit``. ``confidence`` says how
    sure it is that this is no noise of the samples, ``why`` what else explains it; ``headline`` marks the ceilings that
    other verbs use.
    """

    name: str
    unit: str
    where: dict[str, float | str]
    figure: Literal["best", "median"]
    before: Spread
    after: Spread
    ratio: float
    confidence: float
    verdict: Verdict
    headline: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two measurements compared. ``verdict`` and ``sentence`` rest on the headline readings alone."""

    before: Side
    after: Side
    same_machine: bool
    verdict: Literal["noise", "faster", "slower", "mixed"]
    sentence: str
    changes: tuple[Change, ...] = ()
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    schema_: str = COMPARISON_SCHEMA

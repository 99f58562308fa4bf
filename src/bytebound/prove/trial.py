"""A trial: one lever on one engine, its two sides, what is timed and counted on them, and what is predicted beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bytebound.documents.device import Machine
    from bytebound.documents.proof import Quality
    from bytebound.documents.values import Interval, Provenance


SPIN_S = 0.25
"""OpenMP's threads spin for 0.2 s after their last work, on processors that the other side then needs. Source: KMP_BLOCKTIME,
LLVM OpenMP runtime."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a trial: an adapter, the settings it is opened with, and how they are shown in the proof."""

    adapter: str
    settings: dict[str, Any]
    shown: dict[str, float | str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timed:
    """A method of the engine timed on both sides in turn; the ratio of its seconds per unit is what is predicted.

    Args:
        metric: one of ``documents.proof.METRICS``.
        what: the engine's method; its arguments on each side are ``before`` and ``after``.
        what_after: the method on the side with the lever, where it is another one.
        prepare: arguments of the engine's ``prepare``, called once before; None: not called.
        times: timings per turn, after ``skip`` that warm the caches the other side emptied.
        per: units (tokens, say) that one call does, before and after.
        rest_s: rest before each turn; ``SPIN_S`` where the engine's threads go on spinning after their work.
        rounds: turns of each side where a run has the usual number (``run.ROUNDS``), more or fewer as it has; 0: that number.
    """

    metric: str
    what: str
    before: dict[str, Any]
    after: dict[str, Any]
    what_after: str = ""
    prepare: dict[str, Any] | None = None
    times: int = 3
    skip: int = 1
    per: tuple[float, float] = (1.0, 1.0)
    rounds: int = 0
    rest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Counted:
    """A metric read off the engine's ``memory()`` once everything has been timed: ``key`` there [bytes]."""

    metric: str
    key: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """A ratio (after over before) predicted before the run, and how: bound, scaled, calibrated or formula."""

    ratio: Interval
    how: str
    provenance: tuple[Provenance, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """What will be run.

    Args:
        lever: its canonical name; ``title`` says it in words.
        engine: its name as users write it.
        model: what runs; ``real_weights`` says whether it is a trained model.
        aim: the metric the lever is for (decides the effect).
        predict: called before any engine is opened; metric -> forecast. It must not run the trial's own model.
        quality: called last; what the lever does to real text. None: it changes no number the model computes.
    """

    lever: str
    title: str
    engine: str
    model: str
    before: Side
    after: Side
    timed: tuple[Timed, ...]
    counted: tuple[Counted, ...]
    predict: Callable[[], dict[str, Forecast]]
    aim: str = "decode"
    quality: Callable[[], Quality] | None = None
    real_weights: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bench:
    """Where trials are prepared: a folder for models made on the spot, the measured machine, and what to prove on.

    ``model`` is a file of the user's (only ever read), a ``random:…`` shape, or empty: each trial's own choice.
    """

    folder: Path
    machine: Machine
    threads: int
    model: str = ""
    say: Callable[[str], None] = print

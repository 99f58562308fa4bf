"""What one traced run leaves behind: its storages, its operators in order, and which storages play which part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bytebound.documents.trace import Phase

BEFORE = -1
"""Birth of what was there before the first operator."""


@dataclass(slots=True)
class Storage:
    """One allocation: alive after operator ``born`` up to and without operator ``died`` (None: to the end)."""

    bytes: int
    born: int
    phase: Phase
    module: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    died: int | None = None
    role: str = ""
    name: str = ""
    trainable: bool = True


@dataclass(frozen=True, slots=True)
class Event:
    """One call of an operator. ``reads`` and ``writes``: (storage, bytes) of every operand; ``instance`` counts phases.

    ``again``: a checkpointed layer computes it a second time.
    """

    op: str
    kind: str
    phase: Phase
    instance: int
    module: str
    math: str
    again: bool
    flops: float
    reads: tuple[tuple[int, float], ...]
    writes: tuple[tuple[int, float], ...]


@dataclass(slots=True)
class Recording:
    """A run: ``start`` and ``stop`` bound the operators of the step in steady state; ``starts`` its phases' first operators."""

    storages: list[Storage] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    start: int = 0
    stop: int = 0
    notes: list[str] = field(default_factory=list)

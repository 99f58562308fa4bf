"""Bytes an ideal compiler would move: every tensor once where it crosses a fusion boundary.

Products, attention and convolutions are kernels of their own. Everything else that is joined by data, with no such kernel on the
path between, is one kernel: it reads each outside tensor once and writes what is read elsewhere or outlives the phase. This is a
floor that no real compiler reaches everywhere; the unfused bytes of the operators are the ceiling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.trace.recording import Event, Recording

BOUNDARIES = frozenset({"gemm", "attention", "conv", "collective", "unknown"})


def fused_bytes(recording: Recording) -> list[float]:
    """Return bytes moved by each operator if all that can fuse does (operators,); a group's bytes lie at its first users."""
    events = recording.events
    sources, writer = _sources(events)
    group = _groups(events, sources)
    moved = [0.0] * len(events)
    elsewhere = [False] * len(events)  # whether another group reads what the operator makes
    seen: set[tuple[int, int, int]] = set()
    for index, operands in enumerate(sources):
        here = group[index]
        for storage, size, made in operands:
            outside = made < 0 or group[made] != here
            if outside and made >= 0:
                elsewhere[made] = True
            if outside and (here, storage, made) not in seen:
                seen.add((here, storage, made))
                moved[index] += size
    last = {event.instance: index + 1 for index, event in enumerate(events)}
    for index, event in enumerate(events):
        for storage, size in event.writes:
            died = recording.storages[storage].died
            outlives = writer[storage] == index and (died is None or died > last[event.instance])
            if elsewhere[index] or outlives or event.kind in BOUNDARIES:
                moved[index] += size
    return moved


def _sources(events: Sequence[Event]) -> tuple[list[list[tuple[int, float, int]]], dict[int, int]]:
    """Operands of each operator as (storage, bytes, operator of the same phase that made it, else -1); last writers."""
    writer: dict[int, int] = {}
    sources = []
    for index, event in enumerate(events):
        operands = []
        for storage, size in event.reads:
            made = writer.get(storage, -1)
            operands.append((storage, size, made if made >= 0 and events[made].instance == event.instance else -1))
        sources.append(operands)
        writer.update((storage, index) for storage, _ in event.writes)
    return sources, writer


def _groups(events: Sequence[Event], sources: Sequence[Sequence[tuple[int, float, int]]]) -> list[int]:
    """One number per operator, equal for those that fuse: joined by data, as many kernels of their own before each."""
    parent = list(range(len(events)))
    level = [0] * len(events)

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for index, (event, operands) in enumerate(zip(events, sources, strict=True)):
        before = [made for _, _, made in operands if made >= 0]
        level[index] = max((level[made] + (events[made].kind in BOUNDARIES) for made in before), default=0)
        if event.kind not in BOUNDARIES:
            for made in before:
                if events[made].kind not in BOUNDARIES and level[made] == level[index]:
                    parent[root(made)] = root(index)
    return [root(index) for index in range(len(events))]

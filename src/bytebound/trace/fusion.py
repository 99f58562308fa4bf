"""Bytes an ideal compiler would move: every tensor once where it crosses a fusion boundary.

Products, attention and convolutions are kernels of their own. Everything else that is joined by data, with no such kernel on the
path between, is one kernel: it reads each outside tensor once and writes what is read elsewhere or outlives the phase. This is a
floor that no real compiler reaches everywhere; the unfused bytes of the operators are the ceiling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bytebound.trace.recording import Recording

BOUNDARIES = frozenset({"gemm", "attention", "conv", "collective", "unknown"})


def fused_bytes(recording: Recording) -> list[float]:
    """Return bytes moved by each operator if all that can fuse does (operators,); a group's bytes lie at its first users."""
    events = recording.events
    group = list(range(len(events)))
    level = [0] * len(events)

    def root(item: int) -> int:
        while group[item] != item:
            group[item] = group[group[item]]
            item = group[item]
        return item

    writer: dict[int, int] = {}
    readers: dict[int, set[int]] = {}
    producers: list[list[tuple[int, float, int]]] = []
    for index, event in enumerate(events):
        own = event.kind in BOUNDARIES
        before = [(storage, size, writer.get(storage, -1)) for storage, size in event.reads]
        before = [
            (storage, size, made if made >= 0 and events[made].instance == event.instance else -1)
            for storage, size, made in before
        ]
        made_by = [made for _, _, made in before if made >= 0]
        level[index] = max((level[made] + (events[made].kind in BOUNDARIES) for made in made_by), default=0)
        if not own:
            for made in made_by:
                if events[made].kind not in BOUNDARIES and level[made] == level[index]:
                    group[root(made)] = root(index)
        producers.append(before)
        for storage, _ in event.writes:
            writer[storage] = index
    moved = [0.0] * len(events)
    seen: set[tuple[int, int, int]] = set()
    for index, before in enumerate(producers):
        here = root(index)
        for storage, size, made in before:
            if made >= 0:
                readers.setdefault(made, set()).add(here)
            if (made < 0 or root(made) != here) and (here, storage, made) not in seen:
                seen.add((here, storage, made))
                moved[index] += size
    last = _last_of_instance(recording)
    for index, event in enumerate(events):
        here = root(index)
        outside = any(reader != here for reader in readers.get(index, ()))
        for storage, size in event.writes:
            final = writer[storage] == index
            died = recording.storages[storage].died
            outlives = final and (died is None or died > last[event.instance])
            if outside or outlives or event.kind in BOUNDARIES:
                moved[index] += size
    return moved


def _last_of_instance(recording: Recording) -> dict[int, int]:
    return {event.instance: index + 1 for index, event in enumerate(recording.events)}

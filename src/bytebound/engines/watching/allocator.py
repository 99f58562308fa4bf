"""The allocator over one or two steps, from torch's own profiler: which blocks were alive at the fullest moment, and what for."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .states import Block, Place

MARK = "bytebound:"
"""Names of the marks that we lay on the profiler's own clock begin so."""
PHASES = ("forward", "backward", "optimizer")


class Life(NamedTuple):
    """One allocated block: when it was born and freed [events], and its bytes."""

    place: Place
    born: int
    freed: int
    block_bytes: int


class Fullest(NamedTuple):
    """The fullest moment of one step: bytes by category, the phase it was in, and bytes alive when backward began."""

    held: dict[str, int]
    phase: str
    after_forward: int
    total_bytes: int | None  # what the allocator itself says, where it knows what was there before (accelerators)


class Event(NamedTuple):
    """One event in order: an allocation (bytes > 0), a freeing (bytes < 0), or a mark (its name)."""

    place: Place
    change: int
    total: int
    mark: str


class Watch:
    """Torch's profiler while it runs for us. It yields at once to the user's own profiler."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.gradients: list[set[Place]] = []  # at every optimizer step, in the order of the marks
        self.profiler = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
        )

    def start(self) -> None:
        """Begin; the first freeing of an older block makes torch print a line, so it is ours and goes nowhere."""
        older = self.torch.empty(1)
        with quiet_profiler():
            self.profiler.start()
        with no_stderr():
            del older

    def mark(self, name: str) -> None:
        """Lay a mark on the profiler's clock."""
        with self.torch.profiler.record_function(MARK + name):
            pass

    def stop(self) -> list[Event]:
        """End and return what happened, in order."""
        with quiet_profiler():
            self.profiler.stop()
        kinds = self.torch._C._profiler._EventType  # noqa: SLF001 - addresses are in the event tree alone
        tree = self.profiler.profiler.kineto_results.experimental_event_tree()
        found: list[tuple[int, Event]] = []
        stack = list(tree)
        while stack:
            event = stack.pop()
            stack.extend(event.children)
            if event.tag == kinds.Allocation:
                memory = event.extra_fields
                place = (str(memory.device), int(memory.ptr))
                change = Event(place, int(memory.alloc_size), int(memory.total_allocated), "")
                found.append((event.start_time_ns, change))
            elif event.tag == kinds.TorchOp and event.name.startswith(MARK):
                found.append((event.start_time_ns, Event(("", 0), 0, 0, event.name[len(MARK) :])))
        return [event for _, event in sorted(found, key=lambda item: item[0])]


@contextlib.contextmanager
def quiet_profiler() -> Iterator[None]:
    """Keep the profiler's own log lines out of the user's standard error."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ[name] = "99"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextlib.contextmanager
def no_stderr() -> Iterator[None]:
    """Drop what is written to standard error meanwhile: microseconds."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def lives(events: Sequence[Event], device: str) -> list[Life]:
    """Return every block allocated on ``device``, with when it was freed (after the end where it never was)."""
    open_blocks: dict[Place, tuple[int, int]] = {}
    found: list[Life] = []
    for now, event in enumerate(events):
        if event.mark or event.place[0] != device:
            continue
        if event.change > 0:
            open_blocks[event.place] = (now, event.change)
        elif event.place in open_blocks:  # freed blocks that are older than the events were never counted
            born, size = open_blocks.pop(event.place)
            found.append(Life(event.place, born, now, size))
    found += [Life(place, born, len(events), size) for place, (born, size) in open_blocks.items()]
    return found


def fullest_moments(
    events: Sequence[Event], states: Mapping[Place, Block], gradients: Sequence[set[Place]], device: str
) -> list[Fullest]:
    """Return the fullest moment of every step between two ``step`` marks.

    Args:
        events: of the whole watch; ``states``: what is held at its end, of which older storages count throughout.
        states: see ``states.held``.
        gradients: places of the gradients at each ``optimizer`` mark.
        device: whose memory.
    """
    blocks = lives(events, device)
    at_end = {life.place for life in blocks if life.freed == len(events)}
    base: dict[str, int] = {"parameters": 0, "gradients": 0, "optimizer": 0}
    for place, block in states.items():
        if place[0] == device and place not in at_end:
            base[block.category] += block.storage_bytes
    phases, steps, backwards, optimizers = _phases(events)
    taken = list(zip(optimizers, gradients, strict=False))
    first = 0
    moments = []
    for end in steps:
        moment = _peak(blocks, first, end)
        held = {**base, "activations": 0, "temporaries": 0}
        for life in blocks:
            if life.born <= moment < life.freed:
                held[
                    _category(life, states=states, end=len(events), taken=taken, phases=phases, backwards=backwards)
                ] += life.block_bytes
        began = next((at for at in backwards if first <= at < end), first)
        alive = sum(life.block_bytes for life in blocks if life.born <= began < life.freed)
        total = None if device == "cpu" else events[moment].total
        moments.append(Fullest(held, phases[moment], alive + sum(base.values()), total))
        first = end
    return moments


def _phases(events: Sequence[Event]) -> tuple[list[str], list[int], list[int], list[int]]:
    """Return the phase at every event, and where steps end, backward passes begin and optimizers begin."""
    phases, phase = [], "forward"
    steps: list[int] = []
    backwards: list[int] = []
    optimizers: list[int] = []
    for now, event in enumerate(events):
        if event.mark == "step":
            steps.append(now)
        elif event.mark == "backward":
            backwards.append(now)
        elif event.mark == "optimizer":
            optimizers.append(now)
        phase = event.mark if event.mark in PHASES else "forward" if event.mark == "step" else phase
        phases.append(phase)
    return phases, steps, backwards, optimizers


def _peak(blocks: Sequence[Life], first: int, end: int) -> int:
    """Return the event between ``first`` and ``end`` after which most is alive."""
    changes: dict[int, int] = {}
    for life in blocks:
        if life.born < end and life.freed > first:
            start = max(life.born, first)
            changes[start] = changes.get(start, 0) + life.block_bytes
            changes[life.freed] = changes.get(life.freed, 0) - life.block_bytes
    alive = most = 0
    moment = first
    for now in sorted(changes):
        alive += changes[now]
        if first <= now < end and alive > most:
            most, moment = alive, now
    return moment


def _category(
    life: Life,
    *,
    states: Mapping[Place, Block], end: int, taken: Sequence[tuple[int, set[Place]]], phases: Sequence[str],
    backwards: Sequence[int],
) -> str:  # fmt: skip
    """Return what a block was for: a state that stays, a gradient at an optimizer step, kept for backward, or the rest."""
    if life.freed == end and life.place in states:
        return states[life.place].category
    if any(life.born <= at < life.freed and life.place in places for at, places in taken):
        return "gradients"
    began = next((at for at in backwards if at > life.born), None)
    if phases[life.born] == "forward" and began is not None and life.freed > began:
        return "activations"
    return "temporaries"

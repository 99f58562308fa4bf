"""One traced depth, laid out for comparison with another: bytes per moment, segments by layer, sums per operator."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from bytebound.trace import categories, fusion
from bytebound.trace.stacks import layer_of, starred

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bytebound.trace.recording import Event, Recording
    from bytebound.trace.stacks import Layer

OperatorKey = tuple[str, str, str, str, str, str, bool, bool]
"""name, kind, phase, module, stack, math, known, again."""
TensorKey = tuple[str, str, str, str, str, tuple[int, ...], str, int, bool]
"""role, name, module, stack, op, shape, dtype, bytes, trainable."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Operators ``first`` up to ``end`` of one layer (None: outside of all) in one phase; ``visit`` counts its turns there."""

    instance: int
    phase: str
    layer: Layer | None
    visit: int
    first: int
    end: int

    @property
    def key(self) -> tuple[int, str, int]:
        """What names the same segment in another depth."""
        return self.instance, self.layer.path if self.layer else "", self.visit


@dataclass(frozen=True, slots=True)
class Observed:
    """One depth.

    Args:
        layers: layers that ran, in the order of the model.
        events: operators of the steady step; ``held`` bytes after each, (operators, 5).
        segments: the step cut by phase and layer, in time.
        sums: calls, FLOPs, read, written, fused and weight bytes of each operator.
    """

    layers: tuple[Layer, ...]
    events: tuple[Event, ...]
    held: npt.NDArray[np.float64]
    segments: tuple[Segment, ...]
    sums: dict[OperatorKey, npt.NDArray[np.float64]]
    recording: Recording
    by_path: dict[str, Layer]

    @property
    def counts(self) -> Counter[str]:
        """Layers of each kind."""
        return Counter(layer.kind for layer in self.layers)

    def alive(self, moment: int) -> Counter[TensorKey]:
        """Storages alive after operator ``moment`` of the steady step, counted by what they are."""
        at = self.recording.start + moment
        counted: Counter[TensorKey] = Counter()
        for storage in self.recording.storages:
            if storage.born <= at and (storage.died is None or storage.died > at) and storage.bytes:
                layer = layer_of(storage.module, self.by_path)
                stack = layer.kind if layer else ""
                counted[
                    storage.role, storage.name, starred(storage.module, layer), stack, storage.op, storage.shape, storage.dtype,
                    storage.bytes, storage.trainable,
                ] += 1  # fmt: skip
        return counted


def observe(recording: Recording, layers: Sequence[Layer]) -> Observed:
    """Lay out what a run recorded; ``layers`` are those it ran."""
    categories.label(recording)
    by_path = {layer.path: layer for layer in layers}
    where = {event.module: layer_of(event.module, by_path) for event in recording.events}
    steady = slice(recording.start, recording.stop)
    events = tuple(recording.events[steady])
    return Observed(
        layers=tuple(layers),
        events=events,
        held=categories.held(recording)[steady],
        segments=tuple(_segments(events, where)),
        sums=_sums(recording, where, steady),
        recording=recording,
        by_path=by_path,
    )


def _segments(events: Sequence[Event], where: dict[str, Layer | None]) -> list[Segment]:
    """Cut by phase and layer; what runs outside between two layers of a phase belongs to the earlier one."""
    result: list[Segment] = []
    first_instance = events[0].instance if events else 0
    bounds = [0, *(i for i in range(1, len(events)) if events[i].instance != events[i - 1].instance), len(events)]
    for begin, end in pairwise(bounds):
        inside = [index for index in range(begin, end) if where[events[index].module] is not None]
        visits: Counter[str] = Counter()
        current: Layer | None = None
        opened = begin
        for index in range(begin, end + 1):
            layer = where[events[index].module] if index < end else None
            if index < end and layer is None and inside and inside[0] < index < inside[-1]:
                layer = current
            if index == end or (layer is not current and index > begin):
                path = current.path if current else ""
                event = events[opened]
                result.append(
                    Segment(event.instance - first_instance, event.phase, current, visits[path], opened, index)
                )
                visits[path] += 1
                opened = index
            current = layer
    return result


def _sums(
    recording: Recording, where: dict[str, Layer | None], steady: slice
) -> dict[OperatorKey, npt.NDArray[np.float64]]:
    fused = fusion.fused_bytes(recording)
    roles = [storage.role for storage in recording.storages]
    sums: dict[OperatorKey, npt.NDArray[np.float64]] = {}
    for index in range(*steady.indices(len(recording.events))):
        event = recording.events[index]
        layer = where[event.module]
        key = (
            event.op, event.kind, event.phase, starred(event.module, layer), layer.kind if layer else "", event.math,
            event.kind != "unknown", event.again,
        )  # fmt: skip
        read = sum(size for _, size in event.reads)
        written = sum(size for _, size in event.writes)
        weights = sum(size for number, size in event.reads if roles[number] == "parameter")
        row = np.array([1.0, event.flops, read, written, fused[index], weights])
        sums[key] = sums[key] + row if key in sums else row
    return sums

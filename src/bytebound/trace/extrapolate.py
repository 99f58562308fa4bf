"""A whole model's step from a few traced depths: every moment and every sum is linear in the number of layers of each kind.

One depth has up to three layers of each kind; for each kind another depth has one layer less. A moment's bytes change by one amount
for each layer that comes before it in the model and by another for each that comes after (kept activations before, parameters and
states on both sides). Both come from comparing the two depths at the same operator: a kind's first layer has the missing one after
it, its last before it. The peak is then the fullest of all moments of the whole model, not a line through the peaks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bytebound.trace.observed import Observed, OperatorKey, Segment, TensorKey
    from bytebound.trace.stacks import Layer

    Array = npt.NDArray[np.float64]


class UnlikeDepthsError(Exception):
    """Two depths do not run the same operators; the whole model must be traced."""


@dataclass(frozen=True, slots=True)
class Change:
    """How far a segment's whole-model counterpart is from it: layers of ``kind`` more ``before`` and more ``after`` it."""

    kind: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A traced segment at one place of the whole model; ``layer`` is the one it stands for there."""

    segment: Segment
    layer: Layer | None
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """The whole model's moments: bytes (moments, 5) and, per moment, its placed segment and operator in the traced depth."""

    held: Array
    placed: tuple[Placed, ...]
    which: npt.NDArray[np.int64]
    operator: npt.NDArray[np.int64]


class Extrapolation:
    """The traced depth ``base``, one depth ``fewer[kind]`` with a layer of each cut kind less, and the whole list of layers."""

    def __init__(self, base: Observed, fewer: dict[str, Observed], layers: Sequence[Layer]) -> None:
        self.base = base
        self.fewer = fewer
        self.layers = tuple(layers)
        self.order = {layer.path: place for place, layer in enumerate(base.layers)}
        self.pairs = {kind: _pair(base, other) for kind, other in fewer.items()}
        self.missing = {
            kind: next(place for place, layer in enumerate(base.layers) if layer.path not in other.by_path)
            for kind, other in fewer.items()
        }

    def whole(self, layers: Sequence[Layer] | None = None) -> Whole:
        """Return every moment of a model of ``layers`` (None: the whole one)."""
        placed = self._place(self.layers if layers is None else layers)
        blocks, which, operator = [], [], []
        slopes: dict[tuple[tuple[int, str, int], str, bool], Array] = {}
        for number, each in enumerate(placed):
            segment = each.segment
            block = self.base.held[segment.first : segment.end]
            for change in each.changes:
                for count, before in ((change.before, True), (change.after, False)):
                    if count:
                        key = (segment.key, change.kind, before)
                        if key not in slopes:
                            slopes[key] = self._slope(segment, change.kind, before=before)
                        block = block + count * slopes[key]
            blocks.append(block)
            which.append(np.full(len(block), number))
            operator.append(np.arange(segment.first, segment.end))
        return Whole(np.concatenate(blocks), placed, np.concatenate(which), np.concatenate(operator))

    def sums(self, layers: Sequence[Layer] | None = None) -> dict[OperatorKey, Array]:
        """Calls, FLOPs and bytes of each operator."""
        wanted = Counter(layer.kind for layer in (self.layers if layers is None else layers))
        total = dict(self.base.sums)
        for kind, other in self.fewer.items():
            more = wanted[kind] - self.base.counts[kind]
            for key in {*self.base.sums, *other.sums}:
                nothing = np.zeros(6)
                step = self.base.sums.get(key, nothing) - other.sums.get(key, nothing)
                total[key] = total.get(key, nothing) + more * step
        return total

    def alive(self, whole: Whole, moment: int) -> dict[TensorKey, float]:
        """Copies of every storage alive at one moment of the whole model."""
        placed = whole.placed[whole.which[moment]]
        operator = int(whole.operator[moment])
        counted: dict[TensorKey, float] = {key: float(count) for key, count in self.base.alive(operator).items()}
        for change in placed.changes:
            for count, before in ((change.before, True), (change.after, False)):
                source = self._source(placed.segment, change.kind, before=before) if count else None
                if source is not None:
                    here, there = source
                    offset = min(operator - placed.segment.first, here.end - here.first - 1)
                    more = self.base.alive(here.first + offset)
                    less = self.fewer[change.kind].alive(there.first + offset)
                    for key, step in _netted(more, less).items():
                        counted[key] = counted.get(key, 0.0) + count * step
        return {key: count for key, count in counted.items() if count}

    def _place(self, layers: Sequence[Layer]) -> tuple[Placed, ...]:
        """Every segment of the whole model, in time."""
        wanted = Counter(layer.kind for layer in layers)
        standing = self._templates(layers)
        placed: list[Placed] = []
        instances = sorted({segment.instance for segment in self.base.segments})
        for instance in instances:
            segments = [segment for segment in self.base.segments if segment.instance == instance]
            inner = [segment for segment in segments if segment.layer is not None]
            by_turn = {segment.key: segment for segment in segments}
            first_inner = segments.index(inner[0]) if inner else len(segments)
            placed.extend(self._outside(segment, wanted) for segment in segments[:first_inner])
            visits = sorted({segment.visit for segment in inner})
            for visit in visits:
                turn = [self.order[s.layer.path] for s in inner if s.visit == visit and s.layer is not None]
                rising = len(turn) < 2 or turn[0] < turn[-1]
                places = range(len(layers)) if rising else range(len(layers) - 1, -1, -1)
                for place in places:
                    template, changes = standing[place]
                    segment = by_turn.get((instance, template.path, visit))
                    if segment is not None:
                        placed.append(Placed(segment, layers[place], changes))
            placed.extend(self._outside(segment, wanted) for segment in segments[first_inner:] if segment.layer is None)
        return tuple(placed)

    def _outside(self, segment: Segment, wanted: Counter[str]) -> Placed:
        changes = tuple(Change(kind, 0, more) for kind in self.fewer if (more := wanted[kind] - self.base.counts[kind]))
        return Placed(segment, None, changes)

    def _templates(self, layers: Sequence[Layer]) -> list[tuple[Layer, tuple[Change, ...]]]:
        """For each layer of the model the traced one it is like (first, middle or last of its kind), and what differs."""
        traced = {kind: [layer for layer in self.base.layers if layer.kind == kind] for kind in self.base.counts}
        wanted = Counter(layer.kind for layer in layers)
        seen: Counter[str] = Counter()
        result = []
        for layer in layers:
            same = traced[layer.kind]
            number, last = seen[layer.kind], wanted[layer.kind] - 1
            if layer.kind not in self.fewer:
                template = same[number]
            else:
                template = same[min(number, len(same) // 2)] if number < last else same[-1]
            before_there = Counter(each.kind for each in self.base.layers[: self.order[template.path]])
            changes = []
            for kind in self.fewer:
                before = seen[kind] - before_there[kind]
                own = int(kind == layer.kind)
                after = (wanted[kind] - seen[kind] - own) - (self.base.counts[kind] - before_there[kind] - own)
                if before or after:
                    changes.append(Change(kind, before, after))
            result.append((template, tuple(changes)))
            seen[layer.kind] += 1
        return result

    def _slope(self, segment: Segment, kind: str, *, before: bool) -> Array:
        """Bytes that one more layer of ``kind`` before (or after) it adds to each operator of ``segment``, (operators, 5)."""
        length = segment.end - segment.first
        source = self._source(segment, kind, before=before)
        if source is None:
            return np.zeros((length, 5))
        here, there = source
        steps = self.base.held[here.first : here.end] - self.fewer[kind].held[there.first : there.end]
        return steps[np.minimum(np.arange(length), len(steps) - 1)]

    def _source(self, segment: Segment, kind: str, *, before: bool) -> tuple[Segment, Segment] | None:
        """The same segment in both depths, or that of a like layer that has the missing one on the wanted side."""
        pairs = self.pairs[kind]
        if segment.layer is None:
            return pairs.get(segment.key)

        def distance(item: tuple[Segment, Segment]) -> tuple[bool, bool, bool, int]:
            other = item[0]
            return (
                other.key != segment.key,
                other.layer is None or other.layer.kind != segment.layer.kind,  # type: ignore[union-attr]
                other.visit != segment.visit,
                abs((other.end - other.first) - (segment.end - segment.first)),
            )

        fitting = [
            item
            for item in pairs.values()
            if item[0].instance == segment.instance
            and item[0].layer is not None
            and (self.missing[kind] < self.order[item[0].layer.path]) == before
        ]
        return min(fitting, key=distance, default=None)


def _netted(more: Counter[TensorKey], less: Counter[TensorKey]) -> dict[TensorKey, int]:
    """What one layer adds. Where two depths hold the same tensor made by unlike neighbours, it is the same tensor."""
    steps = {key: more[key] - less[key] for key in {*more, *less} if more[key] != less[key]}
    groups: dict[tuple[object, ...], list[TensorKey]] = {}
    for key in steps:
        role, name, _, _, op, shape, dtype, size, _ = key
        groups.setdefault((role, name, op, shape, dtype, size), []).append(key)
    for keys in groups.values():
        total = sum(steps[key] for key in keys)
        if any(steps[key] * total <= 0 for key in keys):
            owner = max(keys, key=lambda key: (steps[key] * total, str(key)))
            steps.update({key: total if key == owner else 0 for key in keys})
    return steps


def _pair(base: Observed, other: Observed) -> dict[tuple[int, str, int], tuple[Segment, Segment]]:
    """Segments of both depths by their key."""
    theirs = {segment.key: segment for segment in other.segments}
    pairs = {}
    for segment in base.segments:
        if segment.layer is not None and segment.layer.path not in other.by_path:
            continue
        match = theirs.pop(segment.key, None)
        if match is None or [e.op for e in base.events[segment.first : segment.end]] != [
            e.op for e in other.events[match.first : match.end]
        ]:
            raise UnlikeDepthsError(f"{segment.phase} of {segment.layer.path if segment.layer else 'the rest'}")
        pairs[segment.key] = (segment, match)
    if theirs:
        raise UnlikeDepthsError("operators that only run with fewer layers")
    return pairs


def same(predicted: Whole, actual: Observed) -> bool:
    """Whether every moment of a traced depth was foretold to the byte."""
    foretold = {
        (each.segment.instance, each.layer.path if each.layer else "", each.segment.visit): predicted.held[
            predicted.which == number
        ]
        for number, each in enumerate(predicted.placed)
    }
    if len(foretold) != len(actual.segments):
        return False
    return all(
        segment.key in foretold
        and foretold[segment.key].shape[0] == segment.end - segment.first
        and bool(np.array_equal(foretold[segment.key], actual.held[segment.first : segment.end]))
        for segment in actual.segments
    )


def alike(predicted: dict[OperatorKey, Array], actual: dict[OperatorKey, Array]) -> bool:
    """Whether every operator's calls, FLOPs and bytes were foretold (to a part in 10⁹, for sums of floats)."""
    nothing = np.zeros(6)
    return all(
        np.allclose(predicted.get(key, nothing), actual.get(key, nothing), rtol=1e-9, atol=0.5)
        for key in {*predicted, *actual}
    )

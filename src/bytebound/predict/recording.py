"""A NumPy that writes down what it is asked to do: formulas run on it once become a graph of numbers.

The arrays hold numbers of nodes instead of values, so indexing, stacking and broadcasting are NumPy's own. A node is a
constant, a number of the whole question, a number of each request, or a ufunc of other nodes. Equal nodes are one node,
constants are folded, and nothing else is changed: in a graph every operation is the one that the formula wrote.

Each node also carries its values for a sample of requests: a formula that asks ``if np.any(...)`` is answered from the sample, and
the answer is kept as a guard to be checked on every request.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Array = NDArray[Any]

CONSTANT, QUESTION, REQUEST = range(3)
"""What a node's value depends on: nothing, the question as a whole, the single request."""

COMMUTING = frozenset(
    {np.add, np.multiply, np.maximum, np.minimum, np.logical_and, np.logical_or, np.bitwise_and, np.bitwise_or}
)

NEUTRAL: dict[Any, tuple[float, str]] = {
    np.add: (0, "f"), np.multiply: (1, "f"), np.minimum: (np.inf, "f"), np.bitwise_and: (True, "b"), np.bitwise_or: (False, "b"),
}  # fmt: skip
ABSORBING: dict[Any, float] = {np.multiply: 0, np.bitwise_and: False, np.bitwise_or: True}
"""Operands that change nothing, for numbers (f) or truth values (b), and those that decide alone (numbers here are finite)."""


def choose(condition: Any, yes: Any, no: Any) -> Any:
    """Return ``np.where`` as an operation of a graph."""
    return np.where(condition, yes, no)


class Graph:
    """Nodes in the order they came to be: ``funcs[i]`` of the nodes ``args[i]``, None for constants and inputs."""

    def __init__(self) -> None:
        """Start with no node."""
        self.funcs: list[Callable[..., Any] | None] = []
        self.args: list[tuple[int, ...]] = []
        self.seen: list[Any] = []
        self.kinds: list[int] = []
        self.guards: list[int] = []
        self._known: dict[tuple[Any, ...], int] = {}

    def _add(self, func: Callable[..., Any] | None, args: tuple[int, ...], sample: Any, kind: int) -> int:
        self.funcs.append(func)
        self.args.append(args)
        self.seen.append(sample)
        self.kinds.append(kind)
        return len(self.funcs) - 1

    def constant(self, value: Any) -> int:
        """Return the node of a number or truth value."""
        key = (type(value), value)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._add(None, (), np.asarray(value)[()], CONSTANT)
        return found

    def input(self, sample: Any, kind: int) -> int:
        """Return a new node whose values come with a question; ``sample`` are some of them."""
        return self._add(None, (), sample, kind)

    def node(self, func: Callable[..., Any], *args: int) -> int:
        """Return the node of ``func`` of other nodes."""
        if func in COMMUTING and args[0] > args[1]:
            args = args[::-1]
        key = (func, *args)
        found = self._known.get(key)
        if found is None:
            found = self._folded(func, args)
            if found is None:
                kind = max(self.kinds[i] for i in args)
                value = func(*(self.seen[i] for i in args))
                found = self.constant(value.item()) if kind == CONSTANT else self._add(func, args, value, kind)
            self._known[key] = found
        return found

    def _is(self, i: int, value: float) -> bool:
        return self.kinds[i] == CONSTANT and bool(self.seen[i] == value)

    def _folded(self, func: Callable[..., Any], args: tuple[int, ...]) -> int | None:
        """Return the node that ``func`` of these nodes is by arithmetic alone, exactly; None where it is a new one."""
        if func is choose:
            condition, yes, no = args
            if yes == no or self.kinds[condition] == CONSTANT:
                return yes if yes == no or bool(self.seen[condition]) else no
            return None
        if len(args) != 2:
            return None
        x, y = args
        if func is np.power and self.kinds[y] == CONSTANT and self.seen[x].dtype.kind == "f":
            power = float(self.seen[y])
            return (
                self.constant(1.0)
                if power == 0
                else x
                if power == 1
                else self.node(np.square, x)
                if power == 2
                else None
            )
        if x == y and func in {np.maximum, np.minimum}:
            return x
        for one, other in ((x, y), (y, x)):
            neutral = NEUTRAL.get(func)
            if neutral is not None and self._is(other, neutral[0]) and self.seen[one].dtype.kind == neutral[1]:
                return one
            absorbing = ABSORBING.get(func)
            if (
                absorbing is not None
                and self._is(one, absorbing)
                and self.seen[x].dtype.kind == self.seen[y].dtype.kind
            ):
                return one
        if self.seen[x].dtype.kind == "f" and (
            (func is np.subtract and self._is(y, 0)) or (func is np.divide and (self._is(y, 1) or self._is(x, 0)))
        ):
            return x
        return None

    def never(self, i: int) -> bool:
        """Return whether no request of the sample meets the condition ``i``; what is never met is guarded."""
        met = bool(np.any(self.seen[i]))
        if not met and self.kinds[i] != CONSTANT:
            self.guards.append(i)
        return not met


class Recorded(NDArrayOperatorsMixin):
    """An array of nodes; the last axis, of size 1, stands for the requests."""

    def __init__(self, graph: Graph, ids: NDArray[np.int64]) -> None:
        """Wrap node numbers."""
        self.graph = graph
        self.ids = ids

    shape = property(lambda self: self.ids.shape)
    ndim = property(lambda self: self.ids.ndim)
    dtype = property(lambda self: self.graph.seen[int(self.ids.flat[0])].dtype if self.ids.size else np.dtype(float))

    def __len__(self) -> int:
        """Return the size of the first axis."""
        return len(self.ids)

    def __iter__(self) -> Iterator[Recorded]:
        """Yield along the first axis."""
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        """Return the truth of a number given with a question, which is neither 0 nor 1 or it would be a constant."""
        if self.graph.funcs[int(self.ids)] is not None:
            raise TypeError("a formula goes two ways by a number: ask np.any or np.where")
        return bool(self.graph.seen[int(self.ids)])

    def __getitem__(self, index: Any) -> Recorded:
        """Index as NumPy does; an index that itself varies becomes a choice among what it may pick."""
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, Recorded) for part in parts):
            return self._picked(parts)
        return Recorded(self.graph, np.asarray(self.ids[index]))

    def __setitem__(self, index: Any, value: Any) -> None:
        """Assign as NumPy does."""
        self.ids[index] = lift(self.graph, value).ids

    def _picked(self, parts: tuple[Any, ...]) -> Recorded:
        varying = [isinstance(part, Recorded) for part in parts]
        plain = np.broadcast_arrays(*(part.ids if isinstance(part, Recorded) else part for part in parts))
        out = np.empty(plain[0].shape, dtype=np.int64)
        for place in np.ndindex(out.shape):
            out[place] = self._pick(tuple(int(part[place]) for part in plain), varying)
        return Recorded(self.graph, out)

    def _pick(self, place: tuple[int, ...], varying: list[bool]) -> int:
        """Return the node at ``place``, of which the ``varying`` parts are themselves nodes: constants, or choices of such."""
        graph = self.graph
        for axis in (axis for axis, vary in enumerate(varying) if vary):
            if graph.kinds[place[axis]] == CONSTANT:
                found = int(graph.seen[place[axis]])
                now = [vary and other != axis for other, vary in enumerate(varying)]
                return self._pick((*place[:axis], found, *place[axis + 1 :]), now)
            condition, yes, no = graph.args[place[axis]]
            either = (self._pick((*place[:axis], way, *place[axis + 1 :]), varying) for way in (yes, no))
            return graph.node(choose, condition, *either)
        return int(self.ids[place])

    def sum(self, axis: int) -> Recorded:
        """Return the sum over the rows, one after another."""
        return self._along(np.add, axis, 0.0)

    def max(self, axis: int, initial: float | None = None) -> Recorded:
        """Return the largest over the rows."""
        return self._along(np.maximum, axis, initial)

    def _along(self, func: Callable[..., Any], axis: int, initial: float | None) -> Recorded:
        if axis != 0:
            raise NotImplementedError(axis)
        rows = list(self) if initial is None else [lift(self.graph, initial), *self]
        total = rows[0]
        for row in rows[1:]:
            total = func(total, row)
        return Recorded(self.graph, np.broadcast_to(total.ids, self.shape[1:]))

    def argmax(self, axis: int) -> Recorded:
        """Return the first row that is the largest."""
        if axis != 0:
            raise NotImplementedError(axis)
        largest, place = self[0], lift(self.graph, np.zeros(self.shape[1:], dtype=np.int64))
        for index in range(1, len(self)):
            place = apply(self.graph, choose, self[index] > largest, index, place)
            largest = np.maximum(largest, self[index])  # type: ignore[call-overload]
        return place

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        """Record a ufunc of this and other arrays."""
        if method != "__call__" or kwargs:
            return NotImplemented
        found = apply(self.graph, ufunc, *inputs)
        if out is None:
            return found
        out[0][...] = found
        return out[0]

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Record another function of NumPy."""
        return getattr(RecordingNumpy(self.graph), func.__name__)(*args, **kwargs)


def lift(graph: Graph, value: Any) -> Recorded:
    """Return numbers as an array of nodes."""
    if isinstance(value, Recorded):
        return value
    if isinstance(value, float | int):
        return Recorded(graph, np.array(graph.constant(value)))
    found = np.asarray(value)
    ids = np.array([graph.constant(item) for item in found.ravel().tolist()], dtype=np.int64)
    return Recorded(graph, ids.reshape(found.shape))


def apply(graph: Graph, func: Callable[..., Any], *operands: Any) -> Recorded:
    """Return ``func`` of arrays, element by element."""
    ids: Any = [lift(graph, operand).ids for operand in operands]
    if any(each.shape != ids[0].shape for each in ids):
        ids = np.broadcast_arrays(*ids)
    found = [graph.node(func, *places) for places in zip(*(i.ravel().tolist() for i in ids), strict=True)]
    return Recorded(graph, np.array(found, dtype=np.int64).reshape(ids[0].shape))


class RecordingNumpy:
    """NumPy, but for the functions that a ``Recorded`` array cannot answer itself."""

    def __init__(self, graph: Graph) -> None:
        """Record into ``graph``."""
        self.graph = graph

    def __getattr__(self, name: str) -> Any:
        """Return NumPy's own."""
        return getattr(np, name)

    def shape(self, value: Any) -> tuple[int, ...]:
        """Return an array's shape."""
        return value.shape if isinstance(value, Recorded) else np.shape(value)

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        """Return the array; a truth value asked for as a number becomes one."""
        if not isinstance(value, Recorded):
            return np.asarray(value, dtype=dtype)
        return apply(self.graph, np.multiply, value, 1.0) if dtype is float else value

    def empty(self, shape: Any, dtype: Any = float) -> Recorded:
        """Return an array to be filled."""
        return lift(self.graph, np.zeros(shape, dtype=dtype))

    def empty_like(self, value: Any) -> Recorded:
        """Return an array to be filled."""
        return self.empty(value.shape)

    def zeros_like(self, value: Any) -> Array:
        """Return zeros of that shape."""
        return np.zeros(self.shape(value))

    def ones_like(self, value: Any) -> Array:
        """Return ones of that shape."""
        return np.ones(self.shape(value))

    def full_like(self, value: Any, fill: float) -> Array:
        """Return one number in that shape."""
        return np.full(self.shape(value), fill)

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        """Return one or the other."""
        if not any(isinstance(part, Recorded) for part in (condition, yes, no)):
            return np.where(condition, yes, no)
        return apply(self.graph, choose, condition, yes, no)

    def divide(self, x: Any, y: Any, *, out: Any, where: Any) -> Any:
        """Return the quotient where it is asked for, else ``out``."""
        return apply(self.graph, choose, where, apply(self.graph, np.divide, x, y), out)

    def interp(self, x: Any, at: Array, value: Array) -> Recorded:
        """Return a curve at ``x``."""
        return apply(self.graph, partial(np.interp, xp=at, fp=value), x)

    def take(self, values: Any, index: Any, axis: int) -> Any:
        """Return ``values[index]`` along the first axis."""
        if not isinstance(values, Recorded) and not isinstance(index, Recorded):
            return np.take(values, index, axis=axis)
        if axis != 0:
            raise NotImplementedError(axis)
        return lift(self.graph, values)[index]

    def take_along_axis(self, values: Any, index: Any, axis: int) -> Any:
        """Return ``values[index[i, 0], 0]``: there is one column."""
        return self.take(values[:, 0], index, axis)

    def stack(self, parts: Any) -> Recorded:
        """Return arrays of one shape as rows of one."""
        return Recorded(self.graph, np.stack([lift(self.graph, part).ids for part in parts]))

    def broadcast_arrays(self, *parts: Any) -> list[Recorded]:
        """Return arrays in their common shape."""
        return [Recorded(self.graph, ids) for ids in np.broadcast_arrays(*(lift(self.graph, p).ids for p in parts))]

    def broadcast_to(self, value: Any, shape: Any) -> Recorded:
        """Return an array in another shape."""
        return Recorded(self.graph, np.broadcast_to(lift(self.graph, value).ids, shape))

    def any(self, value: Any) -> bool:
        """Return whether any request meets a condition; what none does is guarded. Where some do, a formula serves all."""
        if not isinstance(value, Recorded):
            return bool(np.any(value))
        never = [self.graph.never(i) for i in value.ids.ravel().tolist()]  # every one of them: each is a guard
        return not all(never)

    def all(self, value: Any) -> bool:
        """Return whether every request meets a condition, as the contrary of any not doing so."""
        return bool(np.all(value)) if not isinstance(value, Recorded) else not self.any(np.logical_not(value))

"""Large questions fast: the formulas are run once on recorded arrays, and what they did is run on every request.

``ledger`` and ``predict`` state their formulas for tables of rows and requests, with every case that any model can need. For one
model most of it is known beforehand: which rows are experts, which heads are shared, that nothing is drafted. So the same source
is executed a second time with ``recording.RecordingNumpy`` as its ``np`` (``_twins``). What comes out is a straight line of
operations on one number per request (``program``): equal rows once, constants folded, nothing that is not asked for.
No formula is written here, and each operation is the one the formula wrote.

A program serves every question of its shape: the same model, the same fields that vary, the same zeros and ones. It is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.util import find_spec, module_from_spec
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import UnknownNameError
from bytebound.predict.program import assemble, execute
from bytebound.predict.recording import CONSTANT, QUESTION, REQUEST, Graph, Recorded, RecordingNumpy, choose, lift
from bytebound.predict.roofline import OWN_AXES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bytebound.ledger.request import Request
    from bytebound.ledger.table import OpTable
    from bytebound.predict.prediction import Overheads
    from bytebound.predict.program import Program
    from bytebound.predict.roofline import Ceilings

    Array = NDArray[Any]

FORMULAS = (
    "bytebound.ledger.ledger", "bytebound.ledger.request", "bytebound.ledger.residence", "bytebound.ledger.inference",
    "bytebound.predict.roofline", "bytebound.predict.prediction", "bytebound.predict.columns",
)  # fmt: skip
"""Modules whose source is executed on recorded arrays."""

SAMPLE = 64
"""Requests, beside the least and the largest of every field, that say which way a formula's ``if np.any(...)`` goes."""

MOST_ODD = 0.01
"""Share of requests that go another way than the sample, beyond which the formulas are recorded anew with this question's."""

KEPT = 64
"""Programs kept."""


@dataclass(frozen=True, slots=True)
class Question:
    """What ``prediction.predict`` and ``columns.columns`` are given."""

    request: Request
    ceilings: Ceilings
    engine: Overheads
    others: dict[str, Array]
    continuous: bool


def fused(
    table: OpTable, question: Question, names: tuple[str, ...] | None,
    rest: Callable[[NDArray[np.int64]], dict[str, Array]],
) -> dict[str, Array]:  # fmt: skip
    """Return the named numbers of ``question`` as arrays (requests,).

    Args:
        table: the model.
        question: at least one of its fields varies over requests.
        names: which columns, None: all.
        rest: answers chosen requests by the formulas themselves: the few that go a way which no request of the sample goes.
    """
    slots = Slots(question)
    kept = (table, question.ceilings.decode, question.ceilings.prefill)
    key = (*(id(each) for each in kept), names, tuple(slots.shape))
    known = _PROGRAMS.get(key)
    found, odd = execute(known[1], slots.values) if known is not None else ({}, np.zeros(0, dtype=np.int64))
    if known is None or len(odd) > MOST_ODD * slots.requests:
        if len(_PROGRAMS) >= KEPT:
            _PROGRAMS.clear()
        program = _record(table, question, slots, names)
        _PROGRAMS[key] = kept, program
        found, odd = execute(program, slots.values)
    if len(odd):
        for name, value in rest(odd).items():
            found[name][odd] = value
    return found


_PROGRAMS: dict[Any, tuple[tuple[Any, ...], Program]] = {}
"""Programs by the shape of their questions, with what that shape names by identity."""

_RECORDING = Lock()
"""Taken while the twins' NumPy records into a graph."""


class Slots:
    """A question's numbers (``values``, what a program is run on) and its ``shape`` (what a program is recorded for)."""

    def __init__(self, question: Question) -> None:
        """Take every number of ``question`` apart."""
        self.values: list[Any] = []
        self.shape: list[tuple[Any, ...]] = []
        for f in fields(question.request):
            self._add("request", f.name, getattr(question.request, f.name), along=True)
        for name, own in OWN_AXES.items():
            value = getattr(question.ceilings, name)
            self._add("ceilings", name, value, along=np.ndim(value) > own)
        for f in fields(question.engine):
            value = getattr(question.engine, f.name)
            if isinstance(value, float):
                self._add("engine", f.name, value, along=False)
            else:
                self.shape.append(("engine", f.name, value))
        for name, value in question.others.items():
            self._add("others", name, value, along=True)
        self.shape.append(("scheduling", question.continuous))

    @property
    def columns(self) -> list[Array]:
        """What varies over requests."""
        return [value for value in self.values if isinstance(value, np.ndarray)]

    @property
    def requests(self) -> int:
        """How many there are."""
        return len(self.columns[0])

    def _add(self, group: str, name: str, value: Any, *, along: bool) -> None:
        """Add an array, whose last axis runs over requests where ``along``."""
        array = np.asarray(
            float(value) if type(value) is int else value
        )  # an array of integers is of codes, a number is not
        varying = along and array.ndim > 0 and array.shape[-1] > 1
        rows: Any = array.reshape(-1, array.shape[-1]) if varying else array.ravel().tolist()
        first = len(self.values)
        cells = tuple(self._cell(row, first) for row in rows)
        self.shape.append((group, name, cells, (*array.shape[:-1], 1) if varying else array.shape))

    def _cell(self, row: Any, first: int) -> Any:
        """Return a number that belongs to the shape (a code, 0, 1), or the kind and slot of one that does not.

        Codes that vary select rows of tables: (CONSTANT, least, ((code, slot of where it holds), ...)).
        """
        if not isinstance(row, np.ndarray):
            if isinstance(row, bool | int) or row in {0.0, 1.0}:
                return row
            self.values.append(row)
            return QUESTION, len(self.values) - 1
        if row.dtype.kind != "i":
            return REQUEST, self._slot(row, first)
        least, *others = np.unique(row).tolist()
        return CONSTANT, least, tuple((code, self._slot(row == code, first)) for code in others)

    def _slot(self, row: Array, first: int) -> int:
        """Return the slot of a column, the same for equal rows of one field."""
        for index in range(first, len(self.values)):
            if np.array_equal(self.values[index], row):
                return index
        self.values.append(row)
        return len(self.values) - 1

    def inputs(self, graph: Graph) -> list[int]:
        """Return a node for every slot, with the values of a sample of requests."""
        columns = self.columns
        ends = [[column.argmin(), column.argmax()] for column in columns]
        some = np.concatenate([np.linspace(0, self.requests - 1, SAMPLE).astype(np.int64), *ends])
        return [
            graph.input(value[some], REQUEST)
            if isinstance(value, np.ndarray)
            else graph.input(np.float64(value), QUESTION)
            for value in self.values
        ]

    def recorded(self, graph: Graph, inputs: list[int]) -> dict[str, dict[str, Any]]:
        """Return the fields of the question as recorded arrays: group -> name -> field."""

        def node(cell: Any) -> int:
            if not isinstance(cell, tuple):
                return graph.constant(cell)
            if cell[0] != CONSTANT:
                return inputs[cell[1]]
            found = graph.constant(cell[1])
            for code, slot in cell[2]:
                found = graph.node(choose, inputs[slot], graph.constant(code), found)
            return found

        groups: dict[str, dict[str, Any]] = {"request": {}, "ceilings": {}, "engine": {}, "others": {}}
        for group, name, cells, shape in (part for part in self.shape if len(part) == 4):
            ids = np.array([node(cell) for cell in cells], dtype=np.int64).reshape(shape)
            plain = not shape and graph.kinds[int(ids)] == CONSTANT
            groups[group][name] = cells[0] if plain else Recorded(graph, ids)
        return groups


@cache
def _twins() -> tuple[dict[str, Any], RecordingNumpy]:
    """Return the formulas' modules, executed a second time, and the NumPy that they record with."""
    numpy = RecordingNumpy(Graph())
    twins: dict[str, Any] = {}
    for name in FORMULAS:
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            raise ImportError(name=name)
        twins[name] = module_from_spec(spec)
        spec.loader.exec_module(twins[name])
    for twin in twins.values():
        for key, value in list(vars(twin).items()):
            if isinstance(value, ModuleType):
                setattr(twin, key, twins.get(value.__name__, value))
            elif callable(value) and getattr(value, "__module__", None) in twins:
                setattr(twin, key, getattr(twins[value.__module__], value.__name__))
        twin.np = numpy
    return twins, numpy


def _record(table: OpTable, question: Question, slots: Slots, names: tuple[str, ...] | None) -> Program:
    """Return the program of the formulas, as far as the asked names need them.

    Raises:
        UnknownNameError: there is no number of that name.
    """
    with _RECORDING, np.errstate(all="ignore"):
        twins, numpy = _twins()
        graph = numpy.graph = Graph()
        inputs = slots.inputs(graph)
        asked = slots.recorded(graph, inputs)
        ceilings = replace(question.ceilings, **asked["ceilings"])
        prediction = twins["bytebound.predict.prediction"].predict(
            table, replace(question.request, **asked["request"]), ceilings, replace(question.engine, **asked["engine"]),
            **asked["others"], continuous=question.continuous,
        )  # fmt: skip
        named = twins["bytebound.predict.columns"].columns(prediction, ceilings)
        wanted = chosen(named, names)
        return assemble(graph, inputs, {name: int(lift(graph, value).ids.ravel()[0]) for name, value in wanted.items()})


def chosen(named: dict[str, Any], names: tuple[str, ...] | None) -> dict[str, Any]:
    """Return the asked columns, all for None.

    Raises:
        UnknownNameError: there is none of that name.
    """
    for name in names or ():
        if name not in named:
            raise UnknownNameError("number", name, tuple(named), place="names")
    return named if names is None else {name: named[name] for name in names}

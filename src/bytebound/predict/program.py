"""A straight line of operations over any number of requests, run in blocks on the cores there are."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.predict.recording import CONSTANT, QUESTION, REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bytebound.predict.recording import Graph

    Array = NDArray[Any]
    Work = Callable[[int, int], None]

BLOCK = 4096
"""Requests an array pass works on: a few dozen arrays of 32 KiB stay inside a core's cache."""

SPAN = 8192
"""Requests a core takes at a time, so that an interrupt waits for milliseconds."""

COMPILED_FROM = 400_000
"""Requests from which the compiled loop is worth loading (numba takes most of a second); once loaded it serves all."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: its operands and its result as registers; ``node`` is where it stands in the graph."""

    func: Callable[..., Any]
    operands: tuple[int, ...]
    result: int


@dataclass(frozen=True, slots=True)
class Program:
    """A recorded calculation on registers.

    Args:
        once: (function, operand nodes, node): what depends on the question as a whole.
        values: constants by node.
        given: node of every number of the question, in the order of its slots (None: a column).
        columns: register of every column of the question.
        numbers: (register, node) of what every request shares.
        steps: on every request. dtypes: of the registers.
        outputs: register of every name; the last is ``odd``: requests that a guard does not hold for.
    """

    once: tuple[tuple[Callable[..., Any], tuple[int, ...], int], ...]
    values: dict[int, Any]
    given: tuple[int | None, ...]
    columns: tuple[int, ...]
    numbers: tuple[tuple[int, int], ...]
    steps: tuple[Step, ...]
    dtypes: tuple[np.dtype[Any], ...]
    outputs: dict[str, int]
    odd: int


def assemble(graph: Graph, inputs: list[int], outputs: dict[str, int]) -> Program:
    """Return the program of the nodes that outputs and guards need.

    An operation comes as late as it can, so that few results wait for their use, and registers are used again.

    Args:
        graph: what was recorded.
        inputs: the node of every slot of a question.
        outputs: the node of every name.
    """
    odd = graph.constant(False)
    for guard in graph.guards:
        odd = graph.node(np.logical_or, odd, guard)
    wanted = (*outputs.values(), odd)
    order = _order(graph, wanted)
    each = [i for i in order if graph.kinds[i] == REQUEST]
    last = {operand: i for i in each for operand in graph.args[i]}
    columns = [i for i in inputs if graph.kinds[i] == REQUEST]
    register: dict[int, int] = {}
    dtypes: list[np.dtype[Any]] = []
    free: dict[np.dtype[Any], list[int]] = {}

    def place(i: int) -> None:
        dtype = graph.seen[i].dtype
        if free.get(dtype):
            register[i] = free[dtype].pop()
        else:
            register[i] = len(dtypes)
            dtypes.append(dtype)

    shared: list[int] = []
    for i in columns:
        place(i)
    for i in [*(operand for step in each for operand in graph.args[step]), *wanted]:
        if graph.kinds[i] != REQUEST and i not in register:
            place(i)
            shared.append(i)
    lasting = {*columns, *shared, *wanted}
    steps = []
    for i in each:
        place(i)
        steps.append(Step(graph.funcs[i] or np.positive, tuple(register[a] for a in graph.args[i]), register[i]))
        for operand in set(graph.args[i]) - lasting:
            if last[operand] == i:
                free.setdefault(graph.seen[operand].dtype, []).append(register[operand])
    return Program(
        once=tuple((graph.funcs[i] or np.positive, graph.args[i], i) for i in order if graph.kinds[i] == QUESTION),
        values={i: graph.seen[i] for i in range(len(graph.kinds)) if graph.kinds[i] == CONSTANT},
        given=tuple(i if graph.kinds[i] == QUESTION else None for i in inputs),
        columns=tuple(register[i] for i in columns), numbers=tuple((register[i], i) for i in shared),
        steps=tuple(steps), dtypes=tuple(dtypes), outputs={name: register[i] for name, i in outputs.items()}, odd=register[odd],
    )  # fmt: skip


def _order(graph: Graph, wanted: tuple[int, ...]) -> list[int]:
    """Return the operations that ``wanted`` need, each after its operands and as late as it can be."""
    done: set[int] = set()
    order: list[int] = []
    pending = list(reversed(wanted))
    while pending:
        i = pending[-1]
        missing = [a for a in graph.args[i] if a not in done]
        if missing and i not in done:
            pending.extend(reversed(missing))
            continue
        pending.pop()
        if i not in done:
            done.add(i)
            if graph.funcs[i] is not None:
                order.append(i)
    return order


def execute(program: Program, slots: list[Any]) -> tuple[dict[str, Array], NDArray[np.int64]]:
    """Return the outputs by name (requests,), and the requests whose numbers they are not: a guard does not hold.

    Args:
        program: what to run.
        slots: the numbers of the question, arrays (requests,) and plain ones.
    """
    values = dict(program.values)
    values |= {node: np.float64(slot) for node, slot in zip(program.given, slots, strict=True) if node is not None}
    with np.errstate(all="ignore"):
        for func, operands, node in program.once:
            values[node] = func(*(values[a] for a in operands))
    numbers = {register: values[node] for register, node in program.numbers}
    columns = [slot for slot in slots if isinstance(slot, np.ndarray)]
    size = len(columns[0])
    found = np.empty((len(program.outputs), size))
    odd = np.empty((1, size))
    start = _compiled if worth_compiling(size) else _passes
    _spread(lambda: start(program, numbers, columns, found, odd), size)
    return dict(zip(program.outputs, found, strict=True)), np.flatnonzero(odd[0])


def worth_compiling(size: int) -> bool:
    """Return whether a question of ``size`` requests is run by the compiled loop."""
    if f"{__package__}.compiled" in sys.modules:
        return True
    return size >= COMPILED_FROM and find_spec("numba") is not None and loads()


@cache
def loads() -> bool:
    """Return whether numba can load the loop; it refuses where it finds no folder to keep compiled code in."""
    try:
        import_module(f"{__package__}.compiled")
    except (ImportError, RuntimeError):
        return False
    return True


def _spread(start: Callable[[], Work], size: int) -> None:
    """Let every core take spans of the requests until none is left; ``start`` gives a core what works on a span."""
    spans = iter(range(0, size, SPAN))
    taking, stopped = Lock(), Event()

    def core() -> None:
        work = start()
        while not stopped.is_set():
            with taking:
                first = next(spans, None)
            if first is None:
                return
            work(first, min(first + SPAN, size))

    workers = min(cores(), -(-size // SPAN))
    if workers == 1:
        core()
        return
    with ThreadPoolExecutor(workers) as pool:
        try:
            for done in [pool.submit(core) for _ in range(workers)]:
                done.result()
        finally:
            stopped.set()


def _passes(program: Program, numbers: dict[int, Any], columns: list[Array], found: Array, odd: Array) -> Work:
    """Return what runs a span by NumPy alone, an array pass for each operation."""
    registers = [np.empty(BLOCK, dtype=dtype) for dtype in program.dtypes]
    operand = [np.asarray(numbers[i]) if i in numbers else array for i, array in enumerate(registers)]
    for i, value in numbers.items():
        registers[i][:] = value
    calls = [
        partial(
            step.func if isinstance(step.func, np.ufunc) else partial(_into, step.func),
            *(operand[i] for i in step.operands),
            out=registers[step.result],
        )
        for step in program.steps
    ]
    written = [(found[k], registers[i]) for k, i in enumerate(program.outputs.values())]
    written.append((odd[0], registers[program.odd]))

    def work(first: int, last: int) -> None:
        with np.errstate(all="ignore"):
            for start in range(first, last, BLOCK):
                count = min(BLOCK, last - start)
                for i, column in zip(program.columns, columns, strict=True):
                    registers[i][:count] = column[start : start + count]
                    registers[i][count:] = column[start]
                for call in calls:
                    call()
                for row, register in written:
                    row[start : start + count] = register[:count]

    return work


def _into(func: Callable[..., Any], *operands: Any, out: Array) -> None:
    out[:] = func(*operands)


def _compiled(program: Program, numbers: dict[int, Any], columns: list[Array], found: Array, odd: Array) -> Work:
    """Return what runs a span by the compiled loop; by NumPy where that lacks an operation."""
    from bytebound.predict.compiled import CODES, LANES, run  # noqa: PLC0415 - numba is optional and slow to load

    codes = [CODES.get(getattr(step.func, "__name__", "")) for step in program.steps]
    if None in codes:
        return _passes(program, numbers, columns, found, odd)
    code = np.array(
        [(op, *(*step.operands, 0, 0)[:3], step.result) for op, step in zip(codes, program.steps, strict=True)],
        dtype=np.int64,
    )
    registers = np.ones((len(program.dtypes), LANES))
    for i, value in numbers.items():
        registers[i] = value
    into = np.array(program.columns, dtype=np.int64)
    source = np.array([*program.outputs.values(), program.odd], dtype=np.int64)

    def work(first: int, last: int) -> None:
        inputs = np.array([column[first:last] for column in columns], dtype=float)
        outputs = np.empty((len(source), last - first))
        run(code, registers, inputs, into, outputs, source)
        found[:, first:last] = outputs[:-1]
        odd[:, first:last] = outputs[-1:]

    return work


def cores() -> int:
    """Return the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""A recorded program run by one compiled loop, where numba is installed: the same operations, without an array pass each.

The loop knows operations, not programs: it is compiled once per machine (a few seconds, kept on disk) and serves every model. Its
registers are rows of ``LANES`` requests that stay in the nearest cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

LANES = 256
"""Requests a register holds."""

(ADD, SUBTRACT, MULTIPLY, DIVIDE, MAXIMUM, MINIMUM, GREATER, GREATER_EQUAL, LESS, LESS_EQUAL, EQUAL, AND, OR, NOT, CHOOSE, SQUARE, SQRT,
 NEGATIVE, CEIL, FLOOR, FINITE, EXPM1, LOG1P, HYPOT, POWER) = range(25)  # fmt: skip

CODES: dict[str, int] = {
    "add": ADD, "subtract": SUBTRACT, "multiply": MULTIPLY, "divide": DIVIDE, "maximum": MAXIMUM, "minimum": MINIMUM,
    "greater": GREATER, "greater_equal": GREATER_EQUAL, "less": LESS, "less_equal": LESS_EQUAL, "equal": EQUAL,
    "bitwise_and": AND, "bitwise_or": OR, "logical_and": AND, "logical_or": OR, "logical_not": NOT, "invert": NOT, "choose": CHOOSE,
    "square": SQUARE, "sqrt": SQRT, "negative": NEGATIVE, "ceil": CEIL, "floor": FLOOR, "isfinite": FINITE, "expm1": EXPM1,
    "log1p": LOG1P, "hypot": HYPOT, "power": POWER,
}  # fmt: skip
"""Operation of each ufunc, by its name. Truth values are 0 and 1 here."""


@njit(
    "void(int64[:,::1], float64[:,::1], float64[:,::1], int64[::1], float64[:,::1], int64[::1])",
    nogil=True,
    cache=True,
    error_model="numpy",
)  # type: ignore[untyped-decorator]
def run(  # noqa: C901, PLR0912, PLR0915, PLR0917 - one branch an operation
    code: Array, registers: Array, inputs: Array, into: Array, outputs: Array, source: Array
) -> None:
    """Run ``code`` on every request.

    Args:
        code: (steps, 5): operation, three operands, result: rows of ``registers``.
        registers: (registers, LANES), numbers of the question filled in.
        inputs: (columns, requests).
        into: the registers of columns.
        outputs: (names, requests), written.
        source: the registers of names.
    """
    size = inputs.shape[1]
    for start in range(0, size, LANES):
        count = min(LANES, size - start)
        for k in range(len(into)):
            row = registers[into[k]]
            for i in range(count):
                row[i] = inputs[k, start + i]
            for i in range(count, LANES):
                row[i] = row[0]
        for step in range(len(code)):
            op = code[step, 0]
            x, y, z = registers[code[step, 1]], registers[code[step, 2]], registers[code[step, 3]]
            out = registers[code[step, 4]]
            if op == MULTIPLY:
                for i in range(LANES):
                    out[i] = x[i] * y[i]
            elif op == ADD:
                for i in range(LANES):
                    out[i] = x[i] + y[i]
            elif op == DIVIDE:
                for i in range(LANES):
                    out[i] = x[i] / y[i]
            elif op == SUBTRACT:
                for i in range(LANES):
                    out[i] = x[i] - y[i]
            elif op == MAXIMUM:
                for i in range(LANES):
                    out[i] = x[i] if x[i] > y[i] or x[i] != x[i] else y[i]
            elif op == MINIMUM:
                for i in range(LANES):
                    out[i] = x[i] if x[i] < y[i] or x[i] != x[i] else y[i]
            elif op == SQUARE:
                for i in range(LANES):
                    out[i] = x[i] * x[i]
            elif op == CHOOSE:
                for i in range(LANES):
                    out[i] = y[i] if x[i] != 0.0 else z[i]
            elif op == SQRT:
                for i in range(LANES):
                    out[i] = np.sqrt(x[i])
            elif op == GREATER:
                for i in range(LANES):
                    out[i] = 1.0 if x[i] > y[i] else 0.0
            elif op == GREATER_EQUAL:
                for i in range(LANES):
                    out[i] = 1.0 if x[i] >= y[i] else 0.0
            elif op == LESS:
                for i in range(LANES):
                    out[i] = 1.0 if x[i] < y[i] else 0.0
            elif op == LESS_EQUAL:
                for i in range(LANES):
                    out[i] = 1.0 if x[i] <= y[i] else 0.0
            elif op == EQUAL:
                for i in range(LANES):
                    out[i] = 1.0 if x[i] == y[i] else 0.0
            elif op == AND:
                for i in range(LANES):
                    out[i] = x[i] * y[i]
            elif op == OR:
                for i in range(LANES):
                    out[i] = 1.0 if x[i] + y[i] > 0.0 else 0.0
            elif op == NOT:
                for i in range(LANES):
                    out[i] = 1.0 - x[i]
            elif op == NEGATIVE:
                for i in range(LANES):
                    out[i] = -x[i]
            elif op == CEIL:
                for i in range(LANES):
                    out[i] = np.ceil(x[i])
            elif op == FLOOR:
                for i in range(LANES):
                    out[i] = np.floor(x[i])
            elif op == FINITE:
                for i in range(LANES):
                    out[i] = 1.0 if np.isfinite(x[i]) else 0.0
            elif op == EXPM1:
                for i in range(LANES):
                    out[i] = np.expm1(x[i])
            elif op == LOG1P:
                for i in range(LANES):
                    out[i] = np.log1p(x[i])
            elif op == HYPOT:
                for i in range(LANES):
                    out[i] = np.hypot(x[i], y[i])
            elif op == POWER:
                for i in range(LANES):
                    out[i] = x[i] ** y[i]
        for k in range(len(source)):
            row = registers[source[k]]
            for i in range(count):
                outputs[k, start + i] = row[i]

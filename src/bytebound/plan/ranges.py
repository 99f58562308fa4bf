"""Ranges of a search as people write them: ``1,2,4``, ``1:512``, ``0:1:0.1``; never built before they are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.work import COUNT_LIMIT, TOKEN_LIMIT
from bytebound.errors import QuantityError, UnknownNameError
from bytebound.facts.formats import find_format

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STEPS = 64
"""Batches tried by default."""
LIMITS = {
    "tp": (1, COUNT_LIMIT), "pp": (1, COUNT_LIMIT), "ep": (1, COUNT_LIMIT), "dp": (1, COUNT_LIMIT), "batch": (1, COUNT_LIMIT),
    "chunk": (0, TOKEN_LIMIT), "draft_tokens": (0, 64), "host_weights": (0, 1), "prefix_hit": (0, 1), "offload_hit": (0, 1),
    "acceptance": (0, 1),
}  # fmt: skip
WHOLE = frozenset({"tp", "pp", "ep", "dp", "batch", "chunk", "draft_tokens"})
NAMES = (*LIMITS, "weights", "kv", "disaggregated")
MOST_VALUES = 1_000_000_000_000


def doubling(most: int, low: int = 1) -> tuple[int, ...]:
    """Return ``low``, twice that and so on up to ``most``.

    Example:
        >>> doubling(8)
        (1, 2, 4, 8)
    """
    found = []
    while low <= most:
        found.append(low)
        low *= 2
    return tuple(found)


def batch_steps(low: int, high: int, steps: int = STEPS) -> tuple[int, ...]:
    """Return about ``steps`` different whole numbers from ``low`` to ``high``, each the same factor over the last where it can be.

    Example:
        >>> batch_steps(1, 8), len(batch_steps(1, 1024)), batch_steps(1, 1024)[-1]
        ((1, 2, 3, 4, 5, 6, 7, 8), 64, 1024)
    """
    if high - low < steps:
        return tuple(range(low, high + 1))
    tried = steps
    while len(found := np.unique(np.round(np.geomspace(low, high, tried)))) < steps:
        tried += 1
    return tuple(int(value) for value in found)


def read_ranges(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return ranges as sequences of values: numbers, format names, or ``auto``, ``yes`` and ``no`` of ``disaggregated``.

    A text holds values between commas, ``low:high`` (twice as many each time; of batches 64 steps; of shares eleven) or
    ``low:high:step``.

    Raises:
        UnknownNameError: no such range, or no such format.
        QuantityError: a value that is no number, or outside what it can be.
    """
    found: dict[str, Any] = {}
    for name, value in stated.items():
        if name not in NAMES:
            raise UnknownNameError("range", name, NAMES, place="ranges")
        if name == "disaggregated":
            found[name] = _apart(value)
        elif name in {"weights", "kv"}:
            names = tuple(part.strip() for part in (value.split(",") if isinstance(value, str) else value))
            found[name] = tuple(dict.fromkeys(n if n == "auto" else find_format(n, place=name).name for n in names))
        else:
            found[name] = _numbers(name, value)
        if not len(found[name]):
            raise QuantityError(f"{name} has no value to try", place=name, mend="state at least one")
    return found


def _apart(value: Any) -> str:
    text = {"true": "yes", "false": "no"}.get(str(value).lower(), str(value).lower())
    if text not in {"auto", "yes", "no"}:
        raise UnknownNameError("choice", text, ("auto", "yes", "no"), place="disaggregated")
    return text


def _numbers(name: str, value: Any) -> Sequence[float]:
    if isinstance(value, str):
        if ":" in value and "," not in value:
            return _span(name, value)
        value = [_number(name, part) for part in value.split(",")]
    if isinstance(value, range):
        _check(name, value.start, value.stop - 1)
        return value
    values = [value] if isinstance(value, int | float) else [_number(name, part) for part in value]
    for each in values:
        _check(name, each, each)
    return tuple(dict.fromkeys(int(each) if name in WHOLE else float(each) for each in values))


def _span(name: str, text: str) -> Sequence[float]:
    parts = [_number(name, part) for part in text.split(":")]
    if len(parts) not in {2, 3} or parts[1] < parts[0] or (len(parts) == 3 and parts[2] <= 0):
        raise QuantityError(
            f"cannot read {text!r} as a range of {name}", place=name, mend='write "1,2,4", "1:512" or "1:512:8"'
        )
    low, high = parts[:2]
    _check(name, low, high)
    if len(parts) == 3 and name in WHOLE:
        _check(name, parts[2], parts[2])
        return range(int(low), int(high) + 1, int(parts[2]))
    if len(parts) == 3:
        count = (high - low) / parts[2]
        if count > MOST_VALUES:
            raise QuantityError(f"{count:.0e} values of {name}", place=name, mend="take a wider step")
        return _stepped(low, high, parts[2])
    if name == "batch":
        return batch_steps(int(low), int(high))
    if name in WHOLE:
        return doubling(int(high), int(low)) if low > 0 else (0, *doubling(int(high)))
    return _stepped(low, high, (high - low) / 10 or 1.0)


def _stepped(low: float, high: float, step: float) -> tuple[float, ...]:
    count = int((high - low) / step + 1e-9) + 1
    if count > 1_000_000:
        raise QuantityError(f"{count:,} values in one range", place="ranges", mend="take a wider step")
    return tuple(float(round(low + i * step, 12)) for i in range(count))


def _number(name: str, part: Any) -> float:
    try:
        value = float(part)
    except (TypeError, ValueError):
        raise QuantityError(
            f"{part!r} is not a number of {name}", place=name, mend='write "1,2,4" or "1:512"'
        ) from None
    return int(value) if value == value // 1 else value


def _check(name: str, low: float, high: float) -> None:
    least, most = LIMITS[name]
    if not (least <= low and high <= most):
        raise QuantityError(f"{name} of {low if low < least else high:g} is outside {least:g} … {most:g}", place=name)
    if name in WHOLE and (low != low // 1 or high != high // 1):
        raise QuantityError(f"{name} must be whole numbers", place=name)

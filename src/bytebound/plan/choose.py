"""Choosing among many deployments: the exact Pareto front, a readable part of it, and the split of one pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

BLOCK, FEW = 256, 8
"""Points compared with the front at once, and the first few of the front, which beat most of them."""
SAMPLED = 16
"""The front of every sixteenth point is what all are compared with first: it beats most of the others, wherever they lie."""
ROUNDED = 1e-9
"""Sums of logarithms that differ by less may differ by rounding alone."""
MARGINS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
MOST_STATES = 5_000_000
"""Most fillings of a pool that are gone through (40 MB per model)."""


def front(values: Array) -> NDArray[np.int64]:
    """Return the rows of ``values`` that no other row beats, best sums of logarithms first.

    A row is beaten by one that is nowhere larger and somewhere smaller; of equal rows the first stays. A row that beats another
    has the smaller sum, so rows are taken in that order, a block at a time, and compared with the front so far; what rounding
    let through is compared once more at the end, so the front is exact.

    Args:
        values: (rows, objectives), not negative, less is better; infinity for what is unknown, never NaN.
    """
    sums = _sums(values)
    order = np.argsort(sums, kind="stable")
    again = np.zeros(len(order), dtype=bool)  # equal to the row before: most duplicates
    again[1:] = (values[order[1:]] == values[order[:-1]]).all(axis=1)
    points = np.ascontiguousarray(np.vstack([sums, values.T])[:, order[~again]])
    left = order[~again]
    some = points[:, ::SAMPLED]
    alive = _alive(points, some[:, _one_by_one(some)])
    points, left = np.ascontiguousarray(points[:, alive]), left[alive]
    return _exact(values, sums, left[_one_by_one(points)])


def _one_by_one(points: Array) -> NDArray[np.int64]:
    """Return which of ``points`` (in the order of their sums) no other beats, going through them a block at a time."""
    kept = np.zeros(0, dtype=np.int64)
    for start in range(0, points.shape[1], BLOCK):
        block = np.arange(start, min(start + BLOCK, points.shape[1]))
        for by in (kept, block):
            block = block[_alive(points[:, block], points[:, by])]
        kept = np.concatenate([kept, block])
    return kept


def _sums(values: Array) -> Array:
    return np.asarray(np.log(np.clip(values, 1e-300, 1e300)).sum(axis=1))


def _alive(points: Array, by: Array) -> NDArray[np.int64]:
    """Return which of ``points`` (sum and objectives, rows) no row of ``by`` with a smaller sum beats.

    ``by`` is gone through a few rows at a time, strongest first, and what is beaten meets no more of them.
    """
    alive = np.arange(points.shape[1])
    start, size = 0, FEW
    while start < by.shape[1] and len(alive):
        some, start, size = by[:, start : start + size], start + size, 2 * size
        here = points[:, alive]
        under = some[0] < here[0, :, None]
        for column, other in zip(here[1:], some[1:], strict=True):
            under &= other <= column[:, None]
        alive = alive[~under.any(axis=1)]
    return alive


def _exact(values: Array, sums: Array, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``kept`` (in order of sums) without equal rows and rows that one beats whose sum rounds to the same."""
    out = np.zeros(len(kept), dtype=bool)
    for step in range(1, len(kept)):
        near = np.flatnonzero(sums[kept[step:]] - sums[kept[:-step]] < ROUNDED)
        if not len(near):
            break
        one, two = values[kept[near]], values[kept[near + step]]
        out[near + step] |= (one <= two).all(axis=1)
        out[near] |= (two <= one).all(axis=1) & (two < one).any(axis=1)
    return kept[~out]


def readable(values: Array, classes: Array, most: int) -> tuple[NDArray[np.int64], float]:
    """Return the rows that stand for all of a front, and the margin within which each does.

    Every row left out has one in its class that stays and is at most the margin worse in every objective. The margin is the
    least of ``MARGINS`` that leaves ``most`` rows at most, or the widest.

    Args:
        values: (rows, objectives) of a front, positive, less is better, in the order of preference.
        classes: (rows,): what is never merged, such as quality.
        most: rows wanted at most.
    """
    if len(values) <= most:
        return np.arange(len(values)), 0.0
    for margin in MARGINS:
        kept: list[int] = []
        left = np.arange(len(values))
        while len(left):
            head = left[0]
            kept.append(int(head))
            near = (values[head] <= values[left] * (1 + margin)).all(axis=1) & (classes[left] == classes[head])
            left = left[~near]
        if len(kept) <= most:
            break
    return np.array(kept), margin


@dataclass(frozen=True, slots=True)
class Menu:
    """What one model can have of a pool: devices of which kind (options,), and the score of each (options,), less is better."""

    kind: NDArray[np.int64]
    devices: NDArray[np.int64]
    score: Array


def share_out(menus: Sequence[Menu], there: Sequence[int]) -> tuple[int, ...] | None:
    """Return the option of each model with the least sum of scores that the pool holds; None: it holds none.

    Exact, by dynamic programming over how many devices of each kind are taken.

    Args:
        menus: one for each model.
        there: devices of each kind in the pool.

    Raises:
        RequestError: a pool of too many kinds and devices to go through.
    """
    shape = tuple(count + 1 for count in there)
    if np.prod(shape, dtype=float) > MOST_STATES:
        raise RequestError(
            f"a pool with {np.prod(shape, dtype=float):.1e} ways to fill it",
            place="pool",
            mend="plan its kinds of device apart",
        )
    best = np.zeros(shape)  # least sum of scores of the models so far within so many devices
    taken: list[NDArray[np.int64]] = []
    for menu in menus:
        following, choice = np.full(shape, np.inf), np.full(shape, -1, dtype=np.int64)
        for option, (kind, devices) in enumerate(zip(menu.kind.tolist(), menu.devices.tolist(), strict=True)):
            if devices > there[kind]:
                continue
            left = tuple(slice(None, shape[k] - devices if k == kind else None) for k in range(len(shape)))
            right = tuple(slice(devices if k == kind else None, None) for k in range(len(shape)))
            offered = best[left] + menu.score[option]
            better = offered < following[right]
            following[right] = np.where(better, offered, following[right])
            choice[right] = np.where(better, option, choice[right])
        best = following
        taken.append(choice)
    state = list(there)
    if not np.isfinite(best[tuple(state)]):
        return None
    picked = []
    for menu, choice in zip(reversed(menus), reversed(taken), strict=True):
        option = int(choice[tuple(state)])
        state[int(menu.kind[option])] -= int(menu.devices[option])
        picked.append(option)
    return tuple(reversed(picked))

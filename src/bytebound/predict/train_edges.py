"""The edges of what fits a training machine: the largest micro-batch, the longest sequence, the fewest devices."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.work import TOKEN_LIMIT
from bytebound.errors import RequestError
from bytebound.ledger import training_plan
from bytebound.predict.train_frameworks import runnable, splits_of
from bytebound.predict.train_memory import chance_of_fitting
from bytebound.predict.training import train_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bytebound.documents.work import Train
    from bytebound.predict.estimate import Setting

    Array = NDArray[Any]

WHOLE_SEQ = 256
MOST_DEVICES = 2**14
POWERS = tuple(2**k for k in range(13))
REPLICAS = tuple(sorted({*POWERS, *range(1, 9), 10, 12, 14, *(3 * 2**k for k in range(2, 11))}))
"""Data-parallel replicas tried: machines of any few devices, then powers of two and three times them."""


def likely(setting: Setting, work: Train) -> Array:
    """Return the probability that each request fits."""
    return np.atleast_1d(np.broadcast_to(chance_of_fitting(train_time(setting, work)), work.shape))


def largest_micro_batch(setting: Setting, work: Train, sure: float) -> int:
    """Return the largest micro-batch that fits (0: none), the global batch grown where it is smaller than one of them."""

    def sized(values: Array) -> Array:
        batch = np.maximum(np.asarray(work.global_batch), values * np.asarray(work.dp))
        return likely(setting, replace(work, micro_batch=values, global_batch=batch)) >= sure

    return largest(sized, 1, 2**20)


def longest_seq(setting: Setting, work: Train, sure: float) -> int:
    """Return the longest sequence that fits in steps of 256 tokens (0: none)."""
    step = WHOLE_SEQ * int(work.cp)
    return step * largest(
        lambda values: likely(setting, replace(work, seq=values * step)) >= sure, 1, int(TOKEN_LIMIT) // step
    )


def largest(fits: Callable[[Array], Array], low: int, high: int) -> int:
    """Return the largest whole number in [low, high] that fits, 0 where ``low`` does not; fitting never comes back."""
    powers = np.array([low << k for k in range(64) if low << k <= high])
    good = fits(powers)
    if not good[0]:
        return 0
    bottom = int(powers[len(good) - 1 if good.all() else int(np.argmin(good)) - 1])
    top = min(bottom * 2, high + 1)
    while top - bottom > 1:
        tried = np.unique(np.linspace(bottom, top, 66).astype(int)[1:-1])
        good = fits(tried)
        if good.all():
            bottom = int(tried[-1])
            if top - bottom <= 1:
                break
            continue
        first = int(np.argmin(good))
        top = int(tried[first])
        bottom = int(tried[first - 1]) if first else bottom
    return bottom


def fewest_devices(setting: Setting, work: Train, sure: float) -> tuple[int, dict[str, int]]:
    """Return the fewest devices the job fits on and the tp, pp, dp and ZeRO stage it fits with; 0 and none up to 16,384.

    Tried are the splits the framework runs: tp inside a node, pp, dp, at the asked ZeRO stage and at 3; beyond one node whole nodes.
    Of several plans for as many devices the surest one is returned.
    """
    allowed, node = splits_of(work), max(int(setting.ceilings.domain), 1)
    pieces = [
        (tp, pp)
        for tp, pp in product(POWERS[:5] if "tp" in allowed else (1,), POWERS[:7] if "pp" in allowed else (1,))
        if tp <= setting.ceilings.domain and possible(setting, work, tp, pp)
    ]
    shapes = [
        (tp, pp, dp, zero)
        for (tp, pp), dp, zero in product(pieces, REPLICAS, {int(work.zero), 3})
        if in_nodes(tp * pp * dp * int(work.cp), node) and runnable(work, zero=zero, pp=pp, dp=dp)
    ]
    if not shapes:
        return 0, {}
    tp, pp, dp, zero = np.array(shapes).T
    replicas = int(work.micro_batch) * dp
    grown = replace(
        work, tp=tp, pp=pp, dp=dp, zero=zero, ep=np.gcd(int(work.ep), tp * dp * int(work.cp)), virtual_stages=1,
        global_batch=replicas * -(-np.asarray(work.global_batch) // replicas),
    )  # fmt: skip
    chance = likely(setting, grown)
    used = tp * pp * dp * int(work.cp)
    if not bool((chance >= sure).any()):
        return 0, {}
    fewest = int(used[chance >= sure].min())
    at = int(np.argmax(np.where(used == fewest, chance, -1.0)))
    return fewest, dict(zip(("tp", "pp", "dp", "zero"), map(int, shapes[at]), strict=True))


def in_nodes(devices: int, node: int) -> bool:
    """Return whether so many devices are inside one node or whole nodes, up to ``MOST_DEVICES``."""
    return devices <= MOST_DEVICES and (devices <= node or devices % node == 0)


def possible(setting: Setting, work: Train, tp: int, pp: int) -> bool:
    """Return whether the model can be split so."""
    try:
        training_plan.check(
            replace(work, tp=tp, pp=pp, dp=1, ep=1, virtual_stages=1, global_batch=work.micro_batch),
            setting.architecture,
            setting.table,
            None,
        )
    except RequestError:
        return False
    return True

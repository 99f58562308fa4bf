"""Fill the caches with other bytes between two steps, as the other layers of a large model would."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

MOST_BYTES = 192 << 20
"""Beyond a few times any last-level cache more reading changes nothing."""


class Evictor:
    """Reads bytes that nobody needs, with every thread, so that private caches are filled too."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._parts = [np.ones(MOST_BYTES // 8 // threads) for _ in range(threads)]
        self._rates: list[float] = []

    def evict(self, size: float) -> None:
        """Read ``size`` bytes, at most ``MOST_BYTES``."""
        share = min(size, MOST_BYTES) / MOST_BYTES
        if share <= 0:
            return
        start = time.perf_counter()
        list(self._pool.map(lambda part: part[: int(len(part) * share)].sum(), self._parts))
        if share > 0.5:
            self._rates.append(MOST_BYTES * share / (time.perf_counter() - start))

    def read_bytes_per_s(self) -> float:
        """Return the best rate seen; 0 where little was read. A canary: numpy sums are not the machine's ceiling."""
        return max(self._rates, default=0.0)

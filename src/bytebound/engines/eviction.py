"""Fill the caches with other bytes between two steps, as the other layers of a large model would."""

from __future__ import annotations

import mmap
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BYTES = 192 << 20
"""Beyond a few times any last-level cache more reading changes nothing."""


class Evictor:
    """Reads bytes that nobody needs, with every thread, so that private caches are filled too.

    They lie in small pages, as a mapped model file does: address translations are forgotten with the data (huge pages
    made a small probe 15 % faster per layer than the whole model, whose pages never stay in the translation buffers).
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._parts = [_small_pages(MOST_BYTES // threads) for _ in range(threads)]
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


def _small_pages(size: int) -> NDArray[np.float64]:
    """Return ``size`` bytes of written memory in pages of the smallest size."""
    block = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        block.madvise(mmap.MADV_NOHUGEPAGE)
    values = np.frombuffer(block, dtype=np.float64)
    values[:] = 1.0
    return values

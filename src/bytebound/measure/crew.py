"""Threads that each work on memory of their own, which they touched first, so that it lies on their NUMA node."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytebound.errors import UnfinishedError
from bytebound.measure.kernels import GRAIN, kernel, ways
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from numpy.typing import NDArray

NODES = Path("/sys/devices/system/node")
_HUGE_PAGE = 2**21


class Crew:
    """``threads`` threads with ``room_bytes`` of memory each; use it as a context manager, which ends them.

    numpy asks the system for huge pages behind large arrays, so the rooms have them where they are to be had.

    Args:
        threads: how many work at once.
        room_bytes: memory of each, rounded up to whole huge pages.
        cpus: processors each thread is bound to, one entry per thread; None leaves placing to the system.

    Raises:
        UnfinishedError: the memory cannot be had.
    """

    def __init__(self, threads: int, room_bytes: int, cpus: Sequence[Sequence[int]] | None = None) -> None:
        self.threads = threads
        self.room_bytes = -(-room_bytes // _HUGE_PAGE) * _HUGE_PAGE
        try:
            self._block: NDArray[np.uint8] = np.empty(threads * self.room_bytes + _HUGE_PAGE, np.uint8)
        except MemoryError:
            raise UnfinishedError(
                f"no {show_capacity(threads * self.room_bytes)} of memory could be had",
                place="memory bandwidth",
                mend="free memory, or measure with --quick",
            ) from None
        self._base = -(-self._block.ctypes.data // _HUGE_PAGE) * _HUGE_PAGE
        self._pools = [ThreadPoolExecutor(1, f"crew-{number}") for number in range(threads)]
        if cpus is not None:
            for pool, own in zip(self._pools, cpus, strict=True):
                pool.submit(_bind, own).result()
        self.run(next(iter(ways("write"))), self.room_bytes, 1)

    def run(self, name: str, part: int, passes: int, threads: int | None = None) -> float:
        """Let ``threads`` threads (None: all) run kernel ``name`` on the first ``part`` bytes of their rooms.

        Returns:
            The sum of what the kernels return.
        """
        work = kernel(name)
        if part % GRAIN or not 0 < part <= self.room_bytes:
            raise ValueError(
                f"a part of {part} bytes does not fit a room of {self.room_bytes} bytes in steps of {GRAIN}"
            )
        running = [
            pool.submit(work, self._base + number * self.room_bytes, part, passes)
            for number, pool in enumerate(self._pools[:threads])
        ]
        return sum(each.result() for each in running)

    def chase(self, start: int, loads: int) -> int:
        """Let the first thread follow the offsets in its room from offset ``start`` for ``loads`` loads; return where it ended."""
        return int(self._pools[0].submit(kernel("chase"), self._base, start, loads).result())

    def rooms(self) -> NDArray[np.float64]:
        """Return the memory of all threads, one room after the other, as doubles."""
        start = self._base - self._block.ctypes.data
        return self._block[start : start + self.threads * self.room_bytes].view(np.float64)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)


def _bind(cpus: Sequence[int]) -> None:
    """Keep the calling thread on ``cpus``; where the system has no such call or forbids it, the thread stays free."""
    with suppress(AttributeError, OSError):
        os.sched_setaffinity(0, cpus)


def usable_cpus() -> tuple[int, ...]:
    """Return the processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def numa_nodes(place: Path = NODES) -> tuple[tuple[int, ...], ...]:
    """Return the usable processors of each NUMA node that has any; one node where the system does not tell."""
    usable = usable_cpus()
    found = []
    for node in sorted(place.glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        with suppress(OSError, ValueError):
            own = tuple(cpu for cpu in _listed((node / "cpulist").read_text()) if cpu in usable)
            if own:
                found.append(own)
    return tuple(found) or (usable,)


def _listed(text: str) -> list[int]:
    """Return the numbers of a list such as ``0-3,8,10-11``."""
    spans = [part.split("-") for part in text.strip().split(",") if part]
    return [cpu for span in spans for cpu in range(int(span[0]), int(span[-1]) + 1)]

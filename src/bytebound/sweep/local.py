"""Parts of a sweep on processes of this machine. A process that dies is replaced, and its parts are tried again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from bytebound.errors import UnfinishedError
from bytebound.sweep.part import TRIES, Finished, run_part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bytebound.documents.sweep import SweepPart


def finished(text: str, sha256: str, parts: Sequence[SweepPart], *, workers: int) -> Iterator[Finished]:
    """Yield each part as it is finished, on ``workers`` processes; with one, in this process.

    Raises:
        UnfinishedError: a process died ``TRIES`` times under the same part.
    """
    if workers == 1:
        for part in parts:
            yield Finished(part, run_part(text, sha256, part), 1)
        return
    waiting, tries = deque(parts), Counter[int]()
    while waiting:
        running: dict[Future[bytes], SweepPart] = {}
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    future = pool.submit(run_part, text, sha256, waiting[0])
                    running[future] = waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    data = future.result()
                    part = running.pop(future)
                    yield Finished(part, data, tries[part.index] + 1)
        except BrokenProcessPool:
            tries.update(part.index for part in running.values())
            again = sorted(running.values(), key=lambda part: part.index)
            worst = next((part for part in again if tries[part.index] >= TRIES), None)
            if worst is not None:
                raise lost(worst) from None
            waiting.extendleft(reversed(again))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def lost(part: SweepPart) -> UnfinishedError:
    """Return the error of a part whose worker died too often."""
    return UnfinishedError(
        f"part {part.index} ({part.workload}, {part.plan}) lost its worker {TRIES} times",
        mend="check the memory of the workers, or lower --part-draws; then --resume",
    )


def _begin() -> None:
    """Leave Ctrl-C to the driver, and leave with it, even where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_driver, daemon=True).start()


def _leave_with_driver() -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)

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
from bytebound.sweep.folder import write_whole
from bytebound.sweep.part import TRIES, Finished, run_part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bytebound.documents.sweep import SweepPart


def finished(text: str, sha256: str, parts: Sequence[SweepPart], *, folder: Path, workers: int) -> Iterator[Finished]:
    """Yield each part once it is in ``folder``, run on ``workers`` processes; with one, in this process.

    Raises:
        UnfinishedError: a process died ``TRIES`` times under the same part, or the disk is full.
    """
    if workers == 1:
        for part in parts:
            write_whole(folder / part.file, run_part(text, sha256, part))
            yield Finished(part, 1)
        return
    waiting, tries = deque(parts), Counter[int]()
    while waiting:
        running: dict[Future[None], SweepPart] = {}
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(text, sha256, folder),
        )
        try:
            while waiting or running:
                while waiting and len(running) < 2 * workers:
                    future = pool.submit(_run, waiting[0])
                    running[future] = waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    part = running.pop(future)
                    yield Finished(part, tries[part.index] + 1)
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


_asked: list[tuple[str, str, Path]] = []
"""What a process of the pool was started with. Only a part's number and names go through the pool's pipes, and nothing comes
back: a message longer than a pipe takes at once would leave the pool hanging where a process dies in the middle of it
(python/cpython issue 94777)."""


def _begin(text: str, sha256: str, folder: Path) -> None:
    """Leave Ctrl-C to the driver, and leave with it, even where it was killed."""
    _asked.append((text, sha256, folder))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_driver, daemon=True).start()


def _run(part: SweepPart) -> None:
    text, sha256, folder = _asked[0]
    write_whole(folder / part.file, run_part(text, sha256, part))


def _leave_with_driver() -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)

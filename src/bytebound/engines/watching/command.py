"""Run a command unchanged while its Python processes record themselves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.engines.watching.arrival import FOLDER, STEPS
from bytebound.engines.watching.reading import read_records
from bytebound.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bytebound.documents.watched import WatchedRank

INSIDE = Path(__file__).with_name("inside")
"""Folder that a watched Python finds its ``sitecustomize`` in."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command went: its exit code (negative: a signal), seconds, what it recorded, and how far its processes got."""

    exit_code: int
    interrupted: bool
    seconds: float
    ranks: tuple[WatchedRank, ...]
    with_torch: int  # processes that imported torch


def run_command(command: Sequence[str], *, closely: int = 1, away: bool = False) -> Ran:
    """Run ``command`` to its end and return what was recorded.

    Args:
        command: program and arguments.
        closely: steps to look at with the profiler; 0: times alone.
        away: the command's standard output goes to standard error, so that ours holds the document alone.

    Raises:
        RequestError: there is no such program.
    """
    program = shutil.which(command[0])
    if program is None:
        raise RequestError(
            f"no program {command[0]!r}", place="COMMAND", mend="write what you would type, after --: bytebound watch -- python train.py"
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bytebound-watch-") as folder:
        paths = [str(INSIDE), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, FOLDER: folder, STEPS: str(closely), "PYTHONPATH": os.pathsep.join(paths)}
        sys.stdout.flush()
        start = time.perf_counter()
        try:
            process = subprocess.Popen([program, *command[1:]], env=environment, stdout=sys.stderr if away else None)  # noqa: S603 - what the user typed
        except OSError as error:
            raise RequestError(f"cannot run {command[0]!r}: {error.strerror}", place="COMMAND") from None
        with _patient(process) as interrupts:
            code = process.wait()
        seconds = time.perf_counter() - start
        with_torch = len(list(Path(folder).glob("torch-*")))
        return Ran(code, bool(interrupts), seconds, read_records(Path(folder)), with_torch)


@contextmanager
def _patient(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Outlive the command: Ctrl-C reaches it from the terminal, SIGTERM is handed on, and we report afterwards."""
    seen: list[int] = []

    def note(number: int, _frame: Any) -> None:
        seen.append(number)
        if number != signal.SIGINT:
            process.send_signal(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

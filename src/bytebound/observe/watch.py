"""Watch a training run from Python: ``with watch() as run: train()``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bytebound.engines.watching.command import Ran
from bytebound.engines.watching.reading import read_records
from bytebound.engines.watching.recorder import Recorder
from bytebound.errors import ByteboundError, RequestError
from bytebound.facts.machines import find_machine
from bytebound.observe.watched import lay_beside

if TYPE_CHECKING:
    from types import TracebackType

    from bytebound.documents.device import Machine
    from bytebound.documents.watched import Watched


class watch:  # noqa: N801 - read as a verb: with bb.watch() as run
    """Record the optimizer steps taken inside the block, and lay them beside our prediction when it ends.

    Steps are found by themselves. The record has the fullest moment of ``closely`` steps, which run under torch's profiler, and
    the times of the others.

    Args:
        on: the machine this runs on, for the prediction of step times: ``here`` (measure it first), or a name.
        closely: steps to look at closely; 0: times alone.

    Raises:
        RequestError: torch is not installed.

    Example:
        with bb.watch() as run:
            train(model, optimizer)
        print(run)
    """

    def __init__(self, *, on: str | Machine = "here", closely: int = 1) -> None:
        self.on, self.closely = on, closely
        self.watched: Watched | None = None

    def __enter__(self) -> Self:
        """Begin to record."""
        try:
            import torch  # noqa: PLC0415 - optional
        except ImportError:
            raise RequestError("watching needs torch", place="torch", mend="pip install torch") from None
        self.folder = tempfile.TemporaryDirectory(prefix="bytebound-watch-")
        self.recorder = Recorder(torch, self.folder.name, closely=self.closely)
        self.recorder.attach()
        self.start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        """Stop recording; what was recorded is kept where the block raised, and the error goes on."""
        seconds = time.perf_counter() - self.start
        self.recorder.end()
        self.recorder.detach()
        ranks = read_records(Path(self.folder.name))
        self.folder.cleanup()
        machine, why = machine_or_why(self.on)
        ran = Ran(int(error is not None), isinstance(error, KeyboardInterrupt), seconds, ranks, with_torch=1)
        self.watched = lay_beside(ran, machine=machine, no_machine=why)

    def __str__(self) -> str:
        """Return the report, as ``bytebound watch`` prints it."""
        from bytebound.report.page import page_for  # noqa: PLC0415 - rarely printed
        from bytebound.report.watched import watched_text  # noqa: PLC0415

        return "nothing was watched yet" if self.watched is None else watched_text(self.watched, page_for(sys.stdout))


def machine_or_why(on: str | Machine) -> tuple[Machine | None, str]:
    """Return the machine, or why there is none: a machine that was not measured costs the step time, not the memory."""
    if not isinstance(on, str):
        return on, ""
    try:
        return find_machine(on), ""
    except ByteboundError as error:
        if on.strip().lower() == "here":
            return None, str(error)
        raise

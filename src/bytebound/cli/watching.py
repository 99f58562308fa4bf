"""A training run watched while it runs: ``bytebound watch -- COMMAND``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bytebound.cli.measuring import kept_in
from bytebound.cli.observing import keep_all, progress
from bytebound.cli.output import FINE, INTERRUPTED, Json, Quiet, emit, page, say
from bytebound.errors import RequestError, UnfinishedError

if TYPE_CHECKING:
    from bytebound.documents.trace import Trace

FEWEST, MOST = 0, 100


def watch(
    *command: Annotated[str, Parameter(help="The command, after --, as you would type it.", allow_leading_hyphen=True)],
    on: Annotated[str, Parameter(help="The machine this runs on: here (measure it first), or a name.")] = "here",
    steps: Annotated[int, Parameter(help="Steps to look at closely, with PyTorch's profiler; 0: times alone.")] = 1,
    trace: Annotated[
        str, Parameter(help="FILE.py:FUNCTION that makes or takes the same step, traced for the prediction.")
    ] = "",
    db: Annotated[str | None, Parameter(help="History: a file or an SQLAlchemy URL; BYTEBOUND_DB by default.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Run a training command unchanged, and lay its real memory and step time beside our prediction.

    The command's Python processes record themselves: launchers and several ranks work. What was recorded is reported even where
    the command fails, is killed or is interrupted. With --json the command's own output goes to standard error.

    Exit code 0: it ran to its end; 2: there is no such command; 3: it failed, or took no optimizer step.

    Examples:
        bytebound watch -- python train.py --epochs 1

        bytebound watch -- torchrun --nproc-per-node 2 train.py

        bytebound watch --trace step.py:step --json -- python train.py
    """
    if not command:
        raise RequestError("no command to watch", place="COMMAND", mend="bytebound watch -- python train.py")
    if not FEWEST <= steps <= MOST:
        raise RequestError(f"{steps} steps are outside {FEWEST} … {MOST}", place="--steps")
    from bytebound.engines.watching.command import run_command  # noqa: PLC0415
    from bytebound.observe.watch import machine_or_why  # noqa: PLC0415
    from bytebound.observe.watched import lay_beside  # noqa: PLC0415

    machine, why = machine_or_why(on)
    ours = _traced(trace) if trace else None  # before the run: code that cannot be traced should cost no hours
    history = kept_in(db, quiet=quiet)
    ran = run_command(command, closely=steps, away=json)
    with progress(quiet=quiet) as tell:
        found = lay_beside(ran, command=command, machine=machine, no_machine=why, trace=ours, tell=tell)
    keep_all(history, found, quiet=quiet)

    def text() -> str:
        from bytebound.report.watched import watched_text  # noqa: PLC0415

        return watched_text(found, page())

    emit(found, json=json, text=text)
    if ran.interrupted:
        say("interrupted: what was recorded is kept", quiet=quiet)
        return INTERRUPTED
    if ran.exit_code:
        raise UnfinishedError(found.why, place=command[0], mend="see what it printed above")
    if not found.ranks:
        raise UnfinishedError(found.missing["steps"], place=command[0], mend="watch the command that trains")
    return FINE


def _traced(target: str) -> Trace:
    from bytebound.trace.script import trace_script  # noqa: PLC0415 - needs torch

    return trace_script(target, on="here")

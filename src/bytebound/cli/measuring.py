"""The machine in hand: ``bytebound measure``."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from bytebound.cli.output import FINE, INTERRUPTED, OUTPUT, Html, Json, Quiet, emit, page, say, writable, write
from bytebound.errors import ByteboundError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bytebound.documents.device import Device
    from bytebound.history.store import History
    from bytebound.measure.run import Step

Kind = Literal["auto", "cpu", "cuda", "rocm", "mps", "xpu"]


def measure(
    *,
    quick: Annotated[bool, Parameter(negative="", help="Few sizes: under 30 seconds instead of 5 minutes.")] = False,
    device: Annotated[Kind, Parameter(help="What to measure; auto: an accelerator where there is one.")] = "auto",
    only: Annotated[tuple[str, ...], Parameter(negative="", help="A part to measure; may be repeated.")] = (),
    threads: Annotated[int | None, Parameter(help="Threads; all usable processors by default.")] = None,
    no_save: Annotated[bool, Parameter(negative="", group=OUTPUT, help="Neither save as here nor keep.")] = False,
    list_: Annotated[bool, Parameter(name="--list", negative="", help="List what is kept; measure nothing.")] = False,
    compare: Annotated[
        tuple[str, str] | None,
        Parameter(negative="", help="Two kept measurements: ids, latest, previous; measure nothing."),
    ] = None,
    db: Annotated[str | None, Parameter(help="History: a file or an SQLAlchemy URL; BYTEBOUND_DB by default.")] = None,
    json: Json = False,
    html: Html = None,
    quiet: Quiet = False,
) -> int:
    """Find what this machine can really do, and save it as the machine that other verbs call here.

    Parts: memory, usable, matrix, dequant, launch, disk. Ctrl-C keeps those that are finished.

    Examples:
        bytebound measure --quick

        bytebound measure --only memory --only matrix --threads 1 --no-save --json

        bytebound measure --list

        bytebound measure --compare previous latest
    """
    if list_ and compare is not None:
        raise RequestError("--list and --compare are two questions", place="--compare", mend="ask one at a time")
    if list_:
        return show_list(db, json=json)
    if compare is not None:
        return show_comparison(*compare, db, json=json)
    writable(html)
    history = None if no_save else kept_in(db, quiet=quiet)
    from bytebound.measure.run import INTERRUPTED as CTRL_C  # noqa: PLC0415
    from bytebound.measure.run import measure as find  # noqa: PLC0415

    with progress(quiet=quiet) as tell:
        found = find(quick=quick, device=device, parts=only, threads=threads, on_progress=tell)
    if history is not None:
        found = kept(history, found, quiet=quiet)
    saved = "" if no_save else save(found, quiet=quiet)
    if html is not None:
        from bytebound.report.machine_html import machine_html  # noqa: PLC0415

        write(html, machine_html(found), quiet=quiet)

    def text() -> str:
        from bytebound.report.machine import machine_text  # noqa: PLC0415

        return machine_text(found, page(), saved=saved)

    emit(found, json=json, text=text)
    stopped = found.measured is not None and any(each.why == CTRL_C for each in found.measured.missing)
    if stopped:
        say("interrupted: what was finished is kept", quiet=quiet)
    return INTERRUPTED if stopped else FINE


def show_list(db: str | None, *, json: bool) -> int:
    """Print what the history holds."""
    from bytebound.history.store import open_history, records  # noqa: PLC0415

    found = records(open_history(db))

    def text() -> str:
        from bytebound.report.history import history_text  # noqa: PLC0415

        return history_text(found, page())

    emit(found, json=json, text=text)
    return FINE


def show_comparison(before: str, after: str, db: str | None, *, json: bool) -> int:
    """Print two kept measurements side by side, and whether they differ by more than noise."""
    from bytebound.history.store import earlier, fetch, open_history  # noqa: PLC0415
    from bytebound.measure.compare import compare  # noqa: PLC0415

    history = open_history(db)
    old, new = (fetch(history, name, kind="measurement") for name in (before, after))
    found = compare(old, new, earlier(history, new))

    def text() -> str:
        from bytebound.report.history import comparison_text  # noqa: PLC0415

        return comparison_text(found, page())

    emit(found, json=json, text=text)
    return FINE


def kept_in(db: str | None, *, quiet: bool) -> History | None:
    """Return the open history before minutes are spent; None, said aloud, where the default one cannot be had.

    Raises:
        ByteboundError: the history that was asked for with ``--db`` cannot be opened.
    """
    from bytebound.history.store import open_history  # noqa: PLC0415

    try:
        return open_history(db)
    except ByteboundError as error:
        if db is not None:
            raise
        say(f"not kept in the history: {error}", quiet=quiet)
        return None


def kept(history: History, found: Device, *, quiet: bool) -> Device:
    """Keep a measurement and return it with what it lost since earlier ones in its notes; a failing history is said."""
    from bytebound.history.store import earlier, keep  # noqa: PLC0415
    from bytebound.measure.compare import noticed  # noqa: PLC0415

    try:
        lost = noticed(earlier(history, found), found)
        for sentence in lost:
            say(f"noticed: {sentence}", quiet=quiet)
        if found.measured is not None and lost:
            notes = (*found.measured.notes, *lost)
            found = found.model_copy(update={"measured": found.measured.model_copy(update={"notes": notes})})
        keep(history, found)
    except ByteboundError as error:
        say(f"not kept in the history: {error}", quiet=quiet)
    return found


def save(found: Device, *, quiet: bool) -> str:
    """Save a measurement as ``here`` and return the file; an incomplete one never replaces a complete one."""
    from bytebound.measure.here import complete_here, save_here  # noqa: PLC0415

    before = complete_here()
    if before and found.measured is not None and not found.measured.complete:
        say(f"this measurement is not complete: here stays the complete one of {before[:16]}", quiet=quiet)
        return ""
    return str(save_here(found))


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[Step], None]]:
    """Show where a measurement is on standard error: one living line on a terminal, else a line per part."""
    if quiet:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        said: set[str] = set()

        def line(step: Step) -> None:
            if step.part not in said:
                said.add(step.part)
                say(f"measuring {step.part}: {step.detail}")

        yield line
        return
    from rich.console import Console  # noqa: PLC0415 - only where a terminal is

    console = Console(stderr=True)
    with console.status("measuring") as status:
        yield lambda step: status.update(f"[bold]{step.part}[/bold]: {step.detail}  {step.share:.0%}")

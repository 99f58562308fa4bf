"""The folder of a sweep: ``sweep.json`` first, then one file per part, each whole or not there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bytebound.documents.sweep import Sweep
from bytebound.documents.values import from_json, to_json
from bytebound.errors import DocumentError, UnfinishedError
from bytebound.sweep.table import decoded

if TYPE_CHECKING:
    from pathlib import Path

    from bytebound.documents.sweep import SweepPart

PLAN, SUMMARY, UNFINISHED = "sweep.json", "summary.json", ".unfinished"


def opened(folder: Path, sweep: Sweep, *, resume: bool) -> list[SweepPart]:
    """Make the folder of a sweep, or open it again, and return the parts that are not there yet.

    Raises:
        DocumentError: the folder holds another sweep, or this one and ``resume`` is not said, or other files.
        UnfinishedError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inside = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise _unwritable(folder, error) from None
    if PLAN not in inside:
        if any(not name.endswith(UNFINISHED) for name in inside):
            raise DocumentError("holds files that are no sweep", place=str(folder), mend="name a new or empty folder")
        write_whole(folder / PLAN, to_json(sweep).encode(), lasting=True)
        return list(sweep.parts)
    _same(folder / PLAN, sweep)
    if not resume:
        raise DocumentError("holds this sweep already", place=str(folder), mend="continue it with --resume")
    for name in inside:
        if name.endswith(UNFINISHED):
            (folder / name).unlink(missing_ok=True)
    return [part for part in sweep.parts if decoded(folder / part.file, part=part, sha256=sweep.sha256) is None]


def _same(path: Path, sweep: Sweep) -> None:
    try:
        there = from_json(Sweep, path.read_text(encoding="utf-8"), place=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"cannot be read: {error}", place=str(path)) from None
    if there.sha256 != sweep.sha256:
        mine, theirs = sweep.request, there.request
        names = (
            "tool",
            "months",
            "draws",
            "seed",
            "part_draws",
            "plans",
            "scenarios",
            "fleet",
            "workloads",
            "machines",
        )
        other = [name for name in names if getattr(mine, name) != getattr(theirs, name)]
        raise DocumentError(
            f"holds another sweep, with other {', '.join(other) or 'roadmap machines'}",
            place=str(path.parent), mend="ask the same again, or name a new folder",
        )  # fmt: skip


def write_whole(path: Path, data: bytes, *, lasting: bool = False) -> None:
    """Write ``data`` to ``path``: to a temporary name beside it, then renamed; ``lasting``: it outlives a power cut too.

    A part need not: one that a power cut tore has wrong checksums and is run again.

    Raises:
        UnfinishedError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f"{path.name}{UNFINISHED}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UnfinishedError:
    return UnfinishedError(
        f"cannot write: {error.strerror}", place=str(path), mend="make room or name another folder, then --resume"
    )

"""How fast a file is read from disk: what loading a model is bound by, the page cache left out."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.measurement import Missing
from bytebound.measure.sampling import Probe
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 8 * 2**20
"""Bytes per read; a multiple of every sector and page size, as O_DIRECT wants."""
LEAST_BYTES = 4 * CHUNK
SHARE = 0.1
"""Share of the free space a file may take at most."""


@contextmanager
def disk_probe(
    folder: Path | None = None, *, wanted_bytes: float, patience_s: float = 10.0
) -> Iterator[Probe | Missing]:
    """Write a temporary file of at most ``wanted_bytes``, give a probe that reads it through, and remove it in any case.

    The page cache is passed by (O_DIRECT) or told to forget the file before each read; which of the two, ``how`` says.

    Args:
        folder: where to write; None: the system's folder for temporary files.
        wanted_bytes: size of the file, cut to a tenth of the free space.
        patience_s: writing stops after so many seconds, and the file is what was written.
    """
    where = Path(folder or tempfile.gettempdir())
    path: Path | None = None
    try:
        size = int(min(wanted_bytes, SHARE * shutil.disk_usage(where).free) // CHUNK * CHUNK)
        if size < LEAST_BYTES:
            yield Missing(probe="disk.read", why=f"under {show_capacity(LEAST_BYTES / SHARE)} are free in {where}")
            return
        handle, name = tempfile.mkstemp(prefix="bytebound-", suffix=".tmp", dir=where)
        path = Path(name)
        with os.fdopen(handle, "wb", buffering=0) as stream:
            size = _fill(stream.fileno(), size, patience_s)
    except OSError as error:
        if path is not None:
            path.unlink(missing_ok=True)
        yield Missing(probe="disk.read", why=f"no file could be written in {where}: {error.strerror or error}")
        return
    try:
        yield _probe(path, size)
    finally:
        path.unlink(missing_ok=True)


def _fill(handle: int, size: int, patience_s: float) -> int:
    """Write up to ``size`` bytes, for ``patience_s`` seconds at the most, and return how many."""
    block = np.random.default_rng(0).bytes(CHUNK)  # not compressible: some disks would cheat
    start, written = time.perf_counter(), 0
    while written < size and (written < LEAST_BYTES or time.perf_counter() - start < patience_s):
        left = memoryview(block)
        while left:
            left = left[os.write(handle, left) :]
        written += CHUNK
        if written % (4 * CHUNK) == 0:
            os.fsync(handle)
    os.fsync(handle)
    return written


def _probe(path: Path, size: int) -> Probe | Missing:
    buffer = mmap.mmap(-1, CHUNK)  # page-aligned, as O_DIRECT wants
    direct = getattr(os, "O_DIRECT", 0)
    try:
        if direct and _read(path, buffer, direct) == size:
            how = "O_DIRECT, 8 MiB at a time, one request under way"
            return Probe("disk.read", "B/s", size, lambda: _read(path, buffer, direct), how, {"bytes": float(size)})
    except OSError:  # tmpfs and some network file systems refuse O_DIRECT
        pass
    if not hasattr(os, "posix_fadvise"):
        return Missing(probe="disk.read", why="this system has no way to read past the page cache")
    how = "8 MiB at a time, the page cache told to forget the file before (it may not obey)"
    return Probe("disk.read", "B/s", size, lambda: _read(path, buffer, 0), how, {"bytes": float(size)})


def _read(path: Path, buffer: mmap.mmap, flags: int) -> int:
    """Read the file through once and return its bytes."""
    handle = os.open(path, os.O_RDONLY | flags)
    try:
        if not flags:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        total = 0
        while got := os.readv(handle, [buffer]):
            total += got
        return total
    finally:
        os.close(handle)

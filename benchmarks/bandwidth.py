"""Our memory kernels beside hand-written C, numpy and torch, taking turns in one process on the same memory.

``python benchmarks/bandwidth.py`` compiles ``stream.c`` with ``cc -O3 -fopenmp``, lets everybody work on the same block of
memory in every round, starting with another one each time, and prints Markdown; ``--json`` prints the same numbers. Bytes are
counted as STREAM counts them. torch is optional. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before any OpenMP: threads that spin would take others' turns

from bytebound.measure.crew import Crew, usable_cpus
from bytebound.measure.ladder import fastest
from bytebound.measure.load import load_between, read_load
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = Path(__file__).with_name("stream.c")
FLAGS = ("-O3", "-fopenmp", "-shared", "-fPIC")
KINDS = ("read", "copy", "triad", "write")
ROOM_STEP = 12 * 2**20
"""A thread's memory is a multiple of this: whole huge pages for one, two or three arrays."""


@dataclass(frozen=True)
class Subject:
    """Somebody who moves ``moved`` bytes per call."""

    kind: str
    who: str
    how: str
    work: Callable[[], object]
    moved: float


@dataclass(frozen=True)
class Row:
    """What one subject reached [B/s]; ``median_share`` and ``best_share`` are of the best C of its kind."""

    kind: str
    who: str
    how: str
    best: float
    median: float
    p10: float
    p90: float
    best_share: float = 0.0
    median_share: float = 0.0


def compiled(folder: str) -> ctypes.CDLL:
    """Return ``stream.c``, compiled into ``folder``."""
    library = Path(folder) / "stream.so"
    subprocess.run([os.environ.get("CC", "cc"), *FLAGS, str(SOURCE), "-o", str(library)], check=True)  # noqa: S603
    return ctypes.CDLL(str(library))


def c_subjects(library: ctypes.CDLL, crew: Crew, part: int, passes: int) -> Iterator[Subject]:
    """Yield every C kernel that this machine can run, on the crew's memory."""
    level = library.level()
    suffixes = [name for name, needs in (("avx512", 512), ("avx2", 256), ("any", 0)) if level >= needs][:2]
    names = {
        "read": ("read_1", "read_2", "read_4", "read_8", "read_1_ahead", "read_4_ahead"),
        "copy": ("copy", "copy_ahead", "copy_stream", "copy_stream_ahead"),
        "triad": ("triad", "triad_ahead", "triad_stream", "triad_stream_ahead"),
        "write": ("write", "write_stream"),
    }
    symbols = [(kind, f"{name}_{suffix}") for kind in KINDS for name in names[kind] for suffix in suffixes]
    for kind, symbol in [*symbols, ("copy", "copy_memcpy"), ("write", "write_memset")]:
        call = getattr(library, symbol)
        call.restype = ctypes.c_double
        call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_int)
        work = partial(call, crew.rooms().ctypes.data, part, passes, crew.threads)
        yield Subject(kind, "C", symbol, work, float(part * passes * crew.threads))


def our_subjects(crew: Crew, part: int, passes: int) -> Iterator[Subject]:
    """Yield our kernels, in the variant that our own trial finds fastest."""
    for kind in KINDS:
        name = fastest(crew, kind, part, 0.05)
        work = partial(crew.run, name, part, passes)
        yield Subject(kind, "bytebound", name, work, float(part * passes * crew.threads))


def numpy_subjects(block: np.ndarray) -> Iterator[Subject]:
    """Yield what numpy offers."""
    halves, thirds = np.split(block, 2), np.split(block, 3)
    matrix = block.view(np.float32).reshape(-1, 4096)
    vector = np.ones(4096, np.float32)
    size = float(block.nbytes)

    def triad() -> None:
        np.multiply(thirds[2], 3.0, out=thirds[0])
        np.add(thirds[0], thirds[1], out=thirds[0])

    yield Subject("read", "numpy", "sum f64", block.sum, size)
    yield Subject("read", "numpy", "M @ v f32", partial(np.matmul, matrix, vector), size)
    yield Subject("copy", "numpy", "copyto f64", partial(np.copyto, halves[1], halves[0]), size)
    yield Subject("triad", "numpy", "multiply, add f64", triad, size)
    yield Subject("write", "numpy", "fill f64", partial(block.fill, 0.0), size)


def torch_subjects(block: np.ndarray, threads: int) -> Iterator[Subject]:
    """Yield what torch offers, where it is installed."""
    if find_spec("torch") is None:
        return
    torch: Any = import_module("torch")
    torch.set_num_threads(threads)
    whole = torch.from_numpy(block)
    halves, thirds = whole.chunk(2), whole.chunk(3)
    matrix = torch.from_numpy(block.view(np.float32).reshape(-1, 4096))
    vector = torch.ones(4096)
    size = float(block.nbytes)
    yield Subject("read", "torch", "sum f64", whole.sum, size)
    yield Subject("read", "torch", "mv f32", partial(torch.mv, matrix, vector), size)
    yield Subject("copy", "torch", "copy_ f64", partial(halves[1].copy_, halves[0]), size)
    yield Subject(
        "triad",
        "torch",
        "add alpha= out= f64",
        partial(torch.add, thirds[1], thirds[2], alpha=3.0, out=thirds[0]),
        size,
    )
    yield Subject("write", "torch", "fill_ f64", partial(whole.fill_, 0.0), size)


def measured(subjects: list[Subject], rounds: int) -> tuple[list[Row], float]:
    """Time everybody once per round in turn; return their rows, and the processors others used meanwhile."""
    seconds: list[list[float]] = [[] for _ in subjects]
    before, start = read_load(), time.perf_counter()
    for done in range(-1, rounds):  # the first round warms up
        for place in range(len(subjects)):
            turn = (place + done * 7) % len(subjects)
            began = time.perf_counter()
            subjects[turn].work()
            if done >= 0:
                seconds[turn].append(time.perf_counter() - began)
    foreign = load_between(before, read_load(), time.perf_counter() - start).foreign
    rows = []
    for subject, taken in zip(subjects, seconds, strict=True):
        rates = subject.moved / np.array(taken)
        low, middle, high = np.quantile(rates, (0.1, 0.5, 0.9))
        rows.append(
            Row(subject.kind, subject.who, subject.how, float(rates.max()), float(middle), float(low), float(high))
        )
    return rows, foreign


def compared(rows: list[Row]) -> list[Row]:
    """Return ``rows`` with their shares of the best C of their kind, by kind and falling best; of C the best three."""
    ready = []
    for kind in KINDS:
        own = sorted((row for row in rows if row.kind == kind), key=lambda row: -row.best)
        best = max((row.best for row in own if row.who == "C"), default=float("nan"))
        median = max((row.median for row in own if row.who == "C"), default=float("nan"))
        seen: Counter[str] = Counter()
        for row in own:
            seen[row.who] += 1
            if row.who != "C" or seen["C"] <= 3:
                shares = {"best_share": row.best / best, "median_share": row.median / median}
                ready.append(Row(**{**asdict(row), **shares}))
    return ready


def table(rows: list[Row]) -> str:
    """Return ``rows`` as Markdown."""
    lines = [
        "| kernel | who | how | best GB/s | median | p10-p90 | best, % of best C | median, % of best C median |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.kind} | {row.who} | {row.how} | {row.best / 1e9:.2f} | {row.median / 1e9:.2f} | "
        f"{row.p10 / 1e9:.1f}-{row.p90 / 1e9:.1f} | {row.best_share:.1%} | {row.median_share:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def conditions(threads: int, total: int, rounds: int, foreign: float) -> str:
    """Return where and how it was measured, as one line."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "numba", "torch") if find_spec(name))
    return (
        f"{threads} threads ({platform.machine()}), {show_capacity(total)} in all, {rounds} interleaved rounds; others used "
        f"{foreign:.2f} processors meanwhile. Python {platform.python_version()}, {packages}."
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="how often everybody has a turn")
    parser.add_argument("--mib", type=int, default=504, help="memory in all [MiB]")
    parser.add_argument("--passes", type=int, default=4, help="passes per turn of C and of ours")
    parser.add_argument("--threads", type=int, default=len(usable_cpus()))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    part = max(given.mib * 2**20 // given.threads // ROOM_STEP, 1) * ROOM_STEP
    with tempfile.TemporaryDirectory() as folder, Crew(given.threads, part) as crew:
        block = crew.rooms()
        subjects = [
            *c_subjects(compiled(folder), crew, part, given.passes),
            *our_subjects(crew, part, given.passes),
            *numpy_subjects(block),
            *torch_subjects(block, given.threads),
        ]
        rows, foreign = measured(subjects, given.rounds)
    rows = compared(rows)
    said = conditions(given.threads, part * given.threads, given.rounds, foreign)
    print(
        json.dumps({"conditions": said, "rows": [asdict(row) for row in rows]})
        if given.json
        else f"{table(rows)}\n\n{said}"
    )


if __name__ == "__main__":
    main()

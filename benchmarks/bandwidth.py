"""Our memory kernels beside hand-written C, numpy and torch, taking turns in one process on the same memory.

``python benchmarks/bandwidth.py`` compiles ``stream.c`` with ``cc -O3 -fopenmp``, lets everybody work on the same block of
memory in every round, starting with another one each time, and prints Markdown; ``--json`` prints the same numbers. Each kind
of access (read, copy, triad, write) has its own rounds, short enough that a machine whose memory changes its speed for
seconds treats everybody in a round alike; the shares are medians of the ratios within rounds. Every C kernel and every one
of ours competes; the best three of C and our best are printed. Bytes are counted as STREAM counts them. torch is optional.
Nothing here asserts a time.
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
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before any OpenMP: threads that spin would take others' turns

from bytebound.measure.crew import Crew, usable_cpus
from bytebound.measure.kernels import ways
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
    """What one subject reached [B/s], and which share of the best C of its kind: bests, and within rounds."""

    kind: str
    who: str
    how: str
    best: float
    median: float
    p10: float
    p90: float
    best_share: float
    share: float
    share_p10: float
    share_p90: float


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
    """Yield our kernels: the ladder, too, lets every one have its turn at the DRAM size and keeps the fastest."""
    for kind in KINDS:
        for name in ways(kind):
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
    yield Subject("write", "numpy", "fill f64", partial(block.fill, 1.5), size)


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
    yield Subject("write", "torch", "fill_ f64", partial(whole.fill_, 1.5), size)


def timed(subjects: list[Subject], rounds: int) -> np.ndarray:
    """Let everybody work once per round, in turn; return their rates [B/s], one row per round."""
    rates = np.zeros((rounds, len(subjects)))
    for done in range(-1, rounds):  # the first round warms up
        for place in range(len(subjects)):
            turn = (place + done) % len(subjects)
            start = time.perf_counter()
            subjects[turn].work()
            if done >= 0:
                rates[done, turn] = subjects[turn].moved / (time.perf_counter() - start)
    return rates


def compared(subjects: list[Subject], rounds: int) -> list[Row]:
    """Return what subjects of one kind reach, the fastest first: three of C, one of ours, everybody else."""
    rates = timed(subjects, rounds)
    ranks = (rates / rates.max(axis=1, keepdims=True)).mean(axis=0)
    order = [int(i) for i in np.argsort(-ranks)]
    written = [i for i in order if subjects[i].who == "C"]
    ours = [i for i in order if subjects[i].who == "bytebound"]
    shares = rates / rates[:, [written[0]]]
    low, middle, high = np.quantile(rates, (0.1, 0.5, 0.9), axis=0)
    share_low, share, share_high = np.quantile(shares, (0.1, 0.5, 0.9), axis=0)
    top = rates.max(axis=0)
    return [
        Row(subjects[i].kind, subjects[i].who, subjects[i].how, *(float(each[i]) for each in (top, middle, low, high)),
            float(top[i] / top[written].max()), *(float(each[i]) for each in (share, share_low, share_high)))
        for i in order if i not in written[3:] and i not in ours[1:]
    ]  # fmt: skip


def table(rows: list[Row]) -> str:
    """Return ``rows`` as Markdown."""
    lines = [
        "| kind | who | how | best GB/s | median | p10-p90 | of the best C, same round: median (p10-p90) | best of best |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.kind} | {row.who} | {row.how} | {row.best / 1e9:.1f} | {row.median / 1e9:.1f} | {row.p10 / 1e9:.1f}-{row.p90 / 1e9:.1f} "
        f"| {row.share:.1%} ({row.share_p10:.0%}-{row.share_p90:.0%}) | {row.best_share:.1%} |"
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
    parser.add_argument("--rounds", type=int, default=20, help="how often everybody has a turn")
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
        before, start = read_load(), time.perf_counter()
        rows = [
            row for kind in KINDS for row in compared([each for each in subjects if each.kind == kind], given.rounds)
        ]
        foreign = load_between(before, read_load(), time.perf_counter() - start).foreign
    said = conditions(given.threads, part * given.threads, given.rounds, foreign)
    print(
        json.dumps({"conditions": said, "rows": [asdict(row) for row in rows]})
        if given.json
        else f"{table(rows)}\n\n{said}"
    )


if __name__ == "__main__":
    main()

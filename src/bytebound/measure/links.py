"""Collectives over all accelerators, one process per device: what a rank does, and what its measurements say.

``bytebound measure`` starts the ranks of one machine itself. Across nodes, run this under torchrun, once on each::

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m bytebound.measure.links --out links.jsonl

Rank 0 writes a line per operation and size as it goes, so that a rank that dies costs only what was not yet measured.
Bandwidth is bus bandwidth, the convention of nccl-tests (doc/PERFORMANCE.md): bytes of the whole array over time, times
2 (n - 1) / n for an all-reduce and (n - 1) / n for an all-gather, which compares to a link's rate per direction.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import DocumentError
from bytebound.measure.gpu import first_line
from bytebound.measure.sampling import Probe, Sample, reading
from bytebound.units import show_bytes, show_rate, show_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bytebound.documents.measurement import Reading

OPERATIONS = ("all-reduce", "all-gather")
SIZES = (4096, 2**16, 2**20, 2**24, 2**28)
BACKENDS = {"cuda": "nccl", "rocm": "nccl", "xpu": "xccl", "cpu": "gloo"}
SAMPLE_S = 0.02
MOST_REPEATS = 200
LOST = 3
"""Exit code of a rank that lost the others."""


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of one operation on ``bytes`` bytes over ``ranks`` ranks on ``nodes`` nodes, the slowest rank's, per sample."""

    operation: str
    bytes: float
    ranks: int
    nodes: int
    backend: str
    seconds: tuple[float, ...]

    @property
    def moved(self) -> float:
        """Bytes over each rank's link and direction, by the bus-bandwidth convention."""
        share = (self.ranks - 1) / self.ranks
        return self.bytes * share * (2 if self.operation == "all-reduce" else 1)


def alpha_beta(moved: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Fit ``seconds = alpha + moved / beta`` by least squares of the relative error; both stay positive.

    Args:
        moved: bytes, at least two different values.
        seconds: what they took.

    Returns:
        alpha [s], and beta [B/s].

    Example:
        >>> alpha, beta = alpha_beta([1e3, 1e9], [1e-5 + 1e-8, 1e-5 + 1e-2])
        >>> round(alpha * 1e6), round(beta / 1e9)
        (10, 100)
    """
    size, took = np.asarray(moved, dtype=float), np.asarray(seconds, dtype=float)
    system = np.stack([1 / took, size / took], axis=1)
    alpha, per_byte = np.linalg.lstsq(system, np.ones(len(took)), rcond=None)[0]
    if alpha <= 0:
        alpha, per_byte = 0.0, float(np.sum(size / took) / np.sum((size / took) ** 2))
    if per_byte <= 0:
        alpha, per_byte = float(took.min()), float(np.min(took / size))
    return float(alpha), float(1 / per_byte)


def link_readings(rows: Sequence[Row]) -> tuple[Reading, ...]:
    """Return bus bandwidth per operation and size [B/s], and the latency [s] of a fit over the sizes."""
    found = [_bandwidth(row) for row in rows]
    for operation in OPERATIONS:
        mine = [row for row in rows if row.operation == operation]
        if len({row.bytes for row in mine}) < 2:
            continue
        alpha, beta = alpha_beta([row.moved for row in mine], [min(row.seconds) for row in mine])
        where = {"ranks": float(mine[0].ranks), "nodes": float(mine[0].nodes)}
        how = f"{mine[0].backend}, fit over {len(mine)} sizes"
        probe = Probe(f"link.{operation}.latency", "s", 1.0, lambda: None, how, where)
        note = f"time = {alpha:.3g} s + bytes on the bus / {show_rate(beta, 'B/s')}"
        found.append(reading(probe, [Sample(alpha, 0.0, 0.0)], note=note))
    return tuple(found)


def _bandwidth(row: Row) -> Reading:
    where = {"bytes": row.bytes, "ranks": float(row.ranks), "nodes": float(row.nodes)}
    how = f"torch.distributed {row.backend}, bus bandwidth"
    probe = Probe(f"link.{row.operation}", "B/s", row.moved, lambda: None, how, where)
    return reading(probe, [Sample(second, 0.0, 0.0) for second in row.seconds])


def read_rows(path: Path) -> tuple[Row, ...]:
    """Return the rows that rank 0 wrote to ``path``; a last line cut short by a death is left out.

    Raises:
        DocumentError: no such file, or a line that is not such a row.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"cannot read link measurements ({error})", place=str(path)) from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break
        try:
            row = Row(**(data := json.loads(line)) | {"seconds": tuple(float(item) for item in data["seconds"])})
            sound = row.operation in OPERATIONS and row.ranks > 1 and row.bytes > 0 and min(row.seconds) > 0
        except (ValueError, TypeError, KeyError):
            sound = False
        if not sound:
            raise DocumentError("not a link measurement", place=f"{path}:{number}", mend="write it with --out")
        rows.append(row)
    return tuple(rows)


def _nothing() -> None:
    pass


def measured(kind: str, sizes: Sequence[int], samples: int) -> Iterator[Row]:
    """Yield a row per operation and size; every rank of the process group must run this, and all see the same rows."""
    import torch  # noqa: PLC0415 - optional
    import torch.distributed as group  # noqa: PLC0415

    ranks, local = group.get_world_size(), int(os.environ.get("LOCAL_RANK", "0"))
    nodes = ranks // int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks)))
    device = "cpu" if kind == "cpu" else f"{'xpu' if kind == 'xpu' else 'cuda'}:{local}"
    wait = {"cpu": _nothing, "xpu": torch.xpu.synchronize}.get(kind, torch.cuda.synchronize)

    def slowest(work: Callable[[], object], times: int) -> float:
        """Return the seconds per call of the rank that took longest; telling each other also lines the ranks up."""
        wait()
        began = time.perf_counter()
        for _ in range(times):
            work()
        wait()
        took = torch.tensor([(time.perf_counter() - began) / times], dtype=torch.float64, device=device)
        group.all_reduce(took, op=group.ReduceOp.MAX)
        return max(float(took.item()), 1e-9)

    for operation in OPERATIONS:
        for size in sizes:
            mine = max(size // 4 // ranks, 1)
            whole, part = torch.ones(mine * ranks, device=device), torch.ones(mine, device=device)

            def work(operation: str = operation, whole: Any = whole, part: Any = part) -> None:
                if operation == "all-reduce":
                    group.all_reduce(whole, op=group.ReduceOp.MAX)  # MAX: ones stay ones however often it is done
                else:
                    group.all_gather_into_tensor(whole, part)

            slowest(work, 2)
            times = max(1, min(round(SAMPLE_S / slowest(work, 2)), MOST_REPEATS))
            taken = tuple(slowest(work, times) for _ in range(samples))
            yield Row(operation, mine * ranks * 4.0, ranks, nodes, group.get_backend(), taken)


def main(words: Sequence[str] | None = None) -> int:
    """Be one rank: join the others as RANK, WORLD_SIZE and LOCAL_RANK say, measure, and write if this is rank 0.

    Returns:
        0, or ``LOST`` (3) if the others could not be reached or went away.
    """
    ask = argparse.ArgumentParser(prog="python -m bytebound.measure.links", description=__doc__.split("\n", 1)[0])
    ask.add_argument("--kind", choices=sorted(BACKENDS), help="kind of device; default: cuda if there is one, else cpu")
    ask.add_argument("--out", type=Path, required=True, help="file for rank 0's lines")
    ask.add_argument("--store", default="", help="a new file all ranks meet at; default: torchrun's MASTER_ADDR")
    ask.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="bytes of the array, ascending")
    ask.add_argument("--samples", type=int, default=5, help="per operation and size")
    ask.add_argument("--timeout", type=float, default=60.0, help="seconds after which a silent rank counts as dead")
    given = ask.parse_args(words)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        ask.error("this runs as a rank; start it under torchrun")
    import torch  # noqa: PLC0415 - optional
    import torch.distributed as group  # noqa: PLC0415

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    kind = given.kind or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind in ("cuda", "rocm"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        group.init_process_group(
            BACKENDS[kind],
            init_method=f"file://{given.store}" if given.store else "env://",
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=given.timeout),
        )
        if rank == 0:
            given.out.write_text("", encoding="utf-8")
        for row in measured(kind, given.sizes, given.samples):
            if rank == 0:
                with given.out.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(asdict(row)) + "\n")
        group.destroy_process_group()
    except (RuntimeError, ValueError) as error:
        sys.stderr.write(f"rank {rank} of {ranks}: {first_line(error)}\n")
        return LOST
    if rank == 0:
        for item in link_readings(read_rows(given.out)):
            best = show_time(item.best) if item.unit == "s" else show_rate(item.best, item.unit)
            size = f" of {show_bytes(float(item.where['bytes']))}" if "bytes" in item.where else ""
            sys.stdout.write(f"{item.name}{size}: {best} {item.note}\n")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # a process group that lost a rank has threads which abort an orderly end

"""Links between the accelerators of this machine: copies from one to another, and collectives in processes of our own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.documents.measurement import Missing
from bytebound.measure.gpu_time import failures, time_probes, why_failed
from bytebound.measure.links import BACKENDS, LOST, OPERATIONS, SIZES, link_readings, read_rows
from bytebound.measure.sampling import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bytebound.measure.gpu import Accelerator
    from bytebound.measure.gpu_time import Effort, Outcome

GRACE_S = 3.0
"""How long other ranks may still run after one has failed."""


def peer_copies(devices: Sequence[Accelerator], effort: Effort, *, budget_s: float) -> Iterator[Outcome]:
    """Yield ``link.device-to-device`` [B/s] of every ordered pair: an array copied from the one to the other."""
    import torch  # noqa: PLC0415 - optional

    pairs = [(one, other) for one in devices for other in devices if one != other]
    for step, (one, other) in enumerate(pairs):
        try:
            source = torch.ones(effort.link_bytes, dtype=torch.uint8, device=one.device)
            target = torch.empty(effort.link_bytes, dtype=torch.uint8, device=other.device)
        except failures() as error:
            why = f"{one.device} to {other.device}: {why_failed(one, error)}"
            yield Missing(probe="link.device-to-device", why=why)
            continue
        peer = one.has_events and torch.cuda.can_device_access_peer(one.index, other.index)
        how = "torch copy_, " + ("peer to peer" if peer else "no peer access: through the host")
        where: dict[str, float | str] = {"from": one.device, "to": other.device, "bytes": float(effort.link_bytes)}

        def copy(target: Any = target, source: Any = source) -> None:
            target.copy_(source, non_blocking=True)  # runs on the source's stream, which is the one that is timed

        probe = Probe("link.device-to-device", "B/s", float(effort.link_bytes), copy, how, where)
        share = budget_s / (len(pairs) - step)
        budget_s -= share
        yield from time_probes(one, [probe], effort, budget_s=share, graphs="never")


def collectives(
    kind: str, ranks: int, *, budget_s: float = 60.0, sizes: Sequence[int] = SIZES, samples: int = 5
) -> Iterator[Outcome]:
    """Start ``ranks`` processes on this machine, one per device, and yield what their collectives reach.

    A rank that dies, or a budget that ends, gives a sentence, and what was measured until then is yielded.

    Args:
        kind: an accelerator's kind; ``cpu`` runs gloo over the loopback.
        ranks: processes.
        budget_s: after which all are ended.
        sizes: bytes of the array, ascending.
        samples: per operation and size.
    """
    if kind not in BACKENDS or ranks < 2:
        yield Missing(probe="link.all-reduce", why=f"{ranks} {kind} device(s): a collective needs two that can talk")
        return
    with tempfile.TemporaryDirectory(prefix="bytebound-links-") as folder:
        place = Path(folder)
        out = place / "rows.jsonl"
        out.touch()
        command = [
            *(sys.executable, "-m", "bytebound.measure.links", "--kind", kind, "--out", str(out)),
            *("--store", str(place / "store"), "--samples", str(samples), "--timeout", str(max(10.0, budget_s))),
            *("--sizes", *map(str, sizes)),
        ]
        until = time.perf_counter() + budget_s
        crew: list[subprocess.Popen[bytes]] = []
        try:
            crew.extend(_start(command, rank, ranks, place / f"rank{rank}.txt") for rank in range(ranks))
            trouble = _trouble(crew, until, place) or ""
        finally:
            for process in crew:
                process.kill()
                process.wait()
        rows = read_rows(out)
        yield from link_readings(rows)
        if trouble:
            kept = f"{len(rows)} of {len(OPERATIONS) * len(sizes)} measurements are kept"
            yield Missing(probe="link.all-reduce", why=f"{trouble}; {kept}")


def _start(command: list[str], rank: int, ranks: int, said: Path) -> subprocess.Popen[bytes]:
    """Start one rank, which writes what it says to the file ``said``."""
    me = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
    env = {**os.environ, **{name: str(value) for name, value in me.items()}}
    with said.open("wb") as heard:
        return subprocess.Popen(command, stdout=heard, stderr=heard, env=env)  # noqa: S603 - our own module


def _trouble(crew: Sequence[subprocess.Popen[bytes]], until: float, place: Path) -> str:
    """Wait for all ranks, and return a sentence if one failed or time ran out, else nothing."""
    began = time.perf_counter()
    while any(process.poll() is None for process in crew):
        if time.perf_counter() > until:
            return f"the collectives were not done after {time.perf_counter() - began:.0f} s"
        if any(process.poll() for process in crew):
            until = min(until, time.perf_counter() + GRACE_S)
            while any(process.poll() is None for process in crew) and time.perf_counter() < until:
                time.sleep(0.02)
            break
        time.sleep(0.02)
    codes = {rank: process.poll() for rank, process in enumerate(crew)}
    failed = [rank for rank, code in codes.items() if code]
    if not failed:
        return ""
    rank = min(failed, key=lambda rank: codes[rank] == LOST)  # who lost the others is not the one to blame
    said = [line for line in (place / f"rank{rank}.txt").read_text(errors="replace").splitlines() if line.strip()]
    code = codes[rank] or 0
    end = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"rank {rank} {end}" + (f" ({said[-1].strip()[:300]})" if said else "")

"""Run a sweep: ask, open the folder, finish what is missing, sum up."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bytebound.documents.fleet import Fleet, read_fleet
from bytebound.documents.values import to_json
from bytebound.errors import QuantityError
from bytebound.sweep import local, on_ray
from bytebound.sweep.folder import SUMMARY, opened, write_whole
from bytebound.sweep.request import PART_DRAWS, scenarios_of, sweep_of, text_of
from bytebound.sweep.summary import summary
from bytebound.sweep.table import libraries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bytebound.documents.sweep import SweepSummary

MOST_WORKERS = 10_000


def sweep_fleet(
    fleet: Fleet | str | Path,
    out: str | Path,
    *,
    months: int | None = None,
    draws: int = 10_000,
    seed: int = 0,
    plans: Iterable[str] = ("levers",),
    slip_months: Iterable[float] = (0.0,),
    memory_price: Iterable[float] = (1.0,),
    on: str | None = None,
    workers: int | None = None,
    resume: bool = False,
    part_draws: int = PART_DRAWS,
    progress: Callable[[int, int], None] | None = None,
) -> SweepSummary:
    """Audit a fleet under every plan and scenario, draw by draw, into Parquet files in ``out``.

    The draws are the audit's: plan ``as-is`` in scenario ``as planned`` starves with the probability that ``audit_fleet`` gives for the
    same seed, months and draws, and every plan sees the same draws. A part is written whole or not at all, so whatever is
    killed, ``resume`` goes on with what is missing. One process, many, or a cluster give the same files.

    Args:
        fleet: a Fleet, or the path of a fleet file (TOML).
        out: folder for ``sweep.json``, one file per part and ``summary.json``; new, empty, or of this sweep with ``resume``.
        months: horizon, else the fleet's own.
        draws: samples of growth, slip and model error.
        seed: of the random streams.
        plans: names such as ``fp8-weights+fp8-kv``, ``roadmap-device:b200-sxm`` or ``more-devices:16``, or ``levers``, ``pairs``.
        slip_months: delays of every roadmap addition, one or more; every combination with ``memory_price`` is a scenario.
        memory_price: factors on memory prices, one or more.
        on: a Ray cluster: ``HOST:PORT``, ``auto``, or ``local`` for one of this sweep's own; None: processes of this machine.
        workers: processes, or parts at once on Ray; default: this machine's processors, or twice the cluster's.
        resume: go on with what the folder lacks.
        part_draws: draws of a part.
        progress: called with (parts finished, parts) after each.

    Raises:
        RequestError: the fleet, a plan, an argument or the folder is wrong.
        UnfinishedError: a library is missing, no cluster answers, the disk is full, or a part lost its worker again and again.
    """
    libraries()
    place = "fleet" if isinstance(fleet, Fleet) else str(fleet)
    fleet = fleet if isinstance(fleet, Fleet) else read_fleet(Path(fleet))
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise QuantityError(f"--workers is {workers}, outside 1 … {MOST_WORKERS:,}", place="--workers")
    began = time.perf_counter()
    sweep = sweep_of(
        fleet, place=place, months=fleet.months if months is None else months, draws=draws, seed=seed, plans=plans,
        part_draws=part_draws, scenarios=scenarios_of(slip_months, memory_price),
    )  # fmt: skip
    folder = Path(out)
    missing = opened(folder, sweep, resume=resume)
    text, again = text_of(sweep.request), 0
    processes = workers or _processors()
    stream = (
        local.finished(text, sweep.sha256, missing, folder=folder, workers=min(processes, max(len(missing), 1)))
        if on is None
        else on_ray.finished(text, sweep.sha256, missing, folder=folder, address=on, workers=workers)
    )
    for done, finished in enumerate(stream, start=1 + len(sweep.parts) - len(missing)):
        again += finished.tries - 1
        if progress is not None:
            progress(done, len(sweep.parts))
    run = {
        "tool": sweep.request.tool, "file": Path(place).name, "on": f"Ray {on}" if on else f"{processes} processes",
        "parts run": str(len(missing)), "parts tried again": str(again), "seconds": f"{time.perf_counter() - began:.2f}",
    }  # fmt: skip
    found = summary(folder, sweep, run)
    write_whole(folder / SUMMARY, to_json(found).encode())
    return found


def _processors() -> int:
    """Return the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""How long an audit of a large fleet takes: 100 workloads × 18 months × 10,000 draws by default.

``python benchmarks/audit.py`` replicates the workloads of ``examples/fleet.toml`` under new names, grows its pools, roadmap and
limits by the same factor, audits the result, and prints seconds and peak memory. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound import audit_fleet, read_fleet

if TYPE_CHECKING:
    from bytebound import Audit, Fleet

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "fleet.toml"
BYTES_PER_MIB = 2**20


def replicated(fleet: Fleet, workloads: int) -> Fleet:
    """Return ``fleet`` with its workloads repeated up to ``workloads``, and everything they share grown alike."""
    factor = workloads / len(fleet.workload)
    copies = tuple(
        fleet.workload[i % len(fleet.workload)].model_copy(
            update={"name": f"{fleet.workload[i % len(fleet.workload)].name}-{i // len(fleet.workload) + 1}"}
        )
        for i in range(workloads)
    )

    def grown(count: int) -> int:
        return round(count * factor)

    pools = tuple(pool.model_copy(update={"count": max(1, grown(pool.count))}) for pool in fleet.pool)
    roadmap = tuple(
        event.model_copy(update={"add": grown(event.add), "retire": grown(event.retire)}) for event in fleet.roadmap
    )
    limits = fleet.limits.model_copy(
        update={
            name: None if (value := getattr(fleet.limits, name)) is None else value * factor
            for name in ("usd_per_month", "power")
        }
    )
    return fleet.model_copy(update={"workload": copies, "pool": pools, "roadmap": roadmap, "limits": limits})


def peak_bytes() -> int | None:
    """Return the peak resident memory of this process, None where the system does not tell."""
    if sys.platform == "win32":
        return None
    used: int = import_module("resource").getrusage(import_module("resource").RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def measure(fleet: Fleet, *, months: int, draws: int, rounds: int) -> dict[str, Any]:
    """Return seconds of every round, the first of them cold, and peak memory before and after."""
    before = peak_bytes()
    seconds: list[float] = []
    audit: Audit | None = None
    for _ in range(rounds):
        began = time.perf_counter()
        audit = audit_fleet(fleet, months=months, draws=draws)
        seconds.append(time.perf_counter() - began)
    return {
        "workloads": len(fleet.workload),
        "months": months,
        "draws": draws,
        "seconds": seconds,
        "peak_bytes_before": before,
        "peak_bytes": peak_bytes(),
        "fixes_tried": 0 if audit is None else sum(len(w.fixes) for w in audit.workloads),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the report."""
    seconds = found["seconds"]

    def mib(value: int | None) -> str:
        return "unknown" if value is None else f"{value / BYTES_PER_MIB:,.0f} MiB"

    row = (
        f"| {found['workloads']} | {found['months']} | {found['draws']:,} | {found['fixes_tried']:,} "
        f"| {statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f}) "
        f"| {mib(found['peak_bytes'])} ({mib(found['peak_bytes_before'])}) |"
    )
    ran = (
        f"{found['cores']} cores, load {found['load']} after; Python {found['python']}, NumPy {found['numpy']}; "
        f"{len(seconds)} rounds, the first one cold."
    )
    head = (
        "| workloads | months | draws | fixes tried | seconds: median (min–max) | peak memory (before) |\n"
        "|---:|---:|---:|---:|---:|---:|"
    )
    return f"{head}\n{row}\n\n{ran}"


def main() -> None:
    """Audit the large fleet, print how long it took."""
    parser = argparse.ArgumentParser(description="seconds and peak memory of a large audit")
    parser.add_argument("--workloads", type=int, default=100)
    parser.add_argument("--months", type=int, default=18)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    fleet = replicated(read_fleet(EXAMPLE), max(1, given.workloads))
    found = measure(fleet, months=given.months, draws=given.draws, rounds=max(1, given.rounds))
    print(json.dumps(found, indent=2) if given.json else markdown(found))


if __name__ == "__main__":
    main()

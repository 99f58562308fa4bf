"""Sweeps on several processes, and on a Ray cluster whose worker is killed midway: what was killed, tried again, and compared.

``python benchmarks/sweep.py`` prints Markdown, ``--json`` the same as JSON; ``--ray`` adds the cluster (needs Ray), ``--draws`` sizes the
question. Needs pyarrow, no network and no GPU. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.sweep import sweep_fleet

if TYPE_CHECKING:
    from collections.abc import Callable

FLEET = Path(__file__).parents[1] / "examples" / "fleet.toml"


def digest(folder: Path) -> str:
    """Return one SHA-256 over every part, name and bytes."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("part-*.parquet")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


def on_pool() -> list[int]:
    """Return the processes of our own pool."""
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def on_ray() -> list[int]:
    """Return the processes of this machine that run a part under Ray, which names them so (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::run_part"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def measured(
    name: str, folder: Path, *, draws: int, plans: list[str], victims: Callable[[], list[int]] | None = None, **how: Any
) -> dict[str, Any]:
    """Run the sweep into ``folder`` and return its row; with ``victims``, kill -9 one of them after every eighth of the parts, three times."""
    killed: list[int] = []

    def progress(done: int, parts: int) -> None:
        if (
            victims is not None
            and done % max(parts // 8, 1) == 0
            and done < parts
            and len(killed) < 3
            and (alive := victims())
        ):
            os.kill(alive[0], signal.SIGKILL)
            killed.append(alive[0])

    began, own = time.perf_counter(), time.process_time()
    found = sweep_fleet(FLEET, folder, draws=draws, plans=plans, progress=progress, **how)
    return {
        "run": name, "seconds": time.perf_counter() - began, "driver_cpu_s": time.process_time() - own, "rows": found.rows,
        "parts": found.parts, "killed": killed, "tried_again": int(found.run["parts tried again"]), "sha256": digest(folder),
    }  # fmt: skip


def main() -> None:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--plans", nargs="+", default=["levers"])
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        cases: list[tuple[str, dict[str, Any]]] = [
            ("1 process", {"workers": 1}),
            ("2 processes", {"workers": 2}),
            ("2 processes, workers killed", {"workers": 2, "victims": on_pool}),
        ]
        if asked.ray:
            cases += [("Ray, 2 workers", {"on": "local", "workers": 2})]
            cases += [("Ray, 2 workers, workers killed", {"on": "local", "workers": 2, "victims": on_ray})]
        rows = [
            measured(name, Path(base) / str(place), draws=asked.draws, plans=asked.plans, **how)
            for place, (name, how) in enumerate(cases)
        ]
    if asked.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"{rows[0]['rows']:,} rows in {rows[0]['parts']} parts, {asked.draws:,} draws, on {os.cpu_count()} processors\n"
    )
    print(
        "| run | seconds | speed-up | killed -9 | parts tried again | SHA-256 of all parts |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        pids = ", ".join(map(str, row["killed"])) or "–"
        faster = rows[0]["seconds"] / row["seconds"]
        print(
            f"| {row['run']} | {row['seconds']:.1f} | {faster:.2f} | {pids} | {row['tried_again']} | {row['sha256']} |"
        )
    same = len({row["sha256"] for row in rows}) == 1
    print(f"\nEvery run has the same bytes: {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()

"""Choose the training rows that ship: from every publication, device, precision and regime, few of each.

    python validation/choose_training_rows.py --truth FOLDER --out src/bytebound/facts/data/training_truth.csv

A run is chosen whole for memory, and with one number for its time. Order and choice depend on nothing but the rows.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bytebound.fitting.training import METRICS, one_per_run
from bytebound.truth.training import read_training_corpus
from bytebound.truth.training_table import write_training_table

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from bytebound.documents.train_truth import TrainTruth

RUNS = {
    "mosaicml-llm-foundry": 45, "megatron-bridge": 45, "bloom-tuning": 28, "simumax-b200": 16, "litgpt": 18, "peft": 5,
    "gpt2-v100": 10, "maxtext": 12,
}  # fmt: skip
"""Publication -> runs of it that ship; 8 of any other. Outcomes are on top: every run that ran out of memory, and as many again."""
OTHERS, OUTCOMES = 8, 16


def main(argv: list[str] | None = None) -> int:
    """Read, choose and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    rows, _ = read_training_corpus(given.truth)
    write_training_table(chosen(rows), given.out)
    return 0


def chosen(rows: Sequence[TrainTruth]) -> list[TrainTruth]:
    """Return the rows that ship, their notes left behind: what we assume stands in ``uncertain``."""
    outcomes = [row for row in rows if row.metric == "fits"]
    numbers = [row for row in rows if row.metric != "fits"]
    timed = {row.id for row in one_per_run(numbers)}
    numbers = [row for row in numbers if row.metric not in METRICS or row.id in timed]
    runs: dict[str, list[str]] = {}
    of = {row.run: row for row in numbers}
    for source in dict.fromkeys(row.source for row in numbers):
        named = list(dict.fromkeys(row.run for row in numbers if row.source == source))
        both = {r for r in named if sum(row.run == r for row in numbers) > 1}
        named.sort(
            key=lambda r: (r not in both, r)
        )  # runs with time and memory first, then in the order of their digests
        runs[source] = dealt(named, [regime(of[r]) for r in named], RUNS.get(source, OTHERS))
    kept = {run for each in runs.values() for run in each}
    failed = [row for row in outcomes if row.value == 0]
    held = dealt([r.id for r in outcomes if r.value == 1], [regime(r) for r in outcomes if r.value == 1], OUTCOMES)
    wanted = {row.id for row in numbers if row.run in kept} | {row.id for row in failed} | set(held)
    return [replace(row, notes="") for row in rows if row.id in wanted]


def regime(row: TrainTruth) -> Hashable:
    """Return what rows are spread over."""
    w = row.work
    return (
        row.device, w.precision, w.recompute, w.trainable, w.zero, w.tp > 1, w.pp > 1, w.cp > 1, w.ep > 1,
        row.shape.family or row.model, row.metric,
    )  # fmt: skip


def dealt(items: Sequence[str], strata: Sequence[Hashable], most: int) -> list[str]:
    """Return at most ``most`` items, one of every stratum in turn."""
    piles: dict[Hashable, list[str]] = {}
    for item, stratum in zip(items, strata, strict=True):
        piles.setdefault(stratum, []).append(item)
    found: list[str] = []
    while piles and len(found) < most:
        for stratum in list(piles):
            if len(found) < most:
                found.append(piles[stratum].pop(0))
            if not piles[stratum]:
                del piles[stratum]
    return found


if __name__ == "__main__":
    sys.exit(main())

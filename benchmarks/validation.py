"""How long a validation of many rows takes, beside asking for the same rows one at a time.

``python benchmarks/validation.py [--rows 30000]`` repeats the shipped rows with other batches and ids, validates them, and asks
``estimate`` for a sample of the same rows one by one in the same process. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from dataclasses import replace

import numpy as np

import bytebound as bb
from bytebound.fitting.cases import TIMED
from bytebound.truth import shipped_truth
from bytebound.validate.run import predicted, validate

ONE_BY_ONE = 100


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=30_000)
    count = parser.parse_args().rows
    rng = np.random.default_rng(0)
    base = [row for row in shipped_truth() if row.metric in TIMED]
    rows = [
        replace(row, id=f"{row.id}/{turn}", work=replace(row.work, batch=float(max(1, round(row.work.batch * scale)))))
        for turn in range(-(-count // len(base)))
        for row, scale in zip(base, rng.uniform(0.5, 1.5, len(base)), strict=True)
    ][:count]
    started = time.perf_counter()
    predicted(rows)
    answered = time.perf_counter() - started
    started = time.perf_counter()
    validate(rows)
    whole = time.perf_counter() - started
    few = [rows[i] for i in rng.choice(len(rows), ONE_BY_ONE, replace=False)]
    started = time.perf_counter()
    for row in few:
        bb.estimate(row.model, f"{row.devices}x {row.device}", row.work)
    single = (time.perf_counter() - started) / ONE_BY_ONE
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores\n")
    print("| what | seconds | rows/s |\n| --- | ---: | ---: |")
    print(f"| predictions of {count:,} measured rows | {answered:.1f} | {count / answered:,.0f} |")
    print(
        f"| the whole validation of them: groups, intervals, simple predictors, worst rows | {whole:.1f} | {count / whole:,.0f} |"
    )
    print(f"| `estimate`, one row a call | {single * count:.0f} (from {ONE_BY_ONE}) | {1 / single:,.0f} |")


if __name__ == "__main__":
    main()

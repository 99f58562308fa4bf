"""Fit what training attains to published runs: makes facts/data/training_shares.csv and shows every publication left out.

    python validation/training_fit.py FOLDER [--write] [--date 2026-11-21]

FOLDER holds the public layout of training runs (``truth.training.FILES``). Fits once to all publications and once without each of
them (the intervals come from those), two minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import bytebound.facts
from bytebound.facts.training_shares import format_training_offsets
from bytebound.fitting.training import cases, fit_training, one_per_run
from bytebound.fitting.training_left_out import half_widths, interval_factor, leave_publications_out, publication
from bytebound.truth.training import read_training_corpus

SOURCE = "step times of published training runs (docs/accuracy-training.md)"


def main() -> int:
    """Fit, show, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="write the table into the package")
    parser.add_argument("--date", default="2026-11-21")
    asked = parser.parse_args()
    rows, _ = read_training_corpus(asked.folder)
    found = cases(one_per_run(rows))
    fitted = fit_training(found, source=SOURCE, date=asked.date)
    left = leave_publications_out(found)
    inside = np.abs([one.error for one in left]) <= half_widths(left)
    seen = {
        row.id: float(error)
        for case in found
        for row, error in zip(case.rows, np.log(case.predicted_s(fitted) / case.measured_s), strict=True)
    }
    names = sorted({publication(one.row.source) for one in left})
    print("| publication | rows | left out: median | mean | bias | inside 80 % | seen: median | mean | bias |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    medians = []
    for name in [*names, ""]:
        at = [i for i, one in enumerate(left) if not name or publication(one.row.source) == name]
        out = np.array([left[i].error for i in at])
        own = np.array([seen[left[i].row.id] for i in at])
        cells = [
            f"{np.median(abs(np.expm1(e))):.1%} | {np.mean(abs(np.expm1(e))):.1%} | {np.expm1(np.median(e)):+.1%}"
            for e in (out, own)
        ]
        print(f"| {name or 'all rows'} | {len(at)} | {cells[0]} | {inside[at].mean():.0%} | {cells[1]} |")
        if name:
            medians.append(np.median(abs(np.expm1(out))))
    print(f"mean of the publications' medians, left out: {np.mean(medians):.1%}")
    table = {**fitted, **interval_factor(left, source="left-out residuals of " + SOURCE, date=asked.date)}
    text = format_training_offsets(table)
    if asked.write:
        (Path(bytebound.facts.__path__[0]) / "data" / "training_shares.csv").write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

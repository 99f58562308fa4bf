"""Predicted beside published memory and energy: KV cache capacities, and resident bytes and joules of files in the public layout.

Run from the repository root:

    python validation/memory.py                    # validation/kv_tokens.csv -> validation/memory.csv and the tables of memory.md
    python validation/memory.py CORPUS_FILE...     # the errors of resident bytes and energy too, and facts/data/memory_spreads.csv
"""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytebound.facts.reserves import find_reserve
from bytebound.truth import read_corpus, read_truth
from bytebound.validate.held import held, resides, setting_of, state

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bytebound.documents.truth import Truth

HERE = Path(__file__).parent
SPREADS = HERE.parent / "src" / "bytebound" / "facts" / "data" / "memory_spreads.csv"
SHARE = 0.8
"""Share of measured rows an interval is to hold."""
OWN_ROWS = 4
"""Rows from which an engine has an interval of its own: fewer have no bound that holds 80 % of new rows."""
MANY_ROWS = 30
"""Rows from which a half-width is believed to some degree."""
ASSUMED_WEIGHTS = "bits of a format are known to 1 or 2 %, and files of tied models may store the head twice"
Residuals = dict[str, list[float]]


def left_out(row: Truth, rows: Sequence[Truth]) -> float:
    """Return the context that the publications other than ``row``'s give its engine and versions [B].

    Without another publication of those versions, the nearest other versions of the engine give it.
    """
    kept = find_reserve(row.engine, row.engine_version)
    others = [each for each in rows if each.engine == row.engine and each.source != row.source]
    same = [each for each in others if find_reserve(each.engine, each.engine_version) == kept]
    return float(np.median([implied_context(each) for each in same or others]))


def implied_context(row: Truth) -> float:
    """Return the context that would make the prediction of ``row`` exact [B], at least 0."""
    setting = setting_of(row)
    low, high = 0.0, 2e10
    for _ in range(40):
        middle = (low + high) / 2
        overheads = replace(setting.overheads, reserve_bytes=middle)
        tokens = float(resides([row], replace(setting, overheads=overheads)).max_kv_tokens[0])
        low, high = (middle, high) if tokens > row.value else (low, middle)
    return (low + high) / 2


def error(predicted: float, measured: float) -> float:
    """Return the absolute log error, 2 where nothing is predicted to fit."""
    return abs(float(np.log(predicted / measured))) if predicted > 0 else 2.0


def table(groups: Iterable[tuple[str, Sequence[float]]]) -> str:
    """Return a Markdown table of errors by group."""
    lines = ["| group | rows | median | 90 % |", "|---|---|---|---|"]
    for name, errors in groups:
        if errors:
            lines.append(f"| {name} | {len(errors)} | {np.median(errors):.1%} | {np.quantile(errors, 0.9):.0%} |")
    return "\n".join(lines)


def capacities() -> Residuals:
    """Write ``memory.csv``, print the tables of KV tokens, return the errors by engine with one publication left out."""
    rows = read_truth(HERE / "kv_tokens.csv")
    found: list[tuple[Truth, float, float, float, float]] = []
    for row in rows:
        tokens = float(resides([row], setting_of(row)).max_kv_tokens[0])
        other = float(resides([row], setting_of(row, left_out(row, rows))).max_kv_tokens[0])
        found.append((row, tokens, other, error(tokens, row.value), error(other, row.value)))
    with (HERE / "memory.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            ("id", "source", "half", "engine", "engine_version", "device", "model", "measured_tokens",
             "predicted_tokens", "left_out_tokens")
        )  # fmt: skip
        for row, tokens, other, *_ in found:
            cells = (row.id, row.source, state(row)["half"], row.engine, row.engine_version, row.device, row.model)
            writer.writerow((*cells, int(row.value), int(tokens), int(other)))

    for title, last in (("as shipped", False), ("leave one publication out", True)):
        errors: Residuals = {}
        for row, *_, shipped, left in found:
            for name in ("all", f"{state(row)['half']} half", row.engine):
                errors.setdefault(name, []).append(left if last else shipped)
        print(f"\nKV tokens, {title}\n\n{table(errors.items())}")
    return {engine: errors[engine] for engine in sorted({row.engine for row in rows})}


def measured(paths: Sequence[str], metric: str) -> Residuals:
    """Print the errors of ``metric`` in public files by source, device and engine, and return them by engine."""
    rows = [row for path in paths for row in read_corpus(path).rows if row.metric == metric]
    errors: Residuals = {}
    engines: Residuals = {}
    for row, predicted in zip(rows, held(rows)[0], strict=True):
        if np.isnan(predicted):
            continue
        for name in ("all", f"{row.source}, {row.engine}", f"{row.source}, {row.device}"):
            errors.setdefault(name, []).append(error(predicted, row.value))
        engines.setdefault(row.engine, []).append(error(predicted, row.value))
    print(f"\n{metric}\n\n{table(sorted(errors.items()))}")
    return engines


def half_width(groups: Sequence[Sequence[float]]) -> float:
    """Return the half-width that holds ``SHARE`` of new rows, groups counting alike.

    Source: split conformal prediction, the ``⌈(n + 1) share⌉``-th smallest of n residuals (Vovk et al. 2005).
    """
    values = np.concatenate([np.asarray(group) for group in groups])
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups])
    rank = min(ceil((len(values) + 1) * SHARE) / len(values), 1.0)
    return float(np.quantile(values, rank, weights=weights, method="inverted_cdf"))


def write_spreads(found: dict[str, tuple[Residuals, str]], when: str) -> None:
    """Write the half-widths of every metric, by engine and for all engines alike (``*``)."""
    with SPREADS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(
            ("metric", "engine", "log_half_width_ratio", "rows_count", "how", "confidence", "source", "date")
        )
        for metric, (engines, source) in found.items():
            own = [(engine, [errors]) for engine, errors in sorted(engines.items()) if len(errors) >= OWN_ROWS]
            for engine, groups in [("*", list(engines.values())), *own]:
                rows = sum(map(len, groups))
                sure = "medium" if rows >= MANY_ROWS else "low"
                cells = (metric, engine, f"{half_width(groups):.4g}", rows, "derived", sure, source, when)
                writer.writerow(cells)
        writer.writerow(("weights_bytes", "*", 0.03, "", "assumed", "low", ASSUMED_WEIGHTS, when))


if __name__ == "__main__":
    tokens = capacities()
    files = sys.argv[1:]
    if files:
        write_spreads(
            {
                "kv_tokens": (tokens, "validation/kv_tokens.csv: predictions with the row's own publication left out"),
                "resident_bytes": (
                    measured(files, "resident_bytes"),
                    "Qwen speed benchmark, AutoAWQ, premAI, Rockchip RKLLM: printed peaks (validation/memory.md)",
                ),
                "joules_per_token": (
                    measured(files, "joules_per_token"),
                    "ml-energy/leaderboard@0cd52dab897c (ML.ENERGY v3, H100 and B200)",
                ),
            },
            "2026-11-21",
        )

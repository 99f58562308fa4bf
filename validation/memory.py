"""Predicted beside published memory: KV cache capacities, and resident bytes of a file in the public corpus layout.

Run from the repository root:

    python validation/memory.py                 # validation/kv_tokens.csv -> validation/memory.csv and the tables of memory.md
    python validation/memory.py MEMORY_FILE     # the errors of resident bytes too
"""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bytebound.facts.reserves import find_reserve
from bytebound.predict.answers import run
from bytebound.predict.estimate import Setting, settle
from bytebound.truth import read_corpus, read_truth

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bytebound.documents.truth import Truth
    from bytebound.predict.prediction import Residence

HERE = Path(__file__).parent
ALLOCATED = {"qwen_speed_benchmark", "autoawq"}
"""Sources that print what PyTorch allocated: the context of the device is not in their figures."""


def state(row: Truth) -> dict[str, str]:
    """Return what a row's notes say of the engine: share, max_seqs, max_len, half."""
    return dict(re.findall(r"(\w+)=([\w.]+)", row.notes.split("; ")[0]))


def setting_of(row: Truth, context_bytes: float | None = None) -> Setting:
    """Return the deployment of ``row``, at the share it states and with another context where one is given."""
    found = settle(row.model, f"{row.devices}x {row.device}", row.engine, version=row.engine_version)
    overheads = found.overheads
    if "share" in state(row):
        overheads = replace(overheads, memory_share=float(state(row)["share"]))
    if context_bytes is not None:
        overheads = replace(overheads, reserve_bytes=context_bytes)
    return replace(found, overheads=overheads)


def resides(row: Truth, setting: Setting) -> Residence:
    """Return what is resident on one device of ``row``."""
    kept = find_reserve(row.engine, row.engine_version)
    stated = int(state(row).get("max_seqs", setting.profiled)) if kept.sequences else 0
    return run(
        setting.table, row.work, setting.ceilings, setting.overheads, dtype=setting.architecture.dtype,
        engine_chunk=setting.chunk, profiled=stated,
    ).residence  # fmt: skip


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
        tokens = float(resides(row, replace(setting, overheads=overheads)).max_kv_tokens[0])
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


def capacities() -> None:
    """Write ``memory.csv`` and print the tables of KV tokens."""
    rows = read_truth(HERE / "kv_tokens.csv")
    found: list[tuple[Truth, float, float, float, float]] = []
    for row in rows:
        setting = setting_of(row)
        tokens = float(resides(row, setting).max_kv_tokens[0])
        other = float(resides(row, setting_of(row, left_out(row, rows))).max_kv_tokens[0])
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
        errors: dict[str, list[float]] = {}
        for row, *_, shipped, left in found:
            for name in ("all", f"{state(row)['half']} half", row.engine):
                errors.setdefault(name, []).append(left if last else shipped)
        print(f"\nKV tokens, {title}\n\n{table(errors.items())}")


def resident(path: str) -> None:
    """Print the errors of resident bytes, by source and engine."""
    errors: dict[str, list[float]] = {}
    for row in read_corpus(path).rows:
        if row.metric != "resident_bytes":
            continue
        held = resides(row, setting_of(row))
        context = 0.0 if row.source in ALLOCATED else held.reserve
        parts = float(np.max(row.work.pp)) * float(np.max(row.work.tp))
        total = float((held.weights + held.kv + held.activations + context)[0]) * parts
        errors.setdefault("all", []).append(error(total, row.value))
        errors.setdefault(f"{row.source}, {row.engine}", []).append(error(total, row.value))
    print(f"\nResident bytes\n\n{table(sorted(errors.items()))}")


if __name__ == "__main__":
    capacities()
    for name in sys.argv[1:]:
        resident(name)

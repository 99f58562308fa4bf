"""Check the model reader against a folder of published configs and an index of their parameter counts.

    python validation/models.py FOLDER [--json] [--write RECORDS]

The index (``index.csv``) has one row per config with its published and computed counts. A row is *exact* when a count
agrees to the unit, *close* within 0.5 % or when a rounded headline agrees at its own rounding, else *worse*.
``--write`` makes the bundled catalogue from the folder instead.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from bytebound.documents.architecture import Architecture, Linear
from bytebound.errors import ByteboundError
from bytebound.facts.formats import find_format
from bytebound.models.catalogue import make_record, write_record
from bytebound.models.config import parse, read_config, read_text

CLOSE = 0.005
"""Largest relative difference of a close count."""

SCALARS = {"fp8-tensor": 2, "nvfp4": 2}
"""Scalars such a checkpoint stores beside each quantized matrix."""


def stored_values(architecture: Architecture, *, packed: bool) -> int:
    """Return the number of values a checkpoint's files hold, scales too.

    Args:
        architecture: the model.
        packed: two 4-bit values in a byte count as one, as files that store bytes are counted.
    """
    total = 0
    for tensor in architecture.tensors(draft=True):
        if tensor.tied:
            continue
        form = find_format(tensor.stored)
        values = tensor.elements // 2 if packed and form.value_bits == 4 else tensor.elements
        if form.block_rows:
            across = math.ceil(tensor.shape[-1] / form.block_cols) if form.block_cols else 1
            values += math.ceil(tensor.elements // tensor.shape[-1] / form.block_rows) * across
        values += SCALARS.get(tensor.stored, 0)
        total += values * tensor.copies
    return total


def balance_values(architecture: Architecture) -> int:
    """Return the values of the balance vectors that routers keep as buffers, one per expert."""
    return sum(
        operator.outputs * block.repeat
        for _, block, operator in architecture.operators(draft=True)
        if isinstance(operator, Linear) and operator.role == "router" and operator.outputs > 1
    )


def counts(architecture: Architecture) -> dict[str, int]:
    """Return every way to count a model, by name."""
    stored, loose = stored_values(architecture, packed=True), stored_values(architecture, packed=False)
    balance = balance_values(architecture)
    checkpoint = architecture.checkpoint_parameters
    return {
        "unique": architecture.parameters,
        "tied twice": architecture.parameters_tied_twice,
        "checkpoint": checkpoint,
        "checkpoint + balance vectors": checkpoint + balance,
        "checkpoint + scales": stored,
        "checkpoint + scales + balance vectors": stored + balance,
        "checkpoint + scales, unpacked": loose,
    }


def agrees_rounded(value: int, headline: int) -> bool:
    """Tell whether ``value`` rounds to ``headline`` at the headline's own last digit."""
    unit = int(10 ** (len(str(headline)) - len(str(headline).rstrip("0"))))
    return abs(value - headline) <= unit / 2


def cut(value: int, headline: int) -> int:
    """Return ``value`` cut at the last digit of a headline, as names like A3B cut."""
    unit = int(10 ** (len(str(headline)) - len(str(headline).rstrip("0"))))
    return value // unit * unit


def judge(found: dict[str, int], published: int, computed: int, *, rounded: bool) -> tuple[str, str]:
    """Return the verdict on a total and what agreed."""
    if computed and found["unique"] == computed:
        return "exact", "computed, unique"
    exact = next((name for name, value in found.items() if published and value == published), "")
    if exact:
        return "exact", f"published, {exact}"
    if published and rounded and any(agrees_rounded(value, published) for value in found.values()):
        return "close", "headline, as rounded"
    wanted = published or computed
    if not wanted:
        return "nothing to compare", ""
    name, value = min(found.items(), key=lambda item: abs(item[1] - wanted))
    off = value / wanted - 1
    return ("close" if abs(off) <= CLOSE else "worse"), f"{name} {off:+.3%}"


def judge_published(found: dict[str, int], published: int, *, rounded: bool) -> str:
    """Return which way of counting gives the published total, and how closely."""
    if not published:
        return ""
    name, value = min(found.items(), key=lambda item: abs(item[1] - published))
    if value == published:
        return f"{name} exactly"
    if rounded and agrees_rounded(value, published):
        return f"{name} as rounded"
    return f"{name} {value / published - 1:+.4%}"


def judge_active(active: int, embedding: int, published: int) -> tuple[str, str]:
    """Return the verdict on an active count, which names may give with or without the embedding table."""
    if not published:
        return "nothing to compare", ""
    for name, value in (("active", active), ("active without embedding", active - embedding)):
        if agrees_rounded(value, published) or cut(value, published) == published:
            return "close", f"{name}, as rounded or cut"
    return "worse", f"{active / published - 1:+.1%}"


def check(path: Path, row: dict[str, str]) -> dict[str, Any]:
    """Return one row's verdicts."""
    result: dict[str, Any] = {"model": row["model"], "family": row["model_type"]}
    try:
        architecture = read_config(path, name=row["model"])
    except ByteboundError as error:
        return result | {"total": "unreadable", "why": str(error), "active": "unreadable"}
    published, computed = int(row["published_params_total"] or 0), int(row["computed_unique"] or 0)
    rounded = row["total_kind"].startswith("headline")
    found = counts(architecture)
    total, why = judge(found, published, computed, rounded=rounded)
    embedding = sum(
        tensor.elements * tensor.copies
        for tensor in architecture.tensors(draft=False)
        if "embed" in tensor.name and len(tensor.shape) == 2
    )
    active, reason = judge_active(architecture.active_parameters, embedding, int(row["published_params_active"] or 0))
    return result | {
        "counts": found,
        "published": published,
        "computed": computed,
        "total": total,
        "why": why,
        "published_agrees": judge_published(found, published, rounded=rounded),
        "active_parameters": architecture.active_parameters,
        "active": active,
        "active_why": reason,
        "notes": architecture.notes,
    }


def rows_of(folder: Path) -> list[tuple[Path, dict[str, str]]]:
    """Return the index's rows whose config is in the folder."""
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = [(folder / row["file"], row) for row in csv.DictReader(file)]
    return [(path, row) for path, row in rows if path.is_file()]


def write(folder: Path, target: Path) -> None:
    """Write the catalogue of the folder's readable configs, sorted by id."""
    lines = {}
    for path, row in rows_of(folder):
        try:
            values = parse(read_text(path), str(path))
            lines[row["model"]] = write_record(make_record(values, id=row["model"], counts=row))
        except ByteboundError as error:
            print(f"left out {row['model']}: {error}", file=sys.stderr)
    target.write_text("".join(f"{lines[name]}\n" for name in sorted(lines)), encoding="utf-8")
    print(f"{len(lines)} records in {target}")


def main() -> int:
    """Run the check; the exit status is 1 when a row is worse or unreadable."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if options.write:
        write(options.folder, options.write)
        return 0
    results = [check(path, row) for path, row in rows_of(options.folder)]
    totals = Counter(result["total"] for result in results)
    actives = Counter(result["active"] for result in results)
    if options.json:
        print(json.dumps({"rows": results, "totals": totals, "active": actives}, indent=1))
    else:
        for result in results:
            print(
                f"{result['total']:<19} {result['model']:<55} {result['why']:<28} | {result.get('published_agrees', ''):<45}"
                f" | active {result['active']} {result.get('active_why', '')}"
            )
        print(f"\ntotal:  {dict(totals)}\nactive: {dict(actives)}")
    return 1 if totals["worse"] or totals["unreadable"] else 0


if __name__ == "__main__":
    raise SystemExit(main())

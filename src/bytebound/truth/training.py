"""Training truth: read the public layout of training runs (time, memory, fits or not) into ``TrainTruth``."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2s
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.documents.train_truth import TrainTruth
from bytebound.documents.work import Train
from bytebound.errors import DocumentError, RequestError
from bytebound.facts.devices import devices
from bytebound.facts.tables import read_bounded
from bytebound.truth.names import device_of
from bytebound.truth.readings import Inexpressible
from bytebound.truth.table import LARGEST_FILE, read_rows
from bytebound.truth.training_models import architecture_of, shape_of
from bytebound.truth.training_plans import plan_of
from bytebound.truth.training_sources import GIB, SOURCES
from bytebound.truth.training_table import read_training_table, shipped_training_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.truth.training_sources import Practice

FILES = ("training_calibrate.csv", "training_fit_calibrate.csv")
SHARED = (
    "source", "citation_locator", "model", "params_b", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq", "global_batch",
    "micro_batch", "hardware", "n_gpus", "tp", "pp", "dp", "cp", "ep", "zero_stage", "precision", "recompute",
)  # fmt: skip
MEASURED = (*SHARED, "metric", "value", "unit", "notes")
OUTCOMES = (*SHARED, "outcome", "notes")
"""Columns of the two layouts: runs with a measured number, and runs that fitted or did not."""

METRICS: Mapping[str, tuple[str, str, float]] = {
    "step_time_s": ("step_s", "s", 1.0),
    "tokens_per_s_per_gpu": ("tokens_per_s_per_device", "tokens/s/device", 1.0),
    "tflops_per_gpu": ("flop_per_s_per_device", "TFLOP/s/device", 1e12),
    "mfu": ("mfu", "percent", 0.01),
    "peak_memory_gib": ("", "GiB", GIB),
}
"""Printed metric -> ours (memory: what the publication counts), its unit and the factor to SI."""

REASONS = (
    "a formula's value, not a measurement",
    "publication not known",
    "model shape not known",
    "multi-token prediction layers are trained",
    "device not in the catalogue",
    "sequence length not stated",
    "batch not stated",
    "devices or degrees not stated",
    "degrees do not multiply out to the devices",
    "what is recomputed has no word in a request",
    "the adapter has no word in a request",
    "the global batch is no multiple of the micro-batches",
    "fewer bytes than weights, gradients and moments take",
    "out of memory by fragmentation alone, which the allocator's setting decides",
    "cells do not fit their columns",
)
"""Every reason a row is left out for; a closed set, so that they can be counted."""

RESERVED = re.compile(r"real max reserved ([\d.]+) GiB")
CORPUS = re.compile(r" ?\((search pages|issues) corpus\)")
FRAGMENTED = re.compile(r"fragmentation", re.IGNORECASE)


def read_training_corpus(path: str | Path) -> tuple[tuple[TrainTruth, ...], Counter[str]]:
    """Return the rows of the public layout of training runs in our vocabulary, and why others are not.

    A row that states a second number of its run in its notes (the reserved bytes beside the allocated ones) gives two.

    Args:
        path: a CSV file with the columns ``MEASURED`` or ``OUTCOMES``, or a folder that holds ``FILES`` (one is enough).

    Returns:
        The rows, and how many lines each of ``REASONS`` kept out; every line is in one of them.

    Raises:
        DocumentError: no such file, not CSV, or a column is missing; carries ``file:line``.
    """
    place = Path(path)
    if not place.is_dir():
        return _read_file(place)
    found = [place / name for name in FILES if (place / name).is_file()]
    if not found:
        raise DocumentError(
            "the folder has no training truth", place=str(path), mend=f"it should hold {' or '.join(FILES)}"
        )
    rows: list[TrainTruth] = []
    left: Counter[str] = Counter()
    for file in found:
        more, reasons = _read_file(file)
        rows += more
        left += reasons
    return tuple(rows), left


def formula_rows(path: str | Path) -> tuple[tuple[str, float], ...]:
    """Return what the layout holds that a formula gave, not a device: (model and recomputation, activation bytes of a device).

    Korthikanti 2022 (arXiv 2205.05198) figure 1; tests compare formulas with it.

    Raises:
        DocumentError: the file cannot be read.
    """
    _, found = read_rows(read_bounded(Path(path), LARGEST_FILE), str(path))
    return tuple(
        (f"{cells['model']} {cells['recompute']}", float(cells["value"]) * GIB)
        for _, cells in found
        if cells.get("metric") == "activation_memory_gib"
    )


def has_training_layout(path: str | Path) -> bool:
    """Tell whether a file is of the public layout of training runs (a folder always is), not our own table."""
    place = Path(path)
    if place.is_dir():
        return True
    header, _ = read_rows(read_bounded(place, LARGEST_FILE), str(path))
    return "citation_locator" in header


def read_any_training(path: str | Path) -> tuple[tuple[TrainTruth, ...], Counter[str]]:
    """Return the rows of a file of either layout, told apart by its header, or of a folder of the public one.

    Raises:
        DocumentError: the file cannot be read or is of neither layout.
    """
    return read_training_corpus(path) if has_training_layout(path) else (read_training_table(path), Counter())


def shipped_training_truth() -> tuple[TrainTruth, ...]:
    """Return the rows that ship with this package, so that ``validate --training`` works without a file."""
    return shipped_training_table()


def _read_file(path: Path) -> tuple[tuple[TrainTruth, ...], Counter[str]]:
    header, found = read_rows(read_bounded(path, LARGEST_FILE), str(path))
    wanted = OUTCOMES if "outcome" in header else MEASURED
    missing = [name for name in wanted if name not in header]
    if missing:
        mend = f"this layout has the columns {', '.join(wanted)}"
        raise DocumentError(f"the column {missing[0]!r} is missing", place=f"{path}:1", mend=mend)
    rows: list[TrainTruth] = []
    left: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for _, cells in found:
        try:
            read = express(cells)
        except Inexpressible as why:
            left[why.reason] += 1
            continue
        for row in read:
            seen[row.id] += 1
            rows.append(row if seen[row.id] == 1 else replace(row, id=f"{row.id}-{seen[row.id]}"))
    return tuple(rows), left


def express(cells: Mapping[str, str]) -> tuple[TrainTruth, ...]:
    """Return one line of the layout as one TrainTruth, or two where its notes state a second number.

    Raises:
        Inexpressible: it cannot be said in our vocabulary; carries one of ``REASONS``.
    """
    if cells["source"] not in SOURCES:
        raise Inexpressible("publication not known", cells["source"])
    practice = SOURCES[cells["source"]]
    if cells.get("metric") == "activation_memory_gib" or "formula" in practice.key:
        raise Inexpressible("a formula's value, not a measurement", cells["source"])
    metric, value = _number(cells, practice)
    try:
        return _rows(cells, practice, metric, value)
    except (RequestError, ValueError, OverflowError, KeyError, ZeroDivisionError) as error:
        raise Inexpressible("cells do not fit their columns", str(error)) from None


def _rows(cells: Mapping[str, str], practice: Practice, metric: str, value: float) -> tuple[TrainTruth, ...]:
    shape, of_model = shape_of(cells)
    device, per_node, of_device = _device(cells)
    plan, of_plan = plan_of(cells, practice, metric, architecture_of(shape))
    devices_used = plan["tp"] * plan["pp"] * plan["dp"] * plan["cp"]
    _refuse_impossible(plan, metric, value, architecture_of(shape).parameters, device)
    run = f"{practice.key}-{_digest(cells)}"
    row = TrainTruth(
        id=f"{run}-{metric}", run=run, source=practice.key, locator=CORPUS.sub("", cells["citation_locator"]), model=shape.model,
        architecture=architecture_of(shape), device=device, devices=devices_used, metric=metric, value=value,
        work=_train(tuple(sorted(plan.items()))), per_node=per_node,
        basis=practice.basis if metric in {"flop_per_s_per_device", "mfu"} else "", trust=practice.trust,
        uncertain=(*practice.uncertain, *of_model, *of_device, *of_plan), notes=cells["notes"], licence=practice.licence, shape=shape,
    )  # fmt: skip
    reserved = RESERVED.search(cells["notes"]) if metric == "allocated_bytes" else None
    if not reserved:
        return (row,)
    also = replace(row, id=f"{run}-reserved_bytes", metric="reserved_bytes", value=float(reserved[1]) * GIB)
    return (row, also)


def _refuse_impossible(plan: Mapping[str, Any], metric: str, value: float, parameters: int, device: str) -> None:
    """Raise for unsharded full training whose bytes are fewer than weights, gradients and two moments of two bytes each.

    Such rows trained with another optimizer than they say, or were measured before its first step.
    """
    whole = plan["tp"] * plan["pp"] * plan["dp"] == 1 and plan.get("trainable", "full") == "full"
    states = 8.0 * parameters
    held = value if metric.endswith("_bytes") else devices()[device].memory_bytes if value == 1 else None
    if (
        whole
        and metric in {"fits", "allocated_bytes", "reserved_bytes", "device_bytes"}
        and held is not None
        and held < states
    ):
        raise Inexpressible("fewer bytes than weights, gradients and moments take", f"{held:g} < {states:g}")


def _number(cells: Mapping[str, str], practice: Practice) -> tuple[str, float]:
    """Return our metric and the value in SI units.

    Raises:
        Inexpressible: a metric or unit of another layout, or not a positive number.
    """
    if "outcome" in cells:
        if FRAGMENTED.search(cells["outcome"]):
            raise Inexpressible(
                "out of memory by fragmentation alone, which the allocator's setting decides",
                cells["notes"],
            )
        if cells["outcome"] not in {"fits", "OOM"}:
            raise Inexpressible("cells do not fit their columns", cells["outcome"])
        return "fits", float(cells["outcome"] == "fits")
    if cells["metric"] not in METRICS or cells["unit"] != METRICS[cells["metric"]][1]:
        raise Inexpressible("cells do not fit their columns", f"{cells['metric']} in {cells['unit']}")
    metric, _, factor = METRICS[cells["metric"]]
    try:
        value = float(cells["value"])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise Inexpressible("cells do not fit their columns", cells["value"])
    return (metric, value * factor) if metric else (practice.memory, value * practice.memory_unit)


def _device(cells: Mapping[str, str]) -> tuple[str, int, tuple[str, ...]]:
    """Return our device, how many of them share the fast links, and what was assumed.

    A DGX has 8; an NVL72 rack's 72 share NVLink, though 4 sit in a tray; Jean Zay's V100 nodes have 4, its A100 ones 8; a TPU
    slice is one domain; A10G instances have up to 4 over PCIe (g5.12xlarge).
    """
    printed = cells["hardware"]
    text = re.sub(r"\(.*?\)|^DGX-|\b8x\b", " ", printed).replace("_", " ").strip()
    said: tuple[str, ...] = ()
    if text.lower().startswith("a100") and "40" not in text and "80" not in text:
        text = "A100 80GB"
    if printed == "V100":
        # Source: experiments/gpt2.md: the first table (lines 73 to 77) is of 16 GB nodes, all others of 32 GB ones.
        line = int(found[1]) if (found := re.search(r"#L(\d+)$", cells["citation_locator"])) else 0
        text = "V100 16GB" if 0 < line <= 77 else "V100 32GB"
    if printed in {"H100", "B200"}:
        said = (f"{printed} as SXM",)
    device, _ = device_of(text)
    domain = 4 if printed == "V100" or "A10G" in printed else max(devices()[device].scaleup_devices_count or 1, 1)
    return device, domain, said


@lru_cache(maxsize=4096)
def _train(fields: tuple[tuple[str, Any], ...]) -> Train:
    return Train(**dict(fields))


def _digest(cells: Mapping[str, str]) -> str:
    """Return eight letters that name a run: its publication, place and whole configuration."""
    return blake2s("|".join(cells[name] for name in SHARED).encode(), digest_size=4).hexdigest()

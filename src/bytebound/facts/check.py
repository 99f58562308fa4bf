"""Look for what could be wrong in our tables: units, ranges, references, sources. Run by the tests and by CI."""

from __future__ import annotations

import math
import re
from importlib.resources import files
from typing import TYPE_CHECKING

from bytebound.errors import ByteboundError
from bytebound.facts.catalogue import built_in
from bytebound.facts.efficiency import OPERATORS, efficiency, families
from bytebound.facts.engines import engines
from bytebound.facts.levers import CARDS, EFFECTS, ENGINES, QUALITY, lever_problems
from bytebound.facts.prices import purchases
from bytebound.facts.roadmap import HORIZON, all_events, dram_quarters
from bytebound.facts.rows import DTYPES, parse_date
from bytebound.facts.tables import read_table
from bytebound.facts.trends import trends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bytebound.facts.rows import DeviceRow

UNIT_ENDINGS = (
    "_bytes", "_bytes_per_s", "_bytes_per_s_per_direction", "_flop", "_flop_per_s", "_op_per_s", "_bit_per_s",
    "_transfer_per_s", "_bits", "_w", "_usd", "_usd_low", "_usd_high", "_usd_per_device_hour", "_ratio", "_share",
    "_count", "_tokens", "_s_per_step", "_s_per_request", "_s",
)  # fmt: skip
UNIT_ELSEWHERE = {"efficiency.csv": {"value", "low", "high"}}
"""Columns whose unit another column of the row names: in efficiency.csv, ``quantity``."""

NO_NUMBERS = {"date", "released", "until", "name", "alias", "version"}

NO_HOW = {"device_aliases.csv", "families.csv", "trend_series.csv"}
"""Tables of names, not of measured or cited numbers."""

FITTED = {
    "calibration.csv": ("offset", "sd", "rows"), "training_shares.csv": ("offset", "sd", "rows"), "intervals.csv": ("value", "rows"),
}  # fmt: skip
"""Tables that a fit wrote -> their columns of numbers, all in logarithms or log-odds but the count of rows."""

OWN_CHECKS = {"formats.csv", "truth.csv", "training_truth.csv", CARDS, ENGINES, QUALITY, EFFECTS, *FITTED}
"""Tables with units of their own kind: bits of a format, measured rows and levers, whose readers check each cell, and what was fitted."""

BANDWIDTH_BYTES_PER_S = (
    (r"SRAM|wafer", 1e12, 1e17),
    (r"HBM4|NVHBM", 4e12, 4e13),
    (r"HBM3", 8e11, 1e13),
    (r"HBM[12]|MCDRAM", 3e11, 4e12),
    (r"HBM", 3e11, 4e13),  # generation not stated
    (r"HiBL|HiZQ", 5e11, 2e13),
    (r"GDDR[67]", 1e11, 2.5e12),
    (r"GDDR", 1e10, 6e11),
    (r"LPDDR", 5e9, 1.4e12),
    (r"MRDIMM|DDR|SDRAM", 5e8, 2e12),
)
"""Memory type -> the least and most bandwidth of one device with it [B/s]."""

MOST_OVER_BF16 = {"fp8": 4.5, "int8": 4.5, "fp4": 9.0, "int4": 9.0}
"""Dense rate as a multiple of bf16 or fp16: 2 per halving of the width, 4 on parts that favour low precision."""

MOST_OPERATIONS_PER_BYTE = 30_000  # the largest known is a part that computes from SRAM beside slow DRAM

OVER_BF16_KNOWN = {
    "tpu-8i": "bf16 is an eighth of fp8 in the maker's own table",
    "mi455x": "the bf16 rate is a tool's constant",
    "tpu-v1": "has no bf16",
}


def check_facts() -> list[str]:
    """Return every problem found in our tables, one sentence each; an empty list is the aim."""
    problems: list[str] = []
    for check in _CHECKS:
        try:
            problems.extend(check())
        except (ByteboundError, ValueError, KeyError) as error:
            problems.append(f"{check.__name__.strip('_')}: {error}")
    return problems


def tables() -> list[str]:
    """Return the names of our CSV tables, less those of ``OWN_CHECKS``."""
    folder = files("bytebound.facts") / "data"
    return sorted(item.name for item in folder.iterdir() if item.name.endswith(".csv") and item.name not in OWN_CHECKS)


def _columns() -> Iterator[str]:
    for name in tables():
        rows = read_table(name)
        if not rows:
            yield f"{name}: empty"
            continue
        for column in rows[0][1]:
            numeric = [cells[column] for _, cells in rows if _is_number(cells[column])]
            filled = [cells[column] for _, cells in rows if cells[column]]
            if column in UNIT_ELSEWHERE.get(name, set()) | NO_NUMBERS:
                continue
            if filled and len(numeric) == len(filled) and not f"_{column}".endswith(UNIT_ENDINGS):
                yield f"{name}: column {column} holds numbers and names no unit"


def _rows() -> Iterator[str]:
    for name in tables():
        for line, cells in read_table(name):
            place = f"{name}:{line}"
            if not cells.get("source", "-" if name == "trend_series.csv" else ""):
                yield f"{place}: no source"
            if not (cells.get("confidence") or name == "trend_series.csv"):
                yield f"{place}: no confidence"
            if name not in NO_HOW and cells.get("how") not in {"cited", "derived", "measured", "assumed"}:
                yield f"{place}: how is {cells.get('how')!r}"
            for column, text in cells.items():
                if _is_number(text) and f"_{column}".endswith(UNIT_ENDINGS) and not 0 < float(text) < math.inf:
                    yield f"{place}: {column} is {text}, not positive and finite"
                if column in {"date", "released"} and text:
                    try:
                        parse_date(text)
                    except ValueError as error:
                        yield f"{place}: {column} {text}: {error}"


def _fitted() -> Iterator[str]:
    for name, numbers in FITTED.items():
        seen: set[tuple[str, ...]] = set()
        for line, cells in read_table(name):
            place = f"{name}:{line}"
            key = tuple(text for column, text in cells.items() if column not in {*numbers, "source", "date"})
            if key in seen:
                yield f"{place}: {' '.join(key)} given twice"
            seen.add(key)
            for column in numbers:
                if not _is_number(cells[column]) or not math.isfinite(float(cells[column])):
                    yield f"{place}: {column} is {cells[column]!r}, no finite number"
                elif column in {"sd", "rows"} and float(cells[column]) < 0:
                    yield f"{place}: {column} is {cells[column]}, negative"
            if not cells["source"]:
                yield f"{place}: no source"
            try:
                parse_date(cells["date"])
            except ValueError as error:
                yield f"{place}: date {cells['date']}: {error}"


def _devices() -> Iterator[str]:
    for row in built_in().rows.values():
        yield from (f"devices.csv: {row.id}: {problem}" for problem in device_problems(row))


def device_problems(row: DeviceRow) -> Iterator[str]:
    """Yield what is implausible about one device: sparse rates, bidirectional links, bandwidth its memory cannot have."""
    if row.memory_bytes and not row.memory_how:
        yield "memory without how it was read"
    yield from _bandwidth_problems(row)
    yield from _rate_problems(row)
    link = re.match(r"NVLink (\d)", row.scaleup_link)
    if link and row.scaleup_bytes_per_s:
        per_direction = {"1": 80e9, "2": 150e9, "3": 300e9, "4": 450e9, "5": 900e9, "6": 1800e9}.get(link[1], math.inf)
        if row.scaleup_bytes_per_s > per_direction * 1.01:
            yield f"{row.scaleup_link} at {row.scaleup_bytes_per_s:.3g} B/s: both directions counted?"
    for listed in (row.cited_fields, row.derived_fields, row.assumed_fields):
        for column in filter(None, listed.split("|")):
            if getattr(row, column, None) is None:
                yield f"{column} is marked and has no value"
    if row.family not in families():
        yield f"unknown family {row.family}"


def _bandwidth_problems(row: DeviceRow) -> Iterator[str]:
    if row.memory_bytes_per_s is None:
        return
    for pattern, least, most in BANDWIDTH_BYTES_PER_S:
        if re.search(pattern, row.memory_type):
            if not least <= row.memory_bytes_per_s <= most:
                yield f"{row.memory_bytes_per_s:.3g} B/s is not a bandwidth of {row.memory_type}"
            return
    yield f"unknown memory type {row.memory_type!r}"


def _rate_problems(row: DeviceRow) -> Iterator[str]:
    half = row.rate("bf16") or row.rate("fp16")
    for dtype, most in MOST_OVER_BF16.items():
        rate = row.rate(dtype)
        if (
            half
            and rate
            and rate > most * half
            and row.id not in OVER_BF16_KNOWN
            and row.kind not in {"apple-soc", "phone-soc"}
        ):
            yield f"{dtype} is {rate / half:.1f} times bf16: a sparse rate?"
    for dtype in DTYPES:
        rate = row.rate(dtype)
        if rate and row.memory_bytes_per_s and rate / row.memory_bytes_per_s > MOST_OPERATIONS_PER_BYTE:
            yield f"{dtype}: {rate / row.memory_bytes_per_s:.0f} operations per byte"


def _references() -> Iterator[str]:
    known = built_in()
    for alias, target in known.aliases.items():
        if target not in known.rows:
            yield f"device_aliases.csv: {alias} points to {target}, which is no device"
        if alias in known.rows:
            yield f"device_aliases.csv: {alias} is a device id"
    priced = {*known.prices, *(item.device_id for item in purchases())}
    yield from (f"prices: {name} is no device" for name in sorted(priced - set(known.rows)))
    yield from (
        f"roadmap.csv: {row.device_id} is no device"
        for row in all_events()
        if row.device_id and row.device_id not in known.rows
    )


def _prices() -> Iterator[str]:
    for name, offers in built_in().prices.items():
        for offer in offers:
            if not 0.005 <= offer.usd_per_device_hour <= 50:
                yield f"prices.csv: {name} at {offer.usd_per_device_hour} USD per hour from {offer.provider}"
            if "unclear" in offer.licence or not offer.licence:
                yield f"prices.csv: {name}: an offer without a licence"


def _plans() -> Iterator[str]:
    for row in all_events():
        if row.date > HORIZON and row.nature == "observation":
            yield f"roadmap.csv: {row.event}: dated {row.date} and called an observation"
        if row.until < row.date:
            yield f"roadmap.csv: {row.event}: ends before it begins"
    if [quarter.quarter for quarter in dram_quarters()] != sorted(quarter.quarter for quarter in dram_quarters()):
        yield "dram_prices.csv: quarters out of order"


def _shares() -> Iterator[str]:
    for line, cells in read_table("efficiency.csv"):
        place = f"efficiency.csv:{line}"
        low, value, high = (float(cells[name]) for name in ("low", "value", "high"))
        if not 0 < low <= value <= high:
            yield f"{place}: low, value, high out of order"
        if cells["quantity"].endswith("_share") and high > 1:
            yield f"{place}: a share above 1"
        if cells["quantity"] not in OPERATORS.get(cells["operator"], ()):
            yield f"{place}: {cells['operator']} has no {cells['quantity']}"
    for family in (*families(), "generic"):
        efficiency(family)
    for engine in engines().values():
        if not 0 < engine.memory_share <= 1:
            yield f"engines.csv: {engine.name}: memory share {engine.memory_share}"


def _trends() -> Iterator[str]:
    for series in trends().series:
        if not all(isinstance(point.value, float) and point.value > 0 for point in series.points):
            yield f"trend_series.csv: {series.id}: a value that is not positive"


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


_CHECKS: tuple[Callable[[], Iterator[str]], ...] = (
    _columns, _rows, _fitted, _devices, _references, _prices, _plans, _shares, _trends, lever_problems,
)  # fmt: skip

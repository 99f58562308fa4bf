"""Our own table of training runs: a CSV with one column per field of ``TrainTruth``, of its ``Shape`` and of its ``Train``."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import fields
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bytebound.documents.train_truth import TRAIN_METRICS, Basis, Shape, TrainTruth
from bytebound.documents.work import Train
from bytebound.errors import ByteboundError, DocumentError, nearest
from bytebound.facts.devices import devices
from bytebound.facts.tables import read_bounded
from bytebound.models.catalogue import resolve
from bytebound.truth.table import LARGEST_FILE, read_rows
from bytebound.truth.training_models import OWN_FAMILIES, architecture_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TABLE = "training_truth.csv"

ABOUT = ("id", "run", "source", "locator", "licence", "trust", "device", "devices", "per_node")
MEASURED = ("metric", "value", "unit", "basis", "uncertain", "notes")
SHAPE = tuple(field.name for field in fields(Shape))
WORK = tuple(field.name for field in fields(Train))
NEEDED = (
    "id",
    "run",
    "source",
    "locator",
    "device",
    "devices",
    "model",
    "seq",
    "micro_batch",
    "global_batch",
    "metric",
    "value",
    "unit",
)
"""Columns a table must have; any other field of ``ABOUT``, ``SHAPE``, ``WORK`` and ``MEASURED`` may be there."""
COLUMNS = (*ABOUT, *SHAPE, *WORK, *MEASURED)

USUAL_SHAPE, USUAL_WORK = Shape(""), Train()
BASES, TRUSTS = get_args(Basis), ("A", "B", "C")
MOST_DEVICES = 1_000_000
LARGEST_COUNT = 2**31
FLAGS = {"true": True, "false": False}
SEPARATOR = "; "


def read_training_table(path: str | Path) -> tuple[TrainTruth, ...]:
    """Return the rows of a table of ours.

    Args:
        path: a CSV file, UTF-8, at most ``LARGEST_FILE`` bytes, with at least the columns ``NEEDED``; a blank cell is the default
            of its field.

    Raises:
        DocumentError: the file cannot be read, lacks a column or has an unknown one; or a row has an unknown metric, unit, device,
            model or word, an id used before, degrees that do not use the devices it says, a batch that the micro-batches do not
            divide, or a number out of range. Carries ``file:line``.
    """
    place = str(path)
    header, found = read_rows(read_bounded(Path(path), LARGEST_FILE), place)
    missing = [name for name in NEEDED if name not in header]
    if missing:
        mend = f"a table of training runs has the columns {', '.join(NEEDED)}"
        raise DocumentError(f"the column {missing[0]!r} is missing", place=f"{place}:1", mend=mend)
    for name in header:
        if name not in COLUMNS:
            raise DocumentError(_unknown("column", name, COLUMNS), place=f"{place}:1", mend="remove or rename it")
    rows: list[TrainTruth] = []
    seen: dict[str, int] = {}
    for line, cells in found:
        row = parse_training_row(cells, place=f"{place}:{line}")
        if row.id in seen:
            message = f"the id {row.id!r} stands on line {seen[row.id]} already"
            raise DocumentError(message, place=f"{place}:{line}", mend="give every row its own id")
        seen[row.id] = line
        rows.append(row)
    return tuple(rows)


def shipped_training_table() -> tuple[TrainTruth, ...]:
    """Return the rows that ship with this package."""
    with as_file(files("bytebound.facts") / "data" / TABLE) as path:
        return read_training_table(path)


def parse_training_row(cells: Mapping[str, str], *, place: str) -> TrainTruth:
    """Return one row; ``cells`` has every column of ``NEEDED``.

    Raises:
        DocumentError: a cell that is missing or wrong; ``place`` and the column are named.
    """
    for name in NEEDED:
        if not cells[name]:
            raise DocumentError(f"the cell {name} is empty", place=place, mend="write what was run and measured")
    metric, basis, trust = cells["metric"], cells.get("basis", ""), cells.get("trust", "") or "B"
    for name, given, known in (
        ("metric", metric, tuple(TRAIN_METRICS)),
        ("basis", basis, BASES),
        ("trust", trust, TRUSTS),
    ):
        if given not in known:
            raise DocumentError(
                _unknown(name, given, known), place=f"{place}: {name}", mend=f"one of {', '.join(filter(None, known))}"
            )
    unit = TRAIN_METRICS[metric][0]
    if cells["unit"] != unit:
        message = f"{metric} has the unit {unit!r}, not {cells['unit']!r}"
        raise DocumentError(message, place=f"{place}: unit", mend="write SI values, rates of one device")
    if metric in {"flop_per_s_per_device", "mfu"} and not basis:
        raise DocumentError(
            f"{metric} needs a basis", place=f"{place}: basis", mend=f"one of {', '.join(filter(None, BASES))}"
        )
    try:
        work = _train(tuple((name, cells[name]) for name in WORK if cells.get(name)))
        shape = _shape(tuple((name, cells[name]) for name in SHAPE if cells.get(name)))
        architecture = architecture_of(shape)
    except ByteboundError as error:
        raise DocumentError(
            error.message, place=f"{place}: {error.place}" if error.place else place, mend=error.mend
        ) from None
    if cells["device"] not in devices():
        raise DocumentError(
            _unknown("device", cells["device"], devices()),
            place=f"{place}: device",
            mend="`bytebound devices` lists every id",
        )
    count = _whole(cells["devices"], f"{place}: devices", MOST_DEVICES)
    _check(work, count, place)
    return TrainTruth(
        id=cells["id"], run=cells["run"], source=cells["source"], locator=cells["locator"], model=shape.model,
        architecture=architecture, device=cells["device"], devices=count, metric=metric, value=_value(cells["value"], metric, place),
        work=work, per_node=_whole(cells.get("per_node", "") or "8", f"{place}: per_node", MOST_DEVICES),
        basis=basis, trust=trust,  # type: ignore[arg-type]  # checked above
        uncertain=tuple(part for part in cells.get("uncertain", "").split(SEPARATOR) if part),
        notes=cells.get("notes", ""), licence=cells.get("licence", ""), shape=shape,
    )  # fmt: skip


def format_training_table(rows: Sequence[TrainTruth]) -> str:
    """Return the text of a table that ``read_training_table`` gives back unchanged; columns only where some row needs them."""
    shapes = [
        name
        for name in SHAPE
        if name == "model" or any(getattr(row.shape, name) != getattr(USUAL_SHAPE, name) for row in rows)
    ]
    works = [
        name
        for name in WORK
        if name in NEEDED or any(getattr(row.work, name) != getattr(USUAL_WORK, name) for row in rows)
    ]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow((*ABOUT, *shapes, *works, *MEASURED))
    for row in rows:
        own = {
            **{name: getattr(row, name) for name in ABOUT},
            "unit": TRAIN_METRICS[row.metric][0],
            "uncertain": SEPARATOR.join(row.uncertain),
        }
        writer.writerow(
            [
                *(own[name] for name in ABOUT),
                *(
                    _text(getattr(row.shape, name), getattr(USUAL_SHAPE, name), always=name == "model")
                    for name in shapes
                ),
                *(_text(getattr(row.work, name), getattr(USUAL_WORK, name), always=name in NEEDED) for name in works),
                *(own[name] if name in own else _text(getattr(row, name), "", always=True) for name in MEASURED),
            ]
        )
    return stream.getvalue()


def write_training_table(rows: Iterable[TrainTruth], path: str | Path) -> None:
    """Write ``rows`` as a table of ours.

    Raises:
        DocumentError: the file cannot be written.
    """
    try:
        Path(path).write_text(format_training_table(tuple(rows)), encoding="utf-8", newline="")
    except OSError as error:
        raise DocumentError(f"cannot write the file ({error.strerror})", place=str(path)) from None


def _text(value: Any, usual: Any, *, always: bool) -> str:
    if value == usual and not always:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


@lru_cache(maxsize=65536)
def _train(cells: tuple[tuple[str, str], ...]) -> Train:
    values: dict[str, Any] = {}
    for name, text in cells:
        values[name] = text if isinstance(getattr(USUAL_WORK, name), str) else _number(text, name)
    return Train(**values)


@lru_cache(maxsize=4096)
def _shape(cells: tuple[tuple[str, str], ...]) -> Shape:
    values: dict[str, Any] = dict(cells)
    family = values.get("family", "")
    if family and family not in OWN_FAMILIES:
        raise DocumentError(
            _unknown("family", family, OWN_FAMILIES), place="family", mend=f"empty, or one of {', '.join(OWN_FAMILIES)}"
        )
    for name, text in cells:
        usual = getattr(USUAL_SHAPE, name)
        if isinstance(usual, bool):
            if text not in FLAGS:
                raise DocumentError(f"{text!r} is neither true nor false", place=name)
            values[name] = FLAGS[text]
        elif isinstance(usual, int):
            values[name] = -1 if text == "-1" else _whole(text, name, LARGEST_COUNT, least=0)
    if not family:
        values["model"] = resolve(values["model"])
    return Shape(**values)


def _check(work: Train, count: int, place: str) -> None:
    """Raise DocumentError unless the degrees use the devices of a row and its micro-batches fill its batch."""
    used = int(work.tp) * int(work.pp) * int(work.dp) * int(work.cp)
    if used != count:
        raise DocumentError(
            f"tp × pp × dp × cp is {used}, and devices is {count}",
            place=f"{place}: devices",
            mend="count every device of the run",
        )
    if int(work.global_batch) % (int(work.micro_batch) * int(work.dp)):
        raise DocumentError(
            f"a global batch of {work.global_batch:g} is no multiple of micro_batch × dp = {int(work.micro_batch) * int(work.dp)}",
            place=f"{place}: global_batch", mend="count sequences of the whole step",
        )  # fmt: skip


def _value(text: str, metric: str, place: str) -> float:
    value = _number(text, f"{place}: value")
    most = 1.0 if metric in {"fits", "mfu"} else math.inf
    if metric == "fits" and value not in {0, 1}:
        raise DocumentError(
            f"fits is 1 or 0, not {text}", place=f"{place}: value", mend="1: it fitted; 0: it ran out of memory"
        )
    if metric != "fits" and not 0 < value <= most:
        raise DocumentError(
            f"{text} is no value of {metric}", place=f"{place}: value", mend="write a positive number; a share for mfu"
        )
    return value


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DocumentError(f"{text!r} is not a number", place=place, mend="write digits, SI values")
    return int(value) if value.is_integer() and abs(value) < LARGEST_COUNT else value


def _whole(text: str, place: str, most: int, *, least: int = 1) -> int:
    value = _number(text, place)
    if value != int(value) or not least <= value <= most:
        raise DocumentError(f"{text} is outside {least} … {most}", place=place, mend="write a whole number")
    return int(value)


def _unknown(kind: str, given: str, known: Iterable[str]) -> str:
    near = nearest(given, known)
    return f"unknown {kind} {given!r}" + (f"; nearest: {', '.join(near)}" if near else "")

"""Our own table of measured numbers: a CSV with one column per field of ``Truth`` and of its ``Serve``."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import fields
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bytebound.documents.truth import BACKENDS, METRICS, REGIMES, STATISTICS, TRUSTS, Load, Truth
from bytebound.documents.work import Serve
from bytebound.errors import ByteboundError, DocumentError, nearest
from bytebound.facts.devices import devices
from bytebound.facts.engines import find_engine
from bytebound.facts.formats import find_format
from bytebound.facts.tables import read_bounded
from bytebound.models.catalogue import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Key = TypeVar("Key")
Found = TypeVar("Found")

LARGEST_FILE = 2**26
"""Bytes of the largest truth file that is read; 30,000 rows of the public layout take 14 MB."""

PLAIN = (
    "id", "source", "locator", "licence", "date", "trust", "device", "devices", "engine", "engine_version", "backend",
    "model", "regime", "metric", "statistic", "value", "unit", "notes",
)  # fmt: skip
WORK = ("batch", "prompt", "output", "weights", "kv", "tp", "pp", "ep", "dp", "scheduling", "draft_tokens")
"""Columns of the deployment every table has."""

MORE_WORK = tuple(field.name for field in fields(Serve) if field.name not in {*WORK, "engine"})
"""Fields of ``Serve`` a table may have columns for; without one, the default of ``Serve`` holds."""

LOAD = {f"load_{field.name}": field.name for field in fields(Load)}
"""Columns a table may have for how a benchmark sent its requests -> the field of ``Load``."""

COLUMNS = (*PLAIN[:12], *WORK, *PLAIN[12:])
"""The columns every table has, in the order they are written."""

_CHOICES = {"trust": TRUSTS, "regime": REGIMES, "statistic": STATISTICS, "backend": BACKENDS, "metric": tuple(METRICS)}
_WORDS = {"weights", "kv", "scheduling", "activations", "attention"}
_FLAGS = {"disaggregated": {"true": True, "false": False, "1": True, "0": False}}
_DATE = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")


def read_truth(path: str | Path) -> tuple[Truth, ...]:
    """Return the rows of a table of ours.

    Args:
        path: a CSV file, UTF-8, at most ``LARGEST_FILE`` bytes, with at least the columns ``COLUMNS``.

    Raises:
        DocumentError: the file cannot be read, lacks a column or has an unknown one; or a row has an unknown metric, unit,
            device, model, engine or format, an id used before, degrees that do not use the devices it says, or a number that is
            out of range. Carries ``file:line``.
    """
    place = str(path)
    rows = []
    seen: dict[str, int] = {}
    header, found = read_rows(read_bounded(Path(path), LARGEST_FILE), place)
    _check_header(header, place)
    for line, cells in found:
        truth = parse_truth(cells, place=f"{place}:{line}")
        if truth.id in seen:
            message = f"the id {truth.id!r} stands on line {seen[truth.id]} already"
            raise DocumentError(message, place=f"{place}:{line}", mend="give every row its own id")
        seen[truth.id] = line
        rows.append(truth)
    return tuple(rows)


def shipped_truth() -> tuple[Truth, ...]:
    """Return the rows that ship with this package, so that ``validate`` works without a file."""
    with as_file(files("bytebound.facts") / "data" / "truth.csv") as path:
        return read_truth(path)


def write_truth(rows: Iterable[Truth], path: str | Path) -> None:
    """Write ``rows`` as a table that ``read_truth`` gives back unchanged; optional columns only where a row needs them.

    Raises:
        DocumentError: the file cannot be written.
    """
    try:
        Path(path).write_text(format_truth(tuple(rows)), encoding="utf-8", newline="")
    except OSError as error:
        raise DocumentError(f"cannot write the file ({error.strerror})", place=str(path)) from None


def format_truth(rows: Sequence[Truth]) -> str:
    """Return the text of a table of ``rows``, lines ended by a newline."""
    usual = Serve()
    more = [name for name in MORE_WORK if any(getattr(row.work, name) != getattr(usual, name) for row in rows)]
    loads = [
        column for column, name in LOAD.items() if any(getattr(row.load, name) != getattr(Load(), name) for row in rows)
    ]
    columns = (*COLUMNS[: 12 + len(WORK)], *more, *loads, *COLUMNS[12 + len(WORK) :])
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    work = {*WORK, *more}
    for row in rows:
        writer.writerow([_text(_cell(row, name, work)) for name in columns])
    return stream.getvalue()


def _cell(row: Truth, column: str, work: set[str]) -> Any:
    if column in LOAD:
        return getattr(row.load, LOAD[column])
    return getattr(row.work if column in work else row, column)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)


def read_rows(text: str, place: str) -> tuple[tuple[str, ...], Iterator[tuple[int, dict[str, str]]]]:
    """Return the columns of a CSV text, and its rows as (line the row begins on, column -> stripped text).

    Raises:
        DocumentError: not CSV, no header, a column twice, or (while iterating) a row with more or fewer cells than
            the header.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = tuple(cell.strip() for cell in next(reader, ()))
    except csv.Error as error:
        raise DocumentError(f"not a CSV table ({error})", place=f"{place}:1") from None
    if not any(header):
        raise DocumentError("the file has no header", place=f"{place}:1", mend="give a table whose first line names it")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DocumentError(f"the column {twice[0]!r} stands twice", place=f"{place}:1")
    return header, _rows(reader, header, place)


def _rows(reader: Any, header: tuple[str, ...], place: str) -> Iterator[tuple[int, dict[str, str]]]:
    line = reader.line_num + 1
    try:
        for cells in reader:
            begin, line = line, reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(header):
                raise DocumentError(
                    f"the row has {len(cells)} cells and the header {len(header)}",
                    place=f"{place}:{begin}",
                    mend="quote cells that contain commas",
                )
            yield begin, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise DocumentError(f"not a CSV table ({error})", place=f"{place}:{line}") from None


def _check_header(header: Sequence[str], place: str) -> None:
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        mend = f"a truth table has the columns {', '.join(COLUMNS)}"
        raise DocumentError(f"the column {missing[0]!r} is missing", place=f"{place}:1", mend=mend)
    known = {*COLUMNS, *MORE_WORK, *LOAD}
    for name in header:
        if name not in known:
            raise DocumentError(_unknown("column", name, known), place=f"{place}:1", mend="remove or rename it")


def parse_truth(cells: dict[str, str], *, place: str) -> Truth:
    """Return one row of a table; ``cells`` has every column of ``COLUMNS``.

    Raises:
        DocumentError: a cell that is missing or wrong; ``place`` and the column are named.
    """
    for name in ("id", "source", "locator"):
        if not cells[name]:
            raise DocumentError(
                f"the cell {name} is empty", place=place, mend="every row has an id, a source and a locator"
            )
    for name, known in _CHOICES.items():
        if cells[name] not in known:
            raise DocumentError(
                _unknown(name, cells[name], known), place=f"{place}: {name}", mend=f"one of {_list(known)}"
            )
    unit = METRICS[cells["metric"]][0]
    if cells["unit"] != unit:
        message = f"{cells['metric']} has the unit {unit!r}, not {cells['unit']!r}"
        raise DocumentError(message, place=f"{place}: unit", mend="write SI values of the whole deployment")
    if cells["date"] and _DATE.fullmatch(cells["date"]) is None:
        raise DocumentError(
            f"{cells['date']!r} is not a date", place=f"{place}: date", mend="write YYYY, YYYY-MM or YYYY-MM-DD"
        )
    engine = _known(_engine, cells["engine"], f"{place}: engine")
    work = _known(
        _serve, (engine, tuple((name, cells[name]) for name in (*WORK, *MORE_WORK) if cells.get(name))), place
    )
    for name in WORK:
        if not cells[name]:
            raise DocumentError(
                f"the cell {name} is empty", place=place, mend="a blank is no number; write what was run"
            )
    count = _count(cells["devices"], f"{place}: devices")
    _check_degrees(work, count, place)
    return Truth(
        id=cells["id"],
        source=cells["source"],
        locator=cells["locator"],
        licence=cells["licence"],
        date=cells["date"],
        trust=cells["trust"],  # type: ignore[arg-type]  # checked above
        device=_known(_device, cells["device"], f"{place}: device"),
        devices=count,
        engine=engine,
        engine_version=cells["engine_version"],
        backend=cells["backend"],  # type: ignore[arg-type]  # checked above
        model=_known(_model, cells["model"], f"{place}: model"),
        work=work,
        regime=cells["regime"],  # type: ignore[arg-type]  # checked above
        metric=cells["metric"],
        statistic=cells["statistic"],  # type: ignore[arg-type]  # checked above
        value=_positive(cells["value"], f"{place}: value"),
        notes=cells["notes"],
        load=_load(tuple((column, cells[column]) for column in LOAD if cells.get(column)), place),
    )


def _check_degrees(work: Serve, devices: int, place: str) -> None:
    """Raise DocumentError unless the degrees of a row use the devices it says, no more and no fewer."""
    used = work.tp * work.pp * work.dp
    if used != devices and not work.disaggregated:
        raise DocumentError(
            f"tp × pp × dp is {used:g}, and devices is {devices}",
            place=f"{place}: devices",
            mend="count the devices of all replicas; dp is how many replicas ran",
        )
    if work.ep > work.tp * work.dp:
        raise DocumentError(f"ep is {work.ep:g}, and tp × dp {work.tp * work.dp:g}", place=f"{place}: ep")


def _unknown(kind: str, given: str, known: Iterable[str]) -> str:
    near = nearest(given, known)
    return f"unknown {kind} {given!r}" + (f"; nearest: {', '.join(near)}" if near else "")


def _list(known: Sequence[str]) -> str:
    return ", ".join(item or "(empty)" for item in known)


def _known(find: Callable[[Key], Found], key: Key, place: str) -> Found:
    """Return ``find(key)``, its error as a DocumentError at ``place``."""
    try:
        return find(key)
    except ByteboundError as error:
        where = f"{place}: {error.place}" if error.place else place
        raise DocumentError(error.message, place=where, mend=error.mend) from None


@lru_cache(maxsize=1024)
def _device(name: str) -> str:
    known = devices()
    if name not in known:
        raise DocumentError(_unknown("device", name, known), mend="`bytebound devices` lists every id")
    return name


@lru_cache(maxsize=256)
def _engine(name: str) -> str:
    return find_engine(name).name


@lru_cache(maxsize=4096)
def _model(name: str) -> str:
    return resolve(name)


@lru_cache(maxsize=65536)
def _serve(given: tuple[str, tuple[tuple[str, str], ...]]) -> Serve:
    engine, cells = given
    values: dict[str, Any] = {"engine": engine}
    for name, text in cells:
        if name in _FLAGS:
            if text.lower() not in _FLAGS[name]:
                raise DocumentError(f"{text!r} is neither true nor false", place=name)
            values[name] = _FLAGS[name][text.lower()]
        elif name in _WORDS:
            if name in {"weights", "kv"} and text != "auto":
                find_format(text, place=name)
            values[name] = text
        else:
            values[name] = _number(text, name)
    return Serve(**values)


def _load(cells: tuple[tuple[str, str], ...], place: str) -> Load:
    values = {LOAD[column]: float(_number(text, f"{place}: {column}")) for column, text in cells}
    for column, _ in cells:
        if values[LOAD[column]] < 0:
            raise DocumentError(f"{values[LOAD[column]]:g} is negative", place=f"{place}: {column}")
    return Load(**values)


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DocumentError(f"{text!r:.60} is not a number", place=place) from None
    if not math.isfinite(value):
        raise DocumentError(f"{text!r:.60} is not finite", place=place)
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def _positive(text: str, place: str) -> float:
    value = _number(text, place)
    if value <= 0:
        raise DocumentError(f"{text!r:.60} is not positive", place=place, mend="a measured number is greater than 0")
    return float(value)


def _count(text: str, place: str) -> int:
    value = _number(text, place)
    if not isinstance(value, int) or not 1 <= value <= 10**7:
        raise DocumentError(
            f"{text!r:.60} is not a number of devices", place=place, mend="a whole number of at least 1"
        )
    return value


def has_own_layout(path: str | Path) -> bool:
    """Tell whether a file's header is that of a table of ours rather than of the public corpus layout.

    Raises:
        DocumentError: the file cannot be read or has no header.
    """
    header, _ = read_rows(read_bounded(Path(path), LARGEST_FILE), str(path))
    return "citation_locator" not in header

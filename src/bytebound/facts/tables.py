"""Read the tables of this package and of a user's catalogue: bounded, UTF-8, with the line of every row."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from bytebound.errors import DocumentError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MAX_FILE_BYTES = 2**20  # a device file is a page of text; a catalogue table of our schema holds 1,000 rows in 0.4 MiB
BUILT_IN = "bytebound facts"

Model = TypeVar("Model", bound=BaseModel)


@cache
def read_table(name: str) -> tuple[tuple[int, dict[str, str]], ...]:
    """Return the rows of our table ``name`` as (line number, column -> text)."""
    text = (files("bytebound.facts") / "data" / name).read_text(encoding="utf-8")
    return tuple(_rows(text, name))


def read_user_table(path: Path) -> tuple[tuple[int, dict[str, str]], ...]:
    """Return the rows of a user's CSV file, at most ``MAX_FILE_BYTES`` of it.

    Raises:
        DocumentError: missing, unreadable, too large, not UTF-8, or a row whose cells do not match the header.
    """
    return tuple(_rows(read_bounded(path), str(path)))


def read_bounded(path: Path, limit_bytes: int = MAX_FILE_BYTES) -> str:
    """Return the text of ``path``, refusing more than ``limit_bytes`` bytes and anything that is not UTF-8.

    Raises:
        DocumentError: the file cannot be read, is too large or is not text.
    """
    try:
        if not path.is_file():
            raise DocumentError("no such file", place=str(path), mend="check the path")
        with path.open("rb") as stream:
            data = stream.read(limit_bytes + 1)
    except (OSError, ValueError) as error:
        raise DocumentError(f"cannot read the file ({_reason(error)})", place=str(path)) from None
    if len(data) > limit_bytes:
        raise DocumentError(
            f"the file is larger than {limit_bytes // 2**20} MiB", place=str(path), mend="is it the right file?"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8 text (byte {error.start})", place=str(path), mend="save it as UTF-8") from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def _rows(text: str, place: str) -> Iterable[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(text.splitlines(), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DocumentError(
                    "the row does not have as many cells as the header",
                    place=f"{place}:{reader.line_num}",
                    mend="quote cells that contain commas",
                )
            yield reader.line_num, {key.strip(): (value or "").strip() for key, value in row.items()}
    except csv.Error as error:
        raise DocumentError(f"not a CSV table ({error})", place=f"{place}:{reader.line_num}") from None


def parse_row(model: type[Model], cells: Mapping[str, Any], *, place: str) -> Model:
    """Return ``cells`` as ``model``: blank cells are absent, unknown columns name the nearest known one.

    Raises:
        UnknownNameError: a column the schema does not have.
        DocumentError: a cell that is missing or wrong.
    """
    unknown = [key for key in cells if key not in model.model_fields]
    if unknown:
        raise UnknownNameError("column", unknown[0], model.model_fields, place=f"{place}: {unknown[0]}")
    filled = {key: value for key, value in cells.items() if value != ""}
    try:
        return model.model_validate(filled)
    except ValidationError as error:
        raise invalid(error, place=place) from None


def invalid(error: ValidationError, *, place: str) -> DocumentError:
    """Return pydantic's first complaint as one sentence with its place (``file:line: key``)."""
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    given = first.get("input")
    shown = f" (given {given!r:.60})" if isinstance(given, str | int | float) else ""
    return DocumentError(message[0].lower() + message[1:] + shown, place=f"{place}: {key}" if key else place)

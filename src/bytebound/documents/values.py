"""What every document shares: numbers that may be arrays, intervals, provenance, and the way to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError, WithJsonSchema

from bytebound.documents.device import How
from bytebound.errors import DocumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Number = float | NDArray[Any]
    Text = str | NDArray[Any]
    Flag = bool | NDArray[Any]
else:

    def _array(value: object) -> object:
        return np.asarray(value) if isinstance(value, list) else value

    def _may_be_array(kind: str) -> dict[str, object]:
        return {"anyOf": [{"type": kind}, {"type": "array"}, {"type": "null"}]}  # null: not a number, so unknown

    Number = Annotated[Any, BeforeValidator(_array), WithJsonSchema(_may_be_array("number"))]
    Text = Annotated[Any, BeforeValidator(_array), WithJsonSchema(_may_be_array("string"))]
    Flag = Annotated[Any, BeforeValidator(_array), WithJsonSchema(_may_be_array("boolean"))]

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the interval that should hold the truth ``level`` of the time."""

    value: Number
    low: Number
    high: Number
    level: float = 0.8


@dataclass(frozen=True, slots=True)
class Provenance:
    """How one number is known: what it is, how (cited, measured, derived, calibrated, assumed) and from where."""

    what: str
    how: How
    source: str


def plain(value: Any) -> Any:
    """Return ``value`` as JSON-ready data: arrays become lists, NaN and infinity become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name.rstrip("_"): plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, BaseModel):
        return plain(value.model_dump(by_alias=True))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(document: Any, *, indent: int | None = 2) -> str:
    """Return ``document`` as JSON text with SI numbers, ``null`` where a value is unknown."""
    return json.dumps(plain(document), indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(kind: type[D], text: str, *, place: str = "document") -> D:
    """Return the document of type ``kind`` that ``text`` holds.

    Raises:
        DocumentError: not JSON, or not such a document; names the first wrong key.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DocumentError(f"not JSON: {error}", place=place, mend="write it with --json") from None
    if isinstance(data, dict) and "schema" in data and not issubclass(kind, BaseModel):
        data["schema_"] = data.pop("schema")
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DocumentError(f"{key}: {first['msg']}", place=place, mend="see `bytebound schema`") from None


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema of a document type."""
    schema = TypeAdapter(kind).json_schema(by_alias=True)
    for part in (schema, *schema.get("$defs", {}).values()):
        properties = part.get("properties", {})
        if "schema_" in properties:
            properties["schema"] = properties.pop("schema_")
            part["required"] = ["schema" if name == "schema_" else name for name in part.get("required", [])]
    return schema

"""Read one device or machine file: a spec sheet in TOML, or a bytebound.machine/1 document in TOML or JSON."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bytebound.documents.device import Device, Figure, Machine
from bytebound.errors import DocumentError, QuantityError, UnknownNameError, nearest
from bytebound.facts.rows import DTYPES, rate_unit
from bytebound.facts.tables import invalid, read_bounded
from bytebound.units import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

QUANTITIES: dict[str, tuple[str, str, str, float, float]] = {
    "memory": ("memory_bytes", "bytes", "B", 2.0**20, 2.0**50),
    "memory_bandwidth": ("memory_bytes_per_s", "bytes per second", "B/s", 1e6, 1e18),
    "cache": ("cache_bytes", "bytes", "B", 1.0, 2.0**45),
    "scaleup": ("scaleup_bytes_per_s", "bytes per second", "B/s", 1e6, 1e16),
    "scaleout": ("scaleout_bytes_per_s", "bytes per second", "B/s", 1e5, 1e15),
    "host": ("host_bytes_per_s", "bytes per second", "B/s", 1e6, 1e15),
    "power": ("power_w", "watts", "W", 1e-2, 1e6),
    "price": ("usd_per_device_hour", "US dollars per hour", "USD/h", 1e-4, 1e5),
    **{dtype: (dtype, "FLOP per second", rate_unit(dtype), 1e6, 1e20) for dtype in DTYPES},
}
"""Key of a device file -> field, dimension of ``units.UNITS``, unit inside, and the least and most any machine could have."""

TEXTS = (
    "id", "name", "vendor", "kind", "family", "released", "status", "confidence",
    "memory_type", "memory_marketed", "scaleup_link", "host_link", "notes",
)  # fmt: skip
COUNTS = {"scaleup_devices": 100_000, "per_node": 100_000, "nodes": 1_000_000}
KEYS = (*QUANTITIES, *TEXTS, *COUNTS, "base", "device", "source", "when")
FIGURE_KEYS = ("value", "low", "high", "how", "source", "when")


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """What a device or machine file says; ``per_node`` and ``nodes`` are None where it does not say.

    ``named`` is False where the id was taken from the file's own name: such a device has no price in our tables.
    """

    device: Device
    usd_per_device_hour: Figure | None = None
    per_node: int | None = None
    nodes: int | None = None
    name: str = ""
    named: bool = True


def read_device_file(path: Path, find_base: Callable[[str], dict[str, Any]]) -> DeviceFile:
    """Return the device (and price and counts) that ``path`` describes.

    Args:
        path: ``.toml`` or ``.json``, at most 1 MiB.
        find_base: how to find what is known of the device that ``base = "..."`` or ``device = "..."`` names.

    Raises:
        DocumentError: missing, truncated, too large or wrong, with ``file:line: key``.
        QuantityError: a quantity without a unit, or one no machine could have.
        UnknownNameError: a misspelt key, unit or device.
    """
    text = read_bounded(path)
    data = _load(text, path)
    place = _Places(str(path), text)
    try:
        if isinstance(data.get("device"), dict):
            return _machine_document(data, path, place, find_base)
        if "schema" in data:
            return DeviceFile(_possible(Device.model_validate(data), place))
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise invalid(error, place=place.line_of(key.split(".")[-1])) from None
    return _spec_sheet(data, path, place, find_base)


def _machine_document(
    data: dict[str, Any], path: Path, place: _Places, find_base: Callable[[str], dict[str, Any]]
) -> DeviceFile:
    inner = data["device"]
    if "schema" in inner:
        machine = Machine.model_validate(data)
        _possible(machine.device, place)
        return DeviceFile(machine.device, machine.usd_per_device_hour, machine.per_node, machine.nodes, machine.name)
    outer = {key: value for key, value in data.items() if key != "device"}
    return _spec_sheet({**inner, **outer}, path, place, find_base)


def _load(text: str, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(text, parse_constant=_no_constant) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except json.JSONDecodeError as error:
        raise DocumentError(f"not JSON ({error.msg})", place=f"{path}:{error.lineno}") from None
    except ValueError as error:
        line = re.search(r"at line (\d+)", str(error))
        message = re.sub(r" \(at .*\)$", "", str(error)).strip()
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise DocumentError(f"not {kind} ({message:.200})", place=f"{path}:{line[1]}" if line else str(path)) from None
    except RecursionError:
        raise DocumentError("nested too deeply", place=str(path)) from None
    if not isinstance(data, dict):
        raise DocumentError("a device file is a table of keys", place=str(path))
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON allows")


class _Places:
    """Where a key stands in the file, for errors."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self._lines = text.splitlines()

    def line_of(self, key: str) -> str:
        """Return ``file:line`` of the first line that sets ``key``, or ``file``."""
        pattern = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[=:.]|\s*\[+\s*{re.escape(key)}""")
        for number, line in enumerate(self._lines, start=1):
            if pattern.match(line):
                return f"{self.path}:{number}"
        return self.path

    def of(self, key: str) -> str:
        """Return ``file:line: key``."""
        return f"{self.line_of(key)}: {key}"


def _spec_sheet(
    data: Mapping[str, Any], path: Path, place: _Places, find_base: Callable[[str], dict[str, Any]]
) -> DeviceFile:
    for key in data:
        if key not in KEYS:
            mend = "" if nearest(key, KEYS) else f"the figures are {', '.join(QUANTITIES)}"
            raise UnknownNameError("key", key, KEYS, place=place.of(key), mend=mend)
    texts = {
        key: _text(data[key], place.of(key)) for key in (*TEXTS, "base", "device", "source", "when") if key in data
    }
    counts = {key: _count(data[key], COUNTS[key], place.of(key)) for key in COUNTS if key in data}
    default_source = texts.get("source") or f"device file {path.name}"
    figures = {
        key: _figure(data[key], key, place=place.of(key), source=default_source, when=texts.get("when", ""))
        for key in QUANTITIES
        if key in data
    }
    base = _base(texts, place, find_base)
    fields: dict[str, Any] = base or {"vendor": "", "kind": "gpu"}
    fields |= {QUANTITIES[key][0]: figure for key, figure in figures.items() if key not in DTYPES and key != "price"}
    fields["flop_per_s"] = {**fields.get("flop_per_s", {}), **{key: figures[key] for key in DTYPES if key in figures}}
    own = base is None or "id" in texts or "name" in texts or len(figures) > ("price" in figures)
    if own:
        slug = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:100]
        fields["id"] = texts.get("id") or slug or "device"
        fields["name"] = fields["id"]
    if "scaleup_devices" in counts:
        fields["scaleup_devices"] = counts["scaleup_devices"]
    fields |= {key: texts[key] for key in TEXTS if key in texts}
    _require(fields, path)
    try:
        device = Device.model_validate(fields)
    except ValidationError as error:
        raise invalid(error, place=place.line_of(str(error.errors()[0]["loc"][0]))) from None
    return DeviceFile(
        device, figures.get("price"), counts.get("per_node"), counts.get("nodes"), named="id" in texts or not own
    )


def _base(
    texts: Mapping[str, str], place: _Places, find_base: Callable[[str], dict[str, Any]]
) -> dict[str, Any] | None:
    for key in ("base", "device"):
        if key in texts:
            try:
                return find_base(texts[key])
            except (UnknownNameError, DocumentError) as error:
                raise error.at(place.of(key)) from None
    return None


def _require(fields: Mapping[str, Any], path: Path) -> None:
    missing = [key for key in ("memory", "memory_bandwidth") if QUANTITIES[key][0] not in fields]
    missing += [] if fields["flop_per_s"] else ["bf16 (or another rate)"]
    if missing:
        raise DocumentError(
            f"the device has no {', no '.join(missing)}",
            place=str(path),
            mend='add it, e.g. memory = "80GiB", memory_bandwidth = "3.35TB/s", bf16 = "989TFLOP/s"',
        )


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or len(value) > 2000:
        raise DocumentError(f"expected a text of at most 2,000 characters, not {value!r:.60}", place=place)
    return value


def _count(value: Any, most: int, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise QuantityError(f"expected a whole number, not {value!r:.60}", place=place)
    if not 1 <= value <= most:
        raise QuantityError(f"{value:.6g} is outside 1 to {most:,}", place=place)
    return value


def _possible(device: Device, place: _Places) -> Device:
    """Refuse a document with a figure that no machine could have, as a spec sheet with one is refused."""
    for key, (field, _, unit, least, most) in QUANTITIES.items():
        figure = device.flop_per_s.get(key) if key in DTYPES else getattr(device, field, None)
        for value in (figure.low, figure.value, figure.high) if figure is not None else ():
            if value is not None and not least <= value <= most:
                raise QuantityError(
                    f"{value:.4g} {unit} is outside {least:.3g} to {most:.3g} {unit}, what any machine could have",
                    place=place.of(key if key in DTYPES else field),
                    mend="check the unit",
                )
    return device


def _figure(value: Any, key: str, *, place: str, source: str, when: str) -> Figure:
    _, dimension, unit, least, most = QUANTITIES[key]
    parts: dict[str, Any] = dict(value) if isinstance(value, dict) else {"value": value}
    for name in parts:
        if name not in FIGURE_KEYS:
            raise UnknownNameError("key", name, FIGURE_KEYS, place=f"{place}.{name}")
    if "value" not in parts:
        raise DocumentError("the table has no value", place=place, mend='write { value = "80GiB", source = "..." }')
    for name in ("value", "low", "high"):
        if name in parts:
            parts[name] = _quantity(parts[name], dimension, place=place)
            if not least <= parts[name] <= most:
                raise QuantityError(
                    f"{parts[name]:.4g} {unit} is outside {least:.3g} to {most:.3g} {unit}, what any machine could have",
                    place=place,
                    mend="check the unit",
                )
    try:
        return Figure(**{"source": source, "when": when, **parts, "unit": unit})
    except ValidationError as error:
        raise invalid(error, place=place) from None


def _quantity(value: Any, dimension: str, *, place: str) -> float:
    if not isinstance(value, str):
        raise QuantityError(
            f"{value!r:.60} has no unit", place=place, mend=f"write {dimension} as a quoted text with its unit"
        )
    return parse(value[:200], dimension, place=place)

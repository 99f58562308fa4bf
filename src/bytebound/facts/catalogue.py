"""The devices and prices in force: our tables, and over them a user's catalogue folder."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bytebound.errors import DocumentError, UnknownNameError, nearest
from bytebound.facts.devicefile import DeviceFile, read_device_file
from bytebound.facts.rows import DTYPES, DeviceRow, PriceRow, rate_column
from bytebound.facts.tables import BUILT_IN, parse_row, read_table, read_user_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.device import Device

CATALOGUE_VARIABLE = "BYTEBOUND_CATALOGUE"
MAX_DEVICE_FILES = 1000


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every device by id, every alias, every rental offer; ``files`` are devices given as files, which win over rows."""

    rows: Mapping[str, DeviceRow]
    aliases: Mapping[str, str]
    prices: Mapping[str, tuple[PriceRow, ...]]
    files: Mapping[str, DeviceFile]

    def device(self, name: str, *, place: str = "") -> Device:
        """Return the device called ``name`` (id or listed alias, any case).

        Raises:
            UnknownNameError: no such device; carries the nearest ids and aliases.
            DocumentError: the row lacks memory or a rate; names what is missing.
        """
        found = self.find(name, place=place)
        if isinstance(found, DeviceFile):
            return found.device
        if found.missing:
            raise DocumentError(
                f"{found.id} ({found.name}) has no published {' and no '.join(found.missing)}",
                place=place,
                mend=f'write a device file with base = "{found.id}" and the missing figures',
            )
        return found.device()

    def find(self, name: str, *, place: str = "") -> DeviceFile | DeviceRow:
        """Return the device file or row called ``name``, complete or not.

        Raises:
            UnknownNameError: no such device.
        """
        key = name.strip().lower()
        key = self.aliases.get(key, key)
        found = self.files.get(key) or self.rows.get(key)
        if found is None:
            ids = (*self.rows, *self.files)
            known = ids if nearest(name, ids) else (*ids, *self.aliases)
            raise UnknownNameError("device", name, known, place=place, mend="`bytebound devices` lists every id")
        return found

    def fields(self, name: str) -> dict[str, Any]:
        """Return what is known of the device called ``name`` as fields of a Device, for a file that builds on it."""
        found = self.find(name)
        return found.device.model_dump(exclude={"schema_"}) if isinstance(found, DeviceFile) else found.fields()


@cache
def built_in() -> Catalogue:
    """Return our own catalogue, checked by its schema."""
    rows = {}
    for line, cells in read_table("devices.csv"):
        row = parse_row(DeviceRow, cells, place=f"{BUILT_IN}: devices.csv:{line}")
        rows[row.id] = row
    aliases = {cells["alias"].lower(): cells["device_id"] for _, cells in read_table("device_aliases.csv")}
    return Catalogue(
        rows=MappingProxyType(rows),
        aliases=MappingProxyType(aliases),
        prices=MappingProxyType(_by_device(_price_rows(read_table("prices.csv"), f"{BUILT_IN}: prices.csv"))),
        files=MappingProxyType({}),
    )


def load_catalogue(folder: str | Path | None = None) -> Catalogue:
    """Return our catalogue with a user's folder over it.

    Args:
        folder: holds any of ``devices.csv``, ``prices.csv`` and ``*.toml`` device files. Default: the folder named by
            the environment variable ``BYTEBOUND_CATALOGUE``, or none. A device row, a device file or the price rows
            of a device replace ours of the same id.

    Raises:
        DocumentError: the folder or a file in it is missing or wrong, with ``file:line: key``.
    """
    named = folder if folder is not None else os.environ.get(CATALOGUE_VARIABLE, "")
    if not str(named):
        return built_in()
    path = Path(named).expanduser()
    try:
        if not path.is_dir():
            raise DocumentError("no such catalogue folder", place=str(path), mend=f"check {CATALOGUE_VARIABLE}")
        found = sorted(
            item
            for item in path.iterdir()
            if item.suffix.lower() == ".toml" or item.name in {"devices.csv", "prices.csv"}
        )
        stamp = tuple((str(item), item.stat().st_mtime_ns, item.stat().st_size) for item in found)
    except (OSError, ValueError) as error:
        raise DocumentError(f"cannot read the catalogue folder ({error})", place=str(path)) from None
    if len(found) > MAX_DEVICE_FILES:
        raise DocumentError(
            f"more than {MAX_DEVICE_FILES:,} device files", place=str(path), mend="is it the right folder?"
        )
    return _merged(path, stamp)


@cache
def _merged(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> Catalogue:
    ours = built_in()
    rows, prices, files = dict(ours.rows), dict(ours.prices), {}
    table = folder / "devices.csv"
    if table.is_file():
        for line, cells in read_user_table(table):
            row = parse_row(DeviceRow, cells, place=f"{table}:{line}")
            rows[row.id] = row
    with_rows = Catalogue(MappingProxyType(rows), ours.aliases, ours.prices, MappingProxyType({}))
    for name, _, _ in stamp:
        path = Path(name)
        if path.suffix.lower() == ".toml":
            item = read_device_file(path, with_rows.fields)
            if item.device.id in files:
                raise DocumentError(f"a second file describes {item.device.id}", place=name, mend="give it another id")
            files[item.device.id] = item
    table = folder / "prices.csv"
    if table.is_file():
        known = {*rows, *files}
        for offers in _by_device(_price_rows(read_user_table(table), str(table), known)).values():
            prices[offers[0].device_id] = offers
    aliases = {alias: target for alias, target in ours.aliases.items() if alias not in rows and alias not in files}
    return Catalogue(
        MappingProxyType(rows), MappingProxyType(aliases), MappingProxyType(prices), MappingProxyType(files)
    )


def _price_rows(
    table: tuple[tuple[int, dict[str, str]], ...], place: str, known: set[str] | None = None
) -> list[PriceRow]:
    offers = []
    for line, cells in table:
        offer = parse_row(PriceRow, cells, place=f"{place}:{line}")
        if known is not None and offer.device_id not in known:
            raise UnknownNameError("device", offer.device_id, known, place=f"{place}:{line}: device_id")
        offers.append(offer)
    return offers


def _by_device(offers: list[PriceRow]) -> dict[str, tuple[PriceRow, ...]]:
    grouped: dict[str, list[PriceRow]] = defaultdict(list)
    for offer in offers:
        grouped[offer.device_id].append(offer)
    return {device: tuple(items) for device, items in grouped.items()}


def row_of(device: Device) -> DeviceRow:
    """Return a Device (from a file) as a catalogue row, to list it beside the others."""
    value = {
        "memory_bytes": device.memory_bytes,
        "memory_bytes_per_s": device.memory_bytes_per_s,
        "llc_bytes": device.cache_bytes,
        "scaleup_bytes_per_s": device.scaleup_bytes_per_s,
        "scaleout_bytes_per_s": device.scaleout_bytes_per_s,
        "host_bytes_per_s": device.host_bytes_per_s,
        "power_w": device.power_w,
        **{rate_column(dtype): figure for dtype, figure in device.flop_per_s.items() if dtype in DTYPES},
    }
    cells: dict[str, Any] = device.model_dump(
        include={"id", "name", "vendor", "kind", "family", "status", "confidence", "memory_type", "memory_marketed"}
    )
    cells |= {column: figure.value for column, figure in value.items() if figure is not None}
    return DeviceRow(
        **cells,
        scaleup_link=device.scaleup_link,
        scaleup_devices_count=device.scaleup_devices,
        host_link=device.host_link,
        source=device.memory_bytes.source[:1500],
        how=device.memory_bytes.how,
        date=device.memory_bytes.when[:10] or "1970",
        notes=device.notes,
    )

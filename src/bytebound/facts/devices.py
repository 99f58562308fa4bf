"""Which devices there are, and one of them by its id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bytebound.errors import DocumentError
from bytebound.facts.catalogue import load_catalogue, row_of
from bytebound.facts.devicefile import read_device_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.device import Device
    from bytebound.facts.devicefile import DeviceFile
    from bytebound.facts.rows import DeviceRow

FILE_ENDINGS = (".toml", ".json")


def devices(catalogue: str | Path | None = None) -> Mapping[str, DeviceRow]:
    """Return every device by id, historic and announced ones included (``row.missing`` says what a row lacks).

    Args:
        catalogue: a user's catalogue folder; default: ``BYTEBOUND_CATALOGUE``, or ours alone.
    """
    loaded = load_catalogue(catalogue)
    return {**loaded.rows, **{name: row_of(item.device) for name, item in loaded.files.items()}}


def aliases(catalogue: str | Path | None = None) -> Mapping[str, str]:
    """Return every listed alias (lower case) and the id it stands for."""
    return load_catalogue(catalogue).aliases


def is_file_name(name: str) -> bool:
    """Tell whether ``name`` is a path to a device or machine file rather than an id."""
    return name.strip().lower().endswith(FILE_ENDINGS)


def read_device(name: str, catalogue: str | Path | None = None) -> DeviceFile:
    """Return what the device or machine file at path ``name`` says (its ``base`` is looked up in ``catalogue``)."""
    loaded = load_catalogue(catalogue)
    return read_device_file(Path(name.strip()).expanduser(), loaded.fields)


def find_device(name: str, catalogue: str | Path | None = None, *, place: str = "") -> Device:
    """Return the device called ``name``: an exact id, a listed alias (any case), or a path to a device file.

    Args:
        name: such as ``"h100-sxm"``, ``"NVIDIA H100 80GB HBM3"`` or ``"my-chip.toml"``.
        catalogue: a user's catalogue folder; default: ``BYTEBOUND_CATALOGUE``, or ours alone.
        place: where the name was written, for the error.

    Raises:
        UnknownNameError: no such device; carries the nearest ids and aliases.
        DocumentError: a file that is wrong, or a device of which memory, bandwidth or rate is unknown.

    Example:
        >>> find_device("H100-SXM").memory_bytes.value / 2**20
        81559.0
    """
    if is_file_name(name):
        found = read_device(name, catalogue)
        if found.per_node is not None or found.nodes is not None:
            raise DocumentError(
                "this is a machine file, a device was asked for", place=name, mend="leave out per_node and nodes"
            )
        return found.device
    return load_catalogue(catalogue).device(name, place=place)

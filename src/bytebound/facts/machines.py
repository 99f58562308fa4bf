"""Read what people write for a machine: ``8x h100-sxm``, ``2x(8x h100-sxm)``, a file, or ``here``."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from bytebound.documents.device import Machine
from bytebound.errors import ByteboundError, DocumentError, QuantityError, UnknownNameError
from bytebound.facts.catalogue import load_catalogue
from bytebound.facts.devicefile import DeviceFile
from bytebound.facts.devices import is_file_name, read_device
from bytebound.facts.prices import rental
from bytebound.history.place import data_folder

if TYPE_CHECKING:
    from pathlib import Path

MAX_PER_NODE = 100_000
MAX_NODES = 1_000_000
MAX_DEVICES = 10_000_000
MAX_EXPRESSION = 4096  # as long as a path may be
HERE = "here"

_COUNTED = re.compile(r"([+-]?[0-9][0-9._,]*(?:[eE][+-]?[0-9]+)?)\s*[xX×*]\s*(.*)", re.DOTALL)
_FORM = 'write it as "h100-sxm", "8x h100-sxm" or "2x(8x h100-sxm)"'


def here_file() -> Path:
    """Return the file that ``here`` stands for, whether it exists or not."""
    return data_folder() / "here.json"


def find_machine(text: str | os.PathLike[str], catalogue: str | Path | None = None, *, place: str = "") -> Machine:
    """Return the machine that ``text`` describes, with the going rental price where offers are known.

    Args:
        text: ``"h100-sxm"``, ``"8x h100-sxm"`` (one node of eight), ``"2x(8x h100-sxm)"`` (two nodes), a path to a
            ``.toml`` or ``.json`` machine or device file, the same with a count, or ``"here"``.
        catalogue: a user's catalogue folder; default: ``BYTEBOUND_CATALOGUE``, or ours alone.
        place: where the text was written, for errors.

    Raises:
        UnknownNameError: no such device; carries the nearest.
        QuantityError: a count that is not a whole number or that no machine could have.
        DocumentError: a machine file that is missing or wrong.

    Example:
        >>> machine = find_machine("2x(8x h100-sxm)")
        >>> machine.nodes, machine.per_node, machine.devices
        (2, 8, 16)
    """
    where = place or "machine"
    text = os.fspath(text) if isinstance(text, os.PathLike) else text
    if not isinstance(text, str) or not text.strip():
        raise QuantityError("no machine given", place=where, mend=_FORM)
    if len(text) > MAX_EXPRESSION:
        raise QuantityError(f"a machine of {len(text):,} characters", place=where, mend=_FORM)
    nodes, per_node, name = _split(text.strip(), where)
    found = _lookup(name, catalogue, where)
    if (nodes is not None or per_node is not None) and (found.nodes is not None or found.per_node is not None):
        raise QuantityError(
            f"{name} says how many devices it has, and so does {text.strip()!r:.80}", place=where, mend="say it once"
        )
    nodes = found.nodes if nodes is None else nodes
    per_node = found.per_node if per_node is None else per_node
    return Machine(
        name=text.strip() if not is_file_name(name) else found.name or found.device.name,
        asked=text.strip() if is_file_name(name) else "",
        device=found.device,
        per_node=per_node or 1,
        nodes=nodes or 1,
        usd_per_device_hour=found.usd_per_device_hour
        or (rental(found.device.id, catalogue=catalogue) if found.named else None),
    )


def _split(text: str, where: str) -> tuple[int | None, int | None, str]:
    """Return (nodes, devices per node, device name); None where the text does not say."""
    outer = _COUNTED.fullmatch(text)
    if outer is None:
        return None, None, _name(text, where)
    first, rest = _count(outer[1], MAX_PER_NODE if "(" not in outer[2] else MAX_NODES, where), outer[2].strip()
    if not rest.startswith("("):
        if _COUNTED.fullmatch(rest):
            raise QuantityError(
                f"cannot read {text!r:.80}", place=where, mend='write nodes around devices: "2x(8x h100-sxm)"'
            )
        return None, first, _name(rest, where)
    if not rest.endswith(")"):
        raise QuantityError(f"{text!r:.80} has no closing bracket", place=where, mend=_FORM)
    inner = rest[1:-1].strip()
    counted = _COUNTED.fullmatch(inner)
    if counted is None:
        return first, 1, _name(inner, where)
    per_node = _count(counted[1], MAX_PER_NODE, where)
    if first * per_node > MAX_DEVICES:
        raise QuantityError(
            f"{first * per_node:,} devices", place=where, mend=f"at most {MAX_DEVICES:,} are understood"
        )
    return first, per_node, _name(counted[2].strip(), where)


def _name(text: str, where: str) -> str:
    if not text or any(mark in text for mark in "()"):
        if is_file_name(text):
            return text
        raise QuantityError(f"cannot read {text!r:.80} as a device", place=where, mend=_FORM)
    return text


def _count(text: str, most: int, where: str) -> int:
    if re.fullmatch(r"\+?[0-9]{1,12}", text) is None:
        raise QuantityError(f"{text!r:.40} is not a whole number of devices from 1 up", place=where, mend=_FORM)
    count = int(text)
    if not 1 <= count <= most:
        raise QuantityError(f"{count:,} is outside 1 to {most:,}", place=where, mend=_FORM)
    return count


def _lookup(name: str, catalogue: str | Path | None, where: str) -> DeviceFile:
    try:
        if name.lower() == HERE:
            return _here(catalogue)
        if is_file_name(name):
            return read_device(name, catalogue)
        loaded = load_catalogue(catalogue)
        key = loaded.aliases.get(name.lower(), name.lower())
        if key in loaded.files:
            return loaded.files[key]
        return DeviceFile(loaded.device(name))
    except UnknownNameError as error:
        if error.kind == "device" and not error.place:
            error.mend = "`bytebound devices` lists every id; a path to a device file ends in .toml or .json"
        raise _placed(error, where) from None
    except ByteboundError as error:
        raise _placed(error, where) from None


def _placed(error: ByteboundError, where: str) -> ByteboundError:
    return error if error.place else error.at(where)


def _here(catalogue: str | Path | None) -> DeviceFile:
    path = here_file()
    if not path.is_file():
        raise DocumentError(
            f"no measured machine found ({path.name} is not in the data folder)",
            place=HERE,
            mend='run `bytebound measure` first, or write a machine file, e.g. my-pc.toml with memory = "24GiB", memory_bandwidth = "1008GB/s", bf16 = '
            '"165TFLOP/s", and pass its path',
        )
    return read_device(str(path), catalogue)

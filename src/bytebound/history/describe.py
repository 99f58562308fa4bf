"""What a document is called in the history: kind, time, machine, host and a title; and the way back from its text."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from bytebound.documents.device import Device
from bytebound.documents.proof import Proofs
from bytebound.documents.record import Record
from bytebound.documents.values import from_json, plain
from bytebound.documents.watched import Watched
from bytebound.errors import DocumentError
from bytebound.units import show_rate

KINDS: dict[str, tuple[str, str, str]] = {
    "bytebound.machine/1": ("measurement", "bytebound.documents.device", "Device"),
    "bytebound.run/1": ("run", "bytebound.documents.observation", "Run"),
    "bytebound.observation/1": ("observation", "bytebound.documents.observation", "Observation"),
    "bytebound.calibration/1": ("calibration", "bytebound.documents.calibration", "Calibration"),
    "bytebound.watched/1": ("watched", "bytebound.documents.watched", "Watched"),
    "bytebound.proofs/1": ("proofs", "bytebound.documents.proof", "Proofs"),
    "bytebound.correction/1": ("correction", "bytebound.documents.correction", "Correction"),
}
"""Schema of a document -> its kind, and the module and class that read it."""

ID_LENGTH, TITLE_LENGTH, NAME_LENGTH = 100, 200, 200
RESERVED = ("latest", "previous")


def describe(document: Any) -> tuple[Record, str]:
    """Return the record of a document and its text, checked to read back as the same document.

    Raises:
        DocumentError: a kind that is not kept, no usable id or time, or a document that would not read back.
    """
    schema = str(getattr(document, "schema_", ""))
    if schema not in KINDS:
        raise DocumentError(f"a {type(document).__name__} is not kept in the history", mend=f"kept are {_kinds()}")
    source = document.measured if isinstance(document, Device) else document
    if source is None:
        raise DocumentError(
            f"{document.id} was never measured", mend="only measured machines are kept; run `bytebound measure`"
        )
    name = str(source.id)
    if not name.isprintable() or not 0 < len(name.replace(" ", "")) == len(name) <= ID_LENGTH or name in RESERVED:
        raise DocumentError(f"{name!r:.120} cannot be the id of a record", mend="use a word of up to 100 characters")
    seconds_of(source.when, place=name)
    kind = KINDS[schema][0]
    text = json.dumps(plain(document), allow_nan=False)  # ASCII: any database encoding holds it
    if read(schema, text, place=name) != document:
        raise DocumentError(f"this {kind} would not read back as it is", place=name, mend="it holds NaN or infinity")
    machine = document.id if isinstance(document, Device) else getattr(document, "machine", "")
    record = Record(
        id=name, kind=kind, when=source.when, machine=_line(machine, NAME_LENGTH), host=host_of(document),
        title=_line(_title(document, kind), TITLE_LENGTH), schema=schema,
    )  # fmt: skip
    return record, text


def read(schema: str, text: str, *, place: str) -> Any:
    """Return the document that ``text`` holds.

    Raises:
        DocumentError: a format this version does not know, or text that is not such a document.
    """
    if schema not in KINDS:
        raise DocumentError(
            f"{schema} is a format this version cannot read",
            place=place,
            mend=f"upgrade bytebound; read are {_kinds()}",
        )
    _, module, kind = KINDS[schema]
    return from_json(getattr(import_module(module), kind), text, place=place)


def seconds_of(when: str, *, place: str = "when") -> float:
    """Return an ISO time as seconds since 1970 (UTC where it names no zone).

    Raises:
        DocumentError: not an ISO time.

    Example:
        >>> seconds_of("1970-01-02T01:00:00+01:00")
        86400.0
    """
    try:
        moment = datetime.fromisoformat(when)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise DocumentError(
            f"{when!r:.60} is not a time", place=place, mend="write 2026-11-21T12:00:00+00:00"
        ) from None


def host_of(document: Any) -> str:
    """Return the processor, usable cores and accelerators a device was measured on; empty for other documents.

    Two measurements of one device id on one such host count as the same machine.
    """
    if not isinstance(document, Device) or document.measured is None:
        return ""
    system = document.measured.system
    return _line(", ".join((system.cpu, f"{system.cores_usable:g} cores", *system.accelerators)), NAME_LENGTH)


def _title(document: Any, kind: str) -> str:
    if isinstance(document, Device) and document.measured is not None:
        state = [
            document.measured.ladder,
            *([] if document.measured.complete else ["incomplete"]),
            *([] if document.measured.stable else ["unstable"]),
        ]
        return f"{document.name}: {show_rate(document.memory_bytes_per_s.value, 'B/s')}, {', '.join(state)}"
    if isinstance(document, Watched):
        rank = document.fullest
        return f"{rank.model.name if rank and rank.model else kind}: {' '.join(document.command)}"
    if isinstance(document, Proofs):
        held = sum(proof.verdict == "confirmed" for proof in document.proofs)
        return f"{held} of {len(document.proofs)} levers confirmed: {', '.join(p.lever for p in document.proofs)}"
    run = getattr(document, "run", document)
    words = [getattr(document, "model", ""), getattr(run, "engine", ""), getattr(run, "engine_version", "")]
    formats = dict.fromkeys(str(cost.weights) for cost in getattr(document, "formats", ()))
    title = " ".join(str(word) for word in words if word) or kind
    return f"{title}: {', '.join(formats)}" if formats else title


def _line(text: object, length: int) -> str:
    """Return one printable line; databases refuse NUL, terminals obey control characters."""
    return "".join(char for char in " ".join(str(text).split()) if char.isprintable())[:length]


def _kinds() -> str:
    return ", ".join(kind for kind, _, _ in KINDS.values())

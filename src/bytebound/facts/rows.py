"""One row of the device table and of the price table: the schema of our CSV files and of a user's."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bytebound.documents.device import Device, Figure, How, Positive

DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8", "int4")

MEMORY_HOW = {
    "driver": "driver-visible memory",
    "driver-recalled": "driver-visible memory, reading recalled",
    "binary": "marketed GB counted as 2^30 bytes",
    "decimal": "marketed GB counted as 10^9 bytes (the careful reading)",
}
"""How ``memory_bytes`` was read; a driver reading is preferred, see data/SOURCES.md."""


def parse_date(text: str) -> date:
    """Return the first day of ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``.

    Raises:
        ValueError: another spelling or a day that does not exist.

    Example:
        >>> parse_date("2026-08")
        datetime.date(2026, 8, 1)
    """
    if re.fullmatch(r"[0-9]{4}(-[0-9]{2}){0,2}", text) is None:
        raise ValueError("a date is written YYYY, YYYY-MM or YYYY-MM-DD")
    year, month, day = (*(int(part) for part in text.split("-")), 1, 1)[:3]
    return date(year, month, day)


def _checked_date(text: str) -> str:
    parse_date(text)
    return text


Date = Annotated[str, AfterValidator(_checked_date)]
Id = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class DeviceRow(BaseModel):
    """One device of the catalogue in SI units: dense rates, links per device and direction. Absent means unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    name: str
    vendor: str
    kind: Literal["gpu", "asic", "cpu", "tpu", "npu", "apple-soc", "phone-soc"]
    family: str = "generic"
    released: Date | Literal[""] = ""
    status: Literal["shipping", "announced", "rumoured", "cancelled"] = "shipping"
    confidence: Literal["high", "medium", "low"] = "medium"
    memory_type: str = ""
    memory_marketed: str = ""
    memory_bytes: Positive | None = None
    memory_how: Literal["driver", "driver-recalled", "binary", "decimal"] | None = None
    memory_bytes_per_s: Positive | None = None
    memory2: str = ""
    scratch_bytes: Positive | None = None
    l2_bytes: Positive | None = None
    llc_bytes: Positive | None = None
    on_chip_bytes_per_s: Positive | None = None
    fp64_flop_per_s: Positive | None = None
    fp32_flop_per_s: Positive | None = None
    tf32_flop_per_s: Positive | None = None
    bf16_flop_per_s: Positive | None = None
    fp16_flop_per_s: Positive | None = None
    fp8_flop_per_s: Positive | None = None
    fp4_flop_per_s: Positive | None = None
    int8_op_per_s: Positive | None = None
    int4_op_per_s: Positive | None = None
    rate_span_ratio: Annotated[float, Field(ge=1, le=10)] | None = None
    scaleup_link: str = ""
    scaleup_bytes_per_s: Positive | None = None
    scaleup_devices_count: Annotated[int, Field(ge=1, le=100_000)] = 1
    scaleout_bytes_per_s: Positive | None = None
    host_link: str = ""
    host_bytes_per_s: Positive | None = None
    power_w: Positive | None = None
    source: str = Field(min_length=1, max_length=1500)
    how: How = "cited"
    cited_fields: str = ""
    derived_fields: str = ""
    assumed_fields: str = ""
    checked_against: str = ""
    date: Date
    notes: str = ""

    def rate(self, dtype: str) -> float | None:
        """Dense matrix rate of ``dtype`` in FLOP/s (OP/s for integers), or None where no source gives one."""
        return getattr(self, rate_column(dtype), None)

    def how_of(self, column: str) -> How:
        """How the value of ``column`` is known: a check against a second source makes a recalled value cited."""
        marks: tuple[tuple[How, str], ...] = (
            ("assumed", self.assumed_fields),
            ("derived", self.derived_fields),
            ("cited", self.cited_fields),
        )
        return next((how for how, listed in marks if column in listed.split("|")), self.how)

    @property
    def missing(self) -> tuple[str, ...]:
        """What a Device needs and this row does not have, in words."""
        needs = {
            "memory capacity": self.memory_bytes,
            "memory bandwidth": self.memory_bytes_per_s,
            "compute rate": next((self.rate(dtype) for dtype in DTYPES if self.rate(dtype)), None),
        }
        return tuple(name for name, value in needs.items() if value is None)

    def figure(self, column: str, unit: str) -> Figure | None:
        """Return ``column`` as a Figure with its unit, source and date, or None where it is unknown."""
        value = getattr(self, column)
        if value is None:
            return None
        how = self.how_of(column)
        source = self.source
        if column == "memory_bytes" and self.memory_how:
            source = f"{source} [{MEMORY_HOW[self.memory_how]}]"
        span = self.rate_span_ratio if how == "assumed" and column.endswith("op_per_s") else None
        low, high = (value / span, value * span) if span else (None, None)
        return Figure(value=value, unit=unit, low=low, high=high, how=how, source=source, when=self.date)

    def device(self) -> Device:
        """Return the row as a Device; ask ``missing`` first."""
        return Device(**self.fields())

    def fields(self) -> dict[str, Any]:
        """Return the fields of a Device that are known."""
        rates = {dtype: self.figure(rate_column(dtype), rate_unit(dtype)) for dtype in DTYPES}
        caches = [name for name in ("l2_bytes", "llc_bytes") if getattr(self, name)] or ["scratch_bytes"]
        fields: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "vendor": self.vendor,
            "kind": self.kind,
            "family": self.family,
            "released": self.released,
            "status": self.status,
            "confidence": self.confidence,
            "memory_type": self.memory_type,
            "memory_marketed": self.memory_marketed,
            "memory_bytes": self.figure("memory_bytes", "B"),
            "memory_bytes_per_s": self.figure("memory_bytes_per_s", "B/s"),
            "flop_per_s": {dtype: rate for dtype, rate in rates.items() if rate is not None},
            "cache_bytes": self.figure(max(caches, key=lambda name: getattr(self, name) or 0.0), "B"),
            "scaleup_link": self.scaleup_link,
            "scaleup_bytes_per_s": self.figure("scaleup_bytes_per_s", "B/s"),
            "scaleup_devices": self.scaleup_devices_count,
            "scaleout_bytes_per_s": self.figure("scaleout_bytes_per_s", "B/s"),
            "host_link": self.host_link,
            "host_bytes_per_s": self.figure("host_bytes_per_s", "B/s"),
            "power_w": self.figure("power_w", "W"),
            "notes": self.notes,
        }
        return {name: value for name, value in fields.items() if value is not None}


def rate_column(dtype: str) -> str:
    """Column that holds the rate of ``dtype``.

    Example:
        >>> rate_column("bf16"), rate_column("int8")
        ('bf16_flop_per_s', 'int8_op_per_s')
    """
    return f"{dtype}_op_per_s" if dtype.startswith("int") else f"{dtype}_flop_per_s"


def rate_unit(dtype: str) -> str:
    """Unit of the rate of ``dtype``: FLOP/s, or OP/s for integers."""
    return "OP/s" if dtype.startswith("int") else "FLOP/s"


class PriceRow(BaseModel):
    """One rental offer: US dollars per device and hour, seen on a date."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device_id: Id
    provider: str = Field(min_length=1)
    region: str = ""
    kind: str = "on-demand"
    devices_count: Annotated[int, Field(ge=1, le=100_000)] = 1
    usd_per_device_hour: Annotated[float, Field(gt=0, lt=1e5, allow_inf_nan=False)]
    date: Date
    source: str = Field(min_length=1)
    licence: str = ""
    how: How = "cited"
    confidence: Literal["high", "medium", "low"] = "medium"
    note: str = ""

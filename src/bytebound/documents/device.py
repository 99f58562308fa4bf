"""Device and Machine: what the hardware holds and how fast it can go, each figure with its source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bytebound.documents.measurement import Measured

How = Literal["cited", "measured", "derived", "calibrated", "assumed"]
Positive = Annotated[float, Field(gt=0, lt=1e24, allow_inf_nan=False)]


class Figure(BaseModel):
    """One number with its unit, how it is known, from where and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Positive
    unit: str
    low: Positive | None = None
    high: Positive | None = None
    how: How = "cited"
    source: str = Field(min_length=1, max_length=2000)
    when: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Figure:
        if (self.low is not None and self.low > self.value) or (self.high is not None and self.high < self.value):
            raise ValueError("low, value and high must be in this order")
        return self


class Device(BaseModel):
    """One accelerator, CPU or system on chip: the same document for the catalogue, a user's file and a measurement.

    Rates are dense (never sparse), links are per device and per direction, memory is what the driver shows. A device
    measured here carries every reading in ``measured``; its memory bandwidth is then the read-only ceiling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["bytebound.machine/1"] = Field(default="bytebound.machine/1", alias="schema")
    id: str = Field(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    name: str
    vendor: str
    kind: Literal["gpu", "asic", "cpu", "tpu", "npu", "apple-soc", "phone-soc"]
    family: str = "generic"
    released: str = ""
    status: Literal["shipping", "announced", "rumoured", "cancelled"] = "shipping"
    confidence: Literal["high", "medium", "low"] = "medium"
    memory_type: str = ""
    memory_marketed: str = ""
    memory_bytes: Figure
    memory_bytes_per_s: Figure
    flop_per_s: dict[str, Figure]
    cache_bytes: Figure | None = None
    scaleup_link: str = ""
    scaleup_bytes_per_s: Figure | None = None
    scaleup_devices: int = Field(default=1, ge=1, le=100_000)
    scaleout_bytes_per_s: Figure | None = None
    host_link: str = ""
    host_bytes_per_s: Figure | None = None
    power_w: Figure | None = None
    notes: str = ""
    measured: Measured | None = None


class Machine(BaseModel):
    """``nodes`` nodes of ``per_node`` devices of one kind, and what a device costs per hour (None: unknown).

    ``asked`` is how it was written where that is not its name: the path of a machine file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    device: Device
    per_node: int = Field(default=1, ge=1, le=100_000)
    nodes: int = Field(default=1, ge=1, le=1_000_000)
    usd_per_device_hour: Figure | None = None
    asked: str = ""

    @property
    def devices(self) -> int:
        """Devices in all nodes."""
        return self.per_node * self.nodes

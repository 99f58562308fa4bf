"""What probes saw on a machine in hand: readings with their spread, what could not be probed, and how quiet it was."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Rate = Annotated[float, Field(ge=0, lt=1e24, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=2000)]


class Reading(BaseModel):
    """One probe: its best, median and 10/90 % samples, in SI units.

    ``best`` is the highest rate or the shortest time. ``low`` and ``high`` are the 90 % bootstrap range of the figure
    that counts: the best for ceilings, the median for workloads. ``disturbed`` samples ran while others used the
    processor. ``where`` says at which size, thread count, dtype, node or device: only strings and numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    unit: str = Field(min_length=1, max_length=20)
    best: Rate
    median: Rate
    p10: Rate
    p90: Rate
    low: Rate
    high: Rate
    samples: int = Field(ge=1)
    disturbed: int = Field(default=0, ge=0)
    where: dict[str, float | str] = Field(default_factory=dict)
    how: Text
    when: str = ""
    note: Text = ""

    @model_validator(mode="after")
    def _ordered(self) -> Reading:
        if not (self.p10 <= self.median <= self.p90 and self.low <= self.high):
            raise ValueError("p10, median and p90 must be in this order, and low under high")
        return self


class Missing(BaseModel):
    """A probe that gave nothing, and why, as one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probe: str
    why: Text


class CacheLevel(BaseModel):
    """A step of the cache ladder as measured: how much fits (per machine, all threads) and how fast it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: Rate
    read_bytes_per_s: Rate


class System(BaseModel):
    """What the operating system says of the machine, and the limits this process is under."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    vendor: str = ""
    architecture: str = ""
    cores_online: int = Field(ge=1)
    cores_usable: float = Field(gt=0)  # affinity and container quota; 1.5 is possible
    numa_nodes: int = Field(default=1, ge=1)
    reported_caches: dict[str, float] = Field(default_factory=dict)
    instructions: tuple[str, ...] = ()
    memory_total_bytes: float = Field(gt=0)
    memory_usable_bytes: float = Field(gt=0)  # under the container's limit too
    memory_free_bytes: float = Field(ge=0)
    swap_bytes: float = Field(default=0, ge=0)
    virtual: bool = False
    accelerators: tuple[str, ...] = ()
    os: str = ""
    software: dict[str, str] = Field(default_factory=dict)
    limits: tuple[str, ...] = ()  # sentences: a quota, an affinity mask, a memory limit


class Measured(BaseModel):
    """The record behind a measured device: every reading, kept beside the ceilings drawn from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1, max_length=100)
    when: str
    seconds: float = Field(ge=0)
    ladder: str = "full"  # full or quick
    complete: bool = True  # False: interrupted, or parts failed
    stable: bool = True  # False: memory bandwidth at the end differed by over 5 % from the start
    disturbed: float = Field(default=0, ge=0, le=1)  # share of samples during which others used the processor
    system: System
    readings: tuple[Reading, ...] = ()
    caches: tuple[CacheLevel, ...] = ()
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()

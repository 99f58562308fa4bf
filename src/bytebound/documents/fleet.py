"""Fleet: pools of hardware, a dated roadmap, and workloads with demand that grows. What ``bytebound audit`` reads."""

from __future__ import annotations

import datetime as dt
import difflib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bytebound.documents.toml_file import dotted, line_of, parse_toml, quantity, read_toml

if TYPE_CHECKING:
    from pathlib import Path

FLEET_SCHEMA = "bytebound.fleet/1"
MONTH_LIMIT = 120


def _month(value: object) -> object:
    if isinstance(value, dt.date):
        return f"{value.year:04d}-{value.month:02d}"
    return value


Positive = Field(gt=0, lt=1e18, allow_inf_nan=False)
Seconds = Annotated[float, quantity("seconds"), Positive]
PerSecond = Annotated[float, quantity("requests per second"), Positive]
UsdPerHour = Annotated[float, quantity("US dollars per hour"), Field(ge=0, lt=1e9, allow_inf_nan=False)]
Watts = Annotated[float, quantity("watts"), Positive]
Factor = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Share = Annotated[float, quantity("fraction"), Field(ge=0, le=1, allow_inf_nan=False)]
Sigma = Annotated[float, Field(ge=0, le=3, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100_000_000)]
Month = Annotated[str, BeforeValidator(_month), Field(pattern=r"^(19|20)\d\d-(0[1-9]|1[0-2])$")]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pool(_Record):
    """Devices of one kind that workloads share. ``price`` per device-hour; without one the facts' rental median is used."""

    name: Name
    device: Name
    count: Count
    node: Annotated[int, Field(ge=1, le=100_000)] = 8
    price: UsdPerHour | None = None
    since: Month | None = None


class RoadmapEvent(_Record):
    """A dated change of a pool: devices added or retired, or a new price. ``slip_months`` is the mean delay."""

    pool: Name
    when: Month
    add: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    retire: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    price: UsdPerHour | None = None
    slip_months: Annotated[float, Field(ge=0, le=MONTH_LIMIT, allow_inf_nan=False)] = 0.0
    chance: Share = 1.0
    note: str = ""

    @model_validator(mode="after")
    def _changes(self) -> RoadmapEvent:
        if not (self.add or self.retire or self.price is not None):
            raise ValueError("says nothing: give add, retire or price")
        return self


class Lengths(_Record):
    """A log-normal spread of token counts by its median and 90th percentile."""

    p50: Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)]
    p90: Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _ordered(self) -> Lengths:
        if self.p90 < self.p50:
            raise ValueError("p90 is below p50")
        return self

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm."""
        import math  # noqa: PLC0415 - one use

        return math.log(self.p90 / self.p50) / 1.2815515655446004

    @property
    def mean(self) -> float:
        """Mean of the log-normal."""
        import math  # noqa: PLC0415 - one use

        return self.p50 * math.exp(self.sigma**2 / 2)


Tokens = Annotated[int, Field(ge=1, le=1_000_000_000)] | Lengths


class Demand(_Record):
    """What is asked, and how it grows. Growth is a factor per year; ``*_sigma`` the spread of its logarithm.

    ``peak`` is the busiest hour over the mean: supply has to meet the peak.
    """

    requests: PerSecond | None = None
    prompt: Tokens = 1024
    output: Tokens = 256
    images: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] = 0
    growth: Factor = 1.0
    growth_sigma: Sigma = 0.0
    context_growth: Factor = 1.0
    context_growth_sigma: Sigma = 0.0
    model_growth: Factor = 1.0
    model_growth_sigma: Sigma = 0.0
    peak: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] = 1.0
    shared_prefix: Share = 0.0
    reused_context: Share = 0.0


class Objective(_Record):
    """The latency to meet, by its bound on time to first token and time per output token."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    request: Seconds | None = None


class Deployment(_Record):
    """How the model is served now."""

    tp: Annotated[int, Field(ge=1, le=4096)] = 1
    pp: Annotated[int, Field(ge=1, le=1024)] = 1
    ep: Annotated[int, Field(ge=1, le=4096)] = 1
    dp: Annotated[int, Field(ge=1, le=100_000)] = 1
    weights: str = "auto"
    kv: str = "auto"
    engine: Name = "vllm"
    batch: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    prefix_hit: Share = 0.0
    denoise_steps: Annotated[int, Field(ge=1, le=10_000)] = 28
    disaggregated: bool = False


class Job(_Record):
    """A training or fine-tuning job: ``tokens`` to train on within ``days``; every other field is one of ``Train``."""

    tokens: Annotated[float, Field(ge=1, le=1e16, allow_inf_nan=False)]
    days: Annotated[float, Field(gt=0, le=36500, allow_inf_nan=False)]
    seq: Annotated[int, Field(ge=1, le=100_000_000)] = 4096
    micro_batch: Annotated[int, Field(ge=1, le=100_000)] = 1
    global_batch: Annotated[int, Field(ge=1, le=100_000_000)] = 512
    tp: Annotated[int, Field(ge=1, le=4096)] = 1
    pp: Annotated[int, Field(ge=1, le=1024)] = 1
    cp: Annotated[int, Field(ge=1, le=1024)] = 1
    dp: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    ep: Annotated[int, Field(ge=1, le=4096)] = 1
    expert_tp: Annotated[int, Field(ge=0, le=4096)] = 0
    virtual_stages: Annotated[int, Field(ge=1, le=1024)] = 1
    schedule: Literal["auto", "1f1b", "interleaved", "gpipe", "zb1p", "zbv"] = "auto"
    zero: Annotated[int, Field(ge=0, le=3)] = 3
    precision: str = "bf16-mixed"
    gradients: Literal["auto", "fp32", "bf16"] = "auto"
    optimizer: str = "adamw"
    optimizer_kernel: Literal["auto", "foreach", "fused", "loop"] = "auto"
    recompute: Literal["none", "selective", "full"] = "selective"
    recompute_layers: Share = 1.0
    attention: Literal["flash", "eager"] = "flash"
    loss: Literal["full", "chunked"] = "full"
    sequence_parallel: Literal["auto", "on", "off"] = "auto"
    offload: Literal["none", "optimizer", "parameters", "optimizer-nvme", "parameters-nvme"] = "none"
    trainable: Literal["full", "lora", "qlora"] = "full"
    lora_rank: Annotated[int, Field(ge=1, le=65_536)] = 16
    lora_targets: Literal["all", "attention", "qv", "mlp"] = "all"
    framework: str = "auto"


class Workload(_Record):
    """One workload: a model on a pool, with demand and an objective, or a training job."""

    name: Name
    kind: Literal["serve", "edge", "train", "finetune"] = "serve"
    model: Name
    pool: Name
    devices: Count | None = None
    demand: Demand = Demand()
    objective: Objective = Objective()
    deployment: Deployment = Deployment()
    job: Job | None = None
    quality_floor: Literal["any", "near-lossless", "lossless"] = "near-lossless"

    @model_validator(mode="after")
    def _complete(self) -> Workload:
        if self.kind in {"train", "finetune"} and self.job is None:
            raise ValueError(f"kind {self.kind!r} needs a [workload.job] table with tokens and days")
        if self.kind == "serve" and self.demand.requests is None:
            raise ValueError("kind 'serve' needs demand.requests, such as \"5/s\"")
        return self


class Limits(_Record):
    """What the whole fleet may not exceed."""

    usd_per_month: Annotated[float, quantity("US dollars"), Positive] | None = None
    power: Watts | None = None


class Fleet(_Record):
    """The whole file."""

    schema_: Literal["bytebound.fleet/1"] = Field(default="bytebound.fleet/1", alias="schema")
    name: Name
    start: Month
    months: Annotated[int, Field(ge=1, le=MONTH_LIMIT)] = 18
    limits: Limits = Limits()
    pool: Annotated[tuple[Pool, ...], Field(min_length=1, max_length=1000)]
    roadmap: Annotated[tuple[RoadmapEvent, ...], Field(max_length=10_000)] = ()
    workload: Annotated[tuple[Workload, ...], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _consistent(self) -> Fleet:
        pools = [pool.name for pool in self.pool]
        names = [workload.name for workload in self.workload]
        for kind, given in (("pool", pools), ("workload", names)):
            twice = sorted({name for name in given if given.count(name) > 1}) if len(set(given)) < len(given) else []
            if twice:
                raise ValueError(f"two {kind}s are called {twice[0]!r}")
        for kind, index, name in (
            *(("workload", i, w.pool) for i, w in enumerate(self.workload)),
            *(("roadmap", i, e.pool) for i, e in enumerate(self.roadmap)),
        ):
            if name not in pools:
                near = difflib.get_close_matches(name, pools, n=1, cutoff=0.4)
                hint = f"; did you mean {near[0]!r}?" if near else f"; pools are {', '.join(sorted(pools))}"
                raise ValueError(f"@{kind}.{index}.pool@no pool is called {name!r}{hint}")
        by_pool: dict[str, str] = {}
        for index, event in enumerate(self.roadmap):
            if event.when < by_pool.get(event.pool, ""):
                raise ValueError(
                    f"@roadmap.{index}.when@dates go backwards for pool {event.pool!r}: {event.when} after {by_pool[event.pool]}"
                )
            by_pool[event.pool] = event.when
        for index, pool in enumerate(self.pool):
            if pool.since is not None and pool.since > self.start:
                raise ValueError(
                    f"@pool.{index}.since@since {pool.since} is after the start {self.start}; write it as a roadmap addition"
                )
        return self


def read_fleet(path: Path) -> Fleet:
    """Return the fleet in the TOML file ``path``.

    Raises:
        DocumentError: missing, too large, not TOML, or wrong; every problem is named with file, line and key.
    """
    return parse_fleet(read_toml(path, kind="fleet"), place=str(path))


def parse_fleet(text: str, *, place: str = "fleet") -> Fleet:
    """Return the fleet that ``text`` (TOML) describes. Raises DocumentError as ``read_fleet`` does."""
    return parse_toml(Fleet, text, place=place, tables=_TABLES, mend="see docs/fleet.md")


def place_in(path: Path, parts: list[Any]) -> str:
    """Return ``file:line: key`` of the key that ``parts`` names (``["pool", 0, "device"]``), for errors found later."""
    if not path.is_file():
        return f"{path}: {dotted(parts)}"
    return f"{path}:{line_of(path.read_text(encoding='utf-8'), parts)}: {dotted(parts)}"


_TABLES: dict[str, type[BaseModel]] = {
    "pool": Pool, "roadmap": RoadmapEvent, "workload": Workload, "limits": Limits, "demand": Demand,
    "objective": Objective, "deployment": Deployment, "job": Job, "prompt": Lengths, "output": Lengths,
}  # fmt: skip

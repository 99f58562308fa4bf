"""Fleet: pools of hardware, a dated roadmap, and workloads with demand that grows. What ``bytebound audit`` reads."""

from __future__ import annotations

import datetime as dt
import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bytebound.errors import DocumentError, QuantityError
from bytebound.units import parse

if TYPE_CHECKING:
    from pathlib import Path

FLEET_SCHEMA = "bytebound.fleet/1"
FILE_LIMIT_BYTES = 1 << 20
MONTH_LIMIT = 120


def _quantity(dimension: str) -> BeforeValidator:
    def read(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return parse(value, dimension)
        except QuantityError as error:  # pydantic collects ValueErrors with their place
            raise ValueError(str(error)) from None

    return BeforeValidator(read)


def _month(value: object) -> object:
    if isinstance(value, dt.date):
        return f"{value.year:04d}-{value.month:02d}"
    return value


Positive = Field(gt=0, lt=1e18, allow_inf_nan=False)
Seconds = Annotated[float, _quantity("seconds"), Positive]
PerSecond = Annotated[float, _quantity("requests per second"), Positive]
UsdPerHour = Annotated[float, _quantity("US dollars per hour"), Field(ge=0, lt=1e9, allow_inf_nan=False)]
Watts = Annotated[float, _quantity("watts"), Positive]
Factor = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Share = Annotated[float, _quantity("fraction"), Field(ge=0, le=1, allow_inf_nan=False)]
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

    usd_per_month: Annotated[float, _quantity("US dollars"), Positive] | None = None
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
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise DocumentError(
                f"larger than {FILE_LIMIT_BYTES} bytes", place=str(path), mend="a fleet file is a few kilobytes"
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DocumentError("no such file", place=str(path), mend="give the path of a fleet file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"cannot be read: {error}", place=str(path)) from None
    return parse_fleet(text, place=str(path))


def parse_fleet(text: str, *, place: str = "fleet") -> Fleet:
    """Return the fleet that ``text`` (TOML) describes. Raises DocumentError as ``read_fleet`` does."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{place}:{line[1]}" if line else place
        raise DocumentError(f"not TOML: {error}", place=where, mend="check the brackets and quotes there") from None
    except RecursionError:
        raise DocumentError("nested too deeply", place=place) from None
    try:
        return Fleet.model_validate(data)
    except ValidationError as error:
        raise DocumentError(_sentences(error, text, place), mend="see docs/fleet.md") from None


def place_in(path: Path, parts: list[Any]) -> str:
    """Return ``file:line: key`` of the key that ``parts`` names (``["pool", 0, "device"]``), for errors found later."""
    if not path.is_file():
        return f"{path}: {_dotted(parts)}"
    return f"{path}:{_line_of(path.read_text(encoding='utf-8'), parts)}: {_dotted(parts)}"


def _sentences(error: ValidationError, text: str, place: str) -> str:
    found = []
    problems = error.errors(include_url=False)
    inner = {item["loc"][:depth] for item in problems for depth in range(1, len(item["loc"]))}
    for item in problems:
        if item["type"] == "too_short" and item["loc"] in inner:
            continue  # pydantic counts what is left after the wrong ones, which are named themselves
        path, message = item["loc"], str(item["msg"]).removeprefix("Value error, ")
        pointed = re.match(r"@([\w.]+)@", message)
        if pointed:
            path = tuple(int(part) if part.isdigit() else part for part in pointed[1].split("."))
            message = message[pointed.end() :]
        parts = [part for part in path if not (isinstance(part, str) and part in {"Lengths", "int", "constrained-int"})]
        line = _line_of(text, parts)
        key = _dotted(parts)
        if item["type"] == "extra_forbidden":
            message = f"unknown key{_nearest_key(parts)}"
        given = item.get("input")
        shown = (
            f" (given {given!r})" if isinstance(given, str | int | float) and item["type"] != "extra_forbidden" else ""
        )
        found.append((line, f"{place}:{line}: {key}: {message}{shown}" if key else f"{place}:{line}: {message}"))
    return "\n".join(dict.fromkeys(sentence for _, sentence in sorted(found)))


def _dotted(parts: list[Any]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


_TABLES: dict[str, type[BaseModel]] = {
    "pool": Pool, "roadmap": RoadmapEvent, "workload": Workload, "limits": Limits, "demand": Demand,
    "objective": Objective, "deployment": Deployment, "job": Job, "prompt": Lengths, "output": Lengths,
}  # fmt: skip


def _nearest_key(parts: list[Any]) -> str:
    tables = [part for part in parts[:-1] if isinstance(part, str) and part in _TABLES]
    known = list(_TABLES[tables[-1]].model_fields) if tables else list(Fleet.model_fields)
    near = difflib.get_close_matches(str(parts[-1]), known, n=2, cutoff=0.5) if parts else []
    return f"; nearest: {', '.join(near)}" if near else f"; known: {', '.join(name.rstrip('_') for name in known)}"


def _line_of(text: str, parts: list[Any]) -> int:
    """Return the line of the key ``parts`` names, or of the table that should hold it."""
    names = [part for part in parts if isinstance(part, str)]
    index = next((part for part in parts if isinstance(part, int)), 0)
    seen: dict[str, int] = {}
    best, inside, header = 1, not names or len(names) == 1, ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        table = re.match(r"\[\[?\s*([\w.\-\"]+)\s*\]\]?", line)
        if table:
            header = table[1].replace('"', "")
            if line.startswith("[["):
                seen[header] = seen.get(header, -1) + 1
            root = header.split(".")[0]
            inside = bool(names) and root == names[0] and seen.get(root, 0) == index
            if inside and header == ".".join(names[: header.count(".") + 1]):
                best = number
        elif inside and names:
            key = re.match(r"([\w\-\".]+)\s*=", line)
            if key:
                full = [*header.split("."), *key[1].replace('"', "").split(".")] if header else key[1].split(".")
                if full == names or (full == names[: len(full)] and len(full) > header.count(".") + 1):
                    return number
    return best

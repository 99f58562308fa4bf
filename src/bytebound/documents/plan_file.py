"""The file of a plan request: what ``bytebound plan --file`` reads, and the request it stands for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from bytebound.documents.fleet import Name, PerSecond, Seconds, Share
from bytebound.documents.plan import PlanRequest, Wanted
from bytebound.documents.toml_file import parse_toml, quantity, read_toml

if TYPE_CHECKING:
    from pathlib import Path

PLAN_REQUEST_SCHEMA = "bytebound.plan-request/1"
MOST_VALUES = 1000
_NUMBER = r"\s*\d+(\.\d+)?([eE][+-]?\d+)?\s*"
_RANGE = re.compile(rf"{_NUMBER}(:{_NUMBER}){{1,2}}|{_NUMBER}(,{_NUMBER})*", re.ASCII)


def _numbers(value: object) -> object:
    """Return a range as it was written: a number, a list of numbers, or a text such as ``"1,2,4"`` or ``"1:512"``."""
    if isinstance(value, str):
        if len(value) > 100 * MOST_VALUES or not _RANGE.fullmatch(value):
            raise ValueError('not a range; write [1, 2, 4], "1,2,4", "1:512" or "1:512:8"')
        return value
    values = value if isinstance(value, list | tuple) else [value]
    if not values or len(values) > MOST_VALUES:
        raise ValueError(f"{len(values)} values; state 1 to {MOST_VALUES:,}")
    for each in values:
        if isinstance(each, bool) or not isinstance(each, int | float) or not 0 <= each <= 1e12:
            raise ValueError(f"{each!r:.40} is not a number from 0 to 1e12")
    return tuple(values)


def _names(value: object) -> object:
    """Return a list of names; a text holds them between commas."""
    values = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not 0 < len(values) <= MOST_VALUES:
        raise ValueError('not a list of names; write ["auto", "fp8"] or "auto,fp8"')
    for each in values:
        if not isinstance(each, str) or not 0 < len(each) <= 200:
            raise ValueError(f"{each!r:.40} is not a name")
    return tuple(values)


_ONE_OR_MANY = {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "array", "items": {"type": "number"}}]}
Range = Annotated[Any, BeforeValidator(_numbers), WithJsonSchema(_ONE_OR_MANY)]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_names),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Tokens = Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)]
Money = Annotated[float, quantity("US dollars"), Field(gt=0, le=1e15, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bounds(_Record):
    """The objective: bounds on time to first token, time per output token and a whole request."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None
    request: Seconds | None = None


class PlannedModel(_Record):
    """One model and what it has to serve: ``demand`` is that of the busiest hour."""

    name: Name
    demand: Annotated[PerSecond, Field(le=1e12)]
    prompt: Tokens = 1024
    output: Tokens = 256
    objective: Bounds = Bounds()
    shared_prefix: Share = 0.0
    reused_context: Share = 0.0

    @model_validator(mode="after")
    def _whole(self) -> PlannedModel:
        if self.shared_prefix + self.reused_context > 1:
            raise ValueError("shared_prefix + reused_context is more than the whole prompt")
        return self


class Search(_Record):
    """What to search: devices, and the values of every range; what is not stated is searched by default."""

    devices: Names | None = None
    tp: Range | None = None
    pp: Range | None = None
    ep: Range | None = None
    dp: Range | None = None
    weights: Names | None = None
    kv: Names | None = None
    batch: Range | None = None
    chunk: Range | None = None
    draft: Range | None = None
    acceptance: Range | None = None
    prefix_hit: Range | None = None
    offload_hit: Range | None = None
    host_weights: Range | None = None
    disaggregated: Literal["auto", "yes", "no", True, False] | None = None


class HeldPool(_Record):
    """The devices there are: ``devices`` names each kind and how many, such as ``{"h100-sxm" = 64}``."""

    devices: Annotated[
        dict[Name, Annotated[int, Field(ge=1, le=100_000_000)]], Field(min_length=1, max_length=MOST_VALUES)
    ]


class PlanFile(_Record):
    """The whole file."""

    schema_: Literal["bytebound.plan-request/1"] = Field(default="bytebound.plan-request/1", alias="schema")
    models: Annotated[tuple[PlannedModel, ...], Field(min_length=1, max_length=1000)]
    search: Search = Search()
    pool: HeldPool | None = None
    minimize: Literal["cost", "throughput", "latency", "energy"] = "cost"
    quality: Literal["any", "near-lossless", "lossless"] = "near-lossless"
    sure: Annotated[float, quantity("fraction"), Field(ge=0, le=0.999, allow_inf_nan=False)] = 0.8
    budget: Money | None = None
    max_devices: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    engine: Name = "vllm"
    whole_nodes: bool = False
    utilization: Annotated[float, quantity("fraction"), Field(ge=0.01, le=1, allow_inf_nan=False)] = 0.9
    most: Annotated[float, Field(ge=1, le=1e12, allow_inf_nan=False)] = 2e8

    @model_validator(mode="after")
    def _consistent(self) -> PlanFile:
        if self.pool is not None and self.search.devices is not None:
            raise ValueError("@search.devices@devices are named here and in the pool; name them in the pool alone")
        return self

    def request(self) -> PlanRequest:
        """Return the question that the file asks."""
        ranges = {
            {"draft": "draft_tokens"}.get(name, name): value
            for name, value in self.search
            if name != "devices" and value is not None
        }
        held = self.pool.devices if self.pool is not None else {}
        return PlanRequest(
            models=tuple(
                Wanted(
                    model=each.name, demand_per_s=each.demand, prompt=each.prompt, output=each.output,
                    objective={name: bound for name, bound in each.objective if bound is not None},
                    shared_prefix=each.shared_prefix, reused_context=each.reused_context,
                )
                for each in self.models
            ),
            devices=self.search.devices or (), pool=", ".join(f"{count}x {name}" for name, count in held.items()), ranges=ranges,
            minimize=self.minimize, sure=self.sure, quality=self.quality, engine=self.engine, max_devices=self.max_devices,
            usd_per_month=self.budget, whole_nodes=self.whole_nodes, most_used=self.utilization, most=self.most,
        )  # fmt: skip


_TABLES: dict[str, type[BaseModel]] = {
    "models": PlannedModel, "objective": Bounds, "search": Search, "pool": HeldPool,
}  # fmt: skip


def read_plan_file(path: Path) -> PlanRequest:
    """Return the question that the TOML file ``path`` asks.

    Raises:
        DocumentError: missing, too large, not TOML, or wrong; every problem is named with file, line and key.
    """
    return parse_plan(read_toml(path, kind="plan"), place=str(path))


def parse_plan(text: str, *, place: str = "plan") -> PlanRequest:
    r"""Return the question that ``text`` (TOML) asks. Raises DocumentError as ``read_plan_file`` does.

    Example:
        >>> asked = parse_plan('[[models]]\nname = "llama-3.1-8b"\ndemand = "300/min"\nobjective = {tpot = "50ms"}')
        >>> asked.models[0].demand_per_s, asked.models[0].objective
        (5.0, {'tpot': 0.05})
    """
    mend = "see bytebound plan --help, or bytebound schema plan-request"
    return parse_toml(PlanFile, text, place=place, tables=_TABLES, mend=mend).request()

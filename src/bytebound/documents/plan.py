"""Plan: the cheapest deployments that meet an objective, the Pareto front, what binds each, and the commands to start one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from bytebound.documents.values import Interval, Provenance
from bytebound.errors import QuantityError, UnknownNameError
from bytebound.units import parse

PLAN_SCHEMA = "bytebound.plan/1"
BOUNDS = ("ttft", "tpot", "request")
"""What an objective can bound: time to first token (waiting included), time per output token, a whole request."""
QUALITIES = ("any", "near-lossless", "lossless")
"""Floors of quality, loosest first."""

Minimize = Literal["cost", "throughput", "latency", "energy"]
Quality = Literal["any", "near-lossless", "lossless"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one model has to serve.

    Args:
        model: a bundled id or a path.
        demand_per_s: requests per second, at the busiest hour.
        prompt, output: tokens per request.
        objective: bound in seconds by name (``ttft``, ``tpot``, ``request``); missing or None: not bounded.
        shared_prefix: share of the prompt that requests have in common; a prefix cache can serve it.
        reused_context: share of the prompt that an earlier turn of the same conversation computed; host memory can keep its KV.
    """

    model: str
    demand_per_s: float
    prompt: float = 1024
    output: float = 256
    objective: dict[str, float | None] = field(default_factory=dict)
    shared_prefix: float = 0.0
    reused_context: float = 0.0

    def __post_init__(self) -> None:
        """Check every quantity.

        Raises:
            QuantityError, UnknownNameError: the message names the field.
        """
        for name, low, high in (
            ("prompt", 1, 1e10),
            ("output", 1, 1e10),
            ("shared_prefix", 0, 1),
            ("reused_context", 0, 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise QuantityError(f"{name} is {value:g}, outside {low:g} … {high:g}", place=name)
        if not 0 < self.demand_per_s <= 1e12:
            raise QuantityError(
                f"demand is {self.demand_per_s:g} requests per second",
                place="demand",
                mend='write it as "5/s" or "300/min"',
            )
        if self.shared_prefix + self.reused_context > 1:
            raise QuantityError("shared_prefix + reused_context is more than the whole prompt", place="shared_prefix")
        for name, bound in self.objective.items():
            if name not in BOUNDS:
                raise UnknownNameError("objective", name, BOUNDS, place="for", mend='write "ttft<1s,tpot<50ms"')
            if bound is not None and not (math.isfinite(bound) and bound > 0):
                raise QuantityError(f"{name} < {bound:g} s can never be met", place="for", mend="state a positive time")


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A question to ``plan``: what is wanted, on what, within what.

    Args:
        models: one or several; several share ``pool`` where there is one.
        devices: device ids, machines or files to choose from; empty: the usual rented ones.
        pool: devices there are and no more, such as ``"64x h100-sxm, 32x l40s"``; empty: any number can be rented.
        ranges: by name (``tp``, ``weights``, ``batch`` ...): values to try in place of the default ones.
        minimize: what the best deployment has least of: ``cost``, ``latency`` (TPOT), ``energy`` per token, or, for
            ``throughput``, devices per token and second.
        sure: least probability of meeting every bound.
        quality: floor of quality.
        max_devices, usd_per_month: limits on each model (with a pool: on devices, the pool too).
        whole_nodes: rent whole nodes rather than devices.
        most_used: utilization planned for at most: a queue at 100 % never ends.
        most: most predictions to make; a larger space is refused.
    """

    models: tuple[Wanted, ...]
    devices: tuple[str, ...] = ()
    pool: str = ""
    ranges: dict[str, Any] = field(default_factory=dict)
    minimize: Minimize = "cost"
    sure: float = 0.8
    quality: Quality = "near-lossless"
    engine: str = "vllm"
    max_devices: int | None = None
    usd_per_month: float | None = None
    whole_nodes: bool = False
    most_used: float = 0.9
    most: float = 2e8


_BOUND = re.compile(r"\s*([a-z_]+)\s*(<=?)\s*([^<,]+?)\s*")


def read_objective(text: str, *, place: str = "for") -> dict[str, float | None]:
    """Return the bounds [s] that a text such as ``"ttft<1s,tpot<50ms"`` states; an empty text states none.

    Raises:
        QuantityError, UnknownNameError: not of that form; a name that cannot be bounded.

    Example:
        >>> read_objective("ttft<1s, tpot<50ms")
        {'ttft': 1.0, 'tpot': 0.05}
    """
    found: dict[str, float | None] = {}
    for part in text.split(",") if text.strip() else ():
        match = _BOUND.fullmatch(part.lower() if part.isupper() else part)
        if match is None:
            raise QuantityError(
                f"cannot read {part.strip()!r} as a bound", place=place, mend='write "ttft<1s,tpot<50ms"'
            )
        if match[1] not in BOUNDS:
            raise UnknownNameError("objective", match[1], BOUNDS, place=place, mend='write "ttft<1s,tpot<50ms"')
        if match[1] in found:
            raise QuantityError(f"{match[1]} is bounded twice", place=place, mend="state each bound once")
        found[match[1]] = parse(match[3], "seconds", place=place)
    return found


@dataclass(frozen=True, slots=True)
class Command:
    """How to start one deployment on one engine: shell lines or a manifest, in the flags of a stated engine version."""

    engine: str
    version: str
    text: str
    kind: str = "shell"  # shell, kubernetes
    notes: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One way to serve one model.

    ``replicas`` copies of ``tp × pp × dp`` devices each; disaggregated: ``replicas`` decode and ``prefill_replicas`` prefill copies.
    ``machine`` is what one copy runs on, as ``estimate --on`` takes it; ``devices`` counts all copies' (whole nodes where those are rented).
    ``ttft_s`` includes the wait at a busy replica; ``usd_per_mtok`` is the bill over the output tokens of the stated demand.
    Times and rates carry the interval they were predicted with; ``probability`` is the least chance
    that every part of the objective is met and the copies carry the demand.
    ``quality`` as on the lever cards; ``levers`` names what differs from the plain deployment of the checkpoint.
    """

    model: str
    machine: str
    device: str
    devices: int
    replicas: int
    prefill_replicas: int
    work: dict[str, Any]  # the Serve request of one replica, as understood
    ttft_s: Interval
    tpot_s: Interval
    tokens_per_s: Interval  # of all replicas
    requests_per_s: float  # it can take, at the objective
    utilization: float  # demand over that
    memory_bytes: float  # on the fullest device
    usable_bytes: float
    usd_per_month: Interval | None
    usd_per_mtok: Interval | None
    joules_per_token: Interval | None
    probability: float
    binds: str
    quality: str
    quality_note: str
    levers: tuple[str, ...] = ()
    proven: tuple[str, ...] = ()
    engine: str = "vllm"
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Searched:
    """How much was searched: full predictions, how many fitted and met the objective, seconds, and the ranges.

    ``front`` deployments are on the exact Pareto front; those shown stand for others that are within ``merged_within`` (a share) of
    them in every respect.
    """

    predictions: int
    fitting: int
    meeting: int
    seconds: float
    ranges: dict[str, list[Any]]
    front: int = 0
    merged_within: float = 0.0


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why nothing meets the objective: the limit that forbids it, how near the best came, and the nearest deployment that runs."""

    limit: str  # capacity, ttft, tpot, request, devices, budget, probability, quality
    sentence: str
    nearest: Deployment | None
    mend: str


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """The answer for one model: ``best`` is the cheapest that meets the objective, ``front`` the Pareto front with it."""

    model: str
    demand_per_s: float
    prompt: float
    output: float
    objective: dict[str, float | None]
    best: Deployment | None
    front: tuple[Deployment, ...]
    infeasible_because: Infeasible | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """``bytebound plan``. One model: ``best`` and ``front`` are its own; several sharing a pool: ``models`` has each, totals cover all."""

    best: Deployment | None
    front: tuple[Deployment, ...]
    searched: Searched
    infeasible_because: Infeasible | None
    models: tuple[ModelPlan, ...]
    devices: int | None
    usd_per_month: float | None
    pool: str = ""
    notes: tuple[str, ...] = ()
    provenance: tuple[Provenance, ...] = ()
    schema_: str = PLAN_SCHEMA

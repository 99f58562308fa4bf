"""The cheapest deployments that meet an objective: ``plan``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path  # noqa: TC003 - the parser reads it
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from bytebound.cli.output import FINE, NO, Html, Json, Quiet, emit, page, writable, write
from bytebound.errors import RequestError

if TYPE_CHECKING:
    from bytebound.documents.plan import Plan, PlanRequest

RANGES = Group("Ranges", help="Values to try: 1,2,4 or low:high or low:high:step.", sort_key=5)


def _range(text: str) -> Parameter:
    return Parameter(group=RANGES, help=text)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges of a search; empty: the default ones, which the answer shows."""

    tp: Annotated[str, _range("Tensor-parallel degrees.")] = ""
    pp: Annotated[str, _range("Pipeline stages.")] = ""
    ep: Annotated[str, _range("Expert-parallel degrees.")] = ""
    dp: Annotated[str, _range("Data-parallel degrees of attention.")] = ""
    weights: Annotated[str, _range("Weight formats; auto: as the checkpoint stores them.")] = ""
    kv: Annotated[str, _range("KV-cache formats.")] = ""
    batch: Annotated[str, _range("Concurrent sequences of one copy; 1:512 is 64 steps.")] = ""
    chunk: Annotated[str, _range("Most prompt tokens per step; 0: the engine's own limit.")] = ""
    prefix_hit: Annotated[str, _range("Shares of the prompt found in the prefix cache.")] = ""
    offload_hit: Annotated[str, _range("Shares of the prompt whose KV host memory keeps.")] = ""
    host_weights: Annotated[str, _range("Shares of the weights that stay in host memory.")] = ""
    draft: Annotated[str, _range("Drafted tokens per step; 0: no speculation.")] = ""
    acceptance: Annotated[str, _range("Chance that a drafted token is accepted, as measured.")] = ""
    disaggregated: Annotated[str, _range("Prefill on devices of its own: auto, yes or no.")] = ""

    def stated(self) -> dict[str, str]:
        """Return the ranges that were stated, by the name that ``plan`` has for them."""
        names = {"draft": "draft_tokens"}
        return {names.get(name, name): value for name in self.__dataclass_fields__ if (value := getattr(self, name))}


DEFAULT = Ranges()


def plan(
    *models: Annotated[str, Parameter(help="Models; several share the pool.")],
    demand: Annotated[
        str, Parameter(help="Requests at the busiest hour: 5/s, 300/min; one for all or one for each: 5/s,2/s.")
    ] = "1/s",
    prompt: Annotated[str, Parameter(help="Prompt tokens per request, one for all or one for each.")] = "1024",
    output: Annotated[str, Parameter(help="Output tokens per request, one for all or one for each.")] = "256",
    meet: Annotated[
        str, Parameter(name="--for", help="Objective: ttft<1s,tpot<50ms,request<20s; of several models: a;b.")
    ] = "",
    shared_prefix: Annotated[float, Parameter(help="Share of the prompt that requests have in common.")] = 0.0,
    reused: Annotated[float, Parameter(help="Share of the prompt that an earlier turn computed.")] = 0.0,
    devices: Annotated[
        str, Parameter(help="Devices to choose from: l4,h100-sxm or all; default: the usual rented GPUs.")
    ] = "",
    pool: Annotated[str, Parameter(help='The devices there are: "64x h100-sxm, 32x l40s".')] = "",
    objective: Annotated[
        Literal["cost", "throughput", "latency", "energy"], Parameter(help="What the best has least (most) of.")
    ] = "cost",
    sure: Annotated[float, Parameter(help="Least probability of meeting the objective.")] = 0.8,
    quality: Annotated[
        Literal["lossless", "near-lossless", "any"], Parameter(help="Floor of quality.")
    ] = "near-lossless",
    engine: Annotated[str, Parameter(help="Engine whose reserve and host cost to assume.")] = "vllm",
    max_devices: Annotated[int | None, Parameter(help="Most devices of one model.")] = None,
    budget: Annotated[str, Parameter(help="Most money per month for one model: $5000/month or 5000.")] = "",
    whole_nodes: Annotated[bool, Parameter(negative="", help="Rent whole nodes.")] = False,
    utilization: Annotated[float, Parameter(help="Most of what a copy can take that is planned for.")] = 0.9,
    most: Annotated[float, Parameter(help="Most predictions to make.")] = 2e8,
    file: Annotated[Path | None, Parameter(help="Read the question from this TOML file.")] = None,
    ranges: Ranges = DEFAULT,
    fail_on: Annotated[Literal["infeasible", "never"], Parameter(help="Decides exit code 1.")] = "infeasible",
    json: Json = False,
    html: Html = None,
    quiet: Quiet = False,
) -> int:
    """Search every deployment: the cheapest that meets an objective, the Pareto front, and how to start it.

    Examples:
        bytebound plan llama-3.1-8b --demand 5/s --prompt 1500 --output 300 --for "ttft<1s,tpot<50ms"

        bytebound plan llama-3.3-70b --for "tpot<30ms" --devices h100-sxm,mi300x --tp 2,4,8 --weights auto,fp8

        bytebound plan llama-3.1-8b qwen3-32b --demand 20/s,4/s --pool "16x h100-sxm"
    """
    writable(html)
    if file is not None:
        from bytebound.documents.plan_file import read_plan_file  # noqa: PLC0415 - only where it is asked for

        if models:
            raise RequestError(
                "models are named on the command line and in the file", place="--file", mend="name them once"
            )
        request = read_plan_file(file)
    else:
        from bytebound.documents.plan import PlanRequest  # noqa: PLC0415

        request = PlanRequest(
            _wanted(models, demand, prompt, output, meet, shared_prefix=shared_prefix, reused=reused),
            (devices,) if devices else (), pool, ranges.stated(), objective, sure, quality, engine, max_devices, _money(budget),
            whole_nodes, utilization, most,
        )  # fmt: skip
    found = _started(_planned(request, quiet=quiet))
    if html is not None:
        from bytebound.report.plan_html import plan_page  # noqa: PLC0415

        write(html, plan_page(found), quiet=quiet)

    def text() -> str:
        from bytebound.report.terminal_plan import plan_text  # noqa: PLC0415

        return plan_text(found, page())

    emit(found, json=json, text=text)
    return NO if fail_on == "infeasible" and found.infeasible_because is not None else FINE


def _wanted(
    models: tuple[str, ...], demand: str, prompt: str, output: str, meet: str, *, shared_prefix: float, reused: float
) -> tuple[Any, ...]:
    from bytebound.documents.plan import Wanted, read_objective  # noqa: PLC0415
    from bytebound.units import parse  # noqa: PLC0415

    if not models:
        raise RequestError("no model is named", place="models", mend="bytebound plan llama-3.1-8b, or --file plan.toml")

    def each(text: str, name: str, mark: str = ",") -> list[str]:
        parts = text.split(mark)
        if len(parts) not in {1, len(models)}:
            raise RequestError(
                f"{len(parts)} values for {len(models)} model{'s' if len(models) > 1 else ''}", place=name, mend="state one for all or one for each"
            )  # fmt: skip
        return parts * len(models) if len(parts) == 1 else parts

    rows = zip(
        models, each(demand, "--demand"), each(prompt, "--prompt"), each(output, "--output"), each(meet, "--for", ";"), strict=True
    )  # fmt: skip
    return tuple(
        Wanted(model, parse(rate, "requests per second", place="--demand"), parse(asked, "fraction", place="--prompt"),
               parse(out, "fraction", place="--output"), read_objective(bounds, place="--for"), shared_prefix, reused)
        for model, rate, asked, out, bounds in rows
    )  # fmt: skip


def _money(text: str) -> float | None:
    from bytebound.units import parse  # noqa: PLC0415

    return parse(text.removesuffix("/month"), "US dollars", place="--budget") if text else None


def _planned(request: PlanRequest, *, quiet: bool) -> Plan:
    """Return the plan, with progress on a terminal where it takes long."""
    from bytebound.plan.search import plan_of  # noqa: PLC0415

    if quiet or not sys.stderr.isatty():
        return plan_of(request)
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("predictions", total=None)
        return plan_of(request, progress=lambda made, total: bar.update(task, completed=made, total=total))


def _started(found: Plan) -> Plan:
    """Return the plan with the commands that start its best deployments."""
    from bytebound.plan.commands import commands  # noqa: PLC0415
    from bytebound.predict.estimate import settle  # noqa: PLC0415

    def with_commands(best: Any) -> Any:
        if best is None:
            return None
        return replace(best, commands=commands(best, settle(best.model, best.machine, best.engine)))

    bests = [with_commands(each.best) for each in found.models]
    models = tuple(
        each if best is None else replace(each, best=best, front=(best, *each.front[1:]))
        for each, best in zip(found.models, bests, strict=True)
    )
    found = replace(found, models=models)
    return found if found.best is None else replace(found, best=models[0].best, front=models[0].front)

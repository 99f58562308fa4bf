"""What a plan says in words, shared by the terminal and the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bytebound.report.words import clean, first, interval, percent, tokens_rate, usd
from bytebound.units import show_capacity, show_time, significant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bytebound.documents.plan import Command, Deployment, Infeasible, ModelPlan, Plan
    from bytebound.documents.values import Interval

BOUNDS = {"ttft": "TTFT", "tpot": "TPOT", "request": "request"}
DEGREES = ("tp", "pp", "ep", "dp")
COMMAND_TITLES = {
    "vllm": "vLLM", "sglang": "SGLang", "tensorrt-llm": "TensorRT-LLM", "llama.cpp": "llama.cpp", "kubernetes": "Kubernetes",
}  # fmt: skip


def question(model: ModelPlan) -> str:
    """Return what was asked in one line: model, demand, lengths, objective."""
    bounds = [
        f"{BOUNDS.get(name, clean(name))} < {show_time(value)}" for name, value in model.objective.items() if value
    ]
    parts = [
        clean(model.model),
        f"{significant(model.demand_per_s)} requests/s",
        f"{model.prompt:g} in / {model.output:g} out",
        ", ".join(bounds) or "no bound",
    ]
    return " · ".join(parts)


def plural(count: int, one: str, many: str) -> str:
    """Return a count with its noun.

    Example:
        >>> plural(1, "copy", "copies"), plural(3, "copy", "copies")
        ('1 copy', '3 copies')
    """
    return f"{count:,} {one if count == 1 else many}".replace(",", " ")


def headline(best: Deployment, objective: dict[str, float | None]) -> str:
    """Return what to rent, what it costs and how sure the objective is, in one sentence."""
    money = (
        f" for {usd(first(best.usd_per_month.value))} a month" if best.usd_per_month is not None else ", price unknown"
    )
    sure = f", {chance(best)}" if any(objective.values()) else ""
    return f"Rent {counted(best)}{money}: {copies(best)}{sure}."


def counted(deployment: Deployment) -> str:
    """Return devices and their kind."""
    return f"{deployment.devices:,} × {clean(deployment.device)}".replace(",", " ", deployment.devices // 1000)


def same(one: Deployment, other: Deployment | None) -> bool:
    """Return whether two documents stand for one deployment; only one of them may know how it is started."""
    return other is not None and (one.model, one.device, one.devices, one.replicas, one.prefill_replicas, one.work) == (
        other.model, other.device, other.devices, other.replicas, other.prefill_replicas, other.work,
    )  # fmt: skip


def chance(deployment: Deployment) -> str:
    """Return the chance of meeting every bound, in words."""
    return f"{percent(deployment.probability)} sure to meet every bound"


def copies(deployment: Deployment) -> str:
    """Return how many copies of which shape there are.

    Disaggregated: those of prefill and of decode.
    """
    shape = degrees(deployment)
    each = f" of {shape}" if shape else ""
    if deployment.prefill_replicas:
        apart = plural(deployment.prefill_replicas, "prefill copy", "prefill copies")
        return f"{apart} and {plural(deployment.replicas, 'decode copy', 'decode copies')}{each}"
    return plural(deployment.replicas, "copy", "copies") + each


def degrees(deployment: Deployment) -> str:
    """Return the parallel degrees over one, such as ``TP4 PP2``; nothing where a copy is one device."""
    shown = ((name, first(deployment.work.get(name, 1))) for name in DEGREES)
    return " ".join(f"{name.upper()}{value:g}" for name, value in shown if value > 1)


def setting(deployment: Deployment) -> str:
    """Return batch, formats and what else differs from the plain way to serve."""
    work = deployment.work
    words = [f"batch {_number(work.get('batch', '–'))}"]
    for name, label in (("weights", "weights"), ("kv", "KV")):
        stored = clean(work.get(name, "auto"))
        words += [f"{label} {stored}"] if stored != "auto" else []
    for name, label in (
        ("chunk", "chunks of {} tokens"), ("draft_tokens", "{} drafted tokens"), ("prefix_hit", "{:%} of the prompt cached"),
        ("offload_hit", "{:%} of the prompt's KV from host memory"), ("host_weights", "{:%} of the weights in host memory"),
    ):  # fmt: skip
        value = first(work.get(name, 0) or 0)
        words += [label.replace("{:%}", percent(value)).replace("{}", f"{value:g}")] if value else []
    return ", ".join([*words, *(["prefill apart"] if work.get("disaggregated") else [])])


def answers(deployment: Deployment, objective: dict[str, float | None]) -> list[tuple[str, str]]:
    """Return what a deployment reaches, costs, holds and is bound by: a label and a text each."""
    rows = [
        ("copies", f"{copies(deployment)} on {clean(deployment.machine)}"),
        ("setting", setting(deployment)),
        ("cost", cost(deployment)),
        ("TTFT", _bounded(deployment.ttft_s, objective.get("ttft"))),
        ("TPOT", _bounded(deployment.tpot_s, objective.get("tpot"))),
        ("output", f"{interval(deployment.tokens_per_s, tokens_rate)} of all copies"),
        (
            "load",
            f"takes {significant(deployment.requests_per_s)} requests/s, {percent(deployment.utilization)} of it used",
        ),
        ("memory", memory(deployment)),
        *([("chance", chance(deployment))] if any(objective.values()) else []),
        ("binds", clean(deployment.binds)),
        ("changes", ", ".join(map(clean, deployment.levers)) or "nothing about the plain checkpoint"),
        ("quality", quality(deployment)),
    ]
    if deployment.proven:
        rows.append(("proven here", ", ".join(map(clean, deployment.proven))))
    return rows


def quality(deployment: Deployment) -> str:
    """Return the class of quality and its note."""
    note = clean(deployment.quality_note)
    return f"{clean(deployment.quality)}{f': {note}' if note not in {'', 'none'} else ''}"


def memory(deployment: Deployment) -> str:
    """Return what the fullest device holds of what it can."""
    return f"{show_capacity(deployment.memory_bytes)} of {show_capacity(deployment.usable_bytes)} on the fullest device"


def cost(deployment: Deployment) -> str:
    """Return money and energy, as far as they are known."""
    parts = []
    if deployment.usd_per_month is not None:
        parts.append(f"{interval(deployment.usd_per_month, usd)} a month")
    if deployment.usd_per_mtok is not None:
        parts.append(f"{interval(deployment.usd_per_mtok, usd)} per million output tokens")
    if deployment.joules_per_token is not None:
        parts.append(f"{interval(deployment.joules_per_token, lambda value: f'{significant(value)} J')} per token")
    return ", ".join(parts) or "unknown"


FRONT_COLUMNS = (
    ("", "!"), ("devices", "!"), ("copies", "!"), ("setting", "w"), ("$/month", "r!"), ("TTFT", "r!"), ("TPOT", "r!"), ("tok/s", "r!"),
    ("J/token", "r!"), ("chance", "r!"), ("quality", "!"), ("binds", "!"),
)  # fmt: skip
BRIEF = ("", "devices", "copies", "setting", "$/month", "TPOT", "chance")
"""Columns of a narrow terminal."""


def front_rows(front: Iterable[Deployment], best: Deployment | None) -> list[list[str]]:
    """Return the front, a deployment a row, in the order of ``FRONT_COLUMNS``; the best is marked."""
    return [
        [
            "✓" if same(each, best) else "",
            f"{each.devices}× {clean(each.device)}",
            _copies_short(each),
            setting(each),
            usd(None if each.usd_per_month is None else first(each.usd_per_month.value)),
            _time(each.ttft_s),
            _time(each.tpot_s),
            significant(first(each.tokens_per_s.value)),
            "–" if each.joules_per_token is None else significant(first(each.joules_per_token.value)),
            percent(each.probability),
            clean(each.quality),
            clean(each.binds),
        ]
        for each in front
    ]


def searched_words(plan: Plan) -> str:
    """Return how much was searched."""
    found = plan.searched
    rate = f", {significant(found.predictions / found.seconds)} a second" if found.seconds > 0 else ""
    words = f"{significant(found.predictions)} deployments in {show_time(found.seconds)}{rate}"
    return f"{words}; {significant(found.fitting)} fit, {significant(found.meeting)} meet the objective"


def totals(plan: Plan, *, pool: bool = True) -> str:
    """Return devices and money of all models together, and the pool they share."""
    devices = "devices unknown" if plan.devices is None else plural(plan.devices, "device", "devices")
    money = "price unknown" if plan.usd_per_month is None else f"{usd(plan.usd_per_month)} a month"
    shared = f" of the pool ({clean(plan.pool)})" if plan.pool and pool else ""
    return f"{plural(len(plan.models), 'model', 'models')}: {devices}{shared}, {money}"


def failing(why: Infeasible) -> tuple[str, str]:
    """Return why nothing meets the objective, as a sentence, and what to do."""
    sentence = clean(why.sentence).rstrip(".")
    return f"{sentence[:1].upper()}{sentence[1:]}.", clean(why.mend)


def command_title(command: Command) -> str:
    """Return the name and version of what a command starts."""
    name = COMMAND_TITLES.get(command.engine, clean(command.engine))
    return f"{name} ({clean(command.version)})" if command.kind == "kubernetes" else f"{name} {clean(command.version)}"


def verbatim(text: str) -> str:
    """Return a command as it is, but for characters that a terminal would obey: those become a question mark."""
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in text.split("\n"))


def _bounded(value: Interval, bound: float | None) -> str:
    shown = interval(value, show_time)
    return f"{shown}, asked for less than {show_time(bound)}" if bound else shown


def _time(value: Interval) -> str:
    return show_time(first(value.value)) if math.isfinite(first(value.value)) else "–"


def _copies_short(deployment: Deployment) -> str:
    count = (
        f"{deployment.prefill_replicas}+{deployment.replicas}"
        if deployment.prefill_replicas
        else f"{deployment.replicas}"
    )
    shape = degrees(deployment)
    return f"{count}× {shape}" if shape else count


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else clean(value)

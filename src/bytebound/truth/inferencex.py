"""Launch settings behind the public InferenceX (formerly InferenceMAX) runs: what a script set, by model, device and day.

The table ``data/inferencex.csv`` is read from the launch scripts of the public repository ``SemiAnalysisAI/InferenceX``
(Apache-2.0; single node, aggregated, no speculative decoding). A blank cell means that the script does not set it: the default of the
engine holds. A script changes in place, so a row has its days; they are those of the pull request where the note names
one, and otherwise near. A stored version of a script may be of a branch; where two versions differ the note says so.

Cells of numbers may be formulas over ``isl``, ``osl``, ``tp`` and ``concurrency`` with ``+ - * //``, comparisons, ``and``,
``or``, ``max``, ``min`` and ``a if condition else b``, for example ``max(8192, (concurrency + isl + 127) // 64 * 64)``.

The client (``utils/bench_serving/benchmark_serving.py`` at 086eabbe8611, before it ``kimbochen/bench_serving`` at
406abc35ff9a) sends ``concurrency`` requests at once and one more for each that ends. Prompt and output lengths are drawn
uniformly and apart from ``LENGTH_SHARE`` of the nominal length up to it.
"""

from __future__ import annotations

import ast
import csv
import datetime as dt
import operator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING

from bytebound.errors import DocumentError, RequestError
from bytebound.facts.engines import find_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

LENGTH_SHARE = 0.8
"""Shortest prompt or output as a share of the nominal one (``RANDOM_RANGE_RATIO``, .github/workflows/benchmark-tmpl.yml)."""

WARMUP_FROM = "2026-01-27"
"""First day of warm-up requests, two per client (InferenceX pull request 480, opened 2026-01-17 and merged ten days or more
after); before it one single request ran ahead of the clock."""

MODELS: Mapping[str, tuple[str, ...]] = {
    "llama-70b": ("llama-3.1-70b", "llama-3.3-70b"),
    "deepseek-r1": ("deepseek-r1", "deepseek-r1-0528", "deepseek-v3"),
    "gpt-oss-120b": ("gpt-oss-120b",),
    "qwen3.5-397b": ("qwen3.5-397b-a17b",),
    "minimax-m2.5": ("minimax-m2.5",),
    "kimi-k2.5": ("kimi-k2.5",),
    "glm-5": ("glm-5",),
}
"""Names, without organisation and ending, that a model of the table goes by; a public dump lists DeepSeek-R1 as V3."""

_ENDINGS = ("-instruct", "-fp8", "-fp8-kv", "-fp4", "-nvfp4", "-mxfp4", "-bf16", "-int4", "-preview", "-0528")
_PRECISIONS = {
    "fp4": ("nvfp4", "mxfp4", "fp4"),
    "int4": ("int4", "awq"),
    "fp8": ("fp8", "mxfp8"),
    "bf16": ("bf16", "fp16"),
}
_NUMBERS = {
    "max_batched_tokens": "",
    "stream_interval": "",
    "prompts_per_client": "10",
    "memory_share": "",
    "max_sequences": "",
    "poll_steps": "1",
    "wait_steps": "0",
    "wait_share": "0",
}
"""Columns of numbers, with what a blank cell stands for; none where the engine's default holds."""


_SUMS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
_TESTS: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}
_CHOICES: Mapping[str, Callable[[Iterable[float]], float]] = {"max": max, "min": min}
_CONDITIONS: Mapping[type[ast.boolop], Callable[[Iterable[float]], bool]] = {ast.And: all, ast.Or: any}


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """What the launch script of one run set; ``None`` where it did not, or where the formula needs an unknown concurrency.

    Args:
        max_batched_tokens: most prompt tokens in one step: vLLM ``max-num-batched-tokens``, SGLang ``chunked-prefill-size``,
            TensorRT-LLM ``max_num_tokens``.
        kv: ``"fp8"``, or ``"auto"`` for the format of the model.
        stream_interval: tokens per streamed chunk after the first. All three engines send the first token at once (vLLM pull
            request 27869, TensorRT-LLM 5836, SGLang ``len(output_ids) % interval == 1``): it does not delay it.
        prompts_per_client: requests of the run over its concurrency.
        warmups_per_client: requests ahead of the clock over the concurrency.
        memory_share: vLLM: share of the device the engine takes; SGLang: share for weights and KV; TensorRT-LLM: share for KV of
            what is free after loading.
        max_sequences: most requests running at once.
        prefix_cache: whether prefixes are cached; prompts are random, so little is found.
        poll_steps: decode steps between two looks at the queue of new requests (SGLang ``scheduler-recv-interval``); a
            request waits half of them on average. 1 unless set.
        wait_steps, wait_share: TensorRT-LLM ``batch_wait_timeout_iters`` and ``batch_wait_max_tokens_ratio``: new prompts wait for
            so many decode steps, or until they hold this share of ``max_batched_tokens``. 0 unless set.
        chunked: whether a prompt may be split over steps; TensorRT-LLM does so only when asked to.
        days_off: days between the run and the days of the row; 0 inside them.
    """

    max_batched_tokens: int | None
    kv: str | None
    stream_interval: int | None
    prompts_per_client: int
    warmups_per_client: int
    memory_share: float | None
    max_sequences: int | None
    prefix_cache: bool
    poll_steps: int | None
    wait_steps: int | None
    wait_share: float | None
    chunked: bool | None
    days_off: int
    notes: str
    source: str


def settings_of(
    model: str,
    device: str,
    weights: str,
    engine: str,
    *,
    isl: int,
    osl: int,
    tp: int,
    date: str,
    concurrency: int | None = None,
) -> LaunchSettings | None:
    """Return the settings of the run, or ``None`` where the table has no such model, device, precision and engine.

    Of the rows that fit, those whose days hold ``date`` come first, then those nearest to it; among these the one that fixes
    most of ``isl``, ``osl`` and ``tp``.

    Args:
        model: our id or the public one.
        device: our id.
        weights: our name of their format.
        engine: our name or an alias.
        isl: nominal prompt length [tokens].
        osl: nominal output length [tokens].
        tp: tensor-parallel devices.
        date: day of the run, ISO.
        concurrency: requests in flight; without it a setting that depends on it is ``None``.

    Raises:
        UnknownNameError: no such engine.
        RequestError: ``date`` is not an ISO day.

    Example:
        >>> run = settings_of("openai/gpt-oss-120b", "h100-sxm", "mxfp4", "vllm", isl=1024, osl=1024, tp=2, date="2026-01-10")
        >>> run.max_batched_tokens
        8192
    """
    key = (_family(model), device.lower(), _precision(weights), find_engine(engine).name)
    when = _day(date)
    wanted = {"isl": str(isl), "osl": str(osl), "tp": str(tp)}
    fitting = [row for row in _table().get(key, ()) if all(row[name] in ("", text) for name, text in wanted.items())]
    if not fitting:
        return None
    row = min(fitting, key=lambda each: (_days_off(each, when), -sum(bool(each[name]) for name in wanted)))
    names = {"isl": isl, "osl": osl, "tp": tp} | ({} if concurrency is None else {"concurrency": concurrency})
    number = {name: _number(row[name] or default, names) for name, default in _NUMBERS.items()}
    whole = {name: None if value is None else int(value) for name, value in number.items()}
    return LaunchSettings(
        max_batched_tokens=whole["max_batched_tokens"],
        kv=row["kv"] or None,
        stream_interval=whole["stream_interval"],
        prompts_per_client=whole["prompts_per_client"] or 0,
        warmups_per_client=2 if when >= dt.date.fromisoformat(WARMUP_FROM) else 0,
        memory_share=number["memory_share"],
        max_sequences=whole["max_sequences"],
        prefix_cache=row["prefix_cache"] == "1",
        poll_steps=whole["poll_steps"],
        wait_steps=whole["wait_steps"],
        wait_share=number["wait_share"],
        chunked={"": None, "0": False, "1": True}[row["chunked"]],
        days_off=_days_off(row, when),
        notes=row["notes"],
        source=row["source"],
    )


@cache
def _table() -> Mapping[tuple[str, str, str, str], tuple[Mapping[str, str], ...]]:
    text = (files("bytebound.truth") / "data" / "inferencex.csv").read_text(encoding="utf-8")
    table: dict[tuple[str, str, str, str], tuple[Mapping[str, str], ...]] = {}
    for row in csv.DictReader(text.splitlines(), strict=True):
        key = (row["model"], row["hardware"], row["precision"], row["engine"])
        table[key] = (*table.get(key, ()), row)
    return table


def _family(model: str) -> str:
    name = model.lower().rsplit("/", 1)[-1].removeprefix("meta-")
    while True:
        found = [family for family, names in MODELS.items() if name == family or name in names]
        shorter = next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)
        if found or shorter == name:
            return found[0] if found else ""
        name = shorter


def _precision(weights: str) -> str:
    name = weights.lower()
    return next((each for each, starts in _PRECISIONS.items() if name.startswith(starts)), name)


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise RequestError(f"{text!r} is not a day", place="date", mend="write it as 2026-01-31") from None


def _days_off(row: Mapping[str, str], when: dt.date) -> int:
    early = (dt.date.fromisoformat(row["from_date"]) - when).days
    late = (when - dt.date.fromisoformat(row["to_date"])).days if row["to_date"] else 0
    return max(early, late, 0)


def _number(cell: str, names: Mapping[str, int]) -> float | None:
    """Evaluate one cell; ``None`` for a blank one or one that needs a name that is not given."""
    if not cell:
        return None
    tree = _parsed(cell)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {"max", "min"}
    return _value(tree, names) if used <= names.keys() else None


@cache
def _parsed(cell: str) -> ast.expr:
    try:
        return ast.parse(cell, mode="eval").body
    except SyntaxError:
        raise _unreadable(cell) from None


def _unreadable(cell: str) -> DocumentError:
    return DocumentError(
        f"{cell!r} is not a formula of this table", place="inferencex.csv", mend="see bytebound.truth.inferencex"
    )


def _value(node: ast.expr, names: Mapping[str, int]) -> float:
    def of(*parts: ast.expr) -> list[float]:
        return [_value(part, names) for part in parts]

    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SUMS:
            return _SUMS[type(op)](*of(left, right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CHOICES:
            return _CHOICES[name](of(*args))
        case ast.IfExp(test=test, body=body, orelse=other):
            return _value(body if _value(test, names) else other, names)
        case ast.BoolOp(op=op, values=values):
            return _CONDITIONS[type(op)](of(*values))
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _TESTS for op in ops):
            pairs = pairwise(of(left, *others))
            return all(_TESTS[type(op)](*pair) for op, pair in zip(ops, pairs, strict=True))
    raise _unreadable(ast.unparse(node))

"""How many full predictions a second, beside peers asked in the same process, and what each of them answers.

``python benchmarks/predictions.py`` prints Markdown, ``--json`` the same numbers as JSON. A full prediction is prefill,
decode, memory and verdict, which with a price is the cost. Peers (llm-analysis, servcalc) are optional: ``pip install llm-analysis servcalc``. No GPU, no
network. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bytebound import Architecture, Serve
from bytebound.documents.architecture import Attention, Embedding, Linear
from bytebound.predict import program
from bytebound.predict.answers import PLANNED
from bytebound.predict.estimate import Setting, estimate_on, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MODEL, MACHINE = "meta-llama/Llama-3.1-8B", "1x h100-sxm"
PROMPT, OUTPUT, SHOWN = 1024, 128, (1, 32)
BATCHES = range(1, 129)
"""What everybody is asked: this model on one H100 80 GB SXM in bf16, these lengths, these batches; ``SHOWN`` are printed."""

SIZES = (1, 1_000, 200_000)
MIXED = (
    ("meta-llama/Llama-3.1-8B", "1x h100-sxm", (1,)),
    ("meta-llama/Llama-3.1-70B", "8x h100-sxm", (4, 8)),
    ("Qwen/Qwen3-30B-A3B", "8x h100-sxm", (1, 2, 4)),
    ("deepseek-ai/DeepSeek-V2-Lite", "8x h100-sxm", (1, 2, 4)),
)
"""Model, machine and the tensor-parallel degrees mixed among its questions: dense, dense with TP, MoE, MLA with MoE."""

MANY = 1_000_000
"""Requests of a planner's mixed questions: it asks what a plan is chosen by (``PLANNED``) and no more."""
PLAN_MODELS = (("meta-llama/Llama-3.1-70B", False), ("Qwen/Qwen3-30B-A3B", True))
"""Models to plan for, and whether they have experts to deal out."""
PLAN_DEVICES = (
    "h100-sxm", "h200-sxm", "a100-sxm-80gb", "b200", "mi300x", "l40s", "h100-pcie", "mi325x", "a100-sxm-40gb", "l4",
)  # fmt: skip
PLAN_WEIGHTS = ("bf16", "fp8", "int8", "int4", "nvfp4")
PLAN_NODES, PLAN_NODE, PLAN_BATCHES = 8, 8, 64
"""A plan: ten devices, 8 nodes of 8 each; every TP, PP and DP in powers of two that fit, EP within TP × DP; batches 1 to 64."""
PLAN_PROMPT, PLAN_OUTPUT = 2000, 300

PEERS = ("llm-analysis", "servcalc")
EFFICIENCIES = ((1.0, 1.0), (0.7, 0.9))
"""llm-analysis's (FLOP, memory) efficiencies: its default, and a setting nearer to what engines attain."""
GATED_MLP = 1.5
"""llm-analysis has two matrices in an MLP; a gated one has three of the same size, so it is told an MLP 1.5 × as wide.
That sets its weights; its FLOPs (0.2.2 on PyPI) are those of an MLP of 4 × the hidden width whatever it is told."""

MEASURED_TTFT_MS, MEASURED_TPOT_MS = 127.9, 13.19
"""TensorRT-LLM 1.0.0rc3, bf16, 32 users in a closed loop, whose TTFT includes waiting for a slot. Source:
aiconfigurator-core 0.12, systems/silicon_sample.csv (Apache-2.0)."""

SLICE_S = 0.2
"""A timed slice repeats its questions until it is at least about this long."""

Pair = tuple[float | None, float | None]
Order = Literal["one prompt", "all prompts"]


@dataclass(frozen=True)
class Subject:
    """Somebody who is asked: ``ask`` answers ``questions`` questions.

    ``cores`` restricts the process meanwhile; ``compiled`` says whether the compiled loop runs (None: as bytebound decides).
    """

    tool: str
    asked: str
    how: str
    questions: int
    ask: Callable[[], object]
    cores: int | None = None
    compiled: bool | None = None


@dataclass(frozen=True)
class Speed:
    """Predictions per second and per processor second in every round, and times the speed of each peer in that round."""

    tool: str
    asked: str
    how: str
    per_s: list[float]
    per_cpu_s: list[float]
    times: dict[str, list[float]]


@dataclass(frozen=True)
class Answer:
    """What a tool says at the shown batches. ``order``: whether its TTFT waits for one prefill or the whole batch's."""

    tool: str
    setting: str
    ttft_ms: Pair
    tpot_ms: Pair
    memory_gb: Pair
    parts: str
    bound: str = "–"
    order: Order = "one prompt"


@dataclass(frozen=True)
class Peer:
    """An installed peer, or why it cannot be asked."""

    name: str
    subjects: tuple[Subject, ...] = ()
    answers: tuple[Answer, ...] = ()
    missing: str | None = None


@dataclass(frozen=True)
class Shape:
    """A dense gated decoder's dimensions, as peers want them."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int

    @property
    def layer_weights(self) -> int:
        """Weights in the matrix products of one layer."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        return attention + 3 * self.hidden * self.intermediate

    @property
    def kv_bytes_per_token(self) -> int:
        """16-bit keys and values of every layer."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


def shape_of(architecture: Architecture) -> Shape:
    """Return the dimensions of a dense gated decoder from our own record of it."""
    operators = [(block.repeat, op) for _, block, op in architecture.operators()]
    table = next(op for _, op in operators if isinstance(op, Embedding))
    layers, scores = next((repeat, op) for repeat, op in operators if isinstance(op, Attention))
    gate = next(op for _, op in operators if isinstance(op, Linear) and op.role == "mlp")
    return Shape(layers, table.width, scores.heads, scores.kv_heads, scores.qk_dim, gate.outputs, table.rows)


def floor(setting: Setting) -> dict[Order, Answer]:
    """Return what physics allows at datasheet peaks, by how many prompts a first token waits for.

    Every streamed weight once and the KV at mid-generation per step; 2 FLOP per weight and token and causal attention
    per prompt. Written out here so that it checks bytebound's own floor.
    """
    shape, device = shape_of(setting.architecture), setting.machine.device
    bandwidth, peak = device.memory_bytes_per_s.value, device.flop_per_s["bf16"].value
    head = shape.vocab * shape.hidden
    streamed = 2 * (shape.layers * shape.layer_weights + head)
    tpot = [(streamed + b * shape.kv_bytes_per_token * (PROMPT + OUTPUT / 2)) / bandwidth for b in SHOWN]
    products = 2 * shape.layers * shape.layer_weights * PROMPT + 2 * head
    scores = 2 * shape.layers * shape.heads * shape.head_dim * PROMPT * (PROMPT + 1)
    prompt_s = (products + scores) / peak
    weights = 2 * setting.architecture.parameters
    kv = [b * shape.kv_bytes_per_token * (PROMPT + OUTPUT) for b in SHOWN]

    def waits(order: Order) -> Answer:
        prompts = SHOWN if order == "all prompts" else (1, 1)
        return Answer(
            "physical floor", "datasheet peaks", pair(n * prompt_s * 1e3 for n in prompts), pair(t * 1e3 for t in tpot),
            pair((weights + k) / 1e9 for k in kv), split(weights=[weights], KV=kv), order=order,
        )  # fmt: skip

    return {"one prompt": waits("one prompt"), "all prompts": waits("all prompts")}


def pair(values: Iterable[float]) -> Pair:
    """Return two numbers as plain floats."""
    first, second = (float(value) for value in values)
    return first, second


def split(**parts: Iterable[float]) -> str:
    """Return bytes by kind in words, ``weights 16.06, KV 0.15 / 4.83``."""
    shown = (
        (name, list(dict.fromkeys(f"{float(value) / 1e9:.2f}" for value in values))) for name, values in parts.items()
    )
    return ", ".join(f"{name} {' / '.join(values)}" for name, values in shown)


def short(model: str) -> str:
    """Return a model's name without its owner."""
    return model.rpartition("/")[2]


# bytebound


def same_questions(count: int) -> dict[str, Any]:
    """Return the peers' questions over and over, as arrays of ``count``."""
    return {
        "batch": np.resize(np.asarray(BATCHES), count), "prompt": np.full(count, PROMPT),
        "output": np.full(count, OUTPUT), "tp": np.ones(count, dtype=int),
    }  # fmt: skip


def mixed_questions(count: int, degrees: tuple[int, ...]) -> dict[str, Any]:
    """Return questions whose batch, prompt, output and TP all differ, the same ones every time."""
    rng = np.random.default_rng(0)
    return {
        "batch": rng.integers(1, 129, count), "prompt": rng.integers(128, 8193, count),
        "output": rng.integers(16, 1025, count), "tp": rng.choice(np.asarray(degrees), count),
    }  # fmt: skip


def asks(
    setting: Setting, questions: dict[str, Any], names: tuple[str, ...] | None = None
) -> Callable[[], object]:  # fmt: skip
    """Return a call that states the questions and answers them at once: every number, or ``names``."""
    return lambda: setting.answer(Serve(**questions), names=names)


def plan_grid(*, experts: bool) -> dict[str, Any]:
    """Return every parallel layout of the nodes with every batch, as arrays."""
    most = PLAN_NODES * PLAN_NODE
    powers = [2**i for i in range(most.bit_length())]
    layouts = [
        (tp, pp, dp, ep)
        for tp in powers if tp <= PLAN_NODE
        for pp in powers if pp <= PLAN_NODE
        for dp in powers if tp * pp * dp <= most
        for ep in (powers if experts else [1]) if ep <= tp * dp
    ]  # fmt: skip
    columns = np.repeat(np.array(layouts), PLAN_BATCHES, axis=0).T
    batch = np.tile(np.arange(1, PLAN_BATCHES + 1), len(layouts))
    return dict(zip(("tp", "pp", "dp", "ep"), columns, strict=True)) | {"batch": batch}


def plan(model: str, *, experts: bool) -> int:
    """Answer every plan of ``model``: devices × weight formats × layouts × batches; return how many there are."""
    grid = plan_grid(experts=experts)
    for device in PLAN_DEVICES:
        setting = settle(model, f"{PLAN_NODES}x({PLAN_NODE}x {device})", "vllm")
        for weights in PLAN_WEIGHTS:
            work = Serve(prompt=PLAN_PROMPT, output=PLAN_OUTPUT, weights=weights, **grid)
            setting.answer(work, names=PLANNED)
    return len(PLAN_DEVICES) * len(PLAN_WEIGHTS) * len(grid["batch"])


def plan_in_new_process(model: str, *, experts: bool) -> dict[str, float]:
    """Return the seconds of one plan in a process that starts with nothing but Python: clock and processor."""
    code = f"import predictions; print(predictions.plan({model!r}, experts={experts}))"
    began, used = time.perf_counter(), os.times()
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
    )
    after = os.times()
    return {
        "plans": float(done.stdout),
        "seconds": time.perf_counter() - began,
        "processor_s": after.children_user + after.children_system - used.children_user - used.children_system,
    }


def our_subjects() -> Iterator[Subject]:
    """Yield bytebound: the peers' questions one at a time and in one call, then mixed questions on four models."""
    setting = settle(MODEL, MACHINE, "vllm")
    same = f"{short(MODEL)}, the peers' questions"
    most = SIZES[-1]

    def one_at_a_time() -> None:
        for batch in BATCHES:
            setting.answer(Serve(batch=batch, prompt=PROMPT, output=OUTPUT))

    yield Subject("bytebound", same, "one a call", len(BATCHES), one_at_a_time)
    for count in SIZES[1:]:
        yield Subject("bytebound", same, f"{count:,} a call", count, asks(setting, same_questions(count)))
    if hasattr(os, "sched_setaffinity"):
        yield Subject(
            "bytebound", same, f"{most:,} a call, on one core", most, asks(setting, same_questions(most)), cores=1
        )
    for model, machine, degrees in MIXED:
        found = settle(model, machine, "vllm")
        asked = f"{short(model)}, mixed, TP {', '.join(str(degree) for degree in degrees)}"
        for count in SIZES:
            how = "one a call" if count == 1 else f"{count:,} a call"
            yield Subject("bytebound", asked, how, count, asks(found, mixed_questions(count, degrees)))
        for compiled, words in ways():
            yield Subject(
                "bytebound", asked, f"{MANY:,} a call, what a plan needs, {words}", MANY,
                asks(found, mixed_questions(MANY, degrees), PLANNED), compiled=compiled,
            )  # fmt: skip
    for model, experts in PLAN_MODELS:
        count = len(PLAN_DEVICES) * len(PLAN_WEIGHTS) * len(plan_grid(experts=experts)["batch"])
        asked = f"{short(model)}, {len(PLAN_DEVICES)} devices × {len(PLAN_WEIGHTS)} weight formats × layouts × {PLAN_BATCHES} batches"
        for compiled, words in ways():
            yield Subject(
                "bytebound", asked, f"a plan of {count:,}, {words}", count,
                lambda model=model, experts=experts: plan(model, experts=experts), compiled=compiled,
            )  # type: ignore[misc]  # fmt: skip


def ways() -> Iterator[tuple[bool, str]]:
    """Yield how large questions can be run here."""
    if find_spec("numba") is not None:
        yield True, "with numba"
    yield False, "without numba"


def our_answers() -> Iterator[Answer]:
    """Yield bytebound's answers: serving in steady state, and one batch to its end."""
    setting = settle(MODEL, MACHINE, "vllm")
    for scheduling, words in (("continuous", "vLLM, steady state"), ("static", "vLLM, decode step alone")):
        work = Serve(batch=np.array(SHOWN), prompt=PROMPT, output=OUTPUT, scheduling=scheduling)  # type: ignore[arg-type]
        found = estimate_on(setting, work)
        memory = found.memory
        kinds = {
            "weights": memory.weights_bytes, "KV": memory.kv_bytes, "activations": memory.activation_bytes,
            "reserve": memory.reserve_bytes,
        }  # fmt: skip
        yield Answer(
            "bytebound", words, pair(np.asarray(found.ttft_s.value) * 1e3), pair(np.asarray(found.tpot_s.value) * 1e3),
            pair(np.asarray(memory.total_bytes) / 1e9),
            split(**{kind: np.atleast_1d(value) for kind, value in kinds.items()}), " / ".join(np.atleast_1d(found.verdict)),
        )  # fmt: skip


# peers


def llm_analysis(shape: Shape, folder: Path) -> Peer:
    """Return llm-analysis, asked through ``LLMAnalysis.inference`` with a model file of our own dimensions."""
    config = import_module("llm_analysis.config")
    analysis = import_module("llm_analysis.analysis")
    logging.getLogger("__name__").setLevel(logging.ERROR)  # the name its logger has
    wide = int(shape.intermediate * GATED_MLP)
    path = folder / "llm_analysis_model.json"
    path.write_text(
        json.dumps({
            "name": "asked", "num_layers": shape.layers, "n_head": shape.heads, "hidden_dim": shape.hidden,
            "vocab_size": shape.vocab, "max_seq_len": 131072, "num_key_value_heads": shape.kv_heads,
            "ffn_embed_dim": wide, "expansion_ratio": wide / shape.hidden, "model_type": "llama",
        }),
        encoding="utf-8",
    )  # fmt: skip
    config.populate_model_and_gpu_configs()
    model, gpu = config.get_model_config_by_name(str(path)), config.get_gpu_config_by_name("h100-sxm-80gb")
    settings = {
        shares: analysis.LLMAnalysis(
            model, gpu, config.get_dtype_config_by_name("w16a16e16"), config.ParallelismConfig(tp_size=1),
            flops_efficiency=shares[0], hbm_memory_efficiency=shares[1],
        )
        for shares in EFFICIENCIES
    }  # fmt: skip
    asked = settings[EFFICIENCIES[0]]

    def ask(setting: Any, batch: int) -> dict[str, float]:
        found: dict[str, float] = setting.inference(
            batch_size_per_gpu=batch, seq_len=PROMPT, num_tokens_to_generate=OUTPUT
        )
        return found

    def answer(shares: tuple[float, float]) -> Answer:
        found = [ask(settings[shares], batch) for batch in SHOWN]
        kinds = {
            "weights": "weight_memory_per_gpu",
            "KV": "kv_cache_memory_per_gpu",
            "activations": "prefill_activation_memory_per_gpu",
        }
        return Answer(
            "llm-analysis", f"efficiency {shares[0]:g} / {shares[1]:g}",
            pair(f["prefill_latency"] * 1e3 for f in found), pair(f["decode_latency"] * 1e3 for f in found),
            pair(sum(f[key] for key in kinds.values()) / 1e9 for f in found),
            split(**{kind: [f[key] for f in found] for kind, key in kinds.items()}), order="all prompts",
        )  # fmt: skip

    subject = Subject(
        "llm-analysis",
        f"{short(MODEL)}, the same",
        "one a call",
        len(BATCHES),
        lambda: [ask(asked, batch) for batch in BATCHES],
    )
    return Peer("llm-analysis", (subject,), tuple(answer(shares) for shares in EFFICIENCIES))


def servcalc(shape: Shape, folder: Path) -> Peer:
    """Return servcalc, asked through ``estimate``: a batch a call, and the whole sweep in one call."""
    tool = import_module("servcalc")
    path = folder / "config.json"
    path.write_text(
        json.dumps({
            "model_type": "llama", "hidden_size": shape.hidden, "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
            "intermediate_size": shape.intermediate, "vocab_size": shape.vocab, "tie_word_embeddings": False,
        }),
        encoding="utf-8",
    )  # fmt: skip
    first = tool.estimate(str(path), "H100 80GB", workload=tool.Workload(PROMPT, OUTPUT, (1,)))
    arch, gpu, profile = first.params.arch, first.params.gpu, tool.profiles.vllm()  # resolved once, as ours is

    def ask(batches: tuple[int, ...], engine: Any = profile) -> Any:
        return tool.estimate(arch, gpu, workload=tool.Workload(PROMPT, OUTPUT, batches), profile=engine)

    def answer(engine: Any, order: Order) -> Answer:
        found = ask(SHOWN, engine)
        kv = [batch * found.kv_bytes_per_token * (PROMPT + OUTPUT) for batch in SHOWN]
        return Answer(
            "servcalc", f"{engine.name} {engine.version} (middle of its range)".replace(", explicit bf16 load", ""),
            pair(p.ttft_ms.mid for p in found.points), pair(p.itl_ms.mid for p in found.points),
            pair((found.weight_bytes + k) / 1e9 for k in kv), split(weights=[found.weight_bytes], KV=kv),
            " / ".join(p.bound for p in found.points), order,
        )  # fmt: skip

    same = f"{short(MODEL)}, the same"
    subjects = (
        Subject("servcalc", same, "one a call", len(BATCHES), lambda: [ask((batch,)) for batch in BATCHES]),
        Subject("servcalc", same, f"{len(BATCHES)} a call", len(BATCHES), lambda: ask(tuple(BATCHES))),
    )
    return Peer("servcalc", subjects, (answer(profile, "one prompt"), answer(tool.profiles.hf(), "all prompts")))


def peers(shape: Shape, folder: Path) -> list[Peer]:
    """Return every peer, or how to install the ones that are not there."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
    logging.getLogger("transformers").setLevel(logging.ERROR)
    found = []
    for name, meet in zip(PEERS, (llm_analysis, servcalc), strict=True):
        try:
            found.append(meet(shape, folder))
        except ImportError as error:
            found.append(Peer(name, missing=f"not installed ({error}): pip install {' '.join(PEERS)}"))
    return found


# timing


@contextmanager
def restricted(cores: int | None) -> Iterator[None]:
    """Run the body on that many of the process's cores; all of them for None."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def run_by(compiled: bool | None) -> Iterator[None]:  # noqa: FBT001 - None is as bytebound decides
    """Run large questions by the compiled loop or without it."""
    before = program.worth_compiling
    if compiled is not None:
        program.worth_compiling = lambda _: compiled
    try:
        yield
    finally:
        program.worth_compiling = before


def rate(subject: Subject, calls: int) -> tuple[float, float]:
    """Return predictions per second and per processor second over ``calls`` calls."""
    with restricted(subject.cores), run_by(subject.compiled):
        began, used = time.perf_counter(), time.process_time()
        for _ in range(calls):
            subject.ask()
        count = calls * subject.questions
        return count / (time.perf_counter() - began), count / max(time.process_time() - used, 1e-9)


def measure(subjects: list[Subject], rounds: int) -> list[Speed]:
    """Return every subject's speeds: each round asks all of them, starting with another one each time."""
    calls = [max(1, math.ceil(SLICE_S * rate(s, 1)[0] / s.questions)) for s in subjects]  # warm-up, too
    calls = [max(1, math.ceil(SLICE_S * rate(s, n)[0] / s.questions)) for s, n in zip(subjects, calls, strict=True)]
    per_s: list[list[float]] = [[0.0] * rounds for _ in subjects]
    per_cpu_s: list[list[float]] = [[0.0] * rounds for _ in subjects]
    for turn in range(rounds):
        for step in range(len(subjects)):
            index = (step + turn * len(subjects) // rounds) % len(subjects)
            per_s[index][turn], per_cpu_s[index][turn] = rate(subjects[index], calls[index])
    peer_rate = {
        s.tool: found for s, found in zip(subjects, per_s, strict=True) if s.tool in PEERS and s.how == "one a call"
    }
    return [
        Speed(s.tool, s.asked, s.how, found, processor, {
            peer: [mine / theirs for mine, theirs in zip(found, other, strict=True)] for peer, other in peer_rate.items()
        })
        for s, found, processor in zip(subjects, per_s, per_cpu_s, strict=True)
    ]  # fmt: skip


def machine(before: float | None, rounds: int) -> dict[str, Any]:
    """Return what the run ran on; no names of machines."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cores": len(affinity(0)) if affinity else os.cpu_count(), "load_before": before, "load_after": load(),
        "python": platform.python_version(), "numpy": np.__version__, "arch": platform.machine(), "rounds": rounds,
        "versions": {name: version(name) for name in ("bytebound", "numba", *PEERS)},
    }  # fmt: skip


def load() -> float | None:
    """Return the one-minute load average where there is one."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def version(name: str) -> str | None:
    """Return the installed version of a distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# Markdown


def spread(values: list[float], form: str) -> str:
    """Return ``median (min–max)``."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def times(value: float) -> str:
    """Return a ratio with two or three digits."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def speed_table(speeds: list[Speed], missing: list[Peer]) -> Iterator[str]:
    """Yield the table of speeds."""
    yield (
        "| tool | questions | how | predictions/s: median (min–max) | a processor second: median | "
        + " | ".join(f"× {p}" for p in PEERS)
        + " |"
    )
    yield "|---|---|---|---:|---:|" + "---:|" * len(PEERS)
    for s in speeds:
        ratios = [times(statistics.median(s.times[p])) if p in s.times else "–" for p in PEERS]
        yield f"| {s.tool} | {s.asked} | {s.how} | {spread(s.per_s, ',.0f')} | {statistics.median(s.per_cpu_s):,.0f} | {' | '.join(ratios)} |"
    for peer in missing:
        yield f"| {peer.name} | {peer.missing} | – | – | – |" + " – |" * len(PEERS)


def figures(values: Pair, least: Pair, form: str) -> str:
    """Return the numbers of both batches, each marked where it is under the floor."""
    shown = ["–" if v is None else f"{v:{form}}" for v in values]
    under = [v is not None and f is not None and v < f * (1 - 1e-3) for v, f in zip(values, least, strict=True)]
    return " / ".join(f"**{text} under the floor**" if low else text for text, low in zip(shown, under, strict=True))


def answer_table(answers: list[Answer], floors: dict[Order, Answer], missing: list[Peer]) -> Iterator[str]:
    """Yield the table of answers."""
    yield "| tool | setting | TTFT ms | TTFT waits for | TPOT ms | memory GB | of which | bound |"
    yield "|---|---|---:|---|---:|---:|---|---|"
    for a in [*floors.values(), *answers]:
        least = floors[a.order]
        yield (
            f"| {a.tool} | {a.setting} | {figures(a.ttft_ms, least.ttft_ms, '.1f')} | {a.order} "
            f"| {figures(a.tpot_ms, least.tpot_ms, '.2f')} | {figures(a.memory_gb, (None, None), '.2f')} | {a.parts} | {a.bound} |"
        )
    yield (
        f"| measured | TensorRT-LLM 1.0.0rc3, 32 users in a closed loop | – / {MEASURED_TTFT_MS} | a slot, then one prompt "
        f"| – / {MEASURED_TPOT_MS} | – | – | – |"
    )
    for peer in missing:
        yield f"| {peer.name} | {peer.missing} | – | – | – | – | – | – |"


def markdown(
    speeds: list[Speed], answers: list[Answer], floors: dict[Order, Answer], missing: list[Peer], run: dict[str, Any]
) -> str:
    """Return the report."""
    versions = ", ".join(f"{name} {found}" for name, found in run["versions"].items() if found)
    ran = (
        f"{run['cores']} cores ({run['arch']}), load {run['load_before']} before and {run['load_after']} after; "
        f"Python {run['python']}, NumPy {run['numpy']}, {versions}; {run['rounds']} interleaved rounds. Ratios are medians "
        "over rounds against the peer asked one question a call in the same round."
    )
    question = f"{short(MODEL)}, 1 × H100 80 GB SXM, bf16, {PROMPT} in, {OUTPUT} out, batch {SHOWN[0]} / {SHOWN[1]}"
    return "\n".join(
        [
            "## Full predictions per second",
            "",
            *speed_table(speeds, missing),
            "",
            ran,
            "",
            "## One plan in a new process",
            "",
            *(
                f"- {name}: {found['plans']:,.0f} plans in {found['seconds']:.2f} s ({found['processor_s']:.2f} s of processor), "
                "Python, imports and all"
                for name, found in run["new_process"].items()
            ),
            "",
            f"## The same question: {question}",
            "",
            *answer_table(answers, floors, missing),
        ]
    )


def main() -> None:
    """Ask everybody, print the tables."""
    parser = argparse.ArgumentParser(description="full predictions per second of bytebound and its peers")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repeats (default 7)")
    given = parser.parse_args()
    before = load()
    setting = settle(MODEL, MACHINE, "vllm")
    with tempfile.TemporaryDirectory() as folder:
        met = peers(shape_of(setting.architecture), Path(folder))
    subjects = [*our_subjects(), *(subject for peer in met for subject in peer.subjects)]
    speeds = measure(subjects, max(1, given.rounds))
    answers = [*our_answers(), *(answer for peer in met for answer in peer.answers)]
    floors, missing = floor(setting), [peer for peer in met if peer.missing]
    alone = {short(model): plan_in_new_process(model, experts=experts) for model, experts in PLAN_MODELS}
    run = machine(before, given.rounds) | {"new_process": alone}
    if given.json:
        document = {
            "speeds": [asdict(s) for s in speeds], "answers": [asdict(a) for a in [*floors.values(), *answers]],
            "missing": {peer.name: peer.missing for peer in missing}, "run": run,
        }  # fmt: skip
        print(json.dumps(document, indent=2))
    else:
        print(markdown(speeds, answers, floors, missing, run))


if __name__ == "__main__":
    main()

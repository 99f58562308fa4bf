"""Trials of llama.cpp: weight and KV formats, flash attention, batching, kept prefixes and drafts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bytebound.documents.values import Interval, Provenance
from bytebound.documents.work import Serve
from bytebound.engines.llamacpp import load_llamacpp
from bytebound.prove.drafting import speculative_trial
from bytebound.prove.forecast import Case, Predicted, answered, counted, predicted, timed
from bytebound.prove.gguf_models import ENGINE, chosen, mixed_note, narrower, real_file, repacked, side
from bytebound.prove.quality import ALREADY_LOST, LENGTH, text_quality
from bytebound.prove.trial import Bench, Counted, Forecast, Timed, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.proof import Quality

SHALLOW, DEEP = 64, 1024
PREFILL, PREFILL_ROUNDS = 128, 6
DECODE_ROUNDS = 24
"""Steps are short, and a shared machine's memory is fast or slow for ten seconds at a time."""
SEQUENCES = 8
PROMPT, PREFIX = 256, 192


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

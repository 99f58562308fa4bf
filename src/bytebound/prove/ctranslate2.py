"""Trials of CTranslate2: weight formats, batching and a kept prefix. The cleanest engine here: bytes decide its times."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bytebound.engines.prove_ctranslate2 import check_compute
from bytebound.prove.depth import KEEP_PAGES, Probe, by_depth, stored_bytes
from bytebound.prove.folders import Folder, chosen, made, need, shallower
from bytebound.prove.quality import text_quality
from bytebound.prove.trial import SPIN_S, Bench, Counted, Forecast, Side, Timed, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.proof import Quality

ENGINE, ADAPTER = "ctranslate2", "bytebound.engines.prove_ctranslate2"
COMPUTE = {"fp32": "float32", "int8": "int8", "int16": "int16", "bf16": "bfloat16"}
"""Our name of a weight format -> CTranslate2's compute type."""
STORED = {"int8": "int8", "int16": "bf16", "bf16": "bf16", "fp32": "fp32"}
"""What it takes in memory: int8 has one fp32 scale per row (CTranslate2 docs, quantization), int16 as many bytes as bf16."""
DEPTH, PREFILL, PROMPT, PREFIX = 16, 128, 256, 192
SEQUENCES = 8


def side(bench: Bench, folder: Folder, weights: str, **settings: float) -> Side:
    """Return a side that runs ``folder`` converted to ``weights``."""
    kind = COMPUTE[weights]
    path = made(
        bench,
        "ctranslate2",
        f"{folder.path.name}-ct2-{kind}",
        source=str(folder.path),
        quantization="" if weights == "fp32" else kind,
    )
    return Side(
        ADAPTER, {"folder": str(path), "compute": kind, "threads": bench.threads, **settings}, {"weights": weights, **settings}, KEEP_PAGES
    )  # fmt: skip


def stored(folder: Folder, weights: str) -> float:
    """Return the bytes of the weights; the embedding is quantized too."""
    return stored_bytes(folder.architecture, STORED[weights], embedding=STORED[weights])


def weights_trial(lever: str, after: str, bench: Bench) -> Trial:
    """Return the trial of a weight format: decode, prefill and memory.

    Raises:
        QuantityError: this processor has no kernels for it.
    """
    check_compute(COMPUTE[after])
    folder = chosen(bench)
    timed = (
        Timed("decode", "step", {"depth": DEPTH}, {"depth": DEPTH}, times=4, rest_s=SPIN_S),
        Timed("prefill", "prefill", {"tokens": PREFILL}, {"tokens": PREFILL}, times=2, rest_s=SPIN_S),
    )

    def sides(each: Folder) -> tuple[Side, Side]:
        return side(bench, each, "fp32"), side(bench, each, after)

    def predict() -> dict[str, Forecast]:
        first, second = (
            Probe(layers, *sides(each), (stored(each, "fp32"), stored(each, after)))
            for layers, each in shallower(bench, folder)
        )
        return by_depth(
            bench, (first, second), timed, layers=folder.layers, stored=(stored(folder, "fp32"), stored(folder, after)), engine=ENGINE
        )  # fmt: skip

    def quality() -> Quality:
        return text_quality(*sides(folder), bench.folder, model=folder.name, notes=folder.notes)

    return Trial(
        lever, f"{after} weights instead of fp32", ENGINE, folder.name, *sides(folder), timed=timed,
        counted=(Counted("memory", "resident"),), predict=predict, quality=quality if folder.real else None,
        real_weights=folder.real,
        notes=(f"decode of one sequence after {DEPTH} tokens, prefill of {PREFILL}; activations are quantized at run time",),
    )  # fmt: skip


def batch_trial(bench: Bench) -> Trial:
    """Return the trial of a batch: seconds per token of all sequences."""
    folder = chosen(bench)
    timed = (Timed("decode", "step", {"depth": DEPTH}, {"depth": DEPTH}, times=4, per=(1, SEQUENCES), rest_s=SPIN_S),)

    def sides(each: Folder) -> tuple[Side, Side]:
        return side(bench, each, "int8", batch=1), side(bench, each, "int8", batch=SEQUENCES)

    def predict() -> dict[str, Forecast]:
        first, second = (Probe(layers, *sides(each)) for layers, each in shallower(bench, folder))
        return by_depth(bench, (first, second), timed, layers=folder.layers, engine=ENGINE)

    return Trial(
        "larger-batch", f"{SEQUENCES} sequences at once instead of 1", ENGINE, folder.name, *sides(folder), timed=timed,
        counted=(), predict=predict, real_weights=folder.real,
        notes=("int8 weights; decode is seconds per token of all sequences together",),
    )  # fmt: skip


def prefix_trial(bench: Bench) -> Trial:
    """Return the trial of a prompt whose beginning is kept (``static_prompt``)."""
    folder = chosen(bench)
    rest = {"tokens": PROMPT - PREFIX, "past": PREFIX}
    timed = (Timed("prefill", "prefill", {"tokens": PROMPT}, rest, times=2, rest_s=SPIN_S),)

    def sides(each: Folder) -> tuple[Side, Side]:
        return side(bench, each, "int8"), side(bench, each, "int8")

    def predict() -> dict[str, Forecast]:
        first, second = (Probe(layers, *sides(each)) for layers, each in shallower(bench, folder))
        return by_depth(bench, (first, second), timed, layers=folder.layers, engine=ENGINE)

    return Trial(
        "prefix-cache", f"{PREFIX} of {PROMPT} prompt tokens already in the cache", ENGINE, folder.name, *sides(folder),
        timed=timed, counted=(), predict=predict, aim="prefill", real_weights=folder.real,
        notes=(f"time to the first token of a prompt of {PROMPT} tokens; int8 weights",),
    )  # fmt: skip


TRIALS: dict[str, Callable[[Bench], Trial]] = {
    "int8-weights": partial(weights_trial, "int8-weights", "int8"),
    "bf16-weights": partial(weights_trial, "bf16-weights", "bf16"),
    "larger-batch": batch_trial,
    "prefix-cache": prefix_trial,
}
NEEDS = ("ctranslate2", "transformers", "gguf")
version = partial(need, *NEEDS)

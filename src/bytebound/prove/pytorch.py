"""Trials of PyTorch itself: dtypes, its dynamic int8, compiling, pruning, a kept prefix, batches, caches it lacks."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bytebound.errors import RequestError
from bytebound.prove.depth import Probe, by_depth, stored_bytes
from bytebound.prove.folders import Folder, chosen, need, shallower
from bytebound.prove.quality import text_quality
from bytebound.prove.trial import SPIN_S, Bench, Counted, Forecast, Side, Timed, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.proof import Quality

ENGINE, ADAPTER = "pytorch", "bytebound.engines.prove_torch"
DEPTH, PREFILL, PROMPT, PREFIX, SEQUENCES = 64, 128, 256, 192, 8
DECODE = Timed("decode", "step", {}, {}, prepare={"depth": DEPTH}, times=4, rest_s=SPIN_S)
PASS = Timed("prefill", "prefill", {"tokens": PREFILL}, {"tokens": PREFILL}, times=2, rest_s=SPIN_S)


@dataclass(frozen=True, slots=True)
class Kind:
    """How one side holds a model: its dtype, the change made to it, and the formats that its weights are then in.

    ``head`` is empty where the head stays tied to the embedding. ``shown`` is what the proof calls it.
    """

    shown: str
    dtype: str = "fp32"
    change: str = ""
    layers: str = "fp32"
    embedding: str = "fp32"
    head: str = ""
    vectors: str = "fp32"

    def side(self, bench: Bench, folder: Folder, **settings: float) -> Side:
        """Return a side that runs ``folder`` so."""
        given: dict[str, Any] = {
            "folder": str(folder.path),
            "dtype": self.dtype,
            "change": self.change,
            "threads": bench.threads,
        }
        return Side(ADAPTER, given | settings, {"weights": self.shown, **settings})

    def stored(self, folder: Folder) -> float:
        """Return the bytes of the weights."""
        return stored_bytes(
            folder.architecture, self.layers, embedding=self.embedding, head=self.head, vectors=self.vectors
        )


FP32 = Kind("fp32")
BF16 = Kind("bf16", "bf16", "", "bf16", "bf16", "", "bf16")


def change_trial(
    lever: str, title: str, before: Kind, after: Kind, bench: Bench, *, engine: str = ENGINE, timed: tuple[Timed, ...] = (DECODE, PASS),
    notes: tuple[str, ...] = (), exact: bool = False, layers: int = 0,
) -> Trial:  # fmt: skip
    """Return the trial of a change to a model: decode, prefill, memory and quality.

    Args:
        lever: its name; ``title`` says it in words.
        title: see ``lever``.
        before: how the model is held without it; ``after`` with it.
        after: see ``before``.
        bench: the machine and what to prove on.
        engine: as users write it.
        timed: what is timed.
        notes: what the reader must know beside.
        exact: whether it changes no number, so that there is no quality to measure.
        layers: of the model, where its first ones are enough; 0: all.
    """
    folder = chosen(bench, layers)

    def sides(each: Folder) -> tuple[Side, Side]:
        return before.side(bench, each), after.side(bench, each)

    def predict() -> dict[str, Forecast]:
        first, second = (
            Probe(count, *sides(each), (before.stored(each), after.stored(each)))
            for count, each in shallower(bench, folder)
        )
        stored = before.stored(folder), after.stored(folder)
        return by_depth(bench, (first, second), timed, layers=folder.layers, stored=stored, engine=engine)

    def quality() -> Quality:
        return text_quality(*sides(folder), bench.folder, model=folder.name, notes=folder.notes)

    return Trial(
        lever, title, engine, folder.name, *sides(folder), timed=timed, counted=(Counted("memory", "resident"),), predict=predict,
        quality=quality if folder.real and not exact else None, real_weights=folder.real,
        notes=(f"transformers, eager, decode of one sequence at {DEPTH} tokens, prefill of {PREFILL}", *notes),
    )  # fmt: skip


def bf16_trial(bench: Bench) -> Trial:
    """Return the trial of 16-bit weights."""
    return change_trial(
        "bf16-weights", "bf16 weights instead of fp32", FP32, BF16, bench,
        notes=("a processor without bf16 units converts at every use: prefill may take longer",),
    )  # fmt: skip


def dynamic_trial(bench: Bench) -> Trial:
    """Return the trial of int8 weights and activations quantized at run time, by PyTorch's own kernels."""
    after = Kind(
        "int8, activations quantized at run time (quantize_dynamic)",
        change="quantize-dynamic",
        layers="int8",
        head="int8",
    )
    return change_trial("dynamic-activations", "int8 weights, activations quantized at run time", FP32, after, bench)


def pruned_trial(bench: Bench) -> Trial:
    """Return the trial of unstructured pruning."""
    return change_trial(
        "unstructured-pruning", "half of all weights set to zero", FP32, Kind("fp32, half of them zero", change="pruned"), bench,
        notes=("zeros are stored and multiplied like any number: no kernel here skips them",),
    )  # fmt: skip


def compiled_trial(bench: Bench) -> Trial:
    """Return the trial of compiled norms and feed-forwards: fused pointwise operators, the same products."""
    return change_trial(
        "fused-kernels", "norms and feed-forwards compiled (torch.compile)", FP32, Kind("fp32, compiled", change="compiled"), bench,
        timed=(DECODE,), exact=True, notes=("norms and feed-forwards compiled by inductor, shared by all layers; attention as it was",),
    )  # fmt: skip


def _same_model(lever: str, title: str, timed: Timed, bench: Bench, *, notes: tuple[str, ...], batch: int = 0) -> Trial:
    """Return a trial whose sides run the same fp32 model, and differ in what is asked of it."""
    folder = chosen(bench)

    def sides(each: Folder) -> tuple[Side, Side]:
        return FP32.side(bench, each, **({"batch": 1} if batch else {})), FP32.side(
            bench, each, **({"batch": batch} if batch else {})
        )

    def predict() -> dict[str, Forecast]:
        first, second = (Probe(count, *sides(each)) for count, each in shallower(bench, folder))
        return by_depth(bench, (first, second), (timed,), layers=folder.layers, engine=ENGINE)

    return Trial(
        lever, title, ENGINE, folder.name, *sides(folder), timed=(timed,), counted=(), predict=predict, aim=timed.metric,
        real_weights=folder.real, notes=notes,
    )  # fmt: skip


def batch_trial(bench: Bench) -> Trial:
    """Return the trial of a batch: seconds per token of all sequences."""
    timed = Timed("decode", "step", {}, {}, prepare={"depth": DEPTH}, times=4, per=(1, SEQUENCES), rest_s=SPIN_S)
    return _same_model(
        "larger-batch", f"{SEQUENCES} sequences at once instead of 1", timed, bench, batch=SEQUENCES,
        notes=("transformers, eager, fp32; decode is seconds per token of all sequences together",),
    )  # fmt: skip


def prefix_trial(bench: Bench) -> Trial:
    """Return the trial of a prompt whose beginning is in ``past_key_values`` already."""
    rest = {"tokens": PROMPT - PREFIX, "past": PREFIX}
    timed = Timed("prefill", "prefill", {"tokens": PROMPT}, rest, prepare={"depth": PREFIX}, times=2, rest_s=SPIN_S)
    return _same_model(
        "prefix-cache", f"{PREFIX} of {PROMPT} prompt tokens already in past_key_values", timed, bench,
        notes=(f"time to the first token of a prompt of {PROMPT} tokens; transformers, eager, fp32",),
    )  # fmt: skip


def kv_quant_trial(bench: Bench) -> Trial:  # noqa: ARG001 - the form of all trials
    """Refuse: no package that quantizes transformers' cache is driven here.

    Raises:
        RequestError: always, with what is missing.
    """
    here = [name for name in ("optimum.quanto", "hqq") if _found(name)]
    raise RequestError(
        f"transformers' QuantizedCache is not proven with {here[0]}" if here
        else "transformers quantizes its cache with optimum-quanto or hqq, and neither is installed",
        place="kv-quant-torch", mend="prove int8-kv on llama.cpp, whose cache is quantized natively",
    )  # fmt: skip


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package it would lie in
        return False


def offload_trial(bench: Bench) -> Trial:  # noqa: ARG001 - the form of all trials
    """Refuse: transformers' offloaded cache moves layers between a GPU and its host.

    Raises:
        RequestError: always.
    """
    raise RequestError(
        "transformers' offloaded cache needs a CUDA device: on a processor the cache is in host memory already",
        place="kv-offload", mend="prove kv-offload on llama.cpp, or run on a machine with a GPU",
    )  # fmt: skip


TRIALS: dict[str, Callable[[Bench], Trial]] = {
    "bf16-weights": bf16_trial,
    "dynamic-activations": dynamic_trial,
    "fused-kernels": compiled_trial,
    "unstructured-pruning": pruned_trial,
    "larger-batch": batch_trial,
    "prefix-cache": prefix_trial,
    "kv-quant-torch": kv_quant_trial,
    "kv-offload": offload_trial,
}
NEEDS = ("torch", "transformers", "gguf")
version = partial(need, *NEEDS)

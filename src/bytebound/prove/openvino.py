"""Trials of OpenVINO GenAI on GGUF files: weight formats and batching.

It gives no logits, so quality is left to engines that do; compressing weights by its own tool (NNCF) is not driven here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bytebound.documents.values import Interval, Provenance
from bytebound.engines.model_making import REAL_NAME, real_gguf
from bytebound.errors import RequestError
from bytebound.ledger.table import compile_table
from bytebound.models import read_model
from bytebound.prove.depth import KEEP_PAGES, Probe, by_depth, stored_bytes
from bytebound.prove.folders import MIDDLE, SHALLOW, made, need
from bytebound.prove.trial import Bench, Counted, Forecast, Side, Timed, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

ENGINE, ADAPTER = "openvino", "bytebound.engines.prove_openvino"
GENERATED, SEQUENCES = 24, 8
FORMATS = {"f16": "fp16", "q8_0": "q8_0", "q4_0": "q4_0"}
"""GGUF's name of a format -> ours."""
METADATA = 0.03
"""Share that a vocabulary of 49,152 words takes of SmolLM2's file in 4 bits: 1.9 of 78 MB."""


@dataclass(frozen=True, slots=True)
class Model:
    """A GGUF file of the real model or the user's, in a format and at a depth (0 layers: all)."""

    bench: Bench
    weights: str
    layers: int = 0

    def side(self, **settings: float) -> Side:
        """Return a side that runs it."""
        source = _source(self.bench)
        name = f"{source.stem}-{self.weights}" + (f"-{self.layers}-layers" if self.layers else "")
        folder = made(self.bench, "gguf", name, weights=self.weights, source=str(source), layers=self.layers)
        given = {"file": str(folder / "model.gguf"), "threads": self.bench.threads}
        return Side(ADAPTER, given | settings, {"weights": FORMATS[self.weights], **settings}, KEEP_PAGES)


def _source(bench: Bench) -> Path:
    """Return the file that copies are made of.

    Raises:
        RequestError: no GGUF with a tokenizer was named. DocumentError: real weights are not installed.
    """
    if bench.model and not (bench.model.lower().endswith(".gguf") and Path(bench.model).is_file()):
        raise RequestError(
            "OpenVINO GenAI needs a GGUF file with a tokenizer",
            place="--model",
            mend="name a .gguf file, or leave --model out",
        )
    return Path(bench.model) if bench.model else real_gguf()


def trial(
    lever: str,
    title: str,
    weights: tuple[str, str],
    batch: tuple[int, int],
    bench: Bench,
    *,
    notes: tuple[str, ...] = (),
) -> Trial:
    """Return a trial of two formats or two batches: seconds per token of a greedy generation."""
    source = _source(bench)
    deep = int(compile_table(read_model(str(source))).layers)
    per = (float(GENERATED * batch[0]), float(GENERATED * batch[1]))
    timed = (Timed("decode", "generate", {"tokens": GENERATED}, {"tokens": GENERATED}, times=1, per=per),)
    depths = sorted({max(1, round(share * deep)) for share in (SHALLOW, MIDDLE)})
    if len(depths) < 2 or depths[1] >= deep:
        raise RequestError(
            f"{source.name} has too few layers to probe fewer", place="--model", mend="take a deeper model"
        )

    def sides(layers: int) -> tuple[Side, Side]:
        before, after = (
            Model(bench, each, layers).side(batch=count) for each, count in zip(weights, batch, strict=True)
        )
        return before, after

    def predict() -> dict[str, Forecast]:
        first, second = (Probe(layers, *sides(layers)) for layers in depths)
        found = by_depth(bench, (first, second), timed, layers=deep, engine=ENGINE)
        return found | {"bytes": file_forecast(source, weights)} if weights[0] != weights[1] else found

    return Trial(
        lever, title, ENGINE, source.name if bench.model else REAL_NAME, *sides(0), timed=timed,
        counted=(Counted("bytes", "weights"),) if weights[0] != weights[1] else (), predict=predict, real_weights=True,
        notes=(f"greedy generation of {GENERATED} tokens, seconds per token", *notes),
    )  # fmt: skip


def file_forecast(source: Path, weights: tuple[str, str]) -> Forecast:
    """Return the forecast of a file's bytes: those of its weights in a format; vocabulary and metadata come on top of both."""
    architecture = read_model(str(source))
    before, after = (stored_bytes(architecture, FORMATS[each], embedding=FORMATS[each]) for each in weights)
    ratio = after / before
    said = Provenance("bytes of the file", "derived", "formats and shapes")
    return Forecast(Interval(ratio, ratio * (1 - METADATA), ratio * (1 + METADATA)), "formula", (said,))


def weights_trial(lever: str, after: str, bench: Bench) -> Trial:
    """Return the trial of a GGUF format: what the pipeline keeps in memory is its own choice, so the file's bytes are shown."""
    return trial(
        lever, f"{FORMATS[after]} weights instead of fp16", ("f16", after), (1, 1), bench,
        notes=("OpenVINO GenAI gives no logits: what the format costs in quality is proven on llama.cpp",),
    )  # fmt: skip


def batch_trial(bench: Bench) -> Trial:
    """Return the trial of a batch: seconds per token of all sequences."""
    return trial("larger-batch", f"{SEQUENCES} sequences at once instead of 1", ("q8_0", "q8_0"), (1, SEQUENCES), bench)


TRIALS: dict[str, Callable[[Bench], Trial]] = {
    "q8_0-weights": partial(weights_trial, "q8_0-weights", "q8_0"),
    "q4_0-weights": partial(weights_trial, "q4_0-weights", "q4_0"),
    "larger-batch": batch_trial,
}
NEEDS = ("openvino_genai", "gguf")
version = partial(need, *NEEDS)

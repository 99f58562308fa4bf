"""Trials of a training step under PyTorch: recomputed activations, an 8-bit optimizer.

Memory is what ``bytebound trace`` says of the step before it runs; time comes from shallow models of the same width.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bytebound.documents.values import Interval, Provenance
from bytebound.documents.work import Train
from bytebound.errors import RequestError
from bytebound.ledger.states import moment_bytes
from bytebound.prove.depth import Probe, by_depth
from bytebound.prove.folders import need
from bytebound.prove.trial import SPIN_S, Bench, Counted, Forecast, Side, Timed, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

ENGINE, ADAPTER = "pytorch-training", "bytebound.engines.prove_torch_training"
LAYERS, PROBED = 8, (2, 4)
BATCH, SEQ = 4, 256
CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1536,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 8192, "tie_word_embeddings": True,
    "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""A small Llama of nobody's: activations of a step are as large as its states."""
NAME = f"random Llama of {LAYERS} layers, 512 wide"
STEP = Timed("step", "train_step", {}, {}, times=1, rounds=8, rest_s=SPIN_S)
PLAIN = Train(
    seq=SEQ,
    micro_batch=BATCH,
    global_batch=BATCH,
    precision="fp32",
    recompute="none",
    optimizer_kernel="loop",
    framework="hf",
)
EXACT = 0.02
"""How far the allocator's peak may lie from the traced one. Source: validation/trace_allocator.csv, worst Llama within 2 %."""


def config(layers: int) -> dict[str, Any]:
    """Return the config with so many layers."""
    return {**CONFIG, "num_hidden_layers": layers}


def side(bench: Bench, layers: int, work: Train) -> Side:
    """Return a side that trains as ``work`` says."""
    given = {"optimizer": work.optimizer, "recompute": work.recompute == "full"}
    shown: dict[str, float | str] = {
        "optimizer": work.optimizer,
        "recompute": work.recompute,
        "batch": BATCH,
        "seq": SEQ,
    }
    return Side(
        ADAPTER, {"config": config(layers), "batch": BATCH, "seq": SEQ, "threads": bench.threads, **given}, shown,
    )  # fmt: skip


def peak(work: Train) -> float:
    """Return the bytes at the fullest moment of a step, traced; 8-bit moments are put in by the ledger's formula."""
    from bytebound.trace.hf import trace_model  # noqa: PLC0415 - needs torch

    traceable = replace(work, optimizer="adamw")
    traced = trace_model(config(LAYERS), traceable, on="cpu")
    return traced.peak.held.total + traced.parameters * (moment_bytes(work) - moment_bytes(traceable))


def training_trial(
    lever: str, title: str, after: Train, bench: Bench, *, engine: str = ENGINE, notes: tuple[str, ...] = ()
) -> Trial:
    """Return the trial of a change to a training step: its time and the bytes at its fullest moment."""
    if bench.model:
        raise RequestError(
            "training trials run a model of their own", place="--model", mend="leave --model out for this lever"
        )

    def sides(layers: int) -> tuple[Side, Side]:
        return side(bench, layers, PLAIN), side(bench, layers, after)

    def predict() -> dict[str, Forecast]:
        bench.say(f"{lever}: tracing")
        ratio = peak(after) / peak(PLAIN)
        source = Provenance(
            "bytes at the fullest moment of a step", "derived", "bytebound trace of the same config, nothing run"
        )
        memory = Forecast(Interval(ratio, ratio * (1 - EXACT), ratio * (1 + EXACT)), "formula", (source,))
        first, second = (Probe(layers, *sides(layers)) for layers in PROBED)
        return {"memory": memory, **by_depth(bench, (first, second), (STEP,), layers=LAYERS, engine=engine)}

    return Trial(
        lever, title, engine, NAME, *sides(LAYERS), timed=(STEP,), counted=(Counted("memory", "peak"),), predict=predict,
        aim="memory", notes=(f"fp32, {BATCH} sequences of {SEQ} tokens; memory is the allocator's fullest moment", *notes),
    )  # fmt: skip


def recompute_trial(bench: Bench) -> Trial:
    """Return the trial of activation checkpointing."""
    return training_trial(
        "full-recompute", "activations of every layer computed again in the backward pass", replace(PLAIN, recompute="full"), bench
    )  # fmt: skip


def optimizer_trial(bench: Bench) -> Trial:
    """Return the trial of torchao's 8-bit AdamW.

    Raises:
        DocumentError: torchao is not installed.
    """
    need("torchao")
    return training_trial(
        "8-bit-optimizer", "moments of AdamW in 8 bits (torchao)", replace(PLAIN, optimizer="adamw-8bit"), bench,
        notes=("its update is compiled",),
    )  # fmt: skip


TRIALS: dict[str, Callable[[Bench], Trial]] = {"full-recompute": recompute_trial, "8-bit-optimizer": optimizer_trial}
NEEDS = ("torch", "transformers")
version = partial(need, *NEEDS)

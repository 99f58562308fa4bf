"""Traced steps under parallel plans beside the closed forms of training: python validation/trace_plans.py (two minutes, needs transformers).

Two opinions that share no code but the collectives' volumes: operators and tensors of Hugging Face's models dealt out one by one, and
formulas of an architecture. Prints one line per plan: memory by part [GiB], the two totals, and where the formula's step time lies in
the trace's band (0: ideally fused, 1: operator by operator).
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.work import Train
from bytebound.engines.torch_source import describe
from bytebound.predict.traced import estimate_trace
from bytebound.predict.train_answers import train
from bytebound.trace.hf import trace_model

if TYPE_CHECKING:
    from bytebound.documents.trace import Trace

GIB = 2.0**30
GPT = {
    "model_type": "gpt2", "n_embd": 4096, "n_head": 32, "n_layer": 32, "vocab_size": 51200, "n_positions": 4096, "resid_pdrop": 0.0,
    "embd_pdrop": 0.0, "attn_pdrop": 0.0, "tie_word_embeddings": False, "activation_function": "gelu_pytorch_tanh",
}  # fmt: skip
MODELS: dict[str, Any] = {
    "8b": "llama-3.1-8b",
    "70b": "llama-3.1-70b",
    "mixtral": "mistralai/Mixtral-8x7B-v0.1",
    "gpt": GPT,
}
PLAIN: dict[str, Any] = {"precision": "bf16-mixed", "recompute": "none", "optimizer_kernel": "foreach"}
FULL, LORA = {**PLAIN, "recompute": "full"}, {**PLAIN, "precision": "bf16", "trainable": "lora"}
APART = {"sequence_parallel": "off"}
PLANS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("8b", PLAIN, {"dp": 8}), ("8b", PLAIN, {"dp": 64}), ("8b", PLAIN, {"dp": 8, "zero": 2}),
    ("8b", PLAIN, {"dp": 8, "zero": 0, "framework": "hf"}), ("8b", PLAIN, {"dp": 8, "zero": 1, "framework": "hf"}),
    ("8b", {**PLAIN, "precision": "bf16"}, {"dp": 8}), ("8b", {**PLAIN, "precision": "fp32"}, {"dp": 8}),
    ("8b", PLAIN, {"dp": 8, "optimizer": "adamw-8bit"}), ("8b", PLAIN, {"dp": 8, "optimizer": "muon"}),
    ("8b", {**PLAIN, "optimizer_kernel": "fused"}, {"dp": 8}),
    ("8b", PLAIN, {"tp": 8}), ("8b", PLAIN, {"tp": 4, "dp": 2, **APART}), ("8b", PLAIN, {"tp": 2, "dp": 4, "cp": 2, **APART}),
    ("8b", PLAIN, {"pp": 4, "dp": 2, "zero": 0}), ("8b", PLAIN, {"pp": 4, "dp": 2, "virtual_stages": 4}),
    ("8b", FULL, {"dp": 8}), ("8b", FULL, {"pp": 4, "dp": 2, "zero": 2}),
    ("8b", LORA, {"dp": 8, "zero": 0, "framework": "hf"}), ("8b", LORA, {"dp": 8, "framework": "hf"}),
    ("70b", FULL, {"dp": 64}), ("70b", FULL, {"tp": 8, "dp": 8}), ("70b", PLAIN, {"tp": 8, "pp": 4, "dp": 4}),
    ("70b", PLAIN, {"tp": 8, "pp": 4, "dp": 4, **APART}), ("70b", PLAIN, {"tp": 8, "pp": 4, "dp": 2, "cp": 2, "virtual_stages": 5, "zero": 2, **APART}),
    ("mixtral", PLAIN, {"dp": 8}), ("mixtral", PLAIN, {"dp": 64}), ("mixtral", PLAIN, {"dp": 64, "ep": 8}),
    ("mixtral", PLAIN, {"tp": 2, "pp": 4, "dp": 8, "ep": 4, "zero": 2}),
    ("gpt", PLAIN, {"dp": 8}), ("gpt", PLAIN, {"tp": 4, "pp": 2, "dp": 4, "zero": 2, **APART}), ("gpt", FULL, {"dp": 8, "micro_batch": 2}),
)  # fmt: skip
PARTS = ("parameters", "gradients", "optimizer", "activations", "temporary")


@cache
def traced(model: str, made: tuple[tuple[str, Any], ...]) -> Trace:
    """Trace a model as ``made`` trains it."""
    found = describe(MODELS[model])
    return trace_model(dict(found.values), Train(seq=4096, **dict(made)), name=model)


def main() -> None:
    """Print the comparison."""
    off: list[float] = []
    states: list[float] = []
    inside = 0
    for model, made, plan in PLANS:
        devices = int(np.prod([plan.get(name, 1) for name in ("tp", "pp", "dp", "cp")]))
        batch = plan.get("dp", 1) * plan.get("micro_batch", 1) * (16 if plan.get("pp", 1) > 1 else 1)
        work = Train(**{"seq": 4096, "framework": "fsdp", "global_batch": batch, **made, **plan})
        machine = f"{devices // 8}x(8x h100-sxm)" if devices > 8 else f"{devices}x h100-sxm"
        ours = estimate_trace(traced(model, tuple(sorted(made.items()))), machine, plan=work).plan
        formula = train(describe(MODELS[model]).architecture, machine, work)
        assert ours is not None
        mine, theirs = ours.memory, formula.memory
        shown = " ".join(f"{getattr(mine, part) / GIB:7.2f}/{getattr(theirs, part) / GIB:7.2f}" for part in PARTS)
        off.append(float(mine.allocated_bytes) / float(theirs.allocated_bytes) - 1)
        states.extend(
            float(getattr(mine, part)) / float(getattr(theirs, part)) - 1 for part in ("parameters", "optimizer")
        )
        seconds = float(sum(np.asarray(value) for value in formula.time.values()))
        place = (seconds - ours.low_s) / (ours.high_s - ours.low_s)
        inside += 0 <= place <= 1
        asked = ", ".join(f"{name} {value}" for name, value in {**made, **plan}.items() if PLAIN.get(name) != value)
        sys.stdout.write(f"{model:8} {shown} {off[-1]:+7.1%} {place:6.2f}  {asked}\n")
    sys.stdout.write(
        f"{len(off)} plans: states median {np.median(np.abs(states)):.2%}, worst {np.max(np.abs(states)):.1%}; "
        f"allocated median {np.median(np.abs(off)):.1%}, worst {np.max(np.abs(off)):.1%}; step inside the band in {inside}\n"
    )


if __name__ == "__main__":
    main()

"""Peers asked about published training runs: their step times and memory, beside measured ones in docs/accuracy-training.md.

    python validation/training_peers.py --truth FOLDER --llm-analysis UNPACKED_WHEEL --out validation/training_peers.csv

``pip download --no-deps llm-analysis==0.2.2`` and unpack it: its code is imported from there, with a stand-in for its command
line. A question out of a peer's scope leaves no row; one it fails on leaves its reason. The simulator Calculon is not on PyPI
(the package of that name is a queue of producers and consumers), so its published errors alone are quoted.
"""

from __future__ import annotations

import argparse
import csv
import logging
import re
import sys
import types
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytebound.documents.architecture import Embedding, Linear
from bytebound.facts.devices import devices
from bytebound.truth.training import read_training_corpus
from bytebound.validate.training import one_per_run, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bytebound.documents.train_truth import TrainTruth

COLUMNS = ("run", "source", "peer", "version", "step_s", "allocated_bytes", "reason")
EFFICIENCY = 0.5
"""llm-analysis multiplies the peak by one number the user gives; its README's examples take 0.5."""
GIB = 2.0**30
SIMUMAX = re.compile(r"SimuMax predicted ([\d.]+) ms .*? and ([\d.]+) GiB")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer said of one run: seconds and bytes, or 0 and the reason it gave none."""

    step_s: float = 0.0
    allocated_bytes: float = 0.0
    reason: str = ""


class OutOfScope(Exception):  # noqa: N818 - what a question is, not a fault
    """The peer does not model such a run."""


@dataclass(frozen=True, slots=True)
class Dense:
    """The dimensions peers ask for, of a network whose layers are alike and dense."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    gated: bool
    tied: bool


def dense(row: TrainTruth) -> Dense:
    """Return the dimensions of a row's model.

    Raises:
        OutOfScope: experts, latent attention, several towers, or layers that differ.
    """
    blocks = row.architecture.main.blocks
    attention = [op for block in blocks for op in block.operators if type(op).__name__ == "Attention"]
    linears = [(block, op) for block in blocks for op in block.operators if isinstance(op, Linear)]
    layered = [block for block in blocks if any(type(op).__name__ == "Attention" for op in block.operators)]
    if (
        len(layered) != 1
        or len(attention) != 1
        or attention[0].kind == "latent"
        or any(op.copies > 1 for _, op in linears)
    ):
        raise OutOfScope
    ups = [op for _, op in linears if op.role == "mlp" and op.inputs == row.architecture.main.hidden]
    vocab = max(op.rows for block in blocks for op in block.operators if isinstance(op, Embedding))
    heads = [op for _, op in linears if op.role == "head"]
    fused = len(ups) == 1 and any(op.role == "mlp" and op.inputs * 2 == ups[0].outputs for _, op in linears)
    return Dense(
        layered[0].repeat, row.architecture.main.hidden, attention[0].heads, attention[0].kv_heads,
        ups[0].outputs // (2 if fused else 1), vocab, fused or len(ups) > 1, tied=any(op.tied for op in heads),
    )  # fmt: skip


def megatron(row: TrainTruth) -> Answer:
    """Megatron-LM's ``theoretical_memory_usage.py`` (commit d98e8a6), divided by cp as Bridge does.

    18 bytes a parameter, or 6 + 12/dp; a layer keeps ``s b h (18 + 4 f/h)`` with sequence parallelism and selective recomputation.
    """
    w, d = row.work, dense(row)
    if w.framework != "megatron" or w.recompute == "full" or w.attention != "flash" or w.trainable != "full":
        raise OutOfScope
    tp, pp, dp, cp, vp = (int(x) for x in (w.tp, w.pp, w.dp, w.cp, w.virtual_stages))
    kv = d.kv_heads / d.heads
    block = 2 * d.layers * d.hidden**2 * ((1 + kv) + (d.ffn / d.hidden) * (1.5 if d.gated else 1) + 1 / d.hidden)
    embedding = d.hidden * d.vocab
    shard = (block / pp + embedding + (0 if d.tied or pp > 1 else embedding)) / tp
    states = shard * (6 + 12 / (dp * cp) if w.zero else 18)
    s, b, h = int(w.seq), int(w.micro_batch), d.hidden
    m = int(w.global_batch) // (b * dp)
    kept = s * b * h * (18 + 4 * d.ffn / h) * d.layers + 8 * s * b * pp + s * b * h * pp
    kept *= 1 + (pp - 1) / (pp * vp) if vp > 1 else min(1.0, m / pp) if pp > 1 else 1.0
    kept += s * b * h * 4 * (1 + d.vocab / h) if pp == 1 else 0
    return Answer(allocated_bytes=states + kept / tp / cp)


def accelerate(row: TrainTruth) -> Answer:
    """``accelerate estimate-memory``: the largest of its four parts, for Adam on one device, no activations."""
    from accelerate.commands.estimate import estimate_training_usage  # noqa: PLC0415

    if row.devices > 1 or row.work.trainable != "full":
        raise OutOfScope
    parts = estimate_training_usage(4 * row.architecture.parameters, "bfloat16")
    return Answer(allocated_bytes=float(max(parts.values())))


def simumax(row: TrainTruth) -> Answer:
    """What SimuMax itself published beside the run, with its system file measured on this machine."""
    found = SIMUMAX.search(row.notes)
    if found is None:
        raise OutOfScope
    return Answer(float(found[1]) / 1000, float(found[2]) * GIB)


def llm_analysis(row: TrainTruth) -> Answer:
    """``LLMAnalysis.training`` with an efficiency of 0.5: step time, and weights, states, gradients and activations."""
    from llm_analysis.analysis import ActivationRecomputation, DSZeRO, LLMAnalysis  # noqa: PLC0415
    from llm_analysis.config import DtypeConfig, GPUConfig, ModelConfig, ParallelismConfig  # noqa: PLC0415

    w, d, device = row.work, dense(row), devices()[row.device]
    if w.trainable != "full" or w.cp > 1:
        raise OutOfScope
    peak = device.bf16_flop_per_s or device.fp16_flop_per_s
    gpu = GPUConfig(
        row.device, (device.memory_bytes or 0) / GIB, (device.memory_bytes_per_s or 0) / 1e9, (device.scaleup_bytes_per_s or 6.4e10) / 1e9,
        8e-6, (peak or 0) / 1e12, inter_node_bandwidth_in_GB_per_sec=(device.scaleout_bytes_per_s or 2.5e10) / 1e9,
    )  # fmt: skip
    model = ModelConfig(
        row.model, d.layers, d.heads, d.hidden, d.vocab, max_seq_len=int(w.seq), num_key_value_heads=d.kv_heads, ffn_embed_dim=d.ffn,
        expansion_ratio=d.ffn / d.hidden,
    )  # fmt: skip
    tp = int(w.tp)
    together = tp if w.framework in {"megatron", "fsdp"} and w.sequence_parallel != "off" else 1
    plan = ParallelismConfig(tp_size=tp, pp_size=int(w.pp), dp_size=int(w.dp), sp_size=together)
    analysis = LLMAnalysis(model, gpu, DtypeConfig(), plan, flops_efficiency=EFFICIENCY)
    kept = {"full": ActivationRecomputation.FULL, "selective": ActivationRecomputation.SELECTIVE}.get(
        w.recompute if w.attention == "eager" or w.recompute == "full" else "none", ActivationRecomputation.NONE
    )
    said = analysis.training(
        batch_size_per_gpu=int(w.micro_batch), global_batch_size=int(w.global_batch), seq_len=int(w.seq),
        activation_recomputation=kept, ds_zero=DSZeRO(int(w.zero)), flash_attn=w.attention == "flash", mlp_gated_linear_units=d.gated,
    )  # fmt: skip
    return Answer(float(said["latency_per_iter"]), float(said["(weight+op_state+grad+act)_memory_per_gpu"]))


PEERS: dict[str, tuple[str, Callable[[TrainTruth], Answer]]] = {
    "llm-analysis": ("0.2.2", llm_analysis),
    "Megatron formula": ("d98e8a6", megatron),
    "accelerate": (version("accelerate"), accelerate),
    "SimuMax": ("1.2", simumax),
}


def main(argv: list[str] | None = None) -> int:
    """Ask every peer and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--llm-analysis", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    given = parser.parse_args(argv)
    sys.path.insert(0, str(given.llm_analysis))
    sys.modules.setdefault("fire", types.ModuleType("fire"))
    rows, _ = read_training_corpus(given.truth)
    logging.disable(logging.WARNING)
    with given.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(answers(rows))
    return 0


def answers(rows: Iterable[TrainTruth]) -> Iterable[tuple[Any, ...]]:
    """Yield one line per run and peer that answered or failed."""
    wanted = {
        "step_s",
        "tokens_per_s_per_device",
        "flop_per_s_per_device",
        "mfu",
        "allocated_bytes",
        "reserved_bytes",
        "device_bytes",
    }
    of = {row.run: row for row in one_per_run(tuple(rows)) if row.metric in wanted and not refusal(row)}
    for run, row in of.items():
        for peer, (released, ask) in PEERS.items():
            try:
                said = ask(row)
            except OutOfScope:
                continue
            except Exception as problem:  # noqa: BLE001 - any failure of a peer is its answer
                said = Answer(reason=f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:80])
            yield (
                run,
                row.source,
                peer,
                released,
                f"{said.step_s:.6g}" if said.step_s else "",
                f"{said.allocated_bytes:.6g}" if said.allocated_bytes else "",
                said.reason,
            )


if __name__ == "__main__":
    sys.exit(main())

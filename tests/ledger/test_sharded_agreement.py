"""Two independent opinions of one plan: traced steps dealt out tensor by tensor, and the closed forms of training.

The shapes are published ones with a vocabulary of 32,000, Llama-70B's with 32 of its layers.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("transformers", reason="builds models of transformers")

from bytebound.documents.work import Train
from bytebound.ledger.ledger import CONTEXT, ELEMENTWISE, EXPERT, GEMM
from bytebound.ledger.sharded import deal, held
from bytebound.ledger.sharded_exchanges import traced_spoken
from bytebound.ledger.sharded_rows import divide, divided_ledger
from bytebound.ledger.table import compile_table
from bytebound.ledger.training import train_ledger
from bytebound.ledger.training_exchanges import spoken
from bytebound.ledger.training_job import lay_out
from bytebound.ledger.training_memory import training_memory
from bytebound.ledger.training_plan import resolve
from bytebound.models.config import read_config

if TYPE_CHECKING:
    from bytebound.documents.trace import Trace
    from bytebound.ledger.table import OpTable

SEQ = 2048
COMMON = {"num_hidden_layers": 32, "max_position_embeddings": 8192, "vocab_size": 32000}
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
           **COMMON},
    "70b": {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8,
            **COMMON},
    "mixtral": {"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
                "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, **COMMON},
    "gpt": {"model_type": "gpt2", "n_embd": 4096, "n_head": 32, "n_layer": 32, "vocab_size": 32000, "n_positions": 2048,
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "tie_word_embeddings": False,
            "activation_function": "gelu_pytorch_tanh"},
}  # fmt: skip
NONE, FULL, LORA = (
    {"recompute": "none"},
    {"recompute": "full"},
    {"recompute": "none", "trainable": "lora", "precision": "bf16"},
)
PLANS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("8b", NONE, {"dp": 8}),
    ("8b", NONE, {"dp": 64, "zero": 2}),
    ("8b", NONE, {"dp": 8, "zero": 0, "framework": "hf"}),
    ("8b", NONE, {"dp": 16, "optimizer": "adamw-8bit"}),
    ("8b", NONE, {"dp": 16, "optimizer": "muon"}),
    ("8b", NONE, {"dp": 16, "optimizer": "sgd-momentum"}),
    ("8b", NONE, {"tp": 4, "dp": 2, "sequence_parallel": "off"}),
    ("8b", NONE, {"tp": 2, "dp": 4, "cp": 2, "sequence_parallel": "off"}),
    ("8b", NONE, {"pp": 4, "dp": 2, "zero": 0, "global_batch": 32}),
    ("8b", NONE, {"pp": 2, "virtual_stages": 2, "dp": 4, "global_batch": 32}),
    ("8b", NONE, {"pp": 2, "tp": 2, "dp": 2, "micro_batch": 2, "global_batch": 64, "sequence_parallel": "off"}),
    ("8b", FULL, {"dp": 8, "recompute": "full"}),
    ("8b", FULL, {"pp": 2, "dp": 4, "recompute": "full", "micro_batch": 4, "global_batch": 128}),
    ("8b", LORA, {"dp": 8, "zero": 0, "framework": "hf"}),
    ("8b", LORA, {"dp": 8, "framework": "hf"}),
    ("70b", NONE, {"tp": 8, "pp": 2, "dp": 2, "global_batch": 16, "sequence_parallel": "off"}),
    ("70b", NONE, {"tp": 8, "pp": 4, "dp": 2, "cp": 2, "zero": 2, "global_batch": 32, "sequence_parallel": "off"}),
    ("mixtral", NONE, {"dp": 8}),
    ("mixtral", NONE, {"dp": 64, "ep": 8}),
    ("mixtral", NONE, {"tp": 2, "pp": 4, "dp": 8, "ep": 4, "zero": 2, "global_batch": 64}),
    ("gpt", NONE, {"dp": 8}),
    ("gpt", NONE, {"tp": 4, "pp": 2, "dp": 4, "zero": 2, "global_batch": 32, "sequence_parallel": "off"}),
)  # fmt: skip
STATES_WITHIN, TOTAL_WITHIN = 0.02, 0.10
"""Closed forms leave out biases and round layers of a stage; they count the head's gradient together with those of the logits, which
no step holds at once (``test_sharded_torch`` has the bytes of PyTorch's own sharding)."""


@cache
def traced(model: str, made: tuple[tuple[str, str], ...]) -> Trace:
    from bytebound.trace.hf import trace_model

    work = Train(**{"seq": SEQ, "precision": "bf16-mixed", "optimizer_kernel": "foreach", **dict(made)})  # type: ignore[arg-type]
    return trace_model(SHAPES[model], work, name=model)


def laid(model: str, made: dict[str, Any], plan: dict[str, Any]) -> tuple[Trace, OpTable, Train]:
    table = compile_table(read_config(SHAPES[model]))
    batch = plan.get("dp", 1) * plan.get("micro_batch", 1)
    asked = {"seq": SEQ, "framework": "fsdp", "optimizer_kernel": "foreach", "global_batch": batch, **made, **plan}
    return traced(model, tuple(sorted(made.items()))), table, resolve(Train(**asked))


@pytest.mark.parametrize(("model", "made", "plan"), PLANS)
def test_memory_is_the_closed_forms(model: str, made: dict[str, Any], plan: dict[str, Any]) -> None:
    """Weights and optimizer states agree to 2 %, everything together to a tenth, for twenty-two unlike plans."""
    trace, table, work = laid(model, made, plan)
    ours, formula = held(deal(trace, work)), training_memory(table, work, device_bytes=80e9)
    for part in ("parameters", "optimizer"):
        small = 1e-3 * float(formula.allocated_bytes)
        assert float(getattr(ours, part)) == pytest.approx(
            float(getattr(formula, part)), rel=STATES_WITHIN, abs=small
        ), part
    assert float(ours.allocated_bytes) == pytest.approx(float(formula.allocated_bytes), rel=TOTAL_WITHIN)


@pytest.mark.parametrize(("model", "made", "plan"), PLANS)
def test_work_and_volumes_are_the_closed_forms(model: str, made: dict[str, Any], plan: dict[str, Any]) -> None:
    """FLOPs of a micro-batch on one device agree to 1 % without recomputation, and what devices exchange to the byte."""
    trace, table, work = laid(model, made, plan)
    device, job = deal(trace, work), lay_out(table, work)
    ours = divided_ledger(device, trace, divide(device, trace), fused=False)
    formula = train_ledger(table, job)
    for kind in (GEMM, EXPERT, CONTEXT):
        rows = [
            (ledger.rows.flops * ledger.rows.repeat * ledger.times.sum(axis=0))[ledger.rows.op_class == kind].sum()
            for ledger in (ours, formula)
        ]
        if made.get("recompute") == "none":
            assert rows[0] == pytest.approx(rows[1], rel=0.01), kind
        else:  # checkpointing stops where nothing further is needed: the last product of a layer is not done again
            assert 0.9 * rows[1] <= rows[0] <= rows[1] * (1 + 1e-3), kind
    told, said = traced_spoken(device, trace, job), spoken(table, job)
    for name in ("hidden_bytes", "layers", "dense", "routed", "expert_layers", "active", "cached"):
        assert float(np.max(getattr(told, name))) == pytest.approx(float(np.max(getattr(said, name)))), name


def test_fused_rows_move_less() -> None:
    """Ideally fused, no class of operators moves more and the step starts fewer kernels; FLOPs stay."""
    trace, _, work = laid("8b", NONE, {"tp": 4, "dp": 2})
    device = deal(trace, work)
    shares = divide(device, trace)
    fused, eager = (divided_ledger(device, trace, shares, fused=which) for which in (True, False))
    for kind in (GEMM, CONTEXT, ELEMENTWISE):
        mine = fused.rows.op_class == kind
        assert (fused.rows.activation_bytes * fused.rows.repeat)[mine].sum() <= (
            eager.rows.activation_bytes * eager.rows.repeat
        )[mine].sum()
    assert fused.rows.launches.sum() < eager.rows.launches.sum()
    assert (fused.rows.flops * fused.rows.repeat).sum() == (eager.rows.flops * eager.rows.repeat).sum()


def test_one_device_does_the_trace() -> None:
    """With every degree 1 the rows are the trace: every FLOP and byte of forward and backward, and of the optimizer."""
    trace, _, work = laid("gpt", NONE, {"zero": 0, "framework": "hf"})
    device = deal(trace, work)
    ours = divided_ledger(device, trace, divide(device, trace), fused=False)
    step = [op for op in trace.operators if op.phase != "optimizer" and op.kind != "host"]
    moved = ((ours.rows.weight_bytes + ours.rows.activation_bytes) * ours.rows.repeat).sum()
    assert (ours.rows.flops * ours.rows.repeat).sum() == pytest.approx(sum(op.flops for op in step))
    assert moved == pytest.approx(sum(op.read_bytes + op.written_bytes for op in step))
    last = [op for op in trace.operators if op.phase == "optimizer" and op.kind != "host"]
    assert float(ours.optimizer_bytes[0]) == pytest.approx(sum(op.read_bytes + op.written_bytes for op in last))
    assert not ours.exchanges.names

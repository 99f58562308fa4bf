"""Memory of the fullest device: measured peaks, exact traces of real code, and what must hold whatever the numbers."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.documents.work import FRAMEWORKS, Train
from bytebound.errors import UnknownNameError
from bytebound.facts.training_reserves import find_training_reserve
from bytebound.ledger.table import compile_table
from bytebound.ledger.training_memory import PEAKS, Held, spread_of, training_memory
from bytebound.ledger.training_plan import resolve
from bytebound.models import read_model
from bytebound.models.config import read_config

GIB = 2.0**30
LLAMA_70B = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8,
    "num_hidden_layers": 12, "vocab_size": 128256, "head_dim": 128,
}  # fmt: skip
LLAMA_405B = {
    "model_type": "llama", "hidden_size": 16384, "intermediate_size": 53248, "num_attention_heads": 128, "num_key_value_heads": 16,
    "num_hidden_layers": 4, "vocab_size": 128256, "head_dim": 128,
}  # fmt: skip
TINY = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 4,
    "num_hidden_layers": 6, "vocab_size": 4096, "head_dim": 64, "tie_word_embeddings": False, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip


def held_by(table, *, device_bytes=8e10, **request):
    return training_memory(table, resolve(Train(**request), table), device_bytes=device_bytes)


@pytest.mark.parametrize(
    ("config", "plan", "gib"),
    [
        (LLAMA_70B, {"pp": 2, "dp": 4, "global_batch": 16}, 66.55),
        (LLAMA_70B, {"tp": 2, "dp": 4, "global_batch": 16}, 60.68),
        (LLAMA_70B, {"tp": 8, "global_batch": 4}, 28.29),
        (LLAMA_70B, {"cp": 8, "seq": 131072, "global_batch": 4}, 147.99),
        (LLAMA_405B, {"tp": 4, "dp": 2, "global_batch": 8}, 52.89),
        (LLAMA_405B, {"cp": 8, "seq": 32768, "global_batch": 4}, 139.22),
    ],
)
def test_measured_peaks_of_megatron(config, plan, gib):
    """Peak allocated bytes on B200 (SimuMax v1.2 real-vs-perf tables): bf16, distributed optimizer, nothing recomputed."""
    request = {"seq": 4096, "zero": 1, "framework": "megatron", "recompute": "none"} | plan
    held = held_by(compile_table(read_config(config)), **request)
    assert float(held.allocated_bytes) == pytest.approx(gib * GIB, rel=0.015)


@pytest.mark.parametrize(
    "request_",
    [
        {"precision": "bf16"}, {"precision": "bf16", "recompute": "full"}, {"precision": "bf16", "loss": "chunked"},
        {"precision": "bf16", "attention": "eager", "recompute": "none"}, {"precision": "bf16", "trainable": "lora"},
    ],
    ids=lambda request: "-".join(map(str, request.values())),
)  # fmt: skip
def test_agrees_with_the_trace_of_real_code(request_):
    """The tracer and the formulas are two opinions on one step; the workspace of a GPU's libraries is in no trace."""
    hf = pytest.importorskip("bytebound.trace.hf", reason="traces transformers with fake tensors")
    pytest.importorskip("transformers", reason="the traced code")
    if request_.get("trainable"):
        pytest.importorskip("peft", reason="adapters")
    work = Train(
        seq=4096,
        micro_batch=1,
        global_batch=1,
        framework="hf",
        zero=0,
        recompute_layers=1.0,
        **({"recompute": "none"} | request_),
    )
    traced = hf.trace_model(TINY, work, repeat_kv=True).peak.held
    table = compile_table(read_config(TINY))
    held = training_memory(table, resolve(work, table), device_bytes=8e10)
    workspace = 2 * 32 * 2**20
    total = sum(
        getattr(traced, name) for name in ("parameters", "gradients", "optimizer", "activations", "temporaries")
    )
    assert float(held.allocated_bytes) - workspace == pytest.approx(total, rel=0.03)


@pytest.mark.parametrize(
    ("model", "micro_batch", "request_", "gb"),
    [
        ("meta-llama/Llama-2-7b-hf", 2, {"trainable": "lora", "lora_targets": "qv"}, 19.77),
        ("mistralai/Mistral-7B-v0.1", 2, {"trainable": "lora", "lora_targets": "qv"}, 20.66),
        ("meta-llama/Meta-Llama-3-8B", 1, {"trainable": "lora", "lora_targets": "qv"}, 19.73),
        ("mistralai/Mistral-7B-v0.1", 2, {"trainable": "qlora", "lora_targets": "qv"}, 14.29),
        ("meta-llama/Meta-Llama-3-8B", 2, {"trainable": "qlora", "lora_targets": "qv"}, 17.41),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 8, {"trainable": "lora", "lora_targets": "all"}, 13.50),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 8, {"trainable": "qlora", "lora_targets": "all"}, 16.24),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 4, {"global_batch": 32}, 14.10),
    ],
)
def test_measured_peaks_of_litgpt(model, micro_batch, request_, gb):
    """Peak allocated bytes on A10G (litgpt config_hub/finetune/README.md): bf16-true, 512 tokens, ranks of its recipes."""
    work = {"seq": 512, "micro_batch": micro_batch, "global_batch": micro_batch, "framework": "litgpt", "precision": "bf16", "zero": 0,
            "recompute": "none", "lora_rank": 32} | request_  # fmt: skip
    assert float(held_by(compile_table(read_model(model)), **work).allocated_bytes) == pytest.approx(gb * 1e9, rel=0.02)


@pytest.mark.parametrize(
    ("seq", "dp", "cp", "gib"), [(32768, 8, 1, 83.9), (65536, 4, 2, 84.2), (131072, 2, 4, 84.0), (262144, 1, 8, 84.5)]
)
def test_reserved_peaks_of_torchtitan(seq, dp, cp, gib):
    """LLaMA-3.1-8B on 8 H100, FSDP2 with context parallelism, fp8, full checkpointing (torchtitan benchmarks, December 2024, table 2)."""
    table = compile_table(read_model("llama-3.1-8b"))
    held = held_by(
        table, framework="fsdp", zero=3, seq=seq, dp=dp, cp=cp, global_batch=dp, recompute="full", precision="fp8-mixed"
    )
    reserved = float(held.allocated_bytes) * find_training_reserve("fsdp").fragmentation[1]
    assert reserved == pytest.approx(gib * GIB, rel=0.03)


def test_gradients_of_litgpt_wait_whole_between_micro_batches():
    """Fabric's ``no_backward_sync`` keeps FSDP's gradients unsharded: 2 bytes a parameter, however many devices share the rest."""
    table = compile_table(read_model("llama-3.1-8b"))
    request = {"framework": "litgpt", "precision": "bf16", "zero": 3, "seq": 512, "recompute": "full"}
    few, many = (held_by(table, **request, dp=dp, global_batch=4 * dp) for dp in (4, 16))
    once = held_by(table, **request, dp=16, global_batch=16)
    whole = 2 * 8_030_261_248
    assert float(few.gradients) == pytest.approx(whole, rel=1e-3)
    assert float(many.gradients) == pytest.approx(whole, rel=1e-3)
    assert float(once.allocated_bytes) < float(many.allocated_bytes) - 0.8 * whole


def test_megatron_copies_16_bit_gradients_for_the_step():
    """The step holds 4 bytes more per parameter of the shard, and no activations: it is the peak of a short sequence."""
    table = compile_table(read_model("llama-3.1-8b"))
    request = {"framework": "megatron", "seq": 256, "global_batch": 8, "dp": 8, "zero": 1}
    wide, narrow = (held_by(table, **request, gradients=gradients) for gradients in ("fp32", "bf16"))
    assert PEAKS[int(narrow.peak)] == "optimizer step"
    assert 4 * 8.03e9 / 8 <= float(narrow.temporary) <= 4 * 8.03e9 / 8 + 0.5e9  # and workspaces
    assert PEAKS[int(wide.peak)] != "optimizer step"


def test_one_replica_of_deepspeed_reserves_more_than_many():
    """nvidia-smi read 1.42 times the allocated bytes with one replica and 1.2 times with many (BLOOM's tuning log): the flat step."""
    table = compile_table(read_model("bigscience/bloom"))
    request = {"framework": "deepspeed", "tp": 8, "pp": 10, "zero": 1, "precision": "fp16-mixed", "attention": "eager", "recompute": "full",
               "micro_batch": 1}  # fmt: skip
    reserve = find_training_reserve("deepspeed")
    share = []
    for dp in (1, 16):
        held = held_by(table, **request, dp=dp, global_batch=2048)
        beside = reserve.context_bytes[1] + (3 if dp > 1 else 2) * reserve.link_bytes[1]
        share.append(float((held.total_bytes - beside) / held.allocated_bytes))
    assert share == [pytest.approx(1.42, abs=0.06), pytest.approx(1.2, abs=0.03)]


def test_intervals_are_wider_where_less_is_known():
    """What no run of the framework showed widens the interval; nothing narrows it."""
    plain = spread_of(Train(framework="megatron", recompute="none"))
    for unseen in (
        {"recompute": "full"},
        {"attention": "eager", "recompute": "none"},
        {"precision": "fp8-mixed", "recompute": "none"},
    ):
        assert spread_of(Train(framework="megatron", **unseen)) > plain
    assert spread_of(Train(framework="fsdp", recompute="none")) > plain


def test_optimizer_step_is_the_peak_of_short_sequences_with_foreach():
    """LLaMA-8B, b1 s2048, all in bf16, as traced: foreach AdamW's extra 15 GiB make the step the peak, fused AdamW moves it back."""
    table = compile_table(read_model("llama-3.1-8b"))
    request = {
        "seq": 2048,
        "micro_batch": 1,
        "global_batch": 1,
        "framework": "hf",
        "precision": "bf16",
        "zero": 0,
        "recompute": "none",
    }
    foreach = held_by(table, **request)
    fused = held_by(table, **request, optimizer_kernel="fused")
    assert PEAKS[int(foreach.peak)] == "optimizer step"
    assert float(foreach.allocated_bytes) / GIB == pytest.approx(74.8, rel=0.01)
    assert PEAKS[int(fused.peak)] != "optimizer step"
    assert float(fused.allocated_bytes) / GIB == pytest.approx(60.9, rel=0.02)


PLANS = st.fixed_dictionaries({
    "framework": st.sampled_from(["megatron", "fsdp", "hf", "deepspeed", "litgpt"]), "zero": st.integers(0, 3),
    "tp": st.sampled_from([1, 2, 4]), "pp": st.sampled_from([1, 2, 4]), "dp": st.sampled_from([1, 4]),
    "seq": st.sampled_from([2048, 16384]), "global_batch": st.just(64), "recompute": st.just("none"),
})  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(base=PLANS, model=st.sampled_from(["llama-3.1-8b", "mistralai/Mixtral-8x7B-v0.1"]))
def test_laws(base, model):
    """Recomputing, splitting and sharding never add to the peak; every part is finite and none is negative."""
    table = compile_table(read_model(model))
    plain = held_by(table, **base)
    slack = 1 + 1e-9
    assert held_by(table, **base | {"recompute": "full"}).allocated_bytes <= plain.allocated_bytes * slack
    assert held_by(table, **base | {"loss": "chunked"}).allocated_bytes <= plain.allocated_bytes * slack
    assert held_by(table, **base | {"tp": 2 * base["tp"]}).allocated_bytes <= plain.allocated_bytes * slack
    assert held_by(table, **base | {"seq": 2 * base["seq"]}).allocated_bytes >= plain.allocated_bytes
    if base["dp"] > 1:
        assert held_by(table, **base | {"dp": 2 * base["dp"]}).allocated_bytes <= plain.allocated_bytes * slack
    for part in fields(Held):
        value = getattr(plain, part.name)
        assert np.isfinite(value).all()
        assert (value >= 0).all()
    assert plain.low_bytes <= plain.total_bytes <= plain.high_bytes


def test_one_question_is_the_same_inside_an_array():
    table = compile_table(read_model("mistralai/Mixtral-8x7B-v0.1"))
    tp, pp, seq = np.array([1, 2, 4, 8]), np.array([1, 2, 4, 2]), np.array([1024, 4096, 8192, 32768])
    request = {"framework": "megatron", "zero": 1, "dp": 2, "ep": 2, "expert_tp": 1, "global_batch": 32}
    many = held_by(table, tp=tp, pp=pp, seq=seq, **request)
    alone = held_by(table, tp=2, pp=2, seq=seq, **request)  # one degree for all and an array beside it
    assert alone.allocated_bytes[1] == many.allocated_bytes[1]
    for i in range(4):
        one = held_by(table, tp=int(tp[i]), pp=int(pp[i]), seq=int(seq[i]), **request)
        for part in fields(Held):
            assert getattr(many, part.name)[i] == getattr(one, part.name)


def test_fits_asks_the_high_end():
    table = compile_table(read_model("llama-3.1-8b"))
    request = {"framework": "hf", "trainable": "lora", "seq": 1024, "global_batch": 1, "zero": 0}
    held = held_by(table, **request)
    sizes = np.array([float(held.total_bytes), float(held.high_bytes)]) * (1 + 1e-9)
    assert held_by(table, device_bytes=sizes, **request).fits.tolist() == [False, True]


def test_every_framework_has_a_reserve():
    for name in FRAMEWORKS:
        if name == "auto":
            with pytest.raises(UnknownNameError):
                find_training_reserve(name)
            continue
        reserve = find_training_reserve(name)
        for low, middle, high in (reserve.fragmentation, reserve.context_bytes, reserve.link_bytes):
            assert low <= middle <= high
        assert reserve.source
        assert reserve.fragmentation[0] >= 1
        assert reserve.fragmentation[2] <= reserve.interleaved

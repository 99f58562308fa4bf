"""Model states against ZeRO's figure, Megatron's bytes per parameter, published adapter counts and real optimizers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.documents.work import OPTIMIZERS, PRECISIONS, Train
from bytebound.ledger.states import count_parameters, state_bytes
from bytebound.ledger.table import compile_table
from bytebound.ledger.training_plan import resolve
from bytebound.models import read_model
from bytebound.models.config import read_config


def states_of(table, **fields):
    fields.setdefault("framework", "megatron")
    work = resolve(Train(**fields), table)
    return state_bytes(table, work)


@pytest.fixture(scope="module")
def llama():
    return read_model("llama-3.1-8b")


@pytest.mark.parametrize(("zero", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_figure_1(zero, gigabytes):
    """ZeRO (arXiv 1910.02054) Fig. 1: Ψ = 7.5 B, N = 64, K = 12."""
    values = {
        "model_type": "gpt2",
        "n_embd": 4096,
        "n_head": 32,
        "n_layer": 36,
        "vocab_size": 50257,
        "n_positions": 1024,
    }
    architecture = read_config(values)
    held = states_of(compile_table(architecture), zero=zero, dp=64, gradients="bf16")
    total = float((held.parameters + held.gradients + held.optimizer)[0])
    assert total / architecture.parameters * 7.5e9 == pytest.approx(
        gigabytes * 1e9, abs=0.05e9
    )  # printed to one decimal


@pytest.mark.parametrize(
    ("fields", "per_parameter"),
    [
        ({"zero": 0}, 18),  # Megatron-LM theoretical_memory_usage.py
        ({"zero": 1, "dp": 8}, 6 + 12 / 8),
        ({"zero": 1, "dp": 4, "cp": 2}, 6 + 12 / 8),  # the distributed optimizer deals over dp × cp
        ({"framework": "fsdp", "zero": 3, "dp": 8}, 16 / 8),  # torchtitan
        ({"framework": "hf", "zero": 0, "precision": "bf16"}, 8),
        ({"framework": "hf", "zero": 0, "precision": "fp32"}, 16),
        ({"framework": "hf", "zero": 0, "precision": "bf16-autocast"}, 16),
        ({"framework": "deepspeed", "zero": 0}, 20),  # Megatron-DeepSpeed, quoted in maxtext#606
        ({"zero": 0, "optimizer": "adamw-bf16"}, 14),  # Megatron-LM --exp-avg-dtype bf16
        ({"zero": 0, "optimizer": "sgd"}, 10),
        ({"zero": 0, "optimizer": "lion"}, 14),
        ({"framework": "hf", "zero": 0, "precision": "bf16", "optimizer": "adamw-8bit"}, 6 + 2 * 4 / 256),
    ],
)
def test_bytes_per_parameter(llama, fields, per_parameter):
    held = states_of(compile_table(llama), **fields)
    total = float((held.parameters + held.gradients + held.optimizer)[0])
    assert total == pytest.approx(per_parameter * llama.parameters, rel=1e-12)


def test_parameters_of_all_stages_are_the_model(llama):
    """With whole layers per stage and the middle counted as often as there are middle stages, nothing is lost or twice."""
    for name in ("llama-3.1-8b", "openai/whisper-small", "deepseek-ai/DeepSeek-V3"):
        architecture = read_model(name)
        table = compile_table(architecture)
        whole = count_parameters(table, resolve(Train(framework="megatron"), table)).total[0]
        assert float(whole) == pytest.approx(architecture.parameters, rel=1e-9)
    table = compile_table(llama)
    first, middle, last = count_parameters(table, resolve(Train(pp=8, framework="megatron"), table)).total
    assert first + 6 * middle + last == pytest.approx(llama.parameters, rel=1e-6)
    assert first - middle == 128256 * 4096  # the embedding


def test_a_tied_head_on_a_stage_of_its_own_is_a_copy():
    table = compile_table(read_model("gpt2"))
    count = count_parameters(table, resolve(Train(pp=4, framework="megatron"), table))
    assert count.head[0] == 0
    assert count.head[2] == 50257 * 768


def test_experts_are_dealt_out_and_their_optimizer_over_what_is_left():
    table = compile_table(read_model("deepseek-ai/DeepSeek-V3"))
    one = count_parameters(table, resolve(Train(dp=64, framework="megatron", zero=1), table))
    dealt = count_parameters(table, resolve(Train(dp=64, ep=32, framework="megatron", zero=1), table))
    assert dealt.experts[0] == one.experts[0] / 32
    assert dealt.dense[0] == one.dense[0]
    held = states_of(table, dp=64, ep=32, zero=1)
    rest = dealt.total[0] - dealt.experts[0]
    assert held.optimizer[0] == pytest.approx(12 * (rest / 64 + dealt.experts[0] / 2))


@pytest.mark.parametrize(
    ("targets", "rank", "count"),
    [
        ("qv", 32, 9_175_040),  # PEFT method_comparison, llama-3.2-3B-rank32: trainable
        ("all", 16, 16 * 28 * (2 * (3072 + 3072) + 2 * (3072 + 1024) + 3 * (3072 + 8192))),
    ],
)
def test_adapters_are_as_many_as_peft_prints(targets, rank, count):
    table = compile_table(read_model("meta-llama/Llama-3.2-3B-Instruct"))
    work = resolve(Train(trainable="lora", lora_targets=targets, lora_rank=rank, zero=0), table)
    assert float(count_parameters(table, work).adapters[0]) == count


def test_a_4_bit_base_is_what_the_qlora_paper_counts(llama):
    """Double quantization: 0.127 bits of constants per parameter over 4 (arXiv 2305.14314 section 3)."""
    table = compile_table(llama)
    work = resolve(Train(trainable="qlora", zero=0, global_batch=1), table)
    count, held = count_parameters(table, work), state_bytes(table, work)
    ends = 2.0 * float(count.embedding[0] + count.head[0] + count.small[0])
    base = float(held.parameters[0]) - ends - 4 * float(count.adapters[0])
    assert base * 8 / float(count.dense[0]) == pytest.approx(4.127, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("adamw", "AdamW"), ("sgd-momentum", "SGD"), ("adafactor", "Adafactor"), ("sgd", "SGD"), ("muon", "Muon")],
)
def test_optimizer_states_are_those_of_torch(name, optimizer):
    """Tensors in ``optimizer.state`` after one step on the matrices of a small layer, byte for byte (counters apart)."""
    torch = pytest.importorskip("torch", reason="counts the states of torch's optimizers")
    values = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 3, "vocab_size": 1, "head_dim": 16,
    }  # fmt: skip
    shapes = [(64, 64), (32, 64), (32, 64), (64, 64), (160, 64), (160, 64), (64, 160)] * 3
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    options = {"lr": 0.1} | ({"momentum": 0.9} if name == "sgd-momentum" else {})
    made = getattr(torch.optim, optimizer)(weights, **options)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    made.step()
    states = [
        value for held in made.state.values() for value in held.values() if torch.is_tensor(value) and value.numel() > 1
    ]
    table = compile_table(read_config(values))
    work = resolve(Train(framework="hf", precision="fp32", optimizer=name, zero=0), table)
    count, held = count_parameters(table, work), state_bytes(table, work)
    ends = float((count.small + count.embedding + count.head)[0])
    others = {"adamw": 8.0, "sgd-momentum": 4.0, "sgd": 0.0, "muon": 8.0}.get(name, 0.0) * ends
    if name == "adafactor":
        others = 4.0 * float(count.small[0])
    assert float(held.optimizer[0]) - others == sum(state.numel() * state.element_size() for state in states)


def test_galore_keeps_low_rank_states(llama):
    """GaLore (arXiv 2403.03507) Table 1: m r + 2 n r instead of 2 m n."""
    table = compile_table(llama)
    full = states_of(table, framework="hf", precision="bf16", zero=0)
    low = states_of(table, framework="hf", precision="bf16", zero=0, optimizer="galore")
    r, layers = 1024, 32
    shapes = [(4096, 4096)] * 2 + [(1024, 4096)] * 2 + [(4096, 14336)] * 3  # each projected along its longer side
    matrices = layers * sum(r * (m + 2 * n) for m, n in shapes)
    ends = 2 * 2 * (2 * 128256 * 4096 + 65 * 4096)
    assert float(low.optimizer[0]) == pytest.approx(2 * matrices + ends)
    assert float(low.optimizer[0]) < 0.6 * float(full.optimizer[0])


def test_offload_moves_bytes_and_loses_none(llama):
    table = compile_table(llama)
    plain = states_of(table, dp=8, zero=3, framework="deepspeed")
    total = plain.parameters + plain.gradients + plain.optimizer
    for where in ("optimizer", "parameters", "optimizer-nvme", "parameters-nvme"):
        moved = states_of(table, dp=8, zero=3, framework="deepspeed", offload=where)
        assert np.allclose(moved.parameters + moved.gradients + moved.optimizer + moved.host, total)
        assert (moved.optimizer == 0).all()


RECIPES = st.fixed_dictionaries({
    "optimizer": st.sampled_from(OPTIMIZERS), "precision": st.sampled_from(PRECISIONS),
    "framework": st.sampled_from(["megatron", "fsdp", "hf", "deepspeed"]), "trainable": st.sampled_from(["full", "lora", "qlora"]),
})  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(zero=st.integers(0, 3), dp=st.sampled_from([1, 2, 8]), recipe=RECIPES)
def test_more_devices_and_a_higher_stage_never_hold_more(zero, dp, recipe):
    table = compile_table(read_model("llama-3.1-8b"))

    def held(zero, dp):
        found = states_of(table, zero=zero, dp=dp, **recipe)
        return found.parameters + found.gradients + found.optimizer

    assert (held(zero, 2 * dp) <= held(zero, dp)).all()
    assert (held(min(zero + 1, 3), dp) <= held(zero, dp)).all()

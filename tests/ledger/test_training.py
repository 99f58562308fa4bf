"""Training memory against ZeRO's figure and Korthikanti's table."""

import numpy as np
import pytest

from bytebound.documents.work import Train
from bytebound.ledger.table import compile_table
from bytebound.ledger.training import activation_bytes_per_layer, model_state_bytes, train_ledger
from bytebound.models import read_model
from bytebound.models.config import read_config
from bytebound.predict.estimate import settle
from bytebound.predict.training import train_time


@pytest.mark.parametrize(("zero", "giga_bytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_figure_1(zero, giga_bytes):
    """ZeRO (arXiv 1910.02054) Figure 1: 7.5 B parameters, mixed-precision Adam, 64-way data parallel."""
    states = model_state_bytes(7.5e9, precision="bf16-mixed", optimizer="adamw", zero=zero, dp=64)

    assert sum(float(part) for part in states) / 1e9 == pytest.approx(giga_bytes, abs=0.05)


def test_activations_follow_korthikanti():
    """GPT layer, h = 1024, f = 4h: 34 s b h without dropout's 3 (two masks and one output) is 32 to 34."""
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": 1024,
        "n_layer": 24,
        "n_head": 16,
        "vocab_size": 50257,
        "n_positions": 1024,
    }
    found = activation_bytes_per_layer(compile_table(read_config(config, name="gpt2")), np.asarray(1024.0))

    assert float(found) / (1024 * 1024) == pytest.approx(33, abs=1.5)


def test_gated_mlp_keeps_six_widths():
    """A LLaMA layer keeps 6 f/h, not 4: 39 s b h at f/h = 3.5 with full heads; fewer KV heads keep less."""
    table = compile_table(read_model("meta-llama/Llama-3.1-8B"))

    assert float(activation_bytes_per_layer(table, np.asarray(1.0))) / 4096 == pytest.approx(18 + 21 - 3 - 3, abs=1.5)


def test_flops_are_six_per_parameter_and_token():
    """Llama-3.1-8B at 4,096 tokens: 6 × non-embedding parameters plus causal attention."""
    architecture = read_model("meta-llama/Llama-3.1-8B")
    ledger = train_ledger(compile_table(architecture), architecture.parameters, Train(seq=4096, global_batch=8, dp=8))
    per_token = float(ledger.flops) * 8 / float(ledger.tokens)
    attention = 6 * 32 * 4096 * 4096

    assert per_token == pytest.approx(6 * (architecture.parameters - 128_256 * 4096) + attention, rel=0.01)


def test_recompute_costs_a_forward_and_saves_activations():
    setting = settle("meta-llama/Llama-3.1-8B", "64x b200-sxm", "vllm")
    kept, full = (
        train_time(setting, Train(seq=8192, global_batch=64, dp=64, recompute=r)) for r in ("selective", "full")
    )

    assert float(full.ledger.activation_bytes) < float(kept.ledger.activation_bytes) / 5
    assert float(full.compute_s / kept.compute_s) == pytest.approx(4 / 3.04, rel=0.01)
    assert float(full.mfu) < float(kept.mfu)


def test_arrays_broadcast():
    setting = settle("meta-llama/Llama-3.1-8B", "64x h100-sxm", "vllm")
    many = train_time(setting, Train(seq=np.array([2048, 4096, 8192])[:, None], global_batch=64, dp=np.array([8, 64])))
    one = train_time(setting, Train(seq=4096, global_batch=64, dp=64))

    assert many.step_s.shape == (3, 2)
    assert float(many.step_s[1, 1]) == pytest.approx(float(one.step_s), rel=1e-12)


@pytest.mark.parametrize(
    ("model", "device", "low", "high"),
    [("mosaicml/mpt-7b", "a100-80gb-sxm", 78e12, 187e12), ("meta-llama/Llama-3.1-8B", "h100-sxm", 288e12, 480e12)],
)
def test_rates_are_those_that_people_reach(model, device, low, high):
    """MosaicML FSDP on A100 spans 78–187 TFLOP/s; torchtitan and JAX-Toolbox on H100 288–475 (bf16, causal FLOPs)."""
    setting = settle(model, f"8x {device}", "vllm")
    timed = train_time(setting, Train(seq=2048, micro_batch=4, global_batch=256, dp=8))

    assert low < float(timed.ledger.flops / timed.step_s) < high


def test_fp8_training_gains_what_it_gained_and_nothing_without_hardware():
    """Torchtitan 2024-12: 6,667 to 8,532 tokens/s for Llama-3-8B on 8 H100 (×1.28); an A100 has no fp8."""
    for device, gain in (("h100-sxm", 1.28), ("a100-80gb-sxm", 1.0)):
        setting = settle("meta-llama/Meta-Llama-3-8B", f"8x {device}", "vllm")
        plain, fp8 = (
            train_time(setting, Train(seq=8192, global_batch=64, dp=8, precision=p))
            for p in ("bf16-mixed", "fp8-mixed")
        )
        assert float(plain.step_s / fp8.step_s) == pytest.approx(gain, abs=0.04)

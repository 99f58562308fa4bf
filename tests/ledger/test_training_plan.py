"""Plans: what auto means, degrees that cannot be, and pipeline schedules against their papers."""

from __future__ import annotations

import numpy as np
import pytest

from bytebound.documents.work import Train
from bytebound.errors import RequestError
from bytebound.ledger.schedules import bubble_share, front_layers, in_flight, rows_held, stage_layers
from bytebound.ledger.table import compile_table
from bytebound.ledger.training_plan import check, microbatches, nearest_divisor, resolve
from bytebound.models import read_model


@pytest.fixture(scope="module")
def llama():
    return read_model("llama-3.1-8b")


@pytest.fixture(scope="module")
def deepseek():
    return read_model("deepseek-ai/DeepSeek-V3")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"tp": 2},
            {"framework": "megatron", "sequence_parallel": "on", "gradients": "fp32", "optimizer_kernel": "fused"},
        ),
        ({"dp": 8, "zero": 1}, {"framework": "megatron"}),
        (
            {"dp": 8, "zero": 3},
            {"framework": "fsdp", "precision": "bf16-mixed", "gradients": "fp32", "optimizer_kernel": "foreach"},
        ),
        ({}, {"framework": "hf", "precision": "bf16-autocast", "gradients": "fp32"}),
        ({"trainable": "lora", "dp": 8}, {"framework": "hf", "precision": "bf16-mixed"}),
        ({"precision": "bf16"}, {"gradients": "bf16"}),
        ({"framework": "deepspeed", "precision": "fp16-mixed"}, {"gradients": "bf16"}),
        ({"pp": 4, "virtual_stages": 2}, {"schedule": "interleaved"}),
        ({"tp": 4, "ep": 2}, {"expert_tp": 1}),
        ({"tp": 4}, {"expert_tp": 4}),
    ],
)
def test_auto_means(llama, fields, expected):
    resolved = resolve(Train(**fields), compile_table(llama))
    assert {name: getattr(resolved, name) for name in expected} == expected
    assert resolve(resolved, compile_table(llama)) == resolved


@pytest.mark.parametrize(
    ("fields", "devices", "said"),
    [
        ({"tp": 3}, None, ("tp", "32 attention heads", "nearest: 2")),
        ({"tp": 32}, None, None),  # four KV-head copies
        ({"tp": 4, "dp": 3}, 16, ("dp", "12", "16 devices", "set dp to 4")),
        ({"tp": 4, "pp": 3}, 16, ("dp", "does not divide 16")),
        ({"pp": 16, "virtual_stages": 3}, None, ("pp", "48", "32 layers")),
        ({"ep": 2}, None, ("ep", "no experts")),
        ({"global_batch": 10, "micro_batch": 2, "dp": 2}, None, ("global_batch", "micro_batch × dp = 4", "nearest: 8")),
        ({"seq": 1000, "cp": 3}, None, ("cp", "1000 tokens", "nearest: 2")),
        ({"tp": np.array([1, 2, 5])}, None, ("tp", "tp 5", "nearest: 4")),
    ],
)
def test_degrees_that_cannot_be_name_the_field_and_the_nearest(llama, fields, devices, said):
    work, table = Train(**fields), compile_table(llama)
    if said is None:
        check(work, llama, table, devices)
        return
    with pytest.raises(RequestError) as caught:
        check(work, llama, table, devices)
    assert caught.value.place == said[0]
    assert caught.value.exit_code == 2
    assert all(part in str(caught.value) for part in said[1:])


def test_experts_must_divide_and_their_devices_too(deepseek):
    table = compile_table(deepseek)
    check(Train(ep=32, dp=64), deepseek, table, 64)
    with pytest.raises(RequestError, match=r"ep 48 does not divide the 256 experts.*nearest: 32"):
        check(Train(ep=48, dp=48, global_batch=48), deepseek, table, None)
    with pytest.raises(RequestError, match=r"ep × expert_tp is 32.*8 devices of a stage; nearest: 8"):
        check(Train(ep=32, dp=8), deepseek, table, None)


def test_nearest_divisor():
    assert [nearest_divisor(24, d) for d in (5, 7, 9, 100)] == [4, 6, 8, 24]


def test_micro_batches_in_flight():
    """Korthikanti et al. section 4.2.3: 1 + (p - 1) / (p v) for interleaved schedules; 1F1B keeps p - i."""
    assert in_flight(Train(pp=8, global_batch=64, dp=1))[:, None].ravel().tolist() == [8, 7, 1]
    interleaved = in_flight(Train(pp=8, virtual_stages=4, schedule="interleaved", global_batch=64))
    assert float(interleaved[0]) == 8 * (1 + 7 / (8 * 4))
    assert in_flight(Train(pp=8, schedule="gpipe", global_batch=64)).tolist() == [64] * 3
    assert in_flight(Train(pp=8, global_batch=4)).tolist() == [4, 4, 1]  # never more than there are
    assert in_flight(Train(pp=8, schedule="zbv", global_batch=64)).tolist() == [8] * 3
    assert in_flight(Train(pp=np.array([1, 2, 4]), global_batch=64)).tolist() == [[1, 2, 4], [1, 1, 3], [1, 1, 1]]


def test_bubbles():
    """Narayanan et al. 2021 section 2.2 and the table of Primus."""
    work = {"pp": 4, "global_batch": 12}
    assert bubble_share(Train(**work)) == 3 / 15
    assert bubble_share(Train(**work, virtual_stages=2, schedule="interleaved")) == 3 / 27
    assert bubble_share(Train(**work, schedule="zb1p")) == 3 / 45
    assert bubble_share(Train(**work, schedule="zbv")) == 3 / 75
    assert microbatches(Train(global_batch=512, micro_batch=2, dp=4)) == 64


def test_uneven_layers():
    """126 layers over 16 stages and 70 over 12 count the ends as layers (Llama 3 405B, BLOOM); 61 over 16 rounds up."""
    assert stage_layers(Train(pp=16), 126).tolist() == [7, 8, 7]
    assert stage_layers(Train(pp=12), 70).tolist() == [5, 6, 5]
    assert stage_layers(Train(pp=16), 61).tolist() == [4, 4, 4]


def test_dense_layers_in_front_stay_in_front(deepseek):
    table = compile_table(deepseek)
    assert front_layers(table) == 3
    held = rows_held(np.array([3.0, 58.0, 61.0]), 61.0, stage_layers(Train(pp=16), 61), front=3.0)
    assert held[:, 0].tolist() == [3, 1, 4]
    assert held[:, 2].tolist() == [0, 4, 4]

"""The search of ``train --fit``: the optimum by brute force, proposals a framework runs, and the host's price of offloading."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import bytebound as bb
from bytebound.predict.estimate import settle
from bytebound.predict.train_fit import WORTH
from bytebound.predict.train_frameworks import OFFLOADS, OPTIMIZERS, SPLITS, runnable
from bytebound.predict.train_memory import chance_of_fitting
from bytebound.predict.training import train_time

SMALL = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"


@pytest.mark.parametrize(
    ("model", "work"),
    [
        (SMALL, bb.Train(seq=2048, micro_batch=4, global_batch=64, framework="hf")),
        ("llama-3.1-8b", bb.Train(seq=2048, global_batch=16, trainable="qlora", framework="hf")),
    ],
)
def test_nothing_lossless_is_cheaper_than_what_a_search_shows_first(model, work):
    """One RTX 4090, every recomputation × offload × loss × kernel × micro-batch by plain loops: at most 2 % are left on the table."""
    setting, best = settle(model, "rtx-4090", "vllm"), np.inf
    offloads = ("none", "optimizer", "parameters") if work.trainable == "full" else ("none", "parameters")
    for recompute, offload, loss, kernel in itertools.product(
        ("none", "full"), offloads, ("full", "chunked"), ("foreach", "fused")
    ):
        tried = replace(
            work,
            recompute=recompute,
            offload=offload,
            loss=loss,
            optimizer_kernel=kernel,
            micro_batch=np.array([1, 2, 4, 8, 16]),
        )
        timed = train_time(setting, tried)
        cost = np.where(chance_of_fitting(timed) >= 0.9, 1 / timed.tokens_per_s, np.inf)
        best = min(best, float(cost.min()))
    first = bb.train(model, "rtx-4090", work, fit=True).fitting.changes[0]

    assert first.quality.startswith("none")
    assert WORTH / best <= first.tokens_per_s_per_device <= (1 + 1e-6) / best


@pytest.mark.parametrize(
    ("framework", "trainable"), [*((name, "full") for name in SPLITS), ("hf", "lora"), ("megatron", "lora")]
)
def test_proposals_are_what_the_framework_runs(framework, trainable):
    """No pipeline in Trainer or litgpt, no ZeRO 1 in FSDP, no optimizer or offload a framework lacks; and each holds when asked again."""
    work = bb.Train(seq=8192, micro_batch=2, dp=4, global_batch=64, framework=framework, trainable=trainable)
    fitting = bb.train("llama-3.1-8b", "4x a100-80gb-sxm", work, fit=True).fitting
    assert fitting.changes, fitting.notes
    for change in fitting.changes:
        asked = replace(work, **change.flags)
        again = bb.train("llama-3.1-8b", "4x a100-80gb-sxm", asked)
        raised = {name for name in ("tp", "pp", "cp", "ep") if getattr(asked, name) > 1}
        assert again.framework == framework
        assert again.memory.total_bytes == pytest.approx(change.total_bytes)
        assert again.memory.probability_fits >= 0.9
        assert raised <= (set() if framework == "hf" and trainable != "full" else SPLITS[framework])
        assert asked.offload == "none" or asked.offload in OFFLOADS[framework]
        assert asked.optimizer == "adamw" or asked.optimizer in OPTIMIZERS[framework]
        assert asked.recompute_layers == 1 or framework in {"megatron", "fsdp", "deepspeed"}
        assert runnable(asked, zero=asked.zero, pp=asked.pp, dp=asked.dp)


def test_fewest_devices_are_whole_nodes_and_the_plan_fits():
    """405B on nodes of eight: the devices named are a multiple of eight, and the split in the notes fits when asked for."""
    fitting = bb.train(
        "meta-llama/Llama-3.1-405B", "64x(8x h100-sxm)", bb.Train(tp=8, pp=8, dp=8, zero=1, seq=8192), fit=True
    ).fitting
    (plan,) = (note for note in fitting.notes if note.startswith(f"on {fitting.fewest_devices:,} devices: "))
    said = dict(pair.lower().split() for pair in plan.split(": ")[1].split(", "))
    degrees = {name: int(value) for name, value in said.items()}
    used = degrees.get("tp", 1) * degrees.get("pp", 1) * degrees.get("dp", 1)
    again = bb.train(
        "meta-llama/Llama-3.1-405B", f"{used // 8}x(8x h100-sxm)", seq=8192, framework="megatron", **degrees
    )

    assert used == fitting.fewest_devices
    assert used % 8 == 0
    assert again.memory.probability_fits >= 0.9


def offloaded(where: str, **more: object) -> bb.TrainEstimate:
    return bb.train("llama-3.1-8b", "h100-sxm", seq=4096, global_batch=64, framework="deepspeed", offload=where, **more)


def test_a_host_steps_ten_billion_parameters_in_two_and_a_half_seconds():
    """ZeRO-Offload (arXiv 2101.06840) table 4: CPU-Adam takes 0.22 s for 1 billion parameters and 2.57 s for 10 billion.

    Gradients (4 bytes) and weights (2) of 8 billion cross PCIe 5 as well, in about 0.9 s at 80 % of 64 GB/s.
    """
    away = offloaded("optimizer").time["host_link"]

    assert away == pytest.approx(8.03 * 0.257 + 6 * 8.03 / (0.8 * 64), rel=0.03)
    assert offloaded("optimizer", trainable="lora").time["host_link"] < 0.02 * away


def test_nvme_is_slower_than_the_host_and_saves_the_device_as_much():
    """Weight and two moments in 32 bits are read and written once a step: 24 bytes per parameter through one drive."""
    host, drive = offloaded("optimizer"), offloaded("optimizer-nvme")
    more = drive.time["host_link"] - host.time["host_link"]

    assert 24 * 8.03e9 / 7e9 < more < 24 * 8.03e9 / 5e9
    assert drive.memory.total_bytes == host.memory.total_bytes


def test_offloaded_parameters_come_back_layer_by_layer():
    """A device that keeps no weights still holds two whole layers of 16-bit values at work, or the output matrix."""
    assert offloaded("parameters").memory.temporary > 2 * 2 * 218e6


@pytest.mark.parametrize(
    ("machine", "stated", "place", "said"),
    [
        ("a100-80gb-sxm", {"precision": "fp8-mixed"}, "precision", "no fp8 matrix rate; set precision to bf16-mixed"),
        ("h100-sxm", {"precision": "fp4-mixed"}, "precision", "no fp4 matrix rate; set precision to fp8-mixed"),
        ("v100-sxm2-32gb", {"precision": "fp8-mixed"}, "precision", "set precision to fp16-mixed"),
        ("8x h100-sxm", {"expert_tp": 8, "tp": 8}, "expert_tp", "no experts"),
    ],
)
def test_what_the_hardware_lacks_is_an_error(machine, stated, place, said):
    with pytest.raises(bb.ByteboundError) as caught:
        bb.train("llama-3.1-8b", machine, **stated)

    assert caught.value.place == place
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("model", "machine", "stated", "said"),
    [
        ("llama-3.1-8b", "v100-sxm2-32gb", {}, "no bf16 matrix rate"),
        ("google-bert/bert-base-uncased", "h100-sxm", {"seq": 4096}, "at most 512 tokens"),
        ("llama-3.1-8b", "8x h100-sxm", {"pp": 2, "framework": "litgpt"}, "litgpt has no pp"),
        ("llama-3.1-8b", "8x h100-sxm", {"tp": 2, "trainable": "lora"}, "hf has no tp for adapters"),
    ],
)
def test_what_a_reader_must_know_is_a_note(model, machine, stated, said):
    assert any(said in note for note in bb.train(model, machine, **stated).notes)


def test_published_splits_are_possible():
    """Llama 3 405B's 126 layers ran as 128 chunks, embedding and head standing for one each (arXiv 2407.21783 section 3.3.2)."""
    answer = bb.train(
        "meta-llama/Llama-3.1-405B",
        "1024x(8x h100-sxm)",
        seq=8192,
        tp=8,
        pp=16,
        virtual_stages=8,
        zero=1,
        global_batch=2048,
    )

    assert answer.machine.used == 8192
    with pytest.raises(bb.ByteboundError, match="more than the 126 layers"):
        bb.train("meta-llama/Llama-3.1-405B", "1024x(8x h100-sxm)", tp=8, pp=128, zero=1, global_batch=2048)


def test_a_model_without_attention_has_no_eager_attention():
    plain, eager = (
        bb.train("state-spaces/mamba-130m-hf", "h100-sxm", attention=attention) for attention in ("flash", "eager")
    )
    assert sum(eager.time.values()) == pytest.approx(sum(plain.time.values()))

"""Levers of training: what each changes, when it is refused and why, and that what an audit recommends is what the estimate says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bytebound as bb
from bytebound.audit.surface import CAPACITY, Axes, surface
from bytebound.documents.fleet import Objective, parse_fleet
from bytebound.documents.work import Train
from bytebound.errors import DocumentError
from bytebound.plan.case import Case, Refusal, Today
from bytebound.plan.levers import ALL_LEVERS
from bytebound.plan.training_levers import TRAINING_LEVERS
from bytebound.predict.estimate import settle

BY_NAME = {name: ALL_LEVERS[name] for name in TRAINING_LEVERS}
FITS = Today(1.0, 0.0, 0.0, 0.8, capacity_limited=False, ridge_tokens=0.0, prefill_time_share=0.0)
SHORT = replace(FITS, capacity_limited=True)
FLEET = (Path(__file__).parents[2] / "examples" / "fleet.toml").read_text(encoding="utf-8")


def case(model="meta-llama/Llama-3.1-8B", machine="2x(8x h100-sxm)", kind="finetune", **fields):
    asked = {"seq": 4096, "dp": 16, "global_batch": 64} | fields
    return Case(kind, settle(model, machine, "vllm"), Train(**asked), Objective(), 1)


@pytest.mark.parametrize(
    ("lever", "now", "before", "after"),
    [
        ("fp8-training", FITS, {}, {"precision": "fp8-mixed"}),
        ("8-bit-optimizer", FITS, {}, {"optimizer": "adamw-8bit"}),
        ("full-recompute", SHORT, {}, {"recompute": "full"}),
        ("drop-recompute", FITS, {"recompute": "full"}, {"recompute": "none"}),
        ("drop-recompute", FITS, {"recompute": "selective", "attention": "eager"}, {"recompute": "none"}),
        ("shard-states", FITS, {"zero": 1}, {"zero": 2}),
        ("optimizer-offload", SHORT, {}, {"offload": "parameters"}),  # FSDP's policy moves both
        ("optimizer-offload", SHORT, {"zero": 1}, {"offload": "optimizer"}),
        ("optimizer-offload", SHORT, {"offload": "optimizer"}, {"offload": "parameters"}),
        ("chunked-loss", FITS, {}, {"loss": "chunked"}),
        ("fused-optimizer", FITS, {}, {"optimizer_kernel": "fused"}),
        ("flash-attention", FITS, {"attention": "eager"}, {"attention": "flash"}),
        ("sequence-parallel", FITS, {"tp": 2, "dp": 8, "sequence_parallel": "off"}, {"sequence_parallel": "on"}),
        ("context-parallel", FITS, {}, {"cp": 2, "dp": 8}),
        ("smaller-micro-batch", SHORT, {"micro_batch": 2}, {"micro_batch": 1}),
        ("larger-micro-batch", FITS, {}, {"micro_batch": 2}),
        ("4-bit-optimizer", FITS, {"framework": "fsdp"}, {"optimizer": "adamw-4bit"}),
        ("bf16-states", FITS, {}, {"precision": "bf16"}),
        ("interleaved-pipeline", FITS, {"framework": "megatron", "pp": 4, "dp": 4, "zero": 1}, {"virtual_stages": 2}),
        ("lora", FITS, {}, {"trainable": "lora"}),
        ("qlora", SHORT, {"trainable": "lora"}, {"trainable": "qlora"}),
    ],
)  # fmt: skip
def test_a_lever_sets_its_fields_and_no_other(lever, now, before, after):
    """The framework is held too: another one would change what everything else means."""
    asked = case(**before)
    found = BY_NAME[lever].apply(asked, now)

    assert isinstance(found, Case)
    assert found.setting is asked.setting
    changed = {
        name: getattr(found.work, name)
        for name in Train.__dataclass_fields__
        if getattr(found.work, name) != getattr(asked.work, name)
    }
    assert changed.pop("framework", "auto") in {"fsdp", "megatron", "hf", "auto"}
    assert changed == after
    assert found.devices_per_replica == asked.devices_per_replica


@pytest.mark.parametrize(
    ("lever", "now", "changes", "reason"),
    [
        ("fp8-training", FITS, {"machine": "2x(8x a100-80gb-sxm)"}, "no fp8 matrix rate"),
        ("fp8-training", FITS, {"precision": "fp8-mixed"}, "already is fp8-mixed"),
        ("8-bit-optimizer", FITS, {"optimizer": "muon"}, "the optimizer is muon"),
        ("full-recompute", FITS, {}, "rule 15"),
        ("interleaved-pipeline", FITS, {}, "there is no pipeline"),
        ("interleaved-pipeline", FITS, {"framework": "fsdp", "pp": 2, "dp": 8}, "interleaves no stages"),
        ("4-bit-optimizer", FITS, {"framework": "megatron", "zero": 1}, "has no adamw-4bit"),
        ("galore", FITS, {"framework": "hf"}, "no low rank to find"),
        ("full-recompute", SHORT, {"recompute": "full"}, "already"),
        ("drop-recompute", SHORT, {}, "does not fit as it is"),
        ("shard-states", FITS, {"zero": 3}, "already shards everything"),
        ("shard-states", FITS, {"dp": 1, "tp": 8, "zero": 1}, "nothing to shard over"),
        ("shard-states", FITS, {"zero": 1, "pp": 2, "dp": 8, "framework": "deepspeed"}, "no pipeline with ZeRO 2"),
        ("optimizer-offload", FITS, {}, "every step"),
        ("drop-recompute", FITS, {}, "flash attention keeps no scores"),
        ("chunked-loss", FITS, {"loss": "chunked"}, "already"),
        ("flash-attention", FITS, {}, "already"),
        ("fused-optimizer", FITS, {"framework": "megatron"}, "kernel is fused"),
        ("sequence-parallel", FITS, {}, "no tensor parallelism"),
        ("context-parallel", FITS, {"dp": 1, "tp": 8}, "no devices to take"),
        ("context-parallel", FITS, {"seq": 4095}, "does not divide a sequence"),
        ("smaller-micro-batch", SHORT, {}, "the micro-batch is 1"),
        ("larger-micro-batch", FITS, {"global_batch": 16}, "does not divide the global batch"),
        ("lora", FITS, {"kind": "train"}, "pre-training"),
        ("qlora", FITS, {}, "fits without"),
    ],
)  # fmt: skip
def test_what_cannot_help_is_refused_with_its_reason(lever, now, changes, reason):
    found = BY_NAME[lever].apply(case(**changes), now)

    assert isinstance(found, Refusal)
    assert reason in found.reason


def test_every_lever_is_cited_and_for_training_alone():
    for lever in BY_NAME.values():
        assert lever.source
        assert lever.kinds == ("train", "finetune")
        assert lever.quality in {"lossless", "near-lossless", "any"}
        refused = lever.apply(Case("serve", case().setting, bb.Serve(), Objective(), 1), FITS)
        assert isinstance(refused, Refusal)


def test_what_memory_formulas_may_miss_is_risk():
    """A job that fits at the prediction and not at the high end of its interval starves in the draws beyond."""
    asked = case("meta-llama/Llama-3.1-8B", "8x h100-sxm", dp=8, seq=6144, recompute="none")
    chance = bb.train(
        "meta-llama/Llama-3.1-8B", "8x h100-sxm", replace(asked.work, framework="auto")
    ).memory.probability_fits
    assert 0.55 < chance < 0.999
    found = surface(asked, Axes(np.ones(1), np.ones(1), np.geomspace(0.1, 10, 401)))
    fine = np.isfinite(found.device_s[0, 0])
    errors = np.geomspace(0.1, 10, 401)

    assert fine[200]
    assert not fine[-1]
    assert (found.limit[0, 0][~fine] == CAPACITY).all()
    assert np.all(np.diff(fine.astype(int)) <= 0)
    sigma = (
        np.log(
            bb.train("meta-llama/Llama-3.1-8B", "8x h100-sxm", asked.work).step_s.high
            / bb.train("meta-llama/Llama-3.1-8B", "8x h100-sxm", asked.work).step_s.value
        )
        / 1.2816
    )
    edge = np.log(errors[fine].max()) / sigma
    from statistics import NormalDist

    assert NormalDist().cdf(edge) == pytest.approx(chance, abs=0.03)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('dp = 16\nzero = 3\ntrainable = "dora"', "trainable"),
        ("dp = 15\nzero = 3", "global batch of 256"),
        ("dp = 16\nzero = 3\ntp = 3", "attention heads"),
        ('dp = 16\nzero = 3\noptimizer = "adam"', "nearest: adamw"),
        ("dp = 16\nzero = 3\nep = 2", "no experts"),
        ("dp = 16\nzero = 3\nrecompute_layers = 1.5", "less than or equal to 1"),
        ("dp = 4096\nzero = 3", "the pool has 208 devices"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_is_refused_at_its_line(tmp_path, line, said):
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET.replace("dp = 16\nzero = 3", line), encoding="utf-8")

    with pytest.raises(bb.ByteboundError) as caught:
        bb.audit_fleet(path, draws=100)

    assert caught.value.exit_code == 2
    assert said in str(caught.value)
    assert "fleet.toml:" in str(caught.value)
    assert "job" in str(caught.value)


def test_every_field_of_a_request_is_a_key_of_a_job():
    keys = set(parse_fleet(FLEET).workload[-1].job.model_fields_set) | set(
        type(parse_fleet(FLEET).workload[-1].job).model_fields
    )

    assert set(Train.__dataclass_fields__) - {"model_scale"} == keys - {"days"}


def test_unknown_keys_of_a_job_name_the_nearest():
    with pytest.raises(DocumentError, match="recompute_layers"):
        parse_fleet(FLEET.replace("dp = 16\nzero = 3", "dp = 16\nrecompute_layer = 0.5"))

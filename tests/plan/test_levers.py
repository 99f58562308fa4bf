"""Levers change the request, never a multiplier; what cannot help is refused with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bytebound.documents.fleet import Objective
from bytebound.documents.work import Serve, Train
from bytebound.plan.case import Case, Refusal
from bytebound.plan.levers import LEVERS, Today
from bytebound.predict.estimate import settle

BY_NAME = {lever.name: lever for lever in LEVERS}
BUSY = Today(
    batch=16,
    kv_byte_share=0.4,
    weight_time_share=0.5,
    compute_time_share=0.1,
    capacity_limited=False,
    ridge_tokens=295,
    prefill_time_share=0.3,
)


def case(model="meta-llama/Llama-3.1-8B", machine="8x h100-sxm", work=None, **changes):
    return Case(
        "serve", settle(model, machine, "vllm"), work or Serve(prompt=2000, output=300), Objective(), 64, **changes
    )


def test_every_lever_names_its_source_and_quality():
    assert len(LEVERS) == len(BY_NAME) >= 15
    for lever in LEVERS:
        assert lever.source
        assert lever.quality in {"any", "near-lossless", "lossless"}
        assert lever.quality_note
        assert lever.title[0].isupper()


@pytest.mark.parametrize(
    ("lever", "now", "changes", "reason"),
    [
        ("int4-weights", replace(BUSY, compute_time_share=0.8), {}, "rule 1"),
        ("fp8-weights", BUSY, {"machine": "8x a100-80gb-sxm"}, "no fp8 matrix rate"),
        ("fp8-kv", replace(BUSY, kv_byte_share=0.05), {}, "rule 3"),
        ("fp8-kv", BUSY, {"machine": "8x a100-80gb-sxm"}, "0.20×"),
        ("speculative-decoding", replace(BUSY, batch=200), {}, "rule 7"),
        ("double-tp", BUSY, {"machine": "1x h100-sxm"}, "rule 9"),
        ("double-tp", BUSY, {"machine": "4x l40s"}, "no scale-up link"),
        ("halve-tp", BUSY, {}, "already 1"),
        ("disaggregate", BUSY, {"work": Serve(prompt=100, output=300)}, "rule 10"),
        ("disaggregate", replace(BUSY, prefill_time_share=0.01), {}, "little interference"),
        ("prefix-cache", BUSY, {}, "no shared prefix"),
        ("kv-offload", BUSY, {}, "no context is reused"),
        ("larger-batch", BUSY, {}, "rule 19"),
        ("fp8-weights", BUSY, {"work": Train()}, "training keeps"),
    ],
)  # fmt: skip
def test_rules_refuse(lever, now, changes, reason):
    found = BY_NAME[lever].apply(case(**changes), now)

    assert isinstance(found, Refusal)
    assert reason in found.reason


def test_a_weight_already_that_small_is_left_alone():
    found = BY_NAME["fp8-weights"].apply(case("deepseek-ai/DeepSeek-V3"), BUSY)

    assert isinstance(found, Refusal)
    assert "already take" in found.reason


@pytest.mark.parametrize(
    ("lever", "field", "value"),
    [("fp8-weights", "weights", "fp8"), ("int4-weights", "weights", "int4"), ("fp8-kv", "kv", "fp8"), ("double-tp", "tp", 2), ("speculative-decoding", "draft_tokens", 3), ("disaggregate", "disaggregated", True), ("shorter-context", "prompt", 1000)],
)  # fmt: skip
def test_a_lever_changes_one_thing(lever, field, value):
    before = case()
    after = BY_NAME[lever].apply(before, BUSY)

    assert isinstance(after, Case)
    assert getattr(after.work, field) == value
    assert after.setting is before.setting
    changed = {
        name
        for name in Serve.__dataclass_fields__
        if not np.array_equal(getattr(after.work, name), getattr(before.work, name))
    }
    assert changed == {field}


def test_prefix_and_offload_share_the_prompt():
    found = BY_NAME["kv-offload"].apply(
        case(work=Serve(prompt=8000, output=300, prefix_hit=0.3), reused_context=0.9), BUSY
    )

    assert isinstance(found, Case)
    assert found.work.offload_hit == pytest.approx(0.7)


@pytest.mark.parametrize(("context", "published"), [(2000, 1.018), (8000, 1.068), (16000, 1.128), (32000, 1.227)])
def test_fp8_kv_speedup_matches_the_published_formula(context, published):
    """VLLM's L4 sweep, Qwen3-4B at batch 1: bytes fall as (W + S kv) / (W + S kv / 2); measured 1.01, 1.06, 1.11, 1.21."""
    setting = settle("Qwen/Qwen3-4B", "l4", "vllm")
    step = {kv: setting.answer(Serve(batch=1, prompt=context, output=1, kv=kv)) for kv in ("bf16", "fp8")}
    moved = {kv: sum(float(n[f"decode.{k}_bytes"][0]) for k in ("weight", "kv")) for kv, n in step.items()}

    assert moved["bf16"] / moved["fp8"] == pytest.approx(published, abs=0.012)


def test_experts_and_speculation_formulas():
    """E (1 − (1 − k/E)^B) at known points, and Leviathan's expected tokens."""
    from bytebound.ledger.inference import experts_hit
    from bytebound.predict.prediction import _accepted_tokens

    assert experts_hit(np.array(128.0), np.array(8.0), np.array(1.0)) == pytest.approx(8)
    assert experts_hit(np.array(128.0), np.array(8.0), np.array(16.0)) == pytest.approx(128 * (1 - (1 - 8 / 128) ** 16))
    assert experts_hit(np.array(8.0), np.array(8.0), np.array(3.0)) == pytest.approx(8)
    assert _accepted_tokens(np.array(3.0), 0.8) == pytest.approx(1 + 0.8 + 0.64 + 0.512)
    assert _accepted_tokens(np.array(0.0), 0.8) == pytest.approx(1)
    assert _accepted_tokens(np.array(4.0), 1.0) == pytest.approx(5, rel=1e-6)

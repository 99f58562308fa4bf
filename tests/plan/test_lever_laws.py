"""Each lever changes what its card says and nothing else; where it was measured to hurt it is never recommended blind."""

from __future__ import annotations

from dataclasses import fields
from functools import cache

import numpy as np
import pytest

from bytebound.documents.work import Serve
from bytebound.plan.cards import CARDS, find_lever
from bytebound.plan.case import Case, Refusal
from bytebound.plan.rank import case_of, effect_of
from bytebound.plan.spot import look
from bytebound.plan.today import today_of
from bytebound.predict.estimate import settle

LLAMA, MIXTRAL, SMALL = (
    "meta-llama/Meta-Llama-3.1-8B",
    "mistralai/Mixtral-8x7B-v0.1",
    "meta-llama/Llama-3.2-1B-Instruct",
)

settled = cache(settle)


def case(model=LLAMA, machine="h100-sxm", engine="vllm", *, shared=0.0, reused=0.0, **asked):
    work = Serve(**({"batch": 4, "prompt": 4000, "output": 1000, "engine": engine} | asked))
    return case_of(settled(model, machine, engine), work, shared_prefix=shared, reused_context=reused)


def applied(name, before):
    after = find_lever(name).lever.apply(before, today_of(before))
    assert isinstance(after, Case), after
    return after


def refusal(name, before):
    found = find_lever(name).lever.apply(before, today_of(before))
    assert isinstance(found, Refusal), found
    return found.reason


def numbers(found):
    return found.setting.answer(found.work)


RATIOS = [
    # lever, setting, what stays, what changes -> after over before
    ("fp8-kv", {"batch": 64}, ("weights_bytes", "prefill.flops"), {"kv_bytes": 0.5, "kv_bytes_per_token": 0.5}),
    ("int8-kv", {"engine": "llama.cpp", "batch": 64, "weights": "q8_0"}, ("weights_bytes", "prefill.flops"), {"kv_bytes": 8.5 / 16}),
    ("int4-kv", {"engine": "llama.cpp", "batch": 64, "weights": "q8_0"}, ("weights_bytes",), {"kv_bytes": 4.5 / 16}),
    ("prefix-cache", {"shared": 0.5}, ("weights_bytes", "decode.weight_bytes", "decode.kv_bytes"), {}),
    ("double-tp", {"machine": "8x h100-sxm"}, ("decode.flops",), {}),
    ("speculative-decoding", {"batch": 1}, ("weights_bytes", "kv_bytes"), {}),
    ("shorter-context", {}, ("weights_bytes", "kv_bytes_per_token"), {}),
    ("disaggregate", {"machine": "8x h100-sxm", "batch": 64}, ("weights_bytes", "kv_bytes", "decode.flops"), {}),
    ("flash-serving", {"attention": "eager"}, ("weights_bytes", "kv_bytes", "decode.weight_bytes"), {}),
    ("chunked-prefill", {"prompt": 16000, "batch": 2}, ("weights_bytes", "kv_bytes", "decode.weight_bytes"), {}),
]  # fmt: skip


@pytest.mark.parametrize(("lever", "asked", "stays", "changes"), RATIOS, ids=[row[0] for row in RATIOS])
def test_a_lever_moves_what_it_says_and_leaves_the_rest(lever, asked, stays, changes):
    before = case(**asked)
    after = applied(lever, before)
    was, now = numbers(before), numbers(after)

    for name in stays:
        # tensor parallelism deals FLOPs out: those of all devices stay
        devices = after.devices_per_replica / before.devices_per_replica if name == "decode.flops" else 1
        assert float(now[name][0]) * devices == pytest.approx(float(was[name][0]), rel=1e-6), name
    for name, ratio in changes.items():
        assert float(now[name][0]) / float(was[name][0]) == pytest.approx(ratio, rel=0.002), name


@pytest.mark.parametrize(
    ("lever", "bits", "engine"),
    [
        ("fp8-weights", 8, "vllm"), ("int8-weights", 8, "vllm"), ("int8-weight-only", 8, "vllm"), ("int4-weights", 4.125, "vllm"),
        ("nf4-weights", 4.127, "vllm"), ("q8_0-weights", 8.5, "llama.cpp"), ("q4_0-weights", 4.5, "llama.cpp"), ("q4_k-weights", 4.5, "llama.cpp"),
    ],
)  # fmt: skip
def test_a_weight_format_shrinks_layers_by_its_bits_and_leaves_the_cache(lever, bits, engine):
    before = case(engine=engine, prompt=200)
    after = applied(lever, before)
    was, now = numbers(before), numbers(after)
    layers = 6.98e9  # of Llama-3.1-8B's 8.03 billion, 2 × 128,256 × 4,096 are embedding and head

    saved = float(was["weights_bytes"][0] - now["weights_bytes"][0])
    head = saved - layers * (16 - bits) / 8
    assert -0.01e9 < head < 0.53e9 * 2 * (16 - bits) / 8  # embedding and head shrink or stay
    assert float(now["kv_bytes"][0]) == float(was["kv_bytes"][0])
    assert {f.name for f in fields(Serve) if getattr(after.work, f.name) != getattr(before.work, f.name)} == {"weights"}


def test_host_weights_are_the_least_that_fits():
    before = case(LLAMA, "rtx-3060-12gb", batch=1, prompt=1000)
    after = applied("weight-offload", before)
    share = float(after.work.host_weights)

    assert numbers(before)["fits"][0] == 0
    assert numbers(after)["fits"][0] == 1
    assert 0.2 < share < 0.8
    assert "it fits" in refusal("weight-offload", case())
    assert "does not fit even" in refusal("weight-offload", case(LLAMA, "rtx-3060-12gb", batch=512, prompt=8000))
    assert "no routed experts" in refusal("expert-offload", before)
    assert "already lie in host memory" in refusal("weight-offload", after)


def test_experts_stay_in_host_memory_up_to_their_share():
    found = applied("expert-offload", case(MIXTRAL, "a100-80gb-sxm", "llama.cpp", batch=1, prompt=500))

    assert 0 < float(found.work.host_weights) < 0.97


def test_a_token_through_offloaded_weights_takes_at_least_the_link():
    """Rule 12: W_off over the link is a floor of every step."""
    found = applied("weight-offload", case(LLAMA, "rtx-3060-12gb", batch=1, prompt=1000))
    link = found.setting.machine.device.host_bytes_per_s.value
    whole = float(numbers(case(prompt=1000))["weights_bytes"][0])

    assert float(numbers(found)["decode.seconds"][0]) > 0.9 * (whole - 1.1e9) * float(found.work.host_weights) / link


REFUSED = [
    ("two-four-sparsity", {}, "PR 4728"),
    ("unstructured-pruning", {}, "no engine gets faster"),
    ("mla-model", {}, "65,536 KV values per token"),
    ("sliding-window", {}, "trained with a sliding window"),
    ("paged-kv", {}, "pages of 16 tokens already"),
    ("paged-kv", {"engine": "llama.cpp"}, "has no pages"),
    ("continuous-batching", {}, "already is continuous"),
    ("cuda-graphs", {}, "replays graphs by default"),
    ("fused-kernels", {}, "compiled kernels already"),
    ("flash-serving", {}, "already keeps its scores on chip"),
    ("chunked-prefill", {"prompt": 1000}, "one chunk"),
    ("pipeline-parallel", {"machine": "8x h100-sxm"}, "rule 8"),
    ("expert-parallel", {"machine": "8x h100-sxm", "tp": 8}, "no routed experts"),
    ("data-parallel", {}, "would take 2 devices"),
    ("q4_0-weights", {"engine": "sglang"}, "sglang has no q4_0-weights"),
    ("int8-kv", {"engine": "sglang", "batch": 64}, "sglang has no int8-kv"),
    ("fp8-weights", {"engine": "llama.cpp"}, "llama.cpp has no fp8-weights"),
    ("kv-quant-torch", {}, "cache of transformers"),
    ("fp8-weights", {"machine": "a100-80gb-sxm"}, "no fp8 matrix rate"),
    ("fp4-weights", {}, "no fp4 matrix rate"),
    ("fp8-kv", {"machine": "a100-80gb-sxm", "batch": 64}, "rule 2"),
    ("bf16-weights", {}, "would not shrink"),
    ("roadmap-device", {}, "no machine of the roadmap"),
    ("sram-device", {"model": "meta-llama/Meta-Llama-3.1-70B", "machine": "8x h100-sxm", "tp": 8}, "307 chips"),
    ("smaller-batch", {"batch": 1}, "the least"),
]  # fmt: skip


@pytest.mark.parametrize(("lever", "asked", "said"), REFUSED, ids=[f"{row[0]} {row[1]}" for row in REFUSED])
def test_what_cannot_help_is_refused_with_its_reason(lever, asked, said):
    assert said in refusal(lever, case(**asked))


NEVER_BLIND = [
    ("int4-weights", {"batch": 96, "prompt": 200, "output": 2000}, "rule 1"),
    ("int8-weight-only", {"batch": 128, "prompt": 200, "output": 2000}, "rule 1"),
    ("int8-weights", {"engine": "transformers", "batch": 1}, "rule 4"),
    ("int8-weights", {"machine": "b200-sxm", "prompt": 200}, "Blackwell"),
    ("dynamic-activations", {"engine": "transformers", "batch": 1}, "rule 4"),
    ("kv-quant-torch", {"engine": "transformers", "batch": 16, "prompt": 30000}, "unpacked"),
    ("speculative-decoding", {"batch": 32, "prompt": 200}, "rule 7"),
    ("flash-serving", {"model": SMALL, "machine": "grace-cpu", "engine": "llama.cpp", "attention": "eager", "batch": 1}, "45 %"),
    ("int8-kv", {"model": SMALL, "machine": "grace-cpu", "engine": "llama.cpp", "batch": 32, "prompt": 16000, "weights": "q4_0"}, "CPU"),
    ("int4-kv", {"model": SMALL, "machine": "grace-cpu", "engine": "llama.cpp", "batch": 32, "prompt": 16000, "weights": "q4_0"}, "30 %"),
    ("q2_k-weights", {"engine": "llama.cpp", "prompt": 200}, "rule 5"),
    ("int8-kv", {"machine": "a100-80gb-sxm", "batch": 64}, "Triton"),
    ("nf4-weights", {"machine": "l4", "batch": 1, "prompt": 200}, "bitsandbytes"),
    ("structured-pruning", {}, "distilled"),
    ("q8_0-weights", {"batch": 1, "prompt": 200}, "prototype"),
    ("weight-offload", {"machine": "rtx-3060-12gb", "engine": "llama.cpp", "batch": 1, "prompt": 1000}, "on the CPU"),
    ("speculative-decoding", {"batch": 1, "kv": "fp8"}, "rule 20"),
    ("fp8-kv", {"batch": 64, "draft_tokens": 3}, "rule 20"),
]  # fmt: skip


@pytest.mark.parametrize(("lever", "asked", "said"), NEVER_BLIND, ids=[row[0] for row in NEVER_BLIND])
def test_what_was_measured_to_hurt_is_never_recommended_blind(lever, asked, said):
    before = case(**asked)
    found = effect_of(before, look(before), [lever])

    assert found.outcome in {"prove-first", "hurts", "refused"}, found
    assert said in found.reason or found.outcome == "hurts"


def test_prefill_with_four_bit_weights_is_not_called_help():
    """A long prompt and a short answer: llama.cpp measured 0.76 to 0.94 times the prefill of F16."""
    for lever in ("q4_0-weights", "q4_k-weights", "q8_0-weights"):
        before = case(machine="rtx-4090", engine="llama.cpp", batch=1, prompt=4000, output=16, weights="fp16")
        assert effect_of(before, look(before), [lever]).outcome != "helps"


def test_torchao_int8_on_a_cpu_must_be_proven():
    before = case(SMALL, "grace-cpu", "transformers", batch=1, prompt=200)
    found = effect_of(before, look(before), ["int8-weight-only"])

    assert found.outcome == "prove-first"
    assert "0.24" in found.reason


@pytest.mark.parametrize(
    "model",
    ["google-bert/bert-base-uncased", "black-forest-labs/FLUX.1-dev--transformer", "state-spaces/mamba-130m-hf"],
)
def test_every_lever_answers_for_odd_work(model):
    """An encoder, an image model and a model without attention: a changed case or a reason, never an exception."""
    before = case(model, "h100-sxm", batch=2, prompt=128, output=8)
    now = today_of(before)
    for name in CARDS:
        found = find_lever(name).lever.apply(before, now)
        assert isinstance(found, Case | Refusal)
        if isinstance(found, Refusal):
            assert found.reason
            assert "nan" not in found.reason


def test_more_devices_serve_twice_as_many_for_twice_the_money():
    before = case(machine="8x h100-sxm", tp=8)
    found = effect_of(before, look(before), ["more-devices"])

    assert float(found.speed.value) == pytest.approx(2, rel=1e-6)
    assert found.usd == pytest.approx(1, rel=1e-6)
    assert applied("more-devices", before).setting.machine.devices == 16
    assert not np.isnan(found.memory)

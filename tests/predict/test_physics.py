"""Laws no prediction may break: floors, monotonicity, conservation, and one question equal to the same in a grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bytebound as bb
from bytebound.documents.work import Serve
from bytebound.predict.estimate import settle

MODELS = (
    "meta-llama/Llama-3.1-8B",
    "Qwen/Qwen3-30B-A3B",
    "deepseek-ai/DeepSeek-V2-Lite",
    "google/gemma-2-2b-it",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
)
SETTINGS = {name: settle(name, "8x h100-sxm", "vllm") for name in MODELS}

works = st.builds(
    Serve,
    batch=st.integers(1, 2048),
    prompt=st.integers(1, 60_000),
    output=st.integers(1, 8_000),
    tp=st.sampled_from([1, 2, 4, 8]),
    weights=st.sampled_from(["auto", "fp8", "int8", "int4", "nvfp4", "q4_k_m"]),
    kv=st.sampled_from(["auto", "fp8", "int8"]),
    chunk=st.sampled_from([0, 512, 4096]),
    prefix_hit=st.sampled_from([0.0, 0.4]),
    draft_tokens=st.sampled_from([0, 3]),
    attention=st.sampled_from(["flash", "eager"]),
)
settings_ = st.sampled_from(MODELS).map(SETTINGS.__getitem__)


@given(settings_, works)
def test_nothing_is_under_the_floor(setting, work):
    """No step is faster than its bytes over datasheet bandwidth or its FLOPs over dense peak; nothing is NaN but what does not fit."""
    named = setting.answer(work)
    for phase in ("decode", "prefill"):
        assert named[f"{phase}.seconds"] >= named[f"{phase}.floor_s"] * (1 - 1e-9)
        assert 0 <= named[f"{phase}.mbu"] <= 1
        assert 0 <= named[f"{phase}.mfu"] <= 1
        assert sum(named[f"{phase}.share.{i}"] for i in range(8)) == pytest.approx(1.0)
    fits = bool(named["fits"][0])
    assert fits == bool(np.isfinite(named["tokens_per_s"][0]))
    assert fits == bool(named["total_bytes"] <= named["usable_bytes"])
    assert (named["verdict"][0] == -1) == (not fits)


@given(
    settings_,
    works,
    st.sampled_from(
        ["memory_bytes_per_s", "flop_per_s", "scaleup_bytes_per_s", "scaleout_bytes_per_s", "host_bytes_per_s"]
    ),
    st.floats(1.01, 8),
)
def test_a_higher_ceiling_never_slows(setting, work, ceiling, factor):
    """More bandwidth, rate or link speed never makes any time longer."""
    faster = replace(setting.ceilings, **{ceiling: getattr(setting.ceilings, ceiling) * factor})
    before, after = setting.answer(work), setting.answer(work, faster)
    for name in ("ttft_s", "tpot_s", "decode.seconds", "prefill.seconds"):
        if np.isfinite(before[name][0]):
            assert after[name] <= before[name] * (1 + 1e-12)


@given(settings_, works)
def test_more_memory_never_holds_less(setting, work):
    """More memory holds at least as many tokens, and changes no time."""
    larger = replace(setting.ceilings, memory_bytes=setting.ceilings.memory_bytes * 1.5)
    before, after = setting.answer(work), setting.answer(work, larger)
    assert after["max_kv_tokens"] >= before["max_kv_tokens"]
    assert after["decode.seconds"] == before["decode.seconds"]


@given(settings_, works, st.integers(0, 99))
def test_one_question_equals_the_same_inside_a_grid(setting, work, place):
    """The same code answers one question and a hundred; the answer does not depend on its neighbours."""
    rng = np.random.default_rng(place)
    batch, prompt = rng.integers(1, 512, 100), rng.integers(1, 9000, 100)
    batch[place], prompt[place] = work.batch, work.prompt
    alone, together = setting.answer(work), setting.answer(replace(work, batch=batch, prompt=prompt))
    for name, value in alone.items():
        assert together[name][place] == pytest.approx(value[0], rel=1e-9, nan_ok=True), name


@given(settings_, works)
def test_longer_and_larger_costs_more(setting, work):
    """A longer prompt or a larger batch never shortens a step and never needs less memory."""
    for name in ("batch", "prompt"):
        values = np.array([1, 2, 8]) * getattr(work, name)
        named = setting.answer(replace(work, **{name: values}))
        assert np.all(np.diff(named["decode.seconds"]) >= -1e-12)
        assert np.all(np.diff(named["total_bytes"]) >= -1e-3)


def test_pieces_agree_with_the_whole():
    """Twenty thousand questions in pieces on several threads give the answers of one piece."""
    setting = SETTINGS[MODELS[0]]
    rng = np.random.default_rng(1)
    work = Serve(batch=rng.integers(1, 512, (4, 5000)), prompt=rng.integers(1, 9000, (4, 5000)))
    named = setting.answer(work)
    for row, column in ((0, 0), (1, 4095), (3, 4999)):
        alone = setting.answer(Serve(batch=int(work.batch[row, column]), prompt=int(work.prompt[row, column])))
        assert named["tpot_s"][row * 5000 + column] == pytest.approx(alone["tpot_s"][0], rel=1e-9, nan_ok=True)


def test_kv_bytes_scale_with_kv_heads_and_bits():
    """KV traffic counts KV heads, never query heads (LLM-Viewer counted 4 to 8 times too much), and falls with the format."""
    setting = SETTINGS["meta-llama/Llama-3.1-8B"]
    work = Serve(batch=4, prompt=4000, output=1)
    read = {kv: float(setting.answer(replace(work, kv=kv))["decode.kv_bytes"][0]) for kv in ("bf16", "fp8")}
    per_sequence = 4000.5 * 131_072
    written = 131_072

    assert read["bf16"] == pytest.approx(4 * (per_sequence + written), rel=1e-9)
    assert read["fp8"] == pytest.approx(read["bf16"] / 2, rel=0.01)


def test_streamed_bytes_are_not_resident_bytes():
    """The input embedding is resident and not streamed; the head is both; a gated MLP has three matrices."""
    named = SETTINGS["meta-llama/Llama-3.1-8B"].answer(Serve(batch=1, prompt=16, output=1))
    embedding = 128_256 * 4096 * 2

    assert named["weights_bytes"][0] == 8_030_261_248 * 2
    assert named["decode.weight_bytes"][0] == pytest.approx(8_030_261_248 * 2 - embedding, rel=1e-6)


def test_tensor_parallelism_divides_once_and_pays_the_link():
    """TP4 holds and reads a quarter (norms apart), and the link shows up in the time."""
    setting = settle("meta-llama/Llama-3.1-70B", "8x h100-sxm", "vllm")
    one, four = (setting.answer(Serve(batch=8, tp=tp)) for tp in (1, 4))

    assert four["decode.weight_bytes"][0] == pytest.approx(one["decode.weight_bytes"][0] / 4, rel=0.001)
    assert four["decode.share.4"][0] > 0
    assert one["decode.share.4"][0] == 0
    assert four["decode.seconds"][0] > one["decode.seconds"][0] / 4


def test_experts_read_are_those_hit():
    """At batch 1 a mixture reads its active experts; at a large batch all of them; capacity always all."""
    setting = SETTINGS["Qwen/Qwen3-30B-A3B"]
    small, large = (setting.answer(Serve(batch=b, prompt=64, output=1)) for b in (1, 4096))
    active = setting.architecture.active_parameters

    assert small["decode.weight_bytes"][0] == pytest.approx((active - 151_936 * 2048) * 2, rel=0.01)
    assert large["decode.weight_bytes"][0] == pytest.approx(
        (setting.architecture.parameters - 151_936 * 2048) * 2, rel=0.01
    )
    assert small["weights_bytes"][0] == large["weights_bytes"][0]


def test_windows_cap_what_is_read_and_kept():
    """Half of Gemma-2's layers keep at most 4,096 tokens."""
    setting = SETTINGS["google/gemma-2-2b-it"]
    short, long = (setting.answer(Serve(batch=1, prompt=p, output=1)) for p in (4096, 8192))
    per_token = setting.architecture.kv_elements_per_token * 2

    assert short["kv_bytes"][0] == pytest.approx(per_token * 4096, rel=0.01)
    assert long["kv_bytes"][0] == pytest.approx(per_token * (4096 + 8192) / 2, rel=0.01)


def test_formats_without_hardware_multiply_in_16_bits():
    """fp8 weights on an A100 save bytes and no arithmetic: prefill is no faster than bf16."""
    setting = settle("meta-llama/Llama-3.1-8B", "a100-80gb-sxm", "vllm")
    plain, fp8 = (setting.answer(Serve(batch=1, prompt=8000, output=1, weights=w)) for w in ("bf16", "fp8"))

    assert fp8["prefill.flops"][0] == plain["prefill.flops"][0]
    assert fp8["prefill.share.3"][0] * fp8["prefill.seconds"][0] == pytest.approx(
        plain["prefill.share.3"][0] * plain["prefill.seconds"][0], rel=0.01
    )
    assert fp8["decode.weight_bytes"][0] < plain["decode.weight_bytes"][0] * 0.6


@pytest.mark.parametrize(
    ("model", "device", "kv", "tokens", "tolerance"),
    [
        ("Qwen/Qwen3-4B", "l4", "bf16", 83_488, 0.03),
        ("Qwen/Qwen3-4B", "l4", "fp8", 166_992, 0.03),
        ("meta-llama/Llama-3.1-8B", "rtx-4090", "bf16", 41_408, 0.03),
    ],
)
def test_vllm_kv_capacity(model, device, kv, tokens, tolerance):
    """KV tokens that vLLM itself logged: vLLM quantized_kvcache.md@0609ba1 (L4) and LLMServingSim's meta.json (RTX 4090)."""
    estimate = bb.estimate(model, device, Serve(batch=1, prompt=2048, output=1, kv=kv))

    assert estimate.memory.max_kv_tokens == pytest.approx(tokens, rel=tolerance)


def test_measured_tpot_is_inside_the_interval():
    """Llama-3.1-8B bf16 on one H100 under TensorRT-LLM, 1,024 in and 128 out (aiconfigurator-core 0.12 silicon sample).

    An interval holds 80 %, so one of the five may be outside; none is a third off. The largest batch is the hardest: with
    128 short answers two thirds of a token's time are prefills, and ours are too slow there.
    """
    measured_s = np.array([7.94e-3, 9.77e-3, 13.19e-3, 20.05e-3, 31.66e-3])
    work = Serve(batch=np.array([8, 16, 32, 64, 128]), prompt=1024, output=128, engine="tensorrt-llm")
    found = bb.estimate("meta-llama/Llama-3.1-8B", "h100-sxm", work).tpot_s

    assert ((found.low <= measured_s) & (measured_s <= found.high)).sum() >= 4
    assert found.value == pytest.approx(measured_s, rel=1 / 3)


def test_low_bandwidth_use_is_not_bandwidth_bound():
    """The counter-example to "below 50 % MBU is bandwidth-bound": high MBU at batch 8 binds, a slow large batch does not."""
    good = bb.diagnose("meta-llama/Llama-3.1-8B", "h100-sxm", Serve(batch=8, prompt=512, output=64), step_s=5.6e-3)
    slow = bb.diagnose("meta-llama/Llama-3.1-8B", "h100-sxm", Serve(batch=8, prompt=512, output=64), step_s=15e-3)

    assert good.verdict == "weight-bandwidth"
    assert good.mbu > 0.8
    assert slow.verdict == "overhead"
    assert slow.mbu < 0.5
    with pytest.raises(bb.ByteboundError, match="under the physical floor"):
        bb.diagnose("meta-llama/Llama-3.1-8B", "h100-sxm", Serve(batch=8), step_s=1e-3)


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
@pytest.mark.parametrize(
    ("model", "on", "work"),
    [
        ("meta-llama/Llama-3.1-70B", "8x h100-sxm", Serve(batch=64, prompt=2000, output=200, tp=8)),
        ("meta-llama/Llama-3.1-8B", "4x h100-sxm", Serve(batch=8, prompt=1000, output=300, tp=4)),
        ("Qwen/Qwen3-30B-A3B", "2x(4x h100-sxm)", Serve(batch=16, prompt=1500, output=300, tp=8)),
        ("meta-llama/Llama-3.2-1B-Instruct", "h100-sxm", Serve(batch=1, prompt=1500, output=300)),
    ],
)
def test_elasticities_match_a_perturbation(engine, model, on, work):
    """Elasticities are shares of time; raising each ceiling by 0.1 % moves the rate as they say."""
    work = replace(work, engine=engine)
    setting, estimate = settle(model, on, engine), bb.estimate(model, on, work)
    before = setting.answer(work)["tokens_per_s"][0]
    ceilings = {
        "memory_bandwidth": "memory_bytes_per_s", "compute": "flop_per_s", "scale_up_link": "scaleup_bytes_per_s",
        "scale_out_link": "scaleout_bytes_per_s",
    }  # fmt: skip
    for name, ceiling in ceilings.items():
        faster = replace(setting.ceilings, **{ceiling: getattr(setting.ceilings, ceiling) * 1.001})
        change = setting.answer(work, faster)["tokens_per_s"][0] / before - 1
        assert change * 1000 == pytest.approx(estimate.elasticity[name], abs=0.002)
    assert sum(abs(each) for each in estimate.elasticity.values()) == pytest.approx(1)


def test_what_does_not_fit_has_no_speed():
    """A 405B on one device is a capacity verdict with a reason, never a number."""
    estimate = bb.estimate("meta-llama/Llama-3.1-405B", "h100-sxm", Serve(batch=8))

    assert estimate.verdict == "capacity"
    assert not estimate.memory.fits
    assert np.isnan(estimate.tokens_per_s.value)
    assert "does not fit" in estimate.missing["tokens_per_s"]
    again = bb.from_json(bb.Estimate, bb.to_json(estimate))
    assert again.verdict == "capacity"
    assert again.tokens_per_s.value is None  # unknown is null in JSON, never 0


@pytest.mark.parametrize(
    "name",
    [
        "memory_bytes",
        "memory_bytes_per_s",
        "scaleup_bytes_per_s",
        "scaleout_bytes_per_s",
        "host_bytes_per_s",
        "flop_per_s",
        "domain",
    ],
)
def test_every_ceiling_broadcasts(name):
    """A ceiling may be an array over requests: each element is the answer of that ceiling alone, in one piece or many."""
    setting = settle("meta-llama/Llama-3.1-70B", "2x(8x h100-sxm)", "vllm")
    own = getattr(setting.ceilings, name)
    factors = np.array([1.0, 2.0, 4.0])
    many = replace(setting.ceilings, **{name: own[:, None] * factors if name == "flop_per_s" else own * factors})
    work = Serve(batch=32, tp=16, prompt=3000, offload_hit=0.2)
    together = setting.answer(work, many)
    for i, factor in enumerate(factors):
        alone = setting.answer(work, replace(setting.ceilings, **{name: own * factor}))
        for column in ("tpot_s", "ttft_s", "max_kv_tokens", "decode.seconds"):
            assert together[column][i] == pytest.approx(alone[column][0], rel=1e-9), column

    wide = replace(setting.ceilings, **{name: np.repeat(getattr(many, name), 2000, axis=-1)})
    assert setting.answer(work, wide)["tpot_s"][4500] == pytest.approx(together["tpot_s"][2], rel=1e-9)

"""Mistakes that a review found, each pinned by the law it broke."""

from __future__ import annotations

import numpy as np
import pytest
from test_audit import ONE, audit, only

import bytebound as bb
from bytebound.audit import audit_fleet
from bytebound.documents.fleet import parse_fleet
from bytebound.predict.estimate import settle


def test_a_cached_prompt_costs_an_indexer_nothing():
    """DeepSeek-V3.2's indexer works on new tokens: with 99.9 % of a long prompt cached little of the prefill is left."""
    setting = settle("deepseek-ai/DeepSeek-V3.2", "16x h200-sxm", "vllm")
    whole, cached = (setting.answer(bb.Serve(prompt=131072, tp=8, ep=8, prefix_hit=hit)) for hit in (0.0, 0.999))

    assert cached["prefill.flops"][0] < whole["prefill.flops"][0] / 50


def test_devices_never_scale_better_than_their_number():
    """An image model on eight pipeline stages is at most eight times as fast as on one device."""
    setting = settle("black-forest-labs/FLUX.1-dev--transformer", "8x h100-sxm", "transformers")
    rates = [float(setting.answer(bb.Serve(batch=32, prompt=512, pp=pp))["tokens_per_s"][0]) for pp in (1, 8)]

    assert rates[1] <= 8 * rates[0] * 1.05


@pytest.mark.parametrize(
    "work",
    [
        bb.Serve(batch=np.arange(1, 5), draft_tokens=3, acceptance=np.array([[0.5], [0.6], [0.7]])),
        bb.Serve(batch=np.arange(1, 5), tp=np.array([[1], [2], [4]])),
        bb.Serve(batch=np.arange(1, 5), kv=np.array([["auto"], ["fp8"], ["int8"]])),
        bb.Serve(batch=np.arange(1, 5), model_scale=np.array([[1.0], [2.0], [0.5]])),
        bb.Serve(batch=np.arange(1, 5), disaggregated=np.array([[True], [False], [True]])),
    ],
)
def test_every_quantity_broadcasts(work):
    """Any field may be an array, and the answer has the broadcast shape."""
    estimate = bb.estimate("meta-llama/Llama-3.1-8B", "4x h100-sxm", work)

    assert estimate.tpot_s.value.shape == (3, 4)
    assert estimate.joules_per_token.value.shape == (3, 4)
    assert estimate.model.kv_bytes_per_token.shape == (3, 4)


def test_a_decoder_that_reads_an_encoder_keeps_its_own_output_only():
    """T5's prompt lives in the encoder; its decoder caches the output, and the cross keys once."""
    setting = settle("google/t5-v1_1-xxl", "h100-sxm", "vllm")
    named = setting.answer(bb.Serve(batch=8, prompt=4096, output=16))

    assert named["kv_bytes"][0] == pytest.approx(named["decode.kv_bytes"][0], rel=0.02)


def test_images_do_not_attend_to_each_other():
    setting = settle("Qwen/Qwen2.5-VL-3B-Instruct", "l40s", "vllm")
    one, two, nine = (setting.answer(bb.Serve(batch=1, prompt=1000, images=n))["prefill.flops"][0] for n in (1, 2, 9))

    assert nine - one == pytest.approx(8 * (two - one), rel=1e-6)


def test_a_replica_that_cannot_exist_is_an_error():
    with pytest.raises(bb.ByteboundError, match="devices is 1 and one replica takes 8"):
        audit(ONE.replace('pool = "p"\n[', 'pool = "p"\ndevices = 1\n[') + "\n[workload.deployment]\ntp = 8\n")
    job = ONE[: ONE.index("[[workload]]")] + (
        '[[workload]]\nname = "t"\nkind = "train"\nmodel = "meta-llama/Llama-3.1-8B"\npool = "p"\n'
        "[workload.job]\ntokens = 1e9\ndays = 300\ntp = 8\ndp = 64\n"
    )
    with pytest.raises(bb.ByteboundError, match="tp × pp × dp × cp is 512 and the pool has 16 devices"):
        audit(job)


def test_a_need_is_never_less_than_a_replica():
    found = only(ONE.replace("40/s", "0.001/s") + "\n[workload.deployment]\ntp = 8\n")

    assert min(found.need_devices.p10) == 8


def test_fixed_devices_are_not_dealt_twice():
    text = ONE.replace('pool = "p"\n[', 'pool = "p"\ndevices = 16\n[')
    twice = text + text[text.index("[[workload]]") :].replace('"chat"', '"other"')

    assert sum(w.supply_devices[0] for w in audit(twice).workloads) == pytest.approx(16)


def test_the_quality_floor_holds_when_nothing_fits_today():
    """32 billion parameters on one RTX 4090 fit at 4 bits only; a workload that must stay lossless is not told to."""
    text = ONE.replace("h100-sxm", "rtx-4090").replace("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B")
    strict, loose = (
        next(
            f
            for f in only(text.replace('pool = "p"\n[', f'pool = "p"\nquality_floor = "{floor}"\n[')).fixes
            if f.lever == "int4-weights"
        )
        for floor in ("lossless", "any")
    )

    assert strict.status == "little-effect"
    assert "quality floor" in strict.reason
    assert loose.status in {"helps", "recommended"}


def test_dearer_memory_never_makes_larger_devices_a_saving():
    """A scenario moves the price of a device moved to as it moves the pool's own: the change of the bill scales with both."""
    cheap, dear = (
        {f.title: f.usd_per_month for f in only(ONE, memory_price=p).fixes if f.lever == "roadmap-device"}
        for p in (1.0, 3.0)
    )
    priced = [title for title in cheap.keys() & dear.keys() if cheap[title] is not None]

    assert priced
    for title in priced:
        assert dear[title] == pytest.approx(cheap[title] * 1.9, rel=0.01)


def test_an_encoder_cannot_promise_output_tokens():
    text = ONE.replace("meta-llama/Llama-3.1-8B", "Snowflake/snowflake-arctic-embed-m")
    with pytest.raises(bb.ByteboundError, match="an encoder gives no output tokens"):
        audit_fleet(parse_fleet(text), draws=50)


def test_prefixes_do_not_speed_up_encoders():
    setting = settle("google-bert/bert-base-uncased", "l4", "vllm")
    plain, hit = (setting.answer(bb.Serve(batch=32, prompt=512, prefix_hit=h))["tokens_per_s"][0] for h in (0.0, 0.9))

    assert plain == hit


def test_the_longest_prompt_still_has_an_answer():
    assert bb.estimate("state-spaces/mamba-130m-hf", "h100-sxm", bb.Serve(prompt=10_000_000)).verdict


def test_a_sharded_frozen_base_is_gathered():
    from bytebound.documents.work import Train
    from bytebound.predict.training import train_time

    setting = settle("Qwen/Qwen3-8B", "64x h100-sxm", "vllm")
    found = train_time(setting, Train(dp=64, trainable="lora", zero=3)).ledger.exchanges
    gathered = [i for i, name in enumerate(found.names) if name == "frozen weights"]

    assert float((found.payload_bytes * found.events)[gathered].sum()) > 2 * 2 * 8.19e9 * 0.95

"""The two simple predictors, against sums and searches done by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bytebound.documents.truth import Truth
from bytebound.documents.work import Serve
from bytebound.errors import RequestError
from bytebound.facts.devices import find_device
from bytebound.fitting.cases import TIMED, groups
from bytebound.models import read_model
from bytebound.truth import shipped_truth
from bytebound.validate.baselines import ATTAINED, nearest_scaled, roofline_06

BANDWIDTH = {"a100-80gb-sxm": 2.0e12, "h100-sxm": 3.35e12, "h200-sxm": 4.8e12}


def row(device, value, *, metric="tpot_s", batch=1, prompt=128, output=128, tp=1, **more):
    work = Serve(batch=batch, prompt=prompt, output=output, weights="bf16", tp=tp, engine=more.get("engine", "vllm"))
    return Truth(
        **{
            "id": f"{device}-{value}", "source": "made_up", "locator": "none", "device": device, "engine": "vllm",
            "model": "meta-llama/Meta-Llama-3-8B", "metric": metric, "value": value, "regime": "static", "work": work,
            "devices": tp,
        }
        | more
    )  # fmt: skip


def scaled(*rows):
    return nearest_scaled(rows, [BANDWIDTH[r.device] for r in rows])


def test_one_stream_is_its_bytes_over_six_tenths_of_the_bandwidth():
    one = row("h100-sxm", 0.01, regime="single", prompt=1, output=1)
    (group,) = groups([one])
    parameters = read_model("meta-llama/Meta-Llama-3-8B").parameters
    weights = 2 * (parameters - 128256 * 4096)  # one row of the embedding is read, the output matrix is its own
    bandwidth = find_device("h100-sxm").memory_bytes_per_s.value

    assert roofline_06(group)[0] == pytest.approx(weights / bandwidth / ATTAINED, rel=0.005)


def test_a_long_prompt_is_its_operations_over_six_tenths_of_the_peak():
    one = row("h100-sxm", 1e4, metric="prefill_tokens_per_s", regime="prefill", prompt=2048, output=1)
    (group,) = groups([one])
    peak = find_device("h100-sxm").flop_per_s["bf16"].value
    linear = 2 * (read_model("meta-llama/Meta-Llama-3-8B").parameters - 2 * 128256 * 4096) * 2048

    found = 2048 / roofline_06(group)[0]

    assert linear / peak / ATTAINED < found < 1.1 * linear / peak / ATTAINED


def test_the_shipped_rows_have_a_value_each_and_rates_are_amounts_over_times():
    rows = [r for r in shipped_truth() if r.source == "llm_inference_bench"]
    for group in groups(rows):
        found = roofline_06(group)
        assert found.shape == group.rows.shape
        assert bool((np.isfinite(found) & (found > 0)).all())
        for index, value in zip(group.rows, found, strict=True):
            assert rows[index].metric in TIMED
            assert 1e-4 < value < 1e7


def test_a_rate_and_its_time_agree():
    time = row("h100-sxm", 1.0, metric="request_s", batch=8)
    rate = replace(time, id="rate", metric="total_tokens_per_s")
    (group,) = groups([time, rate])
    seconds, tokens_per_s = roofline_06(group)

    assert tokens_per_s == pytest.approx(8 * 256 / seconds)


def test_times_fall_and_rates_rise_with_bandwidth():
    a100, h100 = row("a100-80gb-sxm", 0.01), row("h100-sxm", 0.007)
    rates_ = [replace(r, metric="decode_tokens_per_s", value=1 / r.value) for r in (a100, h100)]

    assert scaled(a100, h100) == pytest.approx([0.007 * 3.35 / 2.0, 0.01 * 2.0 / 3.35])
    assert scaled(*rates_) == pytest.approx([2.0 / 3.35 / 0.007, 3.35 / 2.0 / 0.01])


def test_a_row_of_the_same_device_is_never_looked_at():
    rows = row("h100-sxm", 0.007), row("h100-sxm", 0.0071), row("a100-80gb-sxm", 0.02)
    first = scaled(*rows)

    assert first[0] == first[1] == pytest.approx(0.02 * 2.0 / 3.35)
    assert scaled(replace(rows[0], value=9.0), *rows[1:])[0] == first[0]


def test_left_out_devices_change_nothing():
    rows = [r for r in shipped_truth() if r.metric in TIMED]
    bandwidth = np.array([find_device(r.device).memory_bytes_per_s.value for r in rows])
    everything = nearest_scaled(rows, bandwidth)
    assert np.isfinite(everything).sum() > 100

    for device in ("h100-sxm", "m2-max"):
        own = [i for i, r in enumerate(rows) if r.device == device]
        spoiled = [replace(r, value=r.value * 7) if r.device == device else r for r in rows]
        assert nearest_scaled(spoiled, bandwidth)[own] == pytest.approx(everything[own], nan_ok=True)


def test_the_nearest_is_alike_in_lengths_then_in_kind():
    asked = row("h100-sxm", 1.0)
    longer = row("a100-80gb-sxm", 0.5, prompt=4096)
    other_engine = row("a100-80gb-sxm", 0.3, engine="sglang")
    same = row("a100-80gb-sxm", 0.1)

    assert scaled(asked, longer, other_engine, same)[0] == pytest.approx(0.1 * 2.0 / 3.35)
    assert scaled(asked, longer, other_engine)[0] == pytest.approx(0.3 * 2.0 / 3.35)


def test_the_nearest_chip_is_that_of_the_nearest_bandwidth():
    rows = row("h100-sxm", 1.0), row("a100-80gb-sxm", 0.5), row("h200-sxm", 0.1)

    assert scaled(*rows)[0] == pytest.approx(0.1 * 4.8 / 3.35)


def test_without_another_device_of_model_metric_and_batch_there_is_no_answer():
    rows = row("h100-sxm", 1.0), row("a100-80gb-sxm", 0.5, batch=2), row("a100-80gb-sxm", 0.5, metric="ttft_s")
    capacity = [replace(r, metric="kv_tokens", value=1e5) for r in rows[:1]] + [
        row("a100-80gb-sxm", 1e5, metric="kv_tokens")
    ]

    assert all(map(math.isnan, scaled(*rows)))
    assert all(map(math.isnan, scaled(*capacity)))
    assert scaled().shape == (0,)


def test_one_request_uses_its_tensor_group_and_a_deployment_all_devices():
    times = row("h100-sxm", 1.0, tp=2), row("a100-80gb-sxm", 1.0)
    rates_ = [replace(r, metric="tokens_per_s", devices=d) for r, d in zip(times, (8, 1), strict=True)]

    assert scaled(*times)[0] == pytest.approx(2.0 / 6.7)
    assert scaled(*rates_)[0] == pytest.approx(8 * 3.35 / 2.0)


@pytest.mark.parametrize("wrong", [[], [1.0, 2.0], [0.0], [math.nan], [-1e12]])
def test_bandwidths_that_are_none_are_refused(wrong):
    with pytest.raises(RequestError, match="1 rows need as many"):
        nearest_scaled([row("h100-sxm", 1.0)], wrong)

"""Training estimates: sums, conversions by hand, what elasticities and walls promise, and a search whose answers hold when asked."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bytebound as bb
from bytebound.documents.training import MEMORY_PARTS, TIME_PARTS
from bytebound.predict.train_memory import normal_cdf

SMALL = ("meta-llama/Llama-3.1-8B", "8x h100-sxm")
JOBS = {
    "8B on a node": (*SMALL, bb.Train(seq=8192, dp=8, global_batch=64, recompute="full")),
    "8B on two": ("meta-llama/Llama-3.1-8B", "2x a100-80gb-sxm", bb.Train(seq=8192, dp=2, global_batch=64)),
    "70B split": ("meta-llama/Llama-3.1-70B", "8x(8x h100-sxm)", bb.Train(tp=8, pp=4, dp=2, zero=1, global_batch=512)),
    "70B replicated": ("meta-llama/Llama-3.1-70B", "8x(8x h100-sxm)", bb.Train(dp=64, zero=1, global_batch=512)),
    "adapters": ("meta-llama/Llama-3.1-8B", "rtx-4090", bb.Train(seq=2048, global_batch=16, trainable="lora")),
    "experts": ("Qwen/Qwen3-30B-A3B", "2x(8x h200-sxm)", bb.Train(dp=16, ep=8, global_batch=256)),
}  # fmt: skip


@pytest.fixture(scope="module")
def found():
    return {name: bb.train(model, machine, work, fit=True) for name, (model, machine, work) in JOBS.items()}


@pytest.mark.parametrize("job", JOBS)
def test_parts_add_up(found, job):
    """Memory parts are the total, time parts the step, and nothing is negative."""
    answer = found[job]
    parts = [getattr(answer.memory, name) for name in MEMORY_PARTS]

    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(answer.memory.total_bytes)
    assert answer.memory.low_bytes <= answer.memory.total_bytes <= answer.memory.high_bytes
    assert tuple(answer.time) == TIME_PARTS
    assert min(answer.time.values()) >= 0
    if answer.memory.fits:
        assert sum(answer.time.values()) == pytest.approx(answer.step_s.value)


def test_mfu_is_six_flops_per_parameter_and_token_plus_attention():
    """By hand for Llama-3.1-8B: 6 (parameters − embedding) + 6 layers × heads × head size × seq per token (causal, Narayanan eq. 3)."""
    answer = bb.train(*SMALL, bb.Train(seq=8192, dp=8, global_batch=64, recompute="full"))
    tokens = 8192 * 64
    by_hand = tokens * (6 * (8_030_261_248 - 128_256 * 4096) + 6 * 32 * 4096 * 8192)

    assert answer.model_flops == pytest.approx(by_hand, rel=0.005)
    assert answer.mfu_by_convention["causal"] == answer.mfu.value
    assert answer.mfu.value == pytest.approx(by_hand / (answer.step_s.value * 8 * 989.4e12), rel=0.01)
    embedded = answer.mfu_by_convention["causal+embedding"] / answer.mfu.value
    assert embedded == pytest.approx(1 + 6 * 128_256 * 4096 * tokens / by_hand, rel=0.01)
    full = answer.mfu_by_convention["full"] / answer.mfu.value
    assert full == pytest.approx(1 + 6 * 32 * 4096 * 8192 * tokens / by_hand, rel=0.01)


def test_full_recomputation_raises_hfu_over_mfu_by_a_third():
    """Llm-foundry's runs with activation checkpointing all show HFU / MFU = 4/3; the head is not recomputed."""
    answer = bb.train("meta-llama/Llama-3.1-70B", "32x(8x h100-sxm)", bb.Train(dp=256, recompute="full"))

    assert answer.hfu.value / answer.mfu.value == pytest.approx(4 / 3, rel=0.02)


def test_money_days_and_tokens_agree():
    machine = bb.find_machine("8x h100-sxm").model_copy(
        update={
            "usd_per_device_hour": bb.find_machine("h100-sxm").usd_per_device_hour.model_copy(
                update={"value": 2.0, "low": None, "high": None}
            )
        }
    )
    answer = bb.train(SMALL[0], machine, seq=4096, tokens=1e12)
    hours = 1e12 / answer.tokens_per_s.value / 3600

    assert answer.days_total.value == pytest.approx(hours / 24)
    assert answer.usd_total.value == pytest.approx(hours * 8 * 2.0)
    assert answer.usd_per_btok.value == pytest.approx(answer.usd_total.value / 1000)
    assert answer.usd_per_btok.low < answer.usd_per_btok.value < answer.usd_per_btok.high
    assert answer.tokens_per_s_per_device.value == pytest.approx(answer.tokens_per_s.value / 8)


def test_power_is_between_idle_clocks_and_the_boards_limit(found):
    answer = found["8B on a node"]

    assert 0.6 * 700 * 8 <= answer.power_w <= 700 * 8
    assert answer.joules_per_token.value == pytest.approx(answer.power_w / answer.tokens_per_s.value)


@pytest.mark.parametrize("job", ["8B on a node", "70B split", "experts", "adapters"])
def test_elasticities_promise_what_a_faster_device_gives(found, job):
    """A device with 10 % more FLOP/s (and one with 10 % more bandwidth) is faster by about a tenth of 10 elasticities."""
    model, machine, work = JOBS[job]
    base = bb.find_machine(machine)
    before = found[job]
    device = base.device
    faster = {
        name: figure.model_copy(update={"value": figure.value * 1.1, "low": None, "high": None})
        for name, figure in device.flop_per_s.items()
    }
    wider = device.memory_bytes_per_s.model_copy(
        update={"value": device.memory_bytes_per_s.value * 1.1, "low": None, "high": None}
    )
    watts = device.power_w.model_copy(update={"value": device.power_w.value * 1.1, "low": None, "high": None})
    for name, update in (
        ("compute", {"flop_per_s": faster, "power_w": watts}),
        ("memory_bandwidth", {"memory_bytes_per_s": wider}),
    ):
        after = bb.train(model, base.model_copy(update={"device": device.model_copy(update=update)}), work)
        gained = math.log(sum(before.time.values()) / sum(after.time.values())) / math.log(1.1)
        assert gained == pytest.approx(before.elasticity[name], abs=0.03), name


@pytest.mark.parametrize("job", JOBS)
def test_elasticities_share_one_percent_out(found, job):
    """A device better by 1 % in every rate gives the sum of the elasticities, and what is left of 1 % are times that stay."""
    model, machine, work = JOBS[job]
    base, e = bb.find_machine(machine), found[job].elasticity
    rates = ("memory_bytes_per_s", "scaleup_bytes_per_s", "scaleout_bytes_per_s", "host_bytes_per_s", "power_w")

    def more(figure):
        return figure and figure.model_copy(update={"value": figure.value * 1.01, "low": None, "high": None})

    better = {name: more(getattr(base.device, name)) for name in rates}
    better["flop_per_s"] = {name: more(figure) for name, figure in base.device.flop_per_s.items()}
    faster = bb.train(model, base.model_copy(update={"device": base.device.model_copy(update=better)}), work)
    gained = math.log(sum(found[job].time.values()) / sum(faster.time.values())) / math.log(1.01)

    assert sum(value for name, value in e.items() if name != "overhead") == pytest.approx(gained, abs=0.02)
    assert -0.5 < e["overhead"] <= 0
    assert e["memory_capacity"] == 0


@pytest.mark.parametrize("job", ["8B on a node", "70B split", "experts"])
def test_the_next_wall_is_there_and_not_before(found, job):
    model, machine, work = JOBS[job]
    answer = found[job]
    assert answer.next_wall is not None
    assert answer.next_wall.at.startswith("sequences of")
    tokens = int(answer.next_wall.at.split()[2].replace(",", ""))

    assert bb.train(model, machine, replace(work, seq=tokens)).verdict == answer.next_wall.resource
    assert bb.train(model, machine, replace(work, seq=tokens // 2)).verdict == answer.verdict


def test_what_does_not_fit_has_no_speed():
    answer = bb.train("meta-llama/Llama-3.1-70B", "h100-sxm")

    assert answer.verdict == "capacity"
    assert not answer.memory.fits
    assert answer.memory.probability_fits < 1e-3
    assert math.isnan(answer.step_s.value)
    assert answer.next_wall is None
    assert "GiB short" in answer.missing["step_s"]
    assert '"value": null' in bb.to_json(answer.mfu)


def test_an_array_answers_as_its_elements_do():
    """Sequence × ZeRO stage at once gives what each gives alone."""
    seq, zero = np.array([2048, 8192, 65536])[:, None], np.array([1, 3])
    many = bb.train(*SMALL, bb.Train(seq=seq, zero=zero, dp=8, global_batch=64))

    assert many.step_s.value.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            one = bb.train(
                *SMALL, bb.Train(seq=int(seq[i, 0]), zero=int(zero[j]), dp=8, global_batch=64, framework=many.framework)
            )
            assert many.memory.total_bytes[i, j] == pytest.approx(one.memory.total_bytes)
            assert many.memory.probability_fits[i, j] == pytest.approx(one.memory.probability_fits, abs=1e-9)
            assert str(many.verdict[i, j]) == one.verdict
            assert many.step_s.value[i, j] == pytest.approx(one.step_s.value, nan_ok=True)
            assert many.elasticity["compute"][i, j] == pytest.approx(one.elasticity["compute"])


def test_a_document_comes_back_from_json(found):
    for answer in found.values():
        text = bb.to_json(answer)
        again = bb.from_json(bb.TrainEstimate, text)

        assert bb.to_json(again) == text
        assert '"schema": "bytebound.train/1"' in text


@given(z=st.floats(-6, 6))
def test_the_normal_distribution_is_the_standard_one(z):
    assert float(normal_cdf(np.array(z))) == pytest.approx(statistics.NormalDist().cdf(z), abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(seq=st.integers(256, 60_000), micro=st.integers(1, 8))
def test_more_tokens_never_fit_better(seq, micro):
    """The chance to fit falls with the sequence and the micro-batch, and is a half where the bytes held are the usable ones."""
    work = bb.Train(seq=np.array([seq, seq + 256]), micro_batch=micro, dp=8, global_batch=64 * micro)
    memory = bb.train(*SMALL, work).memory

    assert memory.probability_fits[1] <= memory.probability_fits[0]
    assert (memory.probability_fits >= 0.5).tolist() == (memory.total_bytes <= memory.usable_bytes).tolist()


def test_what_is_not_stated_follows_from_the_machine():
    filled = bb.train(SMALL[0], "2x(8x h100-sxm)", tp=2, micro_batch=3)
    assert (filled.work["dp"], filled.work["global_batch"]) == (8, 528)
    assert sum("not stated" in note for note in filled.notes) == 2

    adapters = bb.train(SMALL[0], "h100-sxm", trainable="lora")
    assert (adapters.work["dp"], adapters.work["global_batch"]) == (1, 16)

    taken = bb.train(*SMALL, bb.Train(seq=2048))
    assert (taken.machine.used, taken.machine.devices) == (1, 8)
    assert any("1 of 8 devices work" in note for note in taken.notes)


def test_overheads_of_a_pipeline_are_said():
    """With as many micro-batches as stages the bubble of 1F1B is (p − 1) / (2 p − 1) of the step."""
    answer = bb.train("meta-llama/Llama-3.1-70B", "8x(8x h100-sxm)", bb.Train(tp=8, pp=8, dp=1, zero=1, global_batch=8))

    assert answer.microbatches == 8
    assert answer.bubble_share == pytest.approx(7 / 15, abs=0.05)


@pytest.mark.parametrize("job", JOBS)
def test_every_change_holds_when_it_is_asked_for(found, job):
    """What --fit says of a change is what the estimate of that request says, and it fits as surely as promised."""
    model, machine, work = JOBS[job]
    fitting = found[job].fitting
    fits_already = found[job].memory.probability_fits >= 0.9
    assert fitting.changes, fitting.notes
    for change in fitting.changes:
        again = bb.train(model, machine, replace(work, **change.flags))
        assert again.memory.total_bytes == pytest.approx(change.total_bytes), change.name
        assert again.memory.probability_fits >= 0.9
        assert again.step_s.value == pytest.approx(change.step_s), change.name
        assert again.usd_per_btok.value == pytest.approx(change.usd_per_btok)
        assert again.machine.used == change.devices
        assert not fits_already or change.step_ratio < 1
        assert change.source
        assert change.quality


@pytest.mark.parametrize("job", JOBS)
def test_changes_are_sorted_lossless_first_and_by_cost(found, job):
    changes = found[job].fitting.changes
    lossless = [change.quality.startswith("none") for change in changes]
    assert lossless == sorted(lossless, reverse=True)
    costs = [change.usd_per_btok for change, kept in zip(changes, lossless, strict=True) if kept]
    assert costs == sorted(costs)


@pytest.mark.parametrize("job", JOBS)
def test_edges_are_edges(found, job):
    """The largest micro-batch and the longest sequence fit with 90 %, one more does not."""
    model, machine, work = JOBS[job]
    edge = found[job].fitting
    framework = found[job].framework

    def chance(**changed):
        asked = replace(work, framework=framework, **changed)
        asked = replace(asked, global_batch=int(asked.micro_batch) * int(asked.dp) * 64)
        return bb.train(model, machine, asked).memory.probability_fits

    micro, seq = edge.largest_micro_batch, edge.longest_seq
    assert chance(micro_batch=micro + 1) < 0.9
    assert chance(seq=seq + 256) < 0.9
    assert micro == 0 or chance(micro_batch=micro) >= 0.9
    assert seq == 0 or chance(seq=seq) >= 0.9


def test_fewest_devices_by_asking_for_every_machine():
    """8B, ZeRO-3: the fewest of 1, 2, 4 … H100 on which some tp × dp fits."""
    edge = bb.train(*SMALL, bb.Train(seq=4096, dp=8, global_batch=64), fit=True)

    def fits(devices):
        splits = [(tp, devices // tp) for tp in (1, 2, 4, 8) if devices % tp == 0]
        asked = (bb.Train(seq=4096, tp=tp, dp=dp, global_batch=64, framework=edge.framework) for tp, dp in splits)
        return any(bb.train(SMALL[0], f"{devices}x h100-sxm", one).memory.probability_fits >= 0.9 for one in asked)

    asked = [devices for devices in (1, 2, 4, 8) if fits(devices)]
    assert edge.fitting.fewest_devices == asked[0]


def test_a_search_takes_less_than_a_second_or_two():
    """The design allows a second on two cores; a busy machine gets three."""
    model, machine, work = JOBS["70B replicated"]
    bb.train(model, machine, work)
    began = time.process_time()
    bb.train(model, machine, work, fit=True)

    assert time.process_time() - began < 3


def test_a_search_that_finds_nothing_says_so():
    answer = bb.train("meta-llama/Llama-3.1-405B", "rtx-4090", fit=True)

    assert answer.fitting.changes == ()
    assert answer.fitting.largest_micro_batch == answer.fitting.longest_seq == 0
    assert "no change tried makes it fit on these devices" in answer.fitting.notes


def test_surer_is_never_more():
    sure, surer = (bb.train(*SMALL, bb.Train(seq=4096, dp=8), fit=True, sure=p).fitting for p in (0.6, 0.99))

    assert surer.longest_seq < sure.longest_seq
    assert surer.fewest_devices >= sure.fewest_devices
    assert all(change.probability_fits >= 0.99 for change in surer.changes)


@pytest.mark.parametrize(
    ("stated", "place", "said"),
    [
        ({"dp": 3}, "tp, pp, dp, cp", "is 3 and 8x h100-sxm has 8 devices; set dp to 8"),
        ({"tp": 3, "dp": 1}, "tp, pp, dp, cp", "choose degrees whose product divides 8"),
        ({"dp": 16}, "tp, pp, dp, cp", '"16x h100-sxm"'),
        ({"sequence": 4096}, "sequence", "nearest: seq"),
        ({"optimizer": "adam"}, "optimizer", "nearest: adamw"),
        ({"recompute": "all"}, "recompute", "none, selective, full"),
        ({"seq": 0}, "seq", "outside 1"),
        ({"seq": 1e300}, "seq", "outside 1"),
        ({"micro_batch": 1.5}, "micro_batch", "whole number"),
        ({"micro_batch": float("nan")}, "micro_batch", "finite"),
        ({"zero": 4}, "zero", "outside 0 … 3"),
        ({"global_batch": 100, "micro_batch": 3}, "global_batch", "no multiple"),
        ({"cp": 8, "seq": 4097}, "cp", "does not divide a sequence"),
        ({"ep": 8}, "ep", "no experts"),
        ({"fit": True, "seq": np.array([1, 2])}, "fit", "one request"),
        ({"fit": True, "sure": 1.5}, "sure", "outside 0.5"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_sentence_with_its_place(stated, place, said):
    with pytest.raises(bb.ByteboundError) as caught:
        bb.train(*SMALL, **stated)

    assert caught.value.exit_code == 2
    assert caught.value.place == place
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)

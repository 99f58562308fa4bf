"""What is held and what is drawn: beside published start-ups, and within what no model of memory or power may say."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bytebound.documents.work import Serve
from bytebound.facts.memory_spreads import half_width, memory_spreads
from bytebound.fitting.cases import TIMED
from bytebound.models import read_model
from bytebound.predict.energy import BUSY_SHARE, drawn
from bytebound.predict.estimate import estimate
from bytebound.truth import read_truth, shipped_truth
from bytebound.validate.held import HELD, held, state

START_UPS = Path(__file__).parents[2] / "validation" / "kv_tokens.csv"


@pytest.fixture(scope="module")
def start_ups():
    return read_truth(START_UPS)


@pytest.fixture(scope="module")
def shipped():
    return shipped_truth()


def rows_of(rows, metric):
    return [row for row in rows if row.metric == metric]


def values(rows):
    return np.array([row.value for row in rows])


def test_kv_tokens_are_those_the_engines_printed(start_ups):
    predicted, low, high = held(start_ups)
    known = np.isfinite(predicted)
    errors = np.abs(np.log(predicted / values(start_ups)))[known]
    inside = ((low <= values(start_ups)) & (values(start_ups) <= high))[known]

    assert known.sum() >= len(start_ups) - 1
    assert np.median(errors) < 0.02
    assert np.mean(errors) < 0.08
    assert 0.70 <= inside.mean() <= 0.95


def test_single_start_ups_by_hand(start_ups):
    """Llama-3-8B on an A6000: 0.9 of 47.5 GiB, less 16.06 GB of weights, the context and one pass, over 131,072 bytes a token."""
    row = next(row for row in start_ups if row.id == "kv-001")
    tokens = held([row])[0][0]
    upper = (0.9 * 48 * 2**30 - 2 * 8.03e9) / (2 * 32 * 8 * 128 * 2)

    assert row.value < upper
    assert row.value == pytest.approx(tokens, rel=0.02)
    assert tokens < upper


def test_times_have_no_answer_here(shipped):
    timed = [row for row in shipped if row.metric in TIMED]

    assert timed
    assert np.isnan(held(timed)).all()
    assert set(HELD).isdisjoint(TIMED)


def test_what_is_not_a_time_has_an_answer(shipped):
    rows = [row for row in shipped if row.metric in HELD]
    predicted, low, high = held(rows)
    known = np.isfinite(predicted)

    assert {row.metric for row in rows} >= {"kv_tokens", "resident_bytes", "joules_per_token"}
    assert known.mean() > 0.95
    assert (low[known] < predicted[known]).all()
    assert (predicted[known] < high[known]).all()


def test_a_row_says_the_same_alone_and_among_others(shipped):
    rows = [row for row in shipped if row.metric in HELD]
    together = held(rows)[0]
    alone = [held([row])[0][0] for row in rows]

    np.testing.assert_allclose(alone, together, rtol=1e-9)


def test_resident_bytes_are_near_the_peaks_that_were_printed(shipped):
    rows = [row for row in rows_of(shipped, "resident_bytes") if row.source == "qwen_speed_benchmark"]

    assert len(rows) >= 2
    assert np.median(np.abs(held(rows)[0] / values(rows) - 1)) < 0.1


@pytest.mark.parametrize(("weights", "bits"), [("bf16", 16), ("fp8", 8), ("int4", 4), ("q4_k_m", 4)])
@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B", "Qwen/Qwen3-30B-A3B"])
def test_weights_are_no_less_than_their_bits(shipped, model, weights, bits):
    row = replace(rows_of(shipped, "kv_tokens")[0], metric="weights_bytes", model=model, work=Serve(weights=weights))
    stored = held([row])[0][0]

    assert stored >= read_model(model).parameters * bits / 8 * (1 - 1e-6)
    assert stored < read_model(model).parameters * bits / 8 * 1.5


def test_weights_are_counted_once_however_they_are_dealt(shipped):
    row = replace(rows_of(shipped, "kv_tokens")[0], metric="weights_bytes", model="meta-llama/Llama-3.1-8B")
    dealt = replace(row, devices=8, work=replace(row.work, tp=4, dp=2))

    assert held([dealt])[0][0] == held([row])[0][0]
    assert held([row])[0][0] == pytest.approx(16.06e9, rel=1e-3)  # the checkpoint's total_size


def test_energy_is_near_what_was_metered_and_within_what_boards_can_draw(shipped):
    rows = rows_of(shipped, "joules_per_token")
    predicted, low, high = held(rows)

    assert np.median(np.abs(np.log(predicted / values(rows)))) < 0.3
    assert ((low <= values(rows)) & (values(rows) <= high)).mean() >= 0.5


def test_power_rises_with_work_and_keeps_below_the_board():
    use = np.linspace(0, 1, 101)

    assert drawn(np.zeros(1), np.zeros(1))[0] == pytest.approx(BUSY_SHARE)
    assert (np.diff(drawn(use, 0 * use)) > 0).all()
    assert (np.diff(drawn(0 * use, use)) > 0).all()
    assert (drawn(use, use) <= 1).all()


def test_an_estimate_draws_no_more_than_its_boards():
    found = estimate("meta-llama/Llama-3.1-8B", "2x h100-sxm", Serve(batch=np.array([1, 64, 512]), tp=2))

    assert (np.asarray(found.power_w) <= 2 * 700).all()
    assert (np.diff(found.power_w) > 0).all()


def test_more_memory_in_the_share_holds_more_tokens(start_ups):
    row = next(row for row in start_ups if state(row).get("share") == "0.9")
    less = replace(row, notes=row.notes.replace("share=0.9", "share=0.8"))

    assert held([less])[0][0] < held([row])[0][0]


def test_a_share_stated_with_the_load_counts_too(start_ups):
    row = next(row for row in start_ups if state(row).get("share") == "0.9")
    stated = replace(row, notes=row.notes.replace("share=0.9 ", ""), load=replace(row.load, memory_share=0.8))
    noted = replace(row, notes=row.notes.replace("share=0.9", "share=0.8"))

    assert held([stated])[0][0] == held([noted])[0][0]


def test_rows_that_differ_in_every_varying_quantity_go_together(start_ups):
    row = start_ups[0]
    rows = [
        replace(row, work=replace(row.work, kv=kv, prompt=prompt)) for kv in ("fp8", "bf16") for prompt in (64, 999)
    ]
    predicted = held(rows)[0]

    assert predicted[0] == pytest.approx(2 * predicted[2], rel=1e-3)  # half the bytes a token


def test_what_is_not_understood_has_no_answer(start_ups, shipped):
    strange = [replace(start_ups[0], model="nobody/nothing"),
               replace(rows_of(shipped, "joules_per_token")[0], device="abacus")]  # fmt: skip

    assert np.isnan(held(strange)).all()
    assert all(array.shape == (0,) for array in held([]))


def test_every_metric_has_a_spread_and_unknown_engines_the_pooled_one():
    for metric in HELD:
        assert half_width(metric, "an engine nobody measured") == memory_spreads()[metric, "*"]
    assert Counter(metric for metric, _ in memory_spreads()).keys() == set(HELD)

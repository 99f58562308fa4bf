"""A trial on engines whose ratio is known: the ratio comes out, verdicts follow from it, and noise decides nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.documents.device import Device, Figure, Machine
from bytebound.documents.proof import TOLERANCE, Proof, Quality
from bytebound.documents.values import Interval, from_json, to_json
from bytebound.errors import DocumentError, UnfinishedError
from bytebound.prove import run as module
from bytebound.prove.compare import MOST_NOISE, compared, effect_of, ratio_of, sentence_of, verdict_of
from bytebound.prove.run import run_trial
from bytebound.prove.trial import Bench, Counted, Forecast, Side, Timed, Trial

PATH = {"PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture
def bench(tmp_path):
    def figure(value, unit):
        return Figure(value=value, unit=unit, how="measured", source="by hand")

    device = Device(
        id="my-pc", name="my pc", vendor="any", kind="cpu", memory_bytes=figure(3e10, "B"),
        memory_bytes_per_s=figure(2e10, "B/s"), flop_per_s={"fp32": figure(3e11, "FLOP/s")},
    )  # fmt: skip
    return Bench(tmp_path, Machine(name="my pc", device=device), 1, say=lambda _text: None)


def side(seconds, **settings):
    return Side("toy_engine", {"seconds": seconds, **settings}, {"seconds": seconds}, PATH)


def forecast(ratio):
    return Forecast(Interval(ratio, 0.9 * ratio, 1.1 * ratio), "calibrated")


def trial(before, after, predict, **options):
    return Trial(
        "toy-lever", "a toy", "toy", "toys", before, after,
        (Timed("decode", "step", {"depth": 3}, {"depth": 3}, prepare={"depth": 3}, times=2),),
        (Counted("bytes", "weights"), Counted("memory", "resident")), lambda: predict, **options,
    )  # fmt: skip


def test_a_known_ratio_is_confirmed_and_a_wrong_one_refuted(bench, monkeypatch):
    monkeypatch.setattr(module, "_disturbed", lambda _seen: 0.0)
    sides = side(0.03, weights=4e6), side(0.015, weights=1e6)
    proof = run_trial(
        trial(*sides, {"decode": forecast(0.5), "bytes": forecast(0.25)}), bench, rounds=6, canaries=False
    )
    decode, size = proof.compared  # resident is 0 here: not told, so not compared
    assert decode.measured.value == pytest.approx(0.5)
    assert (size.measured.value, size.error) == (0.25, 0.0)
    assert (proof.verdict, proof.effect, proof.rounds) == ("confirmed", "helps", 6)
    assert (proof.engine_version, proof.machine) == ("toy 1", "my-pc")
    assert from_json(Proof, to_json(proof)) == proof
    wrong = run_trial(trial(*sides, {"decode": forecast(0.8)}), bench, rounds=5, canaries=False)
    assert wrong.verdict == "refuted"
    assert "a decode step was predicted ×0.80 and came out ×0.50, 60 % off" in wrong.sentence
    assert wrong.compared[0].error == pytest.approx(0.6)


def test_noise_is_inconclusive(bench):
    noisy = run_trial(
        trial(side(0.004, noise=3.0, seed=1), side(0.004, noise=3.0, seed=2), {"decode": forecast(1.0)}),
        bench,
        rounds=3,
        canaries=False,
    )
    assert noisy.verdict == "inconclusive"
    assert "inconclusive" in noisy.sentence


def test_predictions_come_first_and_failures_leave_nothing(bench):
    def never():
        raise UnfinishedError("too noisy to predict")

    bad = trial(side(0.0), Side("no_such_module", {}, {}), {})
    with pytest.raises(UnfinishedError, match="too noisy to predict"):  # before any engine is opened
        run_trial(Trial(**{**{f: getattr(bad, f) for f in bad.__slots__}, "predict": never}), bench, canaries=False)
    with pytest.raises(UnfinishedError, match="no_such_module"):
        run_trial(bad, bench, canaries=False)


def test_quality_that_cannot_be_had_keeps_the_rest(bench):
    def missing():
        raise DocumentError("no real model here")

    kept = run_trial(trial(side(0.002), side(0.002), {}, quality=missing), bench, rounds=2, canaries=False)
    assert kept.quality is None
    assert "no real model here" in kept.errors[0]
    found = Quality("m", "t", 9, 2.0, 2.5, 0.1, 0.9)
    assert run_trial(trial(side(0.002), side(0.002), {}, quality=lambda: found), bench, rounds=2, canaries=False).quality == found  # fmt: skip


@given(st.floats(0.1, 10), st.integers(0, 1000))
def test_what_slows_both_sides_cancels(ratio, seed):
    """Rounds that are slow by up to ten times on both sides leave the interval as narrow as quiet ones."""
    random = np.random.default_rng(seed)
    weather = np.repeat(10.0 ** random.random((15, 1)), 4, axis=1)
    found = ratio_of(weather, ratio * weather)
    assert found.value == pytest.approx(ratio)
    assert found.low <= found.value <= found.high


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """90 % intervals of 200 made runs: a binomial count within four standard deviations, or wider."""
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        before, after = (scale * random.lognormal(0, 0.1, (12, 3)) for scale in (2.0, 1.0))
        found = ratio_of(before, after, seed=seed)
        hits += found.low <= 0.5 <= found.high
    assert hits >= 180 - 4 * (200 * 0.9 * 0.1) ** 0.5


@pytest.mark.parametrize(
    ("ratio", "predicted", "disturbed", "verdict"),
    [(0.5, 0.5 * (1 + 0.99 * TOLERANCE), 0.0, "confirmed"), (0.5, 0.5 * (1 + 1.01 * TOLERANCE), 0.0, "refuted"),
     (0.5, 0.5 * (1 - 0.99 * TOLERANCE), 0.0, "confirmed"), (0.5, 0.5, 0.9, "inconclusive"), (2.0, 2.0, 0.2, "confirmed")],
)  # fmt: skip
def test_verdicts(ratio, predicted, disturbed, verdict):
    before = np.ones((8, 2))
    found = compared("decode", before, ratio * before, forecast(predicted))
    assert verdict_of([found], disturbed) == verdict
    assert effect_of([found], "decode") == ("helps" if ratio < 1 else "hurts")
    assert sentence_of("it", [found], verdict, "decode", disturbed).startswith("it: ")


def test_effects():
    one = np.ones((8, 1))
    same = compared("decode", one, 1.01 * one, None)
    less = compared("kv_memory", one, 0.5 * one, None)
    assert effect_of([same], "decode") == "no-effect"
    assert effect_of([same, less], "decode") == "saves-memory"
    assert effect_of([less], "kv_memory") == "saves-memory"
    assert verdict_of([same], 0.0) == "inconclusive"  # nothing was predicted
    wide = compared("decode", one, one * np.linspace(0.2, 3, 8)[:, None], forecast(1.0))
    assert verdict_of([wide], 0.0) == "inconclusive"
    assert float(wide.measured.high) - float(wide.measured.value) > MOST_NOISE
    with pytest.raises(UnfinishedError):
        compared("memory", one, 0 * one, None)

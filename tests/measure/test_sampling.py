"""Samples know the weather: others' work is seen, even by short samples, and two speeds and drifts are said."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.measure import load, sampling
from bytebound.measure.load import Counters, load_between, read_load
from bytebound.measure.sampling import Probe, Sample, interleave, reading, weather

SPIN = "while True: pass"


def probe(work=lambda: None, **more):
    """Return a probe of one second's work."""
    return Probe(**{"name": "memory.read", "unit": "B/s", "amount": 1e9, "work": work, "how": "made up", **more})


@pytest.mark.skipif(not load.STAT.exists(), reason="this system has no /proc/stat")
def test_another_process_that_spins_is_seen_by_samples_shorter_than_a_tick():
    quiet = interleave([probe(lambda: time.sleep(0.004))], rounds=1000, budget_s=0.7)["0"]
    with subprocess.Popen([sys.executable, "-c", SPIN]) as other:  # noqa: S603
        try:
            time.sleep(0.2)
            taken = interleave([probe(lambda: time.sleep(0.004))], rounds=1000, budget_s=1.0)["0"]
        finally:
            other.kill()
    assert np.median([each.seconds for each in taken]) < 0.1
    assert np.median([each.foreign for each in taken]) > max(0.25, np.median([each.foreign for each in quiet]) * 0.3)
    assert reading(probe(), taken).disturbed > len(taken) / 2


@pytest.mark.skipif(not load.STAT.exists(), reason="this system has no /proc/stat")
def test_our_own_threads_are_not_others():
    before, start = read_load(), time.perf_counter()
    stop = start + 0.3
    while time.perf_counter() < stop:
        sum(range(1000))
    after, seconds = read_load(), time.perf_counter() - start
    assert after.own_s - before.own_s > 0.02
    unfair = load_between(Counters(before.busy_s, 0, 0), Counters(after.busy_s, 0, 0), seconds)
    assert load_between(before, after, seconds).foreign < unfair.foreign


def test_only_usable_processors_are_counted(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  900 0 0 0 0 0 0 90 0 0\ncpu0 100 10 5 1 1 2 3 7 50 0\ncpu1 800 0 0 0 0 0 0 83 0 0\nintr 5\n",
        encoding="utf8",
    )
    monkeypatch.setattr(load, "STAT", stat)
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(load.os, "sysconf", lambda _: 100)
    seen = read_load()
    assert (seen.busy_s, seen.stolen_s) == (1.2, 0.07)


@pytest.mark.parametrize("text", ["", "cpu", "cpu0 a b", "nonsense\n", "cpu0\ncpu1"])
def test_a_strange_stat_page_falls_back(tmp_path, monkeypatch, text):
    stat = tmp_path / "stat"
    stat.write_text(text, encoding="utf8")
    monkeypatch.setattr(load, "STAT", stat)
    assert read_load().own_s > 0


def test_short_windows_say_nothing():
    assert load_between(Counters(0, 0, 0), Counters(9, 0, 9), 0.05) == load.Load(0.0, 0.0)
    assert load_between(Counters(0, 0, 0), Counters(3, 1, 0.5), 2.0) == load.Load(1.0, 0.25)


def test_rounds_interleave_and_respect_the_budget():
    order, seen = [], []
    probes = [probe(lambda name=name: order.append(name)) for name in "ab"]
    taken = interleave(probes, rounds=4, on_sample=lambda which, sample: seen.append(probes.index(which)))
    assert "".join(order) == "ab" * 5
    assert seen == [0, 1] * 4
    assert {index: len(each) for index, each in taken.items()} == {"0": 4, "1": 4}
    slow = [probe(lambda: time.sleep(0.01))]
    assert len(interleave(slow, rounds=500, budget_s=0.0, least=5)["0"]) == 5
    assert len(interleave(slow, rounds=2, budget_s=0.0, least=5)["0"]) == 2
    assert len(interleave(slow, rounds=500, budget_s=0.1)["0"]) < 12


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40), st.sampled_from(["B/s", "s"]), st.booleans())
def test_a_reading_is_ordered(seconds, unit, ceiling):
    found = reading(probe(unit=unit, ceiling=ceiling), [Sample(each, 0.0, 0.0) for each in seconds])
    assert found.p10 <= found.median <= found.p90
    assert found.low <= found.high
    assert found.samples == len(seconds)
    best = min(seconds) / 1e9 if unit == "s" else 1e9 / min(seconds)
    assert found.best == pytest.approx(best)
    assert found.disturbed == 0


def test_two_speeds_are_said():
    values = np.array([60.0, 61, 35, 36, 60, 35, 36, 34, 61, 62, 36, 59]) * 1e9
    said = weather(values, "B/s")
    assert said == "the machine had two speeds: 35.5 GB/s in 6 samples, 60.5 GB/s in 6"
    assert weather(1e3 / values, "s") == "the machine had two speeds: 28.2 ns in 6 samples, 16.5 ns in 6"


def test_warming_up_and_slowing_down_are_said():
    up = np.array([30, 31, 32, 33, 36, 39, 42, 41, 42.0]) * 1e9
    assert weather(up, "B/s") == "grew faster while it was measured, from 31.0 GB/s to 42.0 GB/s (warming up)"
    assert weather(up[::-1], "B/s") == "grew slower while it was measured, from 42.0 GB/s to 31.0 GB/s"
    assert reading(probe(), [Sample(1e9 / v, 0, 0) for v in up], note="cut").note.startswith("cut; grew faster")


@given(st.integers(8, 40), st.integers(0, 2**32 - 1))
def test_plain_noise_is_no_weather(count, seed):
    values = 40e9 * np.exp(0.02 * np.clip(np.random.default_rng(seed).normal(size=count), -2, 2))
    assert weather(values, "B/s") == ""
    assert weather(values[:7], "B/s") == ""


def test_limits_grow_with_the_machine():
    assert sampling.FOREIGN_LIMIT >= 0.25
    assert Sample(1.0, sampling.FOREIGN_LIMIT + 0.01, 0.0).disturbed
    assert Sample(1.0, 0.0, sampling.STOLEN_LIMIT + 0.01).disturbed
    assert not Sample(1.0, 0.2, 0.04).disturbed

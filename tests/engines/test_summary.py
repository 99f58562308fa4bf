"""Figures from records: closed forms on a made-up run, and laws on any run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.documents.observation import RequestRun
from bytebound.engines.summary import (
    itl_s,
    overlap,
    phases,
    request_s,
    steady_tokens_per_s,
    steady_window,
    tokens_per_s,
    tpot_s,
    ttft_s,
)  # fmt: skip


def one(
    due: float, *, wait: float = 0.0, ttft: float = 0.5, step: float = 0.1, tokens: int = 11, error: str = ""
) -> RequestRun:
    """Return a request of equal steps."""
    first = due + wait + ttft
    last = first + step * (tokens - 1)
    return RequestRun(due, due + wait, first, last, 100, tokens, error, (step,) * (tokens - 1))


def test_closed_forms():
    """Four requests, one after the other, 0.5 s to the first of 11 tokens, 0.1 s a token: 1.5 s each."""
    run = [one(1.5 * index) for index in range(4)]

    assert ttft_s(run).median == pytest.approx(0.5)
    assert tpot_s(run).median == pytest.approx(0.1)
    assert itl_s(run).samples == 40
    assert request_s(run).best == pytest.approx(1.5)
    assert tokens_per_s(run) == pytest.approx(44 / 6)
    assert steady_window(run) == pytest.approx((1.5, 4.5))
    prefill, decode = phases(run)
    assert (prefill.tokens, prefill.seconds.median) == (100, pytest.approx(0.5))
    assert (decode.batch, decode.context) == (pytest.approx(1), pytest.approx(105.5))


def test_waiting_counts_from_when_a_request_was_due():
    assert ttft_s([one(0.0, wait=2.0)]).best == pytest.approx(2.5)


def test_two_at_a_time():
    """Two slots, each without a pause: a token sees two decodes of the time that both decode."""
    run = [one(1.5 * index) for index in range(4)] + [one(1.5 * index) for index in range(4)]

    assert [phase.name for phase in phases(run)] == ["decode"]
    assert phases(run)[0].batch == pytest.approx(2)
    assert tokens_per_s(run) == pytest.approx(88 / 6)


def test_the_steady_rate_is_above_the_whole_runs():
    """Eight slots that start one after the other and never pause: filling and draining lower only the makespan's rate."""
    run = [one(0.2 * slot + 1.5 * turn) for slot in range(8) for turn in range(6)]
    steady = steady_tokens_per_s(run)

    assert tokens_per_s(run) < steady.median
    assert steady.median == pytest.approx(8 * 11 / 1.5, rel=0.03)


def test_slots_that_march_in_step_are_not_taken_for_faster_than_they_are():
    """Four slots prefill for 1 s and decode for 1 s, all at once: 4 × 11 tokens in 2 s, whenever one looks."""
    run = [one(2.0 * turn, ttft=1.0) for _ in range(4) for turn in range(5)]
    steady = steady_tokens_per_s(run)

    assert steady.best == pytest.approx(22, rel=0.1)
    assert steady.p10 == pytest.approx(22, rel=0.1)
    assert steady_tokens_per_s(run[:1] * 4) is None
    assert steady_tokens_per_s([one(0.0), one(1.51), one(1.52)]) is None


def test_failures_count_nowhere():
    run = [one(0.0), one(1.5, ttft=9.0, error="HTTP 500")]

    assert ttft_s(run).samples == tpot_s(run).samples == 1
    assert tokens_per_s(run) == pytest.approx(11 / 1.5)


def test_nothing_gives_nothing():
    failed = RequestRun(0.0, 0.0, None, None, 1, 0, "refused")

    for run in ((), (failed,)):
        assert (ttft_s(run), tpot_s(run), itl_s(run), tokens_per_s(run), steady_window(run), phases(run)) == (
            *[None] * 5,
            (),
        )
    assert tpot_s([one(0.0, tokens=1)]) is None


INTERVALS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 20)).map(lambda it: (it[0], it[0] + it[1])), min_size=1, max_size=12
)


@given(INTERVALS)
def test_overlap_agrees_with_counting_seconds(intervals):
    """Whole seconds, counted one by one: mean of n over all (second, request) pairs."""
    counts = [sum(start <= second < end for start, end in intervals) for second in range(80)]

    assert overlap(intervals) == pytest.approx(sum(n * n for n in counts) / sum(counts))
    assert 1 <= overlap(intervals) <= len(intervals)


@given(INTERVALS, st.floats(0.01, 100))
def test_scaling_time_scales_times_and_rates(intervals, factor):
    def run(scale):
        return [
            RequestRun(a * scale, a * scale, a * scale, b * scale, 1, 5, "", ((b - a) * scale / 4,) * 4)
            for a, b in intervals
        ]

    assert tpot_s(run(factor)).median == pytest.approx(factor * tpot_s(run(1)).median)
    assert tokens_per_s(run(factor)) == pytest.approx(tokens_per_s(run(1)) / factor)

"""What a client's clock shows: sums of passes, their limits, and a closed loop against a simulation of one."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.predict.serving import (
    Mix,
    closed_loop_first_token,
    per_token,
    static_batch,
    unloaded_first_token,
)

TIMES = st.floats(0, 10)
COUNTS = st.integers(1, 500).map(float)


def parts(mix):
    return [float(np.ravel(x)[0]) for x in (mix.decode, mix.alone, mix.together, mix.host)]


def one(value):
    return np.array([float(value)])


def first_token(
    clients, output, *, slots=None, per_pass=1, rounds=0.0, spread=0.0, hold=0.0, poll=1.0, clump=1.0, median=False
):
    """Return the mix of a closed loop of prompts of 1,000 tokens, ``per_pass`` of which fill a pass."""
    return closed_loop_first_token(
        one(clients), one(clients if slots is None else slots), one(1000), one(output), one(1000 * per_pass), rounds=one(rounds),
        spread=one(spread), hold_steps=one(hold), poll_steps=one(poll), clump=one(clump), median=np.array([median]),
    )  # fmt: skip


def turns(clients, slots, output, *, step_s, prefill_s, rounds):
    """Simulate a closed loop that answers at once: each pass decodes what runs and prefills the oldest prompt that has a slot.

    Returns (mean time to first token, mean time per output token).
    """
    due = [(0.0, client) for client in range(clients)]
    heapq.heapify(due)
    left = [rounds] * clients
    waiting, running, began = [], {}, {}
    now, first, per_output = 0.0, [], []
    while due or waiting or running:
        while due and due[0][0] <= now:
            waiting.append(heapq.heappop(due))
        taken = waiting.pop(0) if waiting and len(running) < slots else None
        now += (step_s if running else 0.0) + (prefill_s if taken else 0.0)
        for client in list(running):
            running[client] -= 1
            if not running[client]:
                del running[client]
                per_output.append((now - began[client]) / (output - 1))
                left[client] -= 1
                if left[client]:
                    heapq.heappush(due, (now, client))
        if taken:
            first.append(now - taken[0])
            began[taken[1]], running[taken[1]] = now, output - 1
    return float(np.mean(first)), float(np.mean(per_output))


@given(st.tuples(*[COUNTS] * 4), st.tuples(*[TIMES] * 4), st.floats(0, 5))
def test_mixes_are_linear(counts, seconds_of, times):
    """Sums and multiples of mixes are sums and multiples of their seconds."""
    mix, other = Mix(*map(one, counts)), Mix(*map(one, counts[::-1]))
    seconds = [x.seconds(*map(one, seconds_of))[0] for x in (mix, other, mix + other, mix * times)]
    assert seconds[0] == pytest.approx(sum(n * s for n, s in zip(counts, seconds_of, strict=True)))
    assert seconds[2] == pytest.approx(seconds[0] + seconds[1])
    assert seconds[3] == pytest.approx(times * seconds[0])


def test_the_simple_cases():
    """Counts of decode steps, prompts alone, prompts together, times of the host."""
    assert parts(unloaded_first_token()) == [0, 1, 0, 1]
    assert parts(static_batch(one(1), one(100))) == [99, 1, 0, 1]
    assert parts(static_batch(one(8), one(100))) == [99, 0, 8, 1]
    assert parts(static_batch(one(8), one(1))) == [0, 0, 8, 1]


@given(COUNTS, COUNTS, st.floats(0, 100), st.floats(1, 64))
def test_a_token_waits_for_the_prompts_of_others(batch, output, rounds, per_pass):
    """Alone: never. In a long run: each other prompt once per request. In one round: half of them."""
    found = parts(per_token(one(batch), one(output), rounds=rounds, per_pass=per_pass))
    long = parts(per_token(one(batch), one(output), rounds=0.0, per_pass=per_pass))
    assert found[:2] == [1, 0]
    assert 0 <= found[2] <= long[2] == pytest.approx((batch - 1) / output)
    assert parts(per_token(one(1), one(output), rounds=rounds, per_pass=per_pass))[2] == 0
    single = parts(per_token(one(batch), one(output), rounds=1.0))
    assert single[2] == pytest.approx(long[2] / 2)
    endless = parts(per_token(one(batch), one(output), rounds=1e9, per_pass=per_pass))
    assert endless[2] == pytest.approx(long[2], rel=1e-6)


def test_all_prompts_in_one_pass_stall_nobody():
    assert parts(per_token(one(16), one(100), rounds=1.0, per_pass=16.0))[2] == 0


@given(COUNTS)
def test_one_client_meets_an_idle_engine(output):
    """Nothing but its own prefill, the host, and at most half a step that is counted as under way."""
    assert parts(first_token(1, output)) == [0.5, 1, 0, 1]
    assert parts(first_token(1, output, median=True, rounds=10)) == [0.5, 1, 0, 1]


@given(st.integers(1, 300), st.integers(1, 300), COUNTS, st.floats(0, 20), st.sampled_from([0.0, 0.2, 0.9]))
def test_more_clients_never_wait_less(clients, more, output, rounds, spread):
    times = [one(0.02), one(0.1), one(0.08), 0.01]
    few, many = (
        first_token(n, output, rounds=rounds, spread=spread).seconds(*times)[0] for n in (clients, clients + more)
    )
    assert many >= few - 1e-12
    lined = first_token(clients + more, output, slots=clients, rounds=rounds, spread=spread).seconds(*times)[0]
    assert lined >= few - 1e-12


def test_what_a_scheduler_holds_back_is_waited_for():
    """Held steps and rare looks at the queue are added; so are the requests that come along."""
    plain, held, polled, clumped = (
        parts(first_token(32, 1000, **x)) for x in ({}, {"hold": 4}, {"poll": 10}, {"clump": 5})
    )
    assert held[0] == plain[0] + 4
    assert polled[0] == 10 * plain[0]
    assert polled[2] == pytest.approx(10 * plain[2])
    assert clumped[2] == pytest.approx(plain[2] + 2)


def test_the_start_of_a_run_counts_in_its_mean_alone():
    """One round of 64 prompts, eight to a pass: half of the passes before one's own, with a step each; the median does not see it."""
    assert parts(first_token(64, 100, per_pass=8, rounds=1)) == pytest.approx([64 / 8 / 2, 0, (64 + 8) / 2, 1])
    assert parts(first_token(64, 100, per_pass=8, rounds=1, median=True)) == parts(first_token(64, 100, per_pass=8))
    half = np.mean([parts(first_token(64, 100, per_pass=8, rounds=r)) for r in (0, 1)], axis=0)
    assert parts(first_token(64, 100, per_pass=8, rounds=2)) == pytest.approx(half)


@pytest.mark.parametrize(
    ("clients", "output", "step_s", "prefill_s", "rounds"),
    [
        (1, 100, 0.01, 0.1, 5), (4, 50, 0.02, 0.1, 10), (8, 100, 0.01, 0.1, 10), (16, 200, 0.01, 0.05, 10),
        (16, 64, 0.01, 0.2, 10), (64, 200, 0.02, 0.05, 10), (64, 500, 0.02, 0.02, 1), (128, 128, 0.03, 0.1, 5),
    ],
)  # fmt: skip
def test_a_closed_loop_is_as_simulated(clients, output, step_s, prefill_s, rounds):
    """Fixed lengths and clients that answer at once, one prompt to a pass: both clocks within a quarter."""
    first, per_output = turns(clients, clients, output, step_s=step_s, prefill_s=prefill_s, rounds=rounds)
    times = one(step_s), one(prefill_s), one(prefill_s), 0.0
    assert first_token(clients, output, rounds=rounds).seconds(*times)[0] == pytest.approx(first, rel=0.25)
    running = per_token(one(clients), one(output), rounds=rounds)
    assert running.seconds(*times)[0] == pytest.approx(per_output, rel=0.1)


@pytest.mark.parametrize(
    ("clients", "slots", "output", "step_s", "prefill_s"),
    [
        (20, 16, 200, 0.01, 0.05),
        (32, 8, 100, 0.01, 0.05),
        (64, 16, 200, 0.01, 0.05),
        (8, 1, 100, 0.01, 0.1),
        (8, 1, 50, 0.01, 0.5),
    ],
)
def test_who_has_no_slot_stands_in_line(clients, slots, output, step_s, prefill_s):
    """Little's law: those in line are served at the rate at which slots turn over, a turn being the prompt and its tokens."""
    first, per_output = turns(clients, slots, output, step_s=step_s, prefill_s=prefill_s, rounds=20)
    times = one(step_s), one(prefill_s), one(prefill_s), 0.0
    found = first_token(clients, output, slots=slots, rounds=20).seconds(*times)[0]
    assert found == pytest.approx(first, rel=0.25)
    turn = prefill_s + output * per_output
    line = found - first_token(slots, output, rounds=20).seconds(*times)[0]
    assert line == pytest.approx((clients - slots) * turn / slots, rel=0.1)

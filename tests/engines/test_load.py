"""Arrivals and loops: the mean rate, the same times for the same seed, and never more in flight than stated."""

from __future__ import annotations

import asyncio
import statistics
import time
from itertools import pairwise

import pytest

from bytebound.documents.observation import RequestRun
from bytebound.engines.load import Load, arrivals, closed_loop, open_loop, random_prompts
from bytebound.errors import QuantityError


def test_poisson_arrivals():
    """Mean gap 1/rate within four standard errors; as spread as an exponential; seeded."""
    dues = arrivals(4001, rate_per_s=20.0, seed=3)
    gaps = [after - before for before, after in pairwise(dues)]

    assert dues[0] == 0
    assert statistics.mean(gaps) == pytest.approx(0.05, rel=4 / 4000**0.5)
    assert statistics.stdev(gaps) == pytest.approx(0.05, rel=0.1)
    assert statistics.median(gaps) == pytest.approx(0.05 * 0.6931, rel=0.08)
    assert dues == arrivals(4001, rate_per_s=20.0, seed=3) != arrivals(4001, rate_per_s=20.0, seed=4)


def test_constant_arrivals():
    assert arrivals(5, rate_per_s=4.0, kind="constant") == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert arrivals(1, rate_per_s=4.0) == (0.0,)


def test_prompts_are_distinct_and_as_long_as_asked():
    prompts = random_prompts(200, words=30, seed=1)

    assert {len(prompt.split()) for prompt in prompts} == {30}
    assert len({" ".join(prompt.split()[:16]) for prompt in prompts}) == 200


class Sender:
    """Takes 2 ms for each request and counts how many are in flight."""

    def __init__(self, *, error: str = "") -> None:
        self.error, self.flying, self.most, self.sent = error, 0, 0, []

    async def __call__(self, index: int, due_s: float | None) -> RequestRun:
        """Answer request ``index``."""
        self.sent.append(index)
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0.002 * (1 + index % 3))
        self.flying -= 1
        return RequestRun(due_s or 0.0, 0.0, 0.1, 0.2, 1, 1, error=self.error)


@pytest.mark.parametrize(("count", "concurrency"), [(1, 1), (10, 1), (20, 4), (3, 8)])
def test_closed_loop(count, concurrency):
    send, finished = Sender(), []
    asyncio.run(closed_loop(count, concurrency=concurrency, send=send, give_up=9, finished=finished))

    assert send.most == min(count, concurrency)
    assert sorted(send.sent) == list(range(count))
    assert len(finished) == count


def test_a_failing_server_is_left_alone():
    send, finished = Sender(error="down"), []
    asyncio.run(closed_loop(100, concurrency=2, send=send, give_up=6, finished=finished))

    assert 6 <= len(finished) <= 7


def test_open_loop_sends_when_due_whatever_the_server_does():
    """All 30 are due within 3 ms and each takes longer: they overlap, unless a limit is set."""
    dues = tuple(index * 1e-4 for index in range(30))
    free, held = Sender(), Sender()
    start = time.perf_counter()
    clock = lambda: time.perf_counter() - start  # noqa: E731
    asyncio.run(open_loop(dues, concurrency=None, send=free, clock=clock, give_up=9, finished=[]))
    asyncio.run(open_loop(dues, concurrency=2, send=held, clock=clock, give_up=9, finished=[]))

    assert free.most > 4
    assert held.most == 2
    assert len(held.sent) == 30


def test_loads_are_stated():
    assert Load().stated()["concurrency"] == 1
    assert (
        Load(rate_per_s=2.0).stated() | {"loop": "open", "rate_per_s": 2.0, "seed": 0.0}
        == Load(rate_per_s=2.0).stated()
    )
    with pytest.raises(QuantityError, match="output is 0, outside 1 …"):
        Load(output=0)

"""A stated load: when requests are due, what they ask, and how many are in flight at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bytebound.errors import QuantityError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from bytebound.documents.observation import RequestRun

    Send = Callable[[int, float | None], Awaitable[RequestRun]]
    """Sends request ``index``, due at a time [s] (None: now), and never raises: a failure is in the record."""

WORDS = """
time year people way day man thing woman life child world school state family group hand part place case week company
system work number night point home water room mother area money story fact month lot right study book eye job word
issue side kind head house friend father power hour game line end member law car city name team minute idea body back
parent face others level office door health person art war party result change reason girl moment air force foot boy
age policy music market sense nation plan death effect use class care field role rate heart drug show leader light
voice wife mind price report son view town road arm value action season tax player record paper space ground form
event matter center site star
"""
"""Short English words, each one token with its leading space in most vocabularies, so that the length can be set well."""


ARRIVALS = ("poisson", "constant")
_LIMITS: dict[str, tuple[float, float]] = {
    "concurrency": (1, 4096), "rate_per_s": (1e-3, 1e5), "requests": (1, 1e6), "prompt": (1, 1e7), "output": (1, 1e6),
    "timeout_s": (0.01, 86400), "total_s": (0.01, 86400),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a server: a closed loop of ``concurrency`` slots, or an open loop of ``rate_per_s``.

    Args:
        concurrency: requests in flight (closed loop; 1 where neither is given), or a limit to an open loop.
        rate_per_s: requests per second, sent when they are due whether or not earlier ones were answered.
        arrival: gaps of the open loop: ``poisson`` or ``constant``.
        requests: how many are measured.
        prompt: tokens of each prompt.
        output: tokens of each answer.
        seed: of the Poisson gaps.
        timeout_s: longest time of one request.
        total_s: longest time of the whole load.

    Raises:
        QuantityError: a quantity no run can have.
        UnknownNameError: an unknown arrival.
    """

    concurrency: int | None = None
    rate_per_s: float | None = None
    arrival: str = "poisson"
    requests: int = 16
    prompt: int = 512
    output: int = 64
    seed: int = 0
    timeout_s: float = 120.0
    total_s: float = 600.0

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise QuantityError(f"{name} is {value:g}, outside {low:g} … {high:g}", place=name)
        if self.arrival not in ARRIVALS:
            raise UnknownNameError("arrival", self.arrival, ARRIVALS, place="arrival")

    @property
    def slots(self) -> int:
        """How many requests to expect in flight; in an open loop a guess, used for warm-up only."""
        return self.concurrency or (1 if self.rate_per_s is None else 4)

    def stated(self) -> dict[str, float | str]:
        """Return the load as the record keeps it."""
        told = {name: getattr(self, name) for name in _LIMITS}
        if self.rate_per_s is None:
            loop, told = {"loop": "closed"}, told | {"concurrency": self.slots}
        else:
            loop, told = {"loop": "open", "arrival": self.arrival}, told | {"seed": self.seed}
        return {**loop, **{name: float(value) for name, value in told.items() if value is not None}}


def arrivals(count: int, *, rate_per_s: float, kind: str = "poisson", seed: int = 0) -> tuple[float, ...]:
    """Return when each of ``count`` requests is due [s]: the first at 0, ``rate_per_s`` on average.

    Args:
        count: requests.
        rate_per_s: mean rate.
        kind: ``poisson`` (independent exponential gaps) or ``constant`` (equal gaps).
        seed: of the gaps; the same seed gives the same times.

    Example:
        >>> arrivals(3, rate_per_s=2.0, kind="constant")
        (0.0, 0.5, 1.0)
    """
    gaps = np.full(count - 1, 1 / rate_per_s)
    if kind == "poisson":
        gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, count - 1)
    return (0.0, *(float(due) for due in np.cumsum(gaps)))


def random_prompts(count: int, *, words: int, seed: int) -> list[str]:
    """Return ``count`` prompts of ``words`` random words: no two share a beginning that a prefix cache could reuse.

    Two prompts share k leading words with probability 145^-k: less than one block of any engine's cache.
    """
    known = WORDS.split()
    draws = np.random.default_rng(seed).integers(0, len(known), (count, words))
    return [" ".join(known[word] for word in draw) for draw in draws]


async def closed_loop(count: int, *, concurrency: int, send: Send, give_up: int, finished: list[RequestRun]) -> None:
    """Send ``count`` requests so that ``concurrency`` are in flight, each slot sending its next when one is answered.

    Args:
        count: requests.
        concurrency: slots.
        send: sends one.
        give_up: failures in a row after which no more are sent.
        finished: takes the records as they come, so that an interruption loses none.
    """
    waiting = iter(range(count))

    async def slot() -> None:
        for index in waiting:  # one iterator for all slots: each takes the next request
            finished.append(await send(index, None))
            if failing(finished, give_up):
                return

    await _all([slot() for _ in range(min(concurrency, count))])


async def open_loop(
    dues: tuple[float, ...],
    *,
    concurrency: int | None,
    send: Send,
    clock: Callable[[], float],
    give_up: int,
    finished: list[RequestRun],
) -> None:
    """Send a request at each of ``dues`` [s on ``clock``], whether or not earlier ones were answered.

    A request that waits because ``concurrency`` are in flight is still due when it was due: the wait is in its times.
    """
    room = asyncio.Semaphore(concurrency or len(dues))

    async def one(index: int, due: float) -> None:
        await asyncio.sleep(max(due - clock(), 0.0))
        async with room:
            if not failing(finished, give_up):
                finished.append(await send(index, due))

    await _all([one(index, due) for index, due in enumerate(dues)])


def failing(finished: list[RequestRun], give_up: int) -> bool:
    """Return whether the last ``give_up`` requests all failed."""
    return len(finished) >= give_up and all(run.error for run in finished[-give_up:])


async def _all(work: list[Coroutine[None, None, None]]) -> None:
    """Await everything; when cancelled, cancel everything and wait until it has ended."""
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)

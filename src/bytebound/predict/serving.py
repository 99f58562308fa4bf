"""What a client's clock shows, as sums of the engine's own passes: decode steps, prefill passes, host time.

Every metric of a load is linear in four times: one decode step, the prefill of one prompt alone, that of one prompt taken
together with others, and the host's time per request. ``Mix`` holds the four coefficients; predictions evaluate them, the
calibration fits the times behind them, and both stay the same formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Mix:
    """How often each time enters, arrays (requests,)."""

    decode: Array
    alone: Array
    together: Array
    host: Array

    def seconds(self, decode_s: Array, alone_s: Array, together_s: Array, host_s: Array | float) -> Array:
        """Return the sum for these times [s]."""
        return np.asarray(
            self.decode * decode_s + self.alone * alone_s + self.together * together_s + self.host * host_s
        )

    def __add__(self, other: Mix) -> Mix:
        return Mix(*(np.asarray(a + b) for a, b in zip(_parts(self), _parts(other), strict=True)))

    def __mul__(self, times: Array | float) -> Mix:
        return Mix(*(np.asarray(a * times) for a in _parts(self)))


def _parts(mix: Mix) -> tuple[Array, Array, Array, Array]:
    return mix.decode, mix.alone, mix.together, mix.host


def _mix(decode: Array | float = 0.0, alone: Array | float = 0.0, together: Array | float = 0.0,
         host: Array | float = 0.0) -> Mix:  # fmt: skip
    return Mix(*(np.atleast_1d(np.asarray(x, dtype=float)) for x in (decode, alone, together, host)))


def unloaded_first_token() -> Mix:
    """Return TTFT of a request that meets an idle engine: its own prefill and the host's time."""
    return _mix(alone=1.0, host=1.0)


def static_batch(batch: Array, output: Array) -> Mix:
    """Return the time of one batch: all prompts together, then every token of every sequence."""
    single = batch <= 1
    return _mix(decode=np.maximum(output - 1, 0.0), alone=np.where(single, 1.0, 0.0),
                together=np.where(single, 0.0, batch), host=1.0)  # fmt: skip


def per_token(batch: Array, output: Array, *, rounds: Array | float = 0.0, per_pass: Array | float = 1.0) -> Mix:
    """Return TPOT under continuous batching: a step, and the prefills of the others that fall between two tokens.

    While one request decodes ``output`` tokens each of the other ``batch − 1`` is replaced once. In a run of ``rounds``
    requests per client the first round differs: all prompts wait together, ``per_pass`` to a pass, so a request sees half
    of the others' prefills (0 rounds: a long run, whose start does not count).
    """
    first = np.asarray(1 / np.maximum(rounds, 1.0)) * (np.asarray(rounds) > 0)
    stalls = (batch - 1) * (1 - first) + (batch - np.minimum(per_pass, batch)) / 2 * first
    return _mix(decode=1.0, together=stalls / output)


def closed_loop_first_token(
    clients: Array, batch: Array, prompt: Array, output: Array, chunk: Array, *, rounds: Array, spread: Array,
    hold_steps: Array, poll_steps: Array, clump: Array, median: NDArray[np.bool_],
) -> Mix:  # fmt: skip
    """Return mean (or median) TTFT of ``clients`` that each send their next request when the last one is finished.

    Three parts. *The start*: all prompts arrive at once and are prefilled chunk by chunk, so the mean of the first round
    is half the work of it. *Steady state*: a prompt waits for half the pass under way, for the prompts that came with it
    and for what the scheduler holds back, then is prefilled. *Slots*: where fewer than ``clients`` sequences run, the
    others wait in line (Little's law).

    Args:
        clients: requests in flight.
        batch: sequences that run.
        prompt: tokens per request.
        output: tokens per request.
        chunk: prompt tokens per pass.
        rounds: requests per client in the run, 0 for a long one (no start).
        spread: width of the length distribution over its maximum; 0 for fixed lengths, where arrivals are taken as even.
        hold_steps: decode steps the scheduler may keep prompts back.
        poll_steps: steps between two looks at the queue.
        clump: requests that a client sends together and an engine prefills one after another; 1: apart.
        median: True where the median is asked: the start does not move it.
    """
    one = np.ones_like(clients * prompt)
    per_pass = np.maximum(np.floor(chunk / prompt), 1.0)
    first = np.minimum(batch, clients)
    start = _mix(together=(first + np.minimum(per_pass, first)) / 2, decode=first / per_pass / 2)
    crowd = np.where(spread > 0, np.minimum(MEAN_CROWDING / np.maximum(spread, 1e-9), output), 1.0)
    arrivals = np.minimum(batch / output * np.maximum(crowd, 1.0), batch) * np.maximum(poll_steps, 1.0)
    others = np.minimum(arrivals + (np.maximum(clump, 1.0) - 1) / 2, batch - 1)
    steady = _mix(decode=0.5 * np.maximum(poll_steps, 1.0) + hold_steps, alone=one, together=others)
    share = np.where((rounds > 0) & ~median, 1.0 / np.maximum(rounds, 1.0), 0.0)
    held = per_token(batch, output, rounds=rounds, per_pass=per_pass) * output + _mix(together=1.0)
    line = held * (np.maximum(clients - batch, 0.0) / batch)
    total: Mix = start * share + steady * (1 - share) + line + _mix(host=one)
    return total


MEAN_CROWDING = 0.55
"""Arrivals bunch: after i rounds finishing times are spread over ``spread × √i`` of a request, so they come 1/(spread √i)
times as dense; mean of 1/√i over rounds 2 to 10. Source: variance of a sum of independent lengths."""

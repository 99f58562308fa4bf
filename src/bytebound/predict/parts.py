"""A predicted metric as a sum of parts, and the few effects that say how a deployment's parts differ from ours.

A time is a sum of parts, one per phase and resource: ``t = Σ s_c``. What a run tells is kept as a few *effects*, each the
logarithm of a factor on some of the parts: all of them, all of prefill, one resource in both phases, and three drifts that
grow with the logarithm of batch, context and prompt. So ``t' = Σ s_c exp(Σ_z M_cz z)``, and no part is ever negative.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import UnknownNameError
from bytebound.predict.roofline import TIME_RESOURCES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.work import Serve

    Array = NDArray[Any]

COUNT = len(TIME_RESOURCES)
DECODE, PREFILL, REQUEST, WAITING = slice(0, COUNT), slice(COUNT, 2 * COUNT), 2 * COUNT, 2 * COUNT + 1
PARTS = 2 * COUNT + 2
"""Parts of a time: decode by resource, prefill by resource, host time of a request, waiting."""

DRIFTS = ("batch-drift", "context-drift", "prompt-drift")
EFFECTS = ("scale", "prefill", *TIME_RESOURCES, "request", "waiting", *DRIFTS)
Z80 = 1.2815515655446004
"""Half-width of the central 80 % of a normal distribution, in standard deviations."""

CENTRE_BATCH, CENTRE_TOKENS = 32.0, 2048.0
"""Where the drifts are zero: a middling request, so that they say nothing about the scale."""

LOADED = "ttft_loaded_s"
TIMES = ("tpot_s", "ttft_s", LOADED, "request_s")
RATES = ("decode_tokens_per_s", "prefill_tokens_per_s", "tokens_per_s", "total_tokens_per_s", "requests_per_s")
"""Metrics a correction can be drawn from; ``ttft_loaded_s`` includes waiting at a busy replica."""


def _mixing() -> Array:
    """Return which effects act on which part, (parts, effects without drifts)."""
    mixing = np.zeros((PARTS, len(EFFECTS) - len(DRIFTS)))
    mixing[:, 0] = 1.0
    mixing[PREFILL, 1] = 1.0
    for index in range(COUNT):
        mixing[[index, COUNT + index], 2 + index] = 1.0
    mixing[REQUEST, 2 + COUNT] = mixing[WAITING, 3 + COUNT] = 1.0
    return mixing


MIXING = _mixing()


@dataclass(frozen=True, slots=True)
class Parted:
    """A metric as parts: ``seconds`` (parts, requests) and, for a rate, ``amount`` (requests,) done in their sum.

    ``drift`` (3, requests): logarithms of batch, context and prompt over their centres.
    """

    seconds: Array
    amount: Array | None
    drift: Array

    @property
    def value(self) -> Array:
        """The metric itself, (requests,)."""
        total = self.seconds.sum(axis=0)
        return np.asarray(total if self.amount is None else self.amount / total)

    def take(self, rows: Any) -> Parted:
        """Return some of the requests."""
        amount = None if self.amount is None else self.amount[rows]
        return Parted(self.seconds[:, rows], amount, self.drift[:, rows])


def column(work: Serve, name: str, count: int) -> Array:
    """Return a quantity of the requests as (requests,), one number repeated."""
    value = getattr(work, name)
    return np.broadcast_to(
        np.asarray(np.broadcast_to(value, work.shape) if np.ndim(value) else value, dtype=float).ravel(), (count,)
    )


def drifts(work: Serve, count: int) -> Array:
    """Return the logarithms of batch, mean context while decoding and prompt over their centres, (3, requests)."""
    batch, prompt, output = (column(work, name, count) for name in ("batch", "prompt", "output"))
    return np.log(np.stack([batch / CENTRE_BATCH, (prompt + output / 2) / CENTRE_TOKENS, prompt / CENTRE_TOKENS]))


def parted(named: Mapping[str, Array], work: Serve, metric: str) -> Parted:
    """Return ``metric`` of predictions as parts.

    Args:
        named: what ``Setting.answer`` returned for ``work``.
        work: the requests.
        metric: one of TIMES or RATES, as ``documents.truth`` defines them; decode_tokens_per_s is of one stream, and the
            first token of a static batch waits for all its prompts.

    Raises:
        UnknownNameError: another metric.
    """
    if metric not in TIMES + RATES:
        raise UnknownNameError("metric to correct by", metric, TIMES + RATES)
    count = len(named["tpot_s"])
    batch, prompt, output, dp = (column(work, name, count) for name in ("batch", "prompt", "output", "dp"))
    cycle = dp * batch * output / named["tokens_per_s"]
    step = np.minimum(named["decode_time_share"] * cycle / output, named["tpot_s"])
    seconds = np.zeros((PARTS, count))
    shares = [np.stack([named[f"{phase}.share.{k}"] for k in range(COUNT)]) for phase in ("decode", "prefill")]

    def add(decoding: Array | float, filling: Array | float, request: Array | float = 0.0) -> None:
        seconds[DECODE] += shares[0] * decoding
        seconds[PREFILL] += shares[1] * filling
        seconds[REQUEST] += request

    amount: Array | None = None
    static = (batch > 1) & (work.scheduling == "static")
    first = np.where(static, batch * named["prefill_request_s"], named["prefill.seconds"])
    host = np.maximum(named["ttft_s"] - named["prefill.seconds"], 0.0)
    if metric == "tpot_s":
        add(step, named["tpot_s"] - step)
    elif metric in {"ttft_s", LOADED}:
        add(0.0, first, host)
        if metric == LOADED:
            seconds[WAITING] = np.maximum(named[LOADED] - named["ttft_s"], 0.0)
    elif metric == "request_s":
        more = np.maximum(output - 1, 0.0)
        add(more * step, first + more * (named["tpot_s"] - step), host)
    elif metric == "decode_tokens_per_s":
        add(step, 0.0)
        amount = np.ones(count)
    elif metric == "prefill_tokens_per_s":
        add(0.0, first)
        amount = prompt * dp
    else:
        add(output * step, cycle - output * step)
        per_request = {"tokens_per_s": output, "total_tokens_per_s": prompt + output, "requests_per_s": np.ones(count)}
        amount = dp * batch * per_request[metric]
    return Parted(seconds, amount, drifts(work, count))


def log_factors(effects: Array, drift: Array) -> Array:
    """Return the logarithm of the factor on every part, (parts, requests), for ``effects`` (effects,)."""
    factors = np.repeat((MIXING @ effects[: -len(DRIFTS)])[:, None], drift.shape[1], axis=1)
    batch, context, prompt = effects[-len(DRIFTS) :]
    factors[DECODE] += batch * drift[0] + context * drift[1]
    factors[PREFILL] += prompt * drift[2]
    return factors


def with_effects(p: Parted, effects: Array) -> Parted:
    """Return ``p`` with every part times what the effects say."""
    return replace(p, seconds=p.seconds * np.exp(log_factors(effects, p.drift)))


def slopes(p: Parted) -> Array:
    """Return ∂ log t / ∂ effect at parts as they stand, (effects, requests); a rate's time is what it is the inverse of."""
    weights = p.seconds / p.seconds.sum(axis=0)
    decoding, filling = weights[DECODE].sum(axis=0), weights[PREFILL].sum(axis=0)
    return np.vstack([MIXING.T @ weights, decoding * p.drift[0], decoding * p.drift[1], filling * p.drift[2]])


def log_sd(p: Parted, covariance: Array, noise: float) -> Array:
    """Return the standard deviation of log ``p.value``, (requests,): the effects' that matter there, and the noise."""
    along = slopes(p)
    return np.asarray(np.sqrt(np.einsum("ir,ij,jr->r", along, covariance, along) + noise**2))


def surprise(measured: Array, predicted: Array, spread: Array) -> float:
    """Return how far the furthest of measured values lay from its prediction, in half-widths of that interval; at least 1.

    Args:
        measured: values of the run, (points,).
        predicted: what was predicted of them, (points,).
        spread: factor by which each interval reached to both sides, (points,).
    """
    return float(max(np.max(np.abs(np.log(measured / predicted)) / np.log(spread)), 1.0))


def most_spread(before: Array | float, surprised: float) -> Any:
    """Return the widest factor of an interval after a run: that of the prediction before it, to the power of ``surprise``.

    A run makes us no less sure of other requests than we were, save by as much as it fell outside what was expected.
    Of 1,358 points of dense models (713 of MoE) whose deployment had given another point, intervals held 86 % (80 %) without this
    bound and 85 % (79 %) with it; where it acts, 91 % (93 %) and 84 % (89 %).
    """
    return before**surprised


def floor_s(named: Mapping[str, Array], p: Parted) -> Array:
    """Return the least the parts can physically add up to [s], (requests,).

    Decoding and prefill of other requests may overlap, so the longer of their floors counts, not the sum; host time and
    waiting have no floor.
    """
    least = [
        p.seconds[part].sum(axis=0) * named[f"{phase}.floor_s"] / named[f"{phase}.seconds"]
        for phase, part in (("decode", DECODE), ("prefill", PREFILL))
    ]
    return np.asarray(np.maximum(*least))

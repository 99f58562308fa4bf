"""Truth: one measured number of a deployment in our vocabulary, and where it was published."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from bytebound.documents.work import Serve

if TYPE_CHECKING:
    from collections.abc import Mapping

Trust = Literal["A", "B", "C"]
"""A: a primary publication with its method; B: primary and thin on method, or a vendor's claim; C: second-hand or part assumed."""

Regime = Literal["single", "prefill", "static", "closed-loop", "open-loop", "capacity"]
"""single: one stream; prefill: one pass over prompts; static: one batch to its end; closed-loop: a fixed number of requests in
flight; open-loop: requests arrive by the clock; capacity: the batch is what fits, and ``work.batch`` says nothing."""

Statistic = Literal["mean", "median", "p90", "p99", "min", "max", ""]
"""What ``value`` is of many requests or repeats; empty: not stated."""

Backend = Literal["cuda", "rocm", "vulkan", "metal", "cpu", "npu", ""]
"""What runs the kernels of an engine that has several; empty: the only one the engine has on that device."""

TRUSTS: tuple[str, ...] = get_args(Trust)
REGIMES: tuple[str, ...] = get_args(Regime)
STATISTICS: tuple[str, ...] = get_args(Statistic)
BACKENDS: tuple[str, ...] = get_args(Backend)

METRICS: Mapping[str, tuple[str, str]] = {
    "tpot_s": (
        "s",
        "time from one output token of a request to the next, first token excluded, averaged over a request's tokens",
    ),
    "ttft_s": ("s", "time from sending a request to its first output token, waiting in the engine included"),
    "request_s": ("s", "time from sending a request, or starting a static batch, to its last output token"),
    "decode_tokens_per_s": ("1/s", "output tokens per second of one stream after its prompt was processed"),
    "tokens_per_s": ("1/s", "output tokens of the whole deployment over the time of the whole run, prefill included"),
    "total_tokens_per_s": ("1/s", "prompt and output tokens of the whole deployment over the time of the whole run"),
    "prefill_tokens_per_s": (
        "1/s",
        "prompt tokens of the whole deployment, those whose KV is cached left out, over the time of their passes alone",
    ),
    "requests_per_s": ("1/s", "requests the whole deployment completes over the time of the whole run"),
    "joules_per_token": ("J", "energy of all accelerators over the whole run per output token"),
    "resident_bytes": ("B", "peak memory of all devices that the run needed"),
    "kv_tokens": ("tokens", "tokens the KV cache of one replica can hold as the engine reports it after start-up"),
    "weights_bytes": ("B", "bytes of all weights as stored"),
}
"""Metric -> its unit, and which clock starts and stops (or what is counted)."""


@dataclass(frozen=True, slots=True)
class Load:
    """How a benchmark loaded a closed loop of ``work.batch`` clients a replica, as far as its source says.

    Args:
        rounds: requests per client in the run; 0: a long run, or not stated. The first round starts all at once.
        spread: width of the uniform length distributions over their maximum; 0: fixed lengths.
        slots: most sequences the engine was told to run; 0: as many as fit.
        hold_steps: decode steps the scheduler keeps prompts back to batch them.
        poll_steps: decode steps between two looks at the queue.
        clump: requests that arrive together in steady state; 1: apart.
        memory_share: share of device memory the engine was given; 0: its default.
    """

    rounds: float = 0.0
    spread: float = 0.0
    slots: float = 0.0
    hold_steps: float = 0.0
    poll_steps: float = 1.0
    clump: float = 1.0
    memory_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Truth:
    """One measured number.

    Args:
        id: unique within a file.
        source: short key of the publication; ``locator`` finds the number in it (commit, file and line, URL or DOI).
        licence: what the publication is licensed under, as stated there.
        date: when it was measured, ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``; empty: not stated.
        trust: how far the row is believed, see ``Trust``.
        device: our device id; ``devices`` of them were used by the run, all replicas together.
        engine, engine_version, backend: what ran; our engine name.
        model: our model id.
        work: the deployment and the request, scalars only.
        regime: how requests arrived, see ``Regime``.
        metric: a key of ``METRICS``, which gives unit and clock.
        statistic: what of many repeats ``value`` is.
        value: the number in SI units, positive; of the whole deployment, not per device.
        notes: what else matters, assumptions first.
        load: how the benchmark sent its requests.
    """

    id: str
    source: str
    locator: str
    device: str
    engine: str
    model: str
    metric: str
    value: float
    regime: Regime
    work: Serve = field(default_factory=Serve)
    devices: int = 1
    statistic: Statistic = ""
    engine_version: str = ""
    backend: Backend = ""
    licence: str = ""
    date: str = ""
    trust: Trust = "B"
    notes: str = ""
    load: Load = field(default_factory=Load)

    @property
    def unit(self) -> str:
        """Unit of ``value``."""
        return METRICS[self.metric][0]

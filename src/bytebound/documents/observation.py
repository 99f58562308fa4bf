"""What a real engine did (Run: timestamps and counters, nothing computed) and where that stands (Observation)."""

from __future__ import annotations

from dataclasses import dataclass, field

from bytebound.documents.values import Interval, Provenance

RUN_SCHEMA = "bytebound.run/1"
OBSERVATION_SCHEMA = "bytebound.observation/1"


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated timings of one thing: the best (shortest time, highest rate), the median and the 10 and 90 % points."""

    best: float
    median: float
    p10: float
    p90: float
    samples: int


@dataclass(frozen=True, slots=True)
class OperatorRun:
    """One kind of operator as a profiler saw it in one step: calls, seconds, and counted FLOPs and bytes."""

    name: str
    kind: str  # gemm, attention, elementwise, collective, other
    calls: float
    seconds: float
    flops: float
    bytes: float
    shapes: str = ""


@dataclass(frozen=True, slots=True)
class PhaseRun:
    """Repeated steps of one phase: ``batch`` sequences, each ``context`` tokens deep, ``tokens`` new ones per step."""

    name: str  # decode or prefill
    seconds: Spread
    batch: float
    context: float
    tokens: float
    operators: tuple[OperatorRun, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestRun:
    """One request to a server, on one clock [s]: when it was due, sent, gave its first and last token."""

    due_s: float
    sent_s: float
    first_token_s: float | None
    last_token_s: float | None
    prompt_tokens: float
    output_tokens: float
    error: str = ""
    gaps_s: tuple[float, ...] = ()  # time between successive stream events that carried text


@dataclass(frozen=True, slots=True)
class Run:
    """The record of one real run. Everything a report claims can be recomputed from it."""

    id: str
    when: str
    engine: str  # llama.cpp, transformers, or what the server says it is
    engine_version: str
    model: str
    settings: dict[str, float | str] = field(default_factory=dict)  # threads, flash attention, KV dtype, weight format
    load: dict[str, float | str] = field(default_factory=dict)  # concurrency, rate, prompt, output, requests
    phases: tuple[PhaseRun, ...] = ()
    requests: tuple[RequestRun, ...] = ()
    metrics: dict[str, float] = field(
        default_factory=dict
    )  # the server's metrics page, after minus before for counters
    canaries: dict[str, Spread] = field(
        default_factory=dict
    )  # probes interleaved with the run: memory.read, canary.fma
    disturbed: float = 0.0  # share of samples during which others used the processor
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    seconds: float = 0.0
    schema_: str = RUN_SCHEMA


@dataclass(frozen=True, slots=True)
class ObservedPhase:
    """One phase laid beside this machine's ceilings.

    Bytes and FLOPs are the ledger's for one step; ``mbu`` and ``mfu`` are shares of the *measured* ceilings,
    ``mbu_datasheet`` and ``mfu_datasheet`` of the printed ones (None where no datasheet is known). ``predicted_s`` is
    our own prediction of the step before it was run, ``grade`` how it was made: bound, scaled or calibrated.
    """

    name: str
    seconds: Spread
    batch: float
    context: float
    tokens: float
    flops: float
    bytes: float
    intensity: float
    bytes_per_s: float
    flop_per_s: float
    mbu: float
    mfu: float
    mbu_datasheet: float | None
    mfu_datasheet: float | None
    verdict: str
    residual: float
    sentence: str
    predicted_s: Interval | None
    grade: str
    error: float | None  # predicted / observed − 1
    operators: tuple[OperatorRun, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """Where a real workload stands on this machine's roofline. Every claim points to ``run``."""

    id: str
    when: str
    machine: str
    measurement: str  # id of the Measured record whose ceilings were used
    model: str
    run: Run
    memory_bytes_per_s: float
    flop_per_s: dict[str, float]
    phases: tuple[ObservedPhase, ...] = ()
    ttft_s: Spread | None = None
    tpot_s: Spread | None = None
    tokens_per_s: Spread | None = None
    notes: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    provenance: tuple[Provenance, ...] = ()
    schema_: str = OBSERVATION_SCHEMA

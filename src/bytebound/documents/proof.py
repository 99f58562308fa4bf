"""Proof: a lever applied to a real model on a real engine, before and after, beside what was predicted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bytebound.documents.observation import Spread
from bytebound.documents.values import Interval, Provenance

PROOF_SCHEMA = "bytebound.proof/1"
PROOFS_SCHEMA = "bytebound.proofs/1"
PROOF_ERRORS_SCHEMA = "bytebound.proof-errors/1"
PROVABLES_SCHEMA = "bytebound.provables/1"

METRICS = ("decode", "prefill", "request", "step", "memory", "kv_memory", "bytes")
"""What a proof compares: seconds of a decode step, prefill, whole request or training step; bytes resident; bytes of the KV cache;
bytes moved by one decode step (or of the file)."""
TOLERANCE = 0.15
"""Share by which a predicted ratio may miss the measured one and still be confirmed."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric before and after. Ratios are after over before: of time and bytes, so less is better.

    ``predicted`` was made before the run; ``how`` says from what: bound (bytes alone), scaled, calibrated or formula.
    ``error`` is predicted over measured minus 1.
    """

    metric: str
    before: Spread
    after: Spread
    measured: Interval
    predicted: Interval | None
    how: str
    error: float | None
    within: bool | None


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of ``model`` on real text: perplexity before and after, KL divergence [nats per token], share of equal top tokens.

    The proof's own model may have random weights; ``model`` here is always a trained one.
    """

    model: str
    text: str
    tokens: int
    perplexity_before: float
    perplexity_after: float
    kl_divergence: float | None
    top_agreement: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """What a lever did here.

    ``verdict``: confirmed (every predicted ratio within the tolerance), refuted, or inconclusive (too noisy); ``effect``: whether
    the lever sped up, slowed down or left alone what it is for.
    """

    id: str
    when: str
    lever: str
    title: str
    engine: str
    engine_version: str
    model: str
    machine: str
    before: dict[str, float | str]
    after: dict[str, float | str]
    compared: tuple[Compared, ...]
    verdict: Literal["confirmed", "refuted", "inconclusive"]
    effect: Literal["helps", "no-effect", "hurts", "saves-memory"]
    sentence: str
    rounds: int
    disturbed: float
    seconds: float
    real_weights: bool
    quality: Quality | None = None
    canaries: dict[str, Spread] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    provenance: tuple[Provenance, ...] = ()
    schema_: str = PROOF_SCHEMA


@dataclass(frozen=True, slots=True)
class Unproven:
    """A proof that could not run here, and why."""

    lever: str
    engine: str
    reason: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Provable:
    """One line of ``bytebound prove --list``: a lever on an engine, whether it can be proven here, and what it lacks."""

    lever: str
    engine: str
    ready: bool
    reason: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Provables:
    """``bytebound prove --list``."""

    trials: tuple[Provable, ...]
    schema_: str = PROVABLES_SCHEMA


@dataclass(frozen=True, slots=True)
class Proofs:
    """``bytebound prove --all``: the ledger of predicted against measured of one machine."""

    id: str
    machine: str
    when: str
    proofs: tuple[Proof, ...]
    unproven: tuple[Unproven, ...] = ()
    notes: tuple[str, ...] = ()
    schema_: str = PROOFS_SCHEMA


@dataclass(frozen=True, slots=True)
class ProofError:
    """How wrong the predictions of one metric on one engine were.

    ``median_error`` is the median of |predicted over measured − 1|; ``within`` the share of ratios within the tolerance, ``coverage``
    of those whose predicted interval held what was measured.
    """

    engine: str
    metric: str
    compared: int
    median_error: float
    within: float
    coverage: float


@dataclass(frozen=True, slots=True)
class ProofErrors:
    """``bytebound validate --proofs``: conclusive proofs kept in the history; ``left_out`` counts what noise hid."""

    rows: tuple[ProofError, ...]
    proofs: int
    left_out: int
    schema_: str = PROOF_ERRORS_SCHEMA

"""How a public InferenceX run was launched and loaded: KV format, prompt tokens per step, clients, slots."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from bytebound.documents.truth import Load
from bytebound.truth.inferencex import LENGTH_SHARE, settings_of

DRAWN = (1 + LENGTH_SHARE) / 2
"""Mean length InferenceX draws, as a share of the nominal one: evenly from ``LENGTH_SHARE`` to 1."""

SPREAD = round(1 - LENGTH_SHARE, 6)
"""Width of those distributions over their maximum."""

PROMPTS_PER_CLIENT = 10
"""Requests of an InferenceX run over its concurrency. Source: utils/bench_serving of its repository."""

NEAR_DAYS = 60
"""Launch settings known of days further from a run's than this say nothing about it."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a run's script set: KV format, most prompt tokens per step (0: the engine's own limit), its load, where it stands."""

    kv: str
    chunk: int = 0
    load: Load = field(default_factory=Load)
    source: str = ""


@lru_cache(maxsize=8192)
def launch_of(
    model: str, device: str, weights: str, engine: str, *, kv: str, isl: int, osl: int, tp: int, running: int, date: str
) -> Launch:
    """Return how a public run was launched.

    Args:
        model: our id or the public one.
        device: our id.
        weights: the weight format as such (``fp8``, ``nvfp4``), not ``auto``.
        engine: our name.
        kv: the KV format where no script is known.
        isl: nominal prompt length [tokens].
        osl: nominal output length [tokens].
        tp: devices that share a layer's attention or are replicas of it.
        running: requests in flight (0: not stated).
        date: day of the run, ISO; empty: not stated.
    """
    found = date and settings_of(
        model, device, weights, engine, isl=isl, osl=osl, tp=tp, date=date, concurrency=running or None
    )
    if not found or found.days_off > NEAR_DAYS:
        return Launch(kv, load=Load(rounds=PROMPTS_PER_CLIENT, spread=SPREAD))
    load = Load(
        rounds=found.prompts_per_client or PROMPTS_PER_CLIENT,
        spread=SPREAD,
        slots=found.max_sequences or 0,
        hold_steps=found.wait_steps or 0,
        poll_steps=found.poll_steps or 1,
        memory_share=found.memory_share or 0,
    )
    return Launch(found.kv or kv, found.max_batched_tokens or 0, load, found.source)

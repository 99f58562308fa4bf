"""Prove a lever on two servers: the same load on one without it and one with it, in turns (vLLM, SGLang, llama-server, any OpenAI API).

Nothing is predicted here: ask ``bytebound levers`` for the machine the servers run on, and lay its number beside.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np

from bytebound.documents.proof import Proof
from bytebound.engines.server import drive_server
from bytebound.engines.summary import succeeded, tpot_s, ttft_s
from bytebound.errors import QuantityError, RequestError
from bytebound.prove.compare import compared, effect_of, sentence_of, verdict_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.observation import RequestRun, Run, Spread
    from bytebound.prove.trial import Forecast

    Array = NDArray[Any]

ROUNDS = 5


def prove_endpoints(
    before: str, after: str, *, lever: str = "endpoint", title: str = "", rounds: int = ROUNDS, forecasts: dict[str, Forecast] | None = None,
    on_progress: Callable[[str], None] | None = None, **load: Any,
) -> Proof:  # fmt: skip
    """Return what differs between two servers under the same load.

    Metrics: ``decode`` is time per output token, ``prefill`` time to the first token, ``request`` seconds of the run per
    request (1 over throughput). Prompts of each round are new to both servers, so no prefix cache helps either.

    Args:
        before: address of the server without the lever.
        after: of the one with it.
        lever: its name; ``title`` says it in words.
        title: see ``lever``.
        rounds: turns of each server, at least 2.
        forecasts: what was predicted elsewhere, by metric.
        on_progress: told what is being done.
        load: of ``bytebound.engines.server.drive_server``: concurrency, requests, prompt, output, model, …

    Raises:
        QuantityError: fewer than two rounds. RequestError: both are one address.
        ByteboundError: as ``drive_server``.
    """
    if rounds < 2:
        raise QuantityError(f"rounds is {rounds}", place="rounds", mend="give 2 or more")
    if before.rstrip("/") == after.rstrip("/"):
        raise RequestError("both servers are at one address", place=after, mend="give two addresses")
    say = on_progress or (lambda _text: None)
    began = time.perf_counter()
    runs: tuple[list[Run], list[Run]] = ([], [])
    for done in range(rounds):
        turns = ((before, 0), (after, 1))
        for url, at in turns if done % 2 == 0 else turns[::-1]:
            say(f"round {done + 1} of {rounds}: {urlsplit(url).netloc}")
            runs[at].append(drive_server(url, seed=done, **load))
    known = forecasts or {}
    figures = {"decode": _middle(tpot_s), "prefill": _middle(ttft_s), "request": _per_request}
    found = []
    for name, figure in figures.items():
        one, other = (np.array([figure(run) for run in side]) for side in runs)
        if np.isfinite(one).all() and np.isfinite(other).all():
            found.append(compared(name, one, other, known.get(name)))
    verdict, when = verdict_of(found, 0.0), datetime.now(UTC)
    words = title or f"{urlsplit(after).netloc} instead of {urlsplit(before).netloc}"
    first, last = runs[0][0], runs[1][0]
    lost = sum(len(run.requests) - len(succeeded(run.requests)) for side in runs for run in side)
    return Proof(
        id=f"proof-{when:%Y%m%d-%H%M%S}-{uuid4().hex[:6]}", when=when.isoformat(timespec="seconds"), lever=lever, title=words,
        engine=first.engine, engine_version=first.engine_version, model=first.model, machine=urlsplit(before).netloc,
        before=first.settings, after=last.settings, compared=tuple(found), verdict=verdict, effect=effect_of(found, "decode"),
        sentence=sentence_of(words, found, verdict, "decode", 0.0), rounds=rounds, disturbed=0.0,
        seconds=time.perf_counter() - began, real_weights=False,
        notes=(
            f"each round is the same load on both servers: {_load(first)}",
            "what else ran on the servers' machines is not known; whether weights are real is the servers' matter",
            *((f"after: {last.engine} {last.engine_version}, {last.model}",) if _name(first) != _name(last) else ()),
        ),
        errors=(f"{lost} requests failed",) if lost else (),
    )  # fmt: skip


def _middle(figure: Callable[[Sequence[RequestRun]], Spread | None]) -> Callable[[Run], Array]:
    """Return what draws the median of ``figure`` from a run, (1,); NaN where it has none."""

    def drawn(run: Run) -> Array:
        found = figure(run.requests)
        return np.array([found.median if found is not None else np.nan])

    return drawn


def _per_request(run: Run) -> Array:
    return np.array([run.seconds / max(len(succeeded(run.requests)), 1)])


def _name(run: Run) -> tuple[str, str, str]:
    return run.engine, run.engine_version, run.model


def _load(run: Run) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in run.load.items()
    )

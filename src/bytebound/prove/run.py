"""Run a trial: predict, open both sides, take turns round by round with canaries between, and judge."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from bytebound.documents.proof import Proof
from bytebound.engines.summary import spread
from bytebound.errors import ByteboundError
from bytebound.measure.canaries import host_canaries
from bytebound.measure.sampling import sample
from bytebound.measure.system import read_system
from bytebound.prove.compare import compared, effect_of, sentence_of, verdict_of
from bytebound.prove.depth import rested
from bytebound.prove.remote import open_engine

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.proof import Compared, Quality
    from bytebound.measure.sampling import Probe
    from bytebound.prove.remote import Remote, Turn
    from bytebound.prove.trial import Bench, Forecast, Side, Timed, Trial

ROUNDS, LEAST_ROUNDS = 12, 5
SHORTEST_S = 0.1
"""Others' work during a shorter time is not told: the system counts in ticks of 10 ms."""
MEMORY_SHARE = 0.9
STATE_READS = 7
MOST_MOVED = 0.2
"""Memory of a shared machine may change its speed for minutes. Beyond this share between probes and run a comparison says nothing:
a memory-bound side would be out by as much, a compute-bound one by nothing."""


@dataclass(slots=True)
class Seen:
    """What a run has collected: samples by metric and side, canaries, and what went wrong."""

    sides: dict[str, tuple[list[Turn], list[Turn]]] = field(default_factory=dict)
    canaries: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_trial(
    trial: Trial, bench: Bench, *, rounds: int = ROUNDS, budget_s: float = 60.0, canaries: bool = True
) -> Proof:
    """Return what the lever of ``trial`` did here.

    Both sides are open at once, each in its own process, and take turns in the order AB, BA, AB, …; memory is read at the end.

    Args:
        trial: what to run.
        bench: the machine, and whom to tell.
        rounds: turns of each side for every timed metric.
        budget_s: seconds of timing for each metric after which no further round starts (never under five).
        canaries: whether probes of the machine take turns with the engine.

    Raises:
        ByteboundError: the prediction or an engine could not be made; an engine died midway or ran out of memory.
    """
    began = time.perf_counter()
    seen = Seen()
    with ExitStack() as stack:
        probes = host_canaries(stack) if canaries else ()
        bench.say(f"{trial.lever}: predicting")
        state = [read_rate(probes)]
        forecasts = trial.predict()
        state.append(read_rate(probes))
        bench.say(f"{trial.lever}: opening {trial.engine} twice")
        room = MEMORY_SHARE * read_system().memory_free_bytes
        before, version = _open(stack, trial.before, room)
        after, _ = _open(stack, trial.after, room)
        for timed in trial.timed:
            _take_turns(timed, before, after, probes, seen, trial=trial, rounds=rounds, until_s=budget_s, say=bench.say)
        weighed = _weigh(trial, before, after)
        found = [*_timed(trial, seen, forecasts), *_counted(trial, weighed, forecasts)]
    quality, trouble = _quality(trial, bench.say)
    disturbed = _disturbed(seen)
    moved = moved_by(state, seen)
    verdict = "inconclusive" if moved > MOST_MOVED else verdict_of(found, disturbed)
    sentence = sentence_of(trial.title, found, verdict, trial.aim, disturbed)
    if moved > MOST_MOVED:
        sentence = f"{trial.title}: inconclusive, memory was {1 + moved:.2f} times as fast for the probes as for the run, or the other way"
    when = datetime.now(UTC)
    return Proof(
        id=f"proof-{when:%Y%m%d-%H%M%S}-{uuid4().hex[:6]}", when=when.isoformat(timespec="seconds"), lever=trial.lever,
        title=trial.title, engine=trial.engine, engine_version=version, model=trial.model,
        machine=bench.machine.device.id, before=trial.before.shown, after=trial.after.shown, compared=tuple(found),
        verdict=verdict, effect=effect_of(found, trial.aim),
        sentence=sentence,
        rounds=max((len(sides[0]) for sides in seen.sides.values()), default=0), disturbed=disturbed,
        seconds=time.perf_counter() - began, real_weights=trial.real_weights, quality=quality,
        canaries={name: s for name, rates in seen.canaries.items() if (s := spread(rates, rate=True)) is not None},
        notes=(*trial.notes, *seen.notes), errors=trouble,
        provenance=tuple(dict.fromkeys(item for forecast in forecasts.values() for item in forecast.provenance)),
    )  # fmt: skip


def read_rate(probes: tuple[Probe, ...]) -> float:
    """Return how fast memory is read now [B/s], the middle of a few passes: the state the machine is in. 0 without canaries."""
    if not probes:
        return 0.0
    return probes[0].amount / float(np.median([sample(probes[0].work).seconds for _ in range(STATE_READS)]))


def moved_by(state: list[float], seen: Seen) -> float:
    """Return by what share memory was faster in one of two: around the predictions, and during the run."""
    ran = seen.canaries.get("memory.read")
    if not ran or not all(state):
        return 0.0
    during = float(np.median(ran))
    return max(max(state) / during, during / min(state)) - 1


def _open(stack: ExitStack, side: Side, room: float) -> tuple[Remote, str]:
    return stack.enter_context(
        open_engine(side.adapter, side.settings, memory_bytes=room, environment=side.environment)
    )


def _take_turns(
    timed: Timed, before: Remote, after: Remote, probes: tuple[Probe, ...], seen: Seen, *, trial: Trial, rounds: int,
    until_s: float, say: Callable[[str], None],
) -> None:  # fmt: skip
    """Time one metric on both sides, round by round."""
    turns = ((before, timed.what, timed.before, 0), (after, timed.what_after or timed.what, timed.after, 1))
    for engine, _, _, _ in turns:
        if timed.prepare is not None:
            engine.ask("prepare", **timed.prepare)
    sides = seen.sides.setdefault(timed.metric, ([], []))
    started = time.perf_counter()
    for done in range(rounds if not timed.rounds else max(2, -(-timed.rounds * rounds // ROUNDS))):
        if done >= LEAST_ROUNDS and time.perf_counter() - started > until_s:
            seen.notes.append(f"{timed.metric}: {done} rounds, the time given was up")
            break
        say(f"{trial.lever}: {timed.metric}, round {done + 1}")
        for probe in probes:
            seen.canaries.setdefault(probe.name, []).append(probe.amount / max(sample(probe.work).seconds, 1e-9))
        for engine, what, arguments, side in turns if done % 2 == 0 else turns[::-1]:
            sides[side].append(rested(engine, timed, what, arguments))


def _timed(trial: Trial, seen: Seen, forecasts: dict[str, Forecast]) -> list[Compared]:
    found = []
    for timed in trial.timed:
        before, after = (
            np.array([turn.seconds for turn in side]) / units
            for side, units in zip(seen.sides[timed.metric], timed.per, strict=True)
        )
        found.append(compared(timed.metric, before, after, forecasts.get(timed.metric)))
    return found


def _weigh(trial: Trial, before: Remote, after: Remote) -> tuple[dict[str, float], dict[str, float]]:
    if not trial.counted:
        return {}, {}
    return before.ask("memory"), after.ask("memory")


def _counted(
    trial: Trial, weighed: tuple[dict[str, float], dict[str, float]], forecasts: dict[str, Forecast]
) -> list[Compared]:
    found = []
    for counted in trial.counted:
        if not all(side.get(counted.key) for side in weighed):  # not on this system, or not by this engine
            continue
        before, after = (np.array([[float(side[counted.key])]]) for side in weighed)
        found.append(compared(counted.metric, before, after, forecasts.get(counted.metric)))
    return found


def _quality(trial: Trial, say: Callable[[str], None]) -> tuple[Quality | None, tuple[str, ...]]:
    """Return what the lever does to real text; without the text or the model, the reason."""
    if trial.quality is None:
        return None, ()
    say(f"{trial.lever}: quality on real text")
    try:
        return trial.quality(), ()
    except ByteboundError as error:
        return None, (f"quality was not measured: {error}",)


def _disturbed(seen: Seen) -> float:
    told = [
        turn.whole.disturbed for sides in seen.sides.values() for side in sides for turn in side
        if turn.whole.seconds >= SHORTEST_S
    ]  # fmt: skip
    return sum(told) / max(len(told), 1)

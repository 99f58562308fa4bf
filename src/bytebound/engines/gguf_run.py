"""Run a GGUF model under llama.cpp in this process, with probes of the machine in turn, and record what was seen."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from bytebound.documents.observation import PhaseRun, Run, Spread
from bytebound.engines.llamacpp import Session, open_session
from bytebound.engines.summary import spread
from bytebound.errors import QuantityError
from bytebound.measure.canaries import host_canaries
from bytebound.measure.sampling import Sample, sample
from bytebound.measure.system import read_system
from bytebound.models import read_model
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.measure.sampling import Probe

STEPS_PER_ROUND, PREFILLS = 4, 3
SHORTEST_S = 0.1
KV_BYTES = {"fp32": 4.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes per cached value where they are not two."""


@dataclass(slots=True)
class _Seen:
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def probe(self, probe: Probe) -> None:
        seen = sample(probe.work)
        self.samples.append(seen)
        self.rates[probe.name].append(probe.amount / max(seen.seconds, 1e-9))

    def time(self, name: str, work: Callable[[], None]) -> None:
        seen = sample(work)
        self.samples.append(seen)
        self.seconds[name].append(seen.seconds)


def run_gguf(
    path: str | Path, *, batch: int = 1, prompt: int = 512, output: int = 64, threads: int, flash: str = "auto",
    kv: str = "fp16", repeats: int = 10, budget_s: float = 60.0, on_progress: Callable[[str], None] | None = None,
) -> Run:  # fmt: skip
    """Return how long prefill and decode steps of the model at ``path`` take.

    Prefill passes ``prompt`` tokens of one sequence from nothing. Decode adds one token to each of ``batch`` sequences at
    ``prompt + output // 2`` tokens, the mean depth of such a request. Tokens are arbitrary: time does not depend on them.
    After Ctrl-C what is finished is returned and ``errors`` says so.

    Args:
        path: a GGUF file.
        batch: sequences decoded together.
        prompt: tokens of each.
        output: tokens each would generate.
        threads: threads of llama.cpp.
        flash: flash attention ``on``, ``off`` or ``auto``.
        kv: dtype of the KV cache.
        repeats: rounds, each with probes of the machine and a few steps.
        budget_s: seconds after which no further round starts; at least two are run.
        on_progress: told what is being done.

    Raises:
        QuantityError: it would not fit into memory, or a number is out of range.
        DocumentError: the file cannot be read, or llama.cpp is missing.
        UnfinishedError: llama.cpp gave up before anything was finished.
    """
    began = time.perf_counter()
    say = on_progress or (lambda _text: None)
    for name, value in (("batch", batch), ("prompt", prompt), ("output", output), ("threads", threads)):
        if value < 1:
            raise QuantityError(f"{name} is {value}", place=f"--{name}", mend="give 1 or more")
    architecture = read_model(str(path))
    depth = prompt + output // 2
    _check_room(Path(path), architecture.kv_elements_per_token * batch * (prompt + output) * KV_BYTES.get(kv, 2.0))
    seen = _Seen()
    with ExitStack() as stack:
        say("loading")
        session = stack.enter_context(
            open_session(path, context=prompt + output, threads=threads, flash=flash, kv=kv, sequences=batch)
        )
        probes = host_canaries(stack)
        try:
            _rounds(session, probes, seen, prompt=prompt, depth=depth, repeats=repeats, until=began + budget_s, say=say)
        except KeyboardInterrupt:
            if not seen.seconds:
                raise
            seen.errors.append("interrupted: what had been measured until then is kept")
        version, built = session.library.version, session.library.built_for
    told = [one.disturbed for one in seen.samples if one.seconds >= SHORTEST_S]
    when = datetime.now(UTC)
    return Run(
        id=f"run-{when:%Y%m%d-%H%M%S}-{uuid4().hex[:6]}", when=when.isoformat(timespec="seconds"), engine="llama.cpp",
        engine_version=f"{session.library.package} {version}", model=str(path),
        settings={"threads": threads, "flash": flash, "kv": kv, "built_for": built, "architecture": architecture.name},
        load={"batch": batch, "prompt": prompt, "output": output}, phases=_phases(seen, batch, prompt, depth),
        canaries=_canaries(seen), disturbed=sum(told) / max(len(told), 1),
        notes=("token ids are arbitrary: sampling and tokenizing are not in these times",), errors=tuple(seen.errors),
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _rounds(
    session: Session, probes: tuple[Probe, ...], seen: _Seen, *, prompt: int, depth: int, repeats: int, until: float,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    session.fill(1)
    session.step(1)
    for probe in probes:
        probe.work()
    for done in range(PREFILLS):
        say(f"prefill {done + 1} of {PREFILLS}")
        session.fill(0)
        seen.time("prefill", lambda: session.prefill(prompt))
        if time.perf_counter() > until:
            break
    session.fill(depth)
    session.step(depth)
    for done in range(repeats):
        if done >= 2 and time.perf_counter() > until:
            break
        say(f"decode, round {done + 1} of {repeats}")
        for probe in probes:
            seen.probe(probe)
        session.step(depth)  # the probes emptied the caches: the first step after them is not counted
        for _ in range(STEPS_PER_ROUND):
            seen.time("decode", lambda: session.step(depth))


def _phases(seen: _Seen, batch: int, prompt: int, depth: int) -> tuple[PhaseRun, ...]:
    prefill, decode = spread(seen.seconds["prefill"]), spread(seen.seconds["decode"])
    phases = []
    if prefill is not None:
        phases.append(PhaseRun("prefill", prefill, batch=1, context=0, tokens=prompt))
    if decode is not None:
        phases.append(PhaseRun("decode", decode, batch=batch, context=depth, tokens=batch))
    return tuple(phases)


def _canaries(seen: _Seen) -> dict[str, Spread]:
    return {name: found for name, rates in seen.rates.items() if (found := spread(rates, rate=True))}


def _check_room(path: Path, cache: float) -> None:
    size = path.stat().st_size if path.is_file() else 0
    free = read_system().memory_free_bytes
    if size + cache > free:
        raise QuantityError(
            f"the model takes {show_capacity(size)}, its KV cache {show_capacity(cache)}, and {show_capacity(free)} of memory is free",
            place=str(path),
            mend="free memory, take a smaller file, or ask for fewer tokens: this would swap",
        )

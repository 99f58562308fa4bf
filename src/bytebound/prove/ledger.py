"""Run one trial or all that this machine can, and write the ledger of predicted against measured."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from bytebound.documents.proof import Proofs, Unproven
from bytebound.errors import ByteboundError, RequestError
from bytebound.facts.machines import find_machine
from bytebound.observe.calibrate import usable_threads
from bytebound.prove.catalogue import ENGINES, choose, entries, missing
from bytebound.prove.run import ROUNDS, run_trial
from bytebound.prove.trial import Bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.proof import Proof
    from bytebound.prove.catalogue import Entry

HERE = "here"
BUDGET_S = 20.0
INTERRUPTED = "interrupted: what was finished is kept"


def prove_lever(
    lever: str, *, engine: str = "", model: str = "", on: str = HERE, rounds: int = ROUNDS, budget_s: float = BUDGET_S,
    threads: int | None = None, on_progress: Callable[[str], None] | None = None,
) -> Proof:  # fmt: skip
    """Apply ``lever`` to a real model on a real engine here, and return what it did beside what was predicted.

    Args:
        lever: its name, see ``bytebound.prove.catalogue.levers``.
        engine: on which; empty: the first installed that has a trial of it.
        model: a file of yours (only read) or ``random:1b``; empty: the trial's own choice.
        on: must be ``here``: proofs run where they are.
        rounds: turns of each side.
        budget_s: seconds of timing for each metric after which no further round starts.
        threads: of the engine; None: every processor this process may use.
        on_progress: told what is being done.

    Raises:
        UnknownNameError: no such lever, engine or shape. RequestError, QuantityError, DocumentError: it cannot be tried so.
        UnfinishedError: too noisy to predict, or the engine died or ran out of memory.

    Example:
        ``prove_lever("q4_0-weights", model="random:1b").sentence``
    """
    entry = choose(lever, engine)
    with tempfile.TemporaryDirectory(prefix="bytebound-prove-") as folder:
        bench = bench_in(Path(folder), model, on, threads, on_progress)
        return run_trial(entry.make(bench), bench, rounds=rounds, budget_s=budget_s)


def prove_all(
    *, engine: str = "", model: str = "", on: str = HERE, rounds: int = ROUNDS, budget_s: float = BUDGET_S,
    threads: int | None = None, on_progress: Callable[[str], None] | None = None,
    on_proof: Callable[[Proof | Unproven], None] | None = None,
) -> Proofs:  # fmt: skip
    """Run every trial that this machine can, on ``engine`` or on all, and return the ledger.

    What cannot run is in ``unproven`` with its reason. After Ctrl-C the ledger of what was finished is returned, and its notes say so.

    Args:
        engine: on which alone; empty: all.
        model: as in ``prove``; trials that cannot take it are passed over.
        on: must be ``here``.
        rounds: turns of each side.
        budget_s: seconds of timing for each metric after which no further round starts.
        threads: of the engines.
        on_progress: told what is being done.
        on_proof: given each result as it comes.

    Raises:
        UnknownNameError: no such engine. DocumentError: this machine was not measured.
    """
    tell = on_proof or (lambda _found: None)
    lacks = {name: missing(name) for name in ((engine,) if engine else ENGINES)}
    proofs: list[Proof] = []
    unproven: list[Unproven] = []
    notes: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory(prefix="bytebound-prove-") as folder:
        bench = bench_in(Path(folder), model, on, threads, on_progress)
        try:
            for entry in entries(engine):
                why = lacks[entry.engine]
                found = (
                    replace(why, lever=entry.lever)
                    if why is not None
                    else attempt(entry, bench, rounds=rounds, budget_s=budget_s)
                )
                if isinstance(found, Unproven):
                    unproven.append(found)
                else:
                    proofs.append(found)
                tell(found)
        except KeyboardInterrupt:
            notes = (INTERRUPTED,)
        machine = bench.machine.device.id
    return ledger_of(machine, tuple(proofs), tuple(unproven), notes)


def attempt(entry: Entry, bench: Bench, *, rounds: int, budget_s: float) -> Proof | Unproven:
    """Return the proof of one trial, or why there is none."""
    try:
        found = run_trial(entry.make(bench), bench, rounds=rounds, budget_s=budget_s)
        if found.verdict == "inconclusive":  # a neighbour may have come and gone
            bench.say(f"{entry.lever}: once more, {found.sentence}")
            return run_trial(entry.make(bench), bench, rounds=rounds, budget_s=budget_s)
    except ByteboundError as error:
        return Unproven(
            entry.lever, entry.engine, f"{error.place}: {error.message}" if error.place else error.message, error.mend
        )
    return found


def ledger_of(
    machine: str, proofs: tuple[Proof, ...], unproven: tuple[Unproven, ...] = (), notes: tuple[str, ...] = ()
) -> Proofs:
    """Return the ledger of these results."""
    when = datetime.now(UTC)
    return Proofs(
        f"proofs-{when:%Y%m%d-%H%M%S}-{uuid4().hex[:6]}", machine, when.isoformat(timespec="seconds"), proofs, unproven, notes
    )  # fmt: skip


def bench_in(folder: Path, model: str, on: str, threads: int | None, say: Callable[[str], None] | None) -> Bench:
    """Return where trials are made and run.

    Raises:
        RequestError: another machine than this. DocumentError: this one was not measured yet.
    """
    if on.strip().lower() != HERE:
        raise RequestError(
            "proofs run on the machine they are asked on",
            place="--on",
            mend="run bytebound prove there, with --on here",
        )
    return Bench(
        folder, find_machine(HERE), usable_threads() if threads is None else threads, model, say or (lambda _text: None)
    )

"""Levers on real engines: ``bytebound prove``."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from bytebound.cli.measuring import kept_in
from bytebound.cli.observing import keep_all, progress
from bytebound.cli.output import FINE, INTERRUPTED, NO, OUTPUT, Html, Json, Quiet, emit, page, say, writable, write
from bytebound.errors import RequestError, UnfinishedError

if TYPE_CHECKING:
    from bytebound.documents.proof import Proof, Proofs, Unproven

INCONCLUSIVE = UnfinishedError.exit_code


def prove(
    lever: Annotated[str, Parameter(help="The lever to prove, see --list.")] = "",
    /,
    *,
    all_: Annotated[
        bool, Parameter(name="--all", negative="", help="Every lever that this machine can prove.")
    ] = False,
    list_: Annotated[
        bool, Parameter(name="--list", negative="", help="List what can be proven here and what it needs; run nothing.")
    ] = False,
    kept: Annotated[
        bool, Parameter(negative="", help="Show the newest proof of each lever and engine in the history; run nothing.")
    ] = False,
    engine: Annotated[str, Parameter(help="On this engine alone; by default the first that is here.")] = "",
    model: Annotated[
        str, Parameter(help="A file of yours, only ever read, or random:1b; by default the trial's own choice.")
    ] = "",
    on: Annotated[str, Parameter(name="--on", help="The measured machine: here.")] = "here",
    rounds: Annotated[int, Parameter(help="Interleaved turns of each side, at least 2.")] = 12,
    budget: Annotated[
        float, Parameter(help="Seconds of timing per metric after which no further round starts.")
    ] = 20.0,
    threads: Annotated[int | None, Parameter(help="Threads; all usable processors by default.")] = None,
    endpoint: Annotated[
        tuple[str, str] | None,
        Parameter(
            help="Two servers' addresses, without and with the lever: the same load on both in turns; nothing is predicted."
        ),
    ] = None,
    concurrency: Annotated[int, Parameter(help="Requests in flight on an endpoint.")] = 1,
    fail_on: Annotated[Literal["none", "refuted"], Parameter(help="Exit 1 where a prediction is refuted.")] = "none",
    save: Annotated[bool, Parameter(group=OUTPUT, help="Keep the ledger in the history.")] = True,
    db: Annotated[str | None, Parameter(help="History: a file or an SQLAlchemy URL; BYTEBOUND_DB by default.")] = None,
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Also write the ledger to this file: .json, or .md for a page.")
    ] = None,
    json: Json = False,
    html: Html = None,
    quiet: Quiet = False,
) -> int:
    """Apply a lever to a real model on a real engine here, before and after in turns, beside the prediction.

    Measure the machine first. The prediction is made before the run, from the ledger and probes of small models. Exit 3 says
    that noise hides the answer. Ctrl-C keeps what is finished.

    Examples:
        bytebound prove --list

        bytebound prove q4_0-weights --model random:1b

        bytebound prove int8-kv --model model.gguf --json

        bytebound prove --all --out proofs.md --fail-on refuted

        bytebound prove --kept --out proofs.md

        bytebound prove fp8-kv --endpoint http://gpu-1:8000 http://gpu-2:8000 --concurrency 8
    """
    if list_:
        return show_trials(json=json)
    if kept:
        return show_kept(out, html, json=json, quiet=quiet)
    if bool(lever) == all_:
        raise RequestError("name one lever, or say --all", place="LEVER", mend="bytebound prove --list says which")
    writable(html)
    writable(out)
    check_rounds(rounds, budget)
    history = kept_in(db, quiet=quiet) if save else None
    from bytebound.prove.ledger import (  # noqa: PLC0415
        ledger_of,
        prove_all,
        prove_lever,
    )

    with progress(quiet=quiet) as tell:
        if all_:
            ledger = prove_all(
                engine=engine, model=model, on=on, rounds=rounds, budget_s=budget, threads=threads, on_progress=tell,
                on_proof=lambda found: say(line_of(found), quiet=quiet),
            )  # fmt: skip
        elif endpoint is not None:
            from bytebound.prove.endpoints import prove_endpoints  # noqa: PLC0415

            proof = prove_endpoints(
                *endpoint, lever=lever, rounds=rounds, model=model or None, concurrency=concurrency, on_progress=tell
            )
            ledger = ledger_of(proof.machine, (proof,))
        else:
            proof = prove_lever(
                lever,
                engine=engine,
                model=model,
                on=on,
                rounds=rounds,
                budget_s=budget,
                threads=threads,
                on_progress=tell,
            )
            ledger = ledger_of(proof.machine, (proof,))
    if ledger.proofs:
        keep_all(history, ledger, quiet=quiet)
    write_all(ledger, out, html, quiet=quiet)

    def text() -> str:
        from bytebound.report.proof import proof_text, proofs_text  # noqa: PLC0415

        return proofs_text(ledger, page()) if all_ else proof_text(ledger.proofs[0], page())

    emit(ledger if all_ else ledger.proofs[0], json=json, text=text)
    return code_of(ledger, fail_on, quiet=quiet)


def check_rounds(rounds: int, budget: float) -> None:
    """Refuse numbers that measure nothing.

    Raises:
        QuantityError: fewer than two rounds, or no time.
    """
    from bytebound.errors import QuantityError  # noqa: PLC0415

    if not 2 <= rounds <= 1000:
        raise QuantityError(f"rounds is {rounds}", place="--rounds", mend="give 2 to 1000")
    if not budget > 0:
        raise QuantityError(f"budget is {budget:g} s", place="--budget", mend="give a time over 0")


def show_trials(*, json: bool) -> int:
    """Print what can be proven here."""
    from bytebound.documents.proof import Provables  # noqa: PLC0415
    from bytebound.prove.catalogue import provable  # noqa: PLC0415

    found = Provables(provable())

    def text() -> str:
        from bytebound.report.proof import provables_text  # noqa: PLC0415

        return provables_text(found, page())

    emit(found, json=json, text=text)
    return FINE


def show_kept(out: Path | None, html: Path | None, *, json: bool, quiet: bool) -> int:
    """Print the newest proof of each lever and engine that the history has of this machine.

    Raises:
        RequestError: it has none. DocumentError: this machine was not measured.
    """
    from bytebound.facts.machines import find_machine  # noqa: PLC0415
    from bytebound.prove.known import kept  # noqa: PLC0415
    from bytebound.prove.ledger import ledger_of  # noqa: PLC0415

    writable(html)
    writable(out)
    machine = find_machine("here").device.id
    proofs = tuple(proof for proof in kept() if proof.machine == machine)
    if not proofs:
        raise RequestError("nothing was proven on this machine yet", place="--kept", mend="bytebound prove --all")
    ledger = ledger_of(machine, proofs, notes=("the newest proof of each lever and engine in the history",))
    write_all(ledger, out, html, quiet=quiet)

    def text() -> str:
        from bytebound.report.proof import proofs_text  # noqa: PLC0415

        return proofs_text(ledger, page())

    emit(ledger, json=json, text=text)
    return FINE


def line_of(found: Proof | Unproven) -> str:
    """Return one result as a line of progress."""
    from bytebound.documents.proof import Proof  # noqa: PLC0415

    if isinstance(found, Proof):
        return f"{found.verdict}: {found.lever} on {found.engine}: {found.sentence}"
    return f"not proven: {found.lever} on {found.engine}: {found.reason}"


def write_all(ledger: Proofs, out: Path | None, html: Path | None, *, quiet: bool) -> None:
    """Write the files that were asked for."""
    if out is not None:
        from bytebound.documents.values import to_json  # noqa: PLC0415
        from bytebound.report.proof import proofs_markdown  # noqa: PLC0415

        write(out, proofs_markdown(ledger) if out.suffix == ".md" else to_json(ledger) + "\n", quiet=quiet)
    if html is not None:
        from bytebound.report.proof_html import proofs_html  # noqa: PLC0415

        write(html, proofs_html(ledger), quiet=quiet)


def code_of(ledger: Proofs, fail_on: str, *, quiet: bool) -> int:
    """Return the exit code: interrupted, refuted where that fails, inconclusive, nothing proven, or fine."""
    from bytebound.prove.ledger import INTERRUPTED as CTRL_C  # noqa: PLC0415

    if CTRL_C in ledger.notes:
        say(CTRL_C, quiet=quiet)
        return INTERRUPTED
    verdicts = {proof.verdict for proof in ledger.proofs}
    if fail_on == "refuted" and "refuted" in verdicts:
        return NO
    return INCONCLUSIVE if not verdicts or "inconclusive" in verdicts else FINE

"""Real runs on this machine: ``bytebound observe``, and the calibration that ``estimate --calibrate`` asks for."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from bytebound.cli.measuring import kept_in
from bytebound.cli.output import FINE, INTERRUPTED, Html, Json, Quiet, emit, page, say, writable, write
from bytebound.errors import ByteboundError, DocumentError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.calibration import Calibration
    from bytebound.documents.device import Device, Machine
    from bytebound.documents.observation import Run
    from bytebound.history.store import History


def observe(
    target: Annotated[
        str, Parameter(help="A .gguf file, a model folder or config.json, or a server's http:// address.")
    ],
    /,
    *,
    model: Annotated[
        str, Parameter(help="What a server runs: a file, folder or bundled id; tells bytes and FLOPs.")
    ] = "",
    batch: Annotated[int, Parameter(help="Sequences at once; requests in flight for a server.")] = 1,
    rate: Annotated[
        float, Parameter(help="Requests per second to a server, sent when due; 0: keep --batch in flight.")
    ] = 0.0,
    requests: Annotated[int, Parameter(help="Requests to a server.")] = 16,
    prompt: Annotated[int, Parameter(help="Prompt tokens.")] = 512,
    output: Annotated[int, Parameter(help="Output tokens.")] = 64,
    weights: Annotated[str, Parameter(help="Weight format of the run, or auto: as the model stores them.")] = "auto",
    kv: Annotated[str, Parameter(help="KV-cache dtype of the run, or auto.")] = "auto",
    flash: Annotated[Literal["auto", "on", "off"], Parameter(help="Flash attention (llama.cpp).")] = "auto",
    dtype: Annotated[str, Parameter(help="Dtype of a PyTorch run: fp32, bf16, fp16 or auto.")] = "auto",
    device: Annotated[str, Parameter(help="Device of a PyTorch run.")] = "auto",
    threads: Annotated[int | None, Parameter(help="Threads; all usable processors by default.")] = None,
    budget: Annotated[float, Parameter(help="Seconds after which nothing new is begun.")] = 60.0,
    calibrate: Annotated[
        bool, Parameter(negative="", help="Probe llama.cpp first, so that the prediction is calibrated.")
    ] = False,
    datasheet: Annotated[
        str, Parameter(help="The device of ours that this machine is, for shares of printed ceilings.")
    ] = "",
    on: Annotated[str, Parameter(help="The measured machine: here, or a machine file.")] = "here",
    db: Annotated[str | None, Parameter(help="History: a file or an SQLAlchemy URL; BYTEBOUND_DB by default.")] = None,
    json: Json = False,
    html: Html = None,
    quiet: Quiet = False,
) -> int:
    """Run or attach to a real workload and say where it stands on this machine's roofline.

    Measure the machine first. The record of the run is kept in the history. Ctrl-C keeps what is finished.

    Examples:
        bytebound observe model.gguf --prompt 1024

        bytebound observe ./my-model --dtype bf16 --html run.html

        bytebound observe http://127.0.0.1:8000 --model llama-3.1-8b --batch 8 --requests 64
    """
    writable(html)
    from bytebound.facts.devices import find_device  # noqa: PLC0415
    from bytebound.facts.machines import find_machine  # noqa: PLC0415

    machine = find_machine(on)
    sheet = find_device(datasheet) if datasheet else datasheet_of(machine)
    served = "://" in target
    architecture = known(model or (target if not served else ""))
    history = kept_in(db, quiet=quiet)
    check_formats(weights=weights, kv=kv)
    if calibrate and not (target.lower().endswith(".gguf") and dtype == "auto"):
        raise RequestError(
            "--calibrate probes llama.cpp",
            place="--calibrate",
            mend="give a .gguf file and no --dtype, or leave it out",
        )
    from bytebound.cli.observing_runs import run_target  # noqa: PLC0415
    from bytebound.documents.work import Serve  # noqa: PLC0415
    from bytebound.observe.compare import observe_run  # noqa: PLC0415

    with progress(quiet=quiet) as tell:
        calibration = None
        if calibrate and architecture is not None:
            calibration = probe(
                target, machine, weights=weights, flash=flash, kv=kv, threads=threads, tell=tell, history=history,
                quiet=quiet,
            )  # fmt: skip
        run = run_target(
            target, batch=batch, rate=rate, requests=requests, prompt=prompt, output=output, kv=kv, flash=flash, dtype=dtype,
            device=device, threads=threads, budget=budget, tell=tell,
        )  # fmt: skip
    if architecture is None:
        architecture = known(run.model, guess=True)
    work = Serve(weights=format_of(run, weights), kv=kv, attention="eager" if flash == "off" else "flash")
    found = observe_run(run, architecture, machine, work=work, calibration=calibration, datasheet=sheet)
    keep_all(history, found, quiet=quiet)
    if html is not None:
        from bytebound.report.observation_html import observation_html  # noqa: PLC0415

        write(html, observation_html(found, machine.device), quiet=quiet)

    def text() -> str:
        from bytebound.report.observation import observation_text  # noqa: PLC0415

        return observation_text(found, page())

    emit(found, json=json, text=text)
    if any(error.startswith("interrupted") for error in run.errors):
        say("interrupted: what was finished is kept", quiet=quiet)
        return INTERRUPTED
    return FINE


def check_formats(**named: str) -> None:
    """Refuse a format we do not know before minutes are spent on a run.

    Raises:
        UnknownNameError: it is not ``auto`` and not one of ours.
    """
    from bytebound.facts.formats import find_format  # noqa: PLC0415

    for name, given in named.items():
        if given != "auto":
            find_format(given, place=f"--{name}")


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show what is being done on standard error: one living line on a terminal, else a line whenever it changes."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich.console import Console  # noqa: PLC0415 - only where a terminal is

        with Console(stderr=True).status("") as status:
            yield lambda text: status.update(text.replace("[", "\\["))
    else:
        yield say


def known(name: str, *, guess: bool = False) -> Architecture | None:
    """Return the model called ``name``; None where there is no name, or where a server's own name says nothing to us."""
    if not name:
        return None
    from bytebound.models import read_model  # noqa: PLC0415

    try:
        return read_model(name)
    except ByteboundError:
        if guess:
            return None
        raise


def format_of(run: Run, weights: str) -> str:
    """Return the weight format of a run: what the user said, or the dtype PyTorch loaded the model in."""
    if weights != "auto" or run.engine != "transformers":
        return weights
    dtype = str(run.settings.get("dtype", "auto"))
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(dtype, dtype)


def datasheet_of(machine: Machine) -> Device | None:
    """Return our catalogue's row of a measured accelerator; None for a processor, whose memory depends on the board."""
    from bytebound.errors import UnknownNameError  # noqa: PLC0415
    from bytebound.facts.devices import find_device  # noqa: PLC0415

    if machine.device.measured is None:
        return machine.device
    try:
        return find_device(machine.device.id)
    except UnknownNameError:
        return None


def keep_all(history: History | None, document: object, *, quiet: bool) -> None:
    """Keep a document in the history; a history that fails is said and loses nothing else."""
    if history is None:
        return
    from bytebound.history.store import keep  # noqa: PLC0415

    try:
        keep(history, document)
    except ByteboundError as error:
        say(f"not kept in the history: {error}", quiet=quiet)


def probe(
    model: str, machine: Machine, *, weights: str, flash: str, kv: str, threads: int | None,
    tell: Callable[[str], None], history: History | None, depth: int = 2048, quiet: bool = False,
) -> Calibration:  # fmt: skip
    """Calibrate llama.cpp for ``model`` and keep what was found."""
    from bytebound.observe.calibrate import calibrate  # noqa: PLC0415

    found = calibrate(
        model, weights=weights, flash=flash, kv="fp16" if kv == "auto" else kv, threads=threads, depth=depth,
        machine=machine.device.id, on_progress=tell,
    )  # fmt: skip
    keep_all(history, found, quiet=quiet)
    return found


def calibration_for(
    model: str, on: str, engine: str, *, weights: str, kv: str, attention: str, depth: int, quiet: bool
) -> Calibration:
    """Return a fresh calibration of ``engine`` for an estimate.

    Raises:
        RequestError: the estimate is not for this machine. UnknownNameError: an engine that cannot be calibrated.
    """
    from bytebound.errors import UnknownNameError  # noqa: PLC0415
    from bytebound.facts.engines import find_engine  # noqa: PLC0415
    from bytebound.facts.machines import HERE, find_machine  # noqa: PLC0415

    if find_engine(engine, place="--calibrate").name != "llama.cpp":
        raise UnknownNameError("engine to calibrate", engine, ["llama.cpp"], place="--calibrate")
    if on.strip().lower() != HERE:
        raise RequestError(
            "--calibrate probes the machine it runs on",
            place="--calibrate",
            mend="say --on here, after bytebound measure",
        )
    machine = find_machine(on)
    if not Path(model).exists() and weights == "auto":
        raise DocumentError(
            "a bundled model says no GGUF format",
            place="--weights",
            mend="add --weights q4_0, q8_0, fp16 … as you would run it",
        )
    with progress(quiet=quiet) as tell:
        return probe(
            model, machine, weights=weights, flash="off" if attention == "eager" else "on", kv=kv, threads=None, tell=tell,
            history=kept_in(None, quiet=quiet), depth=depth, quiet=quiet,
        )  # fmt: skip

"""Lay a watched training run beside what we predict of it: by tracing the same model, and by closed formulas."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.trace import Held
from bytebound.documents.values import Interval, Provenance, plain
from bytebound.documents.watched import Watched, WatchedPrediction
from bytebound.errors import ByteboundError, RequestError
from bytebound.models.config import read_config
from bytebound.observe.watched_request import request_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bytebound.documents.device import Machine
    from bytebound.documents.trace import Trace
    from bytebound.documents.watched import WatchedRank
    from bytebound.documents.work import Train
    from bytebound.engines.watching.command import Ran

LOOKED_AT = 3
"""The step whose allocations are watched, the one before it included, unless the model is compiled."""
CUDA_BLOCK = 512
"""Bytes that PyTorch's CUDA allocator rounds blocks up to. Source: kMinBlockSize in c10/cuda/CUDACachingAllocator."""
DISTURBING = 0.02
"""Share of a step from which our own hooks are worth a note."""


def lay_beside(
    ran: Ran, *, command: Sequence[str] = (), machine: Machine | None = None, no_machine: str = "", trace: Trace | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Watched:  # fmt: skip
    """Return the document of a run, with every prediction that can be made of it.

    Args:
        ran: how it went and what was recorded; ``command`` as it was typed.
        command: empty where the run was watched from Python.
        machine: the machine it ran on, for step times; None: memory alone, and ``no_machine`` says why.
        no_machine: see ``machine``.
        trace: of the same step, where the user gave code to trace; else the model's own config is traced.
        tell: told what is being done.
    """
    when = datetime.now(UTC)
    found = Watched(
        id=f"watch-{when:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", when=when.isoformat(timespec="seconds"), command=tuple(command),
        exit_code=ran.exit_code, seconds=ran.seconds, machine=machine.device.id if machine is not None else "", ranks=ran.ranks,
        why=why_ended(ran.exit_code, interrupted=ran.interrupted),
        provenance=(Provenance("memory and times", "measured", "torch's allocator and clock inside the watched process"),),
    )  # fmt: skip
    rank = found.fullest
    if rank is None:
        return replace(found, missing={"steps": no_steps(ran.with_torch, command)})
    missing = {} if rank.peak is not None else {"memory by category": unseen(rank)}
    notes = list(remarks(found, rank))
    predictions: list[WatchedPrediction] = []
    work = None
    try:
        work, assumed = request_of(rank)
        notes += assumed
    except RequestError as error:
        missing["prediction"] = f"{error.message}; {error.mend}" if error.mend else error.message
    if trace is not None:
        predictions.append(of_trace(trace))
    elif work is not None and rank.model is not None:
        tell("tracing the same model")
        _try(predictions, missing, "trace", lambda: traced(rank, work))
    if work is not None:
        if machine is None:
            missing["step time"] = no_machine
        else:
            _try(predictions, missing, "step time", lambda: timed(rank, work, machine))
        if machine is None or "step time" in missing:
            _try(predictions, missing, "formulas", lambda: by_formulas(rank, work))
    return replace(
        found, request=None if work is None else plain(work), predictions=tuple(predictions), missing=missing, notes=tuple(notes)
    )  # fmt: skip


def _try(
    predictions: list[WatchedPrediction], missing: dict[str, str], how: str, make: Callable[[], WatchedPrediction]
) -> None:  # fmt: skip
    """Add one prediction, or the reason why there is none: the measurement stands without it."""
    try:
        predictions.append(make())
    except ByteboundError as error:
        missing[how] = str(error)


def why_ended(exit_code: int, *, interrupted: bool) -> str:
    """Return what cut a run short, in words; empty where it ended well."""
    if interrupted:
        return "interrupted: what was recorded so far is reported"
    if exit_code < 0:
        return f"the command was ended by signal {-exit_code}: what was recorded so far is reported"
    return f"the command failed with exit code {exit_code}" if exit_code else ""


def no_steps(with_torch: int, command: Sequence[str]) -> str:
    """Return why nothing was recorded."""
    if with_torch:
        return (
            "torch was imported and no optimizer of torch.optim took a step (steps inside torch.compile cannot be seen)"
        )
    isolated = {"-I", "-E", "-S"} & set(command[1:])
    hint = f" (Python was started with {isolated.pop()}, which shuts us out)" if isolated else ""
    return f"no Python process of this command imported torch{hint}"


def unseen(rank: WatchedRank) -> str:
    """Return why a process has steps and no fullest moment."""
    if rank.troubles:
        return rank.troubles[0]
    if rank.steps > LOOKED_AT:
        return "no step was looked at closely: --steps 0, or too few of them once a model was compiled"
    taken = "one optimizer step was" if rank.steps == 1 else f"{rank.steps} optimizer steps were"
    return f"only {taken} taken: the allocator is watched from the second to the third"


def remarks(watched: Watched, rank: WatchedRank) -> list[str]:
    """Return what a reader must know about the measurement."""
    notes = [f"recording stopped in process {r.pid}: {trouble}" for r in watched.ranks for trouble in r.troubles]
    if rank.peak is not None and rank.peak.lead:
        notes.append(
            "the run ended before a whole step was seen closely: the peak is of the step before, and may be low"
        )
    if rank.recording_share > DISTURBING:
        notes.append(f"our hooks took {100 * rank.recording_share:.0f} % of a step: its times are that much too long")
    if rank.device.startswith("cuda") and rank.timed is not None:
        notes.append("step times are the host's: true where the queue of kernels is full, as in a steady loop")
    if "DistributedDataParallel" in (rank.model.wrappers if rank.model else ()) and rank.device == "cpu":
        notes.append("DDP's own copy of the gradients was made before we looked, inside C++: a CPU does not show it")
    if rank.elsewhere_bytes:
        notes.append(f"{rank.elsewhere_bytes / 1e9:.3g} GB of parameters, gradients or states lie on another device")
    return notes


def of_trace(trace: Trace) -> WatchedPrediction:
    """Return what a trace says of a step's fullest moment."""
    peak = trace.peak
    return WatchedPrediction("trace", peak.held, phase=peak.phase, notes=(*trace.unknown, *trace.notes))


def traced(rank: WatchedRank, work: Train) -> WatchedPrediction:
    """Trace a Hugging Face model of the same config under the same request.

    Raises:
        RequestError: torch or transformers is not installed here, or the model cannot be traced.
    """
    try:
        from bytebound.trace.hf import trace_model  # noqa: PLC0415 - needs torch
    except ImportError as error:
        raise RequestError(f"tracing needs {error.name}", mend='pip install "bytebound[trace]"') from None
    assert rank.model is not None  # noqa: S101 - request_of refused it otherwise
    on, block = ("cpu", 1) if rank.device == "cpu" else ("gpu", CUDA_BLOCK)
    return of_trace(
        trace_model(
            rank.model.config,
            work,
            name=rank.model.name,
            on=on,
            round_to=block,
            passes=min(round(rank.microbatches), 2),
        )
    )


def by_formulas(rank: WatchedRank, work: Train) -> WatchedPrediction:
    """Return what closed formulas say of the memory.

    Raises:
        RequestError: the config is of a family that we cannot read, or the request does not suit it.
    """
    from bytebound.ledger import training_plan  # noqa: PLC0415 - the ledger is loaded where it is used
    from bytebound.ledger.table import compile_table  # noqa: PLC0415
    from bytebound.ledger.training_memory import PEAKS, training_memory  # noqa: PLC0415

    table = compile_table(_architecture(rank))
    held = training_memory(table, training_plan.resolve(work, table), device_bytes=float("inf"))
    parts = (held.parameters, held.gradients, held.optimizer, held.activations, held.temporary)
    return on_device(
        rank, WatchedPrediction("formulas", Held(*(_one(part) for part in parts)), phase=PEAKS[int(_one(held.peak))])
    )


def on_device(rank: WatchedRank, found: WatchedPrediction) -> WatchedPrediction:
    """Return what formulas say without the workspaces of GPU libraries where the run was on a CPU."""
    from bytebound.ledger.training_memory import WORKSPACE_BYTES  # noqa: PLC0415

    if rank.device != "cpu":
        return found
    temporaries = max(found.held.temporaries - WORKSPACE_BYTES, 0.0)
    return replace(found, held=replace(found.held, temporaries=temporaries))


def timed(rank: WatchedRank, work: Train, machine: Machine) -> WatchedPrediction:
    """Return the step time and memory of ``bytebound train`` on ``machine``.

    Raises:
        RequestError: the plan does not suit the machine or the model.
    """
    from bytebound.predict.train_answers import train  # noqa: PLC0415 - the predictors are loaded where they are used

    answer = train(_architecture(rank), machine, work)
    memory = answer.memory
    held = Held(
        *(
            _one(part)
            for part in (memory.parameters, memory.gradients, memory.optimizer, memory.activations, memory.temporary)
        )
    )
    step = Interval(_one(answer.step_s.value), _one(answer.step_s.low), _one(answer.step_s.high))
    return on_device(rank, WatchedPrediction("formulas", held, phase=str(memory.peak), step_s=step, notes=answer.notes))


def _architecture(rank: WatchedRank) -> Any:
    assert rank.model is not None  # noqa: S101 - request_of refused it otherwise
    # a checkpoint stored in another format was widened when it was loaded: what we count is what was trained
    values = {
        key: value
        for key, value in rank.model.config.items()
        if key != "quantization_config" or "uint8" in rank.model.frozen
    }
    return read_config(values, rank.model.name)


def _one(value: Any) -> float:
    """Return the only element of what formulas answer for one request."""
    return float(np.asarray(value).reshape(-1)[0])

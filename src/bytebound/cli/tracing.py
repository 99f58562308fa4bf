"""Memory and work of real PyTorch code, found without a device: ``bytebound trace``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from bytebound.cli.output import FINE, NO, Html, Json, Quiet, emit, page, say, writable, write
from bytebound.errors import RequestError

if TYPE_CHECKING:
    from bytebound.documents.trace import Trace
    from bytebound.documents.trace_estimate import TraceEstimate
    from bytebound.documents.work import Train

MODEL = Group("How a model is trained (a function says so itself)", sort_key=5)


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True, slots=True)
class Trained:
    """How a model is trained; the fields of ``bytebound.Train`` that a trace of one device knows. None: its default."""

    seq: Annotated[int | None, Parameter(help="Tokens of a sequence (4096).")] = None
    micro_batch: Annotated[int | None, Parameter(help="Sequences worked on together (1).")] = None
    precision: Annotated[str | None, Parameter(help="bf16-mixed, bf16-autocast, bf16, fp32, …")] = None
    optimizer: Annotated[str | None, Parameter(help="adamw, adamw-8bit, sgd, lion, adafactor, muon, …")] = None
    optimizer_kernel: Annotated[str | None, Parameter(help="auto, foreach, fused or loop.")] = None
    recompute: Annotated[str | None, Parameter(help="none, selective or full.")] = None
    attention: Annotated[str | None, Parameter(help="flash or eager.")] = None
    loss: Annotated[str | None, Parameter(help="full, or chunked: never all logits at once.")] = None
    trainable: Annotated[str | None, Parameter(help="full, lora or qlora.")] = None
    lora_rank: Annotated[int | None, Parameter(help="Rank of the adapters (16).")] = None
    lora_targets: Annotated[str | None, Parameter(help="all, attention, qv or mlp.")] = None

    def work(self) -> Train | None:
        """Return the request, or None where nothing was asked."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        if not given:
            return None
        from bytebound.documents.work import Train  # noqa: PLC0415 - numpy, only where a verb runs

        return Train(**given)


AS_WRITTEN = Trained()


def trace(
    target: Annotated[
        str, Parameter(help="FILE.py:function, or a model: a bundled id, a config.json, or a folder with one.")
    ],
    /,
    *,
    on: Annotated[str, Parameter(name="--on", help="Also lay it on one device of this machine.")] = "",
    trained: Trained = AS_WRITTEN,
    forward: Annotated[
        bool, Parameter(negative="", help="Of a function: the forward pass alone, without gradients.")
    ] = False,
    limit: Annotated[float, Parameter(help="Seconds the code may take before it is stopped.")] = 120.0,
    allow: Annotated[
        str, Parameter(help="What the code may do besides computing: write, network, process, with commas.")
    ] = "",
    fail_on: Annotated[Literal["does-not-fit", "never"], Parameter(help="Decides exit code 1.")] = "never",
    json: Json = False,
    html: Html = None,
    quiet: Quiet = False,
) -> int:
    """Say what one training step of real PyTorch code holds, computes and moves, without weights and without a GPU.

    The function is called without arguments and returns (model, inputs), (model, step), (model, optimizer, step), a step, or
    nothing: then it is the step. It runs in a process of its own, on tensors without values, and may not write files, use the
    network or start processes unless --allow says so. That stops accidents; it does not make hostile code safe to run.

    Examples:
        bytebound trace train.py:make_step

        bytebound trace train.py:make_step --on h100-sxm --html memory.html

        bytebound trace llama-3.1-8b --seq 4096 --precision bf16-mixed --recompute full --on b200

        bytebound trace config.json --seq 2048 --trainable lora --lora-rank 16 --json

        bytebound trace train.py:main --allow write,network --limit 300
    """
    writable(html)
    if fail_on != "never" and not on:
        raise RequestError("whether it fits depends on the machine", place="--fail-on", mend="name one with --on")
    from bytebound.facts.machines import find_machine  # noqa: PLC0415 - numpy and tables
    from bytebound.trace.target import trace_target  # noqa: PLC0415

    machine = find_machine(on) if on else None
    permissions = tuple(part.strip() for part in allow.split(",") if part.strip())
    say(f"tracing {target}", quiet=quiet or json)
    found: Trace = trace_target(
        target, trained.work(), kind="forward" if forward else "training", limit_s=limit, allow=permissions
    )
    estimate: TraceEstimate | None = None
    if machine is not None:
        from bytebound.predict.traced import estimate_trace  # noqa: PLC0415

        estimate = estimate_trace(found, machine)
    if html is not None:
        from bytebound.report.trace_html import trace_html  # noqa: PLC0415

        write(html, trace_html(found, estimate), quiet=quiet)

    def text() -> str:
        from bytebound.report.trace import trace_text  # noqa: PLC0415

        return trace_text(found, page(), estimate)

    emit(estimate or found, json=json, text=text)
    return NO if estimate is not None and fail_on == "does-not-fit" and not estimate.fits else FINE

"""Memory and work of real PyTorch code, found without a device: ``bytebound trace``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from bytebound.cli.output import FINE, NO, Html, Json, Quiet, emit, page, say, writable, write
from bytebound.errors import RequestError

if TYPE_CHECKING:
    from bytebound.documents.device import Machine
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
    optimizer: Annotated[str | None, Parameter(help="adamw, adamw-bf16, sgd, lion, adafactor, muon, …")] = None
    optimizer_kernel: Annotated[str | None, Parameter(help="auto, foreach, fused or loop.")] = None
    recompute: Annotated[str | None, Parameter(help="none, selective or full.")] = None
    attention: Annotated[str | None, Parameter(help="flash or eager.")] = None
    loss: Annotated[str | None, Parameter(help="full, or chunked: never all logits at once.")] = None
    trainable: Annotated[str | None, Parameter(help="full, lora or qlora.")] = None
    lora_rank: Annotated[int | None, Parameter(help="Rank of the adapters (16).")] = None
    lora_targets: Annotated[str | None, Parameter(help="all, attention, qv or mlp.")] = None

    def work(self) -> Train | None:
        """Return the request, or None where nothing was asked."""
        given = self.stated()
        if not given:
            return None
        from bytebound.documents.work import Train  # noqa: PLC0415 - numpy, only where a verb runs

        return Train(**given)

    def stated(self) -> dict[str, Any]:
        """Return what was given."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


PLAN = Group("How the step is dealt out over the machine's devices", sort_key=6)


@Parameter(name="*", group=PLAN)
@dataclass(frozen=True, slots=True)
class Dealt:
    """A parallel plan: fields of ``bytebound.Train``. None: its default, and any one given asks for a plan."""

    tp: Annotated[int | None, Parameter(help="Tensor-parallel degree (1).")] = None
    pp: Annotated[int | None, Parameter(help="Pipeline stages (1).")] = None
    dp: Annotated[int | None, Parameter(help="Data-parallel replicas (as many as there are devices for).")] = None
    cp: Annotated[int | None, Parameter(help="Context-parallel degree (1).")] = None
    ep: Annotated[int | None, Parameter(help="Expert-parallel degree, inside tp × dp × cp (1).")] = None
    expert_tp: Annotated[
        int | None, Parameter(help="Tensor-parallel degree of experts (tp where ep is 1, else 1).")
    ] = None
    zero: Annotated[int | None, Parameter(help="ZeRO stage, 0 to 3 (3).")] = None
    global_batch: Annotated[
        int | None, Parameter(help="Sequences per optimizer step (512; of a function micro-batch × dp × pp).")
    ] = None
    schedule: Annotated[str | None, Parameter(help="auto, 1f1b, interleaved, gpipe, zb1p or zbv.")] = None
    virtual_stages: Annotated[int | None, Parameter(help="Layer chunks per pipeline stage (1).")] = None
    sequence_parallel: Annotated[str | None, Parameter(help="auto, on or off.")] = None
    gradients: Annotated[str | None, Parameter(help="Dtype gradients are kept in: auto, fp32 or bf16.")] = None
    recompute_layers: Annotated[float | None, Parameter(help="Share of layers that full recomputes (1).")] = None
    offload: Annotated[
        str | None, Parameter(help="none, optimizer, parameters, optimizer-nvme or parameters-nvme.")
    ] = None
    framework: Annotated[
        str | None, Parameter(help="auto (fsdp, or hf), megatron, fsdp, deepspeed, hf, litgpt or jax.")
    ] = None

    def stated(self) -> dict[str, Any]:
        """Return what was given."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


AS_WRITTEN, ONE_DEVICE = Trained(), Dealt()


def trace(
    target: Annotated[
        str, Parameter(help="FILE.py:function, or a model: a bundled id, a config.json, or a folder with one.")
    ],
    /,
    *,
    on: Annotated[
        str, Parameter(name="--on", help="Also lay it on one device of this machine, or with a plan on all.")
    ] = "",
    trained: Trained = AS_WRITTEN,
    dealt: Dealt = ONE_DEVICE,
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

        bytebound trace llama-3.1-70b --on "8x(8x h100-sxm)" --recompute full --tp 8 --pp 2 --dp 4 --zero 1

        bytebound trace train.py:main --allow write,network --limit 300
    """
    writable(html)
    if fail_on != "never" and not on:
        raise RequestError("whether it fits depends on the machine", place="--fail-on", mend="name one with --on")
    from bytebound.facts.machines import find_machine  # noqa: PLC0415 - numpy and tables
    from bytebound.trace.target import trace_target  # noqa: PLC0415

    machine = find_machine(on) if on else None
    plan, assumed = _plan(target, trained, dealt, machine, forward=forward)
    permissions = tuple(part.strip() for part in allow.split(",") if part.strip())
    say(f"tracing {target}", quiet=quiet or json)
    found: Trace = trace_target(
        target,
        plan or (None if _only_told(target, trained, dealt) else trained.work()),
        kind="forward" if forward else "training",
        limit_s=limit,
        allow=permissions,
        on="cpu" if machine is not None and machine.device.kind == "cpu" else "gpu",
    )
    estimate: TraceEstimate | None = None
    if machine is not None:
        from bytebound.predict.traced import estimate_trace  # noqa: PLC0415
        from bytebound.predict.traced_plan import request_plan, told  # noqa: PLC0415

        if plan is None and dealt.stated():
            found = told(found, seq=trained.seq or 0, samples=trained.micro_batch or 0)
            plan, assumed = request_plan(dealt.stated(), machine, trace=found)
        estimate = estimate_trace(found, machine, plan=plan, assumed=assumed)
    if html is not None:
        from bytebound.report.trace_html import trace_html  # noqa: PLC0415

        write(html, trace_html(found, estimate), quiet=quiet)

    def text() -> str:
        from bytebound.report.trace import trace_text  # noqa: PLC0415

        return trace_text(found, page(), estimate)

    emit(estimate or found, json=json, text=text)
    return NO if estimate is not None and fail_on == "does-not-fit" and not _fits(estimate) else FINE


def _plan(
    target: str, trained: Trained, dealt: Dealt, machine: Machine | None, *, forward: bool
) -> tuple[Train | None, tuple[str, ...]]:
    """Return the plan a model is traced for and what it assumes, before anything is traced; a function's follows its trace.

    Raises:
        RequestError: no machine to deal it out over, or degrees that do not multiply out.
    """
    stated = dealt.stated()
    if not stated:
        return None, ()
    name = next(iter(stated)).replace("_", "-")
    if machine is None:
        raise RequestError(
            "a plan deals a step out over a machine", place=f"--{name}", mend='name one, such as --on "8x h100-sxm"'
        )
    if forward:
        raise RequestError("a plan deals out a training step", place=f"--{name}", mend="leave out --forward")
    from bytebound.models import read_model  # noqa: PLC0415
    from bytebound.predict.traced_plan import request_plan  # noqa: PLC0415
    from bytebound.trace.script import is_script  # noqa: PLC0415

    if is_script(target):
        request_plan(stated, machine)
        return None, ()
    config = Path(target) / "config.json"
    model = read_model(str(config) if config.is_file() else target)
    return request_plan({**stated, **trained.stated()}, machine, model=model)


def _only_told(target: str, trained: Trained, dealt: Dealt) -> bool:
    """Return whether all that is said of a function under a plan is what its step works on."""
    from bytebound.trace.script import is_script  # noqa: PLC0415

    return is_script(target) and bool(dealt.stated()) and trained.stated().keys() <= {"seq", "micro_batch"}


def _fits(estimate: TraceEstimate) -> bool:
    return estimate.fits if estimate.plan is None else bool(estimate.plan.memory.fits)

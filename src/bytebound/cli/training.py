"""Training: ``train``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from bytebound.cli.output import FINE, NO, Html, Json, Model, On, Quiet, emit, page, writable, write


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class TrainAsked:
    """The request of ``train``: the same fields and meaning as ``bytebound.Train``; ``dp`` and ``global_batch`` may stay open."""

    seq: Annotated[int, Parameter(help="Tokens of a sequence.")] = 4096
    micro_batch: Annotated[int, Parameter(help="Sequences a replica works on together.")] = 1
    global_batch: Annotated[
        int | None,
        Parameter(help="Sequences per optimizer step; not stated: 512, or 16 for adapters, or the next that divides."),
    ] = None
    tokens: Annotated[float, Parameter(help="Tokens of the whole job, for its cost and days; 0: not stated.")] = 0
    tp: Annotated[int, Parameter(help="Tensor-parallel degree.")] = 1
    pp: Annotated[int, Parameter(help="Pipeline stages.")] = 1
    dp: Annotated[
        int | None, Parameter(help="Data-parallel replicas; not stated: as many as there are devices for.")
    ] = None
    cp: Annotated[int, Parameter(help="Context-parallel degree.")] = 1
    ep: Annotated[int, Parameter(help="Expert-parallel degree, inside tp × dp × cp.")] = 1
    expert_tp: Annotated[int, Parameter(help="Tensor-parallel degree of experts; 0: tp where ep is 1, else 1.")] = 0
    virtual_stages: Annotated[int, Parameter(help="Layer chunks per pipeline stage (interleaving).")] = 1
    schedule: Annotated[str, Parameter(help="auto, 1f1b, interleaved, gpipe, zb1p or zbv.")] = "auto"
    zero: Annotated[int, Parameter(help="ZeRO stage: 1 shards the optimizer, 2 gradients too, 3 parameters too.")] = 3
    precision: Annotated[
        str, Parameter(help="bf16-mixed, fp16-mixed, bf16-autocast, bf16, fp32, fp8-mixed or fp4-mixed.")
    ] = "bf16-mixed"
    gradients: Annotated[str, Parameter(help="Dtype gradients are kept in: auto, fp32 or bf16.")] = "auto"
    optimizer: Annotated[
        str,
        Parameter(
            help="adamw, adamw-8bit, adamw-4bit, adamw-bf16, sgd, sgd-momentum, lion, adafactor, muon, galore or galore-8bit."
        ),
    ] = "adamw"
    optimizer_kernel: Annotated[str, Parameter(help="auto, foreach, fused or loop.")] = "auto"
    recompute: Annotated[
        str, Parameter(help="Activations computed again in the backward pass: none, selective or full.")
    ] = "selective"
    recompute_layers: Annotated[float, Parameter(help="Share of layers that full recomputes.")] = 1.0
    attention: Annotated[str, Parameter(help="flash or eager (scores written to memory).")] = "flash"
    loss: Annotated[str, Parameter(help="full, or chunked: the logits of all tokens are never held at once.")] = "full"
    sequence_parallel: Annotated[str, Parameter(help="auto, on or off.")] = "auto"
    offload: Annotated[str, Parameter(help="none, optimizer, parameters, optimizer-nvme or parameters-nvme.")] = "none"
    trainable: Annotated[str, Parameter(help="full, lora or qlora.")] = "full"
    lora_rank: Annotated[int, Parameter(help="Rank of adapters.")] = 16
    lora_targets: Annotated[str, Parameter(help="all, attention, qv or mlp.")] = "all"
    framework: Annotated[str, Parameter(help="auto, megatron, fsdp, deepspeed, hf, litgpt or jax.")] = "auto"

    def stated(self) -> dict[str, Any]:
        """Return the fields of ``bytebound.Train`` that are settled."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in given.items() if value is not None}


DEFAULT = TrainAsked()


def train(
    model: Model,
    /,
    *,
    on: On,
    asked: TrainAsked = DEFAULT,
    fit: Annotated[
        bool,
        Parameter(
            name="--fit",
            negative="",
            help="Also search for what fits: micro-batch, sequence, devices, cheapest changes.",
        ),
    ] = False,
    sure: Annotated[float, Parameter(help="With --fit: the least probability of fitting that counts.")] = 0.9,
    fail_on: Annotated[Literal["does-not-fit", "never"], Parameter(help="Decides exit code 1.")] = "never",
    explain: Annotated[bool, Parameter(name="--explain", negative="", help="Show how each number is known.")] = False,
    json: Json = False,
    html: Html = None,
    quiet: Quiet = False,
) -> int:
    """Say what training a model needs on a machine: memory by part, step time, MFU, cost, what binds, and what would make it fit.

    Examples:
        bytebound train llama-3.1-8b --on "8x h100-sxm" --seq 8192

        bytebound train llama-3.1-70b --on "8x(8x h100-sxm)" --tp 8 --micro-batch 1 --global-batch 512 --tokens 1e12

        bytebound train llama-3.1-8b --on rtx-4090 --seq 2048 --trainable qlora --fit

        bytebound train llama-3.1-8b --on "2x a100-80gb-sxm" --fit --fail-on does-not-fit --json
    """
    writable(html)
    from bytebound.predict.train_answers import train as predict  # noqa: PLC0415

    found = predict(model, on, fit=fit, sure=sure, **asked.stated())
    if html is not None:
        from bytebound.report.training_html import training_html  # noqa: PLC0415

        write(html, training_html(found), quiet=quiet)

    def text() -> str:
        from bytebound.report.terminal_training import training_text  # noqa: PLC0415

        return training_text(found, page(), explained=explain)

    emit(found, json=json, text=text)
    return NO if fail_on == "does-not-fit" and not found.memory.fits else FINE

"""The levers of training: options of ``train --fit`` that an audit may recommend, with when each is worth it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bytebound.documents.work import Train
from bytebound.ledger import training_plan
from bytebound.plan.case import Case, Lever, Refusal, Today
from bytebound.predict import train_changes as changes
from bytebound.predict import train_options as options

if TYPE_CHECKING:
    from bytebound.predict.train_options import Option

KINDS = ("train", "finetune")
FITS, SHORT = "fits", "short"
"""When a lever is worth trying: where the job fits, or where it does not."""


def lever(
    name: str, title: str, *choices: Option, when: str = "", why: str = "", kinds: tuple[str, ...] = KINDS
) -> Lever:
    """Return the lever that takes the first of ``choices`` that applies.

    Args:
        name: how the report calls it.
        title: the same as an instruction.
        choices: options of one kind, most wanted first.
        when: ``fits`` or ``short``: only where the job fits, or only where it does not; empty: always.
        why: the reason of the refusal otherwise.
        kinds: of workloads.
    """

    def apply(case: Case, now: Today) -> Case | Refusal:
        if not isinstance(case.work, Train):
            return Refusal("this is not training")
        if (when == FITS and now.capacity_limited) or (when == SHORT and not now.capacity_limited):
            return Refusal(why)
        if case.kind not in kinds:
            return Refusal("adapters suit fine-tuning, not pre-training")
        return changed_by(case, *choices)

    first = choices[0]
    return Lever(name, title, apply, first.note, first.quality, first.source, kinds=KINDS)


def changed_by(case: Case, *choices: Option) -> Case | Refusal:
    """Return the case with the first option that applies, its framework held; else the reason of the last one."""
    work = case.work
    if not isinstance(work, Train):
        return Refusal("this is not training")
    held = replace(work, framework=training_plan.resolve(work, case.setting.table).framework)
    reason = ""
    for option in choices:
        changed = option.changes(held, case.setting)
        if not isinstance(changed, str):
            return replace(case, work=replace(held, **changed))
        reason = changed
    return Refusal(reason)


def split_training(case: Case, name: str, factor: float) -> Case | Refusal:
    """Return a training case with one degree multiplied (or halved), the devices taken from data parallelism."""
    return changed_by(
        case, options.Option(name, changes.degrees(**{name: factor}), "lossless", options.NONE, options.SPLIT)
    )


TRAINING_LEVERS: tuple[Lever, ...] = (
    lever("fp8-training", "Multiply in fp8 while training", options.FP8),
    lever("8-bit-optimizer", "Keep optimizer moments in 8 bits", options.EIGHT_BIT),
    lever(
        "full-recompute", "Recompute activations in the backward pass", options.FULL_RECOMPUTE, when=SHORT,
        why="it fits without; full recompute costs a third more FLOPs (rule 15)",
    ),
    lever(
        "drop-recompute", "Keep activations instead of recomputing them", options.NO_RECOMPUTE, options.SELECTIVE_RECOMPUTE, when=FITS,
        why="it does not fit as it is; keeping more activations needs more memory",
    ),
    lever(
        "shard-states", "Shard more states over the replicas (the next ZeRO stage)",
        options.Option("ZeRO", changes.next_zero, "lossless", options.NONE, options.ZERO),
    ),
    lever(
        "optimizer-offload", "Keep optimizer states, or parameters too, in host memory", *options.OFFLOAD[1:], when=SHORT,
        why="it fits without; offloaded states cross the host link in every step",
    ),
    lever("chunked-loss", "Compute the loss in chunks, never all logits at once", *options.LOSS),
    lever("fused-optimizer", "Step with one fused optimizer kernel", *options.KERNEL),
    lever("flash-attention", "Keep attention scores on chip", *options.ATTENTION),
    lever("sequence-parallel", "Deal out activations between tensor-parallel regions", *options.SEQUENCE_PARALLEL),
    lever("context-parallel", "Split sequences over twice as many devices", options.Option("cp", changes.degrees(cp=2), "lossless", options.NONE, "Ring Attention, arXiv 2310.01889")),
    lever(
        "smaller-micro-batch", "Halve the micro-batch and accumulate", options.Option("micro-batch", changes.micro_batch(0.5), "lossless", options.NONE, options.ACCUMULATION),
        when=SHORT, why="it fits; smaller products use the matrix units less",
    ),
    lever(
        "larger-micro-batch", "Double the micro-batch", options.Option("micro-batch", changes.micro_batch(2), "lossless", options.NONE, options.ACCUMULATION),
        when=FITS, why="it does not fit as it is; a larger micro-batch needs more memory",
    ),
    lever("lora", "Train low-rank adapters", options.LORA, kinds=("finetune",)),
    lever("qlora", "Train low-rank adapters over a 4-bit base", options.QLORA, kinds=("finetune",), when=SHORT, why="it fits without a 4-bit base"),
)  # fmt: skip

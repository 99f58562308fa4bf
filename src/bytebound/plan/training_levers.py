"""The levers of training: options of ``train --fit`` that an audit may recommend, with when each is worth it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.work import Train
from bytebound.ledger import training_plan
from bytebound.plan.case import Case, Refusal, Today
from bytebound.predict import train_changes as changes
from bytebound.predict import train_options as options

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bytebound.predict.estimate import Setting
    from bytebound.predict.train_options import Option

    Apply = Callable[[Case, Today], Case | Refusal]

KINDS = ("train", "finetune")
FITS, SHORT = "fits", "short"
"""When a lever is worth trying: where the job fits, or where it does not."""


def first_of(*choices: Option, when: str = "", why: str = "", kinds: tuple[str, ...] = KINDS) -> Apply:
    """Return the lever that takes the first of ``choices`` that applies.

    Args:
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

    return apply


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


def _lossless(name: str, change: changes.Change, source: str) -> Option:
    return options.Option(name, change, "lossless", options.NONE, source)


def interleave(work: Train, setting: Setting) -> dict[str, Any] | str:
    """Return the change to two chunks of layers per pipeline stage."""
    if int(np.max(work.pp)) == 1:
        return "there is no pipeline"
    if int(np.max(work.virtual_stages)) > 1:
        return f"stages already have {int(np.max(work.virtual_stages))} chunks"
    if work.framework != "megatron":
        return f"{work.framework} interleaves no stages in our tables"
    if setting.table.layers % (2 * int(np.max(work.pp))):
        return f"{int(setting.table.layers)} layers do not divide into {2 * int(np.max(work.pp))} chunks"
    return {"virtual_stages": 2}


def _state(name: str) -> Option:
    return next(option for option in options.OTHER_STATES if option.name == name)


TRAINING_LEVERS: dict[str, Apply] = {
    "fp8-training": first_of(options.FP8),
    "bf16-states": first_of(_state("everything in bf16")),
    "8-bit-optimizer": first_of(options.EIGHT_BIT),
    "4-bit-optimizer": first_of(_state("4-bit AdamW")),
    "galore": first_of(_state("GaLore 8-bit")),
    "full-recompute": first_of(
        options.FULL_RECOMPUTE, when=SHORT, why="it fits without; full recompute costs a third more FLOPs (rule 15)"
    ),
    "drop-recompute": first_of(
        options.NO_RECOMPUTE, options.SELECTIVE_RECOMPUTE, when=FITS,
        why="it does not fit as it is; keeping more activations needs more memory",
    ),
    "shard-states": first_of(_lossless("ZeRO", changes.next_zero, options.ZERO)),
    "optimizer-offload": first_of(
        *options.OFFLOAD[1:], when=SHORT, why="it fits without; offloaded states cross the host link in every step"
    ),
    "chunked-loss": first_of(*options.LOSS),
    "fused-optimizer": first_of(*options.KERNEL),
    "flash-attention": first_of(*options.ATTENTION),
    "sequence-parallel": first_of(*options.SEQUENCE_PARALLEL),
    "context-parallel": first_of(_lossless("cp", changes.degrees(cp=2), "Ring Attention, arXiv 2310.01889")),
    "interleaved-pipeline": first_of(_lossless("virtual stages", interleave, "Megatron-LM, arXiv 2104.04473")),
    "smaller-micro-batch": first_of(
        _lossless("micro-batch", changes.micro_batch(0.5), options.ACCUMULATION), when=SHORT,
        why="it fits; smaller products use the matrix units less (rule 17)",
    ),
    "larger-micro-batch": first_of(
        _lossless("micro-batch", changes.micro_batch(2), options.ACCUMULATION), when=FITS,
        why="it does not fit as it is; a larger micro-batch needs more memory",
    ),
    "lora": first_of(options.LORA, kinds=("finetune",)),
    "qlora": first_of(options.QLORA, kinds=("finetune",), when=SHORT, why="it fits without a 4-bit base"),
}  # fmt: skip

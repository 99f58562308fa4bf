"""What each training framework can run: which degrees, ZeRO stages, optimizers, offloads. A search proposes nothing else.

Sources: Megatron-LM arguments (``--exp-avg-dtype``, ``--optimizer-cpu-offload``, ``--recompute-num-layers``); torchtitan (FSDP2, tensor,
context, pipeline and expert parallelism) with torchao's optimizers; DeepSpeed configuration and its pipeline engine; transformers
``TrainingArguments`` with accelerate's ``ParallelismConfig``; litgpt (Lightning Fabric's DDP and FSDP); MaxText configurations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bytebound.documents.work import Train

ALL_SPLITS = frozenset({"tp", "pp", "cp", "ep"})
SPLITS = {
    "megatron": ALL_SPLITS, "fsdp": ALL_SPLITS, "deepspeed": ALL_SPLITS, "jax": ALL_SPLITS,
    "hf": frozenset({"tp", "cp"}), "litgpt": frozenset[str](),
}  # fmt: skip
"""Degrees each framework has beside data parallelism; ``hf`` only in full training (``splits_of``)."""

STAGED = ("megatron", "deepspeed")
"""Frameworks whose pipelines accumulate whole gradients: DeepSpeed's engine asserts a ZeRO stage below 2, Megatron's distributed
optimizer is stage 1. torchtitan's FSDP2 goes with a pipeline."""
NO_STAGE_ONE = ("fsdp", "litgpt")
"""FSDP shards everything, or all but the forward's parameters, or nothing: it has no stage that shards the optimizer alone."""

OFFLOADS = {
    "megatron": ("optimizer",), "fsdp": ("parameters",), "litgpt": (), "jax": ("optimizer", "parameters"),
    "deepspeed": ("optimizer", "parameters", "optimizer-nvme", "parameters-nvme"),
    "hf": ("optimizer", "parameters", "optimizer-nvme", "parameters-nvme"),
}  # fmt: skip
"""What each can keep off the device. FSDP's ``CPUOffloadPolicy`` moves parameters together with gradients and optimizer; ``hf`` runs
DeepSpeed underneath."""

OPTIMIZERS = {
    "megatron": ("adamw-8bit", "adamw-bf16"), "fsdp": ("adamw-8bit", "adamw-4bit", "adamw-bf16", "adafactor"),
    "deepspeed": ("adamw-8bit", "adafactor"), "hf": ("adamw-8bit", "adamw-4bit", "adamw-bf16", "adafactor", "galore-8bit"),
    "litgpt": ("adamw-8bit", "adamw-4bit", "adafactor"), "jax": ("adamw-bf16", "adafactor"),
}  # fmt: skip
"""Optimizers in AdamW's place. ``adamw-8bit`` is bitsandbytes or torchao, in Megatron its precision-aware optimizer."""

BY_LAYER = ("megatron", "fsdp", "deepspeed")
"""Frameworks that recompute a share of the layers; the others all of them or none."""


def splits_of(work: Train) -> frozenset[str]:
    """Return the degrees the framework of ``work`` runs. PEFT's adapters under ``hf`` are data parallel only."""
    return (
        frozenset() if work.framework == "hf" and work.trainable != "full" else SPLITS.get(work.framework, ALL_SPLITS)
    )


def runnable(work: Train, *, zero: Any, pp: Any, dp: Any, offload: str | None = None) -> Any:
    """Return whether the framework runs these together; numbers or arrays.

    A pipeline goes with ZeRO 2 or 3 only outside ``STAGED``; FSDP has no stage 1; parameters of several replicas are offloaded at
    stage 3 alone (ZeRO-Infinity, FSDP).

    Args:
        work: with its framework.
        zero: stage asked for.
        pp: pipeline stages asked for.
        dp: replicas asked for.
        offload: what lies off the device, or as in ``work``.
    """
    stage, stages, replicas = np.asarray(zero), np.asarray(pp), np.asarray(dp)
    away = (work.offload if offload is None else offload).startswith("parameters")
    piped = (stage < 2) | (stages < 2) | (work.framework not in STAGED)
    sharded = (stage != 1) | (replicas < 2) | (work.framework not in NO_STAGE_ONE)
    return piped & sharded & ((not away) | (stage >= 3) | (replicas < 2))

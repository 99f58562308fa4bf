"""What can be changed about a training job: each option names the fields it sets, or says why it does not apply.

``train --fit`` searches them and the audit's levers apply them; what a change gives is found by running the step again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import RequestError
from bytebound.ledger import training_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.work import Train
    from bytebound.predict.estimate import Setting

QUALITY_ORDER = ("lossless", "near-lossless", "any")
ADAM_LIKE = ("adamw",)


@dataclass(frozen=True, slots=True)
class Option:
    """One change: ``changes`` returns the fields it sets, or the reason why it does not apply.

    ``quality`` is lossless, near-lossless or any (less); ``note`` says what it risks, ``source`` where that or the method is published.
    """

    name: str
    changes: Callable[[Train, Setting], dict[str, Any] | str]
    quality: str
    note: str
    source: str


def recompute(kind: str, layers: float = 1.0) -> Callable[[Train, Setting], dict[str, Any] | str]:
    """Return the change of what the backward pass computes again; ``layers`` of them for ``full``."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        if work.recompute == kind and (kind != "full" or float(np.asarray(work.recompute_layers)) == layers):
            return f"recompute already is {kind}"
        return {"recompute": kind, "recompute_layers": layers} if kind == "full" else {"recompute": kind}

    return changes


def optimizer(name: str) -> Callable[[Train, Setting], dict[str, Any] | str]:
    """Return the change of optimizer, from AdamW only: another one is part of the recipe."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        return {"optimizer": name} if work.optimizer in ADAM_LIKE else f"the optimizer is {work.optimizer}"

    return changes


def precision(name: str) -> Callable[[Train, Setting], dict[str, Any] | str]:
    """Return the change of precision; narrow products need hardware for them."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        narrow = name.removesuffix("-mixed")
        if work.precision == name:
            return f"the precision already is {name}"
        if work.precision == "bf16" and name != "bf16":
            return "states are kept in 16 bits; a mixed precision would widen them"
        if name == "bf16" and (work.precision == "fp32" or work.trainable != "full"):
            return (
                "32-bit training is part of the recipe" if work.precision == "fp32" else "the base is frozen in 16 bits"
            )
        if narrow in {"fp8", "fp4"} and narrow not in setting.machine.device.flop_per_s:
            return f"{setting.machine.device.id} has no {narrow} matrix rate"
        if narrow in {"fp8", "fp4"} and work.trainable != "full":
            return "adapters train over 16-bit or 4-bit weights"
        return {"precision": name}

    return changes


def zero(stage: int) -> Callable[[Train, Setting], dict[str, Any] | str]:
    """Return the change of ZeRO stage."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        if int(np.max(work.zero)) == stage:
            return f"ZeRO already is at stage {stage}"
        if int(np.max(np.asarray(work.dp) * np.asarray(work.cp))) == 1:
            return "one replica has nothing to shard over"
        return {"zero": stage}

    return changes


def offload(where: str) -> Callable[[Train, Setting], dict[str, Any] | str]:
    """Return the change of what lies in host memory or on NVMe."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        if work.offload == where:
            return "nothing is offloaded" if where == "none" else f"{where} is offloaded already"
        if where != "none" and setting.machine.device.host_bytes_per_s is None:
            return f"no host link is known for {setting.machine.device.id}"
        if where.startswith("optimizer") and work.trainable != "full":
            return "adapters have next to no optimizer states"
        return {"offload": where}

    return changes


def setting_of(name: str, value: str, already: str) -> Callable[[Train, Setting], dict[str, Any] | str]:
    """Return the change that sets one field, refused with ``already`` where it is set."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        return already if getattr(work, name) == value else {name: value}

    return changes


def fused_optimizer(work: Train, setting: Setting) -> dict[str, Any] | str:
    """Return the change to one optimizer kernel per tensor: it needs no copy of the states while it steps."""
    if training_plan.resolve(work, setting.table).optimizer_kernel != "foreach":
        return f"the optimizer's kernel is {training_plan.resolve(work, setting.table).optimizer_kernel}"
    return {"optimizer_kernel": "fused"}


def sequence_parallel(work: Train, setting: Setting) -> dict[str, Any] | str:
    """Return the change that deals activations between tensor-parallel regions out too."""
    if int(np.max(work.tp)) == 1:
        return "there is no tensor parallelism"
    if training_plan.resolve(work, setting.table).sequence_parallel == "on":
        return "sequence parallelism is on"
    return {"sequence_parallel": "on"}


def micro_batch(factor: float) -> Callable[[Train, Setting], dict[str, Any] | str]:
    """Return the change of micro-batch at the same global batch: more or fewer steps are accumulated."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        wanted, dp, batch = int(work.micro_batch) * factor, int(work.dp), int(work.global_batch)
        if wanted < 1 or wanted != int(wanted):
            return f"the micro-batch is {int(work.micro_batch)}"
        if batch % (int(wanted) * dp):
            return f"{int(wanted)} × dp {dp} does not divide the global batch of {batch}"
        return {"micro_batch": int(wanted)}

    return changes


def degrees(**factors: int) -> Callable[[Train, Setting], dict[str, Any] | str]:
    """Return the change that multiplies degrees and takes the devices from data parallelism."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        taken = math.prod(factor for name, factor in factors.items() if name != "ep")
        dp = int(work.dp)
        if dp % taken:
            return f"dp is {dp}: there are no devices to take for {' and '.join(factors)}"
        wanted = {name: int(getattr(work, name)) * factor for name, factor in factors.items()} | {"dp": dp // taken}
        if wanted.get("tp", 1) > setting.ceilings.domain:
            return f"one scale-up link joins {int(setting.ceilings.domain)} devices (rule 9: tensor parallelism across nodes is link-bound)"
        return _possible(work, wanted, setting)

    return changes


def halved(name: str) -> Callable[[Train, Setting], dict[str, Any] | str]:
    """Return the change that halves a degree and gives the devices to data parallelism."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        degree = int(getattr(work, name))
        if degree % 2:
            return f"{name} is {degree}"
        return _possible(work, {name: degree // 2, "dp": int(work.dp) * 2}, setting)

    return changes


def _possible(work: Train, wanted: dict[str, Any], setting: Setting) -> dict[str, Any] | str:
    try:
        training_plan.check(replace(work, **wanted), setting.architecture, setting.table, None)
    except RequestError as error:
        return error.message
    return wanted


def adapters(kind: str) -> Callable[[Train, Setting], dict[str, Any] | str]:
    """Return the change to adapters over frozen weights: another thing is trained."""

    def changes(work: Train, setting: Setting) -> dict[str, Any] | str:
        del setting
        return {"trainable": kind} if work.trainable == "full" else f"{work.trainable} adapters are trained already"

    return changes


NONE = "none"
ACCUMULATION = "arithmetic of gradient accumulation"
KORTHIKANTI, ZERO, INFINITY = (
    "Korthikanti et al. 2022, arXiv 2205.05198",
    "ZeRO, arXiv 1910.02054",
    "ZeRO-Infinity, arXiv 2104.07857",
)

NO_RECOMPUTE = Option("recompute none", recompute("none"), "lossless", NONE, KORTHIKANTI)
SELECTIVE_RECOMPUTE = Option("recompute selective", recompute("selective"), "lossless", NONE, KORTHIKANTI)
FULL_RECOMPUTE = Option("recompute full", recompute("full"), "lossless", NONE, "Chen et al. 2016, arXiv 1604.06174")
RECOMPUTE = (NO_RECOMPUTE, SELECTIVE_RECOMPUTE, FULL_RECOMPUTE)
PARTIAL_RECOMPUTE = tuple(
    Option(
        f"only in {share:.0%} of the layers",
        recompute("full", share),
        "lossless",
        NONE,
        "Megatron-LM --recompute-num-layers",
    )
    for share in (0.25, 0.5, 0.75)
)
OFFLOAD = (
    Option("nothing offloaded", offload("none"), "lossless", NONE, "ZeRO-Offload, arXiv 2101.06840"),
    Option("optimizer in host memory", offload("optimizer"), "lossless", NONE, "ZeRO-Offload, arXiv 2101.06840"),
    Option("parameters and optimizer in host memory", offload("parameters"), "lossless", NONE, INFINITY),
)
NVME = (
    Option("optimizer on NVMe", offload("optimizer-nvme"), "lossless", NONE, INFINITY),
    Option("parameters and optimizer on NVMe", offload("parameters-nvme"), "lossless", NONE, INFINITY),
)
LOSS = (
    Option(
        "chunked loss",
        setting_of("loss", "chunked", "the loss is chunked already"),
        "lossless",
        NONE,
        "Liger Kernel, arXiv 2410.10989",
    ),
)
ATTENTION = (
    Option(
        "flash attention",
        setting_of("attention", "flash", "attention is flash already"),
        "lossless",
        NONE,
        "FlashAttention, arXiv 2205.14135",
    ),
)
KERNEL = (
    Option(
        "fused optimizer kernel",
        fused_optimizer,
        "lossless",
        NONE,
        "torch.optim.AdamW documentation: foreach uses about a copy of the parameters more",
    ),
)
SEQUENCE_PARALLEL = (Option("sequence parallel", sequence_parallel, "lossless", NONE, KORTHIKANTI),)
EIGHT_BIT = Option(
    "8-bit AdamW",
    optimizer("adamw-8bit"),
    "near-lossless",
    "TruthfulQA 42.61 → 42.75 (Llama-2-7B, bitsandbytes)",
    "torchao optim README",
)
FP8 = Option(
    "fp8 products",
    precision("fp8-mixed"),
    "near-lossless",
    "loss gap under 0.25 % (DeepSeek-V3)",
    "DeepSeek-V3 report section 3.3; torchtitan benchmarks 2024-12",
)
LORA = Option(
    "LoRA",
    adapters("lora"),
    "any",
    "trains adapters, not the model: learns less on code and mathematics",
    "arXiv 2106.09685; arXiv 2405.09673",
)
QLORA = Option(
    "QLoRA", adapters("qlora"), "any", "trains adapters over a 4-bit base, not the model", "QLoRA, arXiv 2305.14314"
)
OTHER_STATES = (
    Option(
        "AdamW moments in bf16",
        optimizer("adamw-bf16"),
        "near-lossless",
        "no degradation seen by DeepSeek-V3",
        "DeepSeek-V3 report section 3.3.3",
    ),
    Option(
        "4-bit AdamW", optimizer("adamw-4bit"), "any", "TruthfulQA 42.61 → 42.27 (Llama-2-7B)", "torchao optim README"
    ),
    Option(
        "Adafactor", optimizer("adafactor"), "any", "another optimizer: tune its learning rate anew", "arXiv 1804.04235"
    ),
    Option(
        "GaLore 8-bit",
        optimizer("galore-8bit"),
        "any",
        "low-rank gradients; another optimizer in effect",
        "arXiv 2403.03507",
    ),
    Option(
        "everything in bf16",
        precision("bf16"),
        "any",
        "small updates vanish without stochastic rounding or Kahan sums",
        "arXiv 2010.06192",
    ),
)


def zero_options() -> tuple[Option, ...]:
    """Return one option per ZeRO stage."""
    return tuple(Option(f"ZeRO {stage}", zero(stage), "lossless", NONE, ZERO) for stage in range(4))


def micro_batch_options(work: Train) -> tuple[Option, ...]:
    """Return smaller and larger micro-batches, down to 1 and up to 16 times."""
    found = []
    for factor in (1 / 8, 1 / 4, 1 / 2, 2, 4, 8, 16):
        wanted = int(work.micro_batch) * factor
        if wanted >= 1 and wanted == int(wanted):
            found.append(
                Option(
                    f"micro-batch {wanted:g}",
                    micro_batch(factor),
                    "lossless",
                    NONE,
                    ACCUMULATION,
                )
            )
    return tuple(found)


SPLIT = "Megatron-LM, arXiv 1909.08053, 2104.04473; Ring Attention, arXiv 2310.01889"


def degree_options(work: Train, setting: Setting) -> tuple[Option, ...]:
    """Return the ways to split the model over the same devices: tp inside a node, pp, cp and ep further, or any of them by half."""
    each = {name: int(getattr(work, name)) for name in ("tp", "pp", "cp", "ep")}
    experts = bool((setting.table.products.copies > 1).any())
    found = [
        Option(f"{name} {degree // 2}", halved(name), "lossless", NONE, SPLIT)
        for name, degree in each.items()
        if degree > 1 and name != "ep"
    ]
    for factors in product((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4), (1, 2, 4, 8) if experts else (1,)):
        grown = {name: factor for name, factor in zip(each, factors, strict=True) if factor > 1}
        taken = math.prod(factors[:3])
        if grown and each["tp"] * factors[0] <= setting.ceilings.domain and int(work.dp) % taken == 0:
            name = ", ".join(f"{key} {each[key] * factor}" for key, factor in grown.items())
            found.append(Option(name, degrees(**grown), "lossless", NONE, SPLIT))
    return tuple(found)

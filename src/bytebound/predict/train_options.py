"""What can be changed about a training job, with what each change risks and where that is published.

``train --fit`` searches these options and the audit's levers apply them; what one gives is found by running the step again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from bytebound.predict.train_changes import (
    adapters,
    degrees,
    fused_optimizer,
    micro_batch,
    offload,
    optimizer,
    precision,
    recompute,
    sequence_parallel,
    setting_of,
    zero,
)

if TYPE_CHECKING:
    from bytebound.documents.work import Train
    from bytebound.predict.estimate import Setting
    from bytebound.predict.train_changes import Change

QUALITY_ORDER = ("lossless", "near-lossless", "any")


@dataclass(frozen=True, slots=True)
class Option:
    """One change: ``changes`` returns the fields it sets, or the reason why it does not apply.

    ``quality`` is lossless, near-lossless or any (less); ``note`` says what it risks, ``source`` where that or the method is published.
    """

    name: str
    changes: Change
    quality: str
    note: str
    source: str


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
        f"recompute full in {share:.0%} of the layers",
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


FACTORS = {
    "tp": (0.25, 0.5, 1, 2, 4, 8),
    "pp": (0.25, 0.5, 1, 2, 4, 8),
    "cp": (0.25, 0.5, 1, 2, 4),
    "ep": (0.5, 1, 2, 4, 8),
}
"""What each degree is multiplied by, every combination."""


def degree_options(work: Train, setting: Setting) -> tuple[Option, ...]:
    """Return the ways to split the model over the same devices: tp inside a node, pp, cp and ep, each further or less far."""
    each = {name: int(getattr(work, name)) for name in FACTORS}
    experts = bool((setting.table.products.copies > 1).any())
    found = []
    for factors in product(*((1,) if name == "ep" and not experts else FACTORS[name] for name in FACTORS)):
        changed = {name: factor for name, factor in zip(each, factors, strict=True) if factor != 1}
        replicas = int(work.dp) / math.prod(factors[:3])
        if (
            changed
            and replicas == int(replicas)
            and all(float(each[name] * factor).is_integer() for name, factor in changed.items())
        ):
            name = ", ".join(f"{key} {each[key] * factor:g}" for key, factor in changed.items())
            found.append(Option(name, degrees(**changed), "lossless", NONE, SPLIT))
    return tuple(found)

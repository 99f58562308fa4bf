"""Training step time and memory from the training ledger, until the training issue deepens them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger.ledger import COLLECTIVE, GEMM, MATH
from bytebound.ledger.training import train_ledger

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.work import Train
    from bytebound.ledger.training import TrainingLedger
    from bytebound.predict.estimate import Setting

    Array = NDArray[Any]

STEP_SHARE = 0.55
"""End-to-end training rate over what large matrix products attain: published MFU medians are 42 % (A100, MosaicML FSDP, 139
runs) and 37 % (H100, 70 runs) where products attain 91 % and 80 % of the dense peak."""
FP8_PRODUCT_GAIN = 1.35
"""How much faster matrix products of a training step get in fp8, casts included, attention apart: gives the 1.28 × of torchtitan
2024-12 (Llama-3-8B, 8 H100, 6,667 to 8,532 tokens/s) at 8,192 tokens, where the datasheet promises 2."""
TRAIN_SPREAD = 1.5
"""Half-width factor of the 80 % interval: the same published runs span 78–187 and 151–430 TFLOP/s."""
OVERLAP_SHARE = 2 / 3
"""Data-parallel communication hides behind the backward pass, two thirds of the compute."""
USABLE_SHARE = 0.92
"""Share of memory a training run can use: context, communication buffers and fragmentation take the rest (SimuMax B200:
reserved 6.5 % over allocated)."""


@dataclass(frozen=True, slots=True)
class TrainingTime:
    """Step time by part, memory and whether it fits; arrays broadcast."""

    ledger: TrainingLedger
    step_s: Array
    compute_s: Array
    link_s: Array
    bubble_s: Array
    total_bytes: Array
    usable_bytes: Array
    mfu: Array

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Whether a device holds it."""
        return np.asarray(self.total_bytes <= self.usable_bytes)

    @property
    def tokens_per_s(self) -> Array:
        """Tokens per second of the whole job."""
        return np.asarray(self.ledger.tokens / self.step_s)


def train_time(setting: Setting, work: Train) -> TrainingTime:
    """Return step time and memory of ``work`` on every device the degrees ask for.

    ``step = (compute + tensor links) × (1 + bubble) + exposed data-parallel time``; 1F1B bubble (p − 1)/m of the busy time.
    Source: Narayanan et al. 2021 (arXiv 2104.04473) section 2.2.
    """
    c = setting.ceilings
    ledger = train_ledger(setting.table, float(setting.architecture.parameters), work)
    peak = c.flop_per_s[MATH.index("fp32" if work.precision == "fp32" else "bf16")]
    share = c.compute_share[GEMM, 0] * STEP_SHARE
    has_fp8 = work.precision == "fp8-mixed" and "fp8" in setting.machine.device.flop_per_s
    shortened = (1 - ledger.attention_share) * (1 - 1 / FP8_PRODUCT_GAIN) if has_fp8 else 0.0
    compute = (ledger.flops + ledger.recomputed_flops) / (peak * share) * (1 - shortened)
    tp, pp, dp, cp = (np.asarray(v, dtype=float) for v in (work.tp, work.pp, work.dp, work.cp))
    up, out = c.scaleup_bytes_per_s * c.link_share, c.scaleout_bytes_per_s * c.link_share
    tensor_rate = np.where(tp <= c.domain, up, out)
    tensor = ledger.tensor_collectives * (
        2 * (tp - 1) / tp * ledger.tensor_bytes / tensor_rate + np.where(tp > 1, c.floor_s[COLLECTIVE], 0.0)
    )
    wide = np.where(tp * dp * cp <= c.domain, up, out)
    data = ledger.data_parallel_bytes / wide
    exposed = np.maximum(data - OVERLAP_SHARE * compute, 0.0)
    busy = compute + tensor
    bubble = busy * (pp - 1) / ledger.microbatches
    step = busy + bubble + exposed
    held = (
        ledger.weight_bytes
        + ledger.gradient_bytes
        + ledger.optimizer_bytes
        + ledger.activation_bytes
        + ledger.temporary_bytes
    )
    return TrainingTime(
        ledger, step, compute, tensor + exposed, bubble, held, c.memory_bytes * USABLE_SHARE + np.zeros_like(held),
        ledger.flops / (step * peak),
    )  # fmt: skip

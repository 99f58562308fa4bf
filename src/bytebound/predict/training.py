"""Training step time and memory from the training ledger, until the training issue deepens them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.training import CONVENTIONS
from bytebound.ledger.ledger import COLLECTIVE, GEMM, MATH
from bytebound.ledger.training import train_ledger

if TYPE_CHECKING:
    from collections.abc import Mapping

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
class TrainingHeld:
    """Bytes on the fullest device by part, ``reserve`` as an interval; arrays broadcast."""

    parameters: Array
    gradients: Array
    optimizer: Array
    activations: Array
    temporary: Array
    reserve: Array
    reserve_low: Array
    reserve_high: Array
    host_bytes: Array
    usable_bytes: Array
    spread: Array


@dataclass(frozen=True, slots=True)
class TrainingTime:
    """One optimizer step: what a device holds, how long it takes and on what. Arrays broadcast to the request.

    Args:
        held: bytes by part on the fullest device. usable_bytes: what it can hold.
        step_s: seconds of the step. parts: the same by ``documents.training.TIME_PARTS``; they add up to it.
        model_flops, hardware_flops: FLOPs of one step of the whole job under the causal convention, without and with what is
            recomputed. flops_by_convention: model FLOPs under each of ``documents.training.CONVENTIONS``.
        peak_flop_per_s: dense peak of one device in the widest dtype the precision multiplies in.
        devices: devices at work. tokens: tokens of one step. microbatches: of one step and replica.
        bubble_share: of the step. spread: half-width factor of the 80 % interval of the step.
    """

    ledger: TrainingLedger
    held: TrainingHeld
    usable_bytes: Array
    step_s: Array
    parts: Mapping[str, Array]
    model_flops: Array
    hardware_flops: Array
    flops_by_convention: Mapping[str, Array]
    peak_flop_per_s: Array
    devices: Array
    tokens: Array
    microbatches: Array
    bubble_share: Array
    spread: Array

    @property
    def total_bytes(self) -> Array:
        """Bytes on the fullest device, reserve included."""
        h = self.held
        return np.asarray(h.parameters + h.gradients + h.optimizer + h.activations + h.temporary + h.reserve)

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Whether a device holds it."""
        return np.asarray(self.total_bytes <= self.usable_bytes)

    @property
    def tokens_per_s(self) -> Array:
        """Tokens per second of the whole job."""
        return np.asarray(self.tokens / self.step_s)

    @property
    def mfu(self) -> Array:
        """Model FLOPs (causal) per second over the dense peak of all devices."""
        return np.asarray(self.model_flops / (self.step_s * self.peak_flop_per_s * self.devices))

    @property
    def hfu(self) -> Array:
        """FLOPs done (recomputation too) per second over the dense peak of all devices."""
        return np.asarray(self.hardware_flops / (self.step_s * self.peak_flop_per_s * self.devices))

    @property
    def compute_s(self) -> Array:
        """Seconds that faster arithmetic shortens, recomputation among them."""
        return np.asarray(self.parts["compute"] + self.parts["recompute"])

    @property
    def link_s(self) -> Array:
        """Seconds of communication that nothing hides."""
        return np.asarray(self.parts["scale_up_link"] + self.parts["scale_out_link"] + self.parts["host_link"])

    @property
    def bubble_s(self) -> Array:
        """Seconds a device waits for other pipeline stages."""
        return np.asarray(self.parts["bubble"])


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
    nothing = np.zeros_like(step)
    usable = c.memory_bytes * USABLE_SHARE + nothing
    held = TrainingHeld(
        ledger.weight_bytes, ledger.gradient_bytes, ledger.optimizer_bytes, ledger.activation_bytes, ledger.temporary_bytes,
        nothing, nothing, nothing, nothing, usable, nothing + 1.15,
    )  # fmt: skip
    share_recomputed = ledger.recomputed_flops / (ledger.flops + ledger.recomputed_flops)
    up_share = np.where(tp <= c.domain, 1.0, 0.0)
    up_data = np.where(tp * dp * cp <= c.domain, 1.0, 0.0)
    parts = {
        "compute": compute * (1 - share_recomputed) + nothing, "memory": nothing, "recompute": compute * share_recomputed + nothing,
        "scale_up_link": tensor * up_share + exposed * up_data + nothing,
        "scale_out_link": tensor * (1 - up_share) + exposed * (1 - up_data) + nothing,
        "host_link": nothing, "bubble": bubble + nothing, "optimizer": nothing, "overhead": nothing,
    }  # fmt: skip
    devices = tp * pp * dp * cp + nothing
    flops = ledger.flops * devices
    return TrainingTime(
        ledger, held, usable, step, parts, flops, (ledger.flops + ledger.recomputed_flops) * devices,
        dict.fromkeys(CONVENTIONS, flops), np.asarray(peak), devices, ledger.tokens, ledger.microbatches, bubble / step,
        nothing + TRAIN_SPREAD,
    )  # fmt: skip

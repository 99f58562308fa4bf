"""Trials of torchao's quantization, eager on a processor: kernels decide, not bytes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bytebound.prove.folders import need
from bytebound.prove.pytorch import BF16, FP32, Kind, change_trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.prove.trial import Bench, Trial

ENGINE = "torchao"
SLOW = (
    "torchao has no fused kernel for it on this processor: weights are widened in memory at every step, so bytes rise"
)


def int8_trial(bench: Bench) -> Trial:
    """Return the trial of int8 weights (``Int8WeightOnlyConfig``)."""
    after = Kind("int8 (Int8WeightOnlyConfig)", change="int8-weight-only", layers="int8", head="int8")
    return change_trial(
        "int8-weights", "int8 weights instead of fp32", FP32, after, bench, engine=ENGINE, notes=(SLOW,)
    )


def int4_trial(bench: Bench) -> Trial:
    """Return the trial of int4 weights in groups of 32 (``PrototypeInt4WeightOnlyConfig``); scale and zero point take a q4_1 block."""
    after = Kind(
        "int4, groups of 32 (PrototypeInt4WeightOnlyConfig)", "bf16", "int4-weight-only", "q4_1", "bf16", "q4_1", "bf16"
    )
    return change_trial("int4-weights", "int4 weights instead of bf16", BF16, after, bench, engine=ENGINE)


def dynamic_trial(bench: Bench) -> Trial:
    """Return the trial of int8 weights and activations quantized at run time (``Int8DynamicActivationInt8WeightConfig``)."""
    after = Kind("int8 (Int8DynamicActivationInt8WeightConfig)", change="int8-dynamic", layers="int8", head="int8")
    return change_trial(
        "dynamic-activations", "int8 weights, activations quantized at run time", FP32, after, bench, engine=ENGINE,
        notes=("every activation is quantized by operators of its own before each product",),
    )  # fmt: skip


TRIALS: dict[str, Callable[[Bench], Trial]] = {
    "int8-weights": int8_trial,
    "int4-weights": int4_trial,
    "dynamic-activations": dynamic_trial,
}
NEEDS = ("torchao", "torch", "transformers", "gguf")
version = partial(need, *NEEDS)

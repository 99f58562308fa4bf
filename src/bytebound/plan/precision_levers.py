"""Levers of precision: each stores weights or the KV cache in another format; the ledger does the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bytebound.facts.formats import find_format
from bytebound.plan.case import Case, Refusal, Today
from bytebound.plan.formats import AUTO, stored_bits

if TYPE_CHECKING:
    from collections.abc import Callable

    Apply = Callable[[Case, Today], Case | Refusal]

KV_SHARE_WORTH_QUANTIZING = 0.2
SAME_BITS = 1.05
"""Formats within 5 % of each other's size are taken as one: scales differ."""


def current_bits(case: Case) -> float:
    """Return the mean bits of the weights of layers, as the checkpoint or the request stores them."""
    weights = getattr(case.work, "weights", AUTO)
    return (
        find_format(weights).bits if isinstance(weights, str) and weights != AUTO else stored_bits(case.setting.table)
    )


def has_rate(case: Case, dtype: str) -> bool:
    """Return whether the device multiplies ``dtype``."""
    return dtype in case.setting.machine.device.flop_per_s


def quantize_weights(target: str) -> Apply:
    """Return the lever that stores weights in ``target``."""
    wanted = find_format(target)

    def apply(case: Case, now: Today) -> Case | Refusal:
        work, device = case.serve, case.setting.machine.device
        if work is None:
            return Refusal("training keeps 16-bit weights and 32-bit master copies; see fp8-training")
        if current_bits(case) <= wanted.bits * SAME_BITS:
            return Refusal(f"weights already take {current_bits(case):.2f} bits")
        on_cpu = (
            device.kind == "cpu" and wanted.math == "int8"
        )  # vector instructions, which no datasheet states as a rate
        if wanted.kind == "scaled" and not has_rate(case, wanted.math) and not on_cpu:
            return Refusal(
                f"{device.id} has no {wanted.math} matrix rate (rule 2: a format without hardware support ran at 0.2×)"
            )
        if wanted.kind == "weight-only" and now.compute_time_share > 0.5 and not now.capacity_limited:
            return Refusal(
                f"{now.compute_time_share:.0%} of the time is compute, which weight-only quantization does not shorten (rule 1: 0.65–0.94× measured)"
            )
        return replace(case, work=replace(work, weights=target))

    return apply


def bf16_weights(case: Case, now: Today) -> Case | Refusal:
    """Store weights in bf16: narrower than fp32, wider than what a device cannot multiply."""
    del now
    work = case.serve
    if work is None:
        return Refusal("training states its precision; see bf16-states")
    bits = current_bits(case)
    if bits <= 16:
        return Refusal(f"weights already take {bits:.2f} bits: bf16 would not shrink them")
    return replace(case, work=replace(work, weights="bf16"))


def quantize_kv(target: str, bits: float) -> Apply:
    """Return the lever that stores the KV cache in ``target``, or in its GGUF form of ``bits`` where the engine reads GGUF."""

    def apply(case: Case, now: Today) -> Case | Refusal:
        work, device = case.serve, case.setting.machine.device
        if work is None or case.setting.table.kind != "decoder":
            return Refusal("this work keeps no KV cache between steps")
        if isinstance(work.kv, str) and work.kv != "auto" and find_format(work.kv).bits <= bits * SAME_BITS:
            return Refusal(f"the KV cache already is {work.kv}")
        if target == "fp8" and not has_rate(case, "fp8"):
            return Refusal(f"{device.id} has no fp8 hardware (rule 2: fp8 KV on A100 ran at 0.20×)")
        if now.kv_byte_share < KV_SHARE_WORTH_QUANTIZING and not now.capacity_limited:
            return Refusal(
                f"KV is {now.kv_byte_share:.0%} of the bytes and capacity does not limit the batch (rule 3: at most +6 % below 20 %)"
            )
        gguf = case.setting.engine.name == "llama.cpp" and target == "int8"
        return replace(case, work=replace(work, kv="q8_0" if gguf else target))

    return apply


def quantize_torch_kv(case: Case, now: Today) -> Case | Refusal:
    """Quantize the cache of transformers to 4 bits."""
    if case.setting.engine.name != "transformers":
        return Refusal(f"it is a cache of transformers, and the engine is {case.setting.engine.name}")
    return quantize_kv("q4_0", 4.5)(case, now)


PRECISION_LEVERS: dict[str, Apply] = {
    "bf16-weights": bf16_weights,
    "fp8-weights": quantize_weights("fp8"),
    "int8-weights": quantize_weights("int8"),
    "int8-weight-only": quantize_weights("int8-wo"),
    "int4-weights": quantize_weights("int4"),
    "nf4-weights": quantize_weights("nf4-dq"),
    "fp4-weights": quantize_weights("nvfp4"),
    "q8_0-weights": quantize_weights("q8_0"),
    "q4_k-weights": quantize_weights("q4_k"),
    "q4_0-weights": quantize_weights("q4_0"),
    "q2_k-weights": quantize_weights("q2_k"),
    "fp8-kv": quantize_kv("fp8", 8),
    "int8-kv": quantize_kv("int8", 8),
    "int4-kv": quantize_kv("q4_0", 4.5),
    "kv-quant-torch": quantize_torch_kv,
    "dynamic-activations": quantize_weights("int8"),
}

"""When a lever must be proven before it is recommended: settings in which it was measured to hurt, or to gain nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bytebound.plan.case import Case, Today, no_caution
from bytebound.plan.formats import lacks_kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    Caution = Callable[[Case, Today], str]

EAGER = ("transformers", "deepspeed")
"""Engines that run operator by operator unless they are compiled."""
DYNAMIC = (*EAGER, "gpt-fast")
"""Engines that quantize activations by torchao, apart from the product: 0.92 times at batch 1 on an H100 when compiled."""
CROWDED_SHARE = 0.2
"""Share of the ridge in verified tokens from which EAGLE-1 stopped to gain: 64 of 295 on an H100 (EAGLE-3 Table 3)."""
SMALL_BATCH = 8
"""Sequences up to which quantizing activations apart from the product was measured to lose (torchao, batch 1; assumed to 8)."""
PREFILL_SHARE = 1 / 3
"""Share of the time in prefill from which weight-only formats are not recommended blind (assumed)."""
FEW_KV_BYTES = 0.2
IDEAL_SHARE = 0.25
"""Share of the ridge in tokens up to which a weight-only kernel keeps its ideal gain. Source: Marlin README."""


def is_cpu(case: Case) -> bool:
    """Return whether the device is a general processor."""
    return case.setting.machine.device.kind == "cpu"


def weight_only(case: Case, now: Today) -> str:
    """Rule 1: products at the 16-bit rate and unpacking on top, where many tokens share the weights."""
    del case
    if now.prefill_time_share > PREFILL_SHARE:
        return f"prefill is {now.prefill_time_share:.0%} of the time and does not gain: 0.76 to 0.94 times measured (rule 1)"
    if now.batch > now.ridge_tokens * IDEAL_SHARE:
        return f"batch {now.batch:.0f} is over a quarter of the ridge of {now.ridge_tokens:.0f} tokens: 0.65 times measured at 128 sequences (rule 1)"
    return ""


def int8_weight_only(case: Case, now: Today) -> str:
    """As ``weight_only``, and slow in eager PyTorch on a CPU."""
    if is_cpu(case) and case.setting.engine.name in EAGER:
        return "torchao's eager int8 kernel ran at 0.24 times f32 on a 2-core CPU (rule 6)"
    return weight_only(case, now)


def look_up_table(case: Case, now: Today) -> str:
    """As ``weight_only``; the kernels of bitsandbytes are not those of int4, whose rate the ledger takes."""
    return (
        weight_only(case, now)
        or "bitsandbytes ran a 1B model at 0.63 times bf16 on an A100 in vLLM 0.6.3 (vLLM issue 9535); int4 kernels do not have that cost"
    )


def below_four_bits(case: Case, now: Today) -> str:
    """Rule 5: the size falls and the speed need not."""
    del case, now
    return "below 4 bits the size falls and speed need not: unpacking binds (rule 5); measure perplexity too (rule 21)"


def scaled_weights(case: Case, now: Today) -> str:
    """Rule 4: torchao quantizes activations apart from the product."""
    if case.setting.engine.name in DYNAMIC and now.batch <= SMALL_BATCH:
        return "torchao quantizes activations apart from the product: 0.09 (eager) to 0.92 times measured at batch 1 (rule 4)"
    return ""


def int8_weights(case: Case, now: Today) -> str:
    """As ``scaled_weights``, and vLLM's kernel of the format stops short of Blackwell."""
    setting = case.setting
    if lacks_kernel("int8", setting.engine.name, setting.machine.device):
        return "vLLM's INT8 kernel refuses Blackwell at start (vLLM issue 54311): take fp8, or try it"
    return scaled_weights(case, now)


def dynamic_activations(case: Case, now: Today) -> str:
    """Rule 4, on every engine: it is the eager form of int8."""
    if is_cpu(case):
        return "it ran at 0.1 to 0.2 times f32 in eager PyTorch on a 2-core CPU (rule 4)"
    if now.batch <= SMALL_BATCH:
        return "at batch 1 it ran at 0.09 times bf16 (rule 4)"
    return scaled_weights(case, now)


def quantized_kv(case: Case, now: Today) -> str:
    """Rule 3, and llama.cpp on a CPU: room for certain, speed not. Rule 20: not under every draft."""
    if float(np.max(getattr(case.work, "draft_tokens", 0))) > 0:
        return f"not every engine speculates over a quantized cache ({case.setting.engine.name}: try it; rule 20)"
    if is_cpu(case):
        return "on a CPU llama.cpp gained room and no speed, and its q4_0 cache was 30 % slower; count it as room"
    if now.kv_byte_share < FEW_KV_BYTES:
        return f"KV is {now.kv_byte_share:.0%} of the bytes: it buys room, and 0.78 to 1.06 times the speed was measured (rule 3)"
    return ""


def int8_kv(case: Case, now: Today) -> str:
    """As ``quantized_kv``; vLLM leaves its usual attention kernels for it."""
    said = quantized_kv(case, now)
    if said or case.setting.engine.name != "vllm":
        return said
    return (
        "vLLM reads an int8 cache by its Triton attention alone: 0.93 to 1.10 times measured (its PRs 40633 and 38378)"
    )


def four_bit_kv(case: Case, now: Today) -> str:
    """As ``quantized_kv``; a 5-fold compression cost throughput on a fast device."""
    return (
        quantized_kv(case, now)
        or "unpacking 4-bit values cost 7 % of throughput on an H200 (TurboQuant) and gained 39 % elsewhere (LMDeploy, multi-head 7B)"
    )


def torch_kv(case: Case, now: Today) -> str:
    """Always: the library warns of it."""
    del case, now
    return "the library's documentation warns of added latency: the cache is unpacked in every step"


def speculation(case: Case, now: Today) -> str:
    """Rule 7: acceptance decides, and a crowded batch pays for every rejected token. Rule 20: not over every cache."""
    if getattr(case.work, "kv", "auto") not in {"auto", "bf16", "fp16"}:
        return f"not every engine speculates over a quantized cache ({case.setting.engine.name}: try it; rule 20)"
    if is_cpu(case):
        return "a CPU has little compute to spare for verification (rule 7)"
    if case.setting.engine.name in EAGER:
        return "every draft token pays the host time of an eager step too"
    tokens = 4 * now.batch
    if tokens > CROWDED_SHARE * now.ridge_tokens:
        return f"{tokens:.0f} tokens to verify are over a fifth of the ridge of {now.ridge_tokens:.0f}: 0.88 to 1.5 times measured there by draft (rule 7)"
    return ""


def flash_on_cpu(case: Case, now: Today) -> str:
    """llama.cpp's flash attention on a CPU was slower."""
    del now
    return "llama.cpp's flash attention was 45 % slower at depth 2,048 on a 2-core CPU" if is_cpu(case) else ""


def compiled(case: Case, now: Today) -> str:
    """The ledger counts fused operators: the gain is the engine's gap."""
    del case, now
    return "the ledger counts operators as fused already; what compiling gives is the engine's own gap"


def pruned(case: Case, now: Today) -> str:
    """A checkpoint has to be made first."""
    del case, now
    return "it needs a checkpoint pruned and distilled to three quarters; the training bill is not counted"


def fp8_long(case: Case, now: Today) -> str:
    """Rule 14: at long sequences attention hides the gain."""
    del now
    seq = float(np.max(getattr(case.work, "seq", 0)))
    return f"at {seq:,.0f} tokens attention dominates: 1.00 times measured at 32,768 (rule 14)" if seq >= 16384 else ""


def sharded_far(case: Case, now: Today) -> str:
    """Rule 16: stage 3 over slow links moves half as much again."""
    stage, nodes = int(np.max(getattr(case.work, "zero", 0))), case.setting.machine.nodes
    if stage == 2 and nodes > 1 and not now.capacity_limited:
        return "stage 2 fits, and stage 3 moves 3 Ψ in place of 2 Ψ between nodes (rule 16)"
    return ""


def computed_on_host(case: Case, now: Today) -> str:
    """llama.cpp computes what lies in host memory there: no link is crossed."""
    del now
    if case.setting.engine.name == "llama.cpp":
        return "llama.cpp computes what stays in host memory on the CPU: its bandwidth counts, and the ledger streams over the link"
    return ""


CAUTIONS: dict[str, Caution] = {
    "weight-offload": computed_on_host,
    "expert-offload": computed_on_host,
    "fp8-weights": scaled_weights,
    "int8-weights": int8_weights,
    "fp4-weights": scaled_weights,
    "int8-weight-only": int8_weight_only,
    "int4-weights": weight_only,
    "nf4-weights": look_up_table,
    "q8_0-weights": weight_only,
    "q4_k-weights": weight_only,
    "q4_0-weights": weight_only,
    "q2_k-weights": below_four_bits,
    "dynamic-activations": dynamic_activations,
    "fp8-kv": quantized_kv,
    "int8-kv": int8_kv,
    "int4-kv": four_bit_kv,
    "kv-quant-torch": torch_kv,
    "speculative-decoding": speculation,
    "flash-serving": flash_on_cpu,
    "fused-kernels": compiled,
    "structured-pruning": pruned,
    "fp8-training": fp8_long,
    "shard-states": sharded_far,
}


def caution_of(name: str) -> Caution:
    """Return the caution of a lever."""
    return CAUTIONS.get(name, no_caution)

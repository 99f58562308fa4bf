"""How each publication of training runs counts and runs: framework, precision, what "memory" and "TFLOP" mean, what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.train_truth import Basis

GIB, GB = 2.0**30, 1e9


@dataclass(frozen=True, slots=True)
class Practice:
    """What holds for every row of a publication unless the row says otherwise.

    Args:
        key: short name of ours.
        work: fields of ``Train`` that hold throughout.
        memory: what its peak memory counts, and ``memory_unit`` bytes of one of its units.
        basis: which FLOPs its rates count.
        licence: of the publication.
        trust: A primary with a method, B thin on it, C second-hand or noisy.
        uncertain: what had to be assumed of every row.
    """

    key: str
    work: Mapping[str, Any]
    memory: Literal["allocated_bytes", "reserved_bytes", "device_bytes"] = "allocated_bytes"
    memory_unit: float = GIB
    basis: Basis = ""
    licence: str = "Apache-2.0"
    trust: Literal["A", "B", "C"] = "B"
    uncertain: tuple[str, ...] = ()


NETWORKS: Mapping[str, float] = {"bloom-tuning": 6.25e9, "bloom": 6.25e9}
"""Publication -> bytes per second per direction between nodes that one device has, where its cluster's network is not the device's usual
one. Source: BLOOM's model card, Jean Zay: 4 Omni-Path links of 100 Gb/s for the 8 A100 of a node."""

MEGATRON = {"framework": "megatron", "zero": 1, "attention": "flash", "recompute": "none"}
BEFORE_FLASH = {"attention": "eager", "precision": "fp16-mixed"}
PERFORMANCE = {**MEGATRON, "gradients": "bf16"}
"""NVIDIA's performance recipes set ``ddp.grad_reduce_in_fp32`` to False (Megatron-Bridge scripts/performance, NeMo's too)."""
NO_RECOMPUTE = "nothing recomputed (not stated)"

SOURCES: Mapping[str, Practice] = {
    # Composer's FSDP with mixed_precision PURE: 32-bit sharded weights, 16-bit products and reductions; its DecoupledAdamW
    # updates tensor by tensor. TFLOP column: 3 x forward, all scores, all parameters (llm-foundry benchmarking README).
    "mosaicml/llm-foundry training benchmarks": Practice(
        "mosaicml-llm-foundry",
        {"framework": "fsdp", "zero": 3, "attention": "flash", "optimizer_kernel": "loop"},
        basis="full+embedding",
    ),
    # Since 25.09 the TFLOP column counts half of the attention scores and the head, no embedding (recomputed from tokens/s).
    "NVIDIA Megatron-Bridge performance summary": Practice(
        "megatron-bridge", PERFORMANCE, basis="causal", uncertain=(NO_RECOMPUTE,)
    ),
    # "GB" of Bridge's memory report divides by 1e9 (train_utils.report_memory).
    "NVIDIA Megatron-Bridge memory-tuning skill": Practice(
        "megatron-bridge-memory", PERFORMANCE, memory_unit=GB, basis="causal",
        uncertain=("that its GB are 1e9 bytes", "that the rank it prints is the fullest"),
    ),
    "NVIDIA Megatron-Bridge recompute skill": Practice(
        "megatron-bridge-recompute", PERFORMANCE, memory_unit=GB, basis="causal",
        uncertain=("that its GB are 1e9 bytes", "that the rank it prints is the fullest"),
    ),
    "NVIDIA Megatron-Bridge moe-hardware skill": Practice(
        "megatron-bridge-moe", PERFORMANCE, memory_unit=GB, basis="causal",
        uncertain=("that its GB are 1e9 bytes", NO_RECOMPUTE),
    ),
    # 24.07 counts all attention scores (recomputed from tokens/s).
    "NVIDIA NeMo 24.07 performance summary": Practice("nemo-24.07", PERFORMANCE, basis="full", uncertain=(NO_RECOMPUTE,)),
    # Megatron-DeepSpeed of early 2022: fused softmax, no flash attention, no sequence parallelism, every layer checkpointed.
    # Mem is the largest nvidia-smi reading of the first and last node; TFLOP counts 4 x forward, what is recomputed too.
    "bigscience BLOOM-176B tuning log": Practice(
        "bloom-tuning", {"framework": "deepspeed", "sequence_parallel": "off", "recompute": "full", **BEFORE_FLASH},
        memory="device_bytes", basis="hardware",
    ),
    "bigscience BLOOM-176B production log": Practice(
        "bloom", {"framework": "deepspeed", "sequence_parallel": "off", "recompute": "full", **BEFORE_FLASH},
        memory="device_bytes", basis="hardware",
    ),
    # The source warns that equal runs differ by 40 %.
    "bigscience gpt2 V100 experiments": Practice(
        "gpt2-v100",
        {"framework": "megatron", "zero": 0, "sequence_parallel": "off", "recompute": "full", **BEFORE_FLASH},
        memory="device_bytes", basis="hardware", trust="C",
        uncertain=("the source warns of 40 % between equal runs",),
    ),
    "MaxText config READMEs": Practice(
        "maxtext", {"framework": "jax", "zero": 3, "attention": "flash", "precision": "bf16-autocast"}, basis="full",
    ),
    # max_memory_allocated of the longest batch, which litgpt runs first; everything in bf16, AdamW's moments too.
    "litgpt config hub": Practice(
        "litgpt", {"framework": "litgpt", "zero": 0, "attention": "flash", "precision": "bf16", "recompute": "none"},
    ),
    # Base weights bf16, adapters 32-bit (autocast_adapter_dtype). Memory: most reserved after any step, the allocator emptied
    # every tenth, less what was there before the model; tokens/s counts unpadded tokens.
    "HF PEFT method_comparison MetaMathQA": Practice(
        "peft", {"framework": "hf", "zero": 0, "attention": "flash", "precision": "bf16", "recompute": "none"},
        memory="reserved_bytes",
    ),
    "Korthikanti 2022 Table 5 (via Calculon validation)": Practice(
        "korthikanti-2022", {"framework": "megatron", "zero": 0, **BEFORE_FLASH}, licence="", trust="A",
    ),
    "Korthikanti 2022 abstract": Practice(
        "korthikanti-2022-mfu", {"framework": "megatron", "zero": 0, **BEFORE_FLASH}, licence="", trust="A", basis="full",
    ),
    "Korthikanti 2022 Fig 1 (via Calculon; FORMULA-derived, not measured)": Practice("korthikanti-2022-formula", {}),
    # 20 bytes a parameter: 32-bit gradients (arXiv 2201.11990 section 2.2); Narayanan's hardware FLOPs.
    "MT-NLG 530B paper (via llm-analysis)": Practice(
        "mt-nlg", {"framework": "deepspeed", "zero": 0, "sequence_parallel": "off", "recompute": "full", "attention": "eager"},
        licence="", basis="hardware", uncertain=("micro-batches of 1 (arXiv 2201.11990)", "A100 of 80 GB (Selene)"),
    ),
    "Narayanan 2021 Table 2 (via llm-analysis run script)": Practice(
        "narayanan-2021", {"sequence_parallel": "off", "recompute": "full", **BEFORE_FLASH}, licence="", basis="hardware",
        uncertain=("micro-batches of table 2 (recalled)", "A100 of 80 GB (Selene)"),
    ),
    # bf16 Megatron with the distributed optimizer and fused cross entropy; peak is max_memory_allocated.
    "SimuMax B200 v1.2 real-vs-perf": Practice("simumax-b200", MEGATRON, trust="A"),
    "Megatron-LM examples/llama README": Practice("megatron-llama", MEGATRON, basis="full", uncertain=(NO_RECOMPUTE,), licence="BSD-3-Clause"),
    "Megatron-LM PR #482 analysis tool table": Practice("megatron-pr482", MEGATRON, trust="C", licence="BSD-3-Clause"),
}  # fmt: skip
"""Publication as the layout names it -> how its rows are read."""

PRECISIONS: Mapping[str, str] = {
    "amp_bf16": "bf16-mixed", "bf16": "bf16-mixed", "amp_fp8": "fp8-mixed", "mxfp8": "fp8-mixed", "nvfp4": "fp4-mixed",
    "fp8": "fp8-mixed", "fp8-cs": "fp8-mixed", "fp8-mx": "fp8-mixed", "fp8-cs (fp8-mx)": "fp8-mixed",
    "fp8-cs default (see page)": "fp8-mixed", "fp8 current scaling": "fp8-mixed", "fp8 hybrid": "fp8-mixed",
    "fp16": "fp16-mixed", "fp16/bf16 (see notes)": "fp16-mixed", "bf16, fp32 grad accumulation": "bf16-mixed",
}  # fmt: skip
"""Precision as printed -> ours. Composer's older ``bf16`` is what it calls ``amp_bf16`` today."""

MAXTEXT: Mapping[tuple[str, str], tuple[int, str, int]] = {
    ("tpu v4", "22"): (13, "full", 1), ("tpu v4", "52"): (7, "full", 1),
    ("tpu v5e", "16"): (6, "full", 1), ("tpu v5e", "32"): (4, "full", 1),
    ("tpu v5p", "32"): (6, "selective", 4), ("tpu v5p", "64"): (3, "selective", 4), ("tpu v5p", "128"): (1, "selective", 8),
    ("tpu v5p", "256"): (1, "selective", 8), ("tpu v5p", "512"): (2, "full", 8), ("tpu v5p", "1024"): (2, "full", 16),
}  # fmt: skip
"""Chip and billions of parameters -> sequences of 2,048 tokens a chip, recomputation (``minimal`` keeps every product: selective),
tensor parallelism. Source: MaxText configs/tpu/{v4,v5e,v5p}/*.sh."""

MAXTEXT_TOKENS = 2048

NARAYANAN_MICRO: Mapping[tuple[str, int], int] = {
    ("175", 384): 4, ("175", 768): 2, ("175", 1536): 1, ("530", 640): 4, ("530", 1120): 2, ("530", 2240): 1,
}  # fmt: skip
"""Billions of parameters and GPUs -> micro-batch of the ZeRO-3 runs; 1 in the others. Source: arXiv 2104.04473 table 2."""

LITGPT_RANKS: Mapping[str, tuple[int, str]] = {
    "gemma-2b": (8, "all"), "gemma-7b": (16, "all"), "gemma-2-9b": (16, "all"), "phi-2": (8, "all"),
    "phi-3-mini-4k-instruct": (8, "all"), "tiny-llama": (32, "all"),
}  # fmt: skip
"""Model -> LoRA rank and targets where they are not 32 and ``qv``. Source: litgpt config_hub/finetune/*/lora.yaml, ``lora_*``."""

LITGPT_DEVICES: Mapping[str, int] = {
    "gemma-2b full": 4, "phi-2 full": 2, "stablelm-base-alpha-3b full": 2, "llama-2-7b full": 4, "llama-3-8b full": 4,
}  # fmt: skip
"""``devices`` of the configuration files that use several; all others use one, on a machine of four too (its README: all runs are
single-GPU; memory and run times of both machines are equal)."""

LITGPT_ACCUMULATED: Mapping[str, int] = {
    "gemma-2b full": 4, "stablelm-base-alpha-3b full": 4, "tiny-llama full": 8, "llama-3.2-1b full": 16, "phi-3-mini-4k-instruct full": 2,
    "llama-2-7b full": 4, "llama-3-8b full": 4,
}  # fmt: skip
"""Micro-batches of a step on one device where they matter, for full gradients wait meanwhile: ``global_batch_size`` of
config_hub/finetune/*/full.yaml. Adapters' gradients are too few to count."""

PEFT_MEAN_TOKENS = 210
"""Tokens of a sample of MetaMathQA in PEFT's comparison, its mean: 4.2e6 tokens over 5,000 steps of 4 samples (results JSON)."""

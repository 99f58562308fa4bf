"""The levers. Each takes a case and today's numbers and returns the changed case, or a refusal with its reason.

A lever changes the request or the machine; what it gives is found by running the ledger again, never by a multiplier.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.work import Serve, Train
from bytebound.facts.formats import find_format
from bytebound.plan.case import Case, Lever, Refusal, Today
from bytebound.plan.training_levers import TRAINING_LEVERS, split_training

if TYPE_CHECKING:
    from collections.abc import Callable

KV_SHARE_WORTH_QUANTIZING = 0.2
SUB_8_BIT = 6.0


def _serve(case: Case) -> Serve | None:
    return case.work if isinstance(case.work, Serve) else None


def _current_bits(case: Case) -> float:
    products = case.setting.table.products
    weights = getattr(case.work, "weights", "auto")
    inner = np.array([role not in {"head", "embedding", "router"} for role in products.roles])
    if isinstance(weights, str) and weights != "auto":
        return find_format(weights).bits
    sizes = products.elements * products.copies * products.repeat * inner
    bits = np.array([find_format(name).bits for name in products.stored])
    return float((sizes * bits).sum() / max(sizes.sum(), 1.0))


def _has_rate(case: Case, dtype: str) -> bool:
    rates = case.setting.machine.device.flop_per_s
    return dtype in rates


def quantize_weights(target: str) -> Callable[[Case, Today], Case | Refusal]:
    """Return the lever that stores weights in ``target``."""

    def apply(case: Case, now: Today) -> Case | Refusal:
        work = _serve(case)
        if work is None:
            return Refusal("training keeps 16-bit weights and 32-bit master copies; see fp8-training")
        wanted = find_format(target)
        if _current_bits(case) <= wanted.bits * 1.05:
            return Refusal(f"weights already take {_current_bits(case):.2f} bits")
        if wanted.kind == "scaled" and not _has_rate(case, wanted.math):
            return Refusal(
                f"{case.setting.machine.device.id} has no {wanted.math} matrix rate (rule 2: a format without hardware support ran at 0.2×)"
            )
        if wanted.kind == "weight-only" and now.compute_time_share > 0.5 and not now.capacity_limited:
            return Refusal(
                f"{now.compute_time_share:.0%} of the time is compute, which weight-only quantization does not shorten (rule 1: 0.65–0.94× measured)"
            )
        return replace(case, work=replace(work, weights=target))

    return apply


def quantize_kv(target: str) -> Callable[[Case, Today], Case | Refusal]:
    """Return the lever that stores the KV cache in ``target``."""

    def apply(case: Case, now: Today) -> Case | Refusal:
        work = _serve(case)
        if work is None or case.setting.table.kind != "decoder":
            return Refusal("this work keeps no KV cache between steps")
        if isinstance(work.kv, str) and work.kv != "auto" and find_format(work.kv).bits <= find_format(target).bits:
            return Refusal(f"the KV cache already is {work.kv}")
        if target == "fp8" and not _has_rate(case, "fp8"):
            return Refusal(
                f"{case.setting.machine.device.id} has no fp8 hardware (rule 2: fp8 KV on A100 ran at 0.20×)"
            )
        if now.kv_byte_share < KV_SHARE_WORTH_QUANTIZING and not now.capacity_limited:
            return Refusal(
                f"KV is {now.kv_byte_share:.0%} of the bytes and capacity does not limit the batch (rule 3: at most +6 % below 20 %)"
            )
        return replace(case, work=replace(work, kv=target))

    return apply


def larger_batch(case: Case, now: Today) -> Case | Refusal:
    """Raise the cap on concurrent sequences fourfold."""
    if _serve(case) is None:
        return Refusal("a training job's global batch is set by convergence, not by this audit")
    if case.kind == "edge":
        return Refusal("one user sends one sequence at a time")
    if now.batch < case.batch_limit * 0.7:
        return Refusal(
            f"the best batch is {now.batch:.0f}, under the cap of {case.batch_limit}: memory or the objective limits it (rule 19)"
        )
    return replace(case, batch_limit=case.batch_limit * 4)


def change_tp(factor: float) -> Callable[[Case, Today], Case | Refusal]:
    """Return the lever that multiplies the tensor-parallel degree by ``factor``."""

    def apply(case: Case, now: Today) -> Case | Refusal:
        del now
        machine, tp = case.setting.machine, int(case.work.tp)
        wanted = int(tp * factor)
        if wanted < 1 or (factor < 1 and tp == 1):
            return Refusal("tensor parallelism is already 1")
        if wanted > machine.per_node:
            return Refusal(
                f"a node has {machine.per_node} devices (rule 9: tensor parallelism across nodes is link-bound)"
            )
        if isinstance(case.work, Serve) and wanted * int(case.work.pp) * int(case.work.dp) > machine.devices:
            return Refusal(f"one replica would take more than the pool's {machine.devices} devices")
        if factor > 1 and machine.device.scaleup_bytes_per_s is None and machine.device.kind == "gpu":
            return Refusal(f"{machine.device.id} has no scale-up link; all-reduces would cross the host link (rule 9)")
        work = case.work
        if isinstance(work, Train):
            return split_training(case, "tp", factor)
        return replace(
            case,
            work=replace(
                work, tp=wanted, ep=1 if work.ep == 1 else max(1, min(int(work.ep * factor), wanted * int(work.dp)))
            ),
        )

    return apply


def prefix_cache(case: Case, now: Today) -> Case | Refusal:
    """Keep shared prompt prefixes in device memory."""
    work = _serve(case)
    if work is None or case.setting.table.kind != "decoder":
        return Refusal("this work has no prompt to cache")
    if case.shared_prefix <= 0:
        return Refusal("no shared prefix is stated for this workload (demand.shared_prefix)")
    if float(work.prefix_hit) >= case.shared_prefix:
        return Refusal(f"{float(work.prefix_hit):.0%} of the prompt is already served from the cache")
    del now
    return replace(
        case,
        work=replace(
            work, prefix_hit=case.shared_prefix, offload_hit=min(float(work.offload_hit), 1 - case.shared_prefix)
        ),
    )


def kv_offload(case: Case, now: Today) -> Case | Refusal:
    """Keep earlier turns' KV in host memory and load it instead of computing it again."""
    work = _serve(case)
    if work is None or case.setting.table.kind != "decoder":
        return Refusal("this work keeps no KV cache between requests")
    if case.reused_context <= 0:
        return Refusal("no context is reused between requests of this workload (demand.reused_context)")
    host = case.setting.machine.device.host_bytes_per_s
    if host is None:
        return Refusal(f"no host link is known for {case.setting.machine.device.id}")
    answer = case.setting.answer(replace(work, batch=1))
    per_token_s = float(answer["prefill.seconds"][0]) / max(float(np.asarray(work.prompt)), 1.0)
    load_s = float(answer["kv_bytes_per_token"][0]) / host.value
    if load_s >= per_token_s:
        return Refusal(
            "loading a token's KV over the host link takes longer than computing it (rule 11, Mooncake eq. 2)"
        )
    del now
    hit = min(case.reused_context, 1 - float(work.prefix_hit))
    return replace(case, work=replace(work, offload_hit=hit))


def speculate(case: Case, now: Today) -> Case | Refusal:
    """Draft three tokens per step with a small head and verify them together."""
    work = _serve(case)
    if work is None or case.setting.table.kind != "decoder":
        return Refusal("speculation needs token-by-token decoding")
    if float(np.asarray(work.draft_tokens)) > 0:
        return Refusal("speculation is already on")
    draft = 3
    if now.batch * (draft + 1) > now.ridge_tokens:
        return Refusal(
            f"batch {now.batch:.0f} × {draft + 1} tokens passes the ridge of {now.ridge_tokens:.0f} tokens: verification is no longer free (rule 7)"
        )
    return replace(case, work=replace(work, draft_tokens=draft))


def disaggregate(case: Case, now: Today) -> Case | Refusal:
    """Run prefill on devices of its own and send the KV over the network."""
    work = _serve(case)
    if work is None or case.setting.table.kind != "decoder":
        return Refusal("there is no decode phase to separate")
    if case.kind == "edge":
        return Refusal("there is one device")
    if bool(np.any(work.disaggregated)):
        return Refusal("prefill and decode are already apart")
    if case.setting.machine.device.scaleout_bytes_per_s is None:
        return Refusal(f"no network rate is known for {case.setting.machine.device.id} (rule 10)")
    if float(np.asarray(work.prompt)) < 512:
        return Refusal(
            f"prompts of {float(np.asarray(work.prompt)):.0f} tokens are too short to pay for the transfer (rule 10: 18 % link efficiency at 128 tokens)"
        )
    if now.prefill_time_share < 0.05:
        return Refusal(f"prefill is {now.prefill_time_share:.0%} of the time; there is little interference to remove")
    return replace(case, work=replace(work, disaggregated=True))


def shorter_context(case: Case, now: Today) -> Case | Refusal:
    """Send half of the prompt (retrieval, summaries, compaction)."""
    del now
    work = case.work
    if isinstance(work, Train):
        return Refusal("the sequence length of a training job is part of its goal")
    if case.setting.table.kind == "denoiser":
        return Refusal("the prompt is a small part of an image request")
    if float(np.asarray(work.prompt)) < 256:
        return Refusal("the prompt is already short")
    return replace(case, work=replace(work, prompt=np.ceil(np.asarray(work.prompt) / 2)))


LEVERS: tuple[Lever, ...] = (
    Lever("fp8-weights", "Store weights in fp8 and multiply in fp8", quantize_weights("fp8"), "near lossless: Llama-3.1 evaluations unchanged over > 500 k runs", "near-lossless", "arXiv 2411.02355; torchao inference.md"),
    Lever("int8-weights", "Store weights in int8 (W8A8)", quantize_weights("int8"), "−1 to −3 % on benchmarks", "near-lossless", "arXiv 2411.02355; arXiv 2211.10438"),
    Lever("int4-weights", "Store weights in int4, group 128, 16-bit math", quantize_weights("int4"), "perplexity +0.1 (7B) to +0.4 (8B of Llama-3); check on your own task", "any", "arXiv 2306.00978; mit-han-lab/omniserve README"),
    Lever("fp8-kv", "Keep the KV cache in fp8", quantize_kv("fp8"), "near lossless with calibrated scales", "near-lossless", "vLLM quantized_kvcache.md@0609ba1"),
    Lever("int8-kv", "Keep the KV cache in int8", quantize_kv("int8"), "GSM8K 54.97 → 56.41, MMLU 61.48 → 61.56 (Qwen1.5-7B)", "near-lossless", "InternLM/lmdeploy kv_quant.md@1263d5c"),
    Lever("larger-batch", "Let four times as many sequences run together", larger_batch, "none", "lossless", "levers of batching: bytes per token = W/B + S·kv"),
    Lever("double-tp", "Double tensor parallelism", change_tp(2), "none", "lossless", "Megatron-LM, arXiv 1909.08053; gpt-fast README (×3.13 on 8)", kinds=("serve", "train", "finetune")),
    Lever("halve-tp", "Halve tensor parallelism", change_tp(0.5), "none", "lossless", "Megatron-LM, arXiv 1909.08053", kinds=("serve", "train", "finetune")),
    Lever("prefix-cache", "Serve shared prompt prefixes from the cache", prefix_cache, "none", "lossless", "vLLM automatic prefix caching; DeepSeek reports 56.3 % hits"),
    Lever("kv-offload", "Reload earlier turns' KV from host memory", kv_offload, "none", "lossless", "Mooncake, FAST'25, eq. 2"),
    Lever("speculative-decoding", "Draft three tokens, verify together (acceptance 0.7)", speculate, "none (exact sampling)", "lossless", "arXiv 2211.17192 eq. 1; EAGLE-3 Table 3"),
    Lever("disaggregate", "Prefill and decode on devices of their own", disaggregate, "none", "lossless", "DistServe, arXiv 2401.09670; Splitwise; Mooncake"),
    Lever("shorter-context", "Halve the prompt", shorter_context, "depends on what is left out; measure retrieval quality", "any", "arithmetic of prompt tokens"),
    *TRAINING_LEVERS,
)  # fmt: skip
"""Levers that keep the device. Buying more of it and moving to a roadmap device are the audit's, since they need supply."""

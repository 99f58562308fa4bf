"""Levers of batching, caching, speculation, kernels and offload: what a serving engine can do otherwise with the same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bytebound.plan.case import Case, Refusal, Today

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.work import Serve

    Apply = Callable[[Case, Today], Case | Refusal]

DRAFT_TOKENS = 3
CHUNK_TOKENS = 2048
KEPT_BY_PRUNING = 0.75
GRAPHS = ("vllm", "sglang", "tensorrt-llm", "gpt-fast", "llama.cpp")
"""Engines that replay graphs, or start next to nothing, by default. Source: lever_engines.csv."""
OFFLOADED = np.append(np.arange(0.05, 1.0, 0.05), 0.99)
"""Shares of the weights tried in host memory: the smallest that fits is taken."""


def is_decoder(case: Case) -> bool:
    """Return whether the case serves a model that decodes token by token."""
    return case.serve is not None and case.setting.table.kind == "decoder"


def larger_batch(case: Case, now: Today) -> Case | Refusal:
    """Raise the cap on concurrent sequences fourfold."""
    if case.serve is None:
        return Refusal("a training job's global batch is set by convergence, not by this audit")
    if case.kind == "edge":
        return Refusal("one user sends one sequence at a time")
    if now.batch < case.batch_limit * 0.7:
        return Refusal(
            f"the best batch is {now.batch:.0f}, under the cap of {case.batch_limit}: memory or the objective limits it (rule 19)"
        )
    return replace(case, batch_limit=case.batch_limit * 4)


def smaller_batch(case: Case, now: Today) -> Case | Refusal:
    """Halve the cap on concurrent sequences."""
    if case.serve is None:
        return Refusal("a training job's global batch is set by convergence, not by this audit")
    if case.batch_limit < 2 or now.batch < 2:
        return Refusal("one sequence at a time is the least")
    return replace(case, batch_limit=max(int(min(case.batch_limit, now.batch)) // 2, 1))


def continuous_batching(case: Case, now: Today) -> Case | Refusal:
    """Take new requests in at every step."""
    del now
    work = case.serve
    if work is None or not is_decoder(case):
        return Refusal("there is nothing to decode together")
    if work.scheduling == "continuous":
        return Refusal("batching already is continuous")
    return replace(case, work=replace(work, scheduling="continuous"))


def chunked_prefill(case: Case, now: Today) -> Case | Refusal:
    """Prefill in chunks of 2,048 tokens."""
    del now
    work = case.serve
    if work is None or not is_decoder(case):
        return Refusal("this work has no prompt to cut")
    chunk = float(np.max(work.chunk)) or case.setting.chunk
    if chunk <= CHUNK_TOKENS:
        return Refusal(f"prompts already come in chunks of {chunk:,.0f} tokens")
    if float(np.max(work.prompt)) <= CHUNK_TOKENS:
        return Refusal(f"a prompt of {float(np.max(work.prompt)):,.0f} tokens is one chunk")
    return replace(case, work=replace(work, chunk=CHUNK_TOKENS))


def prefix_cache(case: Case, now: Today) -> Case | Refusal:
    """Keep shared prompt prefixes in device memory."""
    work = case.serve
    if work is None or not is_decoder(case):
        return Refusal("this work has no prompt to cache")
    if case.shared_prefix <= 0:
        return Refusal(
            "no shared prefix is stated for this workload (demand.shared_prefix of a fleet, --shared-prefix)"
        )
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
    work = case.serve
    if work is None or not is_decoder(case):
        return Refusal("this work keeps no KV cache between requests")
    if case.reused_context <= 0:
        return Refusal(
            "no context is reused between requests of this workload (demand.reused_context of a fleet, --reused-context)"
        )
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
    work = case.serve
    if work is None or not is_decoder(case):
        return Refusal("speculation needs token-by-token decoding")
    if float(np.asarray(work.draft_tokens)) > 0:
        return Refusal("speculation is already on")
    if now.batch * (DRAFT_TOKENS + 1) > now.ridge_tokens:
        return Refusal(
            f"batch {now.batch:.0f} × {DRAFT_TOKENS + 1} tokens passes the ridge of {now.ridge_tokens:.0f} tokens: verification is no longer free (rule 7)"
        )
    return replace(case, work=replace(work, draft_tokens=DRAFT_TOKENS))


def disaggregate(case: Case, now: Today) -> Case | Refusal:
    """Run prefill on devices of its own and send the KV over the network."""
    work = case.serve
    if work is None or not is_decoder(case):
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
    work = case.serve
    if work is None:
        return Refusal("the sequence length of a training job is part of its goal")
    if case.setting.table.kind == "denoiser":
        return Refusal("the prompt is a small part of an image request")
    if float(np.asarray(work.prompt)) < 256:
        return Refusal("the prompt is already short")
    return replace(case, work=replace(work, prompt=np.ceil(np.asarray(work.prompt) / 2)))


def flash_serving(case: Case, now: Today) -> Case | Refusal:
    """Keep attention scores on chip."""
    del now
    work = case.serve
    if work is None:
        return Refusal("this is training; see flash-attention")
    if work.attention == "flash":
        return Refusal("attention already keeps its scores on chip")
    return replace(case, work=replace(work, attention="flash"))


def cuda_graphs(case: Case, now: Today) -> Case | Refusal:
    """Replay a decode step as one graph: the host starts no kernels one by one."""
    del now
    engine, device = case.setting.engine.name, case.setting.machine.device
    if case.serve is None or device.kind != "gpu":
        return Refusal("graphs replay the kernels of a serving engine on a GPU")
    if engine in GRAPHS:
        return Refusal(f"{engine} replays graphs by default")
    if case.setting.overheads.launch_s_decode <= 0:
        return Refusal(f"no launch cost is known for {engine}")
    overheads = replace(case.setting.overheads, launch_s_decode=0.0)
    return replace(case, setting=replace(case.setting, overheads=overheads))


def fused_kernels(case: Case, now: Today) -> Case | Refusal:
    """Leave the ledger as it is: it counts fused operators already, and what an engine loses is in its own costs."""
    del now
    engine = case.setting.engine.name
    if case.serve is not None and engine != "transformers":
        return Refusal(f"{engine} runs fused or compiled kernels already")
    return case


def structured_pruning(case: Case, now: Today) -> Case | Refusal:
    """Keep three quarters of the parameters, widths, depth and cache in proportion."""
    del now
    work = case.serve
    if work is None:
        return Refusal("pruning comes after training")
    return replace(case, work=replace(work, model_scale=work.model_scale * KEPT_BY_PRUNING))


def weight_offload(case: Case, now: Today) -> Case | Refusal:
    """Keep the smallest share of the weights in host memory with which the rest fits."""
    del now
    work = case.serve
    if work is None:
        return Refusal("this is training; see optimizer-offload")
    return _offload(case, work, most=float(OFFLOADED[-1]))


def expert_offload(case: Case, now: Today) -> Case | Refusal:
    """Keep the smallest share of the routed experts in host memory with which the rest fits."""
    del now
    work, products = case.serve, case.setting.table.products
    held = products.elements * products.copies * products.repeat
    share = float(held[products.copies > 1].sum() / held.sum())
    if work is None or share == 0:
        return Refusal("the model has no routed experts")
    return _offload(case, work, most=share)


def _offload(case: Case, work: Serve, *, most: float) -> Case | Refusal:
    device = case.setting.machine.device
    if float(np.max(work.host_weights)) > 0:
        return Refusal(f"{float(np.max(work.host_weights)):.0%} of the weights already lie in host memory")
    if device.host_bytes_per_s is None:
        return Refusal(f"no host link is known for {device.id}: one memory holds everything")
    tried = np.append(0.0, OFFLOADED[most >= OFFLOADED])
    answer = case.setting.answer(replace(work, host_weights=tried))
    fits = answer["fits"] > 0
    if fits[0]:
        moved = float(answer["weights_bytes"][0]) / device.host_bytes_per_s.value
        return Refusal(
            f"it fits; weights in host memory would cross the host link in every step (rule 12: {moved:.2g} s for all of them)"
        )
    if not fits.any():
        return Refusal(f"it does not fit even with {tried[-1]:.0%} of its weights in host memory")
    return replace(case, work=replace(work, host_weights=float(tried[int(fits.argmax())])))


SERVING_LEVERS: dict[str, Apply] = {
    "larger-batch": larger_batch,
    "smaller-batch": smaller_batch,
    "continuous-batching": continuous_batching,
    "chunked-prefill": chunked_prefill,
    "disaggregate": disaggregate,
    "prefix-cache": prefix_cache,
    "kv-offload": kv_offload,
    "speculative-decoding": speculate,
    "flash-serving": flash_serving,
    "fused-kernels": fused_kernels,
    "cuda-graphs": cuda_graphs,
    "structured-pruning": structured_pruning,
    "weight-offload": weight_offload,
    "expert-offload": expert_offload,
    "shorter-context": shorter_context,
}

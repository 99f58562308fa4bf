"""Levers no request can apply here: they need another checkpoint, another machine, or a kernel that nobody ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bytebound.ledger.table import LATENT, MAIN
from bytebound.plan.case import Case, Refusal, Today

if TYPE_CHECKING:
    from collections.abc import Callable

    Apply = Callable[[Case, Today], Case | Refusal]

PAGED = ("vllm", "sglang", "tensorrt-llm", "lmdeploy", "tgi")


def refused(reason: str) -> Apply:
    """Return the lever that is refused with one reason everywhere."""

    def apply(case: Case, now: Today) -> Case | Refusal:
        del case, now
        return Refusal(reason)

    return apply


def other_attention(what: str, *, reads_only: bool = False) -> Apply:
    """Return the lever that needs a checkpoint with other attention; the reason says what this one keeps or reads."""

    def apply(case: Case, now: Today) -> Case | Refusal:
        s = case.setting.table.scores
        kept = float((s.own * s.repeat * (s.stream == MAIN)).sum())
        if case.setting.table.kind != "decoder" or kept == 0:
            return Refusal("this work keeps no KV cache between steps")
        if what == "latent attention" and bool(np.any(s.kind == LATENT)):
            return Refusal("this model has latent attention already")
        if what == "a sliding window" and bool(np.isfinite(s.window).any()):
            return Refusal("this model has sliding windows already")
        if reads_only and bool(np.isfinite(s.selected).any()):
            return Refusal("this model selects the tokens it reads already")
        return Refusal(
            f"it needs a checkpoint trained with {what}: this one keeps {kept:,.0f} KV values per token, {now.kv_byte_share:.0%} of a step's bytes"
        )

    return apply


def paged_kv(case: Case, now: Today) -> Case | Refusal:
    """Refuse: paging is chosen with the engine."""
    del now
    engine = case.setting.engine.name
    if case.serve is None:
        return Refusal("training keeps no KV cache")
    if engine in PAGED:
        return Refusal(f"{engine} keeps its cache in pages of {case.setting.engine.block_tokens:g} tokens already")
    return Refusal(f"{engine} has no pages; it comes with another engine: {', '.join(PAGED[:3])}")


ABSENT_LEVERS: dict[str, Apply] = {
    "ternary-weights": refused("it needs a checkpoint trained in ternary; no format makes one from 16-bit weights"),
    "fp8-attention": refused("the ledger keeps one rate for attention whatever its cache; fp8-kv has its bytes"),
    "unstructured-pruning": refused("dense kernels store, read and multiply zeros: no engine gets faster or smaller"),
    "two-four-sparsity": refused(
        "no maintained engine runs it: torchao deleted its kernels (PR 4728) and llm-compressor its support (vLLM PR 36799)"
    ),
    "moe-model": refused("it needs another checkpoint: a mixture of experts of equal quality"),
    "gqa-model": other_attention("grouped-query attention"),
    "mla-model": other_attention("latent attention"),
    "sliding-window": other_attention("a sliding window"),
    "sparse-attention": other_attention("sparse attention", reads_only=True),
    "kv-sharing": other_attention("KV shared between layers"),
    "kv-eviction": refused(
        "no serving engine of our tables evicts tokens; kvpress does it in research code on transformers"
    ),
    "flash-memory": refused("no maintained engine streams active rows from flash"),
    "paged-kv": paged_kv,
    "unified-memory": refused("it is another machine: name one with --on, such as m3-ultra or gb10-dgx-spark"),
    "cxl-memory": refused("no device of our tables states a CXL tier; a machine file can lower its host link to one"),
}

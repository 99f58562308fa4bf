"""``python -m sglang.launch_server`` for a deployment: one copy, its other nodes, or two sides with their router."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bytebound.facts.engine_flags import version_of, written
from bytebound.facts.engines import find_engine
from bytebound.plan.commands.asked import DECODE, DRAFT_MODEL, HEAD, PREFILL
from bytebound.plan.commands.notes import Unable, copies_note, length_note, loading_note
from bytebound.plan.commands.shell import Words, comment, flag, joined, line

if TYPE_CHECKING:
    from bytebound.plan.commands.asked import Asked

ENGINE = "sglang"
PORT, JOIN_PORT = 30000, 5000
HARDWARE = frozenset({"nvidia", "amd"})
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
ONLINE = {"fp8": "fp8", "mxfp8": "mxfp8"}
"""Formats it makes of a 16-bit checkpoint while loading. Source: sglang/srt/arg_groups/choices.py (0.5.23)."""
STORED = {
    "fp8-tensor": "FP8 with one scale a tensor", "fp8-block128": "FP8 with blocks of 128", "int8": "W8A8 (INT8)", "int4": "W4A16 (GPTQ)",
    "awq": "AWQ", "nvfp4": "NVFP4", "mxfp4": "MXFP4",
}  # fmt: skip
CACHES = {
    "bf16": "bf16", "fp8": "fp8_e4m3", "fp8-tensor": "fp8_e4m3", "mxfp8": "mxfp8", "nvfp4": "nvfp4", "mxfp4": "fp4_mx_block16",
}  # fmt: skip


def unable(asked: Asked) -> str:
    """Return why SGLang cannot run this deployment; an empty text: it can."""
    if asked.hardware not in HARDWARE:
        return f"no SGLang command is written for {asked.device}: only GPUs of NVIDIA and AMD are"
    if asked.weights not in {"auto", *DTYPES, *ONLINE, *STORED}:
        return f"SGLang {version_of(ENGINE)} has no {asked.weights} weights here; take another format, or llama.cpp for GGUF"
    if asked.kv not in {"auto", *CACHES}:
        return f"SGLang {version_of(ENGINE)} has no {asked.kv} KV cache"
    if asked.draft_tokens and not asked.drafts and asked.dp > 1 and asked.experts:
        return "SGLang does not speculate with a draft model beside data-parallel attention"
    if asked.static:
        return "SGLang always batches continuously; the plan assumed static batches"
    return ""


def serve_words(asked: Asked, *, role: str = "", port: int = PORT, rank: int | str = 0, head: str = HEAD) -> Words:
    """Return the server of one node of one copy; ``role`` is ``prefill`` or ``decode`` where they are apart."""
    return joined(
        (
            ("python", "-m", "sglang.launch_server"),
            flag(ENGINE, "--model-path", asked.checkpoint),
            flag(ENGINE, "--host", "0.0.0.0"),  # noqa: S104 - a server for others
            flag(ENGINE, "--port", port),
            *_parallel(asked, rank, head),
            *_formats(asked),
            *_scheduling(asked),
            *_host_memory(asked),
            *_drafting(asked),
            *_side(role),
        )
    )


def shell(asked: Asked) -> tuple[str, tuple[str, ...]]:
    """Return the shell lines and what to know about them.

    Raises:
        Unable: this deployment is not one for SGLang.
    """
    if reason := unable(asked):
        raise Unable(reason)
    notes = [*loading_note(asked, ONLINE, STORED), length_note(asked), *_notes(asked)]
    if not asked.disaggregated:
        return "\n\n".join(_nodes(asked)), (*copies_note(asked.replicas, "copies"), *notes)
    sides = []
    for role, count in (("prefill", asked.prefill_replicas), ("decode", asked.replicas)):
        lines = _nodes(asked, role)
        sides += [f"{comment(f'{role}: {count} of these, each on its own devices')}\n{lines[0]}", *lines[1:]]
    return "\n\n".join([*sides, _router(asked)]), (
        f"replace {PREFILL} and {DECODE} by the addresses of the servers; the router is the package sglang-router",
        *notes,
    )


def _nodes(asked: Asked, role: str = "") -> list[str]:
    first = line(serve_words(asked, role=role))
    others = [
        f"{comment(f'node {rank + 1} of {asked.nodes}')}\n{line(serve_words(asked, role=role, rank=rank))}"
        for rank in range(1, asked.nodes)
    ]
    return [first, *others]


def _parallel(asked: Asked, rank: int | str, head: str) -> list[Words]:
    inside = asked.dp > 1 and asked.experts
    width = asked.tp * asked.dp if inside else asked.tp
    words = [flag(ENGINE, "--tp-size", width)] if width > 1 else []
    if asked.pp > 1:
        words.append(flag(ENGINE, "--pp-size", asked.pp))
    if asked.dp > 1:
        words.append(flag(ENGINE, "--attn-dp-size" if inside else "--dp-size", asked.dp))
    if asked.ep > 1 and asked.experts:
        words.append(flag(ENGINE, "--ep-size", min(asked.ep, width)))
    if asked.nodes > 1:
        words += [
            flag(ENGINE, "--nnodes", asked.nodes),
            ("--node-rank", str(rank)),
            flag(ENGINE, "--dist-init-addr", f"{head}:{JOIN_PORT}"),
        ]
    return words


def _formats(asked: Asked) -> list[Words]:
    words = []
    if asked.weights in DTYPES:
        words.append(flag(ENGINE, "--dtype", DTYPES[asked.weights]))
    if asked.quantized and asked.weights in ONLINE:
        words.append(flag(ENGINE, "--quantization", ONLINE[asked.weights]))
    if asked.kv != "auto":
        words.append(flag(ENGINE, "--kv-cache-dtype", CACHES[asked.kv]))
    return words


def _scheduling(asked: Asked) -> list[Words]:
    copies = asked.dp if asked.experts else 1
    return [
        flag(ENGINE, "--max-running-requests", asked.batch * copies),
        flag(ENGINE, "--chunked-prefill-size", asked.chunk),
        flag(ENGINE, "--mem-fraction-static", find_engine(ENGINE).memory_share),
    ]


def _host_memory(asked: Asked) -> list[Words]:
    words = []
    if asked.host_bytes:
        words.append(flag(ENGINE, "--cpu-offload-gb", math.ceil(asked.host_bytes / 1e9)))
    if asked.offload_hit:
        words += [flag(ENGINE, "--enable-hierarchical-cache"), flag(ENGINE, "--hicache-ratio", 2.0)]
    return words


def _drafting(asked: Asked) -> list[Words]:
    if not asked.draft_tokens:
        return []
    named = [] if asked.drafts else [flag(ENGINE, "--speculative-draft-model-path", DRAFT_MODEL)]
    return [
        flag(ENGINE, "--speculative-algorithm", "NEXTN" if asked.drafts else "STANDALONE"),
        *named,
        flag(ENGINE, "--speculative-num-steps", asked.draft_tokens),
        flag(ENGINE, "--speculative-eagle-topk", 1),
        flag(ENGINE, "--speculative-num-draft-tokens", asked.draft_tokens + 1),
    ]


def _side(role: str) -> list[Words]:
    if not role:
        return []
    return [flag(ENGINE, "--disaggregation-mode", role), flag(ENGINE, "--disaggregation-transfer-backend", "nixl")]


def _router(asked: Asked) -> str:
    def servers(name: str, host: str, count: int) -> Words:
        return (name, written(ENGINE, name, f"http://{host}:{PORT}", place="proxy")) * count

    words = joined(
        (
            ("python", "-m", "sglang_router.launch_router"),
            flag(ENGINE, "--pd-disaggregation", place="proxy"),
            servers("--prefill", PREFILL, asked.prefill_replicas),
            servers("--decode", DECODE, asked.replicas),
            flag(ENGINE, "--host", "0.0.0.0", place="proxy"),  # noqa: S104 - a server for others
            flag(ENGINE, "--port", 8000, place="proxy"),
        )
    )
    return f"{comment('the router that clients talk to')}\n{line(words)}"


def _notes(asked: Asked) -> list[str]:
    notes = []
    if asked.dp > 1 and asked.experts:
        notes.append(
            "SGLang counts attention copies inside the tensor-parallel group, so --tp-size is tensor × data parallel"
        )
    if asked.ep > 1 and not asked.experts:
        notes.append("the model has no experts: expert parallelism does nothing")
    if asked.draft_tokens and not asked.drafts:
        notes.append(
            f"replace {DRAFT_MODEL}; the plan assumes that {100 * asked.acceptance:.0f} % of its tokens are accepted"
        )
    if asked.nodes > 1:
        notes.append(f"replace {HEAD} by the address of the first node, which every other node must reach")
    return notes

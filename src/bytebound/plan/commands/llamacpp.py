"""``llama-server`` for a deployment: one process of llama.cpp, all devices of a node."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bytebound.facts.engine_flags import version_of
from bytebound.facts.formats import find_format
from bytebound.plan.commands.asked import DRAFT_MODEL
from bytebound.plan.commands.notes import Unable, copies_note
from bytebound.plan.commands.shell import Words, flag, joined, line

if TYPE_CHECKING:
    from bytebound.plan.commands.asked import Asked

ENGINE = "llama.cpp"
PORT, MICRO_BATCH = 8080, 512
HARDWARE = frozenset({"nvidia", "amd", "cpu", "apple"})
FILES = {
    "bf16": "BF16", "fp16": "F16", "fp32": "F32", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1", "q5_0": "Q5_0", "q5_1": "Q5_1",
    "q2_k": "Q2_K", "q3_k": "Q3_K_M", "q4_k": "Q4_K_M", "q5_k": "Q5_K_M", "q6_k": "Q6_K", "q4_k_m": "Q4_K_M", "q4_k_s": "Q4_K_S",
    "q5_k_m": "Q5_K_M", "q3_k_m": "Q3_K_M", "iq4_nl": "IQ4_NL", "iq4_xs": "IQ4_XS", "iq3_s": "IQ3_S", "iq2_xxs": "IQ2_XXS",
    "mxfp4": "MXFP4",
}  # fmt: skip
"""Our format -> the type of file llama-quantize makes. Source: llama.cpp tools/quantize README; MXFP4: files of gpt-oss."""
CACHES = {
    "fp32": "f32", "fp16": "f16", "bf16": "bf16", "q8_0": "q8_0", "q4_0": "q4_0", "q4_1": "q4_1", "q5_0": "q5_0", "q5_1": "q5_1",
    "iq4_nl": "iq4_nl",
}  # fmt: skip


def unable(asked: Asked) -> str:
    """Return why llama.cpp cannot run this deployment; an empty text: it can."""
    if asked.hardware not in HARDWARE:
        return f"no llama.cpp command is written for {asked.device}"
    if asked.ep > 1 and asked.experts:
        return "llama.cpp has no expert parallelism"
    if asked.disaggregated:
        return "llama.cpp does not hand KV from one server to another, so prefill and decode cannot be apart"
    if asked.nodes > 1:
        return f"a copy over {asked.nodes} nodes needs llama.cpp's RPC back end, which no command here covers"
    if asked.weights not in {"auto", *FILES}:
        return f"llama.cpp has no {asked.weights} weights; take a GGUF format such as q8_0 or q4_k"
    if asked.kv not in {"auto", *CACHES}:
        return f"llama.cpp {version_of(ENGINE)} has no {asked.kv} KV cache; take q8_0 or q4_0"
    return ""


def serve_words(asked: Asked, *, port: int = PORT) -> Words:
    """Return ``llama-server`` of one copy."""
    return joined(
        (
            ("llama-server",),
            flag(ENGINE, "--model", gguf_file(asked)),
            flag(ENGINE, "--host", "0.0.0.0"),  # noqa: S104 - a server for others
            flag(ENGINE, "--port", port),
            flag(ENGINE, "--parallel", asked.batch),
            flag(ENGINE, "--ctx-size", asked.batch * (asked.context + asked.draft_tokens)),
            flag(ENGINE, "--batch-size", max(asked.chunk, asked.batch)),
            flag(ENGINE, "--ubatch-size", min(MICRO_BATCH, max(asked.chunk, asked.batch))),
            flag(ENGINE, "--flash-attn", "on"),
            *_devices(asked),
            *_cache(asked),
            *_drafting(asked),
        )
    )


def gguf_file(asked: Asked) -> str:
    """Return the GGUF file the command loads: the user's own, or one named after model and format."""
    if asked.checkpoint.endswith(".gguf") and not asked.quantized:
        return asked.checkpoint
    name = asked.checkpoint.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")
    weights = asked.dtype if asked.weights == "auto" else asked.weights
    return f"{name}-{FILES.get(weights, weights.upper())}.gguf"


def shell(asked: Asked) -> tuple[str, tuple[str, ...]]:
    """Return the shell line and what to know about it.

    Raises:
        Unable: this deployment is not one for llama.cpp.
    """
    if reason := unable(asked):
        raise Unable(reason)
    return line(serve_words(asked)), (*copies_note(asked.replicas * asked.dp, "servers"), *_notes(asked))


def _devices(asked: Asked) -> list[Words]:
    if asked.hardware == "cpu":
        return []
    left = math.ceil(asked.layers * asked.host_weights)
    words = [flag(ENGINE, "--gpu-layers", "all" if asked.experts or not left else str(asked.layers - left))]
    if asked.experts and left:
        words.append(flag(ENGINE, "--cpu-moe") if left >= asked.layers else flag(ENGINE, "--n-cpu-moe", left))
    if asked.tp > 1 or asked.pp > 1:
        words.append(flag(ENGINE, "--split-mode", "row" if asked.tp > 1 else "layer"))
    return words


def _cache(asked: Asked) -> list[Words]:
    if asked.kv == "auto":
        return []
    return [flag(ENGINE, name, CACHES[asked.kv]) for name in ("--cache-type-k", "--cache-type-v")]


def _drafting(asked: Asked) -> list[Words]:
    if not asked.draft_tokens:
        return []
    named = [] if asked.drafts else [flag(ENGINE, "--spec-draft-model", f"{DRAFT_MODEL}.gguf")]
    return [
        flag(ENGINE, "--spec-type", "draft-mtp" if asked.drafts else "draft-simple"),
        *named,
        flag(ENGINE, "--spec-draft-n-max", asked.draft_tokens),
    ]


def _notes(asked: Asked) -> list[str]:
    file = gguf_file(asked)
    notes = [f"{asked.context:,} tokens are kept for each of {asked.batch:,} slots; a longer request is refused or cut"]
    if file != asked.checkpoint:
        notes.append(f"make {file} with convert_hf_to_gguf.py and llama-quantize, or take a published one")
    if find_format(asked.stored).kind == "scaled" and asked.weights == "auto":
        notes.append(
            f"the checkpoint stores {asked.stored}, which GGUF has not: the file holds {asked.dtype} and is larger than planned"
        )
    if asked.tp > 1 and asked.pp > 1:
        notes.append("llama.cpp splits by rows or by layers, not by both: --split-mode row takes all devices")
    if asked.tp > 1:
        notes.append("--split-mode row splits weights alone; the KV cache stays on the main GPU")
    if asked.host_weights:
        notes.append(
            "llama.cpp computes the layers or experts it leaves in host memory on the processor; the plan moved them over the link"
        )
    if asked.dp > 1:
        notes.append("every data-parallel copy is a server of its own")
    if asked.draft_tokens and not asked.drafts:
        notes.append(
            f"replace {DRAFT_MODEL}.gguf; the plan assumes that {100 * asked.acceptance:.0f} % of its tokens are accepted"
        )
    if asked.offload_hit:
        notes.append(
            "prompts that wait are kept in host memory up to --cache-ram; its default may be too small for the plan's share"
        )
    return notes

"""``vllm serve`` for a deployment: one copy, its other nodes, or a prefill and a decode side with their proxy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bytebound.facts.engine_flags import version_of, written
from bytebound.facts.engines import find_engine
from bytebound.plan.commands.asked import DECODE, DRAFT_MODEL, HEAD, PREFILL
from bytebound.plan.commands.notes import Unable, copies_note, length_note, loading_note
from bytebound.plan.commands.shell import Words, comment, flag, joined, line
from bytebound.units import GIB

if TYPE_CHECKING:
    from bytebound.plan.commands.asked import Asked

ENGINE = "vllm"
PORT, RPC_PORT = 8000, 13345
HARDWARE = frozenset({"nvidia", "amd", "cpu", "tpu", "gaudi"})
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
ONLINE = {"fp8": "fp8_per_channel", "fp8-tensor": "fp8_per_tensor", "fp8-block128": "fp8_per_block", "mxfp8": "mxfp8"}
"""Formats it makes of a 16-bit checkpoint while loading. Source: vllm/config/quantization.py (0.33.0)."""
STORED = {
    "int8": "W8A8 (INT8)", "int8-wo": "W8A16", "int4": "W4A16", "int4-g32": "W4A16 with groups of 32",
    "int4-g64": "W4A16 with groups of 64", "awq": "AWQ", "nvfp4": "NVFP4", "mxfp4": "MXFP4",
}  # fmt: skip
"""Formats it takes from a checkpoint that is quantized already. Source: the schemes of llm-compressor's README."""
CACHES = {
    "bf16": "bfloat16", "fp16": "float16", "fp8": "fp8", "fp8-tensor": "fp8", "int8": "int8_per_token_head",
    "int8-wo": "int8_per_token_head", "int4": "int4_per_token_head", "nvfp4": "nvfp4",
}  # fmt: skip


def unable(asked: Asked) -> str:
    """Return why vLLM cannot run this deployment; an empty text: it can."""
    if asked.hardware not in HARDWARE:
        return f"vLLM has no backend for {asked.device}"
    if asked.weights not in {"auto", *DTYPES, *ONLINE, *STORED}:
        return f"vLLM {version_of(ENGINE)} loads no {asked.weights} weights; take another format, or llama.cpp for GGUF"
    if asked.kv not in {"auto", *CACHES}:
        return f"vLLM {version_of(ENGINE)} has no {asked.kv} KV cache"
    if asked.dp > 1 and asked.tp * asked.pp > asked.per_node:
        return "data-parallel copies that each span nodes of vLLM are started on Ray, which no command here covers"
    if asked.static:
        return "vLLM always batches continuously; the plan assumed static batches"
    return ""


def serve_words(asked: Asked, *, role: str = "", port: int = PORT, rank: int | str = 0, head: str = HEAD) -> Words:
    """Return ``vllm serve`` of one node of one copy; ``role`` is ``prefill`` or ``decode`` where they are apart."""
    return joined(
        (
            ("vllm", "serve", asked.checkpoint),
            flag(ENGINE, "--host", "0.0.0.0"),  # noqa: S104 - a server for others
            flag(ENGINE, "--port", port),
            *_parallel(asked, rank, head),
            *_formats(asked),
            *_scheduling(asked),
            *_host_memory(asked, role),
            *_drafting(asked),
            *([flag(ENGINE, "--kv-transfer-config", _transfer(asked, role))] if role else []),
        )
    )


def shell(asked: Asked) -> tuple[str, tuple[str, ...]]:
    """Return the shell lines and what to know about them.

    Raises:
        Unable: this deployment is not one for vLLM.
    """
    if reason := unable(asked):
        raise Unable(reason)
    notes = [*loading_note(asked, ONLINE, STORED), length_note(asked), *_notes(asked)]
    if not asked.disaggregated:
        return "\n\n".join(_nodes(asked)), (*copies_note(asked.replicas, "copies"), *notes)
    sides = []
    for role, host, count in (("prefill", PREFILL, asked.prefill_replicas), ("decode", DECODE, asked.replicas)):
        variable = "VLLM_NIXL_SIDE_CHANNEL_HOST"
        address = f"{variable}={written(ENGINE, variable, host, place='environment')} \\\n"
        first, *others = _nodes(asked, role)
        sides += [f"{comment(f'{role}: {count} of these, each on its own devices')}\n{address}{first}", *others]
    return "\n\n".join([*sides, _proxy(asked)]), (
        f"replace {PREFILL} and {DECODE} by the addresses of the servers",
        "the proxy is an example of the vLLM repository; llm-d and NVIDIA Dynamo are routers for production",
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
    words = [flag(ENGINE, "--tensor-parallel-size", asked.tp)] if asked.tp > 1 else []
    if asked.pp > 1:
        words.append(flag(ENGINE, "--pipeline-parallel-size", asked.pp))
    if asked.dp > 1:
        words.append(flag(ENGINE, "--data-parallel-size", asked.dp))
    if asked.ep > 1 and asked.experts:
        words.append(flag(ENGINE, "--enable-expert-parallel"))
    if asked.nodes == 1:
        return words
    if asked.dp == 1:
        words += [
            flag(ENGINE, "--nnodes", asked.nodes),
            ("--node-rank", str(rank)),
            flag(ENGINE, "--master-addr", head),
        ]
    else:
        local = asked.per_node // (asked.tp * asked.pp)
        before = 0 if isinstance(rank, str) else rank * local
        words += [
            flag(ENGINE, "--data-parallel-size-local", min(local, asked.dp - before)),
            flag(ENGINE, "--data-parallel-address", head),
            flag(ENGINE, "--data-parallel-rpc-port", RPC_PORT),
        ]
        words += [("--data-parallel-start-rank", rank if isinstance(rank, str) else str(before))] if rank else []
    return [*words, flag(ENGINE, "--headless")] if rank else words


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
    words = [
        flag(ENGINE, "--max-model-len", "auto"),
        flag(ENGINE, "--max-num-seqs", asked.batch),
        flag(ENGINE, "--max-num-batched-tokens", max(asked.chunk, asked.batch * (1 + asked.draft_tokens))),
        flag(ENGINE, "--enable-chunked-prefill"),
        flag(ENGINE, "--gpu-memory-utilization", find_engine(ENGINE).memory_share),
    ]
    return [*words, flag(ENGINE, "--enable-prefix-caching")] if asked.prefix_hit or asked.offload_hit else words


def _host_memory(asked: Asked, role: str) -> list[Words]:
    words = []
    if asked.host_bytes:
        words.append(flag(ENGINE, "--cpu-offload-gb", math.ceil(10 * asked.host_bytes / GIB) / 10))
    if asked.offload_hit and not role:
        words.append(flag(ENGINE, "--kv-offloading-size", offload_gib(asked)))
        words.append(flag(ENGINE, "--kv-offloading-backend", "native"))
    return words


def offload_gib(asked: Asked) -> int:
    """Return GiB of host memory for KV blocks of all tensor-parallel ranks: twice what the devices hold (assumed).

    The ratio is SGLang's default (``--hicache-ratio``).
    """
    return max(math.ceil(2 * asked.cache_bytes * asked.tp / GIB), 1)


def speculative(asked: Asked) -> dict[str, Any]:
    """Return vLLM's speculative configuration: the checkpoint's own layers, or a draft model to be named."""
    method = "mtp" if asked.drafts else "draft_model"
    model = {} if asked.drafts else {"model": DRAFT_MODEL}
    return {
        "method": written(ENGINE, "method", method, place="json"),
        **model,
        "num_speculative_tokens": asked.draft_tokens,
    }


def _drafting(asked: Asked) -> list[Words]:
    return [flag(ENGINE, "--speculative-config", speculative(asked))] if asked.draft_tokens else []


def _transfer(asked: Asked, role: str) -> dict[str, Any]:
    """Return who hands KV over, and who keeps it in host memory: --kv-offloading-size would take the place of the first.

    Source: vllm/config/vllm.py (0.33.0), _post_init_kv_transfer_config.
    """
    side = "kv_producer" if role == "prefill" else "kv_consumer"
    over = _connector(kv_connector="NixlConnector", kv_role=side, kv_load_failure_policy="fail")
    if not asked.offload_hit:
        return over
    size = {"cpu_bytes_to_use": offload_gib(asked) * GIB}
    kept = _connector(kv_connector="OffloadingConnector", kv_role="kv_both", kv_connector_extra_config=size)
    return _connector(
        kv_connector="MultiConnector", kv_role="kv_both", kv_connector_extra_config={"connectors": [over, kept]}
    )


def _connector(**keys: Any) -> dict[str, Any]:
    for key, value in keys.items():
        written(ENGINE, key, value, place="json")
    return keys


def _proxy(asked: Asked) -> str:
    def hosts(name: str, value: str, count: int) -> Words:
        written(ENGINE, name, value, place="proxy")
        return (name, *([value] * count))

    words = joined(
        (
            ("python", "tests/v1/kv_connector/nixl_integration/toy_proxy_server.py"),
            flag(ENGINE, "--port", PORT + 192, place="proxy"),
            hosts("--prefiller-hosts", PREFILL, asked.prefill_replicas),
            hosts("--prefiller-ports", str(PORT), asked.prefill_replicas),
            hosts("--decoder-hosts", DECODE, asked.replicas),
            hosts("--decoder-ports", str(PORT), asked.replicas),
        )
    )
    return f"{comment('the proxy that clients talk to')}\n{line(words)}"


def _notes(asked: Asked) -> list[str]:
    notes = []
    if asked.ep > 1 and asked.experts and asked.ep != asked.tp * asked.dp:
        notes.append(
            f"vLLM deals experts to all tensor × data parallel devices, {asked.tp * asked.dp} here, not to {asked.ep}"
        )
    if asked.ep > 1 and not asked.experts:
        notes.append("the model has no experts: expert parallelism does nothing")
    if asked.draft_tokens and not asked.drafts:
        notes.append(
            f"replace {DRAFT_MODEL}; the plan assumes that {100 * asked.acceptance:.0f} % of its tokens are accepted"
        )
    if asked.offload_hit:
        notes.append(
            "the host memory for KV is twice the devices' (assumed); take more where conversations pause longer"
        )
    if asked.nodes > 1:
        notes.append(f"replace {HEAD} by the address of the first node, which every other node must reach")
    if asked.hardware in {"tpu", "gaudi", "cpu"}:
        notes.append(
            f"on {asked.device} vLLM runs through its own build or plug-in; flags may differ there and were not checked"
        )
    return notes

"""``trtllm-serve`` for a deployment, with the YAML file of what has no flag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bytebound.facts.engine_flags import version_of, written
from bytebound.facts.engines import find_engine
from bytebound.plan.commands.asked import DECODE, DRAFT_MODEL, PREFILL
from bytebound.plan.commands.manifest import document
from bytebound.plan.commands.notes import Unable, copies_note, length_note, loading_note
from bytebound.plan.commands.shell import Words, comment, flag, joined, line

if TYPE_CHECKING:
    from bytebound.plan.commands.asked import Asked

ENGINE = "tensorrt-llm"
PORT = 8000
PLAIN = frozenset({"auto", "bf16", "fp16"})
STORED = {
    "fp8": "FP8", "fp8-tensor": "FP8", "fp8-block128": "FP8 with blocks of 128", "int4": "W4A16 (AWQ)", "awq": "AWQ", "nvfp4": "NVFP4",
    "mxfp4": "MXFP4",
}  # fmt: skip
"""Formats of NVIDIA ModelOpt checkpoints. Source: NVIDIA/TensorRT-LLM docs/source/features/quantization.md."""
CACHES = {"fp8": "fp8", "fp8-tensor": "fp8"}
END = "EOF"


def unable(asked: Asked) -> str:
    """Return why TensorRT-LLM cannot run this deployment; an empty text: it can."""
    if asked.hardware != "nvidia":
        return f"TensorRT-LLM runs on GPUs of NVIDIA alone, not on {asked.device}"
    if asked.weights not in {*PLAIN, *STORED}:
        return f"TensorRT-LLM {version_of(ENGINE)} has no {asked.weights} weights here"
    if asked.kv not in {"auto", "bf16", "fp16", *CACHES}:
        return f"TensorRT-LLM {version_of(ENGINE)} has no {asked.kv} KV cache here"
    if asked.host_bytes:
        return "TensorRT-LLM's PyTorch backend keeps no weights in host memory"
    if asked.nodes > 1:
        return (
            f"a copy over {asked.nodes} nodes of TensorRT-LLM is started by MPI or Slurm, which no command here covers"
        )
    if asked.shares_experts and asked.tp > 1:
        return "TensorRT-LLM deals attention out by tensor or by data parallelism, not by both at once"
    if asked.static:
        return "TensorRT-LLM always batches continuously; the plan assumed static batches"
    return ""


def serve_words(asked: Asked, *, port: int = PORT, file: str = "") -> Words:
    """Return ``trtllm-serve`` of one copy; ``file`` names its YAML options."""
    dealt = asked.dp if asked.shares_experts else asked.tp
    width = dealt * asked.pp
    return joined(
        (
            ("trtllm-serve", asked.checkpoint),
            flag(ENGINE, "--host", "0.0.0.0"),  # noqa: S104 - a server for others
            flag(ENGINE, "--port", port),
            flag(ENGINE, "--backend", "pytorch"),
            *([flag(ENGINE, "--tp_size", dealt)] if dealt > 1 else []),
            *([flag(ENGINE, "--pp_size", asked.pp)] if asked.pp > 1 else []),
            *([flag(ENGINE, "--ep_size", min(asked.ep, dealt))] if asked.ep > 1 and asked.experts else []),
            *([flag(ENGINE, "--gpus_per_node", width)] if width > 1 else []),
            flag(ENGINE, "--max_batch_size", asked.batch),
            flag(ENGINE, "--max_num_tokens", max(asked.chunk, asked.batch * (1 + asked.draft_tokens))),
            flag(ENGINE, "--kv_cache_free_gpu_memory_fraction", find_engine(ENGINE).memory_share),
            flag(ENGINE, "--enable_chunked_prefill"),
            *([flag(ENGINE, "--extra_llm_api_options", file)] if file else []),
        )
    )


def options(asked: Asked, role: str = "") -> dict[str, Any]:
    """Return what the YAML file holds; empty where flags say everything."""
    flat: dict[str, object] = {"enable_attention_dp": True} if asked.shares_experts else {}
    if asked.kv in CACHES:
        flat["kv_cache_config.dtype"] = CACHES[asked.kv]
    if asked.prefix_hit or asked.offload_hit:
        flat["kv_cache_config.enable_block_reuse"] = True
    if asked.offload_hit:
        flat["kv_cache_config.host_cache_size"] = int(2 * asked.cache_bytes)
    if asked.draft_tokens:
        flat["speculative_config.decoding_type"] = "MTP" if asked.drafts else "DraftTarget"
        flat["speculative_config.max_draft_len"] = asked.draft_tokens
        named = {"speculative_config.speculative_model_dir": DRAFT_MODEL, "disable_overlap_scheduler": True}
        flat |= {} if asked.drafts else named
    if role:
        flat["cache_transceiver_config.backend"] = "NIXL"
        flat["cache_transceiver_config.max_tokens_in_buffer"] = asked.context
        flat |= {"disable_overlap_scheduler": True} if role == "prefill" else {}
    return nested(flat, "yaml")


def nested(flat: dict[str, object], place: str) -> dict[str, Any]:
    """Return dotted keys as mappings in mappings, each key and value checked against the table of flags."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        written(ENGINE, name, value, place=place)
        outer, _, inner = name.rpartition(".")
        (found.setdefault(outer, {}) if outer else found)[inner] = value
    return found


def shell(asked: Asked) -> tuple[str, tuple[str, ...]]:
    """Return the shell lines and what to know about them.

    Raises:
        Unable: this deployment is not one for TensorRT-LLM.
    """
    if reason := unable(asked):
        raise Unable(reason)
    notes = [*loading_note(asked, {}, STORED), length_note(asked), *_notes(asked)]
    servers_each = 1 if asked.shares_experts else asked.dp
    copies = asked.replicas * servers_each
    prefills = asked.prefill_replicas * servers_each
    if not asked.disaggregated:
        return _server(asked, "options.yaml", ""), (*copies_note(copies, "copies"), *notes)
    sides = [
        f"{comment(f'{role}: {count} of these, each on its own devices')}\n{_server(asked, f'{role}.yaml', role)}"
        for role, count in (("prefill", prefills), ("decode", copies))
    ]
    servers = {
        "hostname": "0.0.0.0",  # noqa: S104 - a server for others
        "port": PORT,
        "backend": "pytorch",
        "context_servers.num_instances": prefills,
        "context_servers.urls": [f"{PREFILL}:{PORT}"] * prefills,
        "generation_servers.num_instances": copies,
        "generation_servers.urls": [f"{DECODE}:{PORT}"] * copies,
    }
    start = line(joined((("trtllm-serve", "disaggregated"), flag(ENGINE, "-c", "servers.yaml", place="proxy"))))
    proxy = f"{comment('the server that clients talk to')}\n{_file('servers.yaml', nested(servers, 'proxy'))}\n{start}"
    return "\n\n".join([*sides, proxy]), (f"replace {PREFILL} and {DECODE} by the addresses of the servers", *notes)


def _server(asked: Asked, file: str, role: str) -> str:
    held = options(asked, role)
    start = line(serve_words(asked, file=file if held else ""))
    return f"{_file(file, held)}\n{start}" if held else start


def _file(name: str, held: dict[str, Any]) -> str:
    return f"cat > {name} <<'{END}'\n{document(held)}\n{END}"


def _notes(asked: Asked) -> list[str]:
    notes = []
    if asked.dp > 1 and not asked.experts:
        notes.append("trtllm-serve has no data-parallel size: every data-parallel copy is a server of its own")
    if asked.ep > 1 and not asked.experts:
        notes.append("the model has no experts: expert parallelism does nothing")
    if asked.draft_tokens and not asked.drafts:
        notes.append(
            f"replace {DRAFT_MODEL}; the plan assumes that {100 * asked.acceptance:.0f} % of its tokens are accepted"
        )
    return notes

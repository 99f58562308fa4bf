"""A Kubernetes manifest of a deployment: pods that serve, one address before them, and groups of pods where a copy spans nodes."""

from __future__ import annotations

import hashlib
import math
import re
from typing import TYPE_CHECKING, Any

from bytebound.facts.engine_flags import find_flag
from bytebound.plan.commands import llamacpp, sglang, tensorrt_llm, vllm
from bytebound.plan.commands.manifest import document
from bytebound.plan.commands.notes import Unable
from bytebound.plan.commands.shell import comment
from bytebound.units import GIB

if TYPE_CHECKING:
    from bytebound.plan.commands.asked import Asked
    from bytebound.plan.commands.shell import Words

ENGINE = "kubernetes"
RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "tpu": "google.com/tpu"}
IMAGES = {
    ("vllm", "nvidia"): "vllm/vllm-openai:v0.33.0", ("vllm", "amd"): "vllm/vllm-openai-rocm:v0.33.0",
    ("vllm", "tpu"): "vllm/vllm-tpu:nightly",
    ("sglang", "nvidia"): "lmsysorg/sglang:v0.5.23", ("tensorrt-llm", "nvidia"): "nvcr.io/nvidia/tensorrt-llm/release:1.2.1",
    ("llama.cpp", "nvidia"): "ghcr.io/ggml-org/llama.cpp:server-cuda", ("llama.cpp", "cpu"): "ghcr.io/ggml-org/llama.cpp:server",
}  # fmt: skip
ENGINES = {"vllm": vllm, "sglang": sglang, "tensorrt-llm": tensorrt_llm, "llama.cpp": llamacpp}
SHARED_MEMORY = "16Gi"
LEADER, INDEX = "$(LWS_LEADER_ADDRESS)", "$(LWS_WORKER_INDEX)"
MINUTES_TO_LOAD = 30
"""Time a server may take to load before its pod is started anew (assumed)."""


def manifest(asked: Asked, engine: str) -> tuple[str, tuple[str, ...]]:
    """Return the manifest and what to know about it.

    Raises:
        Unable: the engine does not run this deployment, or no image and device plug-in of it is known.
    """
    if engine not in ENGINES:
        raise Unable(f"no manifest is written for {engine}: only {', '.join(ENGINES)} have one")
    if reason := ENGINES[engine].unable(asked):
        raise Unable(reason)
    image = IMAGES.get((engine, asked.hardware))
    if image is None:
        raise Unable(f"no container image of {engine} for {asked.device} is known here")
    if engine == "vllm" and asked.nodes > 1 and asked.dp > 1 and asked.per_node // (asked.tp * asked.pp) > 1:
        raise Unable(
            "data-parallel copies over several nodes, several on each, need ranks that a manifest cannot count"
        )
    find_flag(engine, image, "image")
    roles = (
        [("prefill", asked.prefill_replicas), ("decode", asked.replicas)]
        if asked.disaggregated
        else [("", asked.replicas)]
    )
    parts, notes = [], [f"the image {image} was not pulled here; check its tag", *_notes(asked, engine)]
    for role, count in roles:
        name = label(asked.checkpoint, role)
        copies = count * (_servers(asked, engine))
        words = _words(asked, engine, role, 0)
        build = _group if asked.nodes > 1 else _deployment
        if "/options/options.yaml" in words:
            held = document(tensorrt_llm.options(asked, role)) + "\n"
            parts.append(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"options.yaml": held}}
            )
        parts += [build(asked, engine, role, copies, image), _service(name, _port(engine), grouped=asked.nodes > 1)]
    heads = comment(f"{asked.checkpoint} on {asked.devices} × {asked.device} a copy")
    return "\n---\n".join([f"{heads}\n{document(parts[0])}", *(document(part) for part in parts[1:])]), tuple(notes)


def _servers(asked: Asked, engine: str) -> int:
    """Return the servers of one copy: engines without data parallelism start one for each data-parallel part."""
    alone = engine == "llama.cpp" or (engine == "tensorrt-llm" and not asked.shares_experts)
    return asked.dp if alone else 1


def _notes(asked: Asked, engine: str) -> list[str]:
    notes = []
    if asked.local or engine == "llama.cpp":
        notes.append("mount a volume that holds the model, and write its path there in place of this one")
    else:
        notes.append(
            "mount a volume on the model cache so that pods do not load it again; a gated model needs HF_TOKEN from a Secret"
        )
    if asked.disaggregated:
        notes.append("the router before both sides is not in the manifest: llm-d, NVIDIA Dynamo or the engine's own")
    if asked.nodes > 1:
        notes.append("LeaderWorkerSet has to be installed in the cluster (0.6 or later)")
    return [*notes, f"shared memory of {SHARED_MEMORY} and {MINUTES_TO_LOAD} minutes to load are assumed"]


def label(name: str, role: str = "") -> str:
    """Return a name Kubernetes takes (RFC 1123 label, at most 63 characters); one that had to change ends in a digest.

    Example:
        >>> label("Qwen/Qwen3-8B"), label("meta-llama/Llama-3.1-8B", "decode")
        ('qwen3-8b', 'llama-3-1-8b-decode')
    """
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    plain = re.sub(r"[^a-z0-9]+", "-", last).strip("-")
    if not plain or not plain[0].isalpha() or len(plain) > 40 or not last.isascii():
        plain = (
            f"model-{plain[:30].strip('-')}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}".replace(
                "--", "-"
            )
        )
    return f"{plain}-{role}" if role else plain


def _words(asked: Asked, engine: str, role: str, rank: int | str) -> Words:
    if engine == "tensorrt-llm":
        return tensorrt_llm.serve_words(
            asked, file="/options/options.yaml" if tensorrt_llm.options(asked, role) else ""
        )
    if engine == "llama.cpp":
        return llamacpp.serve_words(asked)
    serve = vllm.serve_words if engine == "vllm" else sglang.serve_words
    return serve(asked, role=role, rank=rank, head=LEADER)


def _port(engine: str) -> int:
    return int(ENGINES[engine].PORT)


def _pod(asked: Asked, engine: str, role: str, image: str, *, rank: int | str = 0) -> dict[str, Any]:
    users = {asked.checkpoint, llamacpp.gguf_file(asked)}  # a name that looks like a variable of the pod is none
    words = [w.replace("$(", "$$(") if w in users else w for w in _words(asked, engine, role, rank)]
    serves = rank == 0
    here = min(asked.devices // _servers(asked, engine), asked.per_node)
    resource = RESOURCES.get(asked.hardware)
    memory = (
        f"{math.ceil((asked.host_bytes + (2 * asked.cache_bytes if asked.offload_hit else 0)) * here / GIB) + 16}Gi"
    )
    asks = {"memory": memory}
    if resource is not None:
        find_flag(ENGINE, resource, "manifest")
    devices = {} if resource is None else {resource: str(here)}
    container: dict[str, Any] = {
        "name": "server",
        "image": image,
        **({"args": words[1:]} if engine == "llama.cpp" else {"command": words}),
        "resources": {"requests": {**asks, **devices}, "limits": devices},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 - where collectives share memory
    }
    if engine == "vllm" and "--kv-transfer-config" in words:
        find_flag("vllm", "VLLM_NIXL_SIDE_CHANNEL_HOST", "environment")
        container["env"] = [
            {"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
        ]
    if serves:
        probe = {"httpGet": {"path": "/health", "port": _port(engine)}}
        container["ports"] = [{"containerPort": _port(engine)}]
        container["startupProbe"] = {**probe, "periodSeconds": 10, "failureThreshold": 6 * MINUTES_TO_LOAD}
        container["readinessProbe"] = {**probe, "periodSeconds": 5}
        container["livenessProbe"] = {**probe, "periodSeconds": 10, "failureThreshold": 3}
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}}]
    if "/options/options.yaml" in words:
        container["volumeMounts"].append({"name": "options", "mountPath": "/options"})
        volumes.append({"name": "options", "configMap": {"name": label(asked.checkpoint, role)}})
    return {"containers": [container], "volumes": volumes}


def _deployment(asked: Asked, engine: str, role: str, copies: int, image: str) -> dict[str, Any]:
    name = label(asked.checkpoint, role)
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": copies,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(asked, engine, role, image)},
        },
    }


def _group(asked: Asked, engine: str, role: str, copies: int, image: str) -> dict[str, Any]:
    """Return a LeaderWorkerSet: every copy is a group of pods, one a node, that live and die together."""
    name = label(asked.checkpoint, role)
    find_flag(ENGINE, "leaderworkerset.x-k8s.io/v1 LeaderWorkerSet", "manifest")
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": copies,
            "leaderWorkerTemplate": {
                "size": asked.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {
                    "metadata": {"labels": {"app": name, "role": "leader"}},
                    "spec": _pod(asked, engine, role, image),
                },
                "workerTemplate": {"spec": _pod(asked, engine, role, image, rank=INDEX)},
            },
        },
    }


def _service(name: str, port: int, *, grouped: bool) -> dict[str, Any]:
    selector = {"app": name, "role": "leader"} if grouped else {"app": name}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"name": "http", "port": port, "targetPort": port}]},
    }

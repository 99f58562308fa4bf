"""A deployment as commands need it: plain numbers, the checkpoint it starts from, and the hardware it runs on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bytebound.documents.architecture import Linear
from bytebound.documents.work import Serve
from bytebound.facts.formats import find_format

if TYPE_CHECKING:
    from bytebound.documents.architecture import Architecture
    from bytebound.documents.device import Device
    from bytebound.documents.plan import Deployment
    from bytebound.predict.estimate import Setting

Hardware = Literal["nvidia", "amd", "tpu", "gaudi", "cpu", "apple", "other"]

HEAD, DRAFT_MODEL, PREFILL, DECODE = "HEAD", "DRAFT_MODEL", "PREFILL", "DECODE"
"""Words a reader replaces: the address of the first node, the draft model, and the hosts of each side."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One copy of a deployment.

    Args:
        checkpoint: repository or folder the engine loads.
        kind: decoder, encoder or denoiser.
        weights, kv: format names, or ``auto``: as the checkpoint has them.
        stored: the format most of the checkpoint's matrices are in.
        chunk: prompt tokens of a step.
        context: tokens of a request, prompt and output, rounded up.
        experts: whether the model has experts that can be dealt out.
        drafts: whether the checkpoint has layers that propose tokens (multi-token prediction).
        host_bytes: weights of one device that stay in host memory; ``cache_bytes``: its KV cache.
        per_node: devices of a node; ``nodes``: nodes of a copy.
        predicted: engine the deployment was predicted with.
    """

    checkpoint: str
    kind: str
    local: bool
    hardware: Hardware
    device: str
    tp: int
    pp: int
    ep: int
    dp: int
    batch: int
    prompt: int
    output: int
    chunk: int
    weights: str
    kv: str
    stored: str
    dtype: str
    experts: bool
    drafts: bool
    layers: int
    prefix_hit: float
    offload_hit: float
    host_weights: float
    host_bytes: float
    cache_bytes: float
    draft_tokens: int
    acceptance: float
    disaggregated: bool
    static: bool
    replicas: int
    prefill_replicas: int
    per_node: int
    predicted: str

    @property
    def devices(self) -> int:
        """Devices of one copy."""
        return self.tp * self.pp * self.dp

    @property
    def nodes(self) -> int:
        """Nodes of one copy; data-parallel copies are never cut where they fit into a node."""
        whole = self.per_node // (self.tp * self.pp)
        return math.ceil(self.dp / whole) if whole else math.ceil(self.devices / self.per_node)

    @property
    def context(self) -> int:
        """Tokens of a request of the plan's lengths."""
        return self.prompt + self.output

    @property
    def shares_experts(self) -> bool:
        """Whether data-parallel attention shares one set of experts, so that a copy is one server."""
        return self.dp > 1 and self.experts

    @property
    def quantized(self) -> bool:
        """Whether the plan asks for weights the checkpoint does not hold."""
        return self.weights != "auto" and _family(self.weights) != _family(self.stored)

    @property
    def plain(self) -> bool:
        """Whether the checkpoint is not quantized."""
        return find_format(self.stored).kind == "plain"


def understood(deployment: Deployment, setting: Setting) -> Asked:
    """Return ``deployment`` as commands need it; ``setting`` is its model on the machine of one copy."""
    known = {field.name for field in fields(Serve)}
    work = Serve(**{name: _plain(value) for name, value in deployment.work.items() if name in known})
    held, architecture = setting.answer(work), setting.architecture
    in_device = _first(held["weights_bytes"])
    whole = _first(setting.answer(replace(work, host_weights=0.0))["weights_bytes"]) if work.host_weights else in_device
    rest = ("weights_bytes", "activation_bytes", "reserve_bytes")
    device = setting.machine.device
    bundled = not architecture.source or architecture.source.startswith("bundled")
    checkpoint = architecture.name if bundled else architecture.source
    return Asked(
        checkpoint=_loadable(checkpoint, architecture),
        kind=setting.table.kind,
        local=not bundled,
        hardware=hardware_of(device),
        device=device.id,
        tp=int(work.tp), pp=int(work.pp), ep=int(work.ep), dp=int(work.dp),
        batch=math.ceil(work.batch), prompt=math.ceil(work.prompt), output=math.ceil(work.output),
        chunk=math.ceil(work.chunk or setting.chunk),
        weights=str(work.weights), kv=str(work.kv), stored=_stored(architecture), dtype=architecture.dtype,
        experts=any(isinstance(op, Linear) and op.copies > 1 for _, _, op in architecture.operators()),
        drafts=architecture.tower("draft") is not None,
        layers=int(setting.table.layers),
        prefix_hit=float(work.prefix_hit), offload_hit=float(work.offload_hit), host_weights=float(work.host_weights),
        host_bytes=max(whole - in_device, 0.0),
        cache_bytes=max(_first(held["usable_bytes"]) - sum(_first(held[name]) for name in rest), 0.0),
        draft_tokens=math.ceil(work.draft_tokens), acceptance=float(work.acceptance),
        disaggregated=bool(work.disaggregated), static=work.scheduling == "static",
        replicas=deployment.replicas, prefill_replicas=deployment.prefill_replicas,
        per_node=setting.machine.per_node, predicted=deployment.engine,
    )  # fmt: skip


def hardware_of(device: Device) -> Hardware:
    """Return which engines' hardware a device is."""
    vendor = device.vendor.lower()
    if device.kind == "gpu" and vendor in {"nvidia", "amd"}:
        return "nvidia" if vendor == "nvidia" else "amd"
    if device.kind == "tpu":
        return "tpu"
    if device.id.startswith("gaudi"):
        return "gaudi"
    if device.kind == "cpu":
        return "cpu"
    return "apple" if device.kind == "apple-soc" else "other"


def _loadable(checkpoint: str, architecture: Architecture) -> str:
    """Return what an engine can load: a file of the folder stands for the folder, and nothing looks like an option."""
    text = (checkpoint or architecture.name).replace("\0", "")
    for name in ("config.json", "model.safetensors.index.json"):
        text = text.removesuffix(f"/{name}")
    return f"./{text}" if text.startswith("-") else text


def _stored(architecture: Architecture) -> str:
    counted: Counter[str] = Counter()
    for tensor in architecture.tensors(draft=False):
        if len(tensor.shape) > 1:
            counted[tensor.stored] += tensor.elements * tensor.copies
    return counted.most_common(1)[0][0] if counted else architecture.dtype


def _family(name: str) -> str:
    """Return what kernels see of a format; block sizes of fp8 are told apart by the checkpoint itself."""
    found = find_format(name)
    return found.name if found.kind in {"plain", "gguf", "gguf-mix"} else f"{found.math} {found.value_bits:g}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray | np.generic) else value


def _first(value: Any) -> float:
    return float(np.ravel(value)[0])

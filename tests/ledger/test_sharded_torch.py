"""Sharded traces against PyTorch's own sharding, run for one rank of a fake process group: FSDP2 and DTensor tensor parallelism."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("torch.distributed.fsdp", reason="needs FSDP2")

import torch.distributed as dist  # noqa: E402 - after the check that PyTorch is there
from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor, Replicate, Shard  # noqa: E402
from torch.distributed.tensor.parallel import (  # noqa: E402
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402

from bytebound.documents.work import Train  # noqa: E402
from bytebound.ledger.sharded import shard  # noqa: E402
from bytebound.trace.run import Step, trace_step  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bytebound.documents.trace import Trace

ROUNDING = 2.0
"""Bytes: a 16-bit loss scalar that one of the two lets go earlier."""
HIDDEN, WIDE, HEADS, VOCABULARY, SEQ = 64, 160, 4, 384, 96


class Norm(nn.Module):
    """RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute."""
        return torch.rms_norm(x, (HIDDEN,), self.weight)


class SelfAttention(nn.Module):
    """Attention that writes its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute."""
        q, k, v = (
            p(x).unflatten(-1, (-1, HIDDEN // HEADS)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2), dim=-1)
        return self.o_proj((weights @ v).transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """A gated feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(HIDDEN, WIDE, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(WIDE, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute."""
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
        self.self_attn, self.mlp = SelfAttention(), FeedForward()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Small(nn.Module):
    """A LLaMA without rotary embedding."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.norm = Norm()
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute."""
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return nn.functional.cross_entropy(self.lm_head(self.norm(x)).flatten(0, 1), ids.flatten())


def built(layers: int, dtype: torch.dtype) -> Small:
    torch.set_default_dtype(dtype)
    try:
        return Small(layers)
    finally:
        torch.set_default_dtype(torch.float32)


def step(layers: int, *, dtype: torch.dtype = torch.bfloat16, accumulate: int = 1) -> Step:
    model = built(layers, dtype)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    ids = torch.zeros(1, SEQ, dtype=torch.long)

    def run() -> None:
        for _ in range(accumulate):
            model(ids).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Step(model, run, (optimizer,), samples=1, seq=SEQ)


def traced(layers: int = 4, **options: object) -> Trace:
    return trace_step(lambda: step(layers, **options), name="small", layers="all")


@contextmanager
def ranks(count: int) -> Iterator[None]:
    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def tracked_by_pytorch(layers: int, world: int, *, mixed: bool) -> dict[str, float]:
    """What PyTorch's FSDPMemTracker finds at the peak of the second step, in bytes by its own names."""
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

    policy = {"mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)} if mixed else {}
    with ranks(world):
        mesh = init_device_mesh("cpu", (world,))
        with FakeTensorMode():
            model = Small(layers) if mixed else built(layers, torch.bfloat16)
            for layer in model.layers:
                fully_shard(layer, mesh=mesh, **policy)
            fully_shard(model, mesh=mesh, **policy)
            optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
            ids = torch.zeros(1, SEQ, dtype=torch.long)
            tracker = FSDPMemTracker(model, optimizer)
            tracker.track_inputs((ids,))
            with tracker:
                for turn in range(2):
                    model(ids).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    if turn == 0:
                        tracker.reset_mod_stats()
        (found,) = tracker.get_tracker_snapshot("peak").values()
        return {str(key).rpartition(".")[2]: float(value) for key, value in found.items()}


def whole(found: dict[str, float]) -> dict[str, float]:
    """Categories of PyTorch's tracker by our names: what is gathered or on its way is temporary, inputs of the step are kept."""
    return {
        "parameters": found["SHARDED_PARAM"] + found["BUFFER"],
        "gradients": found["SHARDED_GRAD"],
        "optimizer": found["OPT"],
        "activations": found["ACT"] + found["INP"],
        "temporary": sum(
            found[key] for key in ("UNSHARDED_PARAM", "UNSHARDED_GRAD", "TEMP", "ALL_GATHER", "REDUCE_SCATTER")
        ),
    }


@pytest.mark.parametrize(
    ("world", "layers", "mixed", "vocabulary"), [(2, 4, True, 384), (8, 3, False, 384), (8, 3, True, 4096)]
)
def test_fsdp2_to_the_byte(
    world: int, layers: int, *, mixed: bool, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part is that of PyTorch's tracker under FSDP2 at its peak, padding of shards and buffers of prefetch among them.

    With a wide vocabulary the peak is at the loss, where embedding and head are gathered and have no gradient yet.
    """
    monkeypatch.setattr(sys.modules[__name__], "VOCABULARY", vocabulary)
    found = tracked_by_pytorch(layers, world, mixed=mixed)
    trace = replace(traced(layers), made_with={"precision": "bf16", "optimizer": "adamw", "recompute": "none"})
    precision = "bf16-mixed" if mixed else "bf16"
    plan = Train(seq=SEQ, dp=world, global_batch=world, framework="fsdp", precision=precision, recompute="none")
    ours = shard(trace, plan)
    assert {name: float(getattr(ours, name)) for name in whole(found)} == pytest.approx(whole(found), abs=ROUNDING)
    assert float(ours.allocated_bytes) == pytest.approx(found["Total"], abs=ROUNDING)


def kept_for_backward(model: nn.Module, ids: torch.Tensor) -> float:
    """Bytes one rank keeps from forward to backward, storages counted once, parameters left out."""
    local = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    own = {p.untyped_storage().data_ptr() for p in local}
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        here = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        storage = here.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(here)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(ids)
    return float(sum(sizes.values()))


PLAN = {
    "self_attn.q_proj": ColwiseParallel, "self_attn.k_proj": ColwiseParallel, "self_attn.v_proj": ColwiseParallel,
    "self_attn.o_proj": RowwiseParallel, "mlp.gate_proj": ColwiseParallel, "mlp.up_proj": ColwiseParallel,
    "mlp.down_proj": RowwiseParallel,
}  # fmt: skip


@pytest.mark.parametrize("tp", [2, 4])
def test_tensor_parallel_to_the_byte(tp: int) -> None:
    """Parameters and kept activations of a rank are those of DTensor tensor parallelism of the layers."""
    layers = 2
    ids = torch.zeros(1, SEQ, dtype=torch.long)
    alone = built(layers, torch.bfloat16)
    with ranks(tp):
        model = built(layers, torch.bfloat16)
        for layer in model.layers:
            parallelize_module(layer, init_device_mesh("cpu", (tp,)), {path: style() for path, style in PLAN.items()})
        parameters = sum(p.to_local().nbytes if isinstance(p, DTensor) else p.nbytes for p in model.parameters())
        saved = kept_for_backward(model, ids)
    whole = {"embed_tokens": "replicate", "lm_head": "replicate"}
    request = Train(seq=SEQ, tp=tp, global_batch=1, sequence_parallel="off", framework="fsdp", recompute="none")
    trace = traced(layers)
    ours = shard(trace, request, plan=whole)
    assert float(ours.parameters) == parameters
    assert trace.peaks["backward"].op.startswith("_log_softmax")
    less = kept_for_backward(alone, ids) - saved
    assert trace.peaks["backward"].held.activations - float(ours.activations) == less


def test_sequence_parallel_to_the_byte() -> None:
    """Layers under DTensor sequence parallelism keep what the sharded trace keeps: gathered inputs of both regions whole."""
    layers, tp = 2, 4
    styles = {
        **{path: style() for path, style in PLAN.items()},
        "input_layernorm": SequenceParallel(), "post_attention_layernorm": SequenceParallel(),
        "self_attn": PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
        "mlp": PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
        "self_attn.o_proj": RowwiseParallel(output_layouts=Shard(1)), "mlp.down_proj": RowwiseParallel(output_layouts=Shard(1)),
    }  # fmt: skip
    with ranks(tp):
        model = nn.Sequential(*built(layers, torch.bfloat16).layers)
        for layer in model:
            parallelize_module(layer, init_device_mesh("cpu", (tp,)), styles)
        saved = kept_for_backward(model, torch.zeros(1, SEQ // tp, HIDDEN, dtype=torch.bfloat16, requires_grad=True))
    trace = traced(layers)
    whole = {"embed_tokens": "replicate", "lm_head": "replicate"}
    request = Train(seq=SEQ, tp=tp, global_batch=1, sequence_parallel="on", framework="fsdp", recompute="none")
    outside = sum(
        tensor.storage_bytes * tensor.alive.get("backward/", 0.0) / (tp if len(tensor.shape) > 1 else 1)
        for tensor in trace.tensors
        if tensor.role == "activation" and not tensor.stack
    )
    assert float(shard(trace, request, plan=whole).activations) - outside == saved

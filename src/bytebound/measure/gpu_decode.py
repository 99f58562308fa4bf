"""What decoding feels of an accelerator: attention over a long context, a matrix-vector product, and small kernels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bytebound.documents.measurement import Missing
from bytebound.measure.gpu_memory import has_triton
from bytebound.measure.gpu_time import failures, keep_best, time_probes, why_failed
from bytebound.measure.sampling import Probe, interleave, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bytebound.measure.gpu import Accelerator
    from bytebound.measure.gpu_time import Effort, Outcome

FLOOR_TOKENS = 16
"""A context so short that attention over it costs its launches and nothing else."""


def decode_attention(accelerator: Accelerator, effort: Effort, *, budget_s: float = math.inf) -> Iterator[Outcome]:
    """Yield ``attention.decode`` [B/s of keys and values in bf16] per batch and context, and ``attention.floor`` [s].

    One new token per sequence, grouped queries. Tried: PyTorch's attention told of the groups, the same with each group
    as if it were as many new tokens (equal, as nothing is masked), and a split-context kernel in Triton; the best is kept.
    """
    heads, kv_heads, size = effort.heads
    points = ((1, FLOOR_TOKENS), *effort.attention)
    for step, (batch, tokens) in enumerate(points):
        moved = 2.0 * batch * kv_heads * tokens * size * 2
        if moved * 1.5 > accelerator.free_bytes():
            yield Missing(probe="attention.decode", why=f"{batch} x {tokens} tokens do not fit the free memory")
            continue
        where: dict[str, float | str] = {
            "batch": float(batch),
            "tokens": float(tokens),
            "bytes": moved,
            "device": accelerator.device,
        }
        floor = tokens == FLOOR_TOKENS
        name, unit, amount = ("attention.floor", "s", 1.0) if floor else ("attention.decode", "B/s", moved)
        share = budget_s / (len(points) - step)
        budget_s -= share
        try:
            works = _attention(accelerator, batch, tokens, effort.heads)
        except failures() as error:
            yield Missing(probe=name, why=f"{batch} x {tokens} tokens: {why_failed(accelerator, error)}")
            continue
        label = f"{heads} heads on {kv_heads}, size {size}"
        probes = [Probe(name, unit, amount, work, f"{how}, {label}", where) for how, work in works.items()]
        yield from keep_best(time_probes(accelerator, probes, effort, budget_s=share))
        del probes, works


def _attention(
    accelerator: Accelerator, batch: int, tokens: int, shape: tuple[int, int, int]
) -> dict[str, Callable[[], object]]:
    import torch  # noqa: PLC0415 - optional
    from torch.nn.functional import scaled_dot_product_attention  # noqa: PLC0415

    heads, kv_heads, size = shape
    query = torch.randn(batch, heads, 1, size, device=accelerator.device).to(torch.bfloat16)
    key, value = (
        torch.randn(batch, kv_heads, tokens, size, device=accelerator.device).to(torch.bfloat16) for _ in range(2)
    )
    grouped = query.view(batch, kv_heads, heads // kv_heads, size)
    works: dict[str, Callable[[], object]] = {
        "torch attention, groups told": lambda: scaled_dot_product_attention(query, key, value, enable_gqa=True),
        "torch attention, groups as tokens": lambda: scaled_dot_product_attention(grouped, key, value),
    }
    if has_triton(accelerator):
        from bytebound.measure import triton_kernels as kernels  # noqa: PLC0415 - needs Triton

        works["Triton split context"] = lambda: kernels.decode_attention(query, key, value, cores=accelerator.cores)
    return works


def decode_matvec(accelerator: Accelerator, effort: Effort, *, budget_s: float = math.inf) -> Iterator[Outcome]:
    """Yield ``dequant.bf16`` and ``dequant.fp16`` [B/s of weights]: a linear layer for one token, as engines call it."""
    import torch  # noqa: PLC0415 - optional

    side = 16384 if effort.link_bytes >= 2**26 else 512
    probes = []
    for name in ("bf16", "fp16"):
        dtype = torch.bfloat16 if name == "bf16" else torch.float16
        try:
            weights = torch.randn(side, side, device=accelerator.device).to(dtype)
            token = torch.randn(1, side, device=accelerator.device).to(dtype)
        except failures() as error:
            yield Missing(probe=f"dequant.{name}", why=why_failed(accelerator, error))
            continue

        def work(token: object = token, weights: object = weights) -> None:
            torch.nn.functional.linear(token, weights)

        where: dict[str, float | str] = {"n": float(side), "k": float(side), "device": accelerator.device}
        probes.append(Probe(f"dequant.{name}", "B/s", side * side * 2.0, work, "torch linear, batch 1", where))
    yield from time_probes(accelerator, probes, effort, budget_s=budget_s)


def launches(accelerator: Accelerator, effort: Effort, *, budget_s: float = math.inf) -> Iterator[Outcome]:
    """Yield what a kernel costs that does nothing [s]: issued one after another, in a CUDA graph, and waited for.

    ``launch.kernel`` is bound by the host that issues, ``launch.graph`` is the floor under any kernel on the device,
    ``launch.round-trip`` adds the host's wait for one kernel.
    """
    import torch  # noqa: PLC0415 - optional

    value = torch.zeros(1, device=accelerator.device)
    where = {"device": accelerator.device}

    def several() -> None:
        for _ in range(effort.launches):
            value.add_(1.0)

    def one_awaited() -> None:
        value.add_(1.0)
        accelerator.sync()

    how = f"torch add_ of one value, {effort.launches} "
    one_by_one = Probe("launch.kernel", "s", effort.launches, several, how + "one by one", where)
    yield from time_probes(accelerator, [one_by_one], effort, budget_s=budget_s / 3, graphs="never")
    if accelerator.has_events:
        graph = Probe("launch.graph", "s", effort.launches, several, how + "in a CUDA graph", where)
        yield from time_probes(accelerator, [graph], effort, budget_s=budget_s / 3, graphs="always")
    else:
        yield Missing(probe="launch.graph", why=f"{accelerator.kind} devices have no CUDA graphs in PyTorch")
    alone = Probe("launch.round-trip", "s", 1.0, one_awaited, "torch add_ of one value, awaited", where)
    seen = interleave([alone], rounds=20 * effort.rounds, budget_s=budget_s / 3)["0"]
    yield reading(alone, seen)

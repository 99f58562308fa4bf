"""The memory of an accelerator: read, write, copy and triad over sizes, its cache, what is usable, and the host link."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from bytebound.documents.measurement import Missing, Reading
from bytebound.measure.gpu_time import MiB, failures, keep_best, time_probes, why_failed
from bytebound.measure.sampling import Probe, Sample, reading
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bytebound.measure.gpu import Accelerator
    from bytebound.measure.gpu_time import Effort, Outcome

NOT_CACHED = 16.0
"""An array at least this many times the last-level cache is read from memory, but for a few per cent: caches of GPUs keep
some of an array that is streamed again and again, so four times, as on processors, is not enough."""
PASS_BYTES = 256 * MiB
"""A Triton kernel reads a small array again and again within one launch, until about this much was read."""

Work = tuple[str, float, "Callable[[], object]"]


def has_triton(accelerator: Accelerator) -> bool:
    """Tell whether Triton kernels can be tried: an NVIDIA or AMD device, and the package."""
    return accelerator.has_events and find_spec("triton") is not None


def memory_ladder(accelerator: Accelerator, effort: Effort, *, budget_s: float = math.inf) -> Iterator[Outcome]:
    """Yield ``memory.read``, ``.write``, ``.copy`` and ``.triad`` [B/s] over the ladder of sizes, smallest first.

    Bytes are those the kernel names: copy counts two arrays, triad three. Each size keeps the best of PyTorch's own
    kernels and of ours in Triton, and says which it was.
    """
    import torch  # noqa: PLC0415 - optional

    sizes = [size for size in effort.ladder_bytes if size <= accelerator.free_bytes() / 4]  # triad holds three arrays
    if len(sizes) < len(effort.ladder_bytes):
        free = show_capacity(accelerator.free_bytes())
        why = f"arrays over a quarter of the free memory ({free}) were left out of the ladder"
        yield Missing(probe="memory.ladder", why=why)
    if not has_triton(accelerator):
        yield Missing(
            probe="memory.triton", why=f"no Triton for {accelerator.name}: only PyTorch's own kernels were tried"
        )
    for step, size in enumerate(sizes):
        try:
            first, second, third = (torch.rand(size // 4, device=accelerator.device) for _ in range(3))
        except failures() as error:
            yield Missing(probe="memory.ladder", why=f"{show_capacity(size)}: {why_failed(accelerator, error)}")
            return
        where: dict[str, float | str] = {"bytes": float(size), "device": accelerator.device}
        probes = [
            Probe(f"memory.{kind}", "B/s", amount, work, how, where)
            for kind, works in _works(accelerator, first, second, third).items()
            for how, amount, work in works
        ]
        yield from keep_best(time_probes(accelerator, probes, effort, budget_s=budget_s / (len(sizes) - step)))
        budget_s -= budget_s / (len(sizes) - step)
        del probes, first, second, third


def _works(accelerator: Accelerator, first: Any, second: Any, third: Any) -> dict[str, list[Work]]:
    """What moves bytes, by kind: PyTorch's own kernels and, where they run, ours."""
    import torch  # noqa: PLC0415 - optional

    size = first.numel() * 4.0
    columns = min(8192, 2 ** int(math.log2(max(first.numel() // 2, 1)) // 2))  # a matrix at least as tall as wide
    rows = first.numel() // columns
    matrix, vector = first[: rows * columns].view(rows, columns), second[:columns]
    product = torch.empty(rows, device=first.device)
    works: dict[str, list[Work]] = {
        "read": [
            ("torch.sum fp32", size, lambda: torch.sum(first)),
            ("torch.mv fp32", rows * columns * 4.0, lambda: torch.mv(matrix, vector, out=product)),
            ("torch.dot fp32", 2 * size, lambda: torch.dot(first, second)),
        ],
        "write": [("torch fill_", size, lambda: third.fill_(1.0)), ("torch zero_", size, third.zero_)],
        "copy": [("torch copy_", 2 * size, lambda: third.copy_(first))],
        "triad": [("torch.add alpha", 3 * size, lambda: torch.add(first, second, alpha=3.0, out=third))],
    }
    if has_triton(accelerator):
        for kind, extra in _triton_works(accelerator, first, second, third).items():
            works[kind] += extra
    return works


def _triton_works(accelerator: Accelerator, first: Any, second: Any, third: Any) -> dict[str, list[Work]]:
    import torch  # noqa: PLC0415 - optional

    from bytebound.measure import triton_kernels as kernels  # noqa: PLC0415 - needs Triton

    cores = accelerator.cores
    size = first.numel() // kernels.TILE * kernels.TILE * 4.0  # whole tiles
    passes = max(1, int(PASS_BYTES // size))
    partial = torch.empty(cores * kernels.PROGRAMS_PER_CORE, device=first.device)
    works: dict[str, list[Work]] = {
        "read": [("Triton sum fp32", size * passes, lambda: kernels.read(first, partial, cores=cores, passes=passes))],
        "write": [("Triton fill fp32", size, lambda: kernels.write(third, cores=cores))],
        "copy": [("Triton copy fp32", 2 * size, lambda: kernels.copy(first, third, cores=cores))],
        "triad": [("Triton triad fp32", 3 * size, lambda: kernels.triad(first, second, third, cores=cores))],
    }
    if first.numel() >= 2**24:  # tall enough for every multiprocessor
        weights, vector = first.view(torch.bfloat16).view(-1, 8192), second[:8192].to(torch.bfloat16)
        product = torch.empty(weights.shape[0], device=first.device)
        works["read"].append(
            ("Triton matvec bf16", first.numel() * 4.0, lambda: kernels.matvec(weights, vector, product))
        )
    return works


def memory_bandwidth(accelerator: Accelerator, readings: Sequence[Reading]) -> Reading | None:
    """Return the best read of an array too large for any cache: of the larger half of the ladder, 16 times what is known.

    The second rule alone would trust a driver that reports a small cache under a large one (AMD's behind its L2).
    """
    reads = [item for item in readings if item.name == "memory.read"]
    if not reads:
        return None
    largest = max(float(item.where["bytes"]) for item in reads)
    least = min(max(NOT_CACHED * accelerator.cache_bytes, largest / 2), largest)
    return max((item for item in reads if float(item.where["bytes"]) >= least), key=lambda item: item.best)


def cache_of(accelerator: Accelerator, readings: Sequence[Reading]) -> Outcome:
    """Return ``cache.l2`` [B/s] from the ladder of reads: the plateau over memory, and between which sizes it ends.

    The edge is the last size read faster than the geometric mean of plateau and memory.
    """
    memory = memory_bandwidth(accelerator, readings)
    reads = sorted(
        (item for item in readings if item.name == "memory.read"), key=lambda item: float(item.where["bytes"])
    )
    if memory is None or len(reads) < 2:
        return Missing(probe="cache.l2", why="the ladder of reads has fewer than two sizes")
    best = max(reads, key=lambda item: item.best)
    if best.best < 1.25 * memory.best:
        why = f"no size was read over 1.25 times as fast as memory ({memory.best:.3g} B/s): launches hide the cache"
        return Missing(probe="cache.l2", why=why)
    between = math.sqrt(best.best * memory.best)
    inside = [float(item.where["bytes"]) for item in reads if item.best > between]
    beyond = [float(item.where["bytes"]) for item in reads if float(item.where["bytes"]) > max(inside)]
    edge = f"ends over {show_capacity(max(inside))}" + (f", by {show_capacity(min(beyond))}" if beyond else "")
    told = f"; the driver says {show_capacity(accelerator.cache_bytes)}" if accelerator.cache_bytes else ""
    where = {**best.where, "edge_bytes": max(inside)}
    return best.model_copy(update={"name": "cache.l2", "where": where, "note": f"{edge}{told}; {best.note}"[:2000]})


def usable_memory(accelerator: Accelerator) -> Reading:
    """Return ``memory.usable`` [B]: what the driver would still hand out now. Nothing is allocated to find out."""
    free = accelerator.free_bytes()
    probe = Probe("memory.usable", "B", free, lambda: None, "the driver's free memory", {"device": accelerator.device})
    held = accelerator.memory_bytes - free
    note = f"{show_capacity(held)} of {show_capacity(accelerator.memory_bytes)} are taken by the driver and other processes"
    return reading(probe, [Sample(1.0, 0.0, 0.0)], note=note)


def host_link(accelerator: Accelerator, effort: Effort, *, budget_s: float = math.inf) -> Iterator[Outcome]:
    """Yield ``link.host-to-device`` and ``link.device-to-host`` [B/s], from page-locked and from ordinary memory."""
    import torch  # noqa: PLC0415 - optional

    probes = []
    for memory in ("pinned", "pageable"):
        try:
            host = torch.ones(effort.link_bytes, dtype=torch.uint8, pin_memory=memory == "pinned")
            device = torch.ones(effort.link_bytes, dtype=torch.uint8, device=accelerator.device)
        except failures() as error:
            yield Missing(probe="link.host", why=f"{memory} host memory: {why_failed(accelerator, error)}")
            continue
        where = {"memory": memory, "bytes": float(effort.link_bytes), "device": accelerator.device}
        quick = memory == "pinned"  # a copy from ordinary memory waits in any case
        for name, target, source in (("host-to-device", device, host), ("device-to-host", host, device)):

            def copy(target: Any = target, source: Any = source, quick: bool = quick) -> None:  # noqa: FBT001
                target.copy_(source, non_blocking=quick)

            probes.append(Probe(f"link.{name}", "B/s", float(effort.link_bytes), copy, f"torch copy_, {memory}", where))
    yield from time_probes(accelerator, probes, effort, budget_s=budget_s, graphs="never")

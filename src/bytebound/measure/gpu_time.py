"""Timing on an accelerator: kernels repeated until the clock can be trusted, in turn, and failures told in sentences."""

from __future__ import annotations

import math
import subprocess
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bytebound.documents.measurement import Missing, Reading
from bytebound.errors import UnfinishedError
from bytebound.measure.gpu import Accelerator, first_line
from bytebound.measure.sampling import Probe, Sample, reading
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Outcome = Reading | Missing
Graphs = Literal["short", "never", "always"]
MiB, GiB = 2**20, 2**30

GRAPH_UNDER_S = 1e-4
"""Kernels shorter than this are repeated inside one CUDA graph where there is one, so that launches do not count."""
MOST_REPEATS = 2000


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: sizes, rounds and patience.

    Args:
        rounds: samples of each probe; ``sample_s`` is about how long one takes.
        ladder_bytes: sizes of the memory ladder; what does not fit a quarter of the free memory is left out.
        shapes: (m, n, k) of the matrix products, in growing order.
        attention: (batch, context) pairs; ``heads`` are query heads, key/value heads and head size.
        launches: tiny kernels per sample; link_bytes: of a host copy or a device-to-device copy.
        patience_s: after which a kernel that has not ended counts as hung.
    """

    rounds: int = 7
    sample_s: float = 0.01
    ladder_bytes: tuple[int, ...] = tuple(2**power for power in range(20, 33))
    shapes: tuple[tuple[int, int, int], ...] = (
        (2048, 2048, 2048), (4096, 4096, 4096), (4096, 14336, 4096), (8192, 8192, 8192), (8192, 28672, 8192),
        (16384, 16384, 16384),
    )  # fmt: skip
    attention: tuple[tuple[int, int], ...] = ((1, 1024), (1, 8192), (1, 65536), (8, 8192), (32, 8192))
    heads: tuple[int, int, int] = (32, 8, 128)
    launches: int = 1000
    link_bytes: int = 256 * MiB
    patience_s: float = 60.0


FULL = Effort()
QUICK = replace(
    FULL,
    rounds=4,
    sample_s=0.005,
    ladder_bytes=(4 * MiB, 16 * MiB, 64 * MiB, 1 * GiB, 4 * GiB),
    shapes=((4096, 4096, 4096), (8192, 8192, 8192)),
    attention=((1, 8192), (32, 8192)),
    launches=300,
    link_bytes=64 * MiB,
)
TINY = Effort(
    rounds=3,
    sample_s=0.001,
    ladder_bytes=(2**16, 2**20),
    shapes=((32, 32, 32), (64, 64, 64)),
    attention=((1, 64), (2, 128)),
    heads=(4, 2, 32),
    launches=20,
    link_bytes=2**20,
    patience_s=30.0,
)
"""What tests run on the processor."""


def failures() -> tuple[type[Exception], ...]:
    """Errors of a probe that leave the device usable: no memory, no such kernel, no compiler for Triton."""
    known: tuple[type[Exception], ...] = (
        RuntimeError, ValueError, TypeError, AttributeError, ImportError, OSError, MemoryError, subprocess.SubprocessError,
    )  # fmt: skip
    try:
        from triton.errors import TritonError  # noqa: PLC0415 - optional
    except ImportError:
        return known
    return (*known, TritonError)


def why_failed(accelerator: Accelerator, error: Exception) -> str:
    """Return the sentence for a failed probe.

    Raises:
        UnfinishedError: the driver gave the device up, after which nothing on it can be trusted.
    """
    import torch  # noqa: PLC0415 - optional

    lost = getattr(torch, "AcceleratorError", None)
    if lost is not None and isinstance(error, lost):
        raise UnfinishedError(f"{accelerator.name} failed and cannot be used any more ({first_line(error)})") from error
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower():
        return f"{accelerator.name} is out of memory; {show_capacity(accelerator.free_bytes())} are free"
    return f"{accelerator.name} cannot do it: {first_line(error)}"


def time_probes(
    accelerator: Accelerator,
    probes: Iterable[Probe],
    effort: Effort,
    *,
    budget_s: float = math.inf,
    graphs: Graphs = "short",
) -> list[Outcome]:
    """Time ``probes`` in turn, round by round, and return a Reading of each, or why there is none.

    After ``budget_s`` no further round starts (two are always run). Every probe is warmed up first, and repeated within
    a sample until that lasts about ``effort.sample_s``.

    Raises:
        UnfinishedError: the device hangs or was lost.
    """
    began = time.perf_counter()
    ready: list[tuple[Probe, Callable[[], object], int, str]] = []
    outcomes: list[Outcome] = []
    for probe in probes:
        try:
            accelerator.seconds(probe.work, patience_s=effort.patience_s)  # compiles, allocates, raises the clock
            once = accelerator.seconds(probe.work, patience_s=effort.patience_s)
            times = max(1, min(math.ceil(effort.sample_s / once), MOST_REPEATS))
            work, note = _repeated(
                accelerator, probe.work, times, "never" if once > GRAPH_UNDER_S and graphs == "short" else graphs
            )
            accelerator.seconds(work, patience_s=effort.patience_s)
        except failures() as error:
            outcomes.append(Missing(probe=probe.name, why=f"{probe.how}: {why_failed(accelerator, error)}"))
        else:
            ready.append((probe, work, times, note))
    samples: list[list[Sample]] = [[] for _ in ready]
    for turn in range(effort.rounds):
        if turn >= 2 and time.perf_counter() - began > budget_s:
            break
        for index, (_probe, work, times, _note) in enumerate(ready):
            taken = accelerator.seconds(work, patience_s=effort.patience_s) / times
            samples[index].append(Sample(taken, 0.0, 0.0))  # the host's load does not slow the device's own clock
    return outcomes + [
        reading(probe, seen, note=note) for (probe, _work, _times, note), seen in zip(ready, samples, strict=True)
    ]


def _repeated(
    accelerator: Accelerator, work: Callable[[], object], times: int, graphs: Graphs
) -> tuple[Callable[[], object], str]:
    """Return ``work`` done ``times`` times and a note: as one CUDA graph where wanted, or, if ``short``, where possible."""

    def loop() -> None:
        for _ in range(times):
            work()

    if graphs == "never" or not accelerator.has_events:
        return (loop if times > 1 else work), ""
    try:
        return captured(accelerator, loop), f"{times} in a CUDA graph"
    except failures() as error:
        if graphs == "always":
            raise
        return loop, f"launched one by one: no CUDA graph ({why_failed(accelerator, error)})"


def captured(accelerator: Accelerator, work: Callable[[], object]) -> Callable[[], object]:
    """Return the replay of ``work`` as a CUDA (or HIP) graph; ``work`` must have run before and must not wait."""
    import torch  # noqa: PLC0415 - optional

    with torch.cuda.device(accelerator.index):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
            work()

    def replay(run: Callable[[], object] = graph.replay) -> None:
        run()

    return replay


def keep_best(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Yield, of readings with the same name and place, the best, whose note says what else was tried; then failures."""
    groups: dict[tuple[object, ...], list[Reading]] = {}
    lost: list[Missing] = []
    for outcome in outcomes:
        if isinstance(outcome, Missing):
            lost.append(outcome)
        else:
            groups.setdefault((outcome.name, *sorted(outcome.where.items())), []).append(outcome)
    for found in groups.values():
        ranked = sorted(found, key=lambda item: item.best, reverse=found[0].unit != "s")
        others = "; ".join(f"{item.how}: {item.best:.4g} {item.unit}" for item in ranked[1:])
        notes = [text for text in (ranked[0].note, f"also tried {others}" if others else "") if text]
        yield ranked[0].model_copy(update={"note": "; ".join(notes)[:2000]})
    seen = {(item.probe, item.why): item for item in lost}  # the same failure at every size is said once
    yield from seen.values()

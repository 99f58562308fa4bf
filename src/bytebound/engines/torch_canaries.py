"""Probes that take turns with a model under PyTorch, so that one can tell a slow model from a slow moment."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bytebound.errors import RequestError
from bytebound.measure.sampling import Probe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from bytebound.measure.gpu import Accelerator

READ_BYTES = 512 * 2**20
"""Memory read by one sample: the least size the ladder takes for DRAM."""


def canaries(stack: ExitStack, accelerator: Accelerator) -> Sequence[Probe]:
    """Return the probes for a device; threads and memory they hold are given back when ``stack`` closes.

    On the processor: read bandwidth and the compute and clock canaries, on all threads (none without numba). On an
    accelerator: a copy within its memory, counted as read and written.
    """
    if accelerator.kind != "cpu":
        return [_copy(accelerator)]
    try:
        from bytebound.measure.crew import Crew, usable_cpus  # noqa: PLC0415 - needs numba
        from bytebound.measure.kernels import GRAIN  # noqa: PLC0415 - needs numba
        from bytebound.measure.ladder import canaries as computing  # noqa: PLC0415 - needs numba
        from bytebound.measure.ladder import fastest  # noqa: PLC0415 - needs numba
    except RequestError:
        return []
    threads = len(usable_cpus())
    part = READ_BYTES // threads // GRAIN * GRAIN
    crew = stack.enter_context(Crew(threads, part))
    name = fastest(crew, "read", part, 0.02)
    where: dict[str, float | str] = {"bytes": float(part * threads), "threads": float(threads), "kernel": name}
    read = Probe("memory.read", "B/s", float(part * threads), partial(crew.run, name, part, 1), f"kernel {name}", where)
    return [read, *computing(crew)]


def _copy(accelerator: Accelerator) -> Probe:
    import torch  # noqa: PLC0415 - optional

    left = torch.zeros(READ_BYTES, dtype=torch.uint8, device=accelerator.device)
    right = torch.empty_like(left)

    def work() -> None:
        right.copy_(left)
        accelerator.sync()

    return Probe("memory.copy", "B/s", 2.0 * READ_BYTES, work, "a copy within the device's memory")

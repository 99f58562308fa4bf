"""Probes that take turns with a model under PyTorch, so that one can tell a slow model from a slow moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.measure.canaries import READ_BYTES, host_canaries
from bytebound.measure.sampling import Probe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from bytebound.measure.gpu import Accelerator


def canaries(stack: ExitStack, accelerator: Accelerator) -> Sequence[Probe]:
    """Return the probes for a device; threads and memory they hold are given back when ``stack`` closes.

    On the processor: read bandwidth and the compute and clock canaries, on all threads (none without numba). On an
    accelerator: a copy within its memory, counted as read and written.
    """
    if accelerator.kind != "cpu":
        return [_copy(accelerator)]
    return host_canaries(stack, read_bytes=READ_BYTES)


def _copy(accelerator: Accelerator) -> Probe:
    import torch  # noqa: PLC0415 - optional

    left = torch.zeros(READ_BYTES, dtype=torch.uint8, device=accelerator.device)
    right = torch.empty_like(left)

    def work() -> None:
        right.copy_(left)
        accelerator.sync()

    return Probe("memory.copy", "B/s", 2.0 * READ_BYTES, work, "a copy within the device's memory")

"""Probes that take turns with a workload, so that one can tell a slow model from a slow moment."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bytebound.errors import RequestError
from bytebound.measure.sampling import Probe

if TYPE_CHECKING:
    from contextlib import ExitStack

READ_BYTES = 512 * 2**20
"""Memory read by one sample: the least size the ladder takes for DRAM."""


def host_canaries(stack: ExitStack, *, read_bytes: int = READ_BYTES) -> tuple[Probe, ...]:
    """Return read bandwidth and the compute and clock canaries on all usable processors; none without numba.

    Threads and memory they hold are given back when ``stack`` closes.
    """
    try:
        from bytebound.measure.crew import Crew, usable_cpus  # noqa: PLC0415 - needs numba
        from bytebound.measure.kernels import GRAIN  # noqa: PLC0415 - needs numba
        from bytebound.measure.ladder import canaries, fastest  # noqa: PLC0415 - needs numba
    except RequestError:
        return ()
    threads = len(usable_cpus())
    part = read_bytes // threads // GRAIN * GRAIN
    crew = stack.enter_context(Crew(threads, part))
    name = fastest(crew, "read", part, 0.02)
    where: dict[str, float | str] = {"bytes": float(part * threads), "threads": float(threads), "kernel": name}
    read = Probe("memory.read", "B/s", float(part * threads), partial(crew.run, name, part, 1), f"kernel {name}", where)
    return (read, *canaries(crew))

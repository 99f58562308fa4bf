"""Parts of a sweep on a Ray cluster. What a dead worker or node had under way is tried again by the driver, which counts."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bytebound.errors import QuantityError, UnfinishedError
from bytebound.sweep.folder import write_whole
from bytebound.sweep.local import lost
from bytebound.sweep.part import TRIES, Finished, run_part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bytebound.documents.sweep import SweepPart

REACH_S, JOIN_S = 5.0, 45.0
"""Seconds to reach the address, and then to join what answers there."""


def finished(
    text: str, sha256: str, parts: Sequence[SweepPart], *, folder: Path, address: str, workers: int | None
) -> Iterator[Finished]:
    """Yield each part once it came from the cluster at ``address`` and is in ``folder``; ``workers`` bounds those under way.

    The address is ``HOST:PORT``; ``auto``, the cluster that runs here or that RAY_ADDRESS names; or ``local``, one for this sweep.

    Raises:
        UnfinishedError: Ray is not installed, no cluster answers, its nodes cannot run a part, or a part lost its worker too often.
    """
    ray = library()
    with joined(ray, address, workers):
        most = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=1, max_retries=0)(run_part)
        shared = ray.put(text)
        waiting, tries = deque(parts), Counter[int]()
        running: dict[Any, SweepPart] = {}
        while waiting or running:
            while waiting and len(running) < most:
                part = waiting.popleft()
                running[task.remote(shared, sha256, part)] = part
            done, _ = ray.wait(list(running), num_returns=1)
            part = running.pop(done[0])
            tries[part.index] += 1
            data = _taken(ray, done[0])
            if data is not None:
                write_whole(folder / part.file, data)
                yield Finished(part, tries[part.index])
            elif tries[part.index] >= TRIES:
                raise lost(part)
            else:
                waiting.appendleft(part)


def library() -> Any:
    """Return ray, silent and without its usage statistics.

    Raises:
        UnfinishedError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leave the devices of a node as they are
    try:
        import ray  # noqa: PLC0415 - optional and slow to load
    except ModuleNotFoundError:
        raise UnfinishedError(
            "Ray is not installed", place="--on-ray", mend='pip install "bytebound[sweep]", or leave --on-ray out'
        ) from None
    return ray


@contextmanager
def joined(ray: Any, address: str, workers: int | None) -> Iterator[None]:
    """Join the cluster at ``address`` and leave it afterwards; one that the caller has joined already is kept.

    Raises:
        UnfinishedError: no cluster answers there within ``REACH_S`` + ``JOIN_S``.
    """
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    elif address != "auto":
        _reach(address)
    failed = _join(ray, address, options)
    if failed is not None:
        raise UnfinishedError(
            f"no Ray cluster can be joined: {failed}", place=f"--on-ray {address}",
            mend="start one with `ray start --head`, or say local; one that asks for a token needs RAY_AUTH_MODE=token here",
        ) from None  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def _join(ray: Any, address: str, options: dict[str, Any]) -> str | None:
    """Return why the cluster cannot be joined, or None where it is.

    Ray may try an address for minutes: a thread of its own bounds that. What it starts itself (``local``) would end with
    that thread, for the kernel ends a node with the thread that started it (``PR_SET_PDEATHSIG``).
    """
    failures: list[str] = []

    def join() -> None:
        try:
            ray.init(address=address, **options)
        except Exception as error:  # noqa: BLE001 - Ray raises many kinds; each becomes one sentence
            failures.append((str(error).strip() or type(error).__name__).splitlines()[0])

    if address == "local":
        join()
        return next(iter(failures), None)
    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    thread.join(JOIN_S)
    return f"nothing has answered as one for {JOIN_S:.0f} s" if thread.is_alive() else next(iter(failures), None)


def _reach(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise QuantityError(f"{address!r} is no address", place="--on-ray", mend="write HOST:PORT, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise UnfinishedError(
            f"nothing answers at {address}: {error.strerror or error}", place="--on-ray",
            mend="start a cluster with `ray start --head`, or say local",
        ) from None  # fmt: skip


def _taken(ray: Any, reference: Any) -> bytes | None:
    """Return a part's file, or None where its worker, its node or the file's only copy is lost."""
    try:
        return bytes(ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ModuleNotFoundError):
            raise UnfinishedError(
                f"a node cannot run a part: {cause}",
                place="--on-ray",
                mend='pip install "bytebound[sweep]" on every node',
            ) from None
        raise cause from None
    except ray.exceptions.RayError:
        return None

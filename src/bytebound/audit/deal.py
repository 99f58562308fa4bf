"""How a pool's devices are dealt to its workloads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.fleet import Fleet, Pool, Workload

    Array = NDArray[Any]


def deal(fleet: Fleet, need_now: Mapping[str, float]) -> dict[str, float]:
    """Return the share of each open workload in what its pool has beyond stated ``devices``.

    The shares go by ``need_now``, devices each workload needs in the first month (median over the draws). A need that no number
    of devices meets (infinite) counts as the mean of the others.
    """
    weights: dict[str, float] = {}
    for pool in fleet.pool:
        names = [w.name for w in _open(fleet, pool)]
        needs = np.array([need_now[name] for name in names])
        known = needs[np.isfinite(needs)]
        needs = np.where(np.isfinite(needs), needs, known.mean() if len(known) else 1.0)
        weights |= dict(zip(names, map(float, needs / max(needs.sum(), 1e-300)), strict=True))
    return weights


def share(fleet: Fleet, w: Workload, devices: Array, *, weight: float) -> Array:
    """Return the workload's devices (draws, months) of its pool's ``devices``.

    A stated ``devices`` is fixed; the rest of a pool is dealt to its other workloads by ``weight`` (see ``deal``). An edge
    workload has the device it runs on.
    """
    if w.kind == "edge":
        return np.ones_like(devices)
    pool = next(pool for pool in fleet.pool if pool.name == w.pool)
    fixed = float(sum(other.devices or 0 for other in fleet.workload if other.pool == w.pool))
    if w.devices is None:
        return np.asarray(np.maximum(devices - fixed, 0.0) * weight)
    if _open(fleet, pool):
        return np.asarray(w.devices * np.minimum(devices / max(fixed, 1.0), 1.0))
    return np.asarray(w.devices * (devices / max(float(pool.count), fixed, 1.0)))


def _open(fleet: Fleet, pool: Pool) -> list[Workload]:
    """Return the workloads of a pool that state no ``devices``."""
    return [w for w in fleet.workload if w.pool == pool.name and w.devices is None and w.kind != "edge"]

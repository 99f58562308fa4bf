"""Sampled growth, slip and model error. Streams are named, so that adding a workload changes no other's draws."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.device import Figure
    from bytebound.documents.fleet import Demand, Fleet, Pool

    Array = NDArray[Any]

HBM_SHARE_OF_PRICE = 0.45
"""Share of an accelerator's price that follows memory prices: middle of 35–58 % of the bill of materials (siliconanalysts.com
cost models, 2026; low confidence, so a memory-price shock is a scenario and no forecast)."""

EVERY = slice(None)


def stream(seed: int, *names: str) -> np.random.Generator:
    """Return the random generator of a named stream."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


@dataclass(frozen=True, slots=True)
class Factors:
    """Demand, context and model factors, (draws, months) or less where they do not vary; the model's time error (draws, 1)."""

    demand: Array
    context: Array
    model: Array
    error: Array


def factors(
    demand: Demand, *, name: str, months: int, draws: int, seed: int, sigma: float, only: slice = EVERY
) -> Factors:
    """Return growth factors ``growth^(months/12)`` with a log-normal rate per draw, and a log-normal time error.

    ``only`` keeps some of the ``draws``: a slice is what all of them would be there.
    """
    rng = stream(seed, "workload", name)
    years = np.arange(months)[None, :] / 12.0

    def grown(mean: float, spread: float) -> Array:
        z = rng.standard_normal((draws, 1))[only]
        return np.asarray(
            np.exp(
                (np.log(mean) + (spread * z if spread else 0.0))
                * (years if spread or mean != 1 else 0.0 * years[:, :1])
            )
        )

    return Factors(
        demand=grown(demand.growth, demand.growth_sigma),
        context=grown(demand.context_growth, demand.context_growth_sigma),
        model=grown(demand.model_growth, demand.model_growth_sigma),
        error=np.exp(sigma * rng.standard_normal((draws, 1))[only]),
    )


@dataclass(frozen=True, slots=True)
class Supply:
    """Devices of a pool (draws, months), and what one costs per hour (months,), None where unknown."""

    devices: Array
    usd_per_hour: Array | None


def month_index(start: str, when: str) -> int:
    """Return whole months from ``start`` to ``when``, both ``YYYY-MM``."""
    (y0, m0), (y1, m1) = ((int(part) for part in text.split("-")) for text in (start, when))
    return (y1 - y0) * 12 + m1 - m0


def supply(
    fleet: Fleet,
    pool: Pool,
    *,
    price: Figure | None,
    months: int,
    draws: int,
    seed: int,
    slip_months: float,
    memory_price: float,
    only: slice = EVERY,
) -> Supply:
    """Return the pool's devices and price over the months, of every draw or of ``only`` some.

    Each roadmap event happens with its chance, late by an exponential delay of its mean slip plus the scenario's slip.
    A memory-price factor moves the memory share of every price from the first month on.
    """
    devices = np.full((len(range(draws)[only]), months), float(pool.count))
    base = pool.price if pool.price is not None else (price.value if price is not None else None)
    usd = None if base is None else np.full(months, base)
    at = np.arange(months)[None, :]
    for index, event in enumerate(event for event in fleet.roadmap if event.pool == pool.name):
        rng = stream(seed, "event", pool.name, str(index))
        happens = rng.random((draws, 1))[only] < event.chance
        late = rng.exponential(1.0, (draws, 1))[only] * event.slip_months + (slip_months if event.add else 0.0)
        month = month_index(fleet.start, event.when) + late
        devices = devices + np.where(happens & (at >= month), event.add - event.retire, 0)
        if event.price is not None:
            usd = np.full(months, event.price) if usd is None else usd
            usd = np.where(np.arange(months) >= month_index(fleet.start, event.when), event.price, usd)
    if usd is not None:
        usd = usd * (1 + HBM_SHARE_OF_PRICE * (memory_price - 1))
    return Supply(np.maximum(devices, 0.0), usd)

"""What fits: the longest context, the largest batch, the fewest devices, the fewest bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bytebound.predict.estimate import settle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.device import Machine
    from bytebound.documents.work import Serve
    from bytebound.predict.estimate import Setting

WEIGHT_LADDER = ("bf16", "fp8", "int8", "q6_k_m", "int4")
SEARCH_LIMIT = 2**24


@dataclass(frozen=True, slots=True)
class Fit:
    """The edges of what fits, None where nothing does; ``bits`` is the largest format of the ladder that fits."""

    model: str
    machine: str
    fits: bool
    max_batch: int | None
    max_context_tokens: int | None
    min_devices: int | None
    weights: str | None
    max_kv_tokens: float
    free_bytes: float


def fit(model: str | Architecture, machine: str | Machine, work: Serve) -> Fit:
    """Return the edges of what fits around ``work`` (each with everything else held)."""
    setting = settle(model, machine, work.engine)
    now = setting.answer(work)
    return Fit(
        model=setting.architecture.name,
        machine=setting.machine.name,
        fits=bool(now["fits"][0]),
        max_batch=largest(setting, work, "batch"),
        max_context_tokens=largest(setting, replace(work, output=1), "prompt"),
        min_devices=_fewest_devices(setting, work),
        weights=_largest_weights(setting, work),
        max_kv_tokens=float(now["max_kv_tokens"][0]),
        free_bytes=float(now["usable_bytes"][0] - now["total_bytes"][0]),
    )


def largest(setting: Setting, work: Serve, quantity: Literal["batch", "prompt"]) -> int | None:
    """Return the largest whole value of ``quantity`` that fits, None where even 1 does not."""
    powers = 2 ** np.arange(0, 25)
    fits = setting.answer(_with(work, quantity, powers))["fits"] > 0
    if not fits[0]:
        return None
    low = int(powers[fits].max())
    high = min(low * 2, SEARCH_LIMIT)
    while high - low > 1:
        tried = np.unique(np.linspace(low, high, 66).astype(int))
        fits = setting.answer(_with(work, quantity, tried))["fits"] > 0
        low, above = int(tried[fits].max()), tried[~fits]
        high = int(above.min()) if len(above) else low
        if high == low:
            break
    return low


def _with(work: Serve, quantity: Literal["batch", "prompt"], values: NDArray[Any]) -> Serve:
    return replace(work, batch=values) if quantity == "batch" else replace(work, prompt=values)


def _fewest_devices(setting: Setting, work: Serve) -> int | None:
    degrees = 2 ** np.arange(0, 8)
    fits = setting.answer(replace(work, tp=degrees, ep=np.minimum(degrees, np.max(work.ep)), pp=1, dp=1))["fits"] > 0
    return int(degrees[fits].min()) if bool(fits.any()) else None


def _largest_weights(setting: Setting, work: Serve) -> str | None:
    fits = setting.answer(replace(work, weights=np.array(WEIGHT_LADDER)))["fits"] > 0
    return WEIGHT_LADDER[int(np.flatnonzero(fits)[0])] if bool(fits.any()) else None

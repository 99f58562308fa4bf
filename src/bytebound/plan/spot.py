"""One case looked at: at its best batch, what it gives, holds and costs, and what binds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.work import Serve
from bytebound.plan.today import batches, memory_limits, serving_today, setting_of, training_today
from bytebound.predict.corrected import spreads
from bytebound.predict.energy import energy_j
from bytebound.predict.estimate import check_degrees
from bytebound.predict.prediction import CAPACITY
from bytebound.predict.roofline import TIME_RESOURCES
from bytebound.predict.training import train_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.work import Train
    from bytebound.plan.case import Case, Today
    from bytebound.predict.estimate import Setting

    Array = NDArray[Any]

TRAINING_WALLS = {
    "memory": "memory bandwidth", "optimizer": "memory bandwidth", "compute": "compute", "recompute": "compute",
    "scale_up_link": "tensor-link", "scale_out_link": "network", "host_link": "host-link", "bubble": "pipeline bubble",
    "overhead": "overhead",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spot:
    """One case at its best batch: rate [tokens/s] with the factor of its interval, latencies [s], bytes, price and what binds.

    ``usd`` and ``joules`` are per token; NaN or None: unknown, or it does not run.
    """

    batch: float
    rate: float
    spread: float
    tpot: float
    ttft: float
    memory: float
    usd: float | None
    joules: float | None
    binds: str
    today: Today
    meets: bool

    @property
    def runs(self) -> bool:
        """Whether it fits and meets its objective."""
        return self.meets and bool(np.isfinite(self.rate))


def look(case: Case) -> Spot:
    """Return the numbers of a case: at the batch of its cap, or with an objective at the best batch that meets it.

    Raises:
        QuantityError: the degrees ask for more devices than there are.
    """
    setting, work = setting_of(case), case.work
    if not isinstance(work, Serve):
        return _look_at_training(case, setting, work)
    check_degrees(setting, work)
    tried = batches(case.batch_limit) if bounds_of(case) else np.array([float(case.batch_limit)])
    asked = replace(work, batch=tried)
    named = setting.answer(asked)
    fits = named["fits"] > 0
    meets = fits.copy()
    for name, bound in bounds_of(case).items():
        unmeasured = np.isnan(named[name])  # an encoder has no time per token
        meets &= unmeasured | (named[name] <= bound)
    rate = np.where(meets, np.nan_to_num(named["tokens_per_s"]), -1.0)
    best = int(rate.argmax()) if meets.any() else int(np.flatnonzero(fits).max(initial=0))
    return _spot(case, setting, replace(work, batch=tried[best]), named, best=best, meets=bool(meets.any()))


def bounds_of(case: Case) -> dict[str, float]:
    """Return the results that the objective of a case bounds [s]; under load the first token waits for others' prompts."""
    asked = case.objective
    first = "ttft_s" if case.kind == "edge" else "ttft_loaded_s"
    bounds = {first: asked.ttft, "tpot_s": asked.tpot, "request_s": asked.request}
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _spot(case: Case, setting: Setting, work: Serve, named: dict[str, Array], *, best: int, meets: bool) -> Spot:
    """Return the numbers at index ``best`` of ``named``, which ``work`` states as one request."""

    def at(name: str) -> float:
        return float(named[name][best])

    one = {name: value[best : best + 1] for name, value in named.items()}
    now = serving_today(setting, work, batch=float(work.batch), limited=memory_limits(setting, work))
    devices, price, rate = float(case.devices_per_replica), setting.machine.usd_per_device_hour, at("tokens_per_s")
    energy = energy_j(setting.machine.device, one, np.array([devices]))
    verdict = int(at("verdict"))
    return Spot(
        batch=float(work.batch), rate=rate, spread=float(spreads(setting, one, work)["tokens_per_s"][0]),
        tpot=at("tpot_s"), ttft=at("ttft_s"), memory=at("total_bytes"),
        usd=None if price is None or not np.isfinite(rate) else price.value * devices / rate,
        joules=None if energy is None or not np.isfinite(rate) else float(energy[0]),
        binds="capacity" if verdict == CAPACITY else TIME_RESOURCES[verdict], today=now, meets=meets,
    )  # fmt: skip


def _look_at_training(case: Case, setting: Setting, work: Train) -> Spot:
    timed = train_time(setting, work)
    now = training_today(setting, work)
    shares = {name: float(np.max(np.asarray(part) / timed.step_s)) for name, part in timed.parts.items()}
    rate = float(np.max(timed.tokens_per_s)) if not now.capacity_limited else float("nan")
    price = setting.machine.usd_per_device_hour
    return Spot(
        batch=float(np.max(work.micro_batch)), rate=rate, spread=float(np.max(timed.spread)), tpot=float("nan"),
        ttft=float("nan"), memory=float(np.max(timed.total_bytes)),
        usd=None if price is None or not np.isfinite(rate) else price.value * case.devices_per_replica / rate, joules=None,
        binds="capacity" if now.capacity_limited else TRAINING_WALLS.get(max(shares, key=lambda name: shares[name]), "overhead"),
        today=now, meets=not now.capacity_limited,
    )  # fmt: skip

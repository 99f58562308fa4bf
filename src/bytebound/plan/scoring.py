"""From rows of a space to scored deployments, as arrays: copies, devices, money, energy and the chance to meet the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.plan import QUALITIES
from bytebound.documents.work import Serve
from bytebound.plan.formats import AUTO, quality_of
from bytebound.plan.objective import below, chance_of, quantile
from bytebound.predict.corrected import spreads
from bytebound.predict.energy import energy_j
from bytebound.predict.parts import Z80
from bytebound.predict.prediction import queue_s
from bytebound.predict.scaled import scaled
from bytebound.units import HOURS_PER_MONTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.plan import PlanRequest, Wanted
    from bytebound.plan.space import Space

    Array = NDArray[Any]
    Rows = dict[str, Array]

SLAB = 131_072
"""Rows scored at once: thirty columns of them are 30 MB."""
ACCEPTANCE_SPREAD = 1.35
"""Factor of the 80 % interval that an assumed acceptance adds to TPOT: of three drafted tokens 2.5 come through at an acceptance
of 0.7 and 1.9 at 0.5. Source: Leviathan et al. 2023 (arXiv 2211.17192), equation 1, over the acceptances of its Table 3."""
SUREST = 0.9999
"""The most that copies are counted for: beyond it the chance of the bounds alone decides."""
ROUNDED = 1e-4
"""What is lost between what is asked for and ``SUREST``, and in the table of the normal distribution."""
_PHASE = ("weight_bytes", "kv_bytes", "activation_bytes", "seconds", "mfu")
COLUMNS = (
    "fits", "ttft_s", "ttft_loaded_s", "tpot_s", "tokens_per_s", "prefill_request_s", "decode_time_share", "verdict",
    "total_bytes", "usable_bytes", "decode.floor_s", *(f"{phase}.{name}" for phase in ("decode", "prefill") for name in _PHASE),
)  # fmt: skip
AXES = (
    "tp", "pp", "ep", "dp", "batch", "chunk", "prefix_hit", "offload_hit", "host_weights", "draft_tokens", "disaggregated",
)  # fmt: skip
PREFERRED = ("score", "devices", "worse", "changes", "weights", "kv", "each_s", "first_s", "joules", "batch")
"""How the best is chosen: by what is minimised; then fewer devices, better quality, fewer changes to the
checkpoint, formats in the order they are listed, lower latency."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a deployment of one model is held to. ``quality`` is the floor as an index into ``QUALITIES``."""

    request: PlanRequest
    wanted: Wanted
    most_devices: float
    acceptance: float | None
    kind: str = "decoder"

    @property
    def steps(self) -> float:
        """Output tokens after the first; 0 for a model that gives its whole answer at once."""
        return max(self.wanted.output - 1, 0.0) if self.kind == "decoder" else 0.0

    @property
    def tokens(self) -> float:
        """What one request counts as in rates: output tokens, prompt tokens of an encoder, one image."""
        return {"decoder": self.wanted.output, "encoder": self.wanted.prompt, "denoiser": 1.0}[self.kind]

    @property
    def quality(self) -> int:
        """The floor of quality as an index into ``QUALITIES``."""
        return QUALITIES.index(self.request.quality)


def slabs(space: Space, terms: Terms, *, number: int) -> Iterator[Rows]:
    """Yield every row of a space, scored, a slab at a time; ``number`` is the space's, kept with each row.

    On a measured machine the ceilings are those of a weight format, so a slab there holds one.
    """
    size, measured = space.size, space.setting.machine.device.memory_bytes_per_s.how == "measured"
    block = size // max(len(space.weights), 1) if measured else size
    for first in range(0, size, max(block, 1)):
        for start in range(first, first + block, SLAB):
            rows = space.rows(start, min(start + SLAB, first + block))
            yield scored(space, terms, rows) | {"space": np.full(len(rows["batch"]), number)}


def work_of(space: Space, terms: Terms, rows: Rows) -> Serve:
    """Return the request of one copy, rows as arrays."""
    wanted = terms.wanted
    stated: dict[str, Any] = {name: rows[name] for name in AXES} | {"disaggregated": rows["disaggregated"] > 0}
    for name, formats in (("weights", space.weights), ("kv", space.kv)):
        stated[name] = formats[0] if len(formats) == 1 else np.array(formats)[rows[name]]
    if terms.acceptance is not None:
        stated["acceptance"] = terms.acceptance
    return Serve(prompt=wanted.prompt, output=wanted.output, engine=space.setting.engine.name, **stated)


def scored(space: Space, terms: Terms, rows: Rows) -> Rows:
    """Return rows with everything a choice needs; NaN where a row does not fit.

    Copies: as many as carry the demand at ``most_used`` of what each can take, and at less where the predicted rate is less
    sure: with a chance of ``1 + sure − chance of every bound``, so that both together are as sure as was asked (Fréchet's bound,
    which holds however their errors are related). Disaggregated, decode and prefill copies are counted apart, n_p : n_d =
    λ T_prefill : λ T_decode / B (DistServe, arXiv 2401.09670, section 4), and TTFT waits in the queue of the prefill copies alone.
    """
    request, wanted = terms.request, terms.wanted
    setting = scaled(space.setting, space.weights[int(rows["weights"][0])], "flash")
    work = work_of(space, terms, rows)
    group = rows["tp"] * rows["pp"] * rows["dp"]
    named = setting.answer(work, space.ceilings(setting, group), names=COLUMNS)
    apart = rows["disaggregated"] > 0
    wide = spreads(setting, named, work)
    drafting = np.where((rows["draft_tokens"] > 0) & (terms.acceptance is None), np.log(ACCEPTANCE_SPREAD), 0.0)
    first_sd, each_sd, rate_sd = (
        np.hypot(np.log(wide[name]), drafting * (name != "ttft_s")) / Z80
        for name in ("ttft_s", "tpot_s", "tokens_per_s")
    )
    fits = (named["fits"] > 0) & ~_wasted(setting.ceilings.flop_per_s, setting.ceilings.memory_bytes_per_s, rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        together = named["tokens_per_s"] / terms.tokens
        share = np.where(apart, named["decode_time_share"], 1.0)
        rate = np.where(apart & (share > 0), together / share, together)
        prefill_rate = np.where(apart, rows["dp"] / named["prefill_request_s"], np.inf)
        busy = wanted.demand_per_s / (_copies(wanted.demand_per_s / request.most_used, prefill_rate) * prefill_rate)
        alone = named["ttft_s"] + queue_s(np.where(apart, busy, 0.0), named["prefill_request_s"], np.zeros(1))
    first = np.where(apart, alone, named["ttft_loaded_s"])
    timed = {"fits": fits, "first_s": first, "each_s": named["tpot_s"], "first_sd": first_sd, "each_sd": each_sd}
    level = np.clip(1 + request.sure - _bounds_met(timed, terms), 0.0, SUREST)
    spare = quantile(np.where(apart, (1 + level) / 2, level))
    with np.errstate(invalid="ignore", divide="ignore"):
        copies = _copies(wanted.demand_per_s / np.minimum(request.most_used, np.exp(-spare * rate_sd)), rate)
        prefill_copies = _copies(
            wanted.demand_per_s / np.minimum(request.most_used, np.exp(-spare * first_sd)), prefill_rate
        )
        prefill_copies = np.where(apart, prefill_copies, 0.0)
        takes = np.minimum(copies * rate, np.where(apart, prefill_copies * prefill_rate, np.inf))
        carried = below(np.log(copies * rate / wanted.demand_per_s) / rate_sd)
        apart_too = below(np.log(np.where(apart, prefill_copies * prefill_rate / wanted.demand_per_s, 1.0)) / first_sd)
        carried = np.where(apart, carried + apart_too - 1, carried)
    devices = (copies + prefill_copies) * group
    billed = np.ceil(devices / space.node) * space.node if request.whole_nodes else devices
    price = setting.machine.usd_per_device_hour
    usd = billed * price.value * HOURS_PER_MONTH if price is not None else np.full(billed.shape, np.inf)
    joules = energy_j(setting.machine.device, named, group)
    found = {name: rows[name] for name in (*AXES, "weights", "kv")} | timed | {
        "held": named["total_bytes"] / named["usable_bytes"], "total_bytes": named["total_bytes"],
        "usable_bytes": named["usable_bytes"], "floor_s": named["decode.floor_s"], "rate_sd": rate_sd,
        "carried": np.nan_to_num(carried),
        "copies": copies, "prefill_copies": prefill_copies, "devices": billed, "most": np.full(billed.shape, min(terms.most_devices, space.there)), "requests_per_s": takes,
        "tokens_per_s": takes * terms.tokens, "usd": usd, "verdict": named["verdict"],
        "joules": np.full(billed.shape, np.inf) if joules is None else joules,
        "worse": _loss(space)[rows["weights"], rows["kv"]],
        "changes": _other(space.weights)[rows["weights"]] + _other(space.kv)[rows["kv"]] + (rows["draft_tokens"] > 0) + apart
        + (rows["host_weights"] > 0) + (rows["offload_hit"] > 0) + (rows["chunk"] > 0),
    }  # fmt: skip
    return found | {"score": _score(found, terms)}


def _other(formats: Sequence[str]) -> Array:
    """Return 1 for formats that are not the checkpoint's own, (formats,)."""
    return np.array([float(name != AUTO) for name in formats])


def _loss(space: Space) -> Array:
    """Return how many steps under lossless each pair of formats is, (weights, kv)."""
    best = len(QUALITIES) - 1
    return np.array([[float(best - QUALITIES.index(quality_of(w, k))) for k in space.kv] for w in space.weights])


def _wasted(flop_per_s: Array, bytes_per_s: Array, rows: Rows) -> NDArray[np.bool_]:
    """Return where verifying drafts passes the ridge, so that it is no longer free (rule 7, EAGLE: 0.88 × at batch 48)."""
    ridge = float(np.max(flop_per_s[1:3]) / np.max(bytes_per_s))
    return np.asarray((rows["draft_tokens"] > 0) & (rows["batch"] * (rows["draft_tokens"] + 1) > ridge))


def _score(found: Rows, terms: Terms) -> Array:
    """Return what is minimised, weighed by the model's tokens so that scores of several models add up."""
    tokens = terms.wanted.demand_per_s * terms.tokens
    if terms.request.minimize == "cost":
        return found["usd"]
    if terms.request.minimize == "throughput":
        return np.asarray(found["devices"] / found["tokens_per_s"] * tokens)
    return np.asarray((found["each_s"] if terms.request.minimize == "latency" else found["joules"]) * tokens)


def _copies(need_per_s: Array | float, each_per_s: Array) -> Array:
    """Return how many copies it takes, at least one."""
    return np.asarray(np.maximum(np.ceil(need_per_s / each_per_s), 1.0))


def chances(found: Rows, terms: Terms, without: str = "") -> Array:
    """Return the least chance that every bound (but ``without``) is met and the copies carry the demand, row by row."""
    return np.asarray(np.maximum(_bounds_met(found, terms, without) + found["carried"] - 1, 0.0))


def _bounds_met(found: Rows, terms: Terms, without: str = "") -> Array:
    """Return the chance that every bound (but ``without``) is met, row by row."""
    bounds = {name: bound for name, bound in terms.wanted.objective.items() if name != without}
    if not any(bound is not None for bound in bounds.values()):
        return np.where(found["fits"], 1.0, 0.0)
    return np.where(
        found["fits"],
        chance_of(
            found["first_s"], found["each_s"], bounds, first_sd=found["first_sd"], each_sd=found["each_sd"], steps=terms.steps
        ),
        0.0,
    )  # fmt: skip


def allowed(found: Rows, terms: Terms, without: str = "") -> NDArray[np.bool_]:
    """Return which rows keep within the limits on devices, money and quality (but ``without``)."""
    request = terms.request
    within = found["fits"].copy()
    if without != "devices":
        within &= found["devices"] <= found["most"]
    if without != "budget" and request.usd_per_month is not None:
        within &= found["usd"] <= request.usd_per_month
    if without != "quality":
        within &= found["worse"] <= len(QUALITIES) - 1 - terms.quality
    return np.asarray(within)


def meeting(found: Rows, terms: Terms) -> Rows:
    """Return the rows that meet the objective surely enough within every limit, with their ``chance``."""
    rows = taken(found, np.flatnonzero(allowed(found, terms)))
    chance = chances(rows, terms)
    sure = np.flatnonzero(chance >= terms.request.sure - ROUNDED)
    return taken(rows | {"chance": chance}, sure)


def taken(found: Rows, index: NDArray[np.int64]) -> Rows:
    """Return some of the rows."""
    return {name: column[index] for name, column in found.items()}


def preferred(found: Rows) -> NDArray[np.int64]:
    """Return rows in the order of preference; unpriced ones by their devices, after all priced ones."""
    return np.lexsort([found[name] for name in PREFERRED[::-1]])


def best_of(found: Rows) -> int:
    """Return the row that ``preferred`` puts first."""
    least = np.flatnonzero(found["score"] == found["score"].min())
    return int(least[preferred(taken(found, least))[0]])


def cheapest_by_devices(found: Rows) -> NDArray[np.int64]:
    """Return the preferred row of every number of devices."""
    order = preferred(found)
    return np.asarray(order[np.unique(found["devices"][order], return_index=True)[1]])

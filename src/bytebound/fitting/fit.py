"""Fit offsets of shares, floors and host times to measured rows: penalised least squares on log time.

Every offset has a prior: a published share or floor, with a width that says how far a pool of families, one family, an
engine or a weight form may reasonably be from it. Families and engines with few rows stay near their pool (partial pooling);
none ever gets a factor of its own per row or per model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import RequestError, UnfinishedError
from bytebound.facts.calibration import Offset
from bytebound.facts.formats import FORMS
from bytebound.fitting.cases import groups
from bytebound.ledger.ledger import CLASS_NAMES
from bytebound.predict.attained import CLEAR, HOST_QUANTITIES, engine_terms, host_prior, published, terms
from bytebound.predict.roofline import SUMMED, _network, between, rates, started_kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.documents.truth import Truth
    from bytebound.facts.calibration import Key
    from bytebound.fitting.cases import Group
    from bytebound.ledger.ledger import Ledger

    Array = NDArray[Any]

PHASES = ("decode", "alone", "together")
PRIOR_SD = {
    "pool": 0.3,
    "family": 0.15,
    "engines": 0.5,
    "engine": 0.15,
    "era": 0.3,
    "form": 0.25,
    "kernels": 0.2,
    "floor_s": 0.3,
    "host": 1.0,
}
"""Widths of the priors, in log-odds of a share or logarithm of a time, chosen by leaving models, devices and engines out: ``kernels`` is a weight form on one kind of
hardware, ``host`` an engine's host times."""
NOISE = 0.12
"""Log error of a good prediction; residuals beyond it count linearly (Huber), not squared."""
ROWS_PER_GROUP = 50
"""Most weight one (source, device, model) may have, in rows. Source: the protocol of the corpus."""
STEPS, SETTLED = 25, 1e-3
MOST_OFFSET = 5.0
"""No offset goes beyond this, a factor of 150 in odds or in time. A time at the lower end is as good as 0; anything else there
has left its physical range."""


@dataclass(frozen=True, slots=True)
class Design:
    """Measured rows laid flat: one entry per ledger row and case, with the parameters that scale it.

    ``compute_s``, ``memory_s`` (entries,) are seconds at the datasheet's ceilings; ``launches`` counts kernels; ``latency``
    operations and ``traffic_s`` seconds of collectives. ``*_at`` (entries, k) index ``keys``; −1 is no parameter.
    """

    keys: tuple[Key, ...]
    prior_sd: Array
    case: NDArray[np.int64]
    phase: NDArray[np.int64]
    summed: NDArray[np.bool_]
    repeat: Array
    compute_s: Array
    memory_s: Array
    launches: Array
    traffic_s: Array
    compute_odds: Array
    memory_odds: Array
    link_odds: Array
    floor_s: Array
    compute_at: NDArray[np.int64]
    memory_at: NDArray[np.int64]
    floor_at: NDArray[np.int64]
    link_at: NDArray[np.int64]
    host_prior: Array
    host_at: NDArray[np.int64]
    mix: Array
    sequences: Array
    started: Array
    together: Array
    divide: Array
    per_step: Array
    amount: Array
    is_rate: NDArray[np.bool_]
    floor_total: Array
    measured: Array
    weight: Array
    rows: NDArray[np.int64]


def design(rows: Sequence[Truth]) -> Design:
    """Return the flat design of the rows that can be predicted; those that do not fit in memory have weight 0.

    Raises:
        RequestError: there is none.
    """
    index: dict[Key, int] = {}
    parts: list[dict[str, Array]] = []
    cases: list[dict[str, Array]] = []
    start = 0
    for group in groups(rows):
        flat, per_case = _flatten(group, index, start)
        parts.append(flat)
        cases.append(per_case)
        start += len(group.rows)
    if not parts:
        raise RequestError("no row is a time of a model that can be read", place="truth", mend="give rows with times")
    entry = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    case = {name: np.concatenate([c[name] for c in cases]) for name in cases[0]}
    measured = np.array([rows[i].value for i in case["rows"]])
    keys = tuple(index)
    return Design(
        keys=keys, prior_sd=np.array([_prior_sd(key) for key in keys]), measured=measured,
        weight=_weights([rows[i] for i in case["rows"]], case.pop("fits") > 0),
        is_rate=case.pop("is_rate") > 0, rows=case.pop("rows").astype(np.int64),
        case=entry.pop("case").astype(np.int64), phase=entry.pop("phase").astype(np.int64),
        summed=entry.pop("summed") > 0,
        **{name: entry.pop(name).astype(np.int64) for name in ("compute_at", "memory_at", "floor_at", "link_at")},
        host_at=case.pop("host_at").astype(np.int64), **entry, **case,
    )  # fmt: skip


def _prior_sd(key: Key) -> float:
    scope, _, quantity = key
    if quantity.startswith(("host_", "launch_")):
        return PRIOR_SD["host"]
    if quantity == "floor_s":
        return PRIOR_SD["floor_s"]
    if scope.startswith("form:"):
        return PRIOR_SD["kernels" if scope.count(":") == 2 else "form"]
    return PRIOR_SD[
        "pool"
        if scope.startswith("pool:")
        else "era"
        if "@" in scope
        else "engines"
        if scope.startswith("engines:")
        else "engine"
        if scope.startswith("engine:")
        else "family"
    ]


def _weights(rows: list[Truth], fits: NDArray[np.bool_]) -> Array:
    """Return a weight per row: rows of one (source, device, model, metric) share at most ``ROWS_PER_GROUP``."""
    keys = [(r.source, r.device, r.model, r.metric) for r in rows]
    count: dict[tuple[str, ...], int] = {}
    for key in keys:
        count[key] = count.get(key, 0) + 1
    trust = {"A": 1.0, "B": 0.7, "C": 0.4}
    return (
        np.array([min(1.0, ROWS_PER_GROUP / count[k]) * trust[r.trust] for k, r in zip(keys, rows, strict=True)]) * fits
    )


def _flatten(group: Group, index: dict[Key, int], start: int) -> tuple[dict[str, Array], dict[str, Array]]:
    setting, count = group.setting, len(group.rows)
    device, ceilings = setting.machine.device, setting.ceilings
    family, kind, engine, era = device.family, device.kind, setting.engine.name, group.era

    def at(key: Key) -> int:
        return index.setdefault(key, len(index))

    def columns(keys: Sequence[Key], width: int) -> list[int]:
        return [*(at(k) for k in keys), *([-1] * (width - len(keys)))]

    share_at: dict[tuple[str, int, int], list[int]] = {}
    floor_at = {
        c: columns(terms(family, kind, engine, name, "floor_s", era=era), 5) for c, name in enumerate(CLASS_NAMES)
    }

    def shares(quantity: str, op_class: int, form: int) -> list[int]:
        key = (quantity, op_class, form)
        if key not in share_at:
            name = CLASS_NAMES[op_class]
            known = published(family, kind, name, quantity) < 1
            share_at[key] = columns(
                terms(family, kind, engine, name, quantity, form=FORMS[form], era=era) if known else (), 7
            )
        return share_at[key]

    entries: dict[str, list[Array]] = {}
    for phase, ledger in enumerate((group.decode, group.alone, group.together)):
        for name, values in _entries(ledger, ceilings, count).items():
            entries.setdefault(name, []).append(values)
        entries.setdefault("phase", []).append(np.full(len(entries["case"][-1]), phase))
    flat = {name: np.concatenate(values) for name, values in entries.items()}
    kinds, inverse = np.unique(np.stack([flat["op_class"], flat["form"]]), axis=1, return_inverse=True)
    inverse = inverse.reshape(-1)
    pairs = [(int(c), int(f)) for c, f in kinds.T]
    for target, quantity in (("compute", "compute_share"), ("memory", "bandwidth_share")):
        flat[f"{target}_at"] = np.array([shares(quantity, c, f) for c, f in pairs])[inverse]
        flat[f"{target}_odds"] = np.array([_odds(published(family, kind, CLASS_NAMES[c], quantity)) for c, _ in pairs])[
            inverse
        ]
    flat["floor_at"] = np.array([floor_at[c] for c, _ in pairs])[inverse]
    flat["floor_s"] = np.array([published(family, kind, CLASS_NAMES[c], "floor_s") for c, _ in pairs])[inverse]
    flat["link_at"] = np.tile(columns(terms(family, kind, engine, "collective", "link_share"), 3), (len(inverse), 1))
    flat["link_odds"] = np.full(len(inverse), _odds(published(family, kind, "collective", "link_share")))
    flat["summed"] = SUMMED[flat["op_class"].astype(int)].astype(float)
    flat["case"] = flat["case"] + start
    keep = (flat["compute_s"] > 0) | (flat["memory_s"] > 0) | (flat["launches"] > 0) | (flat["traffic_s"] > 0)
    flat = {name: values[keep] for name, values in flat.items() if name not in {"op_class", "form"}}
    per_case = {
        "rows": group.rows,
        "host_at": np.tile([columns(engine_terms(engine, "step", q, era), 3) for q in HOST_QUANTITIES], (count, 1, 1)),
        "host_prior": np.tile([host_prior(engine, q) for q in HOST_QUANTITIES], (count, 1)),
        "mix": np.stack([np.broadcast_to(x, (count,)) for x in (group.mix.decode, group.mix.alone, group.mix.together, group.mix.host)], axis=1),
        "started": np.stack([np.broadcast_to(started_kernels(x), (count,)) for x in (group.decode, group.alone, group.together)], axis=1),
        "sequences": np.broadcast_to(group.batch, (count,)), "together": np.broadcast_to(group.together_count, (count,)),
        "divide": np.broadcast_to(group.pp, (count,)), "per_step": np.broadcast_to(group.per_step, (count,)),
        "floor_total": _floor_s(group, ceilings, count),
        "amount": np.broadcast_to(group.amount, (count,)), "is_rate": group.is_rate.astype(float), "fits": group.fits.astype(float),
    }  # fmt: skip
    return flat, per_case


def _floor_s(group: Group, ceilings: Any, count: int) -> Array:
    """Return the least seconds physics allows each metric, (count,): bytes at full bandwidth, FLOPs at peak."""

    def floor(ledger: Ledger) -> Array:
        moved = ledger.weight_bytes + ledger.kv_bytes  # activations may stay on chip
        compute = (ledger.flops / ceilings.flop_per_s.max(axis=0) * ledger.repeat).sum(axis=0)  # no unit is faster
        return np.broadcast_to(
            np.maximum(compute, (moved * ledger.repeat).sum(axis=0) / ceilings.memory_bytes_per_s), (count,)
        )

    together = floor(group.together) / group.together_count / group.pp
    return group.least.seconds(floor(group.decode) / group.per_step, floor(group.alone), together, 0.0)


def contradicts(d: Design, tolerance: float = 0.02) -> NDArray[np.bool_]:
    """Return which cases were measured beyond what physics allows, (cases,): their row or our reading of it is wrong."""
    seconds_measured = np.where(d.is_rate, d.amount / d.measured, d.measured)
    return np.asarray(seconds_measured < d.floor_total * (1 - tolerance))


def _odds(share: float) -> float:
    clipped = float(np.clip(share, CLEAR, 1 - CLEAR))
    return float(np.log(clipped / (1 - clipped))) if share < 1 else np.inf


def _entries(ledger: Ledger, ceilings: Any, count: int) -> dict[str, Array]:
    shape = (len(ledger.names), count)

    def flat(values: Array) -> Array:
        return np.broadcast_to(values, shape).reshape(-1)

    moved = ledger.weight_bytes + ledger.kv_bytes + ledger.activation_bytes
    net = np.flatnonzero(ledger.pattern > 0)
    latency, traffic = np.zeros(shape), np.zeros(shape)
    if len(net):
        bare = ceilings.bare()
        up, out, host = _network(ledger, bare, net)
        traffic[net] = up + out + host
        latency[net] = np.where(up > 0, ledger.launches[net], 0.0)
    is_net = (ledger.pattern > 0)[:, None]
    return {
        "case": flat(np.arange(count)[None, :]),
        "op_class": flat(ledger.op_class[:, None].astype(float)),
        "form": flat(ledger.form.astype(float)),
        "repeat": flat(ledger.repeat),
        "compute_s": flat(ledger.flops / rates(ledger, ceilings)),
        "memory_s": flat(moved / ceilings.memory_bytes_per_s),
        "launches": flat(np.where(is_net, latency, ledger.launches)),
        "traffic_s": traffic.reshape(-1),
    }


@dataclass(frozen=True, slots=True)
class _Parts:
    """One evaluation, taken apart: per entry and per case, as ``_jacobian`` needs them."""

    compute: Array
    memory: Array
    compute_share: Array
    memory_share: Array
    link_share: Array
    body: Array
    floor: Array
    link: Array
    bare: Array
    total: Array
    host: Array
    phases: Array
    spent: Array


def _evaluate(d: Design, offsets: Array) -> _Parts:
    padded = np.append(offsets, 0.0)

    def share(odds: Array, at: NDArray[np.int64]) -> Array:
        return np.asarray(np.clip(1 / (1 + np.exp(-(odds + padded[at].sum(axis=1)))), CLEAR, 1.0))

    of_compute, of_memory = share(d.compute_odds, d.compute_at), share(d.memory_odds, d.memory_at)
    of_link = share(d.link_odds, d.link_at)
    compute, memory, link = d.compute_s / of_compute, d.memory_s / of_memory, d.traffic_s / of_link
    body = np.where(d.summed, compute + memory, np.hypot(compute, memory))
    floor = d.launches * d.floor_s * np.exp(padded[d.floor_at].sum(axis=1))
    row = (body + np.where(d.traffic_s > 0, between(floor, link), floor)) * d.repeat
    cases = len(d.measured)
    bare = np.bincount(d.case * 3 + d.phase, row, minlength=cases * 3).reshape(cases, 3)
    host = d.host_prior * np.exp(padded[d.host_at].sum(axis=2))
    total = np.hypot(bare, d.started * host[:, LAUNCH])
    added = host[:, :1] + host[:, 1:2] * np.stack([d.sequences, np.ones(cases), d.together], axis=1)
    phases = (total + added) / _divisors(d)
    spent = (d.mix[:, :3] * phases).sum(axis=1) + d.mix[:, 3] * host[:, 2]
    return _Parts(compute, memory, of_compute, of_memory, of_link, body, floor, link, bare, total, host, phases, spent)


LAUNCH = [3, 4, 4]
"""Which of ``HOST_QUANTITIES`` starts the kernels of each phase."""


def _divisors(d: Design) -> Array:
    """Return what one step or pass is divided by: tokens of a speculative step, prompts of a pass over pipeline stages."""
    return np.stack([d.per_step, np.ones_like(d.per_step), d.together * d.divide], axis=1)


def seconds(d: Design, offsets: Array) -> tuple[Array, Array]:
    """Return (seconds of the phases (cases, 3), predicted metric (cases,)) under ``offsets`` (keys,)."""
    parts = _evaluate(d, offsets)
    return parts.phases, np.where(d.is_rate, d.amount / parts.spent, parts.spent)


def _jacobian(d: Design, offsets: Array) -> Array:
    """Return the derivative of ln(seconds of the metric) by every offset, (cases, keys)."""
    p = _evaluate(d, offsets)
    cases, keys = len(d.measured), len(d.keys)
    ratio = np.divide(p.bare, p.total, out=np.zeros_like(p.bare), where=p.total > 0)
    per_phase = d.mix[:, :3] / _divisors(d) / p.spent[:, None]
    scale = (per_phase * ratio)[d.case, d.phase] * d.repeat
    steep = np.where(d.summed, 1.0, np.divide(p.compute, p.body, out=np.zeros_like(p.body), where=p.body > 0))
    flat = np.where(d.summed, 1.0, np.divide(p.memory, p.body, out=np.zeros_like(p.body), where=p.body > 0))
    roots = np.sqrt(p.floor * p.link)
    moves = (
        (d.compute_at, -scale * steep * p.compute * (1 - p.compute_share)),
        (d.memory_at, -scale * flat * p.memory * (1 - p.memory_share)),
        (d.link_at, -scale * (p.link + roots) * (1 - p.link_share)),
        (d.floor_at, scale * (p.floor + np.where(d.traffic_s > 0, roots, 0.0))),
    )
    out = np.zeros(cases * (keys + 1))
    for at, weight in moves:
        for column in at.T:
            live = (column >= 0) & (weight != 0)
            out += np.bincount(d.case[live] * (keys + 1) + column[live], weight[live], minlength=len(out))
    found = out.reshape(cases, keys + 1)
    rows = np.arange(cases)
    launched = np.divide(d.started * p.host[:, LAUNCH], p.total, out=np.zeros_like(p.total), where=p.total > 0)
    starting = per_phase * launched * d.started * p.host[:, LAUNCH]
    counts = np.stack([d.sequences, np.ones(cases), d.together], axis=1)
    hosts = (
        per_phase.sum(axis=1) * p.host[:, 0], (per_phase * counts).sum(axis=1) * p.host[:, 1],
        d.mix[:, 3] * p.host[:, 2] / p.spent, starting[:, 0], starting[:, 1] + starting[:, 2],
    )  # fmt: skip
    for quantity, slope in enumerate(hosts):
        for at in d.host_at[:, quantity].T:
            found[rows, at] += slope  # −1, no offset, is the last column, which is dropped
    return found[:, :keys]


def fit(d: Design, use: NDArray[np.bool_] | None = None, *, start: Array | None = None) -> tuple[Array, Array]:
    """Return (offsets, their standard deviations) that explain the measured rows.

    Args:
        d: the design.
        use: rows to fit on, (cases,); None: all.
        start: offsets to start from.

    Raises:
        UnfinishedError: the fit does not settle, or an offset leaves what is physical.

    Method: iteratively reweighted Gauss–Newton on ln(predicted / measured) with Huber weights and Gaussian priors
    (ridge on the offsets), steps halved until the objective falls.
    """
    sign = np.where(d.is_rate, -1.0, 1.0)  # residuals are of seconds, whatever the metric
    base = d.weight * (1.0 if use is None else use) * (d.measured > 0)
    x = np.zeros(len(d.keys)) if start is None else np.array(start)
    pull = 1 / d.prior_sd**2

    def residual(at: Array) -> Array:
        return np.asarray(sign * np.log(seconds(d, at)[1] / d.measured))

    def objective(r: Array, at: Array) -> float:
        small = np.abs(r) <= NOISE
        loss = np.where(small, 0.5 * (r / NOISE) ** 2, np.abs(r) / NOISE - 0.5)
        return float((base * loss).sum() + 0.5 * (pull * at**2).sum())

    r = residual(x)
    value = objective(r, x)
    hessian = np.diag(pull)
    for _ in range(STEPS):
        jacobian = _jacobian(d, x)
        w = base / NOISE**2 / np.maximum(np.abs(r) / NOISE, 1.0)
        hessian = jacobian.T @ (jacobian * w[:, None]) + np.diag(pull)
        step = -np.linalg.solve(hessian, jacobian.T @ (w * r) + pull * x)
        scale = 1.0
        while scale > 1e-3:
            tried = np.clip(x + scale * np.clip(step, -1.0, 1.0), -MOST_OFFSET, MOST_OFFSET)
            new = residual(tried)
            better = objective(new, tried)
            if better < value:
                break
            scale /= 2
        else:
            break
        settled = value - better < SETTLED * max(abs(value), 1.0)
        x, r, value = tried, new, better
        if settled:
            break
    else:
        raise UnfinishedError("the calibration did not settle", place="calibrate", mend="look for contradicting rows")
    gone = ~np.isfinite(x) | (
        (np.abs(x) >= MOST_OFFSET) & np.array([not key[2].endswith("_s") and "_s_" not in key[2] for key in d.keys])
    )
    gone |= x >= MOST_OFFSET
    if gone.any():
        worst = int(gone.argmax())
        raise UnfinishedError(
            f"the fit moves {'/'.join(d.keys[worst])} out of its physical range", place="calibrate",
            mend="look for rows that contradict physics",
        )  # fmt: skip
    return x, np.sqrt(np.diag(np.linalg.inv(hessian)))


def as_offsets(
    d: Design, x: Array, sd: Array, *, source: str, date: str, use: NDArray[np.bool_] | None = None
) -> dict[Key, Offset]:
    """Return the fitted offsets as a table, each with the number of rows that saw it."""
    live = d.weight > 0 if use is None else (d.weight > 0) & use
    seen = np.zeros(len(d.keys) + 1)
    for at in (d.compute_at, d.memory_at, d.floor_at, d.link_at):
        pairs = np.unique(np.stack([np.repeat(d.case, at.shape[1]), at.reshape(-1)]), axis=1)
        seen += np.bincount(pairs[1][live[pairs[0]]] % len(seen), minlength=len(seen))[: len(seen)]
    seen += np.bincount(d.host_at[live].reshape(-1) % len(seen), minlength=len(seen))
    return {
        key: Offset(float(x[i]), float(sd[i]), int(seen[i]), source, date)
        for i, key in enumerate(d.keys)
        if seen[i] > 0
    }

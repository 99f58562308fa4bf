"""Lay a correction on predictions: the seconds of each resource, times what a run of this deployment showed they cost.

A time is a sum of parts, one per phase and resource: ``t = Σ s_c``. What a run tells is kept as a few *effects*, each the
logarithm of a factor on some of the parts: all of them, all of prefill, one resource in both phases, and three drifts that
grow with the logarithm of batch, context and prompt. So ``t' = Σ s_c exp(Σ_z M_cz z)``, and no part is ever negative.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.values import Provenance
from bytebound.errors import RequestError, UnknownNameError
from bytebound.predict.prediction import CAPACITY
from bytebound.predict.roofline import TIME_RESOURCES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.correction import Correction
    from bytebound.documents.estimate import Phase
    from bytebound.documents.work import Serve
    from bytebound.predict.estimate import Setting

    Array = NDArray[Any]

COUNT = len(TIME_RESOURCES)
DECODE, PREFILL, REQUEST, WAITING = slice(0, COUNT), slice(COUNT, 2 * COUNT), 2 * COUNT, 2 * COUNT + 1
PARTS = 2 * COUNT + 2
"""Parts of a time: decode by resource, prefill by resource, host time of a request, waiting."""

DRIFTS = ("batch-drift", "context-drift", "prompt-drift")
EFFECTS = ("scale", "prefill", *TIME_RESOURCES, "request", "waiting", *DRIFTS)
Z80 = 1.2815515655446004
"""Half-width of the central 80 % of a normal distribution, in standard deviations."""

CENTRE_BATCH, CENTRE_TOKENS = 32.0, 2048.0
"""Where the drifts are zero: a middling request, so that they say nothing about the scale."""

LOADED = "ttft_loaded_s"
TIMES = ("tpot_s", "ttft_s", LOADED, "request_s")
RATES = ("decode_tokens_per_s", "prefill_tokens_per_s", "tokens_per_s", "total_tokens_per_s", "requests_per_s")
"""Metrics a correction can be drawn from; ``ttft_loaded_s`` includes waiting at a busy replica."""


def _mixing() -> Array:
    """Return which effects act on which part, (parts, effects without drifts)."""
    mixing = np.zeros((PARTS, len(EFFECTS) - len(DRIFTS)))
    mixing[:, 0] = 1.0
    mixing[PREFILL, 1] = 1.0
    for index in range(COUNT):
        mixing[[index, COUNT + index], 2 + index] = 1.0
    mixing[REQUEST, 2 + COUNT] = mixing[WAITING, 3 + COUNT] = 1.0
    return mixing


MIXING = _mixing()


@dataclass(frozen=True, slots=True)
class Parted:
    """A metric as parts: ``seconds`` (parts, requests) and, for a rate, ``amount`` (requests,) done in their sum.

    ``drift`` (3, requests): logarithms of batch, context and prompt over their centres.
    """

    seconds: Array
    amount: Array | None
    drift: Array

    @property
    def value(self) -> Array:
        """The metric itself, (requests,)."""
        total = self.seconds.sum(axis=0)
        return np.asarray(total if self.amount is None else self.amount / total)

    def take(self, rows: Any) -> Parted:
        """Return some of the requests."""
        amount = None if self.amount is None else self.amount[rows]
        return Parted(self.seconds[:, rows], amount, self.drift[:, rows])


def _given(work: Serve, name: str, count: int) -> Array:
    value = getattr(work, name)
    return np.broadcast_to(
        np.asarray(np.broadcast_to(value, work.shape) if np.ndim(value) else value, dtype=float).ravel(), (count,)
    )


def drifts(work: Serve, count: int) -> Array:
    """Return the logarithms of batch, mean context while decoding and prompt over their centres, (3, requests)."""
    batch, prompt, output = (_given(work, name, count) for name in ("batch", "prompt", "output"))
    return np.log(np.stack([batch / CENTRE_BATCH, (prompt + output / 2) / CENTRE_TOKENS, prompt / CENTRE_TOKENS]))


def parted(named: Mapping[str, Array], work: Serve, metric: str) -> Parted:
    """Return ``metric`` of predictions as parts.

    Args:
        named: what ``Setting.answer`` returned for ``work``.
        work: the requests.
        metric: one of TIMES or RATES, as ``documents.truth`` defines them; decode_tokens_per_s is of one stream, and the
            first token of a static batch waits for all its prompts.

    Raises:
        UnknownNameError: another metric.
    """
    if metric not in TIMES + RATES:
        raise UnknownNameError("metric to correct by", metric, TIMES + RATES)
    count = len(named["tpot_s"])
    batch, prompt, output, dp = (_given(work, name, count) for name in ("batch", "prompt", "output", "dp"))
    cycle = dp * batch * output / named["tokens_per_s"]
    step = np.minimum(named["decode_time_share"] * cycle / output, named["tpot_s"])
    seconds = np.zeros((PARTS, count))
    shares = [np.stack([named[f"{phase}.share.{k}"] for k in range(COUNT)]) for phase in ("decode", "prefill")]

    def add(decoding: Array | float, filling: Array | float, request: Array | float = 0.0) -> None:
        seconds[DECODE] += shares[0] * decoding
        seconds[PREFILL] += shares[1] * filling
        seconds[REQUEST] += request

    amount: Array | None = None
    static = (batch > 1) & (work.scheduling == "static")
    first = np.where(static, batch * named["prefill_request_s"], named["prefill.seconds"])
    host = np.maximum(named["ttft_s"] - named["prefill.seconds"], 0.0)
    if metric == "tpot_s":
        add(step, named["tpot_s"] - step)
    elif metric in {"ttft_s", LOADED}:
        add(0.0, first, host)
        if metric == LOADED:
            seconds[WAITING] = np.maximum(named[LOADED] - named["ttft_s"], 0.0)
    elif metric == "request_s":
        more = np.maximum(output - 1, 0.0)
        add(more * step, first + more * (named["tpot_s"] - step), host)
    elif metric == "decode_tokens_per_s":
        add(step, 0.0)
        amount = np.ones(count)
    elif metric == "prefill_tokens_per_s":
        add(0.0, first)
        amount = prompt * dp
    else:
        add(output * step, cycle - output * step)
        per_request = {"tokens_per_s": output, "total_tokens_per_s": prompt + output, "requests_per_s": np.ones(count)}
        amount = dp * batch * per_request[metric]
    return Parted(seconds, amount, drifts(work, count))


def log_factors(effects: Array, drift: Array) -> Array:
    """Return the logarithm of the factor on every part, (parts, requests), for ``effects`` (effects,)."""
    factors = np.repeat((MIXING @ effects[: -len(DRIFTS)])[:, None], drift.shape[1], axis=1)
    batch, context, prompt = effects[-len(DRIFTS) :]
    factors[DECODE] += batch * drift[0] + context * drift[1]
    factors[PREFILL] += prompt * drift[2]
    return factors


def with_effects(p: Parted, effects: Array) -> Parted:
    """Return ``p`` with every part times what the effects say."""
    return replace(p, seconds=p.seconds * np.exp(log_factors(effects, p.drift)))


def slopes(p: Parted) -> Array:
    """Return ∂ log t / ∂ effect at parts as they stand, (effects, requests); a rate's time is what it is the inverse of."""
    weights = p.seconds / p.seconds.sum(axis=0)
    decoding, filling = weights[DECODE].sum(axis=0), weights[PREFILL].sum(axis=0)
    return np.vstack([MIXING.T @ weights, decoding * p.drift[0], decoding * p.drift[1], filling * p.drift[2]])


def log_sd(p: Parted, covariance: Array, noise: float) -> Array:
    """Return the standard deviation of log ``p.value``, (requests,): the effects' that matter there, and the noise."""
    along = slopes(p)
    return np.asarray(np.sqrt(np.einsum("ir,ij,jr->r", along, covariance, along) + noise**2))


def corrected(named: Mapping[str, Array], effects: Array, work: Serve) -> dict[str, Array]:
    """Return predictions with every time changed as the effects say; a phase is never faster than its physical floor.

    Memory does not change. No effect (zeros) changes nothing.

    Args:
        named: what an uncorrected ``Setting.answer`` returned for ``work``.
        effects: (effects,), in the order of EFFECTS.
        work: the requests.
    """
    count = len(named["tpot_s"])
    factors = np.exp(log_factors(effects, drifts(work, count)))
    out = dict(named)
    ratio: dict[str, Array] = {}
    spent: dict[str, Array] = {}
    for phase, part in (("decode", DECODE), ("prefill", PREFILL)):
        shares = np.stack([named[f"{phase}.share.{k}"] for k in range(COUNT)])
        changed = shares * factors[part]
        ratio[phase] = np.maximum(changed.sum(axis=0), named[f"{phase}.floor_s"] / named[f"{phase}.seconds"])
        spent[phase] = changed / changed.sum(axis=0)
        out[f"{phase}.seconds"] = named[f"{phase}.seconds"] * ratio[phase]
        out[f"{phase}.mbu"] = named[f"{phase}.mbu"] / ratio[phase]
        out[f"{phase}.mfu"] = named[f"{phase}.mfu"] / ratio[phase]
        out[f"{phase}.bound"] = spent[phase].argmax(axis=0).astype(float)
        out |= {f"{phase}.share.{k}": spent[phase][k] for k in range(COUNT)}
    out |= _times(named, work, ratio, factors)
    return out | _binding(named, spent, ratio)


def _times(named: Mapping[str, Array], work: Serve, ratio: dict[str, Array], factors: Array) -> dict[str, Array]:
    count = len(named["tpot_s"])
    batch, output, dp = (_given(work, name, count) for name in ("batch", "output", "dp"))
    cycle = dp * batch * output / named["tokens_per_s"]
    decoding = named["decode_time_share"] * cycle
    step = np.minimum(decoding / output, named["tpot_s"])
    host = np.maximum(named["ttft_s"] - named["prefill.seconds"], 0.0)
    ttft = (named["ttft_s"] - host) * ratio["prefill"] + host * factors[REQUEST]
    waiting = np.maximum(named[LOADED] - named["ttft_s"], 0.0) * factors[WAITING]
    tpot = step * ratio["decode"] + (named["tpot_s"] - step) * ratio["prefill"]
    longer = decoding * ratio["decode"] + (cycle - decoding) * ratio["prefill"]
    return {
        "ttft_s": ttft,
        "ttft_loaded_s": ttft + waiting,
        "tpot_s": tpot,
        "request_s": ttft + np.maximum(output - 1, 0.0) * tpot,
        "tokens_per_s": named["tokens_per_s"] * cycle / longer,
        "prefill_request_s": named["prefill_request_s"] * ratio["prefill"],
        "decode_time_share": np.where(np.isfinite(longer), decoding * ratio["decode"] / longer, named["decode_time_share"]),
    }  # fmt: skip


def _binding(named: Mapping[str, Array], spent: dict[str, Array], ratio: dict[str, Array]) -> dict[str, Array]:
    """Return what binds over a whole request: each resource's share times how much dearer it became."""
    decoding = named["decode_time_share"]
    shares = np.stack([named[f"share.{k}"] for k in range(COUNT)])
    before = np.stack(
        [
            decoding * named[f"decode.share.{k}"] + (1 - decoding) * named[f"prefill.share.{k}"]
            for k in range(COUNT)
        ]
    )  # fmt: skip
    after = decoding * spent["decode"] * ratio["decode"] + (1 - decoding) * spent["prefill"] * ratio["prefill"]
    changed = shares * np.divide(after, before, out=np.ones_like(before), where=before > 0)
    changed = changed / changed.sum(axis=0)
    verdict = np.where(named["verdict"] == CAPACITY, CAPACITY, changed.argmax(axis=0)).astype(float)
    return {"verdict": verdict, **{f"share.{k}": changed[k] for k in range(COUNT)}}


def corrected_rows(phase: Phase, name: str, correction: Correction, work: Serve, *, before_s: float) -> Phase:
    """Return a corrected phase with its operators corrected too: each by the factor of what binds it.

    Args:
        phase: the phase, its seconds corrected and its operators not.
        name: ``decode`` or ``prefill``.
        correction: what was laid on it.
        work: one request.
        before_s: seconds of the phase before. Operators and the host's time add up to the phase's seconds.
    """
    part = DECODE if name == "decode" else PREFILL
    factor = np.exp(log_factors(shifts_of(correction), drifts(work, 1)))[part, 0]
    changed = [float(row.seconds) * factor[TIME_RESOURCES.index(str(row.bound))] for row in phase.operators]
    host = (
        max(before_s - sum(float(row.seconds) for row in phase.operators), 0.0)
        * factor[TIME_RESOURCES.index("overhead")]
    )
    scale = float(phase.seconds) / (sum(changed) + host)
    rows = (replace(row, seconds=float(each * scale)) for row, each in zip(phase.operators, changed, strict=True))
    return replace(phase, operators=tuple(rows))


def spreads(setting: Setting, named: Mapping[str, Array], work: Serve) -> dict[str, Array]:
    """Return the factor by which each interval reaches to both sides, (requests,): the evidence's, or the correction's."""
    count, correction = len(named["tpot_s"]), setting.correction
    metrics = ("tpot_s", "ttft_s", "request_s", "tokens_per_s")
    if correction is None:
        known = setting.evidence
        return {name: np.full(count, known.ttft_spread if name == "ttft_s" else known.tpot_spread) for name in metrics}
    covariance = np.array(correction.covariance)
    return {
        name: np.exp(Z80 * log_sd(parted(named, work, name), covariance, correction.noise)) for name in metrics
    }  # fmt: skip


def floor_s(named: Mapping[str, Array], p: Parted) -> Array:
    """Return the least the parts can physically add up to [s], (requests,).

    Decoding and prefill of other requests may overlap, so the longer of their floors counts, not the sum; host time and
    waiting have no floor.
    """
    least = [
        p.seconds[part].sum(axis=0) * named[f"{phase}.floor_s"] / named[f"{phase}.seconds"]
        for phase, part in (("decode", DECODE), ("prefill", PREFILL))
    ]
    return np.asarray(np.maximum(*least))


SAME = ("weights", "kv", "activations", "attention", "disaggregated", "tp", "pp", "ep", "draft_tokens")
"""What makes a deployment, besides model, device and engine; batch and lengths may differ, replicas do not matter."""


def deployment_of(setting: Setting, work: Serve) -> dict[str, float | str]:
    """Return what makes ``work`` the deployment it is, formats spelled out.

    Raises:
        RequestError: several deployments are asked for at once, or a model that does not decode tokens.
    """
    if setting.table.kind != "decoder":
        raise RequestError(
            "corrections are of models that decode tokens", place="model", mend="leave the correction out"
        )
    found: dict[str, float | str] = {}
    for name in SAME:
        values = np.unique(np.asarray(getattr(work, name)))
        if len(values) > 1:
            raise RequestError(
                f"a correction is of one deployment, and {len(values)} values of {name} are asked for", place=name,
                mend="ask for each apart",
            )  # fmt: skip
        value = values[0].item()
        found[name] = value if isinstance(value, str) else float(value)
    products = setting.table.products
    stored = {s for s, role in zip(products.stored, products.roles, strict=True) if role != "head"}
    if found["weights"] == "auto" and len(stored) == 1:
        found["weights"] = stored.pop()
    if found["kv"] == "auto":
        found["kv"] = setting.architecture.dtype if setting.architecture.dtype != "fp32" else "fp16"
    return found


def check_same(correction: Correction, setting: Setting, work: Serve) -> None:
    """Raise RequestError unless ``work`` on ``setting`` is the deployment the correction was made on."""
    asked = {
        "model": setting.architecture.name, "machine": setting.machine.device.id, "engine": setting.engine.name,
        **deployment_of(setting, work),
    }  # fmt: skip
    made = {
        "model": correction.model, "machine": correction.machine, "engine": correction.engine, **correction.deployment,
    }  # fmt: skip
    for name, value in asked.items():
        if made.get(name) != value:
            raise RequestError(
                f"the correction {correction.id} was made with {name} {_shown(made.get(name))}, the estimate is for {_shown(value)}",
                place=name, mend="measure this deployment too, or leave the correction out",
            )  # fmt: skip
    if correction.grade != setting.grade:
        raise RequestError(
            f"the correction {correction.id} was made on {correction.grade} predictions, and these are {setting.grade}",
            place="correction", mend="use one of the two",
        )  # fmt: skip
    names = tuple(effect.name for effect in correction.effects)
    if names != EFFECTS or np.shape(correction.covariance) != (len(EFFECTS), len(EFFECTS)):
        raise RequestError(
            f"the correction {correction.id} names other effects than this version of bytebound", place="correction",
            mend="make it again with `bytebound calibrate`",
        )  # fmt: skip


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def shifts_of(correction: Correction) -> Array:
    """Return the effects of a correction, (effects,)."""
    return np.array([effect.log_shift for effect in correction.effects])


def correcting(setting: Setting, correction: Correction, work: Serve) -> Setting:
    """Return ``setting`` with the correction laid on it.

    Raises:
        RequestError: made on another model, machine, engine, format or degree of parallelism.
    """
    check_same(correction, setting, work)
    moved = [e for e in correction.effects if abs(e.log_shift) > 0.01]
    items = tuple(
        Provenance(
            f"{e.name} ×{np.exp(e.log_shift):.2f} (±{100 * e.log_sd:.0f} %)", "measured",
            f"correction {correction.id} from {len(correction.points)} measured point{'s' if len(correction.points) > 1 else ''}, {correction.when}",
        )
        for e in moved
    )  # fmt: skip
    evidence = replace(setting.evidence, provenance=(*items, *setting.evidence.provenance))
    return replace(setting, correction=correction, evidence=evidence, grade="corrected")

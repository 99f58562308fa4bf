"""Lay a correction on predictions: the seconds of each resource, times what a run of this deployment showed they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.values import Provenance
from bytebound.errors import RequestError
from bytebound.predict.parts import (
    COUNT,
    DECODE,
    EFFECTS,
    LOADED,
    PREFILL,
    REQUEST,
    WAITING,
    Z80,
    column,
    drifts,
    log_factors,
    log_sd,
    most_spread,
    parted,
    surprise,
)
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
    batch, output, dp = (column(work, name, count) for name in ("batch", "output", "dp"))
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
    known = setting.evidence
    base = dict.fromkeys(("tpot_s", "ttft_s", "request_s", "tokens_per_s"), known.tpot_spread) | {
        "ttft_s": known.ttft_spread
    }
    if correction is None:
        return {name: np.full(count, spread) for name, spread in base.items()}
    covariance, surprised = np.array(correction.covariance), surprised_by(correction)
    return {
        name: np.minimum(
            np.exp(Z80 * log_sd(parted(named, work, name), covariance, correction.noise)), most_spread(spread, surprised)
        )
        for name, spread in base.items()
    }  # fmt: skip


def surprised_by(correction: Correction) -> float:
    """Return how far a correction's points lay from what was predicted of them, see ``parts.surprise``."""
    points = correction.points
    return surprise(
        np.array([p.measured for p in points]), np.array([p.before.value for p in points]),
        np.array([p.before.high / p.before.value for p in points]),
    )  # fmt: skip


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

"""Lay a calibration on a setting: the engine's probed costs take the place of shares from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.values import Provenance
from bytebound.errors import RequestError, UnknownNameError
from bytebound.ledger.precision import streamed
from bytebound.predict.ceilings import Evidence
from bytebound.predict.roofline import Costs, Points

if TYPE_CHECKING:
    from bytebound.documents.calibration import Calibration, FormatCost
    from bytebound.documents.values import Text
    from bytebound.ledger.table import OpTable
    from bytebound.predict.estimate import Setting

MODEL_ERROR, PREFILL_ERROR = 0.08, 0.20
"""Relative half-width that stays with a quiet calibration, decode and prefill. Source: validation/calibration.py, the misses
of SmolLM2-135M and two random-weight shapes in three formats, four depths, flash attention on and off."""
FAR_WIDTH = 2.0
"""A calibration made at more than twice or under half the model's width is said to be far from it: small matrices run slower."""


def calibrated(setting: Setting, calibration: Calibration, weights: Text) -> Setting:
    """Return ``setting`` with the engine's costs as probed here.

    Args:
        setting: the question, on the machine the calibration was made on.
        calibration: the probes' costs.
        weights: the weight format asked for, or ``auto``.

    Raises:
        RequestError: made for another machine or engine, or several weight formats are asked for at once.
        UnknownNameError: a weight format that was not probed.
    """
    if not isinstance(weights, str):
        raise RequestError(
            "a calibrated estimate is of one weight format at a time", place="weights", mend="ask for each format apart",
        )  # fmt: skip
    device = setting.machine.device.id
    if calibration.machine not in {device, "here"}:
        raise RequestError(
            f"the calibration was made on {calibration.machine}, the estimate is for {device}", place="calibration",
            mend="calibrate on the machine itself",
        )  # fmt: skip
    if calibration.engine != setting.engine.name:
        raise RequestError(
            f"the calibration is of {calibration.engine}, the estimate is for {setting.engine.name}",
            place="calibration", mend=f"say --engine {calibration.engine}",
        )  # fmt: skip
    costs = _costs(calibration, setting.table, weights)
    step = calibration.s_per_step + calibration.s_per_layer * float(setting.table.layers)
    attention = calibration.attention
    return replace(
        setting,
        ceilings=replace(
            setting.ceilings,
            decode=replace(costs, s_per_pair=0.0),
            prefill=replace(costs, attention=Points(np.zeros(1), np.zeros(1))),
        ),
        overheads=replace(
            setting.overheads, host_s_per_step=step, host_s_per_sequence=0.0, launch_s_decode=0.0, launch_s_prefill=0.0
        ),
        evidence=_evidence(setting, calibration, float(attention.s_per_pair)),
        grade="calibrated",
    )


def _costs(calibration: Calibration, table: OpTable, weights: str) -> Costs:
    """Return the curves of the model's own mix of formats: seconds per byte, weighted by the bytes in each."""
    read = streamed(table, weights)
    body = _mixed({_cost(calibration, part, name): found for (part, name), found in read.items() if part == "body"})
    tail = body
    for (part, name), found in read.items():
        if part == "head":
            cost = _cost(calibration, part, name)
            tail = _mixed({cost: found})
            if len(cost.tokens) == 1:  # timed for one token; more of them cost what they cost in the body
                denser = tail.at[0] / body.at[0]  # FLOP per byte of one token: formats differ
                tail = Points(body.at * denser, body.value * cost.s_per_byte[0] / body.value[0])
    attention = calibration.attention
    return Costs(body, tail, Points(np.array(attention.depth), np.array(attention.s_per_query)), attention.s_per_pair)


def _cost(calibration: Calibration, part: str, name: str) -> FormatCost:
    same = [cost for cost in calibration.formats if cost.weights == name]
    found = next((cost for cost in same if cost.part == part), None) or next(iter(same), None)
    if found is None:
        raise UnknownNameError(
            f"format in this calibration ({part})", name, [cost.weights for cost in calibration.formats],
            place="--weights", mend="calibrate for this model, or name a format that was probed",
        )  # fmt: skip
    return found


def _mixed(read: dict[FormatCost, tuple[float, float]]) -> Points:
    """Return seconds per byte by FLOP per byte (2 × tokens × elements per byte), mixed by the bytes of each format."""
    tokens = np.unique(np.concatenate([np.array(cost.tokens, dtype=float) for cost in read]))
    size, elements = (sum(found[i] for found in read.values()) for i in range(2))
    value = sum(
        found[0] / size * Points(np.array(cost.tokens, dtype=float), np.array(cost.s_per_byte)).along(tokens)
        for cost, found in read.items()
    )
    return Points(2 * tokens * elements / size, np.asarray(value))


def _evidence(setting: Setting, calibration: Calibration, s_per_pair: float) -> Evidence:
    width = setting.table.hidden
    probed = float(calibration.shape.get("width", width))
    far = max(width / probed, probed / width)
    decode = 1 + float(np.hypot(MODEL_ERROR, calibration.spread)) * (1.0 if far <= FAR_WIDTH else 2.0)
    prefill = 1 + float(np.hypot(PREFILL_ERROR, calibration.spread)) * (1.0 if far <= FAR_WIDTH else 2.0)
    items = [
        Provenance(
            f"{cost.part} products in {cost.weights}: {1 / cost.s_per_byte[0] / 1e9:.1f} GB/s for one token",
            "calibrated",
            f"calibration {calibration.id}, {calibration.engine} {calibration.engine_version}, {calibration.when}",
        )
        for cost in calibration.formats
    ]
    deepest, last = calibration.attention.depth[-1], calibration.attention.s_per_query[-1]
    items.append(
        Provenance(
            f"attention: {last / max(deepest, 1) * 1e9:.2f} ns per query head and token decoding, {s_per_pair * 1e9:.2f} ns "
            f"per pair in prefill; flash attention {calibration.attention.flash}",
            "calibrated",
            f"calibration {calibration.id}, {calibration.samples} samples, {calibration.disturbed:.0%} disturbed by other load",
        )
    )
    if far > FAR_WIDTH:
        items.append(
            Provenance(
                f"calibrated at a width of {probed:g}, the model's is {width:g}: interval doubled",
                "assumed",
                "small matrices run slower",
            )
        )
    return Evidence(decode, prefill, setting.evidence.energy_spread, (*items, *setting.evidence.provenance[-1:]))

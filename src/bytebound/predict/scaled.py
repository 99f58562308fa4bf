"""On a measured machine, shares are of the measured ceiling: engine and format efficiencies seen on other machines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.values import Provenance
from bytebound.facts.engine_shares import engine_share
from bytebound.ledger.ledger import ATTENTION, CONTEXT, EXPERT, GEMM
from bytebound.ledger.precision import streamed

if TYPE_CHECKING:
    from bytebound.facts.engine_shares import EngineShare
    from bytebound.predict.ceilings import Evidence
    from bytebound.predict.estimate import Setting

DATASHEET_OVER_MEASURED = 1.15
"""A read ceiling is 80 to 93 % of the datasheet's bandwidth (assumed midpoint); where an engine has no share of a measured
ceiling, its share of a datasheet's is raised by this, to 1 at most."""


def scaled(setting: Setting, weights: str, attention: str) -> Setting:
    """Return ``setting`` with shares of the measured ceiling, where the machine was measured; unchanged where it was not.

    Args:
        setting: the question.
        weights: the weight format asked for, or ``auto``.
        attention: ``flash`` or ``eager``.
    """
    device = setting.machine.device
    if device.memory_bytes_per_s.how != "measured":
        return setting
    c = setting.ceilings
    mix: dict[str, float] = {}
    for (_, name), (size, _elements) in streamed(setting.table, weights).items():
        mix[name] = mix.get(name, 0.0) + size
    found = {name: engine_share(setting.engine.name, device.kind, name) for name in mix}
    attending = engine_share(setting.engine.name, device.kind, f"attention-{attention}")
    share = np.minimum(np.array(c.memory_share, dtype=float) * DATASHEET_OVER_MEASURED, 1.0)
    known = {name: each for name, each in found.items() if each is not None}
    if len(known) < len(mix):  # a mix with an unknown part is not known
        known = {}
    if known:
        share[[GEMM, EXPERT]] = sum(mix.values()) / sum(size / known[name].value for name, size in mix.items())
    if attending is not None:
        share[[ATTENTION, CONTEXT]] = attending.value
    parts = {**{f"{name} products": each for name, each in known.items()}, "attention": attending}
    return replace(
        setting,
        ceilings=replace(c, memory_share=share),
        evidence=_evidence(setting.evidence, {name: each for name, each in parts.items() if each is not None}),
    )


def _evidence(before: Evidence, parts: dict[str, EngineShare]) -> Evidence:
    if not parts:
        return before
    products = [each for name, each in parts.items() if name != "attention"]
    widest = max((max(each.value / each.low, each.high / each.value) for each in products), default=before.tpot_spread)
    items = tuple(
        Provenance(
            f"{name}: {each.value:.0%} of the measured read ceiling ({each.low:.0%} to {each.high:.0%})",
            each.how,
            each.source,
        )
        for name, each in parts.items()
    )
    return replace(before, tpot_spread=max(widest, 1.2), provenance=(*items, *before.provenance))

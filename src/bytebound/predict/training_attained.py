"""What a training framework attains on a device: published shares and assumed times, corrected by what was fitted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bytebound.facts.efficiency import efficiency
from bytebound.facts.training_shares import (
    FRAMEWORK_TRAFFIC,
    HELD,
    NEWER,
    PORTABLE_ATTENTION,
    SHARES,
    STARTS,
    UNTHROTTLED_W_PER_FLOP_S,
    training_offsets,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.device import Device
    from bytebound.facts.calibration import Key, Offset

CLEAR = 1e-3
"""Shares are kept this far from 0 and 1."""


class _Asked(NamedTuple):
    """What attained shares depend on; ``powered`` is power over what full clocks need, at most 1."""

    family: str
    kind: str
    framework: str
    narrow: str
    powered: float


@dataclass(frozen=True, slots=True)
class TrainingAttained:
    """Shares of ceilings (0 to 1), factors and times [s] of one framework on one family; see ``facts.training_shares``."""

    gemm: float
    gemm_narrow: float
    expert: float
    expert_narrow: float
    attention: float
    attention_backward: float
    gemm_memory: float
    memory: float
    scaleup: float
    scaleout: float
    tensorwise: float
    tensor_exposed: float
    experts_exposed: float
    gemm_edge: float
    attention_edge: float
    attention_narrow: float
    traffic: float
    launch_s: float
    expert_s: float
    step_s: float
    hop_s: float
    collective_s: float
    growth: float


def attained_in_training(
    device: Device, framework: str, narrow: str = "", fitted: Mapping[Key, Offset] | None = None
) -> TrainingAttained:
    """Return what ``framework`` attains on ``device``.

    Args:
        device: what it runs on.
        framework: of the run (``documents.work.FRAMEWORKS``).
        narrow: ``fp8`` or ``fp4`` where products of layers run in it, else empty.
        fitted: offsets to use; None: the shipped ones.
    """
    bf16 = device.flop_per_s.get("bf16")
    powered = device.power_w.value / bf16.value / UNTHROTTLED_W_PER_FLOP_S if bf16 and device.power_w else 1.0
    asked = _Asked(device.family, device.kind, framework, narrow, min(powered, 1.0))
    return _shipped(asked) if fitted is None else _attained(asked, fitted)


@lru_cache(maxsize=512)
def _shipped(asked: _Asked) -> TrainingAttained:
    return _attained(asked, training_offsets())


def training_terms(operator: str, quantity: str, *, family: str, kind: str, framework: str) -> tuple[Key, ...]:
    """Return the keys of the offsets that correct one quantity; a key without a fitted row counts 0."""
    common = efficiency(family, kind).pool if (operator, quantity) == ("gemm", "share") else "all"
    keys = [(common, operator, quantity)]
    if (operator, quantity) in BY_FAMILY:
        keys.append((family, operator, quantity))
    if (operator, quantity) in BY_FRAMEWORK:
        keys.append((f"framework:{framework}", operator, quantity))
    return tuple(keys)


BY_FAMILY = frozenset({("gemm", "share"), ("narrow", "fp8"), ("narrow", "fp4"), ("scaleout", "share")})
"""Quantities a device family has an offset of its own for."""
BY_FRAMEWORK = frozenset({("attention", "share"), ("elementwise", "traffic"), ("scaleout", "share")})
"""Quantities a framework has an offset of its own for."""


def training_keys(device: Device, framework: str, narrow: str) -> dict[tuple[str, str], tuple[Key, ...]]:
    """Return what a step time depends on and published runs tell: operator and quantity -> keys of the offsets that correct it."""
    asked = dict.fromkeys((*STARTS, *SHARES, *BY_FAMILY, *BY_FRAMEWORK))
    return {
        one: training_terms(*one, family=device.family, kind=device.kind, framework=framework)
        for one in asked if one not in HELD and (one[0] != "narrow" or one[1] == narrow)
    }  # fmt: skip


def _attained(asked: _Asked, fitted: Mapping[Key, Offset]) -> TrainingAttained:
    family, kind, framework, narrow, powered = asked
    published = efficiency(family, kind)

    def offset(operator: str, quantity: str) -> float:
        keys = training_terms(operator, quantity, family=family, kind=kind, framework=framework)
        return sum(fitted[key].offset for key in keys if key in fitted)

    def share(odds: float) -> float:
        return float(np.clip(1 / (1 + np.exp(-odds)), CLEAR, 1 - CLEAR))

    def start(operator: str, quantity: str) -> float:
        found = SHARES.get((operator, quantity))
        return (found.value if found else 0.0) + offset(operator, quantity)

    def amount(operator: str, quantity: str) -> float:
        return STARTS[operator, quantity].value * float(np.exp(offset(operator, quantity)))

    gemm = _odds(published.of("gemm", "compute_share").value) + start("gemm", "share")
    gemm += start("gemm", "power") * float(np.log(powered))
    slower = start("narrow", narrow) if narrow else 0.0
    expert = start("expert", "share")
    attention = _odds(published.of("attention-prefill", "compute_share").value) + start("attention", "share")
    if framework in PORTABLE_ATTENTION and family in NEWER:
        attention += start("attention", "portable")
    return TrainingAttained(
        gemm=share(gemm),
        gemm_narrow=share(gemm + slower),
        expert=share(gemm + expert),
        expert_narrow=share(gemm + slower + expert),
        attention=share(attention),
        attention_backward=share(attention + start("attention", "backward")),
        gemm_memory=published.of("gemm", "bandwidth_share").value,
        memory=published.of("elementwise", "bandwidth_share").value,
        scaleup=share(_odds(published.of("collective", "link_share").value) + start("scaleup", "share")),
        scaleout=share(start("scaleout", "share")),
        tensorwise=share(start("tensorwise", "share")),
        tensor_exposed=share(start("tensor", "exposed")),
        experts_exposed=share(start("experts", "exposed")),
        gemm_edge=amount("gemm", "edge"),
        attention_edge=amount("attention", "edge"),
        attention_narrow=amount("attention", "narrow"),
        traffic=amount("elementwise", "traffic") * FRAMEWORK_TRAFFIC[framework],
        launch_s=amount("host", "launch_s"),
        expert_s=amount("host", "expert_s"),
        step_s=amount("host", "step_s"),
        hop_s=amount("network", "hop_s"),
        collective_s=published.of("collective", "floor_s").value,
        growth=amount("network", "growth"),
    )


def _odds(share: float) -> float:
    kept = np.clip(share, CLEAR, 1 - CLEAR)
    return float(np.log(kept / (1 - kept)))

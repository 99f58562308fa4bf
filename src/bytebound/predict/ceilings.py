"""From a Machine to the ceilings predictions run on, and how much evidence stands behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.values import Provenance
from bytebound.errors import RequestError
from bytebound.facts.calibration import offsets
from bytebound.facts.efficiency import efficiency
from bytebound.facts.intervals import half_width, seen
from bytebound.ledger.ledger import ATTENTION, GEMM, MATH
from bytebound.predict.attained import attained, terms
from bytebound.predict.roofline import Ceilings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.device import Device, Machine
    from bytebound.facts.calibration import Key, Offset

FALLBACKS = {
    "fp32": ("fp32", "tf32", "bf16", "fp16"),
    "bf16": ("bf16", "fp16", "fp32"),
    "fp16": ("fp16", "bf16", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "fp32"),
    "fp4": ("fp4", "fp8", "bf16", "fp16", "fp32"),
    "int8": ("int8", "bf16", "fp16", "fp32"),
}
"""Where a device lacks a dtype, the product is done in the next one here (dequantized first)."""

CROSS_NODE_LATENCY_S = 2e-5
"""Latency of one network step between nodes; assumed, a few times an in-node collective's floor."""
ETHERNET_BYTES_PER_S = 1.25e9
"""What joins devices of unknown network: 10 Gb/s Ethernet, assumed and slow on purpose."""
SPREADS = {"kind": (1.8, 2.2), "generic": (2.2, 2.8)}
"""Least factors of the 80 % interval of TPOT and TTFT on families no measured row is of, by how near the published shares are
(assumed)."""
ENERGY_SPREAD = 1.5
"""Factor of the 80 % interval of energy (assumed)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How wide the intervals are, and why."""

    tpot_spread: float
    ttft_spread: float
    energy_spread: float
    provenance: tuple[Provenance, ...]


def ceilings_of(machine: Machine, engine: str, fitted: Mapping[Key, Offset] | None = None, era: str = "") -> Ceilings:
    """Return the ceilings of one device of ``machine`` as ``engine`` attains them (``fitted`` None: the shipped offsets).

    Without a scale-up link devices talk over the host link; without a stated host link (unified memory) host transfers run
    at memory speed; without a stated network they run at 10 Gb/s, and the estimate says so.
    """
    device, per_node, nodes = machine.device, machine.per_node, machine.nodes
    found = attained(device.family, device.kind, engine, fitted, era)
    host = device.host_bytes_per_s.value if device.host_bytes_per_s else None
    scaleup = device.scaleup_bytes_per_s.value if device.scaleup_bytes_per_s else None
    scaleout = device.scaleout_bytes_per_s.value if device.scaleout_bytes_per_s else ETHERNET_BYTES_PER_S
    inside = scaleup if scaleup is not None else (host if host is not None else ETHERNET_BYTES_PER_S)
    reach = device.scaleup_devices if scaleup is not None else per_node
    domain = per_node if nodes > 1 or scaleup is None else min(max(reach, 1), max(per_node, 1))
    return Ceilings(
        memory_bytes=np.asarray(device.memory_bytes.value),
        memory_bytes_per_s=np.asarray(device.memory_bytes_per_s.value),
        flop_per_s=np.array([_rate(device, dtype) for dtype in MATH]),
        compute_share=found.compute_share,
        memory_share=found.memory_share,
        floor_s=found.floor_s,
        scaleup_bytes_per_s=np.asarray(inside),
        scaleout_bytes_per_s=np.asarray(scaleout),
        host_bytes_per_s=np.asarray(host if host is not None else device.memory_bytes_per_s.value),
        domain=np.asarray(float(domain)),
        link_share=np.asarray(found.link_share),
        scaleout_floor_s=np.asarray(CROSS_NODE_LATENCY_S),
    )


def _rate(device: Device, dtype: str) -> float:
    for name in FALLBACKS[dtype]:
        if name in device.flop_per_s:
            return device.flop_per_s[name].value
    raise RequestError(
        f"{device.id} states no matrix rate for {dtype} or wider",
        place=device.id,
        mend="give bf16 or fp32 in a machine file",
    )


def evidence_of(device: Device, engine: str, kind: str, era: str = "") -> Evidence:
    """Return how wide the intervals of predictions on ``device`` are, with the sources of what kernels attain.

    Args:
        device: the device.
        engine: our engine name.
        kind: of the model (``ledger.table.model_kind``).
        era: of the engine.
    """
    published = efficiency(device.family, device.kind)
    reached = attained(device.family, device.kind, engine, era=era)
    parts = (
        ("gemm", "compute_share", reached.compute_share[GEMM, 0]), ("gemm", "bandwidth_share", reached.memory_share[GEMM, 0]),
        ("attention-decode", "bandwidth_share", reached.memory_share[ATTENTION, 0]),
    )  # fmt: skip
    fitted = offsets()
    rows = max((fitted[key].rows for key in terms(device.family, device.kind, engine, "gemm", "bandwidth_share", era=era)
                if key in fitted), default=0)  # fmt: skip
    items = []
    for operator, quantity, value in parts:
        share = published.of(operator, quantity)
        items.append(Provenance(
            f"attainable share, {operator} {quantity.split('_')[0]} {value:.2f}; published {share.value:.2f} "
            f"({share.low:.2f}–{share.high:.2f}), {share.origin}",
            "calibrated" if rows else share.how,
            f"fitted to {rows} measured rows (docs/accuracy.md); {share.source}" if rows else share.source,
        ))  # fmt: skip
    named = {"device": device.id, "family": device.family, "engine": engine}
    unseen = tuple(what for what, name in named.items() if not seen(what, name))
    tpot = math.exp(
        half_width("decode", engine=engine, family=device.family, kind=kind, regime="closed-loop", unseen=unseen)
    )
    ttft = math.exp(
        half_width("first", engine=engine, family=device.family, kind=kind, regime="prefill", unseen=unseen)
    )
    if "family" in unseen:
        level = "generic" if published.level == "generic" else "kind"
        tpot, ttft = max(tpot, SPREADS[level][0]), max(ttft, SPREADS[level][1])
    without = f"; no measured row of this {', '.join(unseen)}" if unseen else ""
    items.append(Provenance(
        f"interval ×/÷ {tpot:.2f} (TPOT), {ttft:.2f} (TTFT), 80 %{without}", "calibrated",
        "residuals of predictions that had not seen their rows (docs/accuracy.md)",
    ))  # fmt: skip
    items.append(
        Provenance(
            "energy",
            "calibrated",
            "power of 343 runs of ML.ENERGY v3 on H100 and B200 (ml-energy/leaderboard@0cd52da); other devices taken to be alike, and the interval ×/÷ 1.5, assumed",
        )
    )
    if device.scaleout_bytes_per_s is None:
        items.append(Provenance("network between nodes", "assumed", "none stated for this device; 10 Gb/s"))
    return Evidence(tpot, ttft, ENERGY_SPREAD, tuple(items))

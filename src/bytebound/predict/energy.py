"""Energy of a prediction: static power over time plus bytes and FLOPs, never above the board's limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.device import Device

    Array = NDArray[Any]

STATIC_SHARE, MEMORY_SHARE, COMPUTE_SHARE = 0.15, 0.5, 0.8
"""Shares of board power: drawn whatever is done, by memory at full bandwidth, by the matrix units at full rate. Assumed;
with them an H100 decoding Llama-3-8B at batch 1 and 64 draws 346 and 436 W, an A100 193 and 269 W, where Argonne's
LLM-Inference-Bench (argonne-lcf/LLM-Inference-Bench@4211f5d) averaged 363, 455, 229 and 316 W: 4 to 16 % low."""


def energy_j(device: Device, named: dict[str, Array], devices: NDArray[Any]) -> Array | None:
    """Return joules per output token over all devices, (requests,); None where board power is not known.

    ``P = min(1, static + memory × bandwidth in use + compute × rate in use) × board power`` in each phase.
    """
    if device.power_w is None:
        return None
    board = device.power_w.value
    bandwidth = device.memory_bytes_per_s.value
    power = {}
    for phase in ("decode", "prefill"):
        moved = named[f"{phase}.weight_bytes"] + named[f"{phase}.kv_bytes"] + named[f"{phase}.activation_bytes"]
        in_use = moved / named[f"{phase}.seconds"] / bandwidth
        power[phase] = board * np.minimum(
            STATIC_SHARE + MEMORY_SHARE * in_use + COMPUTE_SHARE * named[f"{phase}.mfu"], 1.0
        )
    share = named["decode_time_share"]
    mean = share * power["decode"] + (1 - share) * power["prefill"]
    return np.asarray(mean * np.asarray(devices, dtype=float).ravel() / named["tokens_per_s"])

"""Energy of a prediction: power of a board at work, higher the more bytes and FLOPs it does, never above its limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.device import Device

    Array = NDArray[Any]

BUSY_SHARE = 0.60
"""Share of board power drawn as long as work is queued, however little of it moves bytes: clocks are up and kernels wait."""
MEMORY_RISE, COMPUTE_RISE = 0.34, 7.7
"""How fast power nears the board's limit with bandwidth in use and with the rate of the matrix units in use.

The three are fitted to 343 runs of ML.ENERGY v3 (ml-energy/leaderboard@0cd52da; H100 and B200, 14 models, vLLM, mean GPU power)
at their measured speed: mean error of power 13 % for models the fit had not seen, where the assumed straight line before it
(0.15 + 0.5 of bandwidth + 0.8 of rate) was 50 % low. Runs of infilling were left out, their prompts being unknown. Argonne's
averages of Llama-3-8B at batch 1 and 64 (argonne-lcf/LLM-Inference-Bench@4211f5d: 363 and 455 W on an H100, 229 and 316 W on an
A100), which the fit has not seen, are 14 to 25 % under the prediction. Other kinds of device are taken to be alike (assumed)."""


def drawn(bandwidth_share: Array, rate_share: Array) -> Array:
    """Return the share of board power drawn by devices at work, between ``BUSY_SHARE`` and 1.

    ``1 − (1 − busy) exp(−memory × bandwidth in use − compute × rate in use)``: power limits hold boards below their rating.

    Args:
        bandwidth_share: bytes moved per second over the datasheet's bandwidth.
        rate_share: FLOP/s over the peak of their dtype.

    Example:
        >>> float(drawn(np.array(0.0), np.array(0.0))), bool(drawn(np.array(0.8), np.array(0.0)) < 0.75)
        (0.6, True)
    """
    return np.asarray(1 - (1 - BUSY_SHARE) * np.exp(-MEMORY_RISE * bandwidth_share - COMPUTE_RISE * rate_share))


def energy_j(device: Device, named: dict[str, Array], devices: NDArray[Any]) -> Array | None:
    """Return joules per output token over all devices, (requests,); None where board power is not known.

    Each phase draws its own share of board power (``drawn``) for its share of the time; ``named`` are columns of
    ``predict.answers``, ``devices`` those of the deployment.
    """
    if device.power_w is None:
        return None
    board = device.power_w.value
    bandwidth = device.memory_bytes_per_s.value
    power = {}
    for phase in ("decode", "prefill"):
        moved = named[f"{phase}.weight_bytes"] + named[f"{phase}.kv_bytes"] + named[f"{phase}.activation_bytes"]
        in_use = moved / named[f"{phase}.seconds"] / bandwidth
        power[phase] = board * drawn(in_use, named[f"{phase}.mfu"])
    share = named["decode_time_share"]
    mean = share * power["decode"] + (1 - share) * power["prefill"]
    return np.asarray(mean * np.asarray(devices, dtype=float).ravel() / named["tokens_per_s"])

"""The named numbers of a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger.ledger import MATH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.ledger.ledger import Ledger
    from bytebound.predict.prediction import Prediction
    from bytebound.predict.roofline import Ceilings, Timing

    Array = NDArray[Any]


def columns(p: Prediction, ceilings: Ceilings) -> dict[str, Array]:
    """Return the named numbers of a prediction; what does not fit has no speed (NaN)."""
    fits = p.residence.fits
    blank = np.where(fits, 1.0, np.nan)
    named: dict[str, Array] = {
        "ttft_s": p.ttft_s * blank,
        "tpot_s": p.tpot_s * blank,
        "request_s": p.request_s * blank,
        "tokens_per_s": p.tokens_per_s * blank,
        "prefill_request_s": p.prefill_request_s * blank,
        "decode_time_share": p.decode_time_share,
        "ttft_loaded_s": (p.ttft_s + p.queue_s) * blank,
        "verdict": np.asarray(p.verdict, dtype=float),
        "weights_bytes": p.residence.weights,
        "kv_bytes": p.residence.kv,
        "activation_bytes": p.residence.activations,
        "reserve_bytes": p.residence.reserve,
        "total_bytes": p.residence.total,
        "usable_bytes": p.residence.usable,
        "kv_bytes_per_token": p.residence.kv_per_token,
        "max_kv_tokens": p.residence.max_kv_tokens,
        "fits": np.asarray(fits, dtype=float),
    }
    for phase, timing, ledger in (("decode", p.decode, p.decode_ledger), ("prefill", p.prefill, p.prefill_ledger)):
        named |= {f"{phase}.{name}": value for name, value in _phase(timing, ledger, ceilings).items()}
    share = p.spent / p.spent.sum(axis=0)
    named |= {f"share.{index}": value for index, value in enumerate(share)}
    return named


def _phase(timing: Timing, ledger: Ledger, ceilings: Ceilings) -> dict[str, Array]:
    flops, weight, kv = ledger.total("flops"), ledger.total("weight_bytes"), ledger.total("kv_bytes")
    activation = ledger.total("activation_bytes")
    moved = weight + kv + activation
    peak = ceilings.flop_per_s
    rate = np.take(peak, ledger.math, axis=0) if peak.ndim == 1 else np.take(peak, MATH.index("bf16"), axis=0)
    at_peak = (ledger.flops * ledger.repeat / rate).sum(axis=0)
    total = timing.total
    bound = timing.spent.argmax(axis=0)
    named = {
        "seconds": total,
        "floor_s": timing.floor_s,
        "flops": flops,
        "weight_bytes": weight,
        "kv_bytes": kv,
        "activation_bytes": activation,
        "network_bytes": ledger.total("network_bytes"),
        "intensity": flops / np.maximum(moved, 1e-300),
        "mbu": (weight + kv) / total / ceilings.memory_bytes_per_s,
        "mfu": at_peak / total,
        "bound": np.asarray(bound, dtype=float),
    }
    share = timing.spent / total
    named |= {f"share.{index}": value for index, value in enumerate(share)}
    return named

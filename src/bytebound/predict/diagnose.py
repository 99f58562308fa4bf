"""What binds a *measured* step. Low bandwidth use alone does not mean bandwidth-bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bytebound.errors import QuantityError
from bytebound.predict.estimate import operator_times, settle

if TYPE_CHECKING:
    from bytebound.documents.architecture import Architecture
    from bytebound.documents.device import Machine
    from bytebound.documents.work import Serve

NEAR, FAR = 1.25, 1.6
"""A step within 1.25 of its longest ideal time is bound by that resource; beyond 1.6 it is bound by overhead, latency or
scheduling, whatever its bandwidth use. Source: roofline position with both utilisations (Williams et al. 2009; OLCF user
guide's 60 % practice rule: 1 / 0.6 = 1.67)."""
SAME = 0.97
"""A step this close under an ideal time is at it: ceilings are measured to a few per cent."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict on a measured step, with the numbers behind it.

    ``residual`` is measured time over the longest ideal time; ``mbu`` and ``mfu`` are against datasheet ceilings.
    """

    verdict: str
    residual: float
    mbu: float
    mfu: float
    ideal_compute_s: float
    ideal_memory_s: float
    ideal_network_s: float
    sentence: str


def diagnose(
    model: str | Architecture,
    machine: str | Machine,
    work: Serve,
    *,
    step_s: float,
    phase: Literal["decode", "prefill"] = "decode",
) -> Diagnosis:
    """Return what binds a step of ``phase`` that was measured to take ``step_s`` seconds.

    Raises:
        QuantityError: the time is not positive, or under the physical floor (the measurement or the request is wrong).
    """
    if not (np.isfinite(step_s) and step_s > 0):
        raise QuantityError(f"a step cannot take {step_s} s", place="step_s", mend="give a positive time in seconds")
    setting = settle(model, machine, work.engine)
    prediction = setting.run(work)
    timing, ledger = (
        (prediction.decode, prediction.decode_ledger)
        if phase == "decode"
        else (prediction.prefill, prediction.prefill_ledger)
    )
    c = setting.ceilings
    floor = float(timing.floor_s[0])
    if step_s < floor * (1 - 1e-9):
        raise QuantityError(
            f"{step_s:.6g} s is under the physical floor of {floor:.6g} s for this work",
            place="step_s",
            mend="check the batch, the context and the weight format that were measured",
        )
    rate = np.take(c.flop_per_s, ledger.math, axis=0)
    compute = float((ledger.flops * ledger.repeat / rate).sum(axis=0)[0])
    weight, kv, activation = (float(ledger.total(name)[0]) for name in ("weight_bytes", "kv_bytes", "activation_bytes"))
    memory = (weight + kv + activation) / float(c.memory_bytes_per_s)
    network = sum(float(o.seconds) for o in operator_times(prediction, phase, c) if str(o.bound).endswith("-link"))
    verdict, residual, why = judge(step_s, compute_s=compute, memory_s=memory, network_s=network, kv_heavy=kv > weight)
    mbu, mfu = (weight + kv) / step_s / float(c.memory_bytes_per_s), compute / step_s
    return Diagnosis(verdict, residual, mbu, mfu, compute, memory, network, f"{why}; MBU {mbu:.0%}, MFU {mfu:.1%}")


def judge(
    step_s: float, *, compute_s: float, memory_s: float, network_s: float = 0.0, kv_heavy: bool = False
) -> tuple[str, float, str]:
    """Return the verdict on a step from the least times of its parts, the residual, and why.

    Args:
        step_s: measured time of the step [s].
        compute_s: its FLOPs at the peak rate [s].
        memory_s: its bytes at full bandwidth [s].
        network_s: its traffic at the link's rate [s].
        kv_heavy: the KV cache is the larger part of the bytes.
    """
    ideals = {
        "compute": compute_s,
        "kv-bandwidth" if kv_heavy else "weight-bandwidth": memory_s,
        "scale-up-link": network_s,
    }
    longest = max(ideals, key=lambda name: ideals[name])
    residual = step_s / ideals[longest]
    if residual < SAME:
        return (
            "cache" if longest.endswith("bandwidth") else longest,
            residual,
            f"the step is faster than its ideal {longest} time: part of its bytes never left the caches"
            if longest.endswith("bandwidth")
            else f"the step is faster than its ideal {longest} time: the ceiling was measured in a slower moment",
        )
    if residual <= NEAR:
        return longest, residual, f"the step is within {residual:.2f}× of its ideal {longest} time"
    if residual > FAR:
        return (
            "overhead",
            residual,
            f"the step takes {residual:.2f}× its longest ideal time: launches, host, scheduling or latency, not {longest}",
        )
    return f"mixed ({longest}, overhead)", residual, f"the step takes {residual:.2f}× its ideal {longest} time"

"""What a training request leaves open, filled in from the machine: data parallelism and the global batch."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.work import Train
from bytebound.errors import RequestError, nearest

if TYPE_CHECKING:
    from bytebound.documents.device import Device, Machine

FULL_BATCH, ADAPTER_BATCH = 512, 16
"""Sequences per optimizer step where none are stated: 512 (assumed; 2 M tokens at the usual 4,096), and 16 for adapters, as QLoRA
trains 7B and 13B models (arXiv 2305.14314, table 9)."""
NAMES = tuple(f.name for f in fields(Train))


def requested(work: Train | None, stated: dict[str, Any], machine: Machine) -> tuple[Train, tuple[str, ...]]:
    """Return the request, and in words what was assumed.

    A ``work`` is taken as it is. Without one, ``dp`` and ``global_batch`` that are not stated follow from the machine: every
    device works, and the global batch is the least multiple of ``micro_batch × dp`` that is not below ``FULL_BATCH`` (full
    training) or ``ADAPTER_BATCH`` (adapters).

    Raises:
        RequestError: a name that is no field of ``Train``.
    """
    for name in stated:
        if name not in NAMES:
            near = nearest(name, NAMES)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise RequestError(f"training has no {name!r}{hint}", place=name, mend=f"choose from {', '.join(NAMES)}")
    if work is not None:
        return (replace(work, **stated) if stated else work), ()
    asked = Train(**stated)
    assumed = []
    if "dp" not in stated:
        group = np.asarray(asked.tp) * np.asarray(asked.pp) * np.asarray(asked.cp)
        replicas = np.maximum(machine.devices // group, 1)
        asked = replace(asked, dp=_number(replicas))
        if machine.devices > 1:
            assumed.append(f"dp {_shown(replicas)}: not stated, so every device of {machine.name} works")
    if "global_batch" not in stated:
        least = FULL_BATCH if asked.trainable == "full" else ADAPTER_BATCH
        unit = np.asarray(asked.micro_batch) * np.asarray(asked.dp)
        batch = -(-least // unit) * unit
        asked = replace(asked, global_batch=_number(batch))
        assumed.append(f"global batch {_shown(batch)} sequences: not stated, a usual size")
    return asked, tuple(assumed)


def check_devices(work: Train, machine: Machine) -> None:
    """Raise RequestError where the degrees do not multiply to the machine's devices, or to a number that divides them."""
    rest = np.asarray(work.tp, dtype=float) * work.pp * work.cp
    used, have = np.atleast_1d(rest * work.dp), machine.devices
    wrong = (used > have) | (have % used != 0)
    if bool(np.any(wrong)):
        asked, fixed = float(used[wrong][0]), float(np.broadcast_to(rest, used.shape)[wrong][0])
        mend = f"set dp to {have / fixed:g}" if have % fixed == 0 else f"choose degrees whose product divides {have:,}"
        raise RequestError(
            f"tp × pp × dp × cp is {asked:,.0f} and {machine.name} has {have:,} device{'s' if have > 1 else ''}",
            place="tp, pp, dp, cp",
            mend=f'{mend}, or name a machine of {asked:.0f}, such as "{asked:.0f}x {machine.device.id}"',
        )


def check_precision(work: Train, device: Device) -> None:
    """Raise RequestError where products are asked for in a narrow format that ``device`` has no matrix rate for."""
    narrow, known = work.precision.removesuffix("-mixed"), device.flop_per_s
    if narrow in {"fp8", "fp4"} and narrow not in known:
        wider = "fp8-mixed" if "fp8" in known else "bf16-mixed" if "bf16" in known else "fp16-mixed"
        raise RequestError(
            f"{device.id} has no {narrow} matrix rate", place="precision", mend=f"set precision to {wider}"
        )


def _number(value: Any) -> Any:
    return value if np.ndim(value) else int(value)


def _shown(value: Any) -> str:
    flat = np.unique(value)
    return f"{flat[0]:,.0f}" if len(flat) == 1 else f"{flat[0]:,.0f} to {flat[-1]:,.0f}"

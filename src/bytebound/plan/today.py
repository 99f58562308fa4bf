"""Today's numbers of a case: what the rules of the levers look at before they apply or refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.work import COUNT_LIMIT, Serve
from bytebound.plan.case import Today
from bytebound.predict.roofline import COMPUTE, WEIGHT
from bytebound.predict.scaled import scaled
from bytebound.predict.training import train_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.work import Train
    from bytebound.plan.case import Case
    from bytebound.predict.estimate import Setting

    Array = NDArray[Any]


def batches(limit: int) -> Array:
    """Return the batches tried: steps of √2 up to ``limit``, which is among them."""
    steps = int(np.ceil(2 * np.log2(max(limit, 1)))) + 1
    return np.unique(np.append(np.floor(2 ** (np.arange(steps) / 2)), limit)).clip(1, limit)


def setting_of(case: Case) -> Setting:
    """Return the setting as ``estimate`` uses it: on a measured machine, shares are of the measured ceiling."""
    work = case.work
    if isinstance(work, Serve) and isinstance(work.weights, str):
        return scaled(case.setting, work.weights, work.attention)
    return case.setting


def serving_today(setting: Setting, work: Serve, *, batch: float, limited: bool) -> Today:
    """Return the numbers of serving at ``batch`` sequences; ``limited``: memory ends the climb to larger ones."""
    named = setting.answer(replace(work, batch=batch))
    moved = sum(float(named[f"decode.{kind}_bytes"][0]) for kind in ("weight", "kv", "activation"))
    output = float(np.asarray(work.output))
    prefill = float(named["prefill_request_s"][0]) * batch
    ceilings = setting.ceilings
    ridge = float(np.max(ceilings.flop_per_s[1:3]) / np.max(ceilings.memory_bytes_per_s))
    share = prefill / max(prefill + output * float(named["decode.seconds"][0]), 1e-300)
    return Today(
        batch=batch, kv_byte_share=float(named["decode.kv_bytes"][0]) / max(moved, 1.0),
        weight_time_share=float(named[f"share.{WEIGHT}"][0]), compute_time_share=float(named[f"share.{COMPUTE}"][0]),
        capacity_limited=limited, ridge_tokens=ridge,
        prefill_time_share=float(np.nan_to_num(share)),
    )  # fmt: skip


def memory_limits(setting: Setting, work: Serve) -> bool:
    """Return whether memory ends the climb to larger batches: this one, or twice it, does not fit."""
    batch = float(np.asarray(work.batch))
    tried = np.minimum([batch, 2 * batch], COUNT_LIMIT)
    return not bool((setting.answer(replace(work, batch=tried))["fits"] > 0).all())


def today_of(case: Case) -> Today:
    """Return the numbers of a case as it is asked: at its own batch, or at its step of training."""
    work, setting = case.work, setting_of(case)
    if not isinstance(work, Serve):
        return training_today(setting, work)
    return serving_today(setting, work, batch=float(np.asarray(work.batch)), limited=memory_limits(setting, work))


def training_today(setting: Setting, work: Train) -> Today:
    """Return the numbers of a training step."""
    timed = train_time(setting, work)
    computing = sum(np.asarray(timed.parts[name]) for name in ("compute", "recompute")) / timed.step_s
    short = bool(np.any(timed.total_bytes > timed.usable_bytes))
    return Today(1.0, 0.0, 0.0, float(np.max(computing)), short, 0.0, 0.0)

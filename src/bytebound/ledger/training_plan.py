"""The plan of a training job: what each ``auto`` of a request means, and whether its degrees can be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import RequestError
from bytebound.ledger import table as t

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.values import Number
    from bytebound.documents.work import Train
    from bytebound.ledger.table import OpTable

    Array = NDArray[Any]

AUTOCAST_FRAMEWORKS = frozenset({"hf", "litgpt"})
"""Frameworks whose mixed precision is autocast over 32-bit weights. Sources: transformers Trainer ``bf16=True``
(accelerate wraps the forward in ``torch.autocast``); Lightning ``bf16-mixed``."""


def resolve(work: Train, table: OpTable | None = None) -> Train:
    """Return ``work`` with every ``auto`` replaced by what it means, the same for the whole array of requests.

    Framework: ``megatron`` where some request has tp, pp, cp or ep above 1, or ZeRO 0 or 1 over several devices; ``hf`` for
    adapters and where every request uses one device; else ``fsdp``. Schedule: interleaved where there are virtual stages.
    Precision: full training in ``bf16-mixed`` under hf and litgpt is ``bf16-autocast``. Gradients: 32-bit where the
    framework accumulates them so (Megatron with bf16, fp8 or fp4) or where the weights are 32-bit. Optimizer kernel:
    ``foreach`` for torch's own optimizers, ``fused`` for Megatron's and DeepSpeed's. Sequence parallel: Megatron recipes
    and torchtitan turn it on with tp. ``expert_tp`` 0: ``tp`` where ep is 1, else 1.

    Args:
        work: the request.
        table: of the model.
    """
    del table  # every rule so far needs the request alone
    framework = _framework(work) if work.framework == "auto" else work.framework
    precision = work.precision
    if precision in {"bf16-mixed", "fp16-mixed"} and framework in AUTOCAST_FRAMEWORKS and work.trainable == "full":
        precision = "bf16-autocast"
    schedule = work.schedule
    if schedule == "auto":
        schedule = "interleaved" if np.any(np.asarray(work.virtual_stages) > 1) else "1f1b"
    gradients = work.gradients
    if gradients == "auto":
        gradients = "fp32" if _keeps_wide_gradients(framework, precision) else "bf16"
    kernel = work.optimizer_kernel
    if kernel == "auto":
        kernel = "fused" if framework in {"megatron", "deepspeed", "jax"} else "foreach"
    together = work.sequence_parallel
    if together == "auto":
        together = "on" if framework in {"megatron", "fsdp"} else "off"
    expert_tp = np.where(
        np.asarray(work.expert_tp) > 0, work.expert_tp, np.where(np.asarray(work.ep) > 1, 1, np.asarray(work.tp))
    )
    return replace(
        work, framework=framework, precision=precision, schedule=schedule, gradients=gradients, optimizer_kernel=kernel,
        sequence_parallel=together, expert_tp=_plain(expert_tp),
    )  # fmt: skip


def microbatches(work: Train) -> Array:
    """Return micro-batches per step and data-parallel replica (at least 1), broadcast."""
    each = np.asarray(work.global_batch, dtype=float) / (
        np.asarray(work.micro_batch, dtype=float) * np.asarray(work.dp)
    )
    return np.asarray(np.maximum(each, 1.0))


def check(work: Train, architecture: Architecture, table: OpTable, devices: Number | None) -> None:
    """Raise unless the degrees of ``work`` can be, for every request of the array.

    Args:
        work: the request, resolved or not.
        architecture: the model, for its name.
        table: its operators.
        devices: how many there are; None: as many as the degrees ask for.

    Raises:
        RequestError: names the field, what it must divide and the nearest degree that does: tp × pp × dp × cp against the
            devices, tp against heads and KV heads (replicated KV heads are fine), pp × virtual stages against layers, ep
            against experts and the devices they are dealt over, the global batch against micro-batch × dp, seq against cp.
    """
    tp, pp, dp, cp = (np.asarray(v, dtype=float) for v in (work.tp, work.pp, work.dp, work.cp))
    if devices is not None:
        used = tp * pp * dp * cp
        there = np.asarray(devices, dtype=float)
        wrong = used != there
        if np.any(wrong):
            d, u, rest = _first(wrong, there, used, tp * pp * cp)
            mend = (
                f"set dp to {d / rest:g}" if d % rest == 0 else f"tp × pp × cp is {rest:g}, which does not divide {d:g}"
            )
            raise RequestError(f"tp × pp × dp × cp is {u:g} and there are {d:g} devices", place="dp", mend=mend)
    heads = table.scores.heads[table.scores.stream == t.MAIN]
    kv_heads = table.scores.kv_heads[(table.scores.stream == t.MAIN) & (table.scores.kind != t.LATENT)]
    for count in sorted(set(heads.tolist())):
        _divides("tp", tp, count, f"the {count:g} attention heads of {architecture.name}")
    for count in sorted(set(kv_heads.tolist())):
        _divides("tp", np.where((tp > count) & (tp % count == 0), 1, tp), count, f"the {count:g} KV heads")
    chunks = pp * np.asarray(work.virtual_stages, dtype=float)
    # embedding and head may stand for a layer each (``schedules.stage_layers``): Llama 3 405B runs 126 layers in 128 chunks
    wrong = (chunks > table.layers) & ((chunks != table.layers + 2) | (pp > table.layers))
    if np.any(wrong):
        (most,) = _first(wrong, chunks)
        raise RequestError(
            f"pp × virtual_stages is {most:g}, more than the {table.layers:g} layers of {architecture.name}",
            place="pp", mend=f"use at most {table.layers:g}",
        )  # fmt: skip
    _check_experts(work, architecture, table)
    together = np.asarray(work.micro_batch, dtype=float) * dp
    batch = np.asarray(work.global_batch, dtype=float)
    wrong = batch % together != 0
    if np.any(wrong):
        b, one = _first(wrong, batch, together)
        raise RequestError(
            f"a global batch of {b:g} sequences is no multiple of micro_batch × dp = {one:g}",
            place="global_batch", mend=f"nearest: {max(round(b / one), 1) * one:g}",
        )  # fmt: skip
    seq = np.asarray(work.seq, dtype=float)
    wrong = seq % cp != 0
    if np.any(wrong):
        s, c = _first(wrong, seq, cp)
        raise RequestError(
            f"cp {c:g} does not divide a sequence of {s:g} tokens",
            place="cp", mend=f"nearest: {nearest_divisor(s, c):g}",
        )  # fmt: skip


def _check_experts(work: Train, architecture: Architecture, table: OpTable) -> None:
    """Raise unless ``ep`` divides the experts and, with ``expert_tp``, the devices of one pipeline stage."""
    ep, dealt = np.asarray(work.ep, dtype=float), np.asarray(work.expert_tp, dtype=float)
    if not np.any(ep > 1) and not np.any(dealt > 1):
        return
    experts = sorted({c for c in table.products.copies.tolist() if c > 1})
    if not experts:
        place = "ep" if np.any(ep > 1) else "expert_tp"
        raise RequestError(f"{architecture.name} has no experts to deal out", place=place, mend=f"set {place} to 1")
    for count in experts:
        _divides("ep", ep, count, f"the {count:g} experts of {architecture.name}")
    stage = np.asarray(work.tp, dtype=float) * np.asarray(work.dp) * np.asarray(work.cp)
    expert_tp = np.where(dealt > 0, dealt, 1)
    wrong = stage % (ep * expert_tp) != 0
    if np.any(wrong):
        n, e, one = _first(wrong, stage, ep, expert_tp)
        raise RequestError(
            f"ep × expert_tp is {e * one:g} and does not divide the tp × dp × cp = {n:g} devices of a stage",
            place="ep", mend=f"nearest: {nearest_divisor(n / one, e):g}",
        )  # fmt: skip


def nearest_divisor(whole: float, degree: float) -> int:
    """Return the divisor of ``whole`` closest to ``degree``, the smaller one of two equally close.

    Example:
        >>> nearest_divisor(32, 6)
        4
    """
    top = max(round(whole), 1)
    divisors = np.array([n for n in range(1, min(top, 4096) + 1) if top % n == 0])
    return int(divisors[np.argmin(np.abs(divisors - degree))])


def _divides(name: str, degree: Array, count: float, what: str) -> None:
    wrong = np.asarray(count) % degree != 0
    if np.any(wrong):
        (worst,) = _first(wrong, degree)
        raise RequestError(
            f"{name} {worst:g} does not divide {what}", place=name, mend=f"nearest: {nearest_divisor(count, worst)}"
        )


def _first(wrong: Array, *values: Array) -> tuple[float, ...]:
    """Return every value at the first request that is wrong."""
    laid = np.broadcast_arrays(wrong, *values)
    at = int(np.argmax(laid[0]))
    return tuple(float(value.reshape(-1)[at]) for value in laid[1:])


def _framework(work: Train) -> str:
    tp, pp, dp, cp, ep = (np.asarray(v) for v in (work.tp, work.pp, work.dp, work.cp, work.ep))
    several = tp * pp * dp * cp > 1
    if work.trainable != "full" or not np.any(several):
        return "hf"
    split = (tp > 1) | (pp > 1) | (cp > 1) | (ep > 1)
    return "megatron" if np.any(split | (several & (np.asarray(work.zero) < 2))) else "fsdp"


def _keeps_wide_gradients(framework: str, precision: str) -> bool:
    """Return whether gradients are kept in 32 bits.

    Megatron and DeepSpeed's bf16 optimizer accumulate 16-bit training in fp32 (``accumulate_allreduce_grads_in_fp32``;
    ``BF16_Optimizer``), not fp16; everywhere else a gradient has its weight's dtype, which is 32-bit but for ``bf16``, for
    DeepSpeed's fp16 and for adapters' frozen base (which has none).
    """
    if framework in {"megatron", "deepspeed"}:
        return precision not in {"bf16", "fp16-mixed"}
    return precision != "bf16"


def _plain(value: Array) -> Number:
    return int(value) if value.ndim == 0 else value

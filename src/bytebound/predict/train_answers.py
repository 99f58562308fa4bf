"""The TrainEstimate document: one call from names to memory, step time, cost and energy, with intervals and a verdict."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.estimate import MachineFacts, NextWall
from bytebound.documents.training import CONVENTIONS, TIME_PARTS, TrainEstimate
from bytebound.documents.values import Interval, Provenance
from bytebound.documents.work import TOKEN_LIMIT, Serve
from bytebound.ledger import training_plan
from bytebound.predict.energy import drawn
from bytebound.predict.estimate import model_facts, settle
from bytebound.predict.train_fit import SURE, fitting
from bytebound.predict.train_frameworks import splits_of
from bytebound.predict.train_memory import chance_of_fitting, memory
from bytebound.predict.train_request import check_devices, check_precision, requested
from bytebound.predict.training import train_time
from bytebound.units import SECONDS_PER_HOUR

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.device import Machine
    from bytebound.documents.values import Number
    from bytebound.documents.work import Train
    from bytebound.predict.estimate import Setting
    from bytebound.predict.roofline import Ceilings
    from bytebound.predict.training import TrainingTime

    Array = NDArray[Any]

ENGINE = "vllm"
"""Whose attained shares of the matrix units training starts from; what training adds to them is ``predict.training``'s."""
CONVENTION = "causal"
BILLION, DAY_S = 1e9, 86400.0
NUDGE = 0.01
"""Elasticities are central differences over ±1 % of a ceiling."""
RESOURCE = {
    "compute": "compute", "recompute": "compute", "memory": "activation-bandwidth", "optimizer": "weight-bandwidth",
    "scale_up_link": "scale-up-link", "scale_out_link": "scale-out-link", "host_link": "host-link", "bubble": "overhead",
    "overhead": "overhead",
}  # fmt: skip
"""What each part of a step waits for. Memory-bound operators move activations, the optimizer moves weights and states; devices that
wait for another pipeline stage count as overhead."""
RESOURCES = tuple(dict.fromkeys(RESOURCE.values()))
CEILINGS = {
    "memory_bandwidth": ("memory_bytes_per_s",),
    "compute": ("flop_per_s",),
    "scale_up_link": ("scaleup_bytes_per_s",),
    "scale_out_link": ("scaleout_bytes_per_s",),
    "host_link": ("host_bytes_per_s",),
}
"""Ceilings raised for each elasticity."""


def train(
    model: str | Architecture, machine: str | Machine, work: Train | None = None, *, fit: bool = False, sure: float = SURE,
    **stated: Any,
) -> TrainEstimate:  # fmt: skip
    """Return what one optimizer step of ``model`` holds and takes on ``machine``.

    Args:
        model: a bundled id, a path to a config.json, GGUF, safetensors or folder, or an Architecture.
        machine: ``"8x h100-sxm"``, a machine file, or a Machine.
        work: the request, taken as it is; any quantity may be an array, and the answer has its broadcast shape.
        fit: also search for what fits, and for the cheapest changes (``predict.train_fit``), into ``fitting``.
        sure: least probability of fitting that counts in the search.
        stated: fields of ``Train``, in place of ``work`` or over it. Without ``work``, ``dp`` and ``global_batch`` that
            are not given follow from the machine (``predict.train_request``), and the notes say so.

    Raises:
        UnknownNameError, DocumentError, QuantityError, RequestError: the request could not be understood, or its degrees do not
            divide the machine or the model; the message names the field.

    Example:
        >>> answer = train("meta-llama/Llama-3.1-8B", "8x h100-sxm", seq=8192, recompute="full")
        >>> answer.machine.used, bool(answer.memory.fits)
        (8, True)
    """
    setting = settle(model, machine, ENGINE)
    if isinstance(model, str):
        setting = replace(setting, asked=model)
    asked, assumed = requested(work, stated, setting.machine)
    found = train_on(setting, asked, assumed)
    return replace(found, fitting=fitting(setting, asked, sure=sure)) if fit else found


def train_on(setting: Setting, work: Train, assumed: tuple[str, ...] = ()) -> TrainEstimate:
    """Return the training estimate of ``work`` on a resolved setting."""
    check(setting, work)
    work = training_plan.resolve(work, setting.table)
    timed = train_time(setting, work)
    shape = work.shape
    blank = np.where(timed.total_bytes <= timed.usable_bytes, 1.0, np.nan)

    def out(value: Array) -> Number:
        whole = np.broadcast_to(value, shape)
        return np.array(whole, dtype=float) if shape else float(whole)

    spread, devices = timed.spread, timed.devices
    rate = timed.tokens_per_s * blank

    def around(value: Array, most: float = math.inf) -> Interval:
        return Interval(out(value), out(value / spread), out(np.minimum(value * spread, most)))

    labels = verdicts(timed, shape)
    price = setting.machine.usd_per_device_hour
    per_token = None
    if price is not None:
        hours = devices / SECONDS_PER_HOUR
        per_token = (
            price.value * hours / rate,
            (price.low or price.value) * hours / (rate * spread),
            (price.high or price.value) * hours / (rate / spread),
        )
    tokens = np.asarray(work.tokens, dtype=float)
    stated = bool(np.all(tokens > 0))
    joules = joules_per_token(setting, timed)
    wide_j = np.exp(np.hypot(np.log(spread), math.log(setting.evidence.energy_spread)))
    return TrainEstimate(
        model=model_facts(setting, Serve()),
        machine=MachineFacts(setting.machine.name, setting.machine.devices, out(devices) if shape else int(devices), setting.machine.asked),
        work=understood(work),
        step_s=around(timed.step_s * blank),
        tokens_per_s=around(rate),
        tokens_per_s_per_device=around(rate / devices),
        mfu=around(timed.mfu * blank, 1.0),
        hfu=around(timed.hfu * blank, 1.0),
        mfu_by_convention={
            name: out(timed.flops_by_convention[name] / (timed.step_s * timed.peak_flop_per_s * devices) * blank)
            for name in CONVENTIONS
        },
        model_flops=out(timed.model_flops),
        hardware_flops=out(timed.hardware_flops),
        memory=memory(timed, shape),
        time={name: out(timed.parts[name]) for name in TIME_PARTS},
        bubble_share=out(timed.bubble_share),
        microbatches=out(timed.microbatches),
        verdict=labels if shape else str(labels),
        elasticity={name: out(value) for name, value in elasticities(setting, work, timed).items()},
        next_wall=next_wall(setting, work, str(labels)) if not shape else None,
        usd_per_btok=None if per_token is None else _money(per_token, BILLION, out),
        usd_total=None if per_token is None or not stated else _money(per_token, tokens, out),
        days_total=around(tokens / rate / DAY_S) if stated else None,
        joules_per_token=None if joules is None else Interval(out(joules * blank), out(joules / wide_j * blank), out(joules * wide_j * blank)),
        power_w=None if joules is None else out(joules * rate),
        provenance=provenance(setting, work, timed),
        convention=CONVENTION,
        framework=str(work.framework),
        notes=notes(setting, work, timed, assumed),
        missing=missing(setting, timed, stated=stated),
    )  # fmt: skip


def _money(per_token: tuple[Array, Array, Array], tokens: Any, out: Callable[[Any], Number]) -> Interval:
    value, low, high = per_token
    return Interval(out(value * tokens), out(low * tokens), out(high * tokens))


def check(setting: Setting, work: Train) -> None:
    """Raise RequestError where the degrees do not multiply to the machine's devices, or a share of them, or do not divide the model."""
    check_devices(work, setting.machine)
    check_precision(work, setting.machine.device)
    training_plan.check(work, setting.architecture, setting.table, None)


def verdicts(timed: TrainingTime, shape: tuple[int, ...]) -> NDArray[np.str_]:
    """Return capacity where it does not fit, else the resource most of the step waits for."""
    spent = [sum(timed.parts[part] for part, name in RESOURCE.items() if name == resource) for resource in RESOURCES]
    most = np.stack([np.broadcast_to(value, shape) for value in spent]).argmax(axis=0)
    return np.where(timed.fits, np.array(RESOURCES)[most], "capacity")


def elasticities(setting: Setting, work: Train, timed: TrainingTime) -> dict[str, Array]:
    """Return % change of tokens_per_s per +1 % of each ceiling, by running the step again with it 1 % higher and lower.

    ``memory_capacity`` is 0: a job that fits is not faster on a larger memory until its plan changes. ``overhead`` (more is
    slower) are the times no ceiling changes, launches, host and latencies: with every rate 1 % up and every such time 1 % down a
    step is 1 % shorter, so it is what the others leave of 1 (Euler's theorem on homogeneous functions).
    """
    found = {"memory_capacity": np.zeros(np.shape(timed.step_s))}
    for name, ceilings in CEILINGS.items():
        more, less = (
            train_time(replace(setting, ceilings=_scaled(setting.ceilings, ceilings, f)), work).step_s
            for f in (1 + NUDGE, 1 - NUDGE)
        )
        found[name] = np.log(less / more) / math.log((1 + NUDGE) / (1 - NUDGE))
    found["overhead"] = np.minimum(np.asarray(sum(found.values())) - 1.0, 0.0)
    order = (
        "memory_bandwidth",
        "memory_capacity",
        "compute",
        "scale_up_link",
        "scale_out_link",
        "host_link",
        "overhead",
    )
    return {name: found[name] for name in order}


def _scaled(ceilings: Ceilings, names: tuple[str, ...], factor: float) -> Ceilings:
    return replace(ceilings, **{name: getattr(ceilings, name) * factor for name in names})


def next_wall(setting: Setting, work: Train, verdict: str) -> NextWall | None:
    """Return what binds next as sequences, else devices, double; None where nothing changes up to 4,096 times.

    Devices double as data-parallel replicas of the same global batch, as far as every replica has a micro-batch.
    """
    if verdict == "capacity":
        return None
    factors = 2.0 ** np.arange(1, 13)
    for quantity, label, unit in (("seq", "sequences of", " tokens"), ("dp", "", " data-parallel replicas")):
        values = np.asarray(getattr(work, quantity), dtype=float) * factors
        most = (
            TOKEN_LIMIT
            if quantity == "seq"
            else float(np.asarray(work.global_batch)) / float(np.asarray(work.micro_batch))
        )
        values = values[values <= most]
        if not len(values):
            continue
        grown = replace(work, **{quantity: values})
        changed = np.flatnonzero(verdicts(train_time(setting, grown), grown.shape) != verdict)
        if len(changed):
            name = str(verdicts(train_time(setting, grown), grown.shape)[changed[0]])
            return NextWall(name, f"{label} {values[changed[0]]:,.0f}{unit}".strip())
    return None


def joules_per_token(setting: Setting, timed: TrainingTime) -> Array | None:
    """Return joules per token of all devices, None where board power is not known.

    Power as fitted to inference (``predict.energy``), by the bandwidth and the matrix rate in use; that training draws
    alike at the same use is assumed.
    """
    power = setting.machine.device.power_w
    if power is None:
        return None
    busy = timed.moved_bytes / timed.step_s / setting.machine.device.memory_bytes_per_s.value
    return np.asarray(power.value * drawn(busy, timed.hfu) * timed.devices / timed.tokens_per_s)


def understood(work: Train) -> dict[str, Any]:
    """Return the request as it was understood, defaults shown."""
    return {f.name: getattr(work, f.name) for f in fields(work)}


def notes(setting: Setting, work: Train, timed: TrainingTime, assumed: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a reader must know: what was assumed, what lies idle, what is slow on purpose."""
    found = [*assumed, *setting.architecture.notes]
    device, context = setting.machine.device, setting.architecture.main.context
    if work.precision.startswith("bf16") and "bf16" not in device.flop_per_s and "fp16" in device.flop_per_s:
        found.append(f"{device.id} has no bf16 matrix rate: products are timed at its fp16 rate; fp16-mixed runs there")
    if context and float(np.max(np.asarray(work.seq, dtype=float))) > context:
        found.append(f"the model is built for sequences of at most {context:,} tokens; seq is longer")
    alien = [
        name for name in ("tp", "pp", "cp", "ep") if np.max(getattr(work, name)) > 1 and name not in splits_of(work)
    ]
    if alien:
        what = " for adapters" if work.trainable != "full" else ""
        found.append(f"{work.framework} has no {' and no '.join(alien)}{what}: figures are those of its kernels")
    if setting.table.kind == "denoiser":
        found.append("image model: a sequence is the tokens of one image")
    if bool(np.any(timed.total_bytes > timed.usable_bytes)):
        found.append("it does not fit: times by part and elasticities are those of a device with enough memory")
    used, have = int(np.max(timed.devices)), setting.machine.devices
    if used < have:
        found.append(f"{used:,} of {have:,} devices work; raise dp, tp, pp or cp to use them all")
    if not timed.fits.shape and not timed.fits and timed.total_bytes <= timed.usable_bytes:
        found.append(
            f"too tight: it fits with a probability of {float(chance_of_fitting(timed)):.0%}, and 90 % are asked for"
        )
    if bool(np.any(np.asarray(work.tp) > setting.ceilings.domain)):
        found.append(f"tp is wider than the {int(setting.ceilings.domain)} devices one scale-up link joins")
    return tuple(found)


def missing(setting: Setting, timed: TrainingTime, *, stated: bool) -> dict[str, str]:
    """Return what cannot be answered, and why."""
    device, found = setting.machine.device, {}
    if bool(np.any(timed.total_bytes > timed.usable_bytes)):
        short = float(np.max(timed.total_bytes - timed.usable_bytes))
        found["step_s"] = f"does not fit: {short / 2**30:.1f} GiB short on the fullest device"
    if setting.machine.usd_per_device_hour is None:
        found["usd_per_btok"] = (
            f"no rental price is known for {device.id}; give one in a machine file or price catalogue"
        )
    if device.power_w is None:
        found["joules_per_token"] = f"no power figure is known for {device.id}"
    if not stated:
        found["usd_total"] = found["days_total"] = "no number of tokens is stated"
    return found


def provenance(setting: Setting, work: Train, timed: TrainingTime) -> tuple[Provenance, ...]:
    """Return how each input is known."""
    device, price = setting.machine.device, setting.machine.usd_per_device_hour
    rate = device.flop_per_s.get("bf16") or next(iter(device.flop_per_s.values()))
    items = [
        Provenance("model shape", "cited", setting.architecture.source),
        Provenance("memory capacity", device.memory_bytes.how, device.memory_bytes.source),
        Provenance("memory bandwidth", device.memory_bytes_per_s.how, device.memory_bytes_per_s.source),
        Provenance("matrix rate", rate.how, rate.source),
    ]
    for name, link in (("scale-up link", device.scaleup_bytes_per_s), ("network", device.scaleout_bytes_per_s)):
        if link is not None:
            items.append(Provenance(name, link.how, link.source))
        elif int(np.max(timed.devices)) > 1:
            items.append(Provenance(name, "assumed", "none stated for this device"))
    if price is not None:
        items.append(Provenance("price", price.how, f"{price.source} ({price.when})" if price.when else price.source))
    items.append(
        Provenance(
            "MFU",
            "derived",
            f"model FLOPs ({CONVENTION}) over the dense peak of the widest product dtype of {work.precision}",
        )
    )
    items.append(
        Provenance(
            "energy", "assumed", "power fitted to inference (ML.ENERGY v3, H100 and B200); training taken to draw alike"
        )
    )
    return tuple(items)

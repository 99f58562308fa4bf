"""A traced step under a parallel plan on a machine: the fullest device's memory, and the band of the step's seconds.

Memory is the trace divided tensor by tensor (``ledger.sharded``); time is the divided operators (``ledger.sharded_rows``) in the
formula of ``bytebound train``: exchanges, what hides them, the pipeline's bubble and the optimizer are the same, only the rows are
the program's own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.trace_estimate import DividedOp, Exchanged, TracedPlan
from bytebound.documents.training import TIME_PARTS, TrainingMemory
from bytebound.errors import RequestError
from bytebound.facts.reserves import held_back_bytes
from bytebound.ledger import training_plan
from bytebound.ledger.sharded import deal, held
from bytebound.ledger.sharded_rows import check_divided, divide, divided_ledger
from bytebound.ledger.table import compile_table
from bytebound.ledger.traced import PRODUCTS, model_flops, on_device, unfused_bytes
from bytebound.ledger.training_memory import reserved
from bytebound.predict.ceilings import ceilings_of
from bytebound.predict.train_answers import ENGINE, RESOURCE
from bytebound.predict.train_memory import chance_within
from bytebound.predict.train_request import check_devices, requested
from bytebound.predict.training_attained import attained_in_training
from bytebound.predict.training_parts import step_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.device import Machine
    from bytebound.documents.trace import Trace
    from bytebound.documents.work import Train
    from bytebound.ledger.sharded import Device, Sharded
    from bytebound.ledger.sharded_rows import Shares
    from bytebound.ledger.training import TrainingLedger

    Array = NDArray[Any]

HALVES = frozenset({"bfloat16", "float16"})
TRACE_SPREAD = 1.05
"""Half-width factor of the 80 % interval of a trace's allocated bytes (assumed; against real allocators traces are within 3 %)."""


def settle_plan(plan: Train) -> Train:
    """Return a plan for traced code with every ``auto`` settled.

    Traced code is eager PyTorch, so ``auto`` is the framework that shards such code: ``fsdp`` (FSDP2 with DTensor, as torchtitan),
    and ``hf`` (DistributedDataParallel, ZeRO in DeepSpeed's manner) for ZeRO 0 and 1, adapters and one device.
    """
    if plan.framework == "auto":
        several = np.any(np.asarray(plan.tp) * plan.pp * plan.dp * plan.cp > 1)
        sharded = several and plan.trainable == "full" and bool(np.all(np.asarray(plan.zero) >= 2))
        split = np.any(np.asarray(plan.tp) * plan.pp * plan.cp * plan.ep > 1)
        plan = replace(plan, framework="fsdp" if sharded or split else "hf")
    return training_plan.resolve(plan)


def request_plan(
    stated: Mapping[str, Any], machine: Machine, *, model: Architecture | None = None, trace: Trace | None = None
) -> tuple[Train, tuple[str, ...]]:
    """Return the plan that ``stated`` fields of ``Train`` ask for, settled, and in words what was assumed.

    What is not stated follows as in ``bytebound train``: every device works. A function's step is as it was written: its samples are
    the micro-batch, and there are as many micro-batches as pipeline stages.

    Args:
        stated: fields of ``Train``.
        machine: whose devices.
        model: whose degrees are checked before it is traced.
        trace: of a function; None: of a model, which is traced as the plan says.

    Raises:
        RequestError: a name that is no field of ``Train``, or degrees that do not multiply out or do not divide the model.
    """
    given = dict(stated)
    if trace is not None:
        given |= {
            "precision": precision_of(trace),
            "seq": trace.seq or 1,
            "micro_batch": given.get("micro_batch", trace.samples or 1),
        }
    work, assumed = requested(None, given, machine)
    if trace is not None and "global_batch" not in stated:
        batch = int(work.micro_batch * work.dp * work.pp)
        work = replace(work, global_batch=batch)
        why = "a micro-batch per replica" if work.pp == 1 else "a micro-batch per replica and pipeline stage"
        assumed = (*assumed[:-1], f"global batch {batch:,}: not stated, {why}")
    settled = settle_plan(work)
    check_devices(settled, machine)
    if model is not None:
        training_plan.check(work, model, compile_table(model), None)
    return settled, assumed


def told(trace: Trace, *, seq: float, samples: float) -> Trace:
    """Return a trace that knows what its step works on: where the code did not show it, as stated (0: not).

    Raises:
        RequestError: the code shows something else.
    """
    for name, shown, said in (("seq", trace.seq, seq), ("micro_batch", trace.samples, samples)):
        if shown and said and shown != said:
            raise RequestError(
                f"{trace.name} works on {name} {shown:g}, and {said:g} is stated",
                place=name,
                mend="leave it out, or change the code",
            )
    return replace(trace, seq=trace.seq or seq, samples=trace.samples or samples)


def precision_of(trace: Trace) -> str:
    """Return the precision a traced step was written in, as a Train request names it: by the width of most weights and products."""
    if "precision" in trace.made_with:
        return trace.made_with["precision"]
    weights, products = Counter[str](), Counter[str]()
    for tensor in trace.tensors:
        if tensor.role == "parameter":
            weights[tensor.dtype] += round(tensor.storage_bytes * tensor.copies)
    for op in trace.operators:
        if op.kind in PRODUCTS:
            products[op.math] += round(op.flops)
    narrow = weights.total() > 0 and weights.most_common(1)[0][0] in HALVES
    multiplied = bool(products) and products.most_common(1)[0][0] in HALVES
    return "bf16" if narrow else ("bf16-autocast" if multiplied else "fp32")


def plan_trace(
    trace: Trace, machine: Machine, plan: Train, peak_flop_per_s: float, named: Mapping[str, str] | None = None
) -> TracedPlan:
    """Return a traced step dealt out over the devices of ``machine`` as ``plan`` says.

    Args:
        trace: one micro-batch on one device.
        machine: whose devices.
        plan: one request; what the trace itself says (samples and sequence) goes before the request's.
        peak_flop_per_s: rate the step's products would run at, each at its own peak, on one device.
        named: end of a module's path -> style of tensor parallelism, where names do not tell.

    Raises:
        RequestError: the trace is no training step, the degrees do not multiply out or do not divide it, or ``tp`` is asked for and
            the layers' products are not recognised.
        UnknownNameError: a style of ``named`` is not known.
    """
    if trace.kind != "training":
        raise RequestError(
            "a plan deals out a training step, and this is a forward pass", place=trace.name, mend="trace training"
        )
    if plan.shape:
        raise RequestError(
            "a plan is one request, and some field has several values", place="plan", mend="give one value each"
        )
    work = settle_plan(replace(plan, seq=trace.seq or plan.seq))
    check_devices(work, machine)
    device = deal(trace, work, named)
    check_divided(device, trace)
    shares, ceilings = divide(device, trace), ceilings_of(machine, ENGINE)
    attained = replace(
        attained_in_training(machine.device, work.framework), traffic=1.0
    )  # the trace says what is moved
    high_ledger = divided_ledger(device, trace, shares, fused=False)
    low, _ = step_parts(divided_ledger(device, trace, shares, fused=True), ceilings, replace(attained, launch_s=0.0))
    high, bubble = step_parts(high_ledger, ceilings, attained)
    low_s, high_s = (float(sum(part[0] for part in parts.values())) for parts in (low, high))
    job = high_ledger.job
    microbatches, devices = float(job.microbatches[0]), int(job.devices[0])
    samples = float(np.asarray(work.global_batch))
    flops = model_flops(trace) * float(device.plan.samples[0])
    used = flops * microbatches * float(job.dp[0]) / (peak_flop_per_s * devices)
    found = held(device)
    memory = _memory(found, work, float(ceilings.memory_bytes) - held_back_bytes(machine.device))
    spent: dict[str, float] = {}
    for part, resource in RESOURCE.items():
        spent[resource] = spent.get(resource, 0.0) + float(high[part][0])
    return TracedPlan(
        work={f.name: getattr(work, f.name) for f in fields(work)}, devices=devices, microbatches=microbatches, memory=memory,
        low_s=low_s, high_s=high_s, low={name: float(low[name][0]) for name in TIME_PARTS},
        high={name: float(high[name][0]) for name in TIME_PARTS}, bubble_share=float(bubble[0]),
        samples_per_s_low=samples / high_s, samples_per_s_high=samples / low_s, mfu_low=used / high_s, mfu_high=used / low_s,
        verdict=max(spent, key=lambda name: spent[name]) if memory.fits else "capacity",
        operators=_operators(trace, shares, microbatches / float(job.pp[0])),
        exchanges=_exchanges(high_ledger), notes=_notes(trace, device, found, machine, devices),
    )  # fmt: skip


def _memory(found: Sharded, work: Train, usable: float) -> TrainingMemory:
    """Return what the fullest device holds, with the reserve of the plan's framework and the 80 % interval of the total."""
    allocated = found.allocated_bytes
    low, middle, high = reserved(work, allocated)
    total = float(allocated + middle)
    bottom, top = float(allocated / TRACE_SPREAD + low), float(allocated * TRACE_SPREAD + high)
    return TrainingMemory(
        parameters=float(found.parameters), gradients=float(found.gradients), optimizer=float(found.optimizer),
        activations=float(found.activations), temporary=float(found.temporary), reserve=float(middle),
        allocated_bytes=float(allocated), total_bytes=total, low_bytes=bottom, high_bytes=top, usable_bytes=usable,
        fits=top <= usable, probability_fits=float(chance_within(total, bottom, top, usable)), host_bytes=float(found.host_bytes),
        peak=str(found.peak),
    )  # fmt: skip


def _operators(trace: Trace, shares: Shares, often: float) -> tuple[DividedOp, ...]:
    """Return what one device does of every operator in a step; ``often`` micro-batches of all layers."""
    rows = {id(op): row for row, op in enumerate(on_device(trace))}
    found = []
    for op in trace.operators:
        row = rows.get(id(op))
        if row is None:
            found.append(DividedOp(0.0, 0.0, 0.0))
            continue
        times = 1.0 if op.phase == "optimizer" else often
        moved = float(shares.moved[row, 0]) * times
        found.append(
            DividedOp(op.flops * float(shares.flops[row, 0]) * times, op.fused_bytes * moved, unfused_bytes(op) * moved)
        )
    return tuple(found)


def _exchanges(ledger: TrainingLedger) -> tuple[Exchanged, ...]:
    """Return what is said in a step: per device, the mean over pipeline stages."""
    x, job = ledger.exchanges, ledger.job
    often = np.where(x.per_step[:, None], 1.0, job.microbatches / job.pp)
    return tuple(
        Exchanged(name, float(x.group[row, 0]), float(x.payload_bytes[row, 0]), float((x.events * often)[row, 0]))
        for row, name in enumerate(x.names)
        if float(x.events[row, 0]) > 0
    )


def _notes(trace: Trace, device: Device, found: Sharded, machine: Machine, used: int) -> tuple[str, ...]:
    notes = []
    if used < machine.devices:
        notes.append(f"{used:,} of {machine.devices:,} devices work; raise dp, tp, pp or cp to use them all")
    if not trace.seq:
        notes.append("the code does not show its sequence, so nothing is divided by tokens; state seq and micro_batch")
    if not device.layout.hidden and np.any(device.plan.pp > 1):
        notes.append(
            "no product tells what layers hand on; the largest tensor a layer keeps is taken to pass between stages"
        )
    if np.any(device.plan.tp > 1) and not device.layout.heads:
        notes.append("shapes do not tell the attention heads: whether tp divides them is not checked")
    return (*notes, *found.notes)

"""Sharding of a traced step: what the fullest device of a parallel plan holds at its fullest moment, tensor by tensor.

Each candidate peak of the trace (the fullest moment of each phase in each kind of layer and outside of all) is divided for itself, on
the first, second and last pipeline stage and at the first, second and last layer a backward pass works through, for the moment of the
peak moves when some tensors are divided and others are not. The largest is the answer. With every degree 1 it is the trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.ledger.activations import FUSED_FRAMEWORKS
from bytebound.ledger.sharded_layout import FIRST, lay_out
from bytebound.ledger.sharded_plan import lay_on, model_parallel_share, on_stage
from bytebound.ledger.sharded_rules import DIVIDED, SEQUENCE
from bytebound.ledger.sharded_states import ACTIVATION, GRADIENT, OPTIMIZER, PARAMETER, TEMPORARY, dealt, stored
from bytebound.ledger.sharded_units import STANDING, gathered, gradients
from bytebound.ledger.states import HALF, WIDE, moment_bytes
from bytebound.ledger.training_memory import BUCKET_ELEMENTS, BUCKETS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bytebound.documents.trace import Trace
    from bytebound.documents.work import Train
    from bytebound.ledger.sharded_layout import Layout
    from bytebound.ledger.sharded_plan import Plan
    from bytebound.ledger.sharded_states import Stored

    Array = NDArray[Any]

BUCKETED = frozenset({"hf", "litgpt", "fsdp"})
"""Frameworks that run ZeRO 0 as DistributedDataParallel, whose buckets are a second copy of the gradients. Source: PyTorch
DistributedDataParallel, ``gradient_as_bucket_view=False``."""
STAGES = ("first", "second", "last")
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Sharded:
    """Bytes on the fullest device at its peak, by part, arrays of the request's shape.

    ``peak`` says when and where that is: a key of ``Trace.peaks`` and a pipeline stage; ``host_bytes`` lie in host memory.
    """

    parameters: Array
    gradients: Array
    optimizer: Array
    activations: Array
    temporary: Array
    host_bytes: Array
    peak: NDArray[np.str_]
    notes: tuple[str, ...] = ()

    @property
    def allocated_bytes(self) -> Array:
        """All parts together."""
        return np.asarray(self.parameters + self.gradients + self.optimizer + self.activations + self.temporary)


@dataclass(frozen=True, slots=True)
class Device:
    """One device of each stage: the layout, the plan and what follows from both.

    Args:
        each: bytes of one copy of each tensor, (tensors, 1, requests).
        copies: layers (or 1) of each tensor's kind on a stage, (tensors, 3, requests).
        kept: how states are stored; ``elements`` of each parameter before ZeRO, (parameters, 3, requests).
        parameters, optimizer, buckets: bytes at rest, (3, requests); ``reduced`` gradients by parameter.
        complete: bytes a complete layer of each stack keeps for a micro-batch, (stacks, 1, requests).
    """

    layout: Layout
    plan: Plan
    each: Array
    copies: Array
    kept: Stored
    elements: Array
    parameters: Array
    reduced: Array
    optimizer: Array
    buckets: Array
    complete: Array

    @property
    def updated(self) -> Array:
        """Share of what is trained that a device's optimizer step updates, (3, requests)."""
        layout, kept = self.layout, self.kept
        trained = kept.gradient > 0
        share = dealt(layout, self.plan, kept.row, np.ones((len(kept.row), 1)), OPTIMIZER)[:, None]
        traced = float((layout.elements * layout.copies)[kept.row][trained].sum())
        return np.asarray((self.elements * share)[trained].sum(axis=0) / max(traced, 1.0))

    @property
    def here(self) -> tuple[Array, Array]:
        """Parameters and optimizer states in device memory: all but what is offloaded."""
        away = self.plan.work.offload.removesuffix("-nvme")
        return self.parameters * (away != "parameters"), self.optimizer * (away == "none")


def shard(trace: Trace, work: Train, *, plan: Mapping[str, str] | None = None) -> Sharded:
    """Return what the fullest device holds at its fullest moment when a traced step is dealt out as ``work`` says.

    Args:
        trace: one micro-batch on one device, with the samples and the sequence it was made with.
        work: the request, of any shape, resolved or not.
        plan: end of a module's path -> style of tensor parallelism (as Hugging Face's ``base_model_tp_plan``), before what names tell.

    Raises:
        RequestError: a degree that does not divide what it deals out, a trace of another sequence length, or one that does not say
            what is alive at its peaks.
        UnknownNameError: a style of the plan is not known.
    """
    return held(deal(trace, work, plan))


def held(device: Device) -> Sharded:
    """Return what the fullest device holds at its fullest moment; see ``shard``."""
    layout = device.layout
    moments = [(key, part) for index, key in enumerate(layout.moments) for part in _moment(device, index)]
    parts = np.stack([part for _, part in moments])  # (moments, 5, 3, requests)
    count = parts.shape[-1]
    fullest = parts.sum(axis=1).reshape(-1, count).argmax(axis=0)
    best = parts[fullest // len(STAGES), :, fullest % len(STAGES), np.arange(count)]
    names = np.array([f"{key}, {stage} stage" for key, _ in moments for stage in STAGES])
    done = device.plan.work
    away = done.offload.removesuffix("-nvme")
    host = device.optimizer * (away != "none") + device.parameters * (away == "parameters")
    return Sharded(
        parameters=best[:, PARAMETER].reshape(done.shape),
        gradients=best[:, GRADIENT].reshape(done.shape),
        optimizer=best[:, OPTIMIZER].reshape(done.shape),
        activations=best[:, ACTIVATION].reshape(done.shape),
        temporary=best[:, TEMPORARY].reshape(done.shape),
        host_bytes=host.max(axis=0).reshape(done.shape),
        peak=names[fullest].reshape(done.shape),
        notes=_notes(device),
    )


def deal(trace: Trace, work: Train, named: Mapping[str, str] | None = None) -> Device:
    """Return what each stage's device holds all along; arguments and errors as of ``shard``."""
    layout = lay_out(trace, named)
    plan = lay_on(trace, layout, work)
    share, copies = model_parallel_share(layout, plan), on_stage(layout, plan)
    kept = stored(trace, layout, plan)
    row = kept.row
    per_layer = layout.copies / layout.repeat
    elements = (layout.elements * per_layer)[row][:, None, None] * share[row][:, None] * copies[row]

    def at_rest(size: Array, category: int) -> Array:
        return np.asarray(elements * size[:, None, None] * dealt(layout, plan, row, share[row], category)[:, None])

    buffers = np.array([tensor.role == "buffer" for tensor in layout.tensors])
    unlearned = ((layout.size * per_layer)[:, None, None] * copies)[buffers].sum(axis=0)
    scalars = ((per_layer[row] * kept.scalar)[:, None, None] * copies[row]).sum(axis=0)
    whole = (elements * kept.gradient[:, None, None]).sum(axis=0)
    trained = (elements * (kept.gradient > 0)[:, None, None]).sum(axis=0)
    buckets = 0 * whole
    if plan.work.framework == "deepspeed":
        buckets = np.where(plan.group > 1, np.minimum(BUCKET_ELEMENTS, trained) * BUCKETS * HALF, 0.0)
    elif plan.work.framework in BUCKETED:
        buckets = np.where((plan.zero == 0) & (plan.group > 1), whole, 0.0)
    each = (layout.size[:, None] * share)[:, None]
    return Device(
        layout=layout, plan=plan, each=each, copies=copies, kept=kept, elements=elements,
        parameters=at_rest(kept.parameter, PARAMETER).sum(axis=0) + unlearned, reduced=at_rest(kept.gradient, GRADIENT),
        optimizer=at_rest(kept.optimizer, OPTIMIZER).sum(axis=0) + scalars, buckets=buckets,
        complete=_complete_layers(layout, plan, each, per_layer),
    )  # fmt: skip


def _complete_layers(layout: Layout, plan: Plan, each: Array, per_layer: Array) -> Array:
    """Return bytes one complete layer of each stack keeps for one micro-batch, (stacks, 1, requests).

    Under sequence parallelism the gathered input of a region is kept whole where autograd keeps what a product reads (Megatron gathers
    it again). Full recomputation keeps a layer's input alone; selective recomputation drops attention scores. A trace that does not say how it
    was made keeps what it kept.
    """
    work, had = plan.work, layout.made_with
    kept = layout.category == ACTIVATION
    selects = work.recompute == "selective" and had.get("recompute") == "none"
    if selects or (work.attention == "flash" and had.get("attention") == "eager"):
        kept = kept & ~layout.squared
    result = np.zeros((len(layout.stacks), *each.shape[1:]))
    for number in range(len(layout.stacks)):
        mine = kept & (layout.stack == number)
        result[number] = (per_layer[mine][:, None, None] * each[mine]).sum(axis=0)
    if work.framework not in FUSED_FRAMEWORKS and plan.together:
        inside = kept & (layout.tensor_parallel == DIVIDED)
        whole = np.array([bool((inside & (layout.stack == number)).any()) for number in range(len(layout.stacks))])
        again = (
            layout.widest * layout.read_width * layout.readers * whole
        )  # a layer traced with recomputation keeps its input alone
        result = result + again[:, None, None] * (1 - plan.beside) * plan.samples / plan.cp
    if work.recompute == "full" and had.get("recompute", "full") != "full":
        width = WIDE if work.precision in {"fp32", "bf16-autocast"} else HALF
        boundary = layout.widest[:, None, None] * width * plan.beside * plan.samples / plan.cp
        share = np.broadcast_to(np.asarray(work.recompute_layers, dtype=float), work.shape).reshape(-1)
        result = result * (1 - share) + boundary * share
    return result


def _moment(device: Device, index: int) -> list[Array]:
    """Return parts (5, 3, requests) of one candidate peak, at each place of the layers it can be in."""
    layout = device.layout
    phase, where = (*layout.moments[index].split("/"), "")[:2]
    names = [stack.name for stack in layout.stacks]
    if phase == "optimizer":
        return [_optimizer_step(device, layout.alive[index])]
    if where not in names:
        return [_passing(device, layout.alive[index], phase=phase, inside=None, layer=1.0)]
    layers = (1.0, 2.0, np.inf) if phase == "backward" else (np.inf,)
    return [
        _passing(device, layout.alive[index], phase=phase, inside=names.index(where), layer=layer) for layer in layers
    ]


def _passing(device: Device, alive: Array, *, phase: str, inside: int | None, layer: float) -> Array:
    """Return parts (5, 3, requests) of a moment in forward or backward.

    Args:
        device: what is held all along.
        alive: copies alive at the moment in the traced model, (tensors,).
        phase: forward or backward.
        inside: the stack at work; None: what lies outside of all.
        layer: which of the stage's layers is at work, in the order of the pass (inf: the last).
    """
    layout, plan = device.layout, device.plan
    there = plan.layers[inside] if inside is not None else device.plan.places[1]
    begun = np.minimum(layer, np.maximum(there, 1.0))
    full = np.maximum(there - begun if phase == "backward" else begun - 1, 0.0)
    kept = _kept(device, alive, inside=inside, full=full)
    brief = layout.category == TEMPORARY
    stack = layout.stack[:, None, None]
    streams = (layout.tensor_parallel == SEQUENCE)[:, None, None]
    present = np.where((stack < 0) & ~streams, device.copies, np.where(stack < 0, 1.0, device.copies > 0))
    passing = (alive[:, None, None] * device.each * present)[brief].sum(axis=0)
    standing = plan.accumulates | (plan.work.framework in STANDING)
    at_rest = np.where(
        plan.gradients_whole,
        (device.elements * device.kept.gradient[:, None, None]).sum(axis=0),
        device.reduced.sum(axis=0),
    )
    grads, new = np.where(standing, at_rest, 0.0), 0.0 * passing
    if phase == "backward":
        grads, new = gradients(
            layout, plan, device.kept, elements=device.elements, reduced=device.reduced, alive=alive, inside=inside, begun=begun
        )  # fmt: skip
    whole = gathered(layout, plan, device.kept, elements=device.elements, phase=phase, inside=inside, begun=begun)
    parameters, optimizer = device.here
    parts = np.stack([parameters, grads, optimizer, kept, passing + new + whole + device.buckets])
    return np.asarray(parts * (there > 0))


def _kept(device: Device, alive: Array, *, inside: int | None, full: Array) -> Array:
    """Return kept activations, (3, requests): of ``full`` complete layers, of the layer at work and of micro-batches in flight."""
    layout, plan = device.layout, device.plan
    activation = layout.category == ACTIVATION
    kept = np.zeros(plan.flying.shape)
    for number in range(len(layout.stacks)):
        mine = activation & (layout.stack == number)
        held = plan.layers[number]
        if number == inside:
            at_work = _at_work(layout, alive, mine)
            kept = kept + (at_work[:, None, None] * device.each[mine]).sum(axis=0) + device.complete[number] * full
            kept = kept + device.complete[number] * (plan.flying - 1) * held
        elif mine.any():
            now = min(float(np.max(alive[mine] / layout.copies[mine])), 1.0)
            kept = kept + device.complete[number] * held * (now + plan.flying - 1)
    outside = activation & (layout.stack < 0)
    flying = np.where((layout.stack[outside] == FIRST)[:, None, None], plan.flying, 1.0)
    return np.asarray(
        kept + (alive[outside][:, None, None] * device.each[outside] * device.copies[outside] * flying).sum(axis=0)
    )


def _at_work(layout: Layout, alive: Array, mine: NDArray[np.bool_]) -> Array:
    """Return copies alive of the layer at work: what is left of ``mine`` when complete layers are taken away."""
    per_layer = (layout.copies / layout.repeat)[mine]
    steady = per_layer >= 1
    if not steady.any():
        return np.asarray(alive[mine])
    layers = alive[mine] / per_layer
    complete = np.floor(layers[steady].min() + ROUNDING)
    if layers[steady].max() <= complete + ROUNDING:
        complete = max(complete - 1.0, 0.0)  # the layer at work has let nothing go yet
    return np.asarray(np.maximum(alive[mine] - per_layer * complete, 0.0))


def _optimizer_step(device: Device, alive: Array) -> Array:
    """Return parts (5, 3, requests) in the optimizer step; its temporaries are as large as what one device updates."""
    layout, plan, kept = device.layout, device.plan, device.kept
    temporary = float((alive * layout.size)[layout.category == TEMPORARY].sum())
    asked = plan.work.optimizer_kernel
    had = layout.made_with.get("optimizer_kernel", asked).replace("auto", "foreach")  # torch's default
    if asked != had and "foreach" in (asked, had):
        each = min(moment_bytes(plan.work) / 2, WIDE) if asked == "foreach" else 0.0
        temporary = each * float((layout.elements * layout.copies)[kept.row][kept.gradient > 0].sum())
    inputs = float((alive * layout.size)[layout.category == ACTIVATION].sum()) * plan.samples
    parameters, optimizer = device.here
    local = temporary * device.updated * (plan.work.offload == "none")
    return np.stack([
        parameters, device.reduced.sum(axis=0), optimizer, 0 * local + inputs, local + device.buckets,
    ])  # fmt: skip


def _notes(device: Device) -> tuple[str, ...]:
    notes = []
    if np.any(device.plan.tp > 1) and device.layout.unclassified:
        paths = ", ".join(device.layout.unclassified)
        notes.append(
            f"whole on every tensor-parallel rank, for neither plan nor name tells how to divide them: {paths}"
        )
    plan, kept = device.plan, device.kept
    if plan.work.framework == "fsdp" and np.any((plan.zero >= 1) & (plan.ep <= 1)):
        stacked = [(path, count) for path, count in device.layout.experts if np.any(plan.group > count)]
        if stacked:
            path, count = stacked[0]
            notes.append(
                f"FSDP2 deals out the first dimension, and {path} has {count}: the fullest device holds a whole expert of every layer "
                "(ep, or shard_placement_fn, deals them further)"
            )
    if plan.work.framework in FUSED_FRAMEWORKS:
        notes.append(
            f"activations are those of the traced code; {plan.work.framework}'s own kernels keep less (bytebound train)"
        )
    if not kept.restated:
        notes.append("states are as the code keeps them: the plan's precision and optimizer are not applied")
    return tuple(notes)

"""Trace a step: run it under fake tensors at a few depths, and answer for the whole model."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from bytebound.errors import RequestError
from bytebound.trace import stacks
from bytebound.trace.answer import Asked, answer, count
from bytebound.trace.extrapolate import Extrapolation, UnlikeDepthsError, alike, same
from bytebound.trace.failures import plainly
from bytebound.trace.fake import faked, unpacked
from bytebound.trace.observed import observe
from bytebound.trace.optimizers import make_optimizer
from bytebound.trace.tracer import Tracer, tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from bytebound.documents.trace import Trace
    from bytebound.trace.observed import Observed
    from bytebound.trace.stacks import Layer

DEPTH = 3
"""Layers of a kind in the base depth: a first, one between, a last."""


@dataclass(frozen=True, slots=True)
class Step:
    """A training step ready to run: ``run()`` does all of it once, forward, backward and ``optimizers``.

    Args:
        model: the module, or several.
        run: one whole step; it is called twice, so that optimizer states exist the second time.
        optimizers: whose states to tell from other tensors, and whose parameters to cut with the layers.
        samples, seq: what one step works on, where known.
        made_with: settings as a Train request names them, for the record.
    """

    model: nn.Module | tuple[nn.Module, ...]
    run: Callable[[], object]
    optimizers: tuple[Any, ...] = ()
    samples: float = 0.0
    seq: float = 0.0
    made_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """The modules, always as a tuple."""
        return self.model if isinstance(self.model, tuple) else (self.model,)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to trace: see ``trace_step``."""

    kind: Literal["training", "forward"]
    round_to: int
    limit_s: float
    on: Literal["gpu", "cpu"]


def trace_step(
    make: Callable[[], Step],
    *,
    name: str,
    kind: Literal["training", "forward"] = "training",
    layers: Literal["few", "all"] = "few",
    round_to: int = 1,
    limit_s: float = 300.0,
    on: Literal["gpu", "cpu"] = "gpu",
    notes: Sequence[str] = (),
) -> Trace:
    """Trace one step in steady state.

    Args:
        make: builds model, optimizers and inputs; called inside fake mode, once per traced depth.
        name: what to call it.
        kind: ``forward`` where no optimizer and no backward pass are expected.
        layers: ``few`` runs two and three layers of each kind and extrapolates; a depth of four is foretold and compared. Where
            that does not hold to the byte, or saves nothing, ``all`` layers run.
        round_to: bytes storages are rounded up to; 1 for the bytes asked for, 512 for what PyTorch's CUDA allocator hands out.
        limit_s: seconds to give up after.
        on: ``gpu``: optimizers that leave the choice to PyTorch use ``foreach``, as they do there; ``cpu``: as on a CPU.
        notes: sentences to add to the answer.

    Returns:
        The trace of the whole model.

    Raises:
        RequestError: the code raised, needs a GPU, depends on values of tensors, or gave no gradients; with its file and line.
        UnfinishedError: over ``limit_s``.
    """
    began = time.monotonic()
    settings = Settings(kind, round_to, limit_s, on)
    said = list(notes)
    with plainly(name), faked():
        step = make()
        paths = stacks.module_paths(step.models)
        found = stacks.find_stacks(step.models, paths)
        every = [layer for stack in found for layer in stack.layers]
        counted = count(step.models, paths, every)
        guess = None
        if layers == "few" and _saves(every):
            guess = _few(step, make, every, settings)
            if guess is None:
                said.append("a few layers do not foretell this model to the byte, so all of them were run")
                step = make()
        if guess is None:
            guess = Extrapolation(_run(step, None, settings), {}, every)
    return answer(
        guess,
        Asked(name, kind, step.samples, step.seq, dict(step.made_with), (*said, *guess.base.recording.notes)),
        counted,
        seconds=time.monotonic() - began,
    )


def _saves(layers: Sequence[Layer]) -> bool:
    """Whether the depths to run have fewer layers together than the model."""
    cut = _cut_kinds(layers)
    counts = Counter(layer.kind for layer in layers)
    base = sum(min(count, DEPTH) if kind in cut else count for kind, count in counts.items())
    return bool(cut) and base * (1 + len(cut)) - len(cut) + base + len(cut) < len(layers)


def _cut_kinds(layers: Sequence[Layer]) -> list[str]:
    counts = Counter(layer.kind for layer in layers)
    return [kind for kind, count in counts.items() if count > DEPTH]


def _few(step: Step, make: Callable[[], Step], layers: Sequence[Layer], settings: Settings) -> Extrapolation | None:
    """Return the extrapolation from a few layers of each kind, or None where another depth shows that it does not hold."""
    kinds = _cut_kinds(layers)
    base = dict.fromkeys(kinds, DEPTH)
    try:
        first = _run(step, base, settings)
        fewer = {kind: _run(make(), base | {kind: DEPTH - 1}, settings) for kind in kinds}
        guess = Extrapolation(first, fewer, layers)
        deeper = _run(make(), dict.fromkeys(kinds, DEPTH + 1), settings)
    except (UnlikeDepthsError, LookupError, RuntimeError, ValueError, TypeError, AttributeError):
        return None  # what is wrong with the code, and not with the cut, shows again when all layers run
    return guess if same(guess.whole(deeper.layers), deeper) and alike(guess.sums(deeper.layers), deeper.sums) else None


def _run(step: Step, limits: Mapping[str, int] | None, settings: Settings) -> Observed:
    """Run a step twice with at most ``limits[kind]`` layers of each kind (None: all) and lay out the second time."""
    models = step.models
    paths = stacks.module_paths(models)
    found = stacks.find_stacks(models, paths)
    every = [layer for stack in found for layer in stack.layers]
    limits = limits or {}
    keep = [stacks.chosen(stack.layers, limits) for stack in found]
    tracer = Tracer(paths, round_to=settings.round_to, limit_s=settings.limit_s)
    with stacks.cut(found, keep, models):
        _settle_optimizers(step, models, on=settings.on, drop=len(every) != sum(map(len, keep)), every=paths)
        tracer.adopt(models)
        with unpacked(), tracer:
            if models:  # else the function builds all it needs: nothing lasts from one call to the next
                step.run()
                tracer.begin()
            step.run()
            tracer.end()
    recording = tracer.recording
    if settings.kind == "training" and not any(event.phase == "backward" for event in recording.events):
        raise RequestError(
            "no backward pass ran",
            mend="call loss.backward() in the step and leave the parameters trainable, or ask for the forward pass alone",
        )
    return observe(recording, [stack.layers[index] for stack, kept in zip(found, keep, strict=True) for index in kept])


def _settle_optimizers(
    step: Step, models: tuple[nn.Module, ...], *, on: str, drop: bool, every: Mapping[nn.Module, str]
) -> None:
    """Take parameters of cut layers out of the optimizers, and choose kernels as PyTorch would on the device."""
    left = {id(parameter) for model in models for parameter in model.parameters()}
    gone = (
        {id(parameter) for module in every for parameter in module.parameters(recurse=False)} - left if drop else set()
    )
    for optimizer in step.optimizers:
        for group in optimizer.param_groups:
            if gone:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in gone]
            if on == "gpu" and "foreach" in group and group["foreach"] is None and not group.get("fused"):
                group["foreach"] = True


def trace_module(
    build: Callable[[], nn.Module],
    inputs: Callable[[], tuple[Any, ...] | dict[str, Any]],
    *,
    name: str,
    loss: Callable[[Any], torch.Tensor] | None = None,
    optimizer: str | Callable[[Any], Any] | None = "adamw",
    precision: Literal["bf16", "fp16", "fp32", "bf16-autocast"] = "fp32",
    **options: Any,
) -> Trace:
    """Trace a training step (or, without an optimizer, a forward pass) of any module.

    Args:
        build: makes the module; called under fake tensors.
        inputs: makes positional or keyword arguments of one call.
        name: what to call it.
        loss: from the output to one number; None: the output's ``loss``, else the mean of its floating tensors.
        optimizer: a name of ``bytebound.trace.optimizers``, or from parameters to an optimizer; None: the forward pass alone.
        precision: dtype of parameters and inputs; ``bf16-autocast`` keeps them in 32 bits.
        options: of ``trace_step``.

    Returns:
        The trace.

    Raises:
        RequestError, UnfinishedError: as ``trace_step``.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)

    def make() -> Step:
        module = build().to(dtype)
        given = inputs()
        positional, named = ((), given) if isinstance(given, dict) else (given, {})
        positional = tuple(_cast(item, dtype) for item in positional)
        named = {key: _cast(item, dtype) for key, item in named.items()}
        if optimizer is None:
            module.eval()
            chosen = None
        else:
            wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
            chosen = optimizer(wanted) if callable(optimizer) else make_optimizer(optimizer, wanted)

        def run() -> None:
            with torch.set_grad_enabled(optimizer is not None):
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-autocast"):
                    number = (loss or loss_of)(module(*positional, **named))
                if chosen is not None:
                    number.backward()
                    chosen.step()
                    chosen.zero_grad()

        first = next(
            (item for item in (*positional, *named.values()) if isinstance(item, torch.Tensor) and item.dim()), None
        )
        return Step(
            module,
            run,
            (chosen,) if chosen is not None else (),
            samples=float(first.shape[0]) if first is not None else 0.0,
        )

    return trace_step(make, name=name, kind="forward" if optimizer is None else "training", **options)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def loss_of(output: Any) -> torch.Tensor:
    """The loss an output carries, or the mean of its floating tensors.

    Raises:
        RequestError: it holds neither.
    """
    carried = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if carried is not None:
        return carried
    found = [
        tensor
        for tensor in tensors_in(dict(output) if isinstance(output, dict) else output)
        if tensor.is_floating_point()
    ]
    if not found:
        raise RequestError(
            "the module returns no floating tensor to train on", mend="give loss=, from the output to one number"
        )
    return torch.stack([tensor.float().mean() for tensor in found]).sum()

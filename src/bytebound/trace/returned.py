"""What a traced function may return, and the step each stands for.

| it returns | the step |
|---|---|
| ``model, inputs`` | forward on the inputs, a loss, backward, AdamW |
| ``model, optimizer, inputs`` | the same with that optimizer |
| ``model, step`` or ``model, optimizer, step`` | ``step()`` |
| ``step`` | ``step()``; model and optimizers are those alive when the function returned |
| nothing | the function itself: it builds and runs the whole step |

``model`` is one ``nn.Module`` or a tuple of them, ``inputs`` a tensor, a tuple of arguments or a dict of keyword arguments, ``step`` a
function without arguments. The loss is the output's ``loss`` where there is one, else the mean of its first floating tensor. Everything
is built on the default device, where tensors have shapes and no values. ``torch.compile`` does nothing there.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

import torch
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bytebound.errors import RequestError
from bytebound.trace.kernels import SDPA, dropping
from bytebound.trace.raised import DeviceError
from bytebound.trace.run import Step, trace_step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bytebound.documents.trace import Trace

ACCEPTED = "return (model, inputs), (model, step), (model, optimizer, step), a step, or nothing"
CPU = frozenset({"cpu", "meta"})
Kind = Literal["training", "forward"]
MOVES = frozenset({"cuda", "xpu", "hpu", "mtia", "ipu"})


class OneDevice(TorchFunctionMode):  # type: ignore[misc]
    """Refuses every device but the default one, before PyTorch aborts the process over a traced tensor on it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func``.

        Raises:
            DeviceError: it moves or makes something on another device.
        """
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in MOVES or _elsewhere(given.get("device")) or (name == "to" and any(map(_elsewhere, args[1:3]))):
            raise DeviceError(f"{name} on another device")
        return func(*args, **given)


class AnyNumber(TorchDispatchMode):  # type: ignore[misc,unused-ignore]
    """Answers 1.0 where a number is read from a floating tensor while the step is made, as the tracer does while it runs."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func``."""
        try:
            return func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            if func is not torch.ops.aten._local_scalar_dense.default or not args[0].is_floating_point():  # noqa: SLF001
                raise
            return 1.0


def _elsewhere(device: object) -> bool:
    if isinstance(device, torch.device):
        return device.type not in CPU
    if isinstance(device, str):
        return device.partition(":")[0] not in CPU
    return isinstance(device, int) and not isinstance(device, bool)


def trace_function(
    function: Callable[[], object], *, name: str, kind: Kind, limit_s: float, on: Literal["gpu", "cpu"] = "gpu"
) -> Trace:
    """Return the trace of the step that ``function`` returns or is.

    Args:
        function: see the head of this module; called once for every depth that is traced.
        name: what the trace is called.
        kind: ``forward``: inputs are only run forward, without gradients, and a step needs no backward pass.
        limit_s: seconds after which tracing gives up.
        on: kernels of a GPU, or of a CPU: they differ in what optimizers and attention with dropout hold for a moment.

    Raises:
        RequestError: it returns something else.
    """
    mode = OneDevice()
    earlier: list[object] = []  # what calls for other depths made; held, so that no id is used again

    stepped: set[str] = set()

    def make() -> Step:
        with mode, AnyNumber():
            step = as_step(function(), function, kind, earlier)
        earlier.extend((*step.models, *step.optimizers))
        return replace(step, run=_under(mode, step.run))

    def choose(optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Let an optimizer that the step itself builds use ``foreach``, as it does on a GPU; ``trace_step`` sees to the others."""
        stepped.add(type(optimizer).__name__)
        for group in optimizer.param_groups if on == "gpu" else ():
            if "foreach" in group and group["foreach"] is None and not group.get("fused"):
                group["foreach"] = True

    hook = register_optimizer_step_pre_hook(choose)
    try:
        with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", dropping if on == "gpu" else SDPA):
            trace = trace_step(make, name=name, kind=kind, limit_s=limit_s, on=on)
    finally:
        hook.remove()
    if kind == "training" and not stepped:
        return replace(
            trace, notes=(*trace.notes, "no optimizer of PyTorch stepped, so no optimizer states are counted")
        )
    return trace


def _under(mode: TorchFunctionMode, run: Callable[[], object]) -> Callable[[], object]:
    def run_under() -> object:
        with mode:
            return run()

    return run_under


def as_step(
    returned: object, function: Callable[[], object], kind: Kind = "training", earlier: Sequence[object] = ()
) -> Step:
    """Return the step that ``returned`` stands for.

    Args:
        returned: what the function returned.
        function: the function, which is the step itself where it returned nothing.
        kind: whether a model is trained or only run forward.
        earlier: models and optimizers of earlier calls, which are not this step's.

    Raises:
        RequestError: it is none of what is accepted; the message names its type.
    """
    if isinstance(returned, Step):
        return returned
    if returned is None:
        return Step(model=(), run=function)
    if isinstance(returned, torch.nn.Module):
        raise RequestError("the function returns a model without inputs", mend="return (model, inputs)")
    if callable(returned) and not isinstance(returned, tuple | list):
        return Step(model=_alive_models(earlier), run=returned, optimizers=_alive(torch.optim.Optimizer, earlier))
    parts = list(returned) if isinstance(returned, tuple | list) else []
    if len(parts) not in (2, 3):
        raise RequestError(f"the function returns {_kinds(returned)}", mend=ACCEPTED)
    models = _several(parts[0], torch.nn.Module)
    optimizers = _several(parts[1], torch.optim.Optimizer) if len(parts) == 3 else ()
    last = parts[-1]
    if not models or (len(parts) == 3 and not optimizers):
        raise RequestError(f"the function returns {_kinds(returned)}", mend=ACCEPTED)
    if isinstance(last, torch.Tensor | tuple | list | dict) or hasattr(last, "keys"):
        return _module_step(models[0], last, optimizers, kind)
    if callable(last) and not isinstance(last, torch.nn.Module):
        return Step(model=models, run=last, optimizers=optimizers or _alive(torch.optim.Optimizer, earlier))
    raise RequestError(f"the function returns {_kinds(returned)}", mend=ACCEPTED)


def _several(value: object, kind: type) -> tuple[Any, ...]:
    if isinstance(value, kind):
        return (value,)
    return tuple(value) if isinstance(value, tuple | list) and value and all(isinstance(v, kind) for v in value) else ()


def _kinds(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_kinds, value))})"
    return "Tensor" if isinstance(value, torch.Tensor) else type(value).__name__


def _alive(kind: type, earlier: Sequence[object]) -> tuple[Any, ...]:
    """Return every object of ``kind`` that is alive and of no earlier call: this process holds nothing but the user's."""
    gone = set(map(id, earlier))
    return tuple(found for found in gc.get_objects() if issubclass(type(found), kind) and id(found) not in gone)


def _alive_models(earlier: Sequence[object]) -> tuple[Any, ...]:
    """Return every module that is alive, inside no other, and of tensors of the mode at work: an embedding process may hold others."""
    modules = _alive(torch.nn.Module, earlier)
    inner = {id(child) for module in _alive(torch.nn.Module, ()) for child in module.children()}
    return tuple(module for module in modules if id(module) not in inner and _traced_here(module))


def _traced_here(module: torch.nn.Module) -> bool:
    mode = active_fake_mode()
    return mode is None or all(getattr(part, "fake_mode", mode) is mode for part in module.parameters())


def _module_step(model: Any, inputs: Any, optimizers: tuple[Any, ...], kind: Kind) -> Step:
    """Return the step that trains ``model`` on ``inputs`` once, or runs it forward."""
    arguments, named = _arguments(inputs)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if kind == "training" and not optimizers and trained:
        optimizers = (torch.optim.AdamW(trained),)

    def train() -> None:
        loss = loss_of(model(*arguments, **named))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def forward() -> None:
        with torch.no_grad():
            model(*arguments, **named)

    shapes = [
        (v.shape, v.is_floating_point())
        for v in (*arguments, *named.values())
        if isinstance(v, torch.Tensor) and v.ndim
    ]
    (samples, *rest), floating = shapes[0] if shapes else ((0,), True)
    return Step(
        model=model,
        run=train if kind == "training" else forward,
        optimizers=optimizers,
        samples=float(samples),
        seq=0.0 if floating or len(rest) != 1 else float(rest[0]),
    )


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if hasattr(inputs, "keys"):
        return (), {key: inputs[key] for key in inputs.keys()}  # noqa: SIM118 - a BatchEncoding iterates otherwise
    return tuple(inputs), {}


def loss_of(output: Any) -> torch.Tensor:
    """Return the loss of an output: its own, or the mean of its first floating tensor.

    Raises:
        RequestError: it holds none.
    """
    own = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if isinstance(own, torch.Tensor):
        return own
    values = output.values() if hasattr(output, "values") and not isinstance(output, torch.Tensor) else output
    values = (values,) if isinstance(values, torch.Tensor) else values
    for value in values if hasattr(values, "__iter__") else ():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.mean()
    raise RequestError(
        f"the model returns a {type(output).__name__} without a loss or a floating tensor",
        mend="return (model, step) with a step that makes the loss",
    )

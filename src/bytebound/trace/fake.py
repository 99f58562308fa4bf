"""The world traced code runs in: tensors with shapes and no values, no compilation."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


SMALL = 1024
"""Elements up to which PyTorch carries the values of a constant along."""


@contextmanager
def faked() -> Iterator[None]:
    """Make every new tensor fake on the CPU device; real ones that code brings along become fake where they are used.

    Fake tensors on the meta device would take other attention kernels, on cuda they abort a build without it.
    """
    with (
        _unfused(),
        mock.patch.object(torch.nn.Module, "_apply", _apply),
        mock.patch.object(torch.nn.init, "_no_grad_trunc_normal_", _untouched),
        mock.patch.object(torch, "linspace", _kept(torch.linspace)),
        mock.patch.object(torch._meta_registrations, "_meta_grouped_mm_common", _grouped_mm),  # noqa: SLF001
        mock.patch.object(torch.amp.GradScaler, "_maybe_opt_step", _step),
        mock.patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", SMALL),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.compiler.set_stance("force_eager"),
    ):
        yield


@contextmanager
def _unfused() -> Iterator[None]:
    """Run encoder layers in evaluation operator by operator: as one, nobody could see their products."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _kept(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a factory whose small tensors keep their values beside them: networks read a rate per layer out of one as they are built."""

    def made(*args: Any, **kwargs: Any) -> torch.Tensor:
        with unset_fake_temporarily():
            real = factory(*args, **kwargs)
        return torch.ops.aten.lift_fresh(real)

    return made


_bf16_grouped_mm = torch._meta_registrations._meta_grouped_mm_common  # noqa: SLF001


def _grouped_mm(first: torch.Tensor, second: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
    """Take any floating type in products of groups, as their kernels do; PyTorch 2.13's rule for shapes takes 16-bit ones alone."""
    if first.dtype != second.dtype or first.dtype not in (torch.float32, torch.float16):
        return _bf16_grouped_mm(first, second, *rest, **named)
    return _bf16_grouped_mm(first.bfloat16(), second.bfloat16(), *rest, **named).to(first.dtype)


def _step(_scaler: torch.amp.GradScaler, optimizer: Any, _state: Any, *args: Any, **kwargs: Any) -> Any:
    """Step as a scaler does after a good step: whether gradients overflowed is a value."""
    return optimizer.step(*args, **kwargs)


def _untouched(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Stand in for an initialisation that draws again until no value is out of bounds."""
    return tensor


@contextmanager
def unpacked() -> Iterator[None]:
    """Let transformers take sequences that state no mask as one each, as it finds from their positions' values when they have some.

    On tensors without values it assumes several packed into one, and builds masks that no real run has.
    """
    masks = sys.modules.get("transformers.masking_utils")
    if masks is None or not hasattr(masks, "find_packed_sequence_indices"):
        yield
        return
    with mock.patch.object(masks, "find_packed_sequence_indices", return_value=None):
        yield


def _apply(self: torch.nn.Module, fn: Callable[[Any], Any], recurse: bool = True) -> torch.nn.Module:  # noqa: FBT001, FBT002 - PyTorch's signature
    """Apply ``fn`` as ``Module._apply`` does to real tensors: it swaps fake ones, which PyTorch 2.13 refuses."""
    for child in self.children() if recurse else ():
        child._apply(fn)  # noqa: SLF001
    for parameter in self._parameters.values():
        if parameter is not None:
            with torch.no_grad():
                parameter.data = fn(parameter)
                if parameter.grad is not None:
                    parameter.grad.data = fn(parameter.grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self

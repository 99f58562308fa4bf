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
        mock.patch.object(torch.nn.Module, "_apply", _apply),
        mock.patch.object(torch.nn.init, "_no_grad_trunc_normal_", _untouched),
        mock.patch.object(torch, "linspace", _kept(torch.linspace)),
        mock.patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", SMALL),
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.compiler.set_stance("force_eager"),
    ):
        yield


def _kept(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a factory whose small tensors keep their values beside them: networks read a rate per layer out of one as they are built."""

    def made(*args: Any, **kwargs: Any) -> torch.Tensor:
        with unset_fake_temporarily():
            real = factory(*args, **kwargs)
        return torch.ops.aten.lift_fresh(real)

    return made


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

"""Optimizers a Train request can name, as code whose states and temporaries a trace sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bytebound.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

TRACED = ("adamw", "adamw-bf16", "sgd", "sgd-momentum", "lion", "adafactor", "muon")
"""What can be traced; the rest of ``documents.work.OPTIMIZERS`` lives in packages with GPU kernels."""


def make_optimizer(name: str, parameters: Sequence[torch.Tensor], *, kernel: str = "auto") -> torch.optim.Optimizer:
    """Return the optimizer ``name`` over ``parameters``.

    Args:
        name: one of ``TRACED``.
        parameters: what it trains.
        kernel: ``foreach`` (and ``auto``: PyTorch's choice on a GPU), ``fused`` or ``loop``.

    Raises:
        UnknownNameError: no optimizer of this name can be traced.
    """
    how: dict[str, Any] = {"foreach": kernel in {"foreach", "auto"}}
    fusable = how | {"fused": True, "foreach": False} if kernel == "fused" else how
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=1e-4, **fusable)
    if name == "adamw-bf16":
        return AdamW16(parameters)
    if name in {"sgd", "sgd-momentum"}:
        return torch.optim.SGD(parameters, lr=1e-4, momentum=0.9 if name == "sgd-momentum" else 0.0, **fusable)
    if name == "adafactor":
        return torch.optim.Adafactor(parameters, **how)
    if name == "lion":
        return Lion(parameters)
    if name == "muon":
        return MuonAndAdamW(parameters)
    raise UnknownNameError(
        "optimizer to trace",
        name,
        TRACED,
        place="optimizer",
        mend="trace with adamw, or ask the formulas (bytebound train)",
    )


class AdamW16(torch.optim.Optimizer):
    """AdamW with both moments in bf16, one parameter at a time in 32 bits."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - the base class's signature
        """Update once."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
                    state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
                gradient = parameter.grad.float()
                mean = state["exp_avg"].float().lerp_(gradient, 0.1)
                square = state["exp_avg_sq"].float().mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                state["exp_avg"].copy_(mean)
                state["exp_avg_sq"].copy_(square)
                parameter.mul_(0.999).add_(mean.div_(square.sqrt_().add_(1e-8)).to(parameter.dtype), alpha=-1e-4)


class Lion(torch.optim.Optimizer):
    """Lion (arXiv 2302.06675, algorithm 2): one moment, the sign of its mix with the gradient."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - the base class's signature
        """Update once."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                update = state["exp_avg"].lerp(parameter.grad, 0.1).sign_()
                parameter.mul_(0.999).add_(update, alpha=-1e-4)
                state["exp_avg"].lerp_(parameter.grad, 0.01)


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for matrices, AdamW for the rest, as Muon is used."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(parameters, {})
        matrices = [parameter for parameter in parameters if parameter.dim() == 2]
        rest = [parameter for parameter in parameters if parameter.dim() != 2]
        self.parts = [torch.optim.Muon(matrices)] if matrices else []
        self.parts += [torch.optim.AdamW(rest, foreach=True)] if rest else []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - the base class's signature
        """Update once."""
        mine = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        for part in self.parts:
            for group in part.param_groups:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) in mine]
            part.step()


class Master(torch.optim.Optimizer):
    """16-bit weights with 32-bit gradients and master copies, and an optimizer over the copies (mixed precision as in Megatron).

    Gradients are added to a 32-bit ``main_grad`` as they come and the 16-bit one is freed at once.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], name: str, *, kernel: str, keep: torch.dtype) -> None:
        super().__init__(parameters, {})
        self.copies = {parameter: torch.nn.Parameter(parameter.detach().float()) for parameter in parameters}
        self.inner = make_optimizer(name, list(self.copies.values()), kernel=kernel)
        self.keep = keep
        for parameter in parameters if keep == torch.float32 else ():
            parameter.register_post_accumulate_grad_hook(self._collect)  # type: ignore[attr-defined]

    def _collect(self, parameter: Any) -> None:
        copy = self.copies[parameter]
        if copy.grad is None:
            copy.grad = parameter.grad.float()
        else:
            copy.grad.add_(parameter.grad)
        parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - the base class's signature
        """Update the copies and write the weights from them."""
        mine = [parameter for group in self.param_groups for parameter in group["params"]]
        copies = [self.copies[parameter] for parameter in mine]
        for parameter, copy in zip(mine, copies, strict=True):
            if parameter.grad is not None:
                copy.grad = parameter.grad.float()
        left = set(map(id, copies))
        for group in self.inner.param_groups:
            group["params"] = [copy for copy in group["params"] if id(copy) in left]
        self.inner.step()
        self.inner.zero_grad()
        for parameter, copy in zip(mine, copies, strict=True):
            parameter.copy_(copy)
            self.state[parameter]["master"] = copy

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


class AdamW16(torch.optim.Optimizer):  # type: ignore[misc]
    """AdamW with both moments in bf16, one parameter at a time in 32 bits."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()  # type: ignore[untyped-decorator]
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


class Lion(torch.optim.Optimizer):  # type: ignore[misc]
    """Lion (arXiv 2302.06675, algorithm 2): one moment, the sign of its mix with the gradient."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()  # type: ignore[untyped-decorator]
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


class MuonAndAdamW(torch.optim.Optimizer):  # type: ignore[misc]
    """Muon for matrices, AdamW for the rest, as Muon is used."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        super().__init__(parameters, {})
        matrices = [parameter for parameter in parameters if parameter.dim() == 2]
        rest = [parameter for parameter in parameters if parameter.dim() != 2]
        self.parts = [torch.optim.Muon(matrices)] if matrices else []
        self.parts += [torch.optim.AdamW(rest, foreach=True)] if rest else []

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - the base class's signature
        """Update once."""
        mine = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        for part in self.parts:
            for group in part.param_groups:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) in mine]
            part.step()


class Master(torch.optim.Optimizer):  # type: ignore[misc]
    """16-bit weights with 32-bit gradients and master copies, and an optimizer over the copies (mixed precision as in Megatron).

    With ``keep`` in 32 bits gradients are added to a ``main_grad`` as they come and the 16-bit one is freed at once; else they
    stay in 16 bits and are widened in the step.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], name: str, *, kernel: str, keep: torch.dtype) -> None:
        super().__init__(parameters, {})
        self.inner: torch.optim.Optimizer | None = None
        self.named, self.kernel = name, kernel
        wide = parameters if keep == torch.float32 else ()
        self.hooks = [parameter.register_post_accumulate_grad_hook(_collect) for parameter in wide]

    def release(self) -> None:
        """Stop collecting gradients."""
        for hook in self.hooks:
            hook.remove()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 - the base class's signature
        """Update the copies and write the weights from them."""
        pairs = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = getattr(parameter, "main_grad", None)
                gradient = parameter.grad if gradient is None else gradient
                if gradient is not None:
                    state = self.state[parameter]
                    if not state:
                        state["master"] = parameter.detach().float().requires_grad_()
                    state["master"].grad = gradient.float()
                    pairs.append((parameter, state["master"]))
        if self.inner is None:
            self.inner = make_optimizer(self.named, [master for _, master in pairs], kernel=self.kernel)
        self.inner.step()
        for parameter, master in pairs:
            parameter.copy_(master)
            master.grad = None
            self.state[parameter].update(self.inner.state[master])

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - the base class's signature
        """Drop gradients of both widths."""
        super().zero_grad(set_to_none)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.main_grad = None


def _collect(parameter: Any) -> None:
    if getattr(parameter, "main_grad", None) is None:
        parameter.main_grad = parameter.grad.float()
    else:
        parameter.main_grad.add_(parameter.grad)
    parameter.grad = None

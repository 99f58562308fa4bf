"""One pass over a step under fake tensors: when storages live and die, what operators move, and whose module each belongs to."""

from __future__ import annotations

import functools
import time
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from bytebound.errors import UnfinishedError
from bytebound.trace.formulas import Operator, operator
from bytebound.trace.recording import BEFORE, Event, Recording, Storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

    from bytebound.documents.trace import Phase

DEVICE = torch.ops.prim.device.default
PRODUCTS = frozenset({"gemm", "attention", "conv"})


class Tracer(TorchDispatchMode):  # type: ignore[misc]
    """Records every operator below it.

    Args:
        paths: path of every module, of the whole model (a cut one keeps its old paths).
        round_to: storages are rounded up to this many bytes (512: PyTorch's CUDA caching allocator; 1: not at all).
        limit_s: seconds after which tracing gives up with UnfinishedError.
    """

    def __init__(self, paths: dict[nn.Module, str], *, round_to: int = 1, limit_s: float = 600.0) -> None:
        super().__init__()
        self.recording = Recording()
        self.round_to = round_to
        self.deadline = time.monotonic() + limit_s
        self.limit_s = limit_s
        self.paths = paths
        self.alive: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self.owner: dict[int, str] = {}  # storage -> path of the parameter it serves, in the optimizer
        self.phase: Phase = "forward"
        self.instance = 0
        self.stack: list[str] = []
        self.depth = 0  # of the module stack when backward began
        self.by_sequence: dict[int, str] = {}
        self.optimizing = 0
        self.past_backward = False
        self.last = ""
        self.given_up: frozenset[int] = frozenset()
        self.hooks = ExitStack()
        self.by_parameter: dict[int, tuple[str, str]] = {}

    def adopt(self, modules: Iterable[nn.Module]) -> None:
        """Count the parameters and buffers of ``modules`` as held from the start."""
        for module in modules:
            for inner in module.modules():
                path = self.paths.get(inner, "")
                for name, parameter in inner.named_parameters(recurse=False):
                    self.own(parameter, role="parameter", module=path, name=name, trainable=parameter.requires_grad)
                    if id(parameter) not in self.by_parameter:
                        self.by_parameter[id(parameter)] = (path, name)
                        if parameter.requires_grad and parameter.is_leaf:
                            handle = parameter.register_post_accumulate_grad_hook(self._mark_gradient)
                            self.hooks.callback(handle.remove)
                for name, buffer in inner.named_buffers(recurse=False):
                    self.own(buffer, role="buffer", module=path, name=name, trainable=False)

    def own(
        self, tensor: Tensor, *, role: str = "", module: str = "", name: str = "", op: str = "", trainable: bool = True
    ) -> int:
        """Return the number of the tensor's storage, noting it where it is new."""
        if not role and isinstance(tensor, torch.nn.Parameter):
            role = "parameter"  # of a model built inside the step
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001 - identity of the allocation
        known = self.alive.get(key)
        if known is not None:
            if role == "parameter" and not (old := self.recording.storages[known[0]]).role:
                old.role, old.trainable = role, tensor.requires_grad
            return known[0]
        number = len(self.recording.storages)
        size = -(-storage.nbytes() // self.round_to) * self.round_to
        born = len(self.recording.events) if op else BEFORE
        self.recording.storages.append(
            Storage(
                size, born, self.phase, module, op, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."),
                role=role, name=name, trainable=trainable,
            )
        )  # fmt: skip
        self.alive[key] = (number, weakref.ref(storage, functools.partial(self._drop, key, number)))
        return number

    def _drop(self, key: int, number: int, _reference: Any) -> None:
        if self.alive.get(key, (None,))[0] == number:
            del self.alive[key]
        self.recording.storages[number].died = len(self.recording.events)
        if number in self.given_up:
            self.recording.storages[number].died = len(self.recording.events) - 1
            self.given_up = frozenset()

    def _mark_gradient(self, parameter: Tensor) -> None:
        for gradient in (parameter.grad, getattr(parameter, "main_grad", None)):  # the latter is Megatron's 32-bit one
            if gradient is not None:
                self._mark(gradient, "gradient", parameter, "grad")

    def _mark(self, tensor: Tensor, role: str, parameter: Tensor, name: str) -> None:
        number = self.own(tensor)
        storage = self.recording.storages[number]
        if storage.role in {"", role}:
            path, leaf = self.by_parameter.get(id(parameter), ("", ""))
            storage.role, storage.module, storage.name = role, path, f"{leaf}.{name}" if leaf else name
            self.owner[number] = path

    def __enter__(self) -> Self:
        """Listen to modules and optimizers too."""
        for handle in (
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
            register_optimizer_step_pre_hook(self._enter_optimizer),
            register_optimizer_step_post_hook(self._leave_optimizer),
        ):
            self.hooks.callback(handle.remove)
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop listening."""
        super().__exit__(*error)
        self.hooks.close()

    def _enter_module(self, module: nn.Module, _inputs: Any) -> None:
        self.stack.append(self.paths.get(module) or (self.stack[-1] if self.stack else ""))
        if torch._C._current_graph_task_id() == -1:  # noqa: SLF001
            self.past_backward = False

    def _leave_module(self, *_: Any) -> None:
        self.stack.pop()

    def _enter_optimizer(self, optimizer: Any, *_: Any) -> None:
        self.optimizing += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self.owner.setdefault(self.own(parameter), self.by_parameter.get(id(parameter), ("", ""))[0])
                self._mark_gradient(parameter)

    def _leave_optimizer(self, optimizer: Any, *_: Any) -> None:
        self.optimizing -= 1
        for parameter, state in optimizer.state.items():
            for name, value in state.items() if isinstance(state, dict) else ():
                for tensor in tensors_in(value):
                    self._mark(tensor, "optimizer", parameter, name)

    def begin(self) -> None:
        """Start the iteration that is reported."""
        self.recording.start = len(self.recording.events)
        self.past_backward = False
        self.by_sequence.clear()

    def end(self) -> None:
        """End the iteration that is reported."""
        self.recording.stop = len(self.recording.events)

    def _now(self) -> Phase:
        if self.optimizing:
            return "optimizer"
        if torch._C._current_graph_task_id() != -1:  # noqa: SLF001
            if self.phase != "backward":
                self.depth = len(self.stack)
            self.past_backward = True
            return "backward"
        return "optimizer" if self.past_backward else "forward"

    def _module(self, phase: Phase) -> str:
        """Path of the module an operator serves: the innermost running one, or in backward the one whose forward made the node."""
        if phase == "forward":
            return self.stack[-1] if self.stack else ""
        if phase == "backward":
            if len(self.stack) > self.depth:  # recomputation
                return self.stack[-1]
            node = torch._C._current_autograd_node()  # noqa: SLF001
            if node is not None:
                variable = getattr(node, "variable", None)
                if variable is not None:
                    return self.by_parameter.get(id(variable), (self.last, ""))[0]
                return self.by_sequence.get(node._sequence_nr(), self.last)  # noqa: SLF001
        return self.last if phase == "backward" else ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and note what it did."""
        kwargs = kwargs or {}
        if func is DEVICE and isinstance(args[0], FakeTensor):  # asked more often than all else together
            return args[0].fake_device
        if func.namespace == "prim":  # asks a tensor for its layout
            return func(*args, **kwargs)
        phase = self._now()
        if phase != self.phase:
            self.phase, self.instance = phase, self.instance + 1
        module = self.last = self._module(phase)
        if phase == "forward" or len(self.stack) > self.depth:
            self.by_sequence.setdefault(torch._C._autograd._get_sequence_nr() - 1, module)  # noqa: SLF001
        known = operator(func)
        self.given_up = frozenset()
        try:
            out = func(*args, **kwargs)
        except DataDependentOutputException:
            if known.name != "_local_scalar_dense" or not args[0].dtype.is_floating_point:
                raise
            return self._made_up()
        if not known.view:
            self._note(known, module, args, kwargs, out)
        return out

    def _made_up(self) -> float:
        note = "numbers read from tensors (.item()) were taken as 1.0, for no values exist"
        if note not in self.recording.notes:
            self.recording.notes.append(note)
        return 1.0

    def _note(self, known: Operator, module: str, args: Any, kwargs: Any, out: Any) -> None:
        inputs = [(self.own(tensor), tensor) for tensor in tensors_in((args, kwargs))]
        fed = {number for number, _ in inputs}
        outputs = list(tensors_in(out))
        if self.phase == "optimizer":
            module = self._owner(fed)
        made = {self.own(tensor, module=module, op=known.name): _bytes(tensor) for tensor in outputs}
        fresh = {number: size for number, size in made.items() if number not in fed}
        if outputs and not fresh and not known.writes:
            return  # a view by another name
        written = {}
        for place, name in known.writes:
            value = args[place] if place < len(args) else kwargs.get(name)
            written.update({self.own(tensor): _bytes(tensor) for tensor in tensors_in(value)})
        reads = {number: _bytes(tensor) for number, tensor in inputs if known.reads_written or number not in written}
        if known.looks_up and inputs:
            reads[inputs[0][0]] = min(reads.get(inputs[0][0], 0.0), sum(made.values()))
        writes = {**(fresh if known.writes_output else {}), **written}
        if self.phase == "optimizer":
            for number in fresh:
                self.owner[number] = module
        self.recording.events.append(
            Event(
                op=known.name,
                kind=known.kind,
                phase=self.phase,
                instance=self.instance,
                module=module,
                math=str(inputs[0][1].dtype).removeprefix("torch.") if known.kind in PRODUCTS and inputs else "",
                again=self.phase == "backward" and torch.is_grad_enabled(),
                flops=_flops(known, args, kwargs, out, inputs=inputs, outputs=outputs, writes=writes),
                reads=tuple(reads.items()),
                writes=tuple(writes.items()),
            )
        )
        if self._accumulates(known, inputs, outputs):
            self.given_up = frozenset(fed)
        if not len(self.recording.events) % 256 and time.monotonic() > self.deadline:
            raise UnfinishedError(
                f"tracing took longer than {self.limit_s:g} s ({len(self.recording.events):,} operators)",
                mend="trace a shorter sequence or fewer layers, or raise the limit",
            )

    def _accumulates(self, known: Operator, inputs: list[tuple[int, Tensor]], outputs: list[Tensor]) -> bool:
        """Whether autograd adds two gradients of one tensor here.

        On real tensors it adds into one that nobody else holds (torch/csrc/autograd/input_buffer.cpp, ``can_accumulate_inplace``);
        under a dispatch mode it makes a third. The first operand to die with this operator gives its memory to the sum. A view (the
        transposed gradient of a linear layer whose weight is tied) is held by its base, and is never added into.
        """
        return (
            known.name == "add"
            and self.phase == "backward"
            and not torch.is_grad_enabled()  # else a recomputation
            and not isinstance(torch._C._current_autograd_node(), BackwardCFunction)  # noqa: SLF001 - its own arithmetic
            and len(inputs) == 2
            and not inputs[0][1]._is_view()  # noqa: SLF001 - autograd asks the same
            and all(tensor.untyped_storage().nbytes() == outputs[0].untyped_storage().nbytes() for _, tensor in inputs)
        )

    def _owner(self, fed: set[int]) -> str:
        """Path of the one module whose parameters an optimizer's operator touches ("" for several)."""
        owners = {path for number in fed if (path := self.owner.get(number)) is not None}
        return owners.pop() if len(owners) == 1 else ""


def _flops(
    known: Operator, args: Any, kwargs: Any, out: Any, *, inputs: Any, outputs: Any, writes: dict[int, float]
) -> float:
    if known.flops is not None:
        return float(known.flops(*args, **{**kwargs, "out": out}))
    if known.per_read:
        return known.per_read * float(sum(tensor.numel() for _, tensor in inputs[:1]))
    if known.per_written:
        if outputs:
            return known.per_written * float(sum(tensor.numel() for tensor in outputs))
        return known.per_written * float(sum(tensor.numel() for number, tensor in inputs if number in writes))
    return 0.0


def _bytes(tensor: Tensor) -> float:
    """Bytes an operand can touch: an expanded tensor is no larger than its storage."""
    return float(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)

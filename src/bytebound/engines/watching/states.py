"""What a training run holds between steps: parameters, gradients and optimizer states, each storage counted once."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Place = tuple[str, int]
"""Device (``cpu``, ``cuda:0``) and address of a storage."""


class Block(NamedTuple):
    """What a storage is for (parameters, gradients or optimizer) and its bytes."""

    category: str
    storage_bytes: int


def plain_tensors(torch: Any, value: Any, depth: int = 3) -> Iterator[Any]:
    """Yield every ordinary tensor in ``value``: inside lists and dictionaries, and inside sharded or quantized tensors."""
    if isinstance(value, torch.Tensor):
        parts = getattr(value, "__tensor_flatten__", None)
        if parts is None:
            yield value
            state = getattr(value, "quant_state", None)  # bitsandbytes keeps scales beside the 4-bit weights
            yield from plain_tensors(torch, vars(state) if hasattr(state, "absmax") else (), depth - 1)
        else:
            for name in parts()[0]:
                yield from plain_tensors(torch, getattr(value, name), depth)
    elif isinstance(value, dict) and depth:
        for item in list(value.values()):
            yield from plain_tensors(torch, item, depth - 1)
    elif isinstance(value, list | tuple) and depth:
        for item in value:
            yield from plain_tensors(torch, item, depth - 1)


def place_of(tensor: Any) -> Place | None:
    """Return where a tensor's storage lies; None where it has no memory (meta, freed by FSDP, sparse)."""
    try:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
    except (RuntimeError, NotImplementedError):
        return None
    return (str(tensor.device), address) if address and storage.nbytes() else None


def held(torch: Any, roots: Iterable[Any], optimizers: Iterable[Any]) -> dict[Place, Block]:
    """Return every storage that lives on between steps. Buffers count as parameters.

    What an optimizer steps that no module holds is a master copy, and counts as optimizer.
    """
    found: dict[Place, Block] = {}

    def add(category: str, value: Any) -> None:
        for tensor in plain_tensors(torch, value):
            place = place_of(tensor)
            if place is not None:
                found.setdefault(place, Block(category, tensor.untyped_storage().nbytes()))

    optimizers = list(optimizers)
    for root in roots:
        for tensor in (*root.parameters(), *root.buffers()):
            add("parameters", tensor)
            add("gradients", tensor.grad if tensor.is_leaf else None)
    for optimizer in optimizers:
        for tensor in stepped(optimizer):
            add("optimizer", tensor)
            add("gradients", tensor.grad)
        add("optimizer", dict(optimizer.state))
    return found


def stepped(optimizer: Any) -> Iterator[Any]:
    """Yield the tensors that ``optimizer`` changes."""
    for group in optimizer.param_groups:
        yield from group["params"]


def find_roots(torch: Any, optimizers: Iterable[Any]) -> list[Any]:
    """Return the outermost modules that hold parameters of ``optimizers``, the largest first.

    They are looked up among all living objects, once: hooks on every module would slow the run and upset its compiler.
    """
    wanted = {id(tensor) for optimizer in optimizers for tensor in stepped(optimizer)}
    # by type(): isinstance would ask foreign proxies for their class, and some answer by doing things
    modules = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Module)]
    inner = {id(child) for module in modules for child in vars(module).get("_modules", {}).values()}
    roots = [m for m in modules if id(m) not in inner and any(id(p) in wanted for p in m.parameters())]
    return sorted(roots, key=lambda m: -size(m))


def size(module: Any) -> int:
    """Return the number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def trunk(root: Any) -> list[Any]:
    """Return ``root`` and the modules inside it that hold at least half of its parameters: one of them is called by a step."""
    found, least = [root], size(root) / 2
    while True:
        inside = [child for child in found[-1].children() if size(child) > least]
        if not inside:
            return found
        found.append(inside[0])

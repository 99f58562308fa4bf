"""Repeated layers of a model: found by structure, cut to a few of each kind, and put back."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

LISTS = (nn.ModuleList, nn.Sequential)
PLACES = re.compile(r"(idx|index|layer_id|layer_num|block_id)")
"""Attributes that only say which layer one is."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a repeated list: its path, its kind (the name of its stack) and the list that holds it."""

    path: str
    kind: str
    within: str


@dataclass(frozen=True, slots=True)
class Layered:
    """A list of layers and the kind of each."""

    path: str
    holder: nn.Module
    children: tuple[nn.Module, ...]
    layers: tuple[Layer, ...]


def module_paths(models: Sequence[nn.Module]) -> dict[nn.Module, str]:
    """Path of every module; with several models each path starts with the model's place and class."""
    paths: dict[nn.Module, str] = {}
    for place, model in enumerate(models):
        head = f"{type(model).__name__}{place}" if len(models) > 1 else ""
        for path, module in model.named_modules():
            paths.setdefault(module, ".".join(filter(None, (head, path))))
    return paths


def find_stacks(models: Sequence[nn.Module], paths: dict[nn.Module, str]) -> list[Layered]:
    """Return the outermost lists that hold at least two layers of one structure; lists of experts are one layer's width."""
    found: list[Layered] = []
    names: dict[str, int] = {}

    def visit(module: nn.Module) -> None:
        path = paths[module]
        children = tuple(module.children())
        if isinstance(module, LISTS) and len(children) > 1 and "expert" not in path.rsplit(".", 1)[-1]:
            signatures = [signature(child) for child in children]
            if len(set(signatures)) < len(signatures):
                kinds: dict[object, str] = {}
                for child, mark in zip(children, signatures, strict=True):
                    if mark not in kinds:
                        kinds[mark] = _unique(type(child).__name__, names)
                layers = tuple(
                    Layer(paths[child], kinds[mark], path) for child, mark in zip(children, signatures, strict=True)
                )
                found.append(Layered(path, module, children, layers))
                return
        for child in children:
            visit(child)

    for model in models:
        visit(model)
    return found


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}/{taken[name]}"


def signature(module: nn.Module) -> tuple[Any, ...]:
    """What makes two layers the same work: classes, shapes, dtypes and plain settings all the way down."""
    marks: list[Any] = []
    for path, inner in module.named_modules():
        settings = tuple(
            (name, bool(value) if isinstance(value, float) else value)
            for name, value in sorted(inner.__dict__.items())
            if isinstance(value, (int, float, str, type(None), tuple)) and not name.startswith("_") and not PLACES.search(name)
            and _plain(value)
        )  # fmt: skip
        tensors = tuple(
            (name, tuple(tensor.shape), tensor.dtype, tensor.requires_grad)
            for name, tensor in (*inner.named_parameters(recurse=False), *inner.named_buffers(recurse=False))
        )
        marks.append((path, type(inner), settings, tensors))
    return tuple(marks)


def _plain(value: Any) -> bool:
    return not isinstance(value, tuple) or all(isinstance(item, (int, float, str)) for item in value)


def chosen(layers: Sequence[Layer], limits: Mapping[str, int]) -> list[int]:
    """Indices kept: of every kind at most ``limits[kind]``, its first and last and those spread evenly between."""
    kept: set[int] = set()
    for kind in {layer.kind for layer in layers}:
        places = [index for index, layer in enumerate(layers) if layer.kind == kind]
        limit = min(limits.get(kind, len(places)), len(places))
        steps = max(limit - 1, 1)
        kept.update(places[round(step * (len(places) - 1) / steps)] for step in range(limit))
    return sorted(kept)


@contextmanager
def cut(stacks: Sequence[Layered], keep: Sequence[Sequence[int]], models: Sequence[nn.Module]) -> Iterator[None]:
    """Leave only the layers of ``keep`` (indices per stack) in their lists while the context lasts.

    Per-layer lists of a ``config`` (``layer_types``) are cut alike, for some models look a layer's kind up by its place.
    """
    undo: list[tuple[Any, str, Any]] = []
    try:
        for stack, indices in zip(stacks, keep, strict=True):
            undo.append((stack.holder, "_modules", stack.holder._modules))  # noqa: SLF001 - lists cannot be cut otherwise
            stack.holder._modules = {str(place): stack.children[index] for place, index in enumerate(indices)}  # noqa: SLF001
            for config in _configs(models):
                for name, value in list(vars(config).items()):
                    if isinstance(value, list) and len(value) == len(stack.children) and len(indices) < len(value):
                        undo.append((config, name, value))
                        vars(config)[name] = [value[index] for index in indices]
        yield
    finally:
        for target, name, value in reversed(undo):
            vars(target)[name] = value


def _configs(models: Sequence[nn.Module]) -> list[Any]:
    configs = {
        id(config): config
        for model in models
        for module in model.modules()
        if (config := getattr(module, "config", None))
    }
    return [config for config in configs.values() if hasattr(config, "__dict__")]


def layer_of(path: str, layers: dict[str, Layer]) -> Layer | None:
    """Return the layer that ``path`` lies in."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        layer = layers.get(".".join(parts[:end]))
        if layer is not None:
            return layer
    return None


def starred(path: str, layer: Layer | None) -> str:
    """``path`` with the number of its layer as ``*``."""
    return path if layer is None else f"{layer.within}.*{path[len(layer.path) :]}".lstrip(".")


def trained(parameters: Iterable[Any]) -> float:
    """Parameters that want gradients."""
    return float(sum(parameter.numel() for parameter in parameters if parameter.requires_grad))

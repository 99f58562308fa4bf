"""What a training process is: its model, optimizers, precision, place in the job, and what a step is fed."""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

from .states import plain_tensors, size, stepped

MOST = 8
"""Optimizers that are described: some programs have one for every parameter."""
TEXT = 200_000
"""Characters of a model's config beyond which it is left out."""


def inputs(torch: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, float, dict[str, Any]]:
    """Return samples, tokens (0 where the input is no text) and the shapes of what a model is given."""
    named = {str(place): value for place, value in enumerate(args)} | kwargs
    shapes = {name: value for name, value in named.items() if isinstance(value, torch.Tensor) and value.dim()}
    if not shapes:
        nested = next(iter(plain_tensors(torch, [*args, kwargs])), None)
        shapes = {} if nested is None or not nested.dim() else {"0": nested}
    if not shapes:
        return 0.0, 0.0, {}
    first = shapes.get("input_ids", next(iter(shapes.values())))
    text = not first.dtype.is_floating_point and first.dim() == 2
    said = {name: [*value.shape, str(value.dtype).removeprefix("torch.")] for name, value in list(shapes.items())[:8]}
    return float(first.shape[0]), float(first.numel()) if text else 0.0, said


def autocast(torch: Any, args: tuple[Any, ...]) -> str:
    """Return the dtype autocast multiplies in here; empty where it is off."""
    kind = args[0].device.type if args and isinstance(args[0], torch.Tensor) else "cpu"
    if not torch.is_autocast_enabled(kind):
        return ""
    return str(torch.get_autocast_dtype(kind)).removeprefix("torch.")


def memory(torch: Any, device: str) -> dict[str, float]:
    """Return what the device's allocator and the system say is held and was held at most [bytes], without resetting anything."""
    # getrusage counts KiB on Linux and bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    found: dict[str, float] = {"rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.startswith("cuda"):
        found |= {
            "allocated_bytes": torch.cuda.memory_allocated(device), "max_allocated_bytes": torch.cuda.max_memory_allocated(device),
            "max_reserved_bytes": torch.cuda.max_memory_reserved(device),
        }  # fmt: skip
    return found


def device_of(roots: list[Any], optimizers: list[Any]) -> str:
    """Return the device that holds most of the trained parameters."""
    held: dict[str, int] = {}
    tensors = [p for root in roots for p in root.parameters()] or [p for o in optimizers for p in stepped(o)]
    for tensor in tensors:
        held[str(tensor.device)] = held.get(str(tensor.device), 0) + tensor.numel()
    return max(held, key=lambda name: held[name]) if held else "cpu"


def process(torch: Any) -> dict[str, Any]:
    """Return who this process is."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        world, rank = distributed.get_world_size(), distributed.get_rank()
    transformers = sys.modules.get("transformers")
    return {
        "pid": os.getpid(), "rank": rank, "world": world, "threads": torch.get_num_threads(), "torch": str(torch.__version__),
        "transformers": str(getattr(transformers, "__version__", "")), "python": sys.version.split()[0], "argv": sys.argv[:1],
    }  # fmt: skip


def facts(torch: Any, roots: list[Any], optimizers: list[Any], device: str) -> dict[str, Any]:
    """Return the model's class, config, sizes and dtypes, how it is wrapped and what steps it."""
    root = roots[0] if roots else None
    inner, wrappers = unwrap(root)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    found: dict[str, Any] = {
        "device": device, "device_name": name, "roots": [type(r).__name__ for r in roots],
        "optimizers": [optimizer_facts(o) for o in optimizers[:MOST]],
    }  # fmt: skip
    if root is None:
        return found
    dtypes: dict[str, int] = {}
    frozen: dict[str, int] = {}
    for parameter in root.parameters():
        kept = dtypes if parameter.requires_grad else frozen
        kind = str(parameter.dtype).removeprefix("torch.")
        kept[kind] = kept.get(kind, 0) + parameter.numel()
    compiled = any(
        "_orig_mod" in vars(m).get("_modules", {}) or vars(m).get("_compiled_call_impl") for m in root.modules()
    )
    return found | {
        "model": type(inner).__name__, "wrappers": wrappers, "parameters": size(root), "trainable": dtypes, "frozen": frozen,
        "compiled": bool(compiled), "checkpointing": checkpoints(root), **hugging_face(root),
    }  # fmt: skip


def unwrap(module: Any) -> tuple[Any, list[str]]:
    """Return the model inside DDP, compiled and PEFT wrappers, and the wrappers' names, outermost first."""
    wrappers: list[str] = []
    while module is not None:
        parts = vars(module).get("_modules", {})
        inner = next(
            (parts[key] for key in ("_orig_mod", "module", "_fsdp_wrapped_module", "base_model") if key in parts), None
        )
        known = inner is not None and not ("base_model" in parts and not hasattr(module, "peft_config"))
        if not known:
            break
        wrappers.append(type(module).__name__)
        module = inner
    if module is not None and type(module).__name__ in {"LoraModel", "IA3Model"} and hasattr(module, "model"):
        wrappers.append(type(module).__name__)
        module = module.model
    if module is not None and type(module).__name__.startswith("FSDP"):  # fully_shard changes the class in place
        wrappers.append("FSDP2")
    return module, wrappers


def checkpoints(root: Any) -> bool:
    """Return whether activations are recomputed: as transformers and torch's wrapper say."""
    return any(
        type(m).__name__ == "CheckpointWrapper" or (vars(m).get("gradient_checkpointing") is True and m.training)
        for m in root.modules()
    )


def hugging_face(root: Any) -> dict[str, Any]:
    """Return the config of a Hugging Face model somewhere in ``root``, its adapters and its attention."""
    for module in root.modules():
        config = getattr(module, "config", None)
        if config is None or not callable(getattr(config, "to_dict", None)):
            continue
        try:
            text = json.dumps(config.to_dict(), default=str)
        except (TypeError, ValueError):
            continue
        adapters = {
            str(key): {
                name: _plain(getattr(value, name, None)) for name in ("peft_type", "r", "target_modules", "lora_alpha")
            }
            for key, value in (
                getattr(root, "peft_config", None) or getattr(unwrap(root)[0], "peft_config", None) or {}
            ).items()
        }
        return {
            "config": json.loads(text) if len(text) < TEXT else {}, "attention": str(getattr(config, "_attn_implementation", "") or ""),
            "name": str(getattr(config, "name_or_path", "") or getattr(config, "_name_or_path", "") or ""), "adapters": adapters,
        }  # fmt: skip
    return {}


def optimizer_facts(optimizer: Any) -> dict[str, Any]:
    """Return an optimizer's class, how it runs (fused, foreach, loop) and its plain settings."""
    group = optimizer.param_groups[0]
    tensors = list(stepped(optimizer))
    on_device = bool(tensors) and all(tensor.device.type != "cpu" for tensor in tensors)
    if group.get("fused"):
        kernel = "fused"
    elif group.get("foreach") or (group.get("foreach") is None and "foreach" in group and on_device):
        kernel = "foreach"
    else:
        kernel = "loop" if "foreach" in group else ""
    settings = {
        key: value for key, value in group.items() if key != "params" and isinstance(value, int | float | str | bool)
    }
    return {
        "name": type(optimizer).__name__, "module": type(optimizer).__module__, "kernel": kernel, "settings": settings,
        "parameters": sum(tensor.numel() for tensor in tensors),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    return (
        sorted(map(str, value))
        if isinstance(value, list | tuple | set)
        else value
        if isinstance(value, int)
        else str(value)
    )

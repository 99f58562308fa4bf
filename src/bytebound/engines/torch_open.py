"""Bring a model onto a device, ready to run: from a file, from a description, or a module that is already there."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bytebound.errors import DocumentError, QuantityError, RequestError, UnfinishedError, UnknownNameError
from bytebound.measure.gpu import Accelerator, find_accelerators
from bytebound.measure.system import read_system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DEVICES = ("auto", "cpu", "cuda", "rocm", "xpu", "mps")


@dataclass(frozen=True, slots=True)
class Opened:
    """A model ready to run."""

    model: Any
    accelerator: Accelerator
    name: str
    vocabulary: int
    settings: Mapping[str, float | str]
    notes: tuple[str, ...]


def open_model(
    source: Any,
    *,
    dtype: str,
    device: str,
    attention: str,
    load: tuple[int, int],
    seed: int,
    say: Callable[[str], None],
) -> Opened:
    """Return the model that ``source`` stands for, on its device, having made sure that the load fits.

    Args:
        source: see ``run_torch_model``, and there for what is raised too.
        dtype: of the weights, or ``auto``.
        device: one of ``DEVICES``.
        attention: implementation of attention; a module keeps its own.
        load: batch and tokens per sequence, for which there must be memory.
        seed: of random weights.
        say: told when loading begins.
    """
    import torch  # noqa: PLC0415 - optional

    from bytebound.engines import torch_limits, torch_source  # noqa: PLC0415 - they need transformers

    notes: list[str] = []
    if isinstance(source, torch.nn.Module):
        model, weights = source, "in memory"
        parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
        config = getattr(model, "config", None)
        if parameter is None or config is None or not torch_source.takes(model, "input_ids"):
            raise DocumentError(
                "the module is not a transformers model: it needs a config, parameters and input_ids",
                place=type(model).__name__,
                mend="give a transformers model, a folder or a config.json",
            )
        names = {getattr(torch, theirs): ours for ours, theirs in torch_limits.TORCH_NAMES.items()}
        own = names.get(parameter.dtype, str(parameter.dtype).removeprefix("torch."))
        accelerator = _accelerator(parameter.device.type)
        for given, found, place in ((dtype, own, "--dtype"), (device, accelerator.kind, "--device")):
            if given not in ("auto", found):
                raise QuantityError(
                    f"the module is in {found}, not {given}", place=place, mend="convert it first, or give auto"
                )
        name, chosen = getattr(config, "name_or_path", "") or type(model).__name__, own
        attention = getattr(config, "_attn_implementation", None) or "its own"
    else:
        accelerator = _accelerator(device)
        described = torch_source.describe(source)
        architecture = described.architecture
        chosen, why = torch_limits.pick_dtype(dtype, architecture, accelerator)
        notes += [*described.notes, *([why] if why else [])]
        torch_limits.check_memory(described, chosen, accelerator, load=load, eager=attention == "eager")
        limit = described.values.get("max_position_embeddings")
        if isinstance(limit, int) and limit < load[1]:
            raise QuantityError(
                f"the model takes {limit:,} tokens and prompt and output make {load[1]:,}",
                place="--prompt",
                mend="ask for fewer",
            )
        say(f"loading {architecture.name} in {chosen} on {accelerator.name}")
        with memory_errors(architecture.name):
            model = torch_source.build(described, chosen, accelerator, attention=attention, seed=seed)
        name, config = architecture.name, model.config
        weights = "dequantized GGUF" if described.is_gguf else "random" if described.weights is None else "checkpoint"
        made = sum(p.numel() for p in model.parameters())
        if made != architecture.parameters:
            notes.append(f"PyTorch made {made:,} parameters where the config describes {architecture.parameters:,}")
    settings: dict[str, float | str] = {
        "dtype": chosen, "attention": attention, "device": accelerator.device, "device_name": accelerator.name,
        "threads": torch.get_num_threads(), "weights": weights, "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "weight_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
    }  # fmt: skip
    return Opened(model, accelerator, name, int(config.get_text_config().vocab_size), settings, tuple(notes))


def _accelerator(device: str) -> Accelerator:
    """Return the device to run on; the processor's memory is what is free of the host's."""
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES, place="--device")
    if device != "cpu":
        found, missing = find_accelerators(device)
        if found:
            return found[0]
        if device != "auto":
            raise RequestError(missing[0].why, place="--device", mend="give --device cpu")
    system = read_system()
    return Accelerator("cpu", 0, system.cpu, system.memory_free_bytes)


def need_packages() -> None:
    """Make sure PyTorch and transformers are there.

    Raises:
        RequestError: one is not.
    """
    for package in ("torch", "transformers"):
        try:
            __import__(package)
        except ImportError:
            raise RequestError(
                f"running a model needs {package}", place=package, mend=f"pip install {package}"
            ) from None


@contextmanager
def memory_errors(name: str) -> Iterator[None]:
    """Say in a sentence that memory ran out.

    Raises:
        UnfinishedError: instead of the allocator's own error.
    """
    import torch  # noqa: PLC0415 - optional

    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "alloc" not in text:
            raise
        raise UnfinishedError(
            "memory ran out", place=name, mend="take a shorter prompt, a smaller batch or a narrower dtype"
        ) from error

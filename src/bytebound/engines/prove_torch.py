"""PyTorch as an engine of proofs (see ``bytebound.prove``): a transformers folder as it is, or changed by one lever."""

from __future__ import annotations

import copy
import ctypes
import gc
import importlib.util
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.engines.prove_llamacpp import resident_bytes
from bytebound.engines.torch_open import memory_errors, need_packages, open_model
from bytebound.engines.torch_steps import Steps, make_steps
from bytebound.errors import DocumentError, RequestError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GROUP = 32
"""Weights that share a scale in 4 bits."""
PRUNED = 0.5
"""Share of weights that pruning sets to zero."""


class Torch:
    """One model, changed or not, and its steps at the depth asked for."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Load it; ``settings``: folder, change (a name of ``CHANGES``, empty: none), dtype, threads, batch."""
        need_packages()
        import torch  # noqa: PLC0415 - optional

        change = str(settings.get("change", ""))
        if change and change not in CHANGES:
            raise UnknownNameError("change", change, CHANGES)
        torch.set_num_threads(int(settings["threads"]))
        torch.manual_seed(0)
        self.version = torch.__version__
        self._batch = int(settings.get("batch", 1))
        prepared = CHANGES[change]() if change else None  # its package is no part of what the model takes
        self._folder, self._empty = Path(str(settings["folder"])), resident_bytes()
        opened = open_model(
            str(self._folder),
            dtype="fp32",
            device="cpu",
            attention="sdpa",
            load=(self._batch, 256),
            seed=0,
            say=lambda _text: None,
        )
        with memory_errors(opened.name), torch.no_grad():
            model = opened.model.bfloat16() if settings.get("dtype") == "bf16" else opened.model
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = tensor.data.clone()  # else one tensor that stays keeps the whole file mapped
            self._model = prepared(model) if prepared else model
        self._accelerator, self._vocabulary = opened.accelerator, opened.vocabulary
        del model, opened
        self._steps = self._at(256)
        self._cache: Any = None

    def _at(self, depth: int, prompt: int = 0) -> Steps:
        return make_steps(
            self._model, self._accelerator, vocabulary=self._vocabulary, batch=self._batch, prompt=prompt or depth,
            depth=depth, seed=0,
        )  # fmt: skip

    def prepare(self, depth: int) -> None:
        """Put every sequence at ``depth`` tokens."""
        self._steps = self._at(depth)
        self._cache = self._steps.fill()

    def step(self) -> None:
        """Decode one token of every sequence."""
        self._steps.decode(self._cache)

    def prefill(self, tokens: int, past: int = 0) -> None:
        """Pass ``tokens`` new tokens of every sequence, after the ``past`` that ``prepare`` left in the cache."""
        ids = self._steps.ids[:, :1].expand(-1, tokens)
        if not past:
            self._steps.forward(ids)
            return
        kept = copy.copy(self._cache)
        kept.layers = [
            copy.copy(layer) for layer in self._cache.layers
        ]  # the longer tensors are new, the old ones stay
        self._steps.forward(ids, **{self._steps.cache_name: kept})

    def memory(self) -> dict[str, float]:
        """Return bytes: of tensors that the model holds, and what this process grew by once freed memory is given back."""
        gc.collect()
        give_back()
        return {
            "weights": storage_bytes([*self._model.parameters(), *self._model.buffers()]),
            "resident": resident_bytes() - self._empty,
        }

    def tokenize(self, text: str) -> list[int]:
        """Return the model's tokens of ``text``."""
        from tokenizers import Tokenizer  # noqa: PLC0415 - comes with transformers

        read = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        return [int(each) for each in read.encode(text, add_special_tokens=False).ids]

    def logits(self, tokens: list[list[int]], file: str) -> None:
        """Save the logits of every position of every row (sequences, positions, vocabulary)."""
        import torch  # noqa: PLC0415 - optional

        with torch.inference_mode():
            rows = [self._model(input_ids=torch.tensor([row])).logits[0].float().numpy() for row in tokens]
        np.save(file, np.stack(rows))

    def close(self) -> None:
        """Give the model back."""
        self._model = self._cache = None


def storage_bytes(tensors: Iterable[Any]) -> float:
    """Return the bytes of every storage under ``tensors``, each once; tensors packed of others count as those."""
    seen: dict[int, int] = {}
    waiting = list(tensors)
    while waiting:
        tensor = waiting.pop()
        inner = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else ()
        waiting += [getattr(tensor, name) for name in inner]
        if not inner:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return float(sum(seen.values()))


def give_back() -> None:
    """Return freed heap to the system, where its allocator can be told to (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _torchao(name: str, where: str = "torchao.quantization", **options: Any) -> Callable[[Any], Any]:
    """Return what quantizes a model by a config of torchao.

    Raises:
        DocumentError: it is not installed. RequestError: this version has no such config.
    """
    if importlib.util.find_spec("torchao") is None:
        raise DocumentError("torchao is not installed", place="torchao", mend="pip install torchao")
    import importlib as library  # noqa: PLC0415

    from torchao.quantization import quantize_  # noqa: PLC0415 - optional

    try:
        config = getattr(library.import_module(where), name)(**options)
    except (ImportError, AttributeError) as error:
        raise RequestError(
            f"this torchao has no {name}", place="torchao", mend="install version 0.18, or prove another lever"
        ) from error

    def change(model: Any) -> Any:
        quantize_(model, config)
        return model

    return change


def _dynamic() -> Callable[[Any], Any]:
    """Return what quantizes linear layers to int8 with activations quantized at run time, by PyTorch's own kernels."""
    import torch  # noqa: PLC0415 - optional

    quantize = getattr(getattr(torch.ao, "quantization", None), "quantize_dynamic", None)
    if quantize is None:
        raise RequestError("this PyTorch has no quantize_dynamic", place="torch", mend="use torchao's dynamic int8")

    def change(model: Any) -> Any:
        return quantize(model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)

    return change


def _pruned() -> Callable[[Any], Any]:
    """Return what sets the smallest half of every linear layer's weights to zero."""
    import torch  # noqa: PLC0415 - optional

    def change(model: Any) -> Any:
        for module in model.model.modules():
            if isinstance(module, torch.nn.Linear):
                size = module.weight.abs().flatten()
                module.weight[module.weight.abs() <= size.kthvalue(int(PRUNED * size.numel())).values] = 0.0
        return model

    return change


def has_compiler() -> None:
    """Make sure that PyTorch can compile for the processor.

    Raises:
        DocumentError: there is no C++ compiler, which inductor needs.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        raise DocumentError(
            "torch.compile needs a C++ compiler here", place="torch.compile", mend="install g++ or clang++"
        )


def _compiled() -> Callable[[Any], Any]:
    """Return what compiles the norms and feed-forwards of every layer, each once for all layers.

    A whole layer is not shared: attention knows its layer's number, and PyTorch compiles it anew for each (eight times at most).
    """
    has_compiler()

    def change(model: Any) -> Any:
        for layer in model.model.layers:
            for part in (layer.input_layernorm, layer.post_attention_layernorm, layer.mlp):
                part.compile(dynamic=False)
        return model

    return change


CHANGES: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "int8-weight-only": partial(_torchao, "Int8WeightOnlyConfig"),
    "int4-weight-only": partial(
        _torchao, "PrototypeInt4WeightOnlyConfig", "torchao.prototype.quantization.int4", group_size=GROUP
    ),
    "int8-dynamic": partial(_torchao, "Int8DynamicActivationInt8WeightConfig"),
    "quantize-dynamic": _dynamic,
    "pruned": _pruned,
    "compiled": _compiled,
}
"""What can be done to a model, by name: a function that makes sure of its package and returns what does it."""


def open(settings: dict[str, Any]) -> Torch:  # noqa: A001 - the protocol's name
    """Open a model."""
    return Torch(settings)

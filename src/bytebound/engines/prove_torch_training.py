"""A training step under PyTorch as an engine of proofs (see ``bytebound.prove``): its time, and its fullest moment by the allocator."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from bytebound.engines.prove_torch import has_compiler, storage_bytes
from bytebound.engines.torch_open import need_packages
from bytebound.engines.watching.allocator import Watch
from bytebound.errors import DocumentError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable

RATE = 1e-4
"""Learning rate; nothing is learnt from random tokens."""


class Training:
    """One model with random weights and its optimizer, whose states exist."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Build it; ``settings``: config (a transformers one), optimizer (``OPTIMIZERS``), recompute, batch, seq, threads."""
        need_packages()
        import torch  # noqa: PLC0415 - optional
        from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - optional

        name = str(settings.get("optimizer", "adamw"))
        if name not in OPTIMIZERS:
            raise UnknownNameError("optimizer", name, OPTIMIZERS)
        torch.set_num_threads(int(settings["threads"]))
        torch.manual_seed(0)
        self.version = torch.__version__
        config = AutoConfig.for_model(**settings["config"])
        self._model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").train()
        if settings.get("recompute"):
            newer = getattr(self._model, "activation_checkpointing_enable", None)  # transformers renamed it
            (newer or self._model.gradient_checkpointing_enable)({"use_reentrant": False})
        self._ids = torch.randint(config.vocab_size, (int(settings["batch"]), int(settings["seq"])))
        self._optimizer = OPTIMIZERS[name](self._model.parameters())
        self.train_step()

    def train_step(self) -> None:
        """Pass forward and backward, and update every parameter."""
        self._model(input_ids=self._ids, labels=self._ids, use_cache=False).loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def memory(self) -> dict[str, float]:
        """Return bytes of tensors: at the fullest moment of a step, and of the optimizer's states.

        What stays is counted storage by storage; what a step adds is what PyTorch's own profiler saw the allocator hand out.
        """
        import torch  # noqa: PLC0415 - optional

        states = [value for each in self._optimizer.state.values() for value in each.values() if torch.is_tensor(value)]
        lasting = storage_bytes([*self._model.parameters(), *self._model.buffers(), self._ids, *states])
        watch = Watch(torch)
        watch.start()
        self.train_step()
        alive = most = 0
        for event in watch.stop():
            alive += event.change
            most = max(most, alive)
        return {"peak": lasting + most, "states": storage_bytes(states)}

    def close(self) -> None:
        """Give everything back."""
        self._model = self._optimizer = None


def _adamw(parameters: Any) -> Any:
    import torch  # noqa: PLC0415 - optional

    return torch.optim.AdamW(parameters, lr=RATE)


def _adamw8(parameters: Any) -> Any:
    """Return torchao's AdamW with both moments in 8 bits; it compiles its update.

    Raises:
        DocumentError: torchao or a C++ compiler is not there.
    """
    if importlib.util.find_spec("torchao") is None:
        raise DocumentError("torchao is not installed", place="torchao", mend="pip install torchao")
    has_compiler()
    from torchao.optim import AdamW8bit  # noqa: PLC0415 - optional

    return AdamW8bit(parameters, lr=RATE)


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {"adamw": _adamw, "adamw-8bit": _adamw8}


def open(settings: dict[str, Any]) -> Training:  # noqa: A001 - the protocol's name
    """Open a training step."""
    return Training(settings)

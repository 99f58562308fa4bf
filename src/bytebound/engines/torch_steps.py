"""The two steps of a language model under PyTorch, repeatable at one depth, and their run under the profiler."""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bytebound.documents.observation import OperatorRun
    from bytebound.measure.gpu import Accelerator


@dataclass(frozen=True, slots=True)
class Steps:
    """The two steps of a model: all prompts from nothing, and one token each at a depth that stays.

    Args:
        model: a transformers model in evaluation mode.
        accelerator: where it lies.
        ids: token ids (batch, depth), on that device.
        prompt: how many of them a prefill passes.
        options: further arguments of every pass.
        cache_name: what the model calls its cache; empty for one that takes none.
    """

    model: Any
    accelerator: Accelerator
    ids: Any
    prompt: int
    options: Mapping[str, Any]
    cache_name: str

    def forward(self, ids: Any, **more: Any) -> Any:
        """Pass token ids through the model and wait until the device is done."""
        import torch  # noqa: PLC0415 - optional

        with torch.inference_mode():
            found = self.model(input_ids=ids, **self.options, **more)
        self.accelerator.sync()
        return found

    def prefill(self) -> None:
        """Pass every prompt from nothing."""
        self.forward(self.ids[:, : self.prompt])

    def fill(self) -> Any:
        """Return a cache as deep as ``ids`` is long, or None for a model that keeps none we can hold at one depth."""
        cache = getattr(self.forward(self.ids), self.cache_name, None) if self.cache_name else None
        return cache if hasattr(cache, "layers") else None

    def decode(self, cache: Any) -> None:
        """Add one token to every sequence in a copy of ``cache``.

        The layers of transformers' dynamic caches grow by making longer tensors, so a copy that shares the old ones costs
        nothing and leaves the cache as it was. States of fixed size are overwritten, which changes no step's work.
        """
        copied = copy.copy(cache)
        copied.layers = [copy.copy(layer) for layer in cache.layers]
        self.forward(self.ids[:, -1:], **{self.cache_name: copied})


def make_steps(
    model: Any, accelerator: Accelerator, *, vocabulary: int, batch: int, prompt: int, depth: int, seed: int
) -> Steps:
    """Return the steps of ``model`` with ``depth`` random token ids for each of ``batch`` sequences."""
    import torch  # noqa: PLC0415 - optional

    from bytebound.engines.torch_source import takes  # noqa: PLC0415

    ids = torch.randint(vocabulary, (batch, depth), generator=torch.Generator().manual_seed(seed))
    options: dict[str, Any] = {"use_cache": True} if takes(model, "use_cache") else {}
    if takes(model, "logits_to_keep"):
        options["logits_to_keep"] = 1  # as generation does: only the last token's logits are wanted
    cache = next((name for name in ("past_key_values", "cache_params") if takes(model, name)), "")
    return Steps(model, accelerator, ids.to(accelerator.device), prompt, options, cache)


def profile_steps(
    step: Callable[[], object], model: Any, *, count: int, accelerator: Accelerator
) -> tuple[tuple[OperatorRun, ...], float]:
    """Run ``step`` ``count`` times under PyTorch's profiler; return the operators of the fastest one, and its seconds.

    Times are as the profiler saw them, its own cost included: kernels' on CUDA and ROCm, the host's elsewhere. Each step
    has a session of its own after one that is not profiled, because the profiler's records, left between tensors on the
    heap, make the allocator fetch new memory for every large tensor (seen: a prefill 1.6 times as long).
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler otherwise announces itself on standard error
    from torch.profiler import ProfilerActivity, profile, record_function  # noqa: PLC0415 - optional

    from bytebound.engines.torch_operators import STEP, operator_runs, weights_of  # noqa: PLC0415

    activities = [ProfilerActivity.CPU]
    if accelerator.has_events:
        activities.append(ProfilerActivity.CUDA)
    elif accelerator.kind == "xpu":
        activities.append(ProfilerActivity.XPU)
    seen: list[tuple[float, Any]] = []
    for _ in range(count):
        step()
        with profile(activities=activities, record_shapes=True, profile_memory=True) as profiler, record_function(STEP):
            start = time.perf_counter()
            step()
            seen.append((time.perf_counter() - start, profiler))
    events = min(seen, key=lambda pair: pair[0])[1].events()
    fastest = max((event for event in events if event.name == STEP), key=lambda event: len(event.cpu_children))
    return operator_runs(fastest, weights_of(model), device=len(activities) > 1), float(fastest.cpu_time_total) * 1e-6


def page_faults() -> int:
    """Return how many pages this process has had to ask the system for since it began; 0 where that cannot be told."""
    try:
        import resource  # noqa: PLC0415 - Unix only
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

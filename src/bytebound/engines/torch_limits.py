"""What a run may ask of the machine: memory that is really free, and a dtype its processor has."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bytebound.errors import QuantityError, UnknownNameError
from bytebound.measure.system import read_system
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from bytebound.documents.architecture import Architecture
    from bytebound.engines.torch_source import Described
    from bytebound.measure.gpu import Accelerator

DTYPES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Dtypes a model can be run in, and their bytes."""
TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What PyTorch calls them."""
RESERVE_BYTES = 768e6
"""Left for everything that is not weights, cache or activations, the probes' arrays included. Assumed."""
WIDTHS = 12
"""Hidden vectors a token keeps alive at once during a prefill: residual, normed, q, k, v, gated pair... Assumed."""
LONGEST_TRIAL_S = 0.2
"""A product that takes longer than this is not repeated: 0.3 GFLOP so slow are emulated."""
SLOWEST = 10.0
"""Times an emulated dtype may be slower than fp32 in a matrix product; its bytes alone would make it faster."""


def check_memory(
    found: Described, dtype: str, accelerator: Accelerator, *, load: tuple[int, int], eager: bool
) -> float:
    """Return the bytes the run will need, having made sure that the device and the host have them.

    Args:
        found: the model.
        dtype: it will run in.
        accelerator: where.
        load: batch, and tokens per sequence.
        eager: whether attention scores are written out.

    Raises:
        QuantityError: it would not fit, and the machine is never made to swap.
    """
    batch, tokens = load
    item = DTYPES[dtype]
    weights = found.architecture.checkpoint_parameters * item
    main = found.architecture.main
    heads = max((getattr(op, "heads", 0) for block in main.blocks for op in block.operators), default=0)
    cache = (
        2 * found.architecture.kv_elements_per_token * batch * tokens * item
    )  # the old one and the one step's longer
    activations = WIDTHS * main.hidden * batch * tokens * max(item, 4)
    scores = 3 * batch * heads * tokens**2 * 4 if eager else 0
    need = weights + cache + activations + scores + RESERVE_BYTES
    free = accelerator.free_bytes()
    _refuse(need, free, f"{found.architecture.name} in {dtype}", accelerator.name)
    if found.is_gguf:  # expanded to fp32 tensor by tensor, and all kept until the model takes them
        staged = found.architecture.checkpoint_parameters * 4.0 + (weights if accelerator.kind == "cpu" else 0)
        _refuse(staged + RESERVE_BYTES, host_free_bytes(), f"{found.architecture.name}, dequantized,", "this machine")
    elif accelerator.kind != "cpu":
        _refuse(weights + RESERVE_BYTES, host_free_bytes(), f"{found.architecture.name} in {dtype}", "this machine")
    return need


def _refuse(need: float, free: float, what: str, where: str) -> None:
    if need > free:
        raise QuantityError(
            f"{what} needs about {show_capacity(need)} and {where} has {show_capacity(free)} free",
            place="memory",
            mend="take a smaller model, a narrower dtype, fewer tokens or a smaller batch; nothing was loaded",
        )


def host_free_bytes() -> float:
    """Return the memory this process may still take without swapping: what is available, under its container's limit."""
    return read_system().memory_free_bytes


def pick_dtype(wanted: str, architecture: Architecture | None, accelerator: Accelerator) -> tuple[str, str]:
    """Return the dtype to run in and, where ``auto`` had to leave the checkpoint's, a sentence saying why.

    Raises:
        UnknownNameError: no such dtype.
        QuantityError: the processor emulates it so slowly that its times would say nothing about the machine.
    """
    if wanted != "auto" and wanted not in DTYPES:
        raise UnknownNameError("dtype", wanted, [*DTYPES, "auto"], place="--dtype")
    stored = architecture.dtype if architecture is not None else "fp32"
    chosen, why = wanted, ""
    if wanted == "auto":
        chosen = stored if stored in DTYPES else "fp32" if accelerator.kind == "cpu" else "bf16"
    slow = slowdown(chosen) if accelerator.kind == "cpu" else 1.0
    if slow > SLOWEST:
        if wanted != "auto":
            raise QuantityError(
                f"a matrix product in {chosen} takes {slow:.0f} times as long as in fp32 on this processor",
                place="--dtype",
                mend="run it in fp32",
            )
        chosen, why = "fp32", f"run in fp32: a product in {chosen} takes {slow:.0f} times as long on this processor"
    return chosen, why


def slowdown(dtype: str, *, side: int = 512, rounds: int = 7) -> float:
    """Return how many times longer this processor needs for a square product in ``dtype`` than in fp32 (best of each)."""
    import torch  # noqa: PLC0415 - optional

    if dtype == "fp32":
        return 1.0
    squares = [torch.ones(side, side, dtype=getattr(torch, TORCH_NAMES[each])) for each in (dtype, "fp32")]
    best = [float("inf")] * 2
    for _ in range(rounds):
        for at, square in enumerate(squares):
            start = time.perf_counter()
            torch.mm(square, square)
            best[at] = min(best[at], time.perf_counter() - start)
        if best[0] > LONGEST_TRIAL_S:
            break
    return best[0] / max(best[1], 1e-9)

"""Which engine adapter runs a target of ``bytebound observe``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.documents.observation import Run


def run_target(
    target: str, *, batch: int, rate: float, requests: int, prompt: int, output: int, kv: str, flash: str, dtype: str,
    device: str, threads: int | None, budget: float, tell: Callable[[str], None],
) -> Run:  # fmt: skip
    """Return the record of running ``target``: a server's address, a GGUF file, or a model for PyTorch."""
    if "://" in target:
        from bytebound.engines.server import drive_server  # noqa: PLC0415

        return drive_server(
            target, concurrency=batch, rate_per_s=rate or None, requests=requests, prompt=prompt, output=output,
            total_s=max(budget, 10.0) * 10, on_progress=tell,
        )  # fmt: skip
    if target.lower().endswith(".gguf") and dtype == "auto":
        from bytebound.engines.gguf_run import run_gguf  # noqa: PLC0415
        from bytebound.observe.calibrate import usable_threads  # noqa: PLC0415

        return run_gguf(
            target, batch=batch, prompt=prompt, output=output, threads=usable_threads() if threads is None else threads, flash=flash,
            kv="fp16" if kv == "auto" else kv, budget_s=budget, on_progress=tell,
        )  # fmt: skip
    from bytebound.engines.torch_model import run_torch_model  # noqa: PLC0415

    return run_torch_model(
        target, batch=batch, prompt=prompt, output=output, dtype=dtype, device=device, threads=threads, budget_s=budget,
        attention="eager" if flash == "off" else "sdpa", on_progress=tell,
    )  # fmt: skip

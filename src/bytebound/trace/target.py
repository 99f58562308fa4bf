"""What a target of ``bytebound trace`` is, and its trace: a function of a Python file, or a model by its config."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bytebound.documents.work import Train
from bytebound.errors import DocumentError, RequestError
from bytebound.trace.loading import loading
from bytebound.trace.script import LIMIT_S, is_script, trace_script

if TYPE_CHECKING:
    from collections.abc import Collection

    from bytebound.documents.trace import Trace


def trace_target(
    target: str, work: Train | None = None, *, kind: Literal["training", "forward"] = "training", limit_s: float = LIMIT_S,
    allow: Collection[str] = (), on: Literal["gpu", "cpu"] = "gpu",
) -> Trace:  # fmt: skip
    """Return what one training step of ``target`` holds, computes and moves, found without weights and without a device.

    Args:
        target: ``FILE.py:function`` (``bytebound.trace.returned`` says what it may return), or a model that transformers can build:
            a bundled id, a config.json, or a folder with one.
        work: what to train a model on; None: the defaults of ``Train``. A function is traced as it is written.
        kind: ``forward``: no backward pass and no optimizer; functions only.
        limit_s: seconds a function may take.
        allow: what a function may do besides computing: ``write``, ``network``, ``process``.
        on: kernels of a GPU or of a CPU, which differ in what optimizers and attention hold for a moment.

    Raises:
        RequestError: it cannot be traced (its subclasses say why), or PyTorch is not installed.
        UnfinishedError: a function was stopped by a limit, or ended its process.

    Example:
        >>> trace_target("train.py:make_step").peak.held.total  # doctest: +SKIP
        120586240000.0
    """
    for package in ("torch",) if is_script(target) else ("torch", "transformers"):
        if find_spec(package) is None:
            raise RequestError(f"tracing needs {package}", place=package, mend="pip install 'bytebound[trace]'")
    if is_script(target):
        if work is not None:
            raise RequestError(
                "a function is traced as it is written, and takes no training request",
                place=target,
                mend="change the code",
            )
        return trace_script(target, kind=kind, limit_s=limit_s, allow=allow, on=on)
    with loading():
        from bytebound.trace.hf import trace_model  # noqa: PLC0415 - needs PyTorch

    if kind == "forward":
        raise RequestError(
            "models are traced in training", place="--forward", mend="ask bytebound estimate for inference"
        )
    from bytebound.engines.torch_source import describe  # noqa: PLC0415 - needs transformers

    source = target
    if Path(target).is_dir():
        source = str(Path(target) / "config.json")
        if not Path(source).is_file():
            raise DocumentError("the folder holds no config.json", place=target, mend="give a model's folder")
    with loading():
        found = describe(source)
    if not found.values:
        raise RequestError("a GGUF file has no config to build from", place=target, mend="give the model's config.json")
    trace: Trace = trace_model(dict(found.values), work or Train(), name=found.architecture.name, on=on)
    kept = tuple(note for note in found.notes if not note.startswith("random weights"))
    return replace(trace, notes=(*kept, *trace.notes)) if kept else trace

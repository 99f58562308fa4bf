"""How to start a deployment: shell lines of four engines and a Kubernetes manifest, in the flags of stated versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.plan import Command
from bytebound.errors import UnknownNameError
from bytebound.facts.engine_flags import find_flag, version_of
from bytebound.plan.commands import kubernetes, llamacpp, sglang, tensorrt_llm, vllm
from bytebound.plan.commands.asked import understood
from bytebound.plan.commands.notes import Unable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.plan import Deployment
    from bytebound.plan.commands.asked import Asked
    from bytebound.predict.estimate import Setting

SHELLS = {"vllm": vllm, "sglang": sglang, "tensorrt-llm": tensorrt_llm, "llama.cpp": llamacpp}
ENGINES = (*SHELLS, kubernetes.ENGINE)
FIRST_FLAG = {"vllm": "--max-num-seqs", "sglang": "--tp-size", "tensorrt-llm": "--tp_size", "llama.cpp": "--model"}
"""The flag whose source is that of the command."""


def commands(deployment: Deployment, setting: Setting, *, engines: Sequence[str] = ENGINES) -> tuple[Command, ...]:
    """Return how to start ``deployment`` on each of ``engines``, the one it was predicted with first.

    Args:
        deployment: one way to serve one model.
        setting: its model on the machine of one copy (``predict.estimate.settle``).
        engines: of ``ENGINES``; ``kubernetes`` is a manifest of the engine the deployment was predicted with.

    An engine that cannot run the deployment has an empty text and one note that says why.

    Raises:
        UnknownNameError: no commands are written for an engine.
    """
    for engine in engines:
        if engine not in ENGINES:
            raise UnknownNameError("engine", engine, ENGINES, place="engines", mend=f"choose of {', '.join(ENGINES)}")
    asked = understood(deployment, setting)
    ordered = sorted(engines, key=lambda engine: (engine != asked.predicted, ENGINES.index(engine)))
    return tuple(_command(asked, engine) for engine in ordered)


def _started(asked: Asked, engine: str, served: str) -> tuple[str, tuple[str, ...]]:
    """Return the text and its notes.

    Raises:
        Unable: the engine does not run this deployment.
    """
    if asked.kind == "denoiser":
        raise Unable(f"{engine} is started for language models here; an image model runs in diffusers or vLLM-Omni")
    return kubernetes.manifest(asked, served) if engine == kubernetes.ENGINE else SHELLS[engine].shell(asked)


def _command(asked: Asked, engine: str) -> Command:
    kind = "kubernetes" if engine == kubernetes.ENGINE else "shell"
    served = asked.predicted if engine == kubernetes.ENGINE else engine
    source = find_flag(served, FIRST_FLAG[served]).source if served in FIRST_FLAG else ""
    version = f"{served} {version_of(served)}" if kind == "kubernetes" and served in FIRST_FLAG else version_of(engine)
    try:
        text, notes = _started(asked, engine, served)
    except Unable as reason:
        return Command(engine=engine, version=version, text="", kind=kind, notes=(str(reason),), source=source)
    other = (
        [f"predicted for {asked.predicted}: {engine} keeps other memory and has other speed"]
        if served != asked.predicted
        else []
    )
    return Command(engine=engine, version=version, text=text, kind=kind, notes=(*notes, *other), source=source)

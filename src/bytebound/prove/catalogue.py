"""Every trial there is: which lever on which engine, whether this machine has the engine, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from bytebound.documents.proof import Provable, Unproven
from bytebound.errors import ByteboundError, RequestError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from bytebound.prove.trial import Bench, Trial

ENGINES = {
    "llama.cpp": "bytebound.prove.llamacpp",
    "ctranslate2": "bytebound.prove.ctranslate2",
    "pytorch": "bytebound.prove.pytorch",
    "torchao": "bytebound.prove.torchao",
    "pytorch-training": "bytebound.prove.pytorch_training",
    "openvino": "bytebound.prove.openvino",
}
"""Engine as users write it -> the module of its trials (``TRIALS``, ``NEEDS``, ``version()``)."""
EXTRA = 'pip install "bytebound[prove]"'


@dataclass(frozen=True, slots=True)
class Entry:
    """One trial that could be run: a lever on an engine."""

    lever: str
    engine: str
    make: Callable[[Bench], Trial]


def module_of(engine: str) -> ModuleType:
    """Return the module of an engine's trials.

    Raises:
        UnknownNameError: no such engine.
    """
    if engine not in ENGINES:
        raise UnknownNameError("engine to prove on", engine, ENGINES, place="--engine")
    return import_module(ENGINES[engine])


def entries(engine: str = "") -> tuple[Entry, ...]:
    """Return every trial of ``engine``, or of all engines in the order of ``ENGINES``."""
    names = (engine,) if engine else tuple(ENGINES)
    return tuple(Entry(lever, name, make) for name in names for lever, make in module_of(name).TRIALS.items())


def levers(engine: str = "") -> tuple[str, ...]:
    """Return every lever that some trial proves, each once."""
    return tuple(dict.fromkeys(entry.lever for entry in entries(engine)))


def missing(engine: str) -> Unproven | None:
    """Return why nothing can be proven on ``engine`` here; None where it is ready."""
    try:
        module_of(engine).version()
    except ByteboundError as error:
        return Unproven("", engine, error.message, error.mend or EXTRA)
    return None


def choose(lever: str, engine: str = "") -> Entry:
    """Return the trial of ``lever``, on ``engine`` or on the first that is here.

    Raises:
        UnknownNameError: nothing proves this lever, or no such engine.
        RequestError: that engine has no trial of it, or no engine that has is installed.
    """
    every = [entry for entry in entries() if entry.lever == lever]
    if not every:
        raise UnknownNameError("lever to prove", lever, levers(), place="LEVER", mend="bytebound prove --list")
    if engine:
        module_of(engine)
    fit = [entry for entry in every if engine in {"", entry.engine}]
    if not fit:
        has = ", ".join(entry.engine for entry in every)
        raise RequestError(f"{engine} has no trial of {lever}", place="--engine", mend=f"say --engine {has}")
    lacks = {entry.engine: missing(entry.engine) for entry in fit}
    ready = [entry for entry in fit if lacks[entry.engine] is None]
    if not ready:
        first = next(why for why in lacks.values() if why is not None)
        raise RequestError(first.reason, place=first.engine, mend=first.mend)
    return ready[0]


def provable() -> tuple[Provable, ...]:
    """Return every trial, whether it can run here and what it needs."""
    lacks = {engine: missing(engine) for engine in ENGINES}
    found = []
    for entry in entries():
        why = lacks[entry.engine]
        found.append(
            Provable(entry.lever, entry.engine, why is None, why.reason if why else "", why.mend if why else "")
        )
    return tuple(found)

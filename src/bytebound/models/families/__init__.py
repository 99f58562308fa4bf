"""One builder per model family: a config's keys in, towers out.

Each module here has a table ``FAMILIES`` from ``model_type`` (or the ``_class_name`` of a diffusion part) to its
builder. A builder takes the strict reader ``Keys`` and returns the towers; it reads every key that shapes the model.
Layers are named as in the checkpoint (``model.layers.7.``); equal layers are grouped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from bytebound.documents.architecture import Tower
from bytebound.errors import UnknownNameError
from bytebound.models.keys import Keys

Builder = Callable[[Keys], list[Tower]]
"""Reads a config's keys and returns the model's towers."""


@cache
def registry() -> dict[str, Builder]:
    """Return every known family by its ``model_type`` or diffusion class name.

    Raises:
        ValueError: two modules claim the same family (a bug of ours).
    """
    table: dict[str, Builder] = {}
    for info in iter_modules(__path__):
        families: dict[str, Builder] = getattr(import_module(f"{__name__}.{info.name}"), "FAMILIES", {})
        twice = table.keys() & families.keys()
        if twice:
            message = f"families {sorted(twice)} have two builders"
            raise ValueError(message)
        table |= families
    return table


def family(keys: Keys, default: str = "") -> str:
    """Return the family named by ``model_type`` (or ``_class_name``).

    Args:
        keys: the config.
        default: the family of a nested config that leaves its own name out.

    Raises:
        DocumentError: neither key is written and there is no default.
    """
    keys.skip("model_type", "_class_name", "_diffusers_version")
    named = keys.word("model_type", "") or keys.word("_class_name", "") or default
    if not named:
        raise keys.error("model_type", "the key is missing", 'add "model_type", for example "llama"')
    return named


def build(keys: Keys, default: str = "") -> list[Tower]:
    """Return the towers of a config, top-level or nested.

    Raises:
        UnknownNameError: the family is not known.
        DocumentError: a key is missing, damaged or out of bounds.
    """
    name = family(keys, default)
    builder = registry().get(name)
    if builder is None:
        known = registry().keys()
        mend = "`bytebound models --families` lists what can be read"
        raise UnknownNameError("model family", name, known, place=keys.place("model_type"), mend=mend)
    return builder(keys)

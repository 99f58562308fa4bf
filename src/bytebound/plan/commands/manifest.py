"""A small writer of YAML: mappings, lists and scalars, so that PyYAML stays optional."""

from __future__ import annotations

import re
from typing import Any

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Plain words that YAML 1.1 or 1.2 reads as something else than text."""


def document(value: Any) -> str:
    """Return ``value`` (mappings with text keys, lists, text, numbers, booleans, None) as one YAML document.

    Source: YAML 1.2.2 sections 7.3.1 (double-quoted scalars, escapes of 5.7) and 8.2 (block collections).

    Example:
        >>> print(document({"a": [1, "x: y"], "b": {}}))
        a:
          - 1
          - "x: y"
        b: {}
    """
    return "\n".join(_lines(value))


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        return [line for key, item in value.items() for line in _entry(f"{scalar(str(key))}:", item)]
    if isinstance(value, list | tuple) and value:
        return [line for item in value for line in _entry("-", item)]
    return [scalar(value)]


def _entry(head: str, item: Any) -> list[str]:
    lines = _lines(item)
    if not isinstance(item, dict | list | tuple) or not item:
        return [f"{head} {lines[0]}"]
    if head == "-":
        return [f"- {lines[0]}", *(f"  {line}" for line in lines[1:])]
    return [head, *(f"  {line}" for line in lines)]


def scalar(value: Any) -> str:
    """Return one value that is no filled mapping or list."""
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char in {'"', "\\"}:
        return f"\\{char}"
    if char == "\n":
        return "\\n"
    return char if char.isprintable() and char != "\ufeff" else f"\\U{ord(char):08x}"

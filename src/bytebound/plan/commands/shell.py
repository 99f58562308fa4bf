"""Words of a command line: every flag looked up, every value quoted."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from bytebound.facts.engine_flags import written

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Words = tuple[str, ...]


def flag(engine: str, name: str, value: object = None, *, place: str = "flag") -> Words:
    """Return a flag and its value as words; the flag must be in the table of flags, and the value of its kind.

    Raises:
        UnknownNameError, QuantityError: it is not.
    """
    text = written(engine, name, value, place=place)
    return (name,) if value is None else (name, text)


def joined(parts: Iterable[Sequence[str]]) -> Words:
    """Return the words of every part, in order."""
    return tuple(word for part in parts for word in part)


def line(words: Sequence[str]) -> str:
    r"""Return words as one shell command, a flag a line.

    Example:
        >>> print(line(("serve", "a b", "--port", "80")))
        serve 'a b' \
          --port 80
    """
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--") and groups[-1]:
            groups.append([])
        groups[-1].append(word)
    return " \\\n  ".join(shlex.join(group) for group in groups)


def comment(text: str) -> str:
    """Return text as one comment line of a shell or of YAML, whatever it holds."""
    return "# " + "".join(char for char in " ".join(text.split()) if char.isprintable())

"""Which modules a quantized checkpoint left alone: names, globs and the few regular expressions such files use."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING

from bytebound.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_PATTERN = 512

_SAFE = re.compile(r"(?:[\w\-{}:]|\\[.dw]\+?|\[[\w\-\\]+\]\+?|\.|\(\?:|[()|^$?])*")
"""What may stand between two ``.*`` of a regular expression; repeated groups cannot be written with it."""

_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.")


@lru_cache(maxsize=4096)
def compiled(pattern: str, place: str) -> re.Pattern[str]:
    """Return the matcher of one entry of an ignore list.

    ``re:`` entries match from the start of a name; ``.*`` is matched without backtracking, so that a hostile file
    cannot stall the reader. Entries with ``*`` are globs; all others are dotted parts of a name.

    Raises:
        DocumentError: the entry is too long, or holds more of the regular-expression language than is read.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise DocumentError(f"a module pattern has {len(pattern)} characters", place=place, mend="shorten it")
    if pattern.startswith("re:"):
        return _expression(pattern[3:], place)
    bare = pattern.rstrip(".")
    if any(sign in bare for sign in "*?["):
        return re.compile(f"{translate(bare)}|{translate(bare + '.*')}")
    return re.compile(rf"(?:.*\.)?{re.escape(bare)}(?:\..*)?\Z")


def _expression(expression: str, place: str) -> re.Pattern[str]:
    pieces = expression.split(".*")
    if not all(_SAFE.fullmatch(piece) for piece in pieces):
        message = f"the module pattern {expression!r} uses more regular-expression syntax than is read"
        raise DocumentError(message, place=place, mend="write the module names")
    middle = "".join(f"(?>.*?{piece})" for piece in pieces[1:-1] if piece)
    last = f".*{pieces[-1]}" if len(pieces) > 1 else ""
    try:
        return re.compile(f"{pieces[0]}{middle}{last}")
    except re.error as error:
        message = f"the module pattern {expression!r} is not a regular expression: {error.msg}"
        raise DocumentError(message, place=place, mend="write the module names") from None


def matches(name: str, patterns: tuple[str, ...], place: str) -> bool:
    """Tell whether a module's full name matches any of the patterns.

    Args:
        name: dotted module name, without ``.weight``.
        patterns: entries of an ignore list.
        place: where the list is written, for messages.
    """
    return any(compiled(_bare(pattern), place).match(name) for pattern in patterns)


def _bare(pattern: str) -> str:
    """Return the pattern with the prefix of a wrapped language model removed, as text towers are named without."""
    for prefix in _PREFIXES:
        if pattern.startswith(prefix):
            return f"model.{pattern.removeprefix(prefix)}".replace("model.model.", "model.").replace(
                "model.lm_head", "lm_head"
            )
    return pattern


def compact_patterns(names: Iterable[str]) -> list[str]:
    """Return module names with their layer numbers replaced by ``*`` where every layer of a kind is listed alike.

    Lists of published checkpoints name the same modules in hundreds of layers; entries that differ in numbers only
    become one pattern when at least four do.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name), []).append(name)
    return sorted(
        each for pattern, members in groups.items() for each in ([pattern] if len(members) > 3 else sorted(members))
    )

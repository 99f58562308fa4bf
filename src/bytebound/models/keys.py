"""A strict reader of one JSON object: every value is checked, and what nobody read is known."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

from bytebound.errors import DocumentError, nearest
from bytebound.models.harmless import HARMLESS, SHAPE_WORDS, UNUSED_IN_VISION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Whole = int
"""Python's own whole number, whose name a method of ``Keys`` takes."""

REQUIRED: Final = -(2**62)
"""Default of a key that must be written in the file."""

LARGEST = 2**24
"""Largest width, head count or vocabulary that is believed; anything above is a damaged or hostile file."""

LONGEST = 2**34
"""Longest context that is believed, in tokens."""


class Keys:
    """One JSON object of a model config, read key by key.

    Args:
        values: the object.
        file: what to call the file in messages.
        path: where the object sits in the file, e.g. ``"text_config"``.
        text: the file's text, to find the line of a key (may be empty).
        parent: the object around it; a child is often written as differences to its class defaults.

    Attributes:
        seen: keys that were understood; ``valued`` are those whose value was used.
        children: objects inside that were opened.
    """

    def __init__(
        self, values: Mapping[str, Any], *, file: str, path: str = "", text: str = "", parent: Keys | None = None
    ) -> None:
        self.values = values
        self.file = file
        self.path = path
        self.text = text
        self.parent = parent
        self.seen: set[str] = set()
        self.valued: set[str] = set()
        self.children: dict[str, Keys] = {}

    # ---- places and errors

    def place(self, key: str) -> str:
        """Return ``file:line: path.key`` for a message."""
        at = 0
        for part in (*filter(None, self.path.split(".")), key):
            found = re.compile(rf'"{re.escape(part)}"\s*:').search(self.text, at)
            if found is None:
                break
            at = found.start()
        line = f":{self.text.count(chr(10), 0, at) + 1}" if self.text and at else ""
        return f"{self.file}{line}: {self.path + '.' if self.path else ''}{key}"

    def error(self, key: str, message: str, mend: str = "") -> DocumentError:
        """Return the error about ``key``, placed."""
        return DocumentError(message, place=self.place(key), mend=mend)

    # ---- looking

    def has(self, key: str) -> bool:
        """Tell whether ``key`` is written and not null; looking does not count as reading."""
        return self.values.get(key) is not None

    def take(self, *names: str) -> Any:
        """Return the value of the first of ``names`` that is written, or None.

        Raises:
            DocumentError: two names of the same quantity disagree.
        """
        found = [(name, self.values[name]) for name in names if self.has(name)]
        self.seen.update(names)
        self.valued.update(name for name, _ in found)
        if not found:
            return None
        for name, value in found[1:]:
            if value != found[0][1]:
                message = f"{found[0][0]} is {found[0][1]!r} and {name} is {value!r}, and both mean the same"
                raise self.error(name, message, "keep one of them")
        return found[0][1]

    def skip(self, *names: str) -> None:
        """Mark keys as understood: they do not change this family's shapes."""
        self.seen.update(names)

    # ---- values

    def int(
        self,
        name: str,
        default: int = REQUIRED,
        *,
        also: Sequence[str] = (),
        least: int = 1,
        most: int = LARGEST,
        saved: int = REQUIRED,
    ) -> int:
        """Return a whole number.

        Args:
            name: the key.
            default: what the family's own config class assumes; without it the key must be written.
            also: other names of the same quantity.
            least: smallest value that makes sense.
            most: largest value that is believed.
            saved: what a nested config, written as differences to its class, leaves out.

        Raises:
            DocumentError: missing, not a whole number, or out of bounds.
        """
        value = self.maybe_int(name, also=also, least=least, most=most)
        if value is not None:
            return value
        if default == REQUIRED and self.parent is not None:
            default = saved
        if default == REQUIRED:
            near = nearest(name, [key for key in self.values if key not in self.seen])
            hint = f"; nearest keys: {', '.join(near)}" if near else ""
            raise self.error(name, f"the key is missing{hint}", f"add {name!r}, a whole number of at least {least}")
        return default

    def maybe_int(
        self, name: str, *, also: Sequence[str] = (), least: Whole = 1, most: Whole = LARGEST
    ) -> Whole | None:
        """Return a whole number, or None when the key is missing or null; see ``int``."""
        value = self.take(name, *also)
        if value is None:
            return None
        key = next(key for key in (name, *also) if self.has(key))
        wanted = f"write a whole number from {least} to {most}"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"{short(value)} is not a whole number", wanted)
        if not least <= value <= most:
            shown = short(value)
            raise self.error(key, f"{shown} is too {'small' if value < least else 'large'}", wanted)
        return value

    def number(self, name: str, default: float) -> float:
        """Return a finite positive number."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(name, f"{short(value)} is not a number", "write a positive number")
        if not (math.isfinite(value) and 0 < value <= LONGEST):
            raise self.error(name, f"{short(value)} is not a positive finite number", "write a positive number")
        return float(value)

    def flag(self, name: str, default: bool, *, also: Sequence[str] = ()) -> bool:  # noqa: FBT001
        """Return a true or false value."""
        value = self.take(name, *also)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, f"{short(value)} is neither true nor false", "write true or false")
        return value

    def word(self, name: str, default: str) -> str:
        """Return a string."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(name, f"{short(value)} is not a string", "write a string")
        return value

    def ints(self, name: str, *, least: Whole = 0, most: Whole = LARGEST) -> tuple[Whole, ...] | None:
        """Return a list of whole numbers, or None when it is missing or null."""
        items = self._items(name)
        if items is None:
            return None
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int) or not least <= item <= most:
                raise self.error(
                    name, f"{short(item)} is not a whole number", f"write whole numbers from {least} to {most}"
                )
        return tuple(items)

    def words(self, name: str) -> tuple[str, ...] | None:
        """Return a list of strings, or None when it is missing or null."""
        items = self._items(name)
        if items is not None and not all(isinstance(item, str) for item in items):
            raise self.error(name, "the list holds something that is not a string", "write a list of strings")
        return None if items is None else tuple(items)

    def _items(self, name: str) -> list[Any] | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.error(name, f"{short(value)} is not a list", "write a list")
        return value

    def tied(self, *, default: bool) -> bool:
        """Tell whether the output matrix is the embedding, as this object, the one around it or the family says."""
        holder: Keys | None = self
        while holder is not None:
            if holder.has("tie_word_embeddings"):
                return holder.flag("tie_word_embeddings", default)
            holder = holder.parent
        return default

    # ---- objects inside

    def maybe_child(self, name: str) -> Keys | None:
        """Return the object under ``name``, or None when it is missing or null."""
        if name in self.children:
            return self.children[name]
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, f"{short(value)} is not an object", "write an object")
        path = f"{self.path}.{name}" if self.path else name
        child = Keys(value, file=self.file, path=path, text=self.text, parent=self)
        self.children[name] = child
        return child

    def child(self, name: str) -> Keys:
        """Return the object under ``name``.

        Raises:
            DocumentError: it is missing or not an object.
        """
        found = self.maybe_child(name)
        if found is None:
            raise self.error(name, "the key is missing", f"add the object {name!r}")
        return found

    def objects(self, name: str) -> tuple[Keys, ...] | None:
        """Return the objects of the list under ``name``, or None when it is missing or null."""
        items = self._items(name)
        if items is None:
            return None
        found = []
        for index, item in enumerate(items):
            if not isinstance(item, dict):
                raise self.error(name, f"item {index} is not an object", "write a list of objects")
            path = f"{self.path + '.' if self.path else ''}{name}[{index}]"
            child = Keys(item, file=self.file, path=path, text="", parent=self)
            self.children[f"{name}[{index}]"] = child
            found.append(child)
        return tuple(found)

    # ---- what nobody read

    def unread(self) -> Iterator[tuple[Keys, str]]:
        """Yield every key nobody read, here and in the objects that were opened."""
        for key in self.values:
            if key not in self.seen:
                yield self, key
        for child in self.children.values():
            yield from child.unread()


def finish(keys: Keys) -> tuple[str, ...]:
    """Check what nobody read, once a model has been built.

    Returns:
        One note per unread key that cannot change a shape.

    Raises:
        DocumentError: an unread key may change a shape, so the count would be a guess.
    """
    notes = []
    for holder, key in keys.unread():
        value = holder.values[key]
        if value is None or value is False or value in (0, "", [], {}) or HARMLESS.fullmatch(key):
            continue
        if holder.path.endswith("vision_config") and key in UNUSED_IN_VISION:
            continue
        if SHAPE_WORDS.search(key.lower()):
            near = nearest(key, holder.seen)
            hint = f"; nearest keys it reads: {', '.join(near)}" if near else ""
            raise holder.error(
                key,
                f"{short(value)} may change the model's shape and its family does not read this key{hint}",
                "remove the key if it changes nothing, or correct its name",
            )
        notes.append(f"{holder.path + '.' if holder.path else ''}{key} is not read")
    return tuple(notes)


def short(value: Any) -> str:
    """Return ``value`` as it was written, cut to a readable length."""
    text = (
        repr(value) if not isinstance(value, int) or abs(value) < 10**30 else f"a number of {value.bit_length()} bits"
    )
    return text if len(text) <= 60 else f"{text[:57]}..."

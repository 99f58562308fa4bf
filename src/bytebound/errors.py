"""Every error bytebound raises on purpose, and the exit code of each.

```
ByteboundError              exit 70 unless a subclass says otherwise
├── RequestError            exit 2   the request could not be understood
│   ├── UnknownNameError    exit 2   a name we do not know; carries the nearest known ones
│   ├── QuantityError       exit 2   a number or unit that cannot be read, or that no machine could have
│   └── DocumentError       exit 2   a file that is missing, truncated, hostile or wrong; carries its place
├── UnfinishedError         exit 3   started and could not finish
└── PhysicsError            exit 70  a number under the physical floor: a bug of ours
```
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ByteboundError(Exception):
    """One clear sentence, the place it concerns, and the mend.

    Args:
        message: what is wrong, as a sentence without a final full stop.
        place: where it was found (``file:line: key`` or the option), or an empty string.
        mend: what to do next, or an empty string.
    """

    exit_code = 70

    def __init__(self, message: str, *, place: str = "", mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.mend = mend

    def __str__(self) -> str:
        head = f"{self.place}: {self.message}" if self.place else self.message
        return f"{head}; {self.mend}" if self.mend else head

    def at(self, place: str) -> ByteboundError:
        """Return the same error placed at ``place`` (a place already set is kept after it)."""
        self.place = f"{place}: {self.place}" if self.place else place
        return self


class RequestError(ByteboundError):
    """The request could not be understood."""

    exit_code = 2


class UnknownNameError(RequestError):
    """A name that is not known; ``nearest`` holds the closest known names.

    Args:
        kind: what the name should have named, e.g. ``"device"``.
        given: what was written.
        known: every name that would have been understood.
        place: where it was written.
        mend: how to list or supply such a name.
    """

    def __init__(self, kind: str, given: str, known: Iterable[str], *, place: str = "", mend: str = "") -> None:
        self.kind = kind
        self.given = given
        self.nearest = nearest(given, known)
        hint = f"; nearest: {', '.join(self.nearest)}" if self.nearest else ""
        super().__init__(f"unknown {kind} {given!r}{hint}", place=place, mend=mend)


class QuantityError(RequestError):
    """A number or unit that cannot be read, or that no machine could have."""


class DocumentError(RequestError):
    """A file that is missing, truncated, hostile or wrong."""


class UnfinishedError(ByteboundError):
    """Work that started and could not finish."""

    exit_code = 3


class PhysicsError(ByteboundError):
    """A prediction under the physical floor: always a bug of ours."""


def nearest(given: str, known: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """Return up to ``count`` known names closest to ``given``, best first.

    Example:
        >>> nearest("h100", ["h100-sxm", "l4", "h100-pcie"])
        ('h100-sxm', 'h100-pcie')
    """
    names = sorted(set(known))
    low = given.lower()
    inside = [name for name in names if low and low in name.lower()]
    inside.sort(
        key=lambda name: (name.lower().find(low) != 0, -difflib.SequenceMatcher(None, low, name.lower()).ratio())
    )
    folded = {name.lower(): name for name in names}
    close = [folded[name] for name in difflib.get_close_matches(low, folded, n=count, cutoff=0.5)]
    return tuple(dict.fromkeys(inside + close))[:count]

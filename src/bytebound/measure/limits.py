"""The limits a process is under: container quotas and memory limits (cgroup v1 and v2), affinity, address space."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MOST_BYTES = 2**20
"""More of a system file than this is never read."""
NO_LIMIT_BYTES = 2.0**60
"""Memory limits from here on mean that there is none (cgroup v1 writes 2^63 less a page)."""


@dataclass(frozen=True, slots=True)
class Files:
    """A tree of system files; ``problems`` collects one sentence per file that is there and may not be read."""

    root: Path
    problems: list[str] = field(default_factory=list)

    def text(self, path: str) -> str:
        """Return the text of ``path``, or nothing where it cannot be had."""
        try:
            with (self.root / path).open("rb") as stream:
                return stream.read(MOST_BYTES).decode("utf-8", "replace")
        except PermissionError:
            self.problems.append(f"/{path} may not be read, so what it says is not known")
        except (OSError, ValueError):
            pass  # not there on this system: its reader goes without
        return ""

    def number(self, path: str) -> float | None:
        """Return the number that ``path`` holds, or None."""
        return number(self.text(path))

    def folders(self, path: str, pattern: str) -> list[str]:
        """Return the paths under ``path`` that match ``pattern``, in order."""
        try:
            return sorted(str(found.relative_to(self.root)) for found in (self.root / path).glob(pattern))
        except (OSError, ValueError):
            return []


def number(text: str) -> float | None:
    """Return the finite number that ``text`` starts with, not negative, or None.

    Example:
        >>> number("150000 100000"), number("max"), number("-1")
        (150000.0, None, None)
    """
    words = text.split(maxsplit=1)
    try:
        value = float(words[0]) if words else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


@dataclass(frozen=True, slots=True)
class Groups:
    """What the control groups of a process allow: processors' worth of time, and bytes; None: no limit."""

    processors: float | None = None
    memory_bytes: float | None = None
    memory_left_bytes: float | None = None


def read_groups(files: Files) -> Groups:
    """Return the tightest limits of the process's control groups and all their parents.

    A container often sees its own group as the root of the tree while ``/proc/self/cgroup`` names a path of the host:
    names that do not exist under the mount are passed over, the root of the mount always counts.
    """
    processors: list[float] = []
    limits: list[float] = []
    left: list[float] = []
    for controllers, group in _memberships(files.text("proc/self/cgroup")):
        for folder in _upwards(group):
            if controllers == "":
                processors += _quota_v2(files, f"sys/fs/cgroup{folder}")
                found = _memory_v2(files, f"sys/fs/cgroup{folder}")
            elif "memory" in controllers.split(","):
                found = _memory_v1(files, f"sys/fs/cgroup/memory{folder}")
            else:
                found = None
            if "cpu" in controllers.split(","):
                processors += _quota_v1(files, f"sys/fs/cgroup/{controllers}{folder}")
                processors += _quota_v1(files, f"sys/fs/cgroup/cpu{folder}")
            if found is not None:
                limits.append(found[0])
                left.append(found[1])
    return Groups(min(processors, default=None), min(limits, default=None), min(left, default=None))


def _memberships(text: str) -> Iterator[tuple[str, str]]:
    """Yield (controllers, group) of each hierarchy; v2 has no controllers. Without any, the root of v2."""
    lines = [line.split(":", 2) for line in text.splitlines()[:100]]
    found = [(parts[1], parts[2].strip()) for parts in lines if len(parts) == 3]
    yield from found or [("", "/")]


def _upwards(group: str) -> Iterator[str]:
    """Yield ``/a/b``, ``/a`` and the root (an empty text) of a group path that stays inside its tree."""
    parts = [part for part in group.split("/") if part not in ("", ".", "..")][:50]
    for length in range(len(parts), -1, -1):
        yield "".join(f"/{part}" for part in parts[:length])


def _quota_v2(files: Files, folder: str) -> list[float]:
    words = files.text(f"{folder}/cpu.max").split()
    return _share(number(words[0]), number(words[1])) if len(words) == 2 else []


def _quota_v1(files: Files, folder: str) -> list[float]:
    return _share(files.number(f"{folder}/cpu.cfs_quota_us"), files.number(f"{folder}/cpu.cfs_period_us"))


def _share(quota: float | None, period: float | None) -> list[float]:
    return [quota / period] if quota and period and 1e-3 <= quota / period < 1e6 else []


def _memory_v2(files: Files, folder: str) -> tuple[float, float] | None:
    limit = files.number(f"{folder}/memory.max")
    used = files.number(f"{folder}/memory.current") if limit is not None else None
    return _left(limit, used, fields(files.text(f"{folder}/memory.stat")).get("inactive_file"))


def _memory_v1(files: Files, folder: str) -> tuple[float, float] | None:
    limit = files.number(f"{folder}/memory.limit_in_bytes")
    if limit is None or limit >= NO_LIMIT_BYTES:
        return None
    used = files.number(f"{folder}/memory.usage_in_bytes")
    return _left(limit, used, fields(files.text(f"{folder}/memory.stat")).get("total_inactive_file"))


def _left(limit: float | None, used: float | None, reclaimable: float | None) -> tuple[float, float] | None:
    """Return (limit, what is left of it): pages of files that were not used lately count as free."""
    if limit is None or not 2**20 <= limit < NO_LIMIT_BYTES:
        return None
    taken = max((used or 0.0) - (reclaimable or 0.0), 0.0)
    return limit, max(limit - taken, 0.0)


def fields(text: str) -> Mapping[str, float]:
    """Return ``name value`` or ``name: value kB`` lines as name -> number, in bytes where the unit is kB.

    Example:
        >>> fields("MemTotal:  2 kB")
        {'MemTotal': 2048.0}
    """
    found = {}
    for line in text.splitlines():
        words = line.replace(":", " ", 1).split()
        value = number(words[1]) if len(words) in (2, 3) else None
        if value is not None:
            found[words[0]] = value * (1024 if words[2:] == ["kB"] else 1)
    return found


def affinity() -> int | None:
    """Return how many processors this process may run on, or None where the system has no such mask."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        return len(os.sched_getaffinity(0)) or None
    except OSError:
        return None


def address_space_left(files: Files) -> float | None:
    """Return the bytes this process may still map (``ulimit -v``), or None without such a limit."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or limit <= 0:
        return None
    return max(limit - fields(files.text("proc/self/status")).get("VmSize", 0.0), 0.0)

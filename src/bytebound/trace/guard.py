"""What a user's code may not do unasked while it is traced: write files, reach the network, start processes.

The guard is an audit hook (PEP 578), with the kernel's Landlock beneath it where there is one (``landlock``): that also holds code in C,
which raises no audit events. It stops accidents in honest code, such as a script that saves a checkpoint or downloads a data set; it
is no sandbox against hostile code.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import FrameType

Permission = Literal["write", "network", "process"]
PERMISSIONS: tuple[Permission, ...] = ("write", "network", "process")

WRITES = {
    "os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr", "os.rename", "os.rmdir",
    "os.setxattr", "os.symlink", "os.truncate", "os.utime", "shutil.rmtree", "sqlite3.connect",
}  # fmt: skip
"""Audit events that change files, beside ``open`` for writing. The first argument is the path; see PATHS for second ones."""
SECOND_PATH = {"os.link", "os.rename", "os.symlink"}
NETWORK = {
    "ftplib.connect", "http.client.connect", "smtplib.connect", "socket.bind", "socket.connect", "socket.getaddrinfo",
    "socket.gethostbyaddr", "socket.gethostbyname", "socket.sendmsg", "socket.sendto", "urllib.Request",
}  # fmt: skip
PROCESS = {
    "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn", "os.startfile", "os.system",
    "pty.spawn", "subprocess.Popen",
}  # fmt: skip
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
DOES = {"write": "changes files", "network": "reaches the network", "process": "starts or signals processes, or runs C"}
WORDS = {
    "socket.connect": "open a connection", "socket.bind": "listen on a port", "socket.getaddrinfo": "look up an address",
    "socket.sendto": "send to an address", "socket.sendmsg": "send to an address", "http.client.connect": "open a connection",
    "urllib.Request": "open an address", "os.fork": "fork", "os.forkpty": "fork", "os.system": "run a shell command",
    "subprocess.Popen": "start a program", "os.exec": "become another program", "os.posix_spawn": "start a process",
    "os.kill": "signal a process", "os.killpg": "signal processes", "shutil.rmtree": "remove the folder", "os.rmdir": "remove the folder",
    "os.mkdir": "make the folder", "os.chmod": "change the rights of", "os.utime": "change the times of", "os.truncate": "cut",
    "sqlite3.connect": "open the database",
}  # fmt: skip
MOST_KEPT = 20
"""Refusals kept for the report."""


class RefusedError(PermissionError):
    """Traced code tried what it was not allowed. A PermissionError, so that libraries that can do without a cache go on."""


@dataclass(slots=True)
class Guard:
    """The hook's state: what is allowed, where writing is harmless, and what was refused so far.

    Args:
        allowed: permissions given.
        scratch: folders and files that may be written.
        refused: sentences of what was refused, oldest first.
    """

    allowed: frozenset[Permission]
    scratch: tuple[str, ...]
    refused: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take one audit event.

        Raises:
            RefusedError: it needs a permission that was not given.
        """
        if event not in WATCHED:
            return
        permission, what = self._needs(event, arguments)
        if permission is None or permission in self.allowed:
            return
        place = place_of(sys._getframe(1))  # noqa: SLF001 - the only way to the line that asked
        sentence = f"{what} at {place}" if place else what
        if len(self.refused) < MOST_KEPT and sentence not in self.refused:
            self.refused.append(sentence)
        raise RefusedError(f"traced code may not {what} ({DOES[permission]}: --allow {permission})")

    def _needs(self, event: str, arguments: tuple[Any, ...]) -> tuple[Permission | None, str]:
        """Return the permission an event needs (None: none) and what it does, in words."""
        if event == "open":
            path, _, flags = (*arguments, 0, 0, 0)[:3]
            wanted = isinstance(flags, int) and bool(flags & WRITE_FLAGS)
            return ("write", f"write {_name(path)}") if wanted and not self._harmless(path) else (None, "")
        if event in WRITES:
            paths = arguments[:2] if event in SECOND_PATH else arguments[:1]
            verb = WORDS.get(event, event.partition(".")[2])
            return (None, "") if all(map(self._harmless, paths)) else ("write", f"{verb} {_name(paths[0])}")
        if event in NETWORK:
            return (None, "") if _stays_here(event, arguments) else ("network", WORDS.get(event, event))
        if event == "ctypes.dlopen":
            own = place_of(sys._getframe(2), nearest=True)  # noqa: SLF001 - as above
            library = _name(arguments[0]) if arguments[0] else "of C"
            return ("process", f"load the library {library}") if own else (None, "")
        return "process", WORDS.get(event, event)

    def _harmless(self, path: object) -> bool:
        if isinstance(path, int):
            return True  # an open descriptor: opening it was looked at
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        text = os.fsdecode(os.path.realpath(path))
        return text == os.devnull or any(text == place or text.startswith(place + os.sep) for place in self.scratch)


WATCHED = frozenset({"open", "ctypes.dlopen", *WRITES, *NETWORK, *PROCESS})


def start(allowed: Collection[Permission], scratch: Collection[str]) -> Guard:
    """Start guarding this process, for the rest of its life.

    Args:
        allowed: permissions given.
        scratch: folders that may be written.
    """
    guard = Guard(frozenset(allowed), tuple(os.path.realpath(path) for path in scratch))
    sys.addaudithook(guard.hook)
    if "process" not in guard.allowed:
        import _posixsubprocess  # noqa: PLC0415 - multiprocessing's spawn calls it without raising an audit event

        _posixsubprocess.fork_exec = _refusing(guard, "os.posix_spawn")
    return guard


def _stays_here(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a call of the network asks this machine about itself: its own addresses, or whether it has IPv6 (urllib3 does)."""
    if event == "socket.getaddrinfo":
        return not arguments[0]
    return (
        event == "socket.bind"
        and isinstance(arguments[1], tuple)
        and arguments[1][:2] in {("::1", 0), ("127.0.0.1", 0)}
    )


def _refusing(guard: Guard, event: str) -> Callable[..., Any]:
    def refuse(*_: object) -> None:
        guard.hook(event, ())

    return refuse


def _name(path: object) -> str:
    return repr(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else "a file"


LIBRARIES = tuple(
    {os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
OURS = str(Path(__file__).resolve().parents[1]) + os.sep


def is_users(file: str) -> bool:
    """Tell whether a code object's file is the user's: neither a library, nor ours, nor made at run time."""
    return not file.startswith(("<", "/proc/")) and not os.path.realpath(file).startswith((*LIBRARIES, OURS))


def place_of(frame: FrameType | None, *, nearest: bool = False) -> str:
    """Return ``file:line`` of the innermost frame of the user's code, or an empty string.

    Args:
        frame: where to begin.
        nearest: look at the first frame outside ``ctypes`` and the hook alone.
    """
    while frame is not None:
        file = frame.f_code.co_filename
        if is_users(file):
            return f"{file}:{frame.f_lineno}"
        if nearest and "ctypes" not in file and not file.startswith(OURS):
            return ""
        frame = frame.f_back
    return ""

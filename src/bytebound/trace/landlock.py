"""Linux's Landlock: a process gives up writing files, connecting and signalling, for C code as for Python, and cannot take it back.

Source: Linux kernel, include/uapi/linux/landlock.h and Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System call numbers, the same on every architecture but Alpha."""
VERSION_FLAG, PATH_BENEATH, NO_NEW_PRIVILEGES = 1, 1, 38
WRITE_FILE, REMOVE_DIR, REMOVE_FILE, REFER, TRUNCATE = 1 << 1, 1 << 4, 1 << 5, 1 << 13, 1 << 14
MAKE_ANY = sum(1 << bit for bit in range(6, 13))
WRITES = WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_ANY
BIND_TCP, CONNECT_TCP = 1, 2
ABSTRACT_SOCKETS, SIGNALS = 1, 2
"""What a process may reach outside of itself and its children."""
SINCE = {"files": 1, "refer": 2, "truncate": 3, "network": 4, "scopes": 6}
"""The version of Landlock that brought each."""


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def give_up(*, writing: bool, network: bool, signals: bool, scratch: Collection[str]) -> bool:
    """Give up what is asked in this thread and all it starts; tell whether the kernel could.

    Args:
        writing: give up writing, creating and removing files outside ``scratch``.
        network: give up TCP connections, where the kernel knows how (6.7 and later).
        signals: give up signals to processes that it did not start, where the kernel knows how (6.12 and later).
        scratch: folders and files that may be written still.
    """
    if sys.platform != "linux" or not (writing or network or signals):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)
    if version < SINCE["files"]:
        return False
    files = 0
    if writing:
        files = WRITES | (REFER if version >= SINCE["refer"] else 0) | (TRUNCATE if version >= SINCE["truncate"] else 0)
    scoped = (ABSTRACT_SOCKETS if network else 0) | (SIGNALS if signals else 0)
    rules = _Ruleset(
        files,
        (BIND_TCP | CONNECT_TCP) if network and version >= SINCE["network"] else 0,
        scoped if version >= SINCE["scopes"] else 0,
    )
    if not (rules.files or rules.network or rules.scoped):
        return False
    known = 1 + (version >= SINCE["network"]) + (version >= SINCE["scopes"])
    size = known * ctypes.sizeof(ctypes.c_uint64)
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        for path in scratch if files else ():
            _allow(libc, ruleset, path, files)
        if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
            return False
        return bool(libc.syscall(RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, files: int) -> None:
    """Allow ``path`` to be written; a file takes only the rights a file can have."""
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not there: nothing to write
    rights = files if os.path.isdir(path) else files & (WRITE_FILE | TRUNCATE)  # noqa: PTH112 - a str all along
    try:
        rule = _PathBeneath(rights, opened)
        libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(opened)

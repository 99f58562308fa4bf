"""Wait until a program imports torch, then begin to record: a program that never does pays nothing."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

FOLDER, STEPS = "BYTEBOUND_WATCH", "BYTEBOUND_WATCH_STEPS"
"""Environment of a watched command: where its records go, and how many steps are looked at closely."""


class TorchFinder:
    """Finds torch as anyone would, and begins to record once it has been executed."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return torch's own spec with its loader followed by ours; None for any other module."""
        if name != "torch":
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not TorchFinder]
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def followed(module: ModuleType) -> None:
                execute(module)
                begin(module)

            spec.loader.exec_module = followed  # type: ignore[method-assign]
        return spec


def wait_for_torch() -> None:
    """Begin now where torch is there already, else once it is."""
    if "torch" in sys.modules:
        begin(sys.modules["torch"])
    else:
        sys.meta_path.insert(0, TorchFinder)


def begin(torch: Any) -> None:
    """Record this process for as long as it lives. Whatever fails here fails in silence: the program is not ours."""
    with contextlib.suppress(Exception):
        from .recorder import Recorder  # noqa: PLC0415 - only where there is torch

        recorder = Recorder(torch, os.environ[FOLDER], closely=int(os.environ.get(STEPS, "1")))
        recorder.note("torch")
        recorder.attach()
        atexit.register(recorder.end)
        os.register_at_fork(after_in_child=recorder.forked)

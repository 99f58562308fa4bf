"""The process a user's code is traced in: reads a request, runs under the guard, and answers in JSON lines on a pipe.

Lines: ``{"stage": …}`` as it goes, then one ``{"trace": …}`` or ``{"error": …}``. Started by ``script``; never imported.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import json
import os
import signal
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Literal

from bytebound.errors import RequestError, UnknownNameError
from bytebound.trace.guard import start
from bytebound.trace.landlock import give_up
from bytebound.trace.raised import explained

if TYPE_CHECKING:
    from collections.abc import Callable


DIE_WITH_PARENT = 1
"""``PR_SET_PDEATHSIG`` of prctl(2)."""


def main() -> None:
    """Do what the request in the first argument asks; the exit code is always 0 where an answer was given."""
    asked = json.loads(sys.argv[1])
    _outlive_nobody(asked["parent"])
    answer = os.fdopen(asked["answer"], "w", encoding="utf-8")
    dumps = json.dumps  # the code may patch what it likes

    def tell(**line: object) -> None:
        answer.write(dumps(line) + "\n")
        answer.flush()

    allowed, scratch = asked["allow"], [asked["scratch"], os.devnull]
    give_up(
        writing="write" not in allowed, network="network" not in allowed, signals="process" not in allowed, scratch=scratch
    )  # fmt: skip
    try:
        tell(stage="loading PyTorch")
        from bytebound.trace.returned import trace_function  # noqa: PLC0415 - after the process gave up what it could

        guard = start(allowed, scratch)
        audit_saving()
        tell(stage=f"importing {asked['file']}")
        function = load(asked["file"], asked["function"])
        tell(stage=f"running {asked['function']}")
        trace = trace_function(
            function, name=asked["name"], kind=asked["kind"], limit_s=asked["limit_s"], on=_kernels(asked["on"])
        )  # fmt: skip
        from bytebound.documents.values import plain  # noqa: PLC0415 - numpy and pydantic, only now

        found = plain(trace)
        found["notes"] += [f"the code went on without what it was refused: {what}" for what in guard.refused]
        tell(trace=found)
    except BaseException as error:  # noqa: BLE001 - whatever a user's code raises becomes a sentence
        tell(error=explained(error, asked["name"]))
    answer.close()
    os._exit(0)  # no exit handlers or threads of the user's code run on


def _outlive_nobody(parent: int) -> None:
    """End this process when the one that started it is gone, by the kernel on Linux and by looking every second elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        return

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def _kernels(on: str) -> Literal["gpu", "cpu"]:
    import torch  # noqa: PLC0415 - loaded by now

    return "cpu" if on == "cpu" or (on == "here" and not torch.accelerator.is_available()) else "gpu"


def audit_saving() -> None:
    """Make ``torch.save`` ask as ``open`` does: it writes in C++, which raises no audit event."""
    import torch  # noqa: PLC0415 - loaded by now

    save = torch.save

    def audited(obj: object, f: object, *rest: object, **named: object) -> None:
        if isinstance(f, str | os.PathLike):
            sys.audit("open", os.fspath(f), "wb", os.O_WRONLY)
        save(obj, f, *rest, **named)

    torch.save = torch.serialization.save = audited


def load(file: str, name: str) -> Callable[[], object]:
    """Return the function ``name`` of ``file``, imported as a module (``__name__`` is not ``__main__``).

    Raises:
        RequestError: it is no function, or needs arguments.
        UnknownNameError: there is no such name.
    """
    module_name = os.path.splitext(os.path.basename(file))[0]  # noqa: PTH119, PTH122
    sys.path.insert(0, os.path.dirname(file))  # noqa: PTH120 - as python FILE has it
    sys.argv = [file]
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise RequestError("is no Python file", place=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if function is None:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownNameError("function", name, known, place=file, mend="name a function of the file")
    if not callable(function):
        raise RequestError(f"{name} is a {type(function).__name__}, not a function", place=file)
    needed = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]  # fmt: skip
    if needed:
        raise RequestError(
            f"{name} needs {', '.join(needed)}, and is called without arguments",
            place=file,
            mend="give them defaults, or name a function that takes none",
        )
    return function  # type: ignore[no-any-return]


if __name__ == "__main__":
    warnings.filterwarnings("error", message="CUDA is not available or|User provided device_type of 'cuda'")
    main()

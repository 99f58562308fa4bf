"""Why a user's file could not be traced: what ``failures`` words, and what only concerns a file run under guard."""

from __future__ import annotations

import sys
import traceback
from typing import Any, NoReturn

from bytebound.errors import ByteboundError, UnfinishedError
from bytebound.trace.guard import RefusedError

DEVICE = "build on the default device, without device= and .cuda(): the trace needs no GPU and finds the same bytes"


class DeviceError(RuntimeError):
    """The code asks for a device that is not the default one."""


def explained(error: BaseException, name: str) -> dict[str, Any]:
    """Return what went wrong: message, place, mend, and whether it is the request's fault (else it did not finish)."""
    from bytebound.trace.failures import line_of, plainly  # noqa: PLC0415 - PyTorch may be what could not be loaded

    cause = error.__cause__ if isinstance(error, ByteboundError) else None
    if cause is not None and (words := _words(cause)):
        return {"message": words[0], "place": line_of(cause), "mend": words[1], "finished": True}
    if isinstance(error, ByteboundError):
        return {
            "message": error.message, "place": error.place or line_of(error), "mend": error.mend,
            "finished": not isinstance(error, UnfinishedError),
        }  # fmt: skip
    if isinstance(error, SyntaxError):
        message, place, mend = f"is not Python: {error.msg}", f"{error.filename}:{error.lineno}", "correct the file"
        return {"message": message, "place": place, "mend": mend, "finished": True}
    if words := _words(error):
        return {"message": words[0], "place": line_of(error), "mend": words[1], "finished": True}
    try:
        with plainly(name):
            _again(error)
    except ByteboundError as worded:
        return explained(worded, name)
    except BaseException as left:  # noqa: BLE001 - what nobody words is said as it is
        said = f"the code raised {type(left).__name__}: {left}".rstrip(": ")
        return {"message": said, "place": line_of(left), "mend": "run it without bytebound", "finished": True}
    raise AssertionError  # plainly lets nothing through


def _again(error: BaseException) -> NoReturn:
    raise error


def _words(error: BaseException) -> tuple[str, str] | tuple[()]:
    """Return message and mend of what only a file under guard can raise."""
    text = " ".join(str(error).split())[:400]
    return _of_the_guard(error, text) or _of_the_place(error, text) or _of_the_tensors(error, text)


def _of_the_guard(error: BaseException, text: str) -> tuple[str, str] | tuple[()]:
    """What it was refused, and how it left."""
    if isinstance(error, RefusedError):
        return text.partition(" (")[0], f"allow it with {text.partition(': ')[2].rstrip(')')}, or leave it out"
    if isinstance(error, SystemExit):
        return f"the code called sys.exit({error.code!r})", "return from the function instead"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"the code imports {error.name}, which is not installed beside bytebound",
            f"install it into {sys.prefix}, or run bytebound from the environment of the code",
        )
    if isinstance(error, MemoryError):
        return (
            f"the code asks for more real memory than there is: {text}".rstrip(": "),
            "make it with torch inside the function, where tensors take no memory",
        )
    return ()


def _of_the_place(error: BaseException, text: str) -> tuple[str, str] | tuple[()]:
    """What needs data, a network or other processes."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if any("torch/utils/data/" in file for file in files):
        return (
            "a data loader has no values to deal here",
            "build one batch of the shape it deals, such as torch.randint(0, vocabulary, (4, 2048))",
        )
    if any("torch/distributed/" in file for file in files):
        return (
            f"the code wants a process group: {text}",
            "trace the model of one device, without init_process_group, DistributedDataParallel or FSDP",
        )
    if isinstance(error, PermissionError) or "permission denied" in text.lower():
        return f"the code was refused: {text}", "allow it with --allow write, network or process, or leave it out"
    if "offline" in text.lower() and "huggingface" in text.lower():
        return (
            f"the code fetches from the network: {text.partition('. ')[0]}",
            "build from a config, or give --allow network",
        )
    return ()


def _of_the_tensors(error: BaseException, text: str) -> tuple[str, str] | tuple[()]:
    """What tensors without values on one device cannot do."""
    if isinstance(error, DeviceError):
        return "the code asks for a GPU", DEVICE
    if "disabling autocast" in text.lower():
        return (
            "autocast of 'cuda' is off without a GPU: the trace would be of 32-bit code",
            "write torch.autocast(x.device.type, dtype=torch.bfloat16), which is right with and without one",
        )
    if "is not supported for tensor subclasses" in text or type(error).__name__ == "SafetensorError":
        return (
            "the code reads the values of a tensor, and traced tensors have shapes but no values",
            "leave it out of the step",
        )
    if type(error).__name__ == "FakeTensorDeviceMismatchError":
        return "the code mixes devices", "build all on the default device, without device=: no tensor takes memory here"
    return ()

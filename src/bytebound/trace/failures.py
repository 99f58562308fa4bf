"""What goes wrong in traced code, as one sentence with the line of that code and a mend."""

from __future__ import annotations

import sysconfig
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from bytebound.errors import ByteboundError, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_GPU = (
    "not compiled with CUDA",
    "No NVIDIA driver",
    "No CUDA GPUs",
    "not linked with support for",
    "device_type of 'cuda'",
)
OURS = str(Path(__file__).parents[1])
LIBRARIES = tuple({sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib")})


@contextmanager
def plainly(name: str) -> Iterator[None]:
    """Turn what traced code raises into a RequestError with its file and line.

    Errors of bytebound pass, and so do refusals and missing packages: who runs the code words those.
    """
    try:
        yield
    except (ByteboundError, ImportError, PermissionError):
        raise
    except Exception as error:
        if type(error).__module__.startswith("bytebound."):
            raise
        message, mend = _sentence(error)
        raise RequestError(message, place=line_of(error) or name, mend=mend) from error


def _sentence(error: Exception) -> tuple[str, str]:
    text = " ".join(str(error).split())[:300]
    if isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)):
        operator = getattr(error, "func", "")
        return (
            f"the code depends on the values of a tensor ({operator}), and traced tensors have shapes but no values",
            (
                "take sizes from shapes and leave out nonzero, unique, boolean masks and branches on tensors "
                "(experts of transformers: experts_implementation='grouped_mm')"
            ),
        )
    if any(words in text for words in NO_GPU):
        return "the code asks for a GPU", "build on the default device: the trace needs no GPU and finds the same bytes"
    if "grad can be implicitly created only for scalar outputs" in text:
        return "the loss is not one number", "reduce it with .mean() or .sum() before backward()"
    if "does not require grad and does not have a grad_fn" in text:
        return (
            "no parameter gets a gradient from this loss",
            "leave parameters trainable and compute the loss from the model's output",
        )
    return f"the code raised {type(error).__name__}: {text}".rstrip(
        ": "
    ), "run it without bytebound to see the whole error"


def line_of(error: BaseException) -> str:
    """``file:line`` of the innermost frame that is neither bytebound's nor a library's, or an empty string."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((OURS, *LIBRARIES, "<")):
            return f"{frame.filename}:{frame.lineno}"
    return ""

"""What every verb shares: where results, messages and files go, and the flags that say so."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from bytebound.errors import DocumentError, UnfinishedError

if TYPE_CHECKING:
    from collections.abc import Callable

FINE, NO, WRONG, BUG, INTERRUPTED = 0, 1, 2, 70, 130

OUTPUT = Group("Output", sort_key=9)
Json = Annotated[bool, Parameter(name="--json", negative="", group=OUTPUT, help="Print the JSON document.")]
Html = Annotated[
    Path | None, Parameter(name="--html", group=OUTPUT, help="Also write one self-contained HTML page to this file.")
]
Quiet = Annotated[
    bool, Parameter(name=["--quiet", "-q"], negative="", group=OUTPUT, help="Say nothing but the result.")
]
Model = Annotated[
    str, Parameter(help="Bundled id (a unique ending will do), config.json, model folder, .gguf or .safetensors file.")
]
On = Annotated[str, Parameter(name="--on", help='Machine: "8x h100-sxm", "2x(8x h100-sxm)", a machine file, or here.')]


def say(text: str, *, quiet: bool = False) -> None:
    """Print what is not the result, on standard error."""
    if quiet:
        return
    encoding = sys.stderr.encoding or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        from bytebound.report.words import to_ascii  # noqa: PLC0415 - rarely needed

        text = to_ascii(text)
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the command line


def show(text: str) -> None:
    """Print the result. What the terminal's encoding cannot hold is written as UTF-8, never lost."""
    line = text if text.endswith("\n") else text + "\n"
    try:
        sys.stdout.write(line)
    except UnicodeEncodeError:
        sys.stdout.flush()
        sys.stdout.buffer.write(line.encode())
    sys.stdout.flush()


def write(path: Path, text: str, *, quiet: bool) -> None:
    """Write ``text`` to ``path`` whole or not at all.

    Raises:
        UnfinishedError: the folder is not writable, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UnfinishedError(
            f"cannot write: {error.strerror}", place=str(path), mend="name a folder that exists and can be written"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    say(f"Wrote {path}", quiet=quiet)


def emit(document: Any, *, json: bool, text: Callable[[], str]) -> None:
    """Print a document as JSON or as text."""
    if json:
        from bytebound.documents.values import to_json  # noqa: PLC0415 - heavy imports belong to the verb

        show(to_json(document))
    else:
        show(text())


def page() -> Any:
    """Return how wide, coloured and unicode standard output is."""
    from bytebound.report.page import page_for  # noqa: PLC0415

    return page_for(sys.stdout)


def writable(path: Path | None) -> None:
    """Refuse a target before any work is done.

    Raises:
        DocumentError: its folder is missing, or it is a folder itself.
    """
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise DocumentError("no such folder", place=str(path), mend=f"make {path.parent} first")
    if path.is_dir():
        raise DocumentError("is a folder, not a file", place=str(path), mend="name a file in it")

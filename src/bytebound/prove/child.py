"""The child process: opens one engine and obeys one JSON line after another. ``python -m bytebound.prove.child ADAPTER [BYTES]``.

Requests: ``{"do": "open", "settings": {…}}`` once; ``{"do": "time", "what": METHOD, "with": {…}, "skip": 1, "times": 3}``;
``{"do": "ask", "what": METHOD, "with": {…}}``. Replies: ``{"done": …}`` or ``{"error": {"kind", "message", "place", "mend"}}``.
The end of standard input ends the process, so none outlives its parent.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bytebound.errors import ByteboundError, RequestError, UnfinishedError
from bytebound.measure.sampling import sample

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

OUT_OF_MEMORY = "out of memory"
LONGEST = 500
"""Characters of an engine's own words that are passed on."""


def serve(adapter: str, requests: TextIO, replies: TextIO) -> None:
    """Answer every line of ``requests`` on ``replies`` until there are no more."""
    engine: Any = None
    for line in requests:
        try:
            asked = json.loads(line)
            if asked["do"] == "open":
                engine = importlib.import_module(adapter).open(asked["settings"])
                done: Any = {"version": str(engine.version)}
            else:
                done = answer(engine, asked)
            reply: dict[str, Any] = {"done": done}
        except ByteboundError as error:
            reply = {"error": described(error)}
        except Exception as error:  # noqa: BLE001 - engines raise anything at all; the parent gets a sentence
            reply = {"error": described(in_words(error, adapter))}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def answer(engine: Any, asked: dict[str, Any]) -> Any:
    """Time a method or return what it says.

    Raises:
        RequestError: no engine is open, or it has no such method.
    """
    method = getattr(engine, str(asked["what"]), None)
    if method is None or str(asked["what"]).startswith("_"):
        raise RequestError(f"this engine cannot do {asked['what']!r}", mend="prove another lever on it")
    given = asked.get("with", {})
    if asked["do"] == "ask":
        return method(**given)
    for _ in range(int(asked.get("skip", 0))):
        method(**given)
    seconds: list[float] = []

    def timings() -> None:
        for _ in range(int(asked.get("times", 1))):
            start = time.perf_counter()
            method(**given)
            seconds.append(time.perf_counter() - start)

    whole = sample(timings)
    return {"seconds": seconds, "whole": asdict(whole)}


def in_words(error: Exception, adapter: str) -> ByteboundError:
    """Return what an engine raised as one sentence."""
    text = " ".join(str(error).split())[:LONGEST]
    if isinstance(error, MemoryError) or OUT_OF_MEMORY in text.lower() or "can't allocate memory" in text.lower():
        return UnfinishedError(
            f"{OUT_OF_MEMORY} in the engine's process", place=adapter, mend="prove on a smaller model, or free memory"
        )
    return UnfinishedError(f"the engine failed: {type(error).__name__}: {text}", place=adapter)


def described(error: ByteboundError) -> dict[str, str]:
    """Return an error as it crosses the pipe."""
    return {"kind": type(error).__name__, "message": error.message, "place": error.place, "mend": error.mend}


def limit_memory(size: int) -> None:
    """Let this process hold at most ``size`` bytes of its own (mapped files apart), where the system can say so."""
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource  # noqa: PLC0415 - not on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


@contextlib.contextmanager
def own_output() -> Iterator[TextIO]:
    """Keep the pipe for replies alone: whatever engines print, in C too, goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        yield replies


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends us whole
    if len(sys.argv) > 2:
        limit_memory(int(sys.argv[2]))
    with own_output() as pipe:
        serve(sys.argv[1], sys.stdin, pipe)

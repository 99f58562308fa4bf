"""The parent's end: an engine in a child process, asked over pipes, never waited for without a limit, killed whole."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from bytebound import errors
from bytebound.errors import ByteboundError, UnfinishedError
from bytebound.measure.sampling import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_REPLY = 64 * 2**20
WAIT_S = 120.0
"""Seconds after which a child that says nothing is ended."""
TAIL = 2000
_END = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """Timings taken one after another [s], and how the machine was used during all of them."""

    seconds: tuple[float, ...]
    whole: Sample


@dataclass(frozen=True, slots=True)
class Remote:
    """An open engine in a child process."""

    process: subprocess.Popen[str]
    requests: IO[str]
    replies: queue.Queue[str]
    said: IO[bytes]
    name: str
    wait_s: float

    def time(self, what: str, arguments: dict[str, Any], *, skip: int = 1, times: int = 1) -> Turn:
        """Return ``times`` timings of a method, after ``skip`` that do not count.

        Raises:
            ByteboundError: what the engine raised. UnfinishedError: it died, or took too long.
        """
        found = self.send({"do": "time", "what": what, "with": arguments, "skip": skip, "times": times})
        return Turn(tuple(found["seconds"]), Sample(**found["whole"]))

    def ask(self, what: str, **arguments: Any) -> Any:
        """Return what a method of the engine returns."""
        return self.send({"do": "ask", "what": what, "with": arguments})

    def send(self, request: dict[str, Any]) -> Any:
        """Send one request and return what was done."""
        try:
            self.requests.write(json.dumps(request) + "\n")
            self.requests.flush()
            line = self.replies.get(timeout=self.wait_s)
        except queue.Empty:
            self.end()
            raise UnfinishedError(
                f"the engine said nothing for {self.wait_s:g} s and was ended", place=self.name,
                mend="prove on a smaller model",
            ) from None  # fmt: skip
        except OSError:
            line = _END
        if line == _END:
            raise self._died()
        reply = json.loads(line)
        if "error" in reply:
            raise raised(reply["error"])
        return reply["done"]

    def _died(self) -> UnfinishedError:
        self.end()
        code = self.process.returncode
        how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with code {code}"
        self.said.seek(0, os.SEEK_END)
        self.said.seek(max(self.said.tell() - TAIL, 0))
        last = " ".join((self.said.read().decode(errors="replace").strip().splitlines() or [""])[-1].split())
        out = code == -signal.SIGKILL or "bad_alloc" in last or "alloc" in last.lower()
        return UnfinishedError(
            f"the engine's process ended {how}{f': {last[:300]}' if last else ''}", place=self.name,
            mend="it likely ran out of memory: prove on a smaller model" if out else "prove another lever, or report it",
        )  # fmt: skip

    def end(self) -> None:
        """End the child and whatever it started."""
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # it leads a group of its own
        else:
            self.process.kill()
        self.process.wait()


def raised(error: dict[str, str]) -> ByteboundError:
    """Return the error that a child described."""
    kind = getattr(errors, str(error.get("kind")), None)
    plain = kind if kind in {errors.QuantityError, errors.DocumentError, errors.RequestError} else UnfinishedError
    return plain(str(error["message"]), place=str(error["place"]), mend=str(error["mend"]))


@contextmanager
def open_engine(
    adapter: str, settings: dict[str, Any], *, memory_bytes: float | None = None, wait_s: float = WAIT_S,
    environment: dict[str, str] | None = None,
) -> Iterator[tuple[Remote, str]]:  # fmt: skip
    """Start a child, open the engine there, and give it with its version; the child is ended however the block is left.

    Args:
        adapter: module with ``open(settings)``, see ``bytebound.prove``.
        settings: JSON values.
        memory_bytes: what the child may hold; None: no limit.
        wait_s: seconds after which a silent child is ended.
        environment: variables beside our own.

    Raises:
        ByteboundError: what the adapter raised. UnfinishedError: the child died, or took too long.
    """
    command = [sys.executable, "-m", "bytebound.prove.child", adapter]
    if memory_bytes is not None:
        command.append(str(int(memory_bytes)))
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, encoding="utf-8",
            start_new_session=True, env={**os.environ, **(environment or {})},
        )  # fmt: skip
        requests, answers = _pipes(process)
        replies: queue.Queue[str] = queue.Queue()
        remote = Remote(process, requests, replies, said, adapter.rpartition(".")[2], wait_s)
        reader = threading.Thread(target=_read, args=(answers, replies), daemon=True)
        reader.start()
        try:
            opened = remote.send({"do": "open", "settings": settings})
            yield remote, str(opened["version"])
        finally:
            remote.end()
            reader.join()
            for pipe in (requests, answers):
                with contextlib.suppress(OSError):  # a dead child's pipe cannot be flushed
                    pipe.close()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    if process.stdin is None or process.stdout is None:
        raise UnfinishedError("no pipes to the engine's process")
    return process.stdin, process.stdout


def _read(pipe: IO[str], replies: queue.Queue[str]) -> None:
    """Pass on every line; the end, or a line longer than any answer is, ends it."""
    while True:
        line = pipe.readline(LONGEST_REPLY)
        replies.put(line if line.endswith("\n") else _END)
        if not line.endswith("\n"):
            return

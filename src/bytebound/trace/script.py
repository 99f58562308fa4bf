"""``FILE.py:function`` traced in a process of its own: bounded in time and memory, guarded, and killed whole."""

from __future__ import annotations

import ast
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bytebound.documents.trace import Trace
from bytebound.errors import DocumentError, QuantityError, RequestError, UnfinishedError, UnknownNameError
from bytebound.measure.system import read_system
from bytebound.trace.guard import PERMISSIONS
from bytebound.units import show_capacity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from bytebound.errors import ByteboundError

LIMIT_S = 120.0
"""Seconds a traced program may take, imports included."""
GRACE_S = 1.0
"""Seconds more until it is killed: the tracer, which stops by itself, knows where it was."""
LONGEST_S = 86400.0
MEMORY_SHARE = 0.8
"""Share of the free memory that a traced program may hold; a trace itself needs well under 1 GB."""
POLL_S = 0.2
TAIL_LINES, LONGEST_LINE = 12, 300
MOST_ANSWER_BYTES = 2**28
MOST_SOURCE_BYTES = 2**24
_ONE_PARSE = threading.Lock()
"""CPython 3.11 counts the depth of a syntax tree per interpreter, so two threads that parse at once may fail (gh-106905)."""
TARGET = re.compile(r"(?P<file>.+\.py)(?::(?P<function>[^/\\]*))?", re.DOTALL)
LIBRARY_LOG = re.compile(r"[EWIV]\d{4} \d\d:")
"""How lines begin that PyTorch logs about its own traced tensors."""
HARMLESS = {
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "WANDB_MODE": "disabled",
    "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
"""Settings under which libraries do less by themselves."""
CACHES = ("TMPDIR", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Folders that libraries write to; they are the scratch folder here."""


@dataclass(frozen=True, slots=True)
class Target:
    """A function of a file."""

    file: Path
    function: str

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.file.name}:{self.function}"


def is_script(target: str) -> bool:
    """Tell whether ``target`` names a Python file, with or without a function."""
    return TARGET.fullmatch(target) is not None


def read_target(target: str) -> Target:
    """Return what ``FILE.py:function`` names, without running anything.

    Raises:
        DocumentError: no such file, or it is not Python.
        UnknownNameError: the file defines no such function.
        RequestError: no function is named.
    """
    found = TARGET.fullmatch(target)
    if found is None:
        raise RequestError(f"{target!r} is not FILE.py:function", place="TARGET")
    file, function = Path(found["file"]), found["function"] or ""
    try:
        if file.exists() and not file.is_file():
            raise DocumentError("is no file", place=str(file), mend="give the path of a Python file")
        with file.open("rb") as opened:
            text = opened.read(MOST_SOURCE_BYTES + 1)
        if len(text) > MOST_SOURCE_BYTES:
            raise DocumentError(
                f"is larger than {show_capacity(MOST_SOURCE_BYTES)}",
                place=str(file),
                mend="name the file with the function",
            )
        with _ONE_PARSE:
            tree = ast.parse(text, filename=str(file))
    except OSError as error:
        raise DocumentError(
            f"cannot be read: {error.strerror}", place=str(file), mend="give the path of a Python file"
        ) from None
    except (RecursionError, MemoryError):
        raise DocumentError(
            "is nested too deep to be read", place=str(file), mend="split its longest expression"
        ) from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        place = f"{file}:{line}" if line else str(file)
        raise DocumentError(
            f"is not Python: {getattr(error, 'msg', error)}", place=place, mend="correct the file"
        ) from None
    known = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if not function:
        raise RequestError(
            "which function to trace is not said",
            place=str(file),
            mend=f"write {file}:{known[-1] if known else 'function'}",
        )
    if function not in known and not _may_bind(tree, function):
        raise UnknownNameError("function", function, known, place=str(file), mend="name a function of the file")
    return Target(file.absolute(), function)


def _may_bind(tree: ast.Module, name: str) -> bool:
    """Tell whether a module may come to have ``name`` by an assignment, a class or an import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.alias) and (node.name == "*" or name in (node.asname, node.name.partition(".")[0])):
            return True
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return True
    return False


def trace_script(
    target: str, *, kind: str = "training", limit_s: float = LIMIT_S, memory_bytes: float | None = None,
    allow: Collection[str] = (), on: Literal["gpu", "cpu", "here"] = "gpu",
) -> Trace:  # fmt: skip
    """Return the trace of what ``FILE.py:function`` returns or does (see ``returned``), run in a guarded process.

    Args:
        target: ``FILE.py:function``; the function is called without arguments.
        kind: ``training``, or ``forward``: no backward pass and no optimizer.
        limit_s: seconds after which the process is killed.
        memory_bytes: resident memory at which it is killed; None: 80 % of what is free.
        allow: any of ``write``, ``network``, ``process``: what the code may do besides computing.
        on: ``here``: with the kernels of a CPU where this machine has nothing else; ``gpu``, ``cpu``: with those of one everywhere.

    Raises:
        DocumentError, UnknownNameError, RequestError: there is no such function, or it cannot be traced; with the last lines
            it printed as a note.
        UnfinishedError: killed by a limit, or it ended its process.
    """
    found = read_target(target)
    for permission in allow:
        if permission not in PERMISSIONS:
            raise UnknownNameError(
                "permission", permission, PERMISSIONS, place="--allow", mend=f"choose from {', '.join(PERMISSIONS)}"
            )
    if not 0 < limit_s <= LONGEST_S:
        raise QuantityError(f"a limit of {limit_s:g} s is outside 0 … {LONGEST_S:g}", place="--limit")
    if os.name != "posix":
        raise RequestError("code is traced on Linux and macOS only", place=target, mend="run it there or in WSL")
    most = memory_bytes if memory_bytes is not None else MEMORY_SHARE * read_system().memory_free_bytes
    with _mortal(), tempfile.TemporaryDirectory(prefix="bytebound-trace-") as scratch:
        run = _Run(found, scratch, tuple(dict.fromkeys(allow)), kind=kind, limit_s=limit_s, on=on)
        try:
            run.follow(limit_s, most)
        finally:
            run.end()
    return run.result()


@contextmanager
def _mortal() -> Iterator[None]:
    """Let SIGTERM leave by the same way as an error, so that no process and no folder stays."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Run:
    """One child process, from start to end."""

    def __init__(
        self, target: Target, scratch: str, allow: tuple[str, ...], *, kind: str, limit_s: float, on: str
    ) -> None:
        self.target = target
        self.stage = "starting"
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.killed: ByteboundError | None = None
        self.answer: dict[str, Any] = {}
        self._unfinished = {"answer": b"", "output": b""}
        self._many = "process" in allow
        reading, writing = os.pipe()
        asked = {
            "file": str(target.file), "function": target.function, "name": target.name, "allow": allow, "scratch": scratch,
            "kind": kind, "limit_s": limit_s, "on": on,
            "answer": writing, "parent": os.getpid(),
        }  # fmt: skip
        harmless = {} if "network" in allow else HARMLESS
        environment = os.environ | harmless | dict.fromkeys(CACHES, scratch) | {"PYTHONWARNINGS": "ignore"}
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
                [sys.executable, "-P", "-B", "-m", "bytebound.trace.child", json.dumps(asked)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
                pass_fds=(writing,), start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._answers = reading

    def follow(self, limit_s: float, most_bytes: float) -> None:
        """Read what the child says until it is done, or kill it."""
        output = self.process.stdout
        if output is None:
            raise RuntimeError
        ends = time.monotonic() + limit_s + GRACE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ, "answer")
            selector.register(output.fileno(), selectors.EVENT_READ, "output")
            while selector.get_map() and not ("trace" in self.answer or "error" in self.answer):
                for key, _ in selector.select(POLL_S):
                    piece = os.read(key.fd, 2**16)
                    if not piece:
                        selector.unregister(key.fd)
                    self._take(key.data, piece)
                if self._answers not in selector.get_map() and self.process.poll() is not None:
                    return
                if time.monotonic() > ends and not self.killed:
                    self._kill(
                        f"it was still {self.stage} after {limit_s:g} s, the limit",
                        "raise it with --limit, or do less: one step is enough",
                    )
                    return
                held = resident_bytes(self.process.pid, whole=self._many)
                if held > most_bytes:
                    self._kill(
                        f"it held {show_capacity(held)} of real memory while {self.stage}, more than the {show_capacity(most_bytes)} allowed",
                        "build the model inside the function, where tensors take no memory",
                    )
                    return
        if not self.answer.keys() & {"trace", "error"}:
            with suppress(subprocess.TimeoutExpired):  # pipes close a little before the process is gone
                self.process.wait(GRACE_S)
                return
            self._kill("it closed what it answers through", "leave files open that it did not open")

    def _take(self, stream: str, piece: bytes) -> None:
        *lines, rest = (self._unfinished[stream] + piece).split(b"\n")
        if stream == "output":
            shown = [line.decode(errors="replace")[-LONGEST_LINE:] for line in lines if line.strip()]
            self.tail += [line for line in shown if not LIBRARY_LOG.match(line)]
            self._unfinished[stream] = rest[-LONGEST_LINE * 4 :]
            return
        if len(rest) > MOST_ANSWER_BYTES:
            self._kill("its answer is larger than any trace", "report it")
        self._unfinished[stream] = rest
        for line in lines:
            with suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    self.answer = said
                    self.stage = said.get("stage", self.stage)

    def _kill(self, why: str, mend: str) -> None:
        self.killed = UnfinishedError(f"the code was stopped: {why}", place=self.target.name, mend=mend)

    def end(self) -> None:
        """Kill what is left of the child and of everything it started, and close the pipes."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._answers)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def result(self) -> Trace:
        """Return the trace, or raise what kept it from being made, with the last printed lines as notes."""
        if "trace" in self.answer and self.killed is None:
            return _trace(self.answer["trace"], self.target.name)
        error = self.killed or self._failure()
        for line in self.tail:
            error.add_note(line)
        raise error

    def _failure(self) -> ByteboundError:
        if "error" in self.answer:
            said = self.answer["error"]
            kind = RequestError if said["finished"] else UnfinishedError
            return kind(said["message"], place=said["place"] or self.target.name, mend=said["mend"])
        code = self.process.returncode
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended its own process with exit code {code}"
        return UnfinishedError(
            f"the code {how} while {self.stage}",
            place=self.target.name,
            mend="see its last lines, or run it without bytebound",
        )


def _trace(said: Any, place: str) -> Trace:
    from bytebound.documents.values import from_json  # noqa: PLC0415 - pydantic, only where there is something to read

    return from_json(Trace, json.dumps(said), place=place)


def resident_bytes(leader: int, *, whole: bool) -> float:
    """Return the resident memory of a process, or of its whole session; 0 where the system does not tell.

    Args:
        leader: its process id, and its session's.
        whole: count every process of the session.
    """
    return sum(map(_resident, _session(leader) if whole else (leader,)))


def _session(leader: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[3]) == leader:
                yield int(entry.name)


def _resident(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))

"""A real loopback HTTP server in a thread, whose answers are raw bytes with known times: good, bad and hostile ones."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bytebound.engines.server import drive_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bytebound.documents.observation import Run

SMALL = {"prompt": 8, "output": 4, "requests": 3, "timeout_s": 5.0}
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"


def data(value: object) -> bytes:
    """Return one event."""
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def token(text: str = " a", finish: str | None = None) -> bytes:
    """Return the event of one token of a completion."""
    return data({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})


def usage(prompt: int, output: int, cached: int = 0) -> bytes:
    """Return the closing event with the server's count."""
    counts = {"prompt_tokens": prompt, "completion_tokens": output, "prompt_tokens_details": {"cached_tokens": cached}}
    return data({"choices": [], "usage": counts})


def plain(status: str, body: bytes, kind: str = "application/json") -> bytes:
    """Return a whole answer that is no stream."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@dataclass
class Fake:
    """What the server does, and what it saw.

    ``complete`` writes the answer to a completion: it gets a function that sends bytes, the request, and its number.
    """

    complete: Callable[[Callable[[bytes], None], dict, int], None]
    owner: str = "vllm"
    pages: dict[str, bytes | Callable[[], bytes]] = field(default_factory=dict)
    asked: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    flying: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, connection: socket.socket) -> None:
        """Answer one request on ``connection`` and close it."""
        with connection, connection.makefile("rb") as stream:
            head = b"".join(iter(stream.readline, b"\r\n"))
            if not head:
                return
            method, path, _ = head.decode("latin-1").split("\r\n")[0].split(" ")
            with self.lock:
                self.paths.append(path)
                self.heads.append(head.decode("latin-1"))
            if method == "GET":
                models = {"data": [{"id": "tiny", "object": "model", "owned_by": self.owner}]}
                known = {"/v1/models": plain("200 OK", json.dumps(models).encode())} | self.pages
                page = known.get(path, plain("404 Not Found", b"{}"))
                connection.sendall(page() if callable(page) else page)
                return
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            request = json.loads(stream.read(length))
            with self.lock:
                number = len(self.asked)
                self.asked.append(request)
                self.flying += 1
                self.most = max(self.most, self.flying)
            try:
                self.complete(connection.sendall, request, number)
            except OSError:
                pass  # the client has hung up
            finally:
                with self.lock:
                    self.flying -= 1


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """Serve on a free port of loopback, one thread per connection, and yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        over = threading.Event()

        def accept() -> None:
            while not over.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                connection.settimeout(10)
                threading.Thread(target=fake.answer, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join(5)


def good(first_s: float = 0.0, each_s: float = 0.0, *, ending: bytes = data(b"[DONE]")) -> Callable:
    """Return how a good server completes: a first token after ``first_s``, each later one ``each_s`` after the one before."""

    def complete(send: Callable[[bytes], None], request: dict, _: int) -> None:
        words = len(request["prompt"].split()) if "prompt" in request else 7
        send(SSE)
        due = time.perf_counter() + first_s
        for number in range(request["max_tokens"]):
            time.sleep(max(due + number * each_s - time.perf_counter(), 0))
            send(token())
        send(token("", "length") + usage(words, request["max_tokens"]) + ending)

    return complete


def drive(fake: Fake, **load) -> Run:
    """Drive ``fake`` with a small load."""
    with serving(fake) as url:
        return drive_server(url, **(SMALL | {"metrics": "off"} | load))


def misbehaving(from_request: int, bad) -> Fake:
    """Return a server that is good until request ``from_request`` (0 and 1 are the length's and the warm-up's)."""

    def complete(send, request, number):
        (bad if number >= from_request else good())(send, request, number)

    return Fake(complete)

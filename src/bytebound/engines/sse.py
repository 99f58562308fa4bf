"""Server-sent events out of a byte stream, whatever its chunks, with a bound on every length."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bytebound.errors import DocumentError

MAX_LINE, MAX_EVENT, MAX_TOTAL = 1 << 20, 4 << 20, 256 << 20
"""Bytes of one line, one event and one whole stream that are believed. A token's event is some 300 bytes."""
_NEWLINE = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its data lines joined by newlines, and its name (``message`` unless the server gave one)."""

    data: str
    name: str = "message"


class SseParser:
    """Turns chunks of bytes into events; where a chunk ends makes no difference.

    A line ``error: ...`` is no field of the standard, but llama-server has sent its errors so: it gives an event
    named ``error``. An event that the stream's end cuts off is dropped, as the standard asks.

    Source: WHATWG HTML, section 9.2.6 "Interpreting an event stream".
    """

    def __init__(self, *, max_line: int = MAX_LINE, max_event: int = MAX_EVENT, max_total: int = MAX_TOTAL) -> None:
        self._max_line, self._max_event, self._max_total = max_line, max_event, max_total
        self._pieces: list[bytes] = []  # the line so far, unjoined: a slow drip must not cost its square
        self._line_bytes = self._event_bytes = self._total = 0
        self._after_return = False
        self._lines = 0
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that ``chunk`` completes.

        Raises:
            DocumentError: a line, an event or the stream is longer than is believed, or a line is not UTF-8.
        """
        self._total += len(chunk)
        self._check(self._total, self._max_total, "the stream")
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_return = False
        if not chunk:
            return []
        self._after_return = chunk.endswith(b"\r")
        *ends, rest = _NEWLINE.split(chunk)
        events = []
        for end in ends:
            self._hold(end)
            line = b"".join(self._pieces)
            self._pieces, self._line_bytes = [], 0
            event = self._take(line)
            if event is not None:
                events.append(event)
        self._hold(rest)
        return events

    def _hold(self, piece: bytes) -> None:
        self._line_bytes += len(piece)
        self._check(self._line_bytes, self._max_line, "a line")
        if piece:
            self._pieces.append(piece)

    def _take(self, line: bytes) -> Event | None:
        self._lines += 1
        if not line:
            return self._dispatch()
        try:
            text = line.decode("utf-8-sig" if self._lines == 1 else "utf-8")
        except UnicodeDecodeError:
            raise DocumentError("the stream is not UTF-8", place=f"stream: line {self._lines}") from None
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if field in ("data", "error"):
            self._event_bytes += len(line)
            self._check(self._event_bytes, self._max_event, "an event")
            self._data.append(value)
        if field in ("event", "error"):
            self._name = value if field == "event" else "error"
        return None  # comments (":" first), id, retry and unknown fields say nothing to us

    def _dispatch(self) -> Event | None:
        data, name = self._data, self._name
        self._data, self._name, self._event_bytes = [], "", 0
        return Event("\n".join(data), name or "message") if data else None

    def _check(self, size: int, limit: int, what: str) -> None:
        if size > limit:
            raise DocumentError(f"{what} is longer than {limit} bytes", place=f"stream: line {self._lines + 1}")

"""What our own client adds to every time, measured against a server that does nothing but answer."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from bytebound.engines.exchange import Endpoint, open_client
from bytebound.engines.stream import ask, body

if TYPE_CHECKING:
    import httpx

EVENTS, PAUSE_S, ROUNDS, STREAMS = 16, 0.002, 4, 16
"""Events per answer, seconds between them, answers per stream, and the most streams at once."""
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_TOKEN = b'data: {"choices":[{"index":0,"text":" a","finish_reason":null}]}\n\n'


@dataclass(frozen=True, slots=True)
class Overhead:
    """Median seconds that the client adds to a first token, and to each event after it."""

    first_s: float
    event_s: float


async def client_overhead(concurrency: int) -> Overhead:
    """Return what the client adds with ``concurrency`` streams open (at most 16 are tried), in some 0.2 s.

    An upper bound: client and server take turns in one thread here, so the server's own work is in it.

    Raises:
        OSError: no port can be opened on loopback.
    """
    written: dict[bytes, list[float]] = {}
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with closing(writer):
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    times = written.setdefault(await reader.readexactly(length), [])
                    writer.write(_HEAD)
                    for number in range(EVENTS):
                        if number:
                            await asyncio.sleep(PAUSE_S)
                        times.append(time.perf_counter())
                        writer.write(b"%x\r\n%s\r\n" % (len(_TOKEN), _TOKEN))
                    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                return  # the client has gone

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", loopback=True)
    firsts: list[float] = []
    delays: list[float] = []

    async def drive(client: httpx.AsyncClient) -> None:
        async def stream(slot: int) -> None:
            for turn in range(ROUNDS):
                content = body("completions", "null", f"{slot}.{turn}", output=EVENTS, extras={})
                answer = await ask(client, where.at("/"), content, most=EVENTS, clock=time.perf_counter, timeout_s=10.0)
                if turn and not answer.error:  # the first opens the connection
                    firsts.append(answer.tokens_at[0] - answer.sent_s)
                    delays.extend(seen - sent for seen, sent in zip(answer.tokens_at, written[content], strict=False))

        await asyncio.gather(*(stream(slot) for slot in range(min(concurrency, STREAMS))))

    async with server:
        async with open_client(where, key="", timeout_s=10.0) as client:
            await drive(client)
        await asyncio.gather(*(task for task in serving if task))  # each ends when its connection does
    return Overhead(median(firsts), median(delays))

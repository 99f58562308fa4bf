"""One streaming request: sent, timed event by event, and bounded; whatever goes wrong ends up in its record."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from bytebound.engines.exchange import clean, complaint, kind_of, read_body, refuse_redirect, sentence
from bytebound.engines.sse import Event, SseParser
from bytebound.errors import ByteboundError, DocumentError, UnfinishedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DRAIN_S, STALE_S = 2.0, 1.0
"""Longest wait for a stream to close after it said that it is done; and time within which a broken connection counts as
one that the server had closed before it saw the request."""


def body(api: str, model: str, prompt: str, *, output: int, extras: Mapping[str, object]) -> bytes:
    """Return the JSON of one streaming request: greedy, ``output`` tokens at most, with usage asked for."""
    asked: dict[str, object] = (
        {"messages": [{"role": "user", "content": prompt}]} if api == "chat" else {"prompt": prompt}
    )
    return json.dumps({
        "model": model, **asked, "max_tokens": output, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, **extras,
    }).encode()  # fmt: skip


@dataclass(slots=True)
class Answer:
    """What one stream brought, on one clock [s]. ``tokens_at`` are events that carried a token, ``most`` so many."""

    sent_s: float
    most: int
    tokens_at: list[float] = field(default_factory=list)
    finish_s: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    done: bool = False
    error: str = ""
    status: int = 0
    resent: bool = False

    def take(self, event: Event, now_s: float) -> None:
        """Add one event.

        Raises:
            UnfinishedError: the server reports an error.
            DocumentError: an event that no such server sends, or too many.
        """
        if event.data.strip() == "[DONE]":
            self.done = True
            return
        try:
            data = json.loads(event.data)
        except (ValueError, RecursionError):
            if event.name == "error":
                raise UnfinishedError(f"the server reports: {clean(event.data)}") from None
            raise DocumentError(f"an event is not JSON: {clean(event.data, 60)!r}") from None
        if not isinstance(data, dict):
            raise DocumentError(f"an event is not a JSON object: {clean(event.data, 60)!r}")
        if data.get("error") or event.name == "error":
            raise UnfinishedError(f"the server reports: {complaint(data) or clean(event.data)}")
        self._usage(data.get("usage"))
        choices = data.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            self._choice(choices[0], now_s)

    def _choice(self, choice: dict[str, Any], now_s: float) -> None:
        told = choice.get("delta")
        delta = told if isinstance(told, dict) else choice
        texts = [delta.get(key) for key in ("content", "text", "reasoning_content", "reasoning")]
        finished = choice.get("finish_reason") is not None
        # a special token, or half of a letter, comes as an empty text; a chat's opening and the closing event bring none
        silent_token = "" in texts and not finished and "role" not in delta
        if any(isinstance(text, str) and text for text in texts) or silent_token:
            self.tokens_at.append(now_s)
            if len(self.tokens_at) > self.most:
                raise DocumentError(f"the stream brought over {self.most} token events, more than was asked for")
        if finished:
            self.finish_s = now_s

    def _usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
        self.output_tokens = _count(usage.get("completion_tokens"), self.output_tokens)
        self.cached_tokens = _count(cached, self.cached_tokens) or 0


async def ask(
    client: httpx.AsyncClient, url: str, content: bytes, *, most: int, clock: Callable[[], float], timeout_s: float
) -> Answer:
    """Send one streaming request and return what came back; a failure is in ``error``, with what came before it.

    A stream of more than ``most`` token events is not believed, nor read on.

    Where a server closes a kept-open connection just when it is used again, nothing comes back, at once: the request is
    sent once more, and its time goes on from the first sending.
    """
    answer = Answer(sent_s=clock(), most=most)
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            try:
                await _stream(client, url, content, answer=answer, clock=clock, deadline=deadline)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                if answer.status or clock() - answer.sent_s > STALE_S:
                    raise
                answer.resent = True
                await _stream(client, url, content, answer=answer, clock=clock, deadline=deadline)
    except TimeoutError:
        answer.error = "" if answer.done else f"no end within {timeout_s:g} s, after {_events(answer)}"
    except httpx.HTTPError as error:
        answer.error = "" if answer.done else f"{sentence(error)}, after {_events(answer)}"
    except ByteboundError as error:
        answer.error = str(error)
    if not answer.error and not answer.tokens_at:
        answer.error = "the stream brought no token"
    if not answer.error and not answer.done and answer.finish_s is None:
        answer.error = f"the stream ended before it was finished, after {_events(answer)}"
    return answer


async def _stream(
    client: httpx.AsyncClient, url: str, content: bytes, *, answer: Answer, clock: Callable[[], float],
    deadline: asyncio.Timeout,
) -> None:  # fmt: skip
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    async with client.stream("POST", url, content=content, headers=headers) as response:
        answer.status = response.status_code
        await _accept(response)
        parser = SseParser()
        async for chunk in response.aiter_raw():
            now_s = clock()
            for event in parser.feed(chunk):
                answer.take(event, now_s)
            if answer.done:
                deadline.reschedule(asyncio.get_running_loop().time() + DRAIN_S)


async def _accept(response: httpx.Response) -> None:
    refuse_redirect(response)
    kind = kind_of(response)
    if response.status_code != 200:
        data = await read_body(response, 4096)
        raise UnfinishedError(f"HTTP {response.status_code}: {complaint(data) or 'no explanation'}")
    if kind != "text/event-stream":
        data = await read_body(response, 4096)
        raise DocumentError(f"answered {kind or 'no content type'} instead of a stream: {complaint(data)}")
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise DocumentError(f"answered in the encoding {clean(encoding, 40)}, though plain text was asked for")


def _count(value: object, otherwise: int | None) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1e9
    return value if good else otherwise  # type: ignore[return-value]


def _events(answer: Answer) -> str:
    return f"{len(answer.tokens_at)} token event{'' if len(answer.tokens_at) == 1 else 's'}"

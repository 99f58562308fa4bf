"""A conversation with one server: find the API it speaks and the words that make a prompt, then send; watch its metrics."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from bytebound.documents.observation import RequestRun
from bytebound.engines.exchange import Endpoint, fetch
from bytebound.engines.load import random_prompts
from bytebound.engines.metrics_page import Page, gauge_names, parse_page
from bytebound.engines.stream import Answer, ask, body
from bytebound.errors import ByteboundError, DocumentError, RequestError, UnfinishedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import httpx

    from bytebound.engines.server_kind import Server

PROBE, SLACK = 2, 4
"""Output tokens of a request that only finds the prompt's length; and events per token asked for that are believed."""
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
TRIES, NEAR = 3, 0.01
"""Requests that may be spent on finding the prompt's length, and the share of it that is near enough."""
FIRST_S, POLL_S = 0.1, 0.5
"""Time to the first look at the metrics page during a run, and between two: a look costs the client under 1 ms of work."""


@dataclass(frozen=True, slots=True)
class Session:
    """Everything that a request to this server needs; ``words`` make one prompt of the wanted number of tokens."""

    client: httpx.AsyncClient
    where: Endpoint
    server: Server
    model: str
    timeout_s: float
    api: str = ""
    words: int = 0
    notes: tuple[str, ...] = ()

    def prompts(self, count: int) -> list[str]:
        """Return fresh random prompts: never those of an earlier run, which the server's prefix cache may still hold."""
        return random_prompts(count, words=self.words, seed=secrets.randbits(64))

    def content(self, prompt: str, output: int) -> bytes:
        """Return the body of one request."""
        extras = self.server.extras | ({"min_tokens": output} if self.server.engine == "vllm" else {})
        return body(self.api, self.model, prompt, output=output, extras=extras)

    async def send(self, content: bytes, *, most: int, clock: Callable[[], float] = time.perf_counter) -> Answer:
        """Send one request of which at most ``most`` token events are expected."""
        url = self.where.at(PATHS[self.api])
        return await ask(self.client, url, content, most=most, clock=clock, timeout_s=self.timeout_s)


async def find_words(session: Session, api: str, prompt: int) -> Session:
    """Return ``session`` with the API it speaks, and the number of words that make ``prompt`` tokens.

    Args:
        session: of a server that was found.
        api: ``completions`` or ``chat``; ``auto`` takes completions, which adds no template, where there are any.
        prompt: tokens wanted.

    Raises:
        RequestError: the server refuses the request (HTTP 4xx).
        UnfinishedError: it cannot answer it.
    """
    apis = tuple(PATHS) if api == "auto" else (api,)
    session = replace(session, api=apis[0], words=prompt)
    tried: list[tuple[int, int]] = []
    while len(tried) < TRIES:
        answer = await session.send(session.content(session.prompts(1)[0], PROBE), most=SLACK * PROBE)
        if answer.status in (404, 405, 501) and session.api != apis[-1]:
            session = replace(session, api=apis[-1])
            continue
        _refuse(answer, session)
        if answer.prompt_tokens is None:
            note = f"the server does not count prompt tokens: a prompt is {session.words} short words, about as many tokens"
            return replace(session, notes=(*session.notes, note))
        tried.append((session.words, answer.prompt_tokens))
        if abs(answer.prompt_tokens - prompt) <= max(1, NEAR * prompt):
            return session
        session = replace(session, words=_next_guess(tried, prompt))
    best, tokens = min(tried, key=lambda seen: abs(seen[1] - prompt))
    note = f"a prompt of {prompt} tokens could not be made: {best} words give {tokens}"
    return replace(session, words=best, notes=(*session.notes, note))


def _next_guess(tried: Sequence[tuple[int, int]], prompt: int) -> int:
    """Return the words that make ``prompt`` tokens: a line through the last two tries, or through one and the origin."""
    words, tokens = tried[-1]
    if len(tried) > 1 and tried[-2][0] != words and tried[-2][1] != tokens:
        slope = (tokens - tried[-2][1]) / (words - tried[-2][0])
    else:  # a word is one token nearly everywhere and the rest is template, unless the count is far off
        slope = 1.0 if 0.8 < tokens / words < 1.25 else tokens / words
    return min(max(round(words + (prompt - tokens) / max(slope, 0.01)), 1), 100 * prompt)


def _refuse(answer: Answer, session: Session) -> None:
    if not answer.error:
        return
    url = session.where.at(PATHS[session.api])
    if answer.status in (401, 403):
        raise RequestError(answer.error, place=url, mend="export the server's key and name its variable")
    if 400 <= answer.status < 500:
        raise RequestError(answer.error, place=url, mend="ask for a shorter prompt or output, or another model or API")
    raise UnfinishedError(answer.error, place=url, mend="see the server's own log")


def record(answer: Answer, *, due_s: float | None, prompt: int) -> RequestRun:
    """Return the record of an answer; its tokens are the server's count, or failing that its events."""
    seen = answer.tokens_at
    tokens = answer.output_tokens if answer.output_tokens and not answer.error else len(seen)
    return RequestRun(
        due_s=answer.sent_s if due_s is None else due_s, sent_s=answer.sent_s,
        first_token_s=seen[0] if seen else None,
        # the closing event comes with, or right after, the last token, even one that has no text
        last_token_s=(answer.finish_s or seen[-1]) if seen else None,
        prompt_tokens=float(prompt if answer.prompt_tokens is None else answer.prompt_tokens),
        output_tokens=float(tokens), error=answer.error,
        gaps_s=tuple(after - before for before, after in pairwise(seen)),
    )  # fmt: skip


@asynccontextmanager
async def watching(reader: MetricsReader | None, names: Sequence[str]) -> AsyncIterator[None]:
    """Read the gauges ``names`` every half second while the block runs."""
    task = asyncio.create_task(reader.watch(names)) if reader else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


@dataclass(slots=True)
class MetricsReader:
    """Reads one metrics page again and again; ``why`` says why there is none, or why a reading failed."""

    client: httpx.AsyncClient
    url: str
    timeout_s: float
    why: str = ""
    pages: list[Page] = field(default_factory=list)  # of the gauges, during the run

    async def read(self, *, only: Sequence[str] = ()) -> Page | None:
        """Return the page now, or None; ``why`` then says why."""
        try:
            response = await fetch(self.client, self.url, timeout_s=self.timeout_s)
            if response.status_code != 200:
                raise DocumentError(f"HTTP {response.status_code}", place=self.url)
            page = parse_page(response.content.decode("utf-8", "replace"), only=only)
            if not page.samples and not only:
                raise DocumentError("holds no sample", place=self.url)
        except ByteboundError as error:
            self.why = str(error)
            return None
        return page

    async def watch(self, names: Sequence[str]) -> None:
        """Read the gauges ``names`` until cancelled; not at once, when nothing runs yet."""
        await asyncio.sleep(FIRST_S)
        while names:
            page = await self.read(only=names)
            if page is not None:
                self.pages.append(page)
            await asyncio.sleep(POLL_S)


def gauges_of(page: Page | None) -> tuple[str, ...]:
    """Return the gauges worth watching on ``page``."""
    return () if page is None else gauge_names(page)

"""One run against one server: find it, warm it up, send the load, read its metrics, and write the record."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bytebound.documents.observation import RequestRun, Run
from bytebound.engines.exchange import endpoint, open_client, read_key
from bytebound.engines.load import arrivals, closed_loop, failing, open_loop
from bytebound.engines.metrics_page import cache_settings, canonical, differences, gauges
from bytebound.engines.null_server import STREAMS, client_overhead
from bytebound.engines.server_kind import choose_model, identify
from bytebound.engines.session import SLACK, MetricsReader, Session, find_words, gauges_of, record, watching
from bytebound.engines.summary import phases, succeeded
from bytebound.errors import QuantityError, UnfinishedError, UnknownNameError
from bytebound.units import show_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.engines.load import Load
    from bytebound.engines.metrics_page import Page
    from bytebound.engines.stream import Answer

APIS = ("auto", "chat", "completions")
WARM_TOKENS = 8
"""Output tokens of a warm-up request."""


async def drive(
    url: str, load: Load, *, model: str | None, api: str, key_name: str, metrics: str, tell: Callable[[str], None]
) -> Run:
    """Return the record of ``load`` on the server at ``url``; the arguments are those of `drive_server`.

    Raises:
        RequestError: a wrong address, model, key or API, or a request that the server refuses.
        UnfinishedError: no server there, or no request succeeded.
    """
    where = endpoint(url)
    if api not in APIS:
        raise UnknownNameError("API", api, APIS, place="api")
    page = {"auto": where.at("/metrics"), "off": ""}.get(metrics, metrics)
    if page:
        endpoint(page)
    key = read_key(where, key_name)
    async with open_client(where, key=key, timeout_s=load.timeout_s) as client:
        server = await identify(client, where, timeout_s=min(load.timeout_s, 10.0))
        session = Session(client, where, server, choose_model(server, model, url=where.root), load.timeout_s)
        tell(f"{server.engine} {server.version} serves {session.model}")
        if server.max_context is not None and load.prompt + load.output > server.max_context:
            raise QuantityError(
                f"prompt {load.prompt} and output {load.output} are more than the {server.max_context} tokens it takes",
                place=where.root, mend="ask for less, or start it with a longer context",
            )  # fmt: skip
        session = await find_words(session, api, load.prompt)
        warm = [session.content(text, min(load.output, WARM_TOKENS)) for text in session.prompts(load.slots)]
        await asyncio.gather(*(session.send(content, most=SLACK * WARM_TOKENS) for content in warm))
        tell("warmed up")
        to_page = endpoint(page) if page else where  # the key goes to the server that it is for, and nowhere else
        own = page.startswith(where.root)
        async with open_client(to_page, key=key if own else "", timeout_s=load.timeout_s) as other:
            reader = MetricsReader(other, page, min(load.timeout_s, 5.0)) if page else None
            return await _measured(session, load, reader, tell)


async def _measured(session: Session, load: Load, reader: MetricsReader | None, tell: Callable[[str], None]) -> Run:
    costs = await _own_costs(load)
    before = await reader.read() if reader else None
    when, start = datetime.now(UTC), time.perf_counter()
    finished: list[RequestRun] = []
    answers: list[Answer] = []
    async with watching(reader, gauges_of(before)):
        stopped = await _send_all(session, load, start=start, finished=finished, answers=answers, tell=tell)
    seconds = time.perf_counter() - start
    after = await reader.read() if reader and before else None
    errors = _errors(finished, stopped)
    if not succeeded(finished):
        raise UnfinishedError(
            f"none of {load.requests} requests succeeded: {errors[0] if errors else 'none was finished'}",
            place=session.where.root, mend="see the server's own log",
        )  # fmt: skip
    seen, remarks = _metrics(reader, before, after)
    server = session.server
    settings: dict[str, float | str] = {
        "url": session.where.root, "api": session.api, "temperature": 0.0, "prompt_words": float(session.words),
        **server.settings, **(cache_settings(before) if before else {}), **{name: str(value).lower() for name, value in server.extras.items()},
    }  # fmt: skip
    return Run(
        id=f"server-{when:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", when=when.isoformat(timespec="seconds"),
        engine=server.engine, engine_version=server.version, model=session.model, settings=settings,
        load=load.stated(), phases=phases(finished), requests=tuple(sorted(finished, key=lambda run: run.sent_s)),
        metrics=seen, notes=(*costs, *session.notes, *_notes(finished, answers, load), *remarks), errors=tuple(errors),
        seconds=seconds,
    )  # fmt: skip


async def _send_all(
    session: Session, load: Load, *, start: float, finished: list[RequestRun], answers: list[Answer],
    tell: Callable[[str], None],
) -> str:  # fmt: skip
    """Send the whole load; return why it stopped early, or an empty string."""
    contents = [session.content(text, load.output) for text in session.prompts(load.requests)]

    def clock() -> float:
        return time.perf_counter() - start

    async def send(index: int, due_s: float | None) -> RequestRun:
        answer = await session.send(contents[index], most=SLACK * load.output, clock=clock)
        answers.append(answer)
        tell(f"{len(answers)} of {load.requests} requests")
        return record(answer, due_s=due_s, prompt=load.prompt)

    give_up = max(3, 2 * load.slots)
    try:
        async with asyncio.timeout(load.total_s):
            if load.rate_per_s is None:
                await closed_loop(load.requests, concurrency=load.slots, send=send, give_up=give_up, finished=finished)
            else:
                dues = arrivals(load.requests, rate_per_s=load.rate_per_s, kind=load.arrival, seed=load.seed)
                dues = tuple(clock() + due for due in dues)
                await open_loop(
                    dues, concurrency=load.concurrency, send=send, clock=clock, give_up=give_up, finished=finished
                )
    except TimeoutError:
        return f"the run's {load.total_s:g} s were over with {len(finished)} of {load.requests} requests finished"
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or not succeeded(finished):
            raise
        task.uncancel()  # Ctrl-C: what is finished is kept
        return f"interrupted with {len(finished)} of {load.requests} requests finished"
    if len(finished) < load.requests and failing(finished, give_up):
        return f"stopped after {give_up} failures in a row, with {len(finished)} of {load.requests} requests sent"
    return ""


async def _own_costs(load: Load) -> list[str]:
    try:
        cost = await client_overhead(load.slots)
    except OSError as error:
        return [f"what this client adds to the times is not known: no port on loopback ({error.strerror})"]
    words = (
        f"this client (httpx) adds at most {show_time(cost.first_s, 2)} to a first token and "
        f"{show_time(cost.event_s, 2)} to each event, medians against a server that answers at once with "
        f"{min(load.slots, STREAMS)} in flight"
    )
    return [words]


def _errors(finished: list[RequestRun], stopped: str) -> list[str]:
    counts = Counter(run.error for run in finished if run.error)
    told = [f"{error} ({count} of {len(finished)} requests)" for error, count in counts.most_common(10)]
    if len(counts) > 10:
        told.append(f"and {len(counts) - 10} other errors")
    return [*told, stopped] if stopped else told


def _notes(finished: list[RequestRun], answers: list[Answer], load: Load) -> list[str]:
    good = [answer for answer in answers if not answer.error]
    counted = sum(answer.output_tokens is not None for answer in good)
    notes = ["output tokens are the server's own count (usage)"]
    if counted < len(good):
        notes = [
            f"{len(good) - counted} of {len(good)} answers came without usage: their output tokens are stream events"
        ]
    lengths = [run.output_tokens for run in succeeded(finished)]
    short = sum(length != load.output for length in lengths)
    if short:
        notes.append(
            f"{short} of {len(lengths)} answers are not {load.output} tokens long but "
            f"{min(lengths):g} to {max(lengths):g}: the server lets the model stop"
        )
    again = sum(answer.resent for answer in answers)
    if again:
        notes.append(f"{again} requests were sent twice: the server had closed the kept-open connection")
    cached = sum(answer.cached_tokens for answer in good)
    if cached:
        total = sum(answer.prompt_tokens or 0 for answer in good)
        notes.append(f"{cached} of {total} prompt tokens came from the server's cache: prefill was shorter by that")
    late = max((run.sent_s - run.due_s for run in finished), default=0.0)
    if load.rate_per_s is not None:
        notes.append(
            f"requests were sent at most {show_time(max(late, 0.0), 2)} after they were due; TTFT counts from due"
        )
    return notes


def _metrics(
    reader: MetricsReader | None, before: Page | None, after: Page | None
) -> tuple[dict[str, float], list[str]]:
    if reader is None:
        return {}, []
    if before is None or after is None:
        hint = "" if before else " (llama-server needs --metrics, SGLang --enable-metrics)"
        return {}, [f"no metrics page: {reader.why}{hint}"]
    rises, fell = differences(before, after)
    seen = rises | gauges(reader.pages, gauges_of(before))
    notes = [f"the server's counters fell, so it was restarted during the run: {', '.join(fell[:5])}"] if fell else []
    return {name: value for name, value in (seen | canonical(seen)).items() if math.isfinite(value)}, notes

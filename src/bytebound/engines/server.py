"""Drive any OpenAI-compatible server over HTTP with a stated load, and keep every request's times.

Nothing is computed here but what the record needs; `bytebound.engines.summary` draws TTFT, TPOT and rates from it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bytebound.engines.load import Load
from bytebound.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from bytebound.documents.observation import Run


def drive_server(
    url: str,
    *,
    model: str | None = None,
    concurrency: int | None = None,
    rate_per_s: float | None = None,
    arrival: str = "poisson",
    requests: int = 16,
    prompt: int = 512,
    output: int = 64,
    seed: int = 0,
    timeout_s: float = 120.0,
    total_s: float = 600.0,
    api: str = "auto",
    api_key_env: str = "OPENAI_API_KEY",
    metrics: str = "auto",
    on_progress: Callable[[str], None] | None = None,
) -> Run:
    """Return the record of ``requests`` streaming requests to the server at ``url``.

    Args:
        url: ``http://host:port``, with or without ``/v1``.
        model: which of its models; None: the only one.
        concurrency: requests in flight (closed loop, 1 unless ``rate_per_s`` is given); with a rate, a limit.
        rate_per_s: requests per second, sent when they are due whether or not earlier ones were answered (open loop).
        arrival: gaps of the open loop: ``poisson`` or ``constant``.
        requests: how many are measured; a few more find the prompt's length and warm the server up.
        prompt: tokens of each prompt, random words that no prefix cache knows.
        output: tokens of each answer, exact where the server can be told to ignore the model's wish to stop.
        seed: of the Poisson gaps.
        timeout_s: longest time of one request.
        total_s: longest time of the measured run; what is unfinished then is dropped and said.
        api: ``completions``, ``chat``, or ``auto``: completions where there are any.
        api_key_env: environment variable with the key. The default one is not sent in the clear to another machine.
        metrics: ``auto`` (``/metrics`` on the server), an address, or ``off``.
        on_progress: takes sentences while the run goes on.

    Returns:
        A Run whose times are seconds on this client's clock since the run began. Ctrl-C returns what is finished.

    Raises:
        RequestError: a wrong address, model, key or quantity, a request that the server refuses, or httpx missing.
        UnfinishedError: no server there, or no request succeeded.
    """
    load = Load(
        concurrency=concurrency, rate_per_s=rate_per_s, arrival=arrival, requests=requests, prompt=prompt, output=output,
        seed=seed, timeout_s=timeout_s, total_s=total_s,
    )  # fmt: skip
    try:
        from bytebound.engines.driving import drive  # noqa: PLC0415 - httpx is optional
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise RequestError("httpx is not installed", place="server", mend='pip install "bytebound[observe]"') from None
    tell = on_progress or (lambda _: None)
    return _run(drive(url, load, model=model, api=api, key_name=api_key_env, metrics=metrics, tell=tell))


def _run(work: Coroutine[None, None, Run]) -> Run:
    """Run ``work`` to its end, in a thread of its own where a notebook's loop is already running in this one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()

"""HTTP with a server we do not trust: where it is, what it may send, and every failure as a sentence."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from bytebound.errors import RequestError, UnfinishedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_BODY = 8 << 20
"""Bytes of an answer that is not a stream."""
CONNECT_S, IDLE_S = 10.0, 2.0
"""Longest wait for a connection; and idle time after which ours is not reused (servers close theirs after 5 s: a race)."""
DEFAULT_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is: its address without ``/v1``, and whether that is this machine."""

    root: str
    loopback: bool

    def at(self, path: str) -> str:
        """Return the address of ``path``."""
        return f"{self.root}{path}"


def endpoint(url: str) -> Endpoint:
    """Return the server that ``url`` names; ``http://host:port``, with or without ``/v1``.

    Raises:
        RequestError: not such an address, or one that carries a password.
    """
    mend = "write it as http://host:port"
    try:
        parsed = httpx.URL(url.strip())
        host = parsed.host  # decodes international names, and may fail at it
    except (httpx.InvalidURL, ValueError) as error:
        raise RequestError(f"not an address: {error}", place="url", mend=mend) from None
    if parsed.scheme not in ("http", "https") or not host:
        raise RequestError(f"only http and https addresses can be driven, not {url[:80]!r}", place="url", mend=mend)
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise RequestError(f"there is no port {parsed.port}", place="url", mend=mend)
    if parsed.userinfo:
        raise RequestError(
            "the address carries a user name", place="url", mend="put the key into an environment variable"
        )
    if parsed.query or parsed.fragment:
        raise RequestError("the address has a query or a fragment", place="url", mend=mend)
    path = parsed.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/completions").removesuffix("/v1")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost" or host.endswith(".localhost")
    return Endpoint(f"{parsed.scheme}://{parsed.netloc.decode('ascii')}{path}", loopback)


def read_key(server: Endpoint, name: str) -> str:
    """Return the key in environment variable ``name``, or an empty string.

    The default variable is not sent in the clear to another machine; one that the caller named is.

    Raises:
        RequestError: a key that no HTTP header can carry.
    """
    key = os.environ.get(name, "")
    if name == DEFAULT_KEY and not server.loopback and server.root.startswith("http:"):
        return ""
    if not (key.isascii() and all(33 <= ord(letter) < 127 for letter in key)):
        raise RequestError("the key has letters that no HTTP header can carry", place=name, mend="export the bare key")
    return key


def open_client(server: Endpoint, *, key: str, timeout_s: float) -> httpx.AsyncClient:
    """Return a client that follows no redirect and, on loopback, ignores proxies and the environment."""
    return httpx.AsyncClient(
        headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s), pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_S),
        follow_redirects=False,
        trust_env=not server.loopback,
    )


async def fetch(client: httpx.AsyncClient, url: str, *, timeout_s: float) -> httpx.Response:
    """Return the answer to a GET, its body read up to `MAX_BODY` bytes; any status but a redirect.

    Raises:
        UnfinishedError: no answer, too long an answer, or a redirect.
    """
    try:
        async with asyncio.timeout(timeout_s), client.stream("GET", url) as response:
            refuse_redirect(response)
            body = await read_body(response, MAX_BODY)
            if len(body) > MAX_BODY:
                raise UnfinishedError(f"the answer is longer than {MAX_BODY} bytes", place=url)
            return httpx.Response(response.status_code, headers={"content-type": kind_of(response)}, content=body)
    except TimeoutError:
        raise UnfinishedError(
            f"no answer within {timeout_s:g} s", place=url, mend="is the server up and idle?"
        ) from None
    except httpx.HTTPError as error:
        raise UnfinishedError(sentence(error), place=url, mend="start the server, or check host and port") from None


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """Return at most some more than ``limit`` bytes of a body, as they come (a packed one stays packed)."""
    data = b""
    chunks: AsyncIterator[bytes] = response.aiter_raw()
    async for chunk in chunks:
        data += chunk
        if len(data) > limit:
            break
    return data


def refuse_redirect(response: httpx.Response) -> None:
    """Refuse an answer that sends us elsewhere.

    Raises:
        UnfinishedError: it does; names the place.
    """
    if 300 <= response.status_code < 400:
        where = clean(response.headers.get("location", "nowhere"), 120)
        raise UnfinishedError(f"redirects to {where}, which is not followed", mend="give that address if you trust it")


def kind_of(response: httpx.Response) -> str:
    """Return the content type without its parameters, in small letters."""
    return clean(response.headers.get("content-type", ""), 80).split(";")[0].strip().lower()


def complaint(data: bytes | dict[str, Any]) -> str:
    """Return what an error body says: its ``error.message`` if it is JSON with one, else its beginning."""
    try:
        told = data if isinstance(data, dict) else json.loads(data)
    except (ValueError, RecursionError):
        return clean(data.decode("utf-8", "replace")) if isinstance(data, bytes) else ""
    error = told.get("error", told.get("message", told.get("detail"))) if isinstance(told, dict) else told
    message = error.get("message", error) if isinstance(error, dict) else error
    return clean(message if isinstance(message, str) else json.dumps(message))


def clean(text: str, limit: int = 200) -> str:
    """Return the beginning of a stranger's text on one line, without anything that could steer a terminal."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def sentence(error: httpx.HTTPError) -> str:
    """Return what went wrong on the wire, in words."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__cause__ or cause.__context__
    system = f" ({cause.strerror})" if isinstance(cause, OSError) else ""
    if isinstance(error, httpx.ConnectTimeout):
        return "the server does not accept the connection in time"
    if isinstance(error, httpx.ConnectError):
        return f"the server cannot be reached{system}"
    if isinstance(error, httpx.TimeoutException):
        return "the server fell silent"
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return f"the connection broke{system or f' ({clean(str(error), 120)})'}"
    return f"the exchange failed: {clean(str(error), 120) or type(error).__name__}"

"""Which server answers at an address: its make, version, models and limits, as it says itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bytebound.engines.exchange import Endpoint, clean, complaint, fetch
from bytebound.errors import DocumentError, RequestError, UnfinishedError, UnknownNameError

if TYPE_CHECKING:
    import httpx

OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "library": "ollama"}
"""``owned_by`` of the model list -> engine."""
EXACT: dict[str, dict[str, object]] = {
    "vllm": {"ignore_eos": True},
    "sglang": {"ignore_eos": True},
    "llama.cpp": {"ignore_eos": True, "cache_prompt": False},
}
"""Fields beyond the OpenAI ones that make every answer as long as asked for, and no prompt come from a cache. Servers
not listed may refuse what they do not know, so they get none."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server as it describes itself; ``max_context`` is the longest prompt and output together [tokens]."""

    engine: str
    version: str
    models: tuple[str, ...]
    max_context: int | None = None
    settings: dict[str, float | str] = field(default_factory=dict)

    @property
    def extras(self) -> dict[str, object]:
        """Fields that this server understands and our requests need."""
        return EXACT.get(self.engine, {})


async def identify(client: httpx.AsyncClient, where: Endpoint, *, timeout_s: float) -> Server:
    """Return what answers at ``where``.

    Raises:
        UnfinishedError: nothing answers, or it is not ready.
        RequestError: it wants a key, or is no OpenAI-compatible server.
    """
    url = where.at("/v1/models")
    response = await fetch(client, url, timeout_s=timeout_s)
    listed = _object(response)
    if response.status_code in (401, 403):
        raise RequestError(
            f"the server wants a key (HTTP {response.status_code})", place=url, mend="export it and name its variable"
        )
    if response.status_code not in {200, 404}:
        told = complaint(response.content) or "no explanation"
        raise UnfinishedError(f"HTTP {response.status_code}: {told}", place=url, mend="wait until the server is ready")
    models = [
        model for model in _list(listed.get("data")) if isinstance(model, dict) and isinstance(model.get("id"), str)
    ]
    if response.status_code == 404 or not (models or "data" in listed):
        raise DocumentError(
            f"no OpenAI-compatible server: HTTP {response.status_code}, {complaint(response.content)!r}", place=url,
            mend="give the address under which /v1/models is",
        )  # fmt: skip
    first: dict[str, Any] = models[0] if models else {}
    engine = OWNERS.get(str(first.get("owned_by")), "")

    async def look(path: str) -> dict[str, Any]:
        try:
            answer = await fetch(client, where.at(path), timeout_s=timeout_s)
        except UnfinishedError:
            return {}
        return _object(answer) if answer.status_code == 200 else {}

    settings = _settings(first)
    version = ""
    if engine in ("", "llama.cpp") and "default_generation_settings" in (props := await look("/props")):
        engine, version = "llama.cpp", _text(props.get("build_info"))
        settings |= _slots(props)
    elif engine == "sglang":
        version = _text((await look("/get_server_info") or await look("/server_info")).get("version"))
    elif engine == "vllm":
        version = _text((await look("/version")).get("version"))
    elif engine in ("", "ollama") and (about := await look("/api/version")):
        engine, version = "ollama", _text(about.get("version"))
    limit = settings.get("context")
    return Server(
        engine or "openai-compatible", version or "unknown", tuple(clean(model["id"], 300) for model in models),
        max_context=int(limit) if isinstance(limit, float) and limit >= 1 else None, settings=settings,
    )  # fmt: skip


def choose_model(server: Server, asked: str | None, *, url: str) -> str:
    """Return the model to ask for: the one asked for, or the only one.

    Raises:
        UnknownNameError: it is not served.
        RequestError: several are served and none was asked for, or none is.
    """
    if asked is not None:
        if asked in server.models:
            return asked
        if f"{asked}:latest" in server.models:  # Ollama's own shorthand
            return f"{asked}:latest"
        raise UnknownNameError("model of this server", asked, server.models, place=url, mend="see its /v1/models")
    if len(server.models) == 1:
        return server.models[0]
    if not server.models:
        raise RequestError("the server has no model", place=url, mend="load one")
    names = ", ".join(server.models[:8])
    raise RequestError(f"the server has {len(server.models)} models", place=url, mend=f"name one of: {names}")


def _settings(model: dict[str, Any]) -> dict[str, float | str]:
    """Return what the model list says beside the name: vLLM and SGLang the context, llama-server its size too."""
    meta = _dict(model.get("meta"))
    told = {
        "context": model.get("max_model_len") or meta.get("n_ctx"),
        "parameters": meta.get("n_params"),
        "weights_bytes": meta.get("size"),
    }
    return {key: float(value) for key, value in told.items() if value is not None and _is_number(value)}


def _slots(props: dict[str, Any]) -> dict[str, float | str]:
    """Return what llama-server's properties say: context of one slot, slots, and the format of the weights."""
    told = {"context": _dict(props.get("default_generation_settings")).get("n_ctx"), "slots": props.get("total_slots")}
    numbers = {key: float(value) for key, value in told.items() if value is not None and _is_number(value)}
    weights = _text(props.get("model_ftype"))
    return {**numbers, **({"weights": weights} if weights else {})}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e18


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return clean(value, 100) if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _object(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object that ``response`` holds, or an empty one."""
    try:
        data = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}

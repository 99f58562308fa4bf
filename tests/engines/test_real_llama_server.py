"""A real engine: llama.cpp's own HTTP server in another process, with real weights."""

from __future__ import annotations

import pytest
from llama_server import llama_server, missing

from bytebound.engines.server import drive_server
from bytebound.engines.summary import tokens_per_s, tpot_s, ttft_s
from bytebound.errors import QuantityError

pytestmark = [pytest.mark.packages, pytest.mark.skipif(bool(missing()), reason=missing() or "present")]


@pytest.fixture(scope="module")
def url():
    with llama_server(slots=2, context=256) as address:
        yield address


def test_one_at_a_time(url):
    """Token counts are the engine's own; its counters and ours agree; its times are inside ours."""
    run = drive_server(url, requests=3, prompt=32, output=8)
    steps = sum(request.last_token_s - request.first_token_s for request in run.requests)

    assert run.engine == "llama.cpp"
    assert run.errors == ()
    assert {(request.prompt_tokens, request.output_tokens) for request in run.requests} == {(32, 8)}
    assert run.metrics["server.output_tokens"] == 24
    assert run.metrics["server.prompt_tokens"] == 96
    assert run.metrics["server.cached_tokens"] == 0
    assert run.settings["weights"] == "Q4_1"
    assert run.settings["parameters"] == 134515008
    assert steps < run.metrics["llamacpp:tokens_predicted_seconds_total"] + 1.0
    assert 0 < tpot_s(run.requests).best < ttft_s(run.requests).best + 1.0
    assert 0 < tokens_per_s(run.requests) < 10_000


def test_two_slots_by_chat(url):
    run = drive_server(url, requests=4, concurrency=2, prompt=64, output=4, api="chat")

    assert run.errors == ()
    assert {request.prompt_tokens for request in run.requests} == {64}
    assert run.phases[-1].batch > 1


def test_its_context_is_known(url):
    with pytest.raises(QuantityError, match="prompt 250 and output 64 are more than the 256 tokens it takes"):
        drive_server(url, prompt=250)

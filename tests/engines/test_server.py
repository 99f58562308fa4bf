"""The driver against real servers on loopback: known times are found again, and every misfortune is a sentence."""

from __future__ import annotations

import json

import pytest
from fake_server import SMALL, SSE, Fake, data, drive, good, plain, serving, token, usage

from bytebound.documents.observation import Run
from bytebound.documents.values import from_json, to_json
from bytebound.engines.server import drive_server
from bytebound.engines.summary import tokens_per_s, tpot_s, ttft_s
from bytebound.errors import RequestError

PAGE = b"""# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0"} %d
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 3
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0"} 0.25
"""


def test_known_times_are_found_again():
    """First token after 60 ms, then one each 20 ms: no request is seen faster, and the best is close."""
    run = drive(Fake(good(0.06, 0.02)), output=8, requests=4)
    first, step = ttft_s(run.requests), tpot_s(run.requests)

    assert 0.060 <= first.best < 0.110
    assert 0.018 < step.best < 0.040
    assert all(len(request.gaps_s) == 7 and request.output_tokens == 8 for request in run.requests)
    assert tokens_per_s(run.requests) < 8 / (0.06 + 7 * 0.02)
    assert [phase.name for phase in run.phases] == ["prefill", "decode"]
    assert (run.engine, run.model, run.errors) == ("vllm", "tiny", ())
    assert "usage" in " ".join(run.notes)
    assert from_json(Run, to_json(run)) == run


def test_requests_say_what_they_must():
    """Streaming, with usage, exact length, distinct prompts of the right length, and no key without a key."""
    fake = Fake(good())
    drive(fake, output=4)
    measured = fake.asked[-3:]

    assert all(ask["stream"] and ask["stream_options"] == {"include_usage": True} for ask in measured)
    assert all(ask["ignore_eos"] is True and ask["min_tokens"] == ask["max_tokens"] == 4 for ask in measured)
    assert len({ask["prompt"] for ask in fake.asked}) == len(fake.asked)
    assert {len(ask["prompt"].split()) for ask in measured} == {8}
    assert not any("authorization" in head.lower() for head in fake.heads)


def test_an_unknown_server_gets_no_unknown_fields_and_short_answers_are_said():
    fake = Fake(
        lambda send, request, _: send(SSE + token() * 2 + token("", "stop") + usage(8, 2) + data(b"[DONE]")), "me"
    )
    run = drive(fake)

    assert run.engine == "openai-compatible"
    assert "ignore_eos" not in fake.asked[-1]
    assert any("3 of 3 answers are not 4 tokens long but 2 to 2" in note for note in run.notes)


def test_prompt_length_is_fitted_where_a_word_is_two_tokens_and_a_template_is_added():
    def complete(send, request, _):
        words = len(request["prompt"].split())
        send(SSE + token() * 4 + token("", "length") + usage(2 * words + 10, 4) + data(b"[DONE]"))

    run = drive(Fake(complete), prompt=200)

    assert {request.prompt_tokens for request in run.requests} == {200}


def test_without_usage_events_are_counted_and_said():
    run = drive(Fake(lambda send, *_: send(SSE + token() * 4 + token("", "length") + data(b"[DONE]"))))

    assert {request.output_tokens for request in run.requests} == {4}
    assert any("came without usage: their output tokens are stream events" in note for note in run.notes)
    assert any("does not count prompt tokens" in note for note in run.notes)


def test_special_tokens_without_text_count_and_openings_do_not():
    """A chat opens with a role and closes with a reason: neither is a token; an empty text in between is."""

    def complete(send, *_):
        deltas = [{"role": "assistant", "content": ""}, {"content": "a"}, {"content": ""}, {"content": "b"}]
        for delta in deltas:
            send((SSE if "role" in delta else b"") + data({"choices": [{"delta": delta, "finish_reason": None}]}))
        send(data({"choices": [{"delta": {}, "finish_reason": "length"}]}) + data(b"[DONE]"))

    run = drive(Fake(complete), api="chat")

    assert {len(request.gaps_s) for request in run.requests} == {2}


def test_no_completions_falls_back_to_chat():
    def complete(send, request, number):
        good()(send, request, number) if "messages" in request else send(plain("404 Not Found", b"{}"))

    assert drive(Fake(complete), prompt=7).settings["api"] == "chat"


def test_closed_loop_never_exceeds_its_concurrency_and_reaches_it():
    fake = Fake(good(0.02))
    run = drive(fake, concurrency=3, requests=9)

    assert fake.most == 3
    assert len(run.requests) == 9
    assert all(request.due_s == request.sent_s for request in run.requests)


def test_an_open_loop_does_not_forgive_a_slow_server():
    """One at a time at 80 ms each, due every 20 ms: waiting counts, so the last TTFT is far above 80 ms."""
    run = drive(Fake(good(0.08)), rate_per_s=50.0, arrival="constant", concurrency=1, requests=5, output=1)
    waits = [request.first_token_s - request.due_s for request in run.requests]

    assert waits[-1] > 5 * 0.08 - 4 * 0.02 - 0.001
    assert run.load["loop"] == "open"
    assert run.requests[-1].sent_s > run.requests[-1].due_s + 0.1


def test_metrics_are_read_before_after_and_during():
    counts = iter(range(100, 100_000, 100))
    page = lambda: plain("200 OK", PAGE % next(counts), "text/plain; version=0.0.4")  # noqa: E731 - made afresh each time
    fake = Fake(good(0.15), pages={"/metrics": page})
    with serving(fake) as url:
        run = drive_server(url, **SMALL)

    assert run.metrics["vllm:generation_tokens_total"] >= 100
    assert run.metrics["server.output_tokens"] == run.metrics["vllm:generation_tokens_total"]
    assert run.metrics["vllm:num_requests_running.max"] == 3
    assert run.metrics["server.kv_usage.mean"] == 0.25
    assert run.metrics["server.looks"] >= 1


@pytest.mark.parametrize(
    "page", [plain("404 Not Found", b"no"), plain("200 OK", b"<html>"), plain("200 OK", b"\xff{} x\n")]
)
def test_a_metrics_page_that_is_none_is_a_note(page):
    fake = Fake(good(), pages={"/metrics": page})
    with serving(fake) as url:
        run = drive_server(url, **SMALL)

    assert run.metrics == {}
    assert any(note.startswith("no metrics page: ") for note in run.notes)


def test_it_runs_inside_a_running_loop():
    """A notebook has a loop of its own."""
    import asyncio

    async def cell(url):
        return drive_server(url, **SMALL, metrics="off")

    with serving(Fake(good())) as url:
        assert asyncio.run(cell(url)).errors == ()


def test_a_key_goes_to_the_server_and_never_into_the_record(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-123")
    fake = Fake(good())
    run = drive(fake, api_key_env="MY_KEY")

    assert all("Bearer sk-123" in head for head in fake.heads)
    assert "sk-123" not in to_json(run)
    monkeypatch.setenv("MY_KEY", "two\nlines")
    with pytest.raises(RequestError, match="no HTTP header can carry"):
        drive(fake, api_key_env="MY_KEY")


def test_proxies_are_ignored_on_loopback(monkeypatch):
    """A proxy in the environment would carry our requests away, or fail them."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    assert drive(Fake(good())).errors == ()


def test_engines_are_recognized():
    props = {"default_generation_settings": {"n_ctx": 64}, "total_slots": 2, "build_info": "b1"}
    llama = drive(Fake(good(), "llamacpp", {"/props": plain("200 OK", json.dumps(props).encode())}))
    ollama = drive(Fake(good(), "library", {"/api/version": plain("200 OK", b'{"version":"0.9"}')}))
    sglang = drive(Fake(good(), "sglang", {"/get_server_info": plain("200 OK", b'{"version":"0.5"}')}))

    assert (llama.engine, llama.engine_version, llama.settings["context"]) == ("llama.cpp", "b1", 64)
    assert llama.settings["cache_prompt"] == "false"
    assert (ollama.engine, ollama.engine_version) == ("ollama", "0.9")
    assert (sglang.engine, sglang.engine_version) == ("sglang", "0.5")

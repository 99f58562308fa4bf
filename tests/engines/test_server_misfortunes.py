"""Bad servers, bad luck and bad requests: each a sentence, and what was finished is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_server import SMALL, SSE, Fake, data, drive, good, misbehaving, plain, serving, token, usage

from bytebound.engines.server import drive_server
from bytebound.errors import DocumentError, QuantityError, RequestError, UnfinishedError, UnknownNameError

BAD = {
    "garbage": (lambda send, *_: send(SSE + bytes(range(256)) * 50), "is not UTF-8"),
    "not json": (lambda send, *_: send(SSE + data(b"{nope")), "not JSON: '{nope'"),
    "not an object": (lambda send, *_: send(SSE + data(b"[1]")), "not a JSON object"),
    "deep": (lambda send, *_: send(SSE + data(b"[" * 100_000)), "not JSON"),
    "no http": (lambda send, *_: send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "the connection broke"),
    "empty": (lambda send, *_: send(SSE), "the stream brought no token"),
    "no tokens": (lambda send, *_: send(SSE + usage(8, 0) + data(b"[DONE]")), "the stream brought no token"),
    "cut off": (lambda send, *_: send(SSE + token() * 2), "ended before it was finished, after 2 token events"),
    "broken chunk": (
        lambda send, *_: send(SSE.replace(b"Connection: close", b"Transfer-Encoding: chunked") + b"ffff\r\n" + token()),
        "the connection broke (peer closed connection",
    ),
    "http 500": (
        lambda send, *_: send(plain("500 Oops", b'{"error":{"message":"out of\\nmemory\\u001b[31m"}}')),
        "HTTP 500: out of memory [31m",
    ),
    "http 429": (lambda send, *_: send(plain("429 Too Many", b"slow down", "text/plain")), "HTTP 429: slow down"),
    "json": (lambda send, *_: send(plain("200 OK", b'{"text":"hi"}')), "answered application/json instead of a stream"),
    "html": (
        lambda send, *_: send(plain("200 OK", b"<html>", "text/html")),
        "answered text/html instead of a stream: <html>",
    ),
    "redirect": (
        lambda send, *_: send(b"HTTP/1.1 307 Go\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n"),
        "redirects to http://evil.example/, which is not followed",
    ),
    "error event": (
        lambda send, *_: send(SSE + token() + data({"error": {"message": "engine dead", "code": 500}})),
        "the server reports: engine dead",
    ),
    "error field": (
        lambda send, *_: send(SSE + b'error: {"message":"slot gone"}\n\n'),
        "the server reports: slot gone",
    ),
    "huge line": (
        lambda send, *_: [send(SSE), *(send(b"data: " + b"x" * 65536) for _ in range(40))],
        "a line is longer than",
    ),
    "flood": (lambda send, *_: send(SSE + token() * 5000), "the stream brought over 16 token events"),
    "strange": (
        lambda send, *_: send(
            SSE
            + data({"choices": {"a": 1}})
            + data({"choices": [None], "usage": [1]})
            + data({"choices": [{"delta": [1], "text": 5, "finish_reason": {}}]})
            + data(b"[DONE]")
        ),
        "the stream brought no token",
    ),
    "huge header": (
        lambda send, *_: send(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000 + b"\r\n\r\n"),
        "the connection broke",
    ),
    "packed": (
        lambda send, *_: send(SSE.replace(b"Connection", b"Content-Encoding: gzip\r\nConnection")),
        "the encoding gzip, though",
    ),
    "hang": (lambda *_: time.sleep(0.6), "no end within 0.3 s, after 0 token events"),
    "drip": (
        lambda send, *_: [send(SSE), *(send(b":\n") or time.sleep(0.05) for _ in range(12))],
        "no end within 0.3 s",
    ),
}


@pytest.mark.parametrize(("bad", "words"), BAD.values(), ids=list(BAD))
def test_every_misfortune_is_a_sentence_and_what_finished_is_kept(bad, words):
    """Two requests are answered, the third meets ``bad``."""
    run = drive(misbehaving(4, bad), timeout_s=0.3 if "0.3 s" in words else 5.0)

    assert [bool(request.error) for request in run.requests] == [False, False, True]
    assert words in run.requests[-1].error
    assert run.errors == (f"{run.requests[-1].error} (1 of 3 requests)",)
    assert run.requests[-1].error.isprintable()


def test_no_request_succeeded():
    with pytest.raises(UnfinishedError, match="none of 3 requests succeeded: HTTP 500: oops") as caught:
        drive(misbehaving(2, BAD["http 500"][0] and (lambda send, *_: send(plain("500 X", b"oops", "text/plain")))))

    assert caught.value.exit_code == 3


def test_a_server_that_dies_midway_stops_the_run_early():
    """After two answers the process is gone: a few failures in a row end the run, and the two are kept."""
    fake = Fake(good())
    with serving(fake) as url:

        def complete(send, request, number):
            good()(send, request, number)
            if number == 3:
                fake.complete = lambda *_: None

        fake.complete = complete
        run = drive_server(url, **(SMALL | {"requests": 50, "metrics": "off"}))

    assert sum(not request.error for request in run.requests) == 2
    assert len(run.requests) == 5
    assert "stopped after 3 failures in a row, with 5 of 50 requests sent" in run.errors[-1]


DYING = """
import os, sys
sys.path.insert(0, {folder!r})
from fake_server import SSE, Fake, good, serving, token

def complete(send, request, number):
    if number == 4:
        send(SSE + token() * 2)
        os._exit(9)
    good()(send, request, number)

with serving(Fake(complete)) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def test_a_process_that_is_killed_midway():
    """A real process that exits in the middle of its third measured answer: the first two are kept."""
    code = DYING.format(folder=str(Path(__file__).parent))
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603
        run = drive_server(child.stdout.readline().strip(), **(SMALL | {"requests": 20}))

    assert sum(not request.error for request in run.requests) == 2
    assert "after 2 token events" in run.requests[2].error
    assert "cannot be reached" in run.requests[3].error
    assert "stopped after 3 failures in a row, with 5 of 20 requests sent" in run.errors[-1]
    assert any(note.startswith("no metrics page") for note in run.notes)


def test_a_connection_closed_before_the_request_was_seen_is_tried_once_more():
    fake = Fake(good())
    once = []

    def complete(send, request, number):
        if number == 3 and not once:
            once.append(number)
            return
        good()(send, request, number)

    fake.complete = complete
    run = drive(fake)

    assert run.errors == ()
    assert any("1 requests were sent twice" in note for note in run.notes)


def test_the_whole_run_has_a_limit():
    run = drive(misbehaving(4, lambda send, *_: send(SSE + token()) or time.sleep(2)), total_s=0.3)

    assert len(run.requests) == 2
    assert run.errors == ("the run's 0.3 s were over with 2 of 3 requests finished",)


def test_interruption_keeps_what_is_finished():
    """Ctrl-C during the third request."""

    def bad(send, *_):
        send(SSE + token())
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)

    run = drive(misbehaving(4, bad))

    assert len(run.requests) == 2
    assert run.errors == ("interrupted with 2 of 3 requests finished",)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://x", "url: only http and https addresses can be driven, not 'ftp://x'"),
        ("localhost:8000", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("", "only http and https"),
        ("http://", "only http and https"),
        ("http://127.0.0.1:99999", "there is no port 99999"),
        ("http://127.0.0.1:x", "not an address"),
        ("http://me:secret@127.0.0.1", "carries a user name"),
        ("http://127.0.0.1/v1?key=1", "a query or a fragment"),
        ("http://a\0b", "not an address"),
        ("http://xn--a", "not an address"),
    ],
)
def test_wrong_addresses(url, words):
    with pytest.raises(RequestError) as caught:
        drive_server(url)

    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_nobody_listens():
    with pytest.raises(UnfinishedError, match=r"cannot be reached.*start the server, or check host and port"):
        drive_server("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"concurrency": 0}, "concurrency is 0, outside 1 … 4096"),
        ({"requests": 0}, "requests is 0"),
        ({"rate_per_s": float("nan")}, "rate_per_s is nan"),
        ({"prompt": -1}, "prompt is -1"),
    ],
)
def test_wrong_quantities(wrong, words):
    with pytest.raises(QuantityError, match=words):
        drive_server("http://127.0.0.1:1", **wrong)


def test_wrong_names():
    with pytest.raises(UnknownNameError, match="nearest: poisson"):
        drive_server("http://127.0.0.1:1", arrival="poison")
    with pytest.raises(UnknownNameError, match="unknown API 'chats'; nearest: chat"):
        drive_server("http://127.0.0.1:1", api="chats")
    with pytest.raises(UnknownNameError, match="unknown model of this server 'tin'; nearest: tiny"):
        drive(Fake(good()), model="tin")


@pytest.mark.parametrize(
    ("models", "kind", "words"),
    [
        (plain("200 OK", b"<html>", "text/html"), DocumentError, "no OpenAI-compatible server"),
        (plain("404 Not Found", b"nothing here", "text/plain"), DocumentError, "HTTP 404, 'nothing here'"),
        (plain("401 No", b"{}"), RequestError, "wants a key"),
        (plain("503 Wait", b'{"error":{"message":"Loading model"}}'), UnfinishedError, "HTTP 503: Loading model"),
        (plain("200 OK", b'{"data":[]}'), RequestError, "has no model"),
        (plain("200 OK", b'{"data":[{"id":"a"},{"id":"b"}]}'), RequestError, "name one of: a, b"),
        (plain("200 OK", b'{"data":[{"id":"a","max_model_len":11}]}'), QuantityError, "more than the 11 tokens"),
        (
            b"HTTP/1.1 302 Go\r\nLocation: https://x.example\r\nContent-Length: 0\r\n\r\n",
            UnfinishedError,
            "redirects to",
        ),
        (b"\0\0\0\0\r\n\r\n", UnfinishedError, "connection broke"),
    ],
)
def test_wrong_servers(models, kind, words):
    with pytest.raises(kind) as caught:
        drive(Fake(good(), pages={"/v1/models": models}))

    assert words in str(caught.value)


def test_a_refused_request_is_the_callers_mistake():
    def complete(send, *_):
        send(plain("400 Bad Request", json.dumps({"error": {"message": "context length is 10"}}).encode()))

    with pytest.raises(RequestError, match="HTTP 400: context length is 10") as caught:
        drive(Fake(complete))

    assert caught.value.exit_code == 2

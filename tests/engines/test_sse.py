"""The event parser: chunks make no difference, lengths are bounded, and it reads what we would write."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bytebound.engines.sse import Event, SseParser
from bytebound.errors import DocumentError

STREAM = (
    'event: a\ndata: {"text":"Zürich 🏔"}\r\n\r\n: ping\rdata:one\rdata: two\r\r\nid: 7\ndata\n\ndata: cut off'.encode()
)
EVENTS = [Event('{"text":"Zürich 🏔"}', "a"), Event("one\ntwo"), Event("")]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20)


def parse(chunks) -> list[Event]:
    """Return all events of ``chunks``."""
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def outcome(chunks) -> list[Event] | str:
    """Return the events, or the error."""
    try:
        return parse(chunks)
    except DocumentError as error:
        return str(error)


def test_one_stream_of_everything():
    """Three kinds of line ends, a comment, joined data, unknown fields, a field without a colon, a cut-off event."""
    assert parse([STREAM]) == EVENTS


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_every_boundary(cut):
    """Cut in two at every byte, also inside a letter and between a return and its newline."""
    assert parse([STREAM[:cut], STREAM[cut:]]) == EVENTS


def test_byte_by_byte():
    assert parse([STREAM[at : at + 1] for at in range(len(STREAM))]) == EVENTS


@given(
    st.binary(max_size=200) | st.lists(st.sampled_from([b"data", b":", b" ", b"\r", b"\n", b"x"])).map(b"".join),
    st.data(),
)
@example(b"data: x\r\n\r\n", None)
def test_any_chunking_of_any_bytes_gives_the_same(stream, data):
    """Whatever the bytes, whole or in pieces: the same events or the same complaint."""
    cuts = [] if data is None else sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]

    assert outcome(pieces) == outcome([stream])


@given(
    st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_what_is_written_is_read(events, end):
    """An independent writer, straight from the standard's grammar."""
    written = "".join(
        f"event:{name}{end}" + "".join(f"data: {line}{end}" for line in lines) + end for name, lines in events
    )
    read = parse([written.encode()])

    assert read == [Event("\n".join(lines), name.removeprefix(" ") or "message") for name, lines in events]


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([b"x" * 11], "a line is longer than 10 bytes"),
        ([b"xxxxxx", b"xxxxx"], "a line is longer than 10 bytes"),
        ([b"data:123\n"] * 3, "an event is longer than 20 bytes"),
        ([b":\n"] * 31, "the stream is longer than 60 bytes"),
        ([b"data: \xff\n"], "stream: line 1: the stream is not UTF-8"),
    ],
)
def test_limits(chunks, words):
    parser = SseParser(max_line=10, max_event=20, max_total=60)

    with pytest.raises(DocumentError, match=words):
        _ = [parser.feed(chunk) for chunk in chunks]


def test_a_slow_drip_is_not_quadratic():
    """A line of 300,000 one-byte chunks: joined once, not at every chunk."""
    parser = SseParser()
    for _ in range(300_000):
        parser.feed(b"x")

    assert parser.feed(b"\n\n") == []

"""The terminal: what a person reads in ten seconds, on any width, encoding and colour setting."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import fabricated
import pytest

from bytebound.documents.audit import Starves
from bytebound.documents.values import Interval
from bytebound.report.page import Page, draw, grid, page_for, record_text, table_text
from bytebound.report.terminal import audit_text
from bytebound.report.terminal_estimate import estimate_sentence, estimate_text, explain_text

WIDTHS = (80, 100, 132, 200)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_wider_than_the_page(width, ascii_only):
    """From 80 to 200 columns nothing overflows, for an audit and an estimate."""
    page = Page(width=width, ascii=ascii_only)
    text = (
        audit_text(fabricated.audit(), page)
        + estimate_text(fabricated.estimate(), page)
        + explain_text(fabricated.estimate(), page)
    )

    assert max(map(len, text.splitlines())) <= width
    assert text.isascii() or not ascii_only
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_verdicts_of_an_audit_at_80_columns():
    """The table a person reads in ten seconds, character by character."""
    lines = audit_text(fabricated.audit(), Page(width=80)).splitlines()
    start = next(place for place, line in enumerate(lines) if "headroom" in line)

    assert lines[start : start + 5] == [
        "   workload          headroom  starves  10–90 %        chance  on",
        "✗  chat-70b             −12 %  now      now             100 %  memory-bandwidth",
        "!  rag-long-context     +23 %  Jun ’27  Mar–Nov ’27      83 %  capacity",
        "?  moe-two-nodes        +50 %  later    Oct ’27–later    31 %  compute",
        "✓  code-completion     +100 %  later                      0 %  –",
    ]
    assert "–  pre-training             –  later                      0 %  –" in lines


def test_audit_says_what_helps_and_what_does_not():
    """Fixes with money, rejections with their reason, and a next command."""
    text = audit_text(fabricated.audit(), Page(width=120))

    assert "Store weights in fp8, saves $2 000/month" in text
    assert (
        "✗ Speculative decoding: rejected, at batch 256 the step is compute-bound: drafts cost more than they save"
        in text
    )
    assert "– Cache shared prefixes: little effect, only 4 % of prompts share a prefix" in text
    assert text.splitlines()[-1].split() == ["bytebound", "explain", "meta-llama/Llama-3.1-70B", "--on", "h100-sxm"]


def test_estimate_in_the_terminal():
    """Memory, bytes and time side by side, with the numbers of the document."""
    text = estimate_text(fabricated.estimate(), Page(width=80))

    assert "weights      16.4 GiB  weights      17.6 GB  weights   5.73 ms  61 %" in text
    assert "free         53.6 GiB" in text
    assert "verdict  weight-bandwidth, then kv-bandwidth at batch 96" in text
    assert "TPOT     9.40 ms (8.50–10.4 ms)" in text
    assert "output   3 400 tok/s (3 000–3 750 tok/s)" in text


def test_estimate_that_does_not_fit_says_how_much_is_missing():
    """Capacity is a verdict with a number, and times are dashes."""
    base = fabricated.estimate()
    unknown = Interval(math.nan, math.nan, math.nan)
    full = replace(base.memory, total_bytes=90 * 2**30, fits=False)
    text = estimate_text(replace(base, memory=full, tpot_s=unknown, verdict="capacity"), Page(width=80))

    assert "missing      10.4 GiB" in text
    assert "TPOT     –" in text
    assert estimate_sentence(replace(base, memory=full)) == "Does not fit: the fullest device is 10.4 GiB short."


def test_explain_lists_every_operator_with_its_flows():
    """One row an operator; what does not flow is a dash; then the sources."""
    text = explain_text(fabricated.estimate(), Page(width=100))
    row = next(line for line in text.splitlines() if "attention.core" in line)

    assert row.split() == ["80×", "attention.core", "2.00", "T", "–", "6.00", "G", "1.00", "M", "–", "400", "µs", "KV"]
    assert "NVIDIA H100 datasheet, 2023" in text


def test_hostile_names_are_disarmed():
    """An escape sequence or markup in a name is text, and stays on its line."""
    name = "chat\x1b[31m[bold]\n70b\u202e"
    hostile = replace(
        fabricated.audit(), workloads=(fabricated.workload(name, starves=Starves(1.0, 0, 0, 0, "compute")),)
    )
    text = audit_text(hostile, Page(width=120))

    assert "chat[31m[bold] 70b" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_an_empty_audit_is_still_a_page():
    """No workload, no month: a title and a legend, no failure."""
    empty = replace(fabricated.audit(), workloads=(), pools=(), months=(), assumptions=())

    assert audit_text(empty, Page()).startswith("bytebound audit · examples/fleet.toml · no months")


def test_colour_only_adds_escapes():
    """Meaning never hangs on colour: without the escapes, the text is the same."""
    plain = audit_text(fabricated.audit(), Page(width=100))
    coloured = audit_text(fabricated.audit(), Page(width=100, colour=True))

    assert "\x1b[" in coloured
    assert "\x1b" not in plain
    assert [line for line in plain.splitlines() if line.startswith("✗")]


class Stream(io.StringIO):
    """A stream that says what it is."""

    def __init__(self, *, tty: bool, encoding: str) -> None:
        super().__init__()
        self.tty, self.name_of_encoding = tty, encoding

    def isatty(self) -> bool:
        """Whether this pretends to be a terminal."""
        return self.tty

    @property
    def encoding(self) -> str:
        """The pretended encoding."""
        return self.name_of_encoding


@pytest.mark.parametrize(
    ("tty", "encoding", "environment", "expected"),
    [
        (True, "utf-8", {"COLUMNS": "100"}, Page(100, colour=True)),
        (True, "utf-8", {"COLUMNS": "100", "NO_COLOR": "1"}, Page(100)),
        (True, "utf-8", {"COLUMNS": "100", "TERM": "dumb"}, Page(100)),
        (False, "utf-8", {}, Page(110)),
        (False, "utf-8", {"FORCE_COLOR": "1"}, Page(110, colour=True)),
        (False, "utf-8", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, Page(110)),
        (False, "ascii", {}, Page(110, ascii=True)),
        (True, "latin-1", {"COLUMNS": "9999"}, Page(200, colour=True, ascii=True)),
        (True, "utf-8", {"COLUMNS": "5"}, Page(60, colour=True)),
    ],
)
def test_page_of_a_stream(tty, encoding, environment, expected):
    """NO_COLOR, TERM, FORCE_COLOR and COLUMNS are honoured; a pipe gets plain text of a fixed width."""
    assert page_for(Stream(tty=tty, encoding=encoding), environment) == expected


def test_numbers_are_never_cut():
    """A kept column keeps its longest cell; the free one ends in an ellipsis."""
    text = draw([grid(("name", ""), ("size", "r!"), rows=[("n" * 90, "123 456 GiB")])], Page(width=60))

    assert "123 456 GiB" in text
    assert "…" in text


def test_lists_and_records():
    """A list has a heading and a row a line; a record a name and a value a line."""
    table = table_text(
        title="2 things", columns=(("a", "!"), ("b", "r")), rows=[("x", "1"), ("y", "22")], page=Page(80), note="more"
    )
    record = record_text(title="thing", fields=[("memory", "80 GiB"), ("note", "long " * 30)], page=Page(80))

    assert table == "2 things\n\na   b\nx   1\ny  22\n\nmore\n"
    assert record.splitlines()[2] == "  memory  80 GiB"
    assert max(map(len, record.splitlines())) <= 80

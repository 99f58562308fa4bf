"""An observed run as text and as a page: the verdict, the shares, the forecast's error, and operators on the roofline."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import machines
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_html import BROWSER, HOSTILE, browse, charts, tags

from bytebound.documents.observation import ObservedPhase, OperatorRun, RequestRun, Spread
from bytebound.documents.values import Interval
from bytebound.report import observed
from bytebound.report.observation import observation_text
from bytebound.report.observation_html import observation_html
from bytebound.report.page import Page

WIDTHS = (60, 80, 100, 140, 200)


def words(text):
    """A text with every gap one space."""
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_text_fits_the_page(width, ascii_only):
    """No line is wider than the page, none ends in blanks, and an ASCII page holds nothing else."""
    text = observation_text(machines.observation(), Page(width=width, ascii=ascii_only))

    assert max(map(len, text.splitlines())) <= width
    assert text.isascii() or not ascii_only
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert "\x1b" not in text


def test_headline_gives_verdict_share_and_error():
    """What holds decode, the share of the measured ceiling, and the forecast with its grade."""
    assert observed.headline(machines.observation()) == (
        "Decode waits for weights to come from memory: 13.4 GB/s, 56 % of the measured 24.0 GB/s. "
        "A step took 50.0 ms; predicted 46.0 ms (−8 %), calibrated here with a small model."
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"grade": "bound"}, "the limit is 46.0 ms (−8 %), a limit, not a forecast."),
        ({"grade": "scaled"}, "predicted 46.0 ms (−8 %), scaled by efficiencies seen elsewhere."),
        ({"predicted_s": None, "error": None}, "A step took 50.0 ms."),
        ({"predicted_s": Interval(math.nan, math.nan, math.nan)}, "A step took 50.0 ms."),
    ],
)
def test_a_forecast_says_its_grade(changes, expected):
    """A bound is never called a forecast; without a prediction only the observation is told."""
    assert observed.forecast(machines.phase(**changes)).endswith(expected)


def test_text_gives_every_figure_of_a_phase():
    """Best, median and range; bytes and FLOPs a second with both shares; the diagnosis' own sentence."""
    text = words(observation_text(machines.observation(), Page(width=80)))

    assert "A decode, batch 1, context 512 waits for weights" in text
    assert "took 50.0 ms (46.0–54.0 ms), best 47.5 ms, 30 samples" in text
    assert "predicted 46.0 ms (40.0–53.0 ms), −8 %; calibrated here with a small model" in text
    assert "moved 13.4 GB/s, MBU 56 % (27 % of the printed)" in text
    assert "computed 26.0 GFLOP/s, MFU 5 %" in text
    assert "verdict weight-bandwidth: the step is within 1.20× of its ideal weight-bandwidth time" in text
    assert "500 ms, −76 %; bound: a limit, not a forecast" in text
    assert "record r-20261122-7, 2026-11-22 11:00 UTC; ceilings of m-20261122-1" in text


def test_operators_stand_on_the_roofline_with_their_letters():
    """18 ms for 270 MB is 15 GB/s, 62 % of the slope; its letter is in the picture at a FLOP for every five bytes."""
    lines = observation_text(machines.observation(), Page(width=80, ascii=True)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("roofline"))
    picture = lines[start + 1 : start + 15]
    row = next(line for line in lines if "ffn_down" in line)
    above, below = (next(i for i, line in enumerate(picture) if letter in line[13:60]) for letter in ("b", "d"))

    assert words(row) == "a aten::addmm ffn_down 18.0 ms 41 % 15.0 GB/s 62 %"
    assert above < below
    assert any("B" in line[13:70] for line in picture)
    assert "bf16 560 GFLOP/s" in "".join(picture)
    assert words(next(line for line in lines if "copy_" in line)) == "e aten::copy_ 1.00 ms 2 % - -"


def test_hundreds_of_operators_become_a_few_and_a_sum():
    """The longest are shown, the others summed: together they are the whole."""
    many = tuple(OperatorRun(f"operator {i} {'x' * 200}", "gemm", 1, 1e-3 / (i + 1), 1e6, 1e6) for i in range(400))
    seen = machines.observation()
    seen = replace(seen, phases=(replace(seen.phases[0], operators=many),))
    rows = observed.operators(seen.phases[0], seen, 8)
    text = observation_text(seen, Page(width=60))
    page = observation_html(seen)

    assert [row.count for row in rows] == [1] * 8 + [392]
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert rows[-1].seconds == pytest.approx(sum(o.seconds for o in many[8:]))
    assert "392 others" in text
    assert max(map(len, text.splitlines())) <= 60
    assert "370 others" in page
    assert len(page.encode()) < 1_500_000


def test_many_phases_get_an_overview():
    """A sweep over contexts is one row a phase, with its forecast's error."""
    seen = machines.observation()
    sweep = tuple(replace(seen.phases[0], context=512.0 * i) for i in range(12))
    text = observation_text(replace(seen, phases=sweep), Page(width=80))
    overview = [words(line) for line in text.splitlines() if " decode " in line and "batch" not in line]

    assert len(overview) == 8
    assert overview[2].startswith("C decode 1 024 50.0 ms 46.0 ms −8 % 56 %")
    assert "4 more phases in --json and --html" in text
    assert observation_html(replace(seen, phases=sweep)).count("batch 1, context") >= 12


def test_what_went_wrong_is_said():
    """Errors, failed requests, disturbance, notes and unknowns, in the text and on the page."""
    seen = machines.observation()
    broken = RequestRun(12.0, 12.0, None, None, 512.0, 0.0, error="the server closed the connection")
    run = replace(seen.run, errors=("the server died after 12 requests",), requests=(*seen.run.requests, broken))
    seen = replace(seen, run=run)
    for shown in (words(observation_text(seen, Page(width=100))), observation_html(seen)):
        assert "the server died after 12 requests" in shown
        assert "13 sent, 1 failed: the server closed the connection" in shown
        assert "others used the processor during 10 % of the samples" in shown
        assert "frequency rose during warm-up" in shown
        assert "no datasheet is known for this processor" in shown


def test_a_run_that_gave_nothing_says_so():
    """No phase, no request: the first error is the headline, and the page has no chart."""
    seen = machines.observation()
    run = replace(seen.run, requests=(), metrics={}, errors=("llama.cpp could not load the file",), canaries={})
    empty = replace(seen, run=run, phases=(), ttft_s=None, tpot_s=None, tokens_per_s=None, provenance=(), missing={})
    page = observation_html(empty)

    assert observed.headline(empty) == "Nothing to judge: llama.cpp could not load the file."
    assert charts(page) == {}
    assert "Nothing to judge" in observation_text(empty, Page(width=60))


@pytest.mark.parametrize("device", [None, machines.cpu(), machines.catalogue()])
def test_page_shows_the_documents_numbers(device):
    """Shares, rates and the error stand on the page; a measured machine adds its caches' roofs; nothing is loaded."""
    page = observation_html(machines.observation(), device)
    loading = [a for tag, a in tags(page) if a.get("src") or (tag == "link" and not a["href"].startswith("data:"))]

    assert loading == []
    assert set(charts(page)) == {"roofline", "forecast", "shares", "requests"}
    for text in (
        "13.4 GB/s",
        "56 %",
        "27 % of the printed",
        "26.0 GFLOP/s",
        "46.0 ms (40.0–53.0 ms)",
        "−8 %",
        "15.0 GB/s",
    ):
        assert text in page
    assert ("L2 97.0 GB/s" in page) == (device is not None and device.measured is not None)


def test_dots_lie_where_the_document_puts_them():
    """The decode step on the roofline has the document's intensity and rate."""
    layers = charts(observation_html(machines.observation()))["roofline"]["layer"]
    dots = [row for layer in layers for row in layer.get("data", {}).get("values", []) if "of" in row]
    step = next(dot for dot in dots if dot["w"] == "whole step" and dot["p"] == "decode")

    assert (step["i"], step["f"]) == (1.94, 26e9)
    assert step["of"] == pytest.approx(26e9 / (1.94 * 24e9), rel=1e-3)
    assert len(dots) == 2 + 4  # aten::copy_ counted no bytes: it has no place


def test_hostile_names_stay_text():
    """Script in an operator, a setting, a metric, an error or a model never becomes an element or a command."""
    evil = HOSTILE + "\x1b[2J\u202e"
    seen = machines.observation()
    operator = replace(machines.OPERATORS[0], name=evil, kind=evil, shapes=evil)
    phase = replace(seen.phases[0], name=evil, verdict=evil, sentence=evil, grade=evil, operators=(operator,))
    run = replace(
        seen.run, id=evil, engine=evil, model=evil, settings={evil: evil}, load={evil: evil}, metrics={evil: 1.0},
        notes=(evil,), errors=(evil,), canaries={evil: machines.spread(1.0)},
        requests=(replace(seen.run.requests[0], error=evil),),
    )  # fmt: skip
    bad = replace(
        seen, run=run, model=evil, machine=evil, measurement=evil, phases=(phase,), notes=(evil,), missing={evil: evil},
        flop_per_s={evil: 1e12},
    )  # fmt: skip
    page, text = observation_html(bad), observation_text(bad, Page(width=60))
    safe = observation_html(seen)

    assert [a for t, a in tags(page) if t in {"script", "img"}] == [a for t, a in tags(safe) if t in {"script", "img"}]
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert max(map(len, text.splitlines())) <= 60


ANY = st.one_of(st.floats(-1e24, 1e24), st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e-300]))
MAYBE = st.one_of(st.none(), ANY)
TEXT = st.text(max_size=40)
SPREADS = st.builds(Spread, ANY, ANY, ANY, ANY, st.integers(0, 99))
RUNS = st.builds(OperatorRun, TEXT, TEXT, ANY, ANY, ANY, ANY, TEXT)
PHASES = st.builds(
    ObservedPhase, name=TEXT, seconds=SPREADS, batch=ANY, context=ANY, tokens=ANY, flops=ANY, bytes=ANY, intensity=ANY,
    bytes_per_s=ANY, flop_per_s=ANY, mbu=ANY, mfu=ANY, mbu_datasheet=MAYBE, mfu_datasheet=MAYBE, verdict=TEXT,
    residual=ANY, sentence=TEXT, predicted_s=st.one_of(st.none(), st.builds(Interval, ANY, ANY, ANY)), grade=TEXT,
    error=MAYBE, operators=st.lists(RUNS, max_size=12).map(tuple),
)  # fmt: skip
REQUESTS = st.builds(RequestRun, ANY, ANY, MAYBE, MAYBE, ANY, ANY, TEXT)


@given(
    phases=st.lists(PHASES, max_size=5),
    requests=st.lists(REQUESTS, max_size=12),
    memory=ANY,
    rates=st.dictionaries(TEXT, ANY, max_size=3),
    spread=st.one_of(st.none(), SPREADS),
    width=st.sampled_from((60, 80, 140)),
    ascii_only=st.booleans(),
)
def test_any_observation_makes_a_text_and_a_page(*, phases, requests, memory, rates, spread, width, ascii_only):
    """NaN, infinity, zero, empty and odd values anywhere: both renderings come out whole and keep to the page."""
    base = machines.observation()
    run = replace(
        base.run,
        requests=tuple(requests),
        metrics={"m": memory},
        disturbed=0.5,
        canaries={"canary.fma": machines.spread(1.0)},
    )
    seen = replace(
        base, run=run, phases=tuple(phases), memory_bytes_per_s=memory, flop_per_s=rates, ttft_s=spread, tpot_s=spread,
        tokens_per_s=spread,
    )  # fmt: skip
    text = observation_text(seen, Page(width=width, ascii=ascii_only))

    assert max(map(len, text.splitlines())) <= width
    assert text.isascii() or not ascii_only
    assert observation_html(seen, machines.cpu()).endswith("</html>")


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_observation_charts_draw_in_a_browser(tmp_path):
    """Every chart becomes an SVG and the console stays silent."""
    page = observation_html(machines.observation(), machines.cpu())
    path = tmp_path / "observation.html"
    path.write_text(page, encoding="utf-8")
    drawn, said = browse(path, tmp_path, page_id="observation")

    assert said == []
    assert 'data-charts="drawn"' in drawn
    assert drawn.count('<svg xmlns="http://www.w3.org/2000/svg"') >= len(charts(page))

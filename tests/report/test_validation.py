"""A validation as text, page and documentation: its figures, its weak spots first, and a page that can be filtered."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import jsonschema
import pytest
import validated
from test_html import BROWSER, HOSTILE, browse, tags

from bytebound.documents.validation import Regression, Unread, Validation
from bytebound.documents.values import from_json, json_schema, plain, to_json
from bytebound.report import validation_words as said
from bytebound.report.page import Page
from bytebound.report.validation import validation_text
from bytebound.report.validation_html import validation_html
from bytebound.report.validation_markdown import validation_markdown

WIDTHS = (60, 80, 110, 160)
WORSE = Regression("device", "h200", "tpot_s", 0.12, 0.15, 0.31, 90, 88)


def words(text):
    """A text with every gap one space."""
    return re.sub(r"\s+", " ", text)


def data(page):
    """What the page's script draws."""
    found = re.search(r'<script type="application/json" id="bb-charts">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(found[1])


def test_document_round_trips():
    """Written and read it is the same, and it fits its schema."""
    validation = validated.validation(50, regressions=(WORSE,))

    assert from_json(Validation, to_json(validation)) == validation
    jsonschema.validate(plain(validation), json_schema(Validation))
    assert plain(validation)["schema"] == "bytebound.validation/1"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_text_fits_the_page(width, ascii_only):
    """No line is wider than the page, none ends in blanks, no colour is in it, and an ASCII page holds nothing else."""
    text = validation_text(validated.validation(), Page(width=width, ascii=ascii_only))

    assert max(map(len, text.splitlines())) <= width
    assert text.isascii() or not ascii_only
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert "\x1b" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_names_and_figures_are_never_cut(width):
    """A narrow page has fewer columns, not shorter cells; a wide one has the corpus' own protocol."""
    text = validation_text(validated.validation(), Page(width=width))
    heads = [words(line) for line in text.splitlines() if line.startswith("device ")]

    assert "…" not in text
    assert heads[0].startswith("device rows median 90 % coverage")
    assert ("even |ln|" in heads[0]) == (width > 110)


def test_colour_is_the_readers_choice():
    """A wrong coverage is red where colour is wanted, and marked where it is not."""
    validation = validated.validation()

    assert re.search(r"\x1b\[31m +! 37 %\x1b\[0m", validation_text(validation, Page(width=110, colour=True)))
    assert "! 37 %" in validation_text(validation, Page(width=110))


def test_text_gives_the_documents_figures():
    """The headline, every group's row, the worst rows with their explanation, the reasons and the contradiction."""
    validation = validated.validation()
    text = words(validation_text(validation, Page(width=140)))
    group = next(g for g in validation.groups if (g.by, g.name, g.metric) == ("device", "h200", ""))
    whole = said.whole(validation)

    assert said.headline(validation) in text
    assert f"half are predicted within {said.share(whole.median_error)}" in text
    assert (
        f"h200 {group.rows} {said.share(group.median_error)} {said.share(group.p90_error)} {said.share(group.coverage)} "
        f"{said.share(group.mean_error)} {said.share(group.bias, signed=True)} {said.share(group.within_25)}"
    ) in text
    for row in validation.worst:
        assert f"{row.id}: {row.device} · {row.engine} · {row.model} · {row.work}" in text
        assert row.locator in text
    assert "the page does not say whether speculative decoding was on" in text
    assert "the model is not in the catalogue 40 mlperf 30, blog 10" in text
    assert "blog-0003 1.00 ms 2.40 ms weights alone take 2.40 ms to read at 3.35 TB/s" in text
    assert "leave-one-device-out: each device was predicted by a fit that had seen none of its rows" in text


def test_weak_spots_say_what_is_bad():
    """Coverage outside its band, the largest errors, simpler predictors that win, what is not expressed, what is impossible."""
    spots = said.weak_spots(validated.validation(regressions=(WORSE,)))
    texts = [spot.text for spot in spots]

    assert texts[0] == "1 group is worse than committed:"
    assert spots[0].items == ("device h200, TPOT: 31 % now, 12 % committed, up to 15 % is noise",)
    assert any(text.startswith("80 % intervals hold 74 % of all rows") for text in texts)
    assert any(text.startswith("Intervals are too narrow in 1 large group") for text in texts)
    assert any("device m2-max" in item for spot in spots for item in spot.items)
    assert any(text.startswith("0.6 of bandwidth is nearer in") for text in texts)
    assert "45 rows of 645 cannot be expressed:" in texts
    assert texts[-1] == "1 measurement contradicts physics."


def test_what_is_right_is_no_weak_spot():
    """Rows predicted exactly, with intervals that hold four in five, give no complaint about them."""
    validation = validated.validation(100, groups=(), unexpressed=(), contradictions=(), worst=())
    good = replace(validated.validation(100).groups[0], coverage=0.8, median_error=0.01, baselines={})

    assert said.weak_spots(replace(validation, groups=(good,))) == []
    assert "weak spots" not in validation_text(replace(validation, groups=(good,)), Page())
    assert "None found." in validation_markdown(replace(validation, groups=(good,)))


def test_nothing_predicted_says_so():
    validation = validated.validation(10, groups=(), worst=())

    assert said.headline(validation) == "No row could be predicted."
    for shown in (validation_text(validation, Page()), validation_html(validation), validation_markdown(validation)):
        assert "No row could be predicted." in shown


def test_markdown_has_its_weak_spots_on_top():
    """Title, takeaway and date, then the weak spots, then everything else; every table has as many cells as heads."""
    page = validation_markdown(validated.validation())
    heads = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)

    assert heads[:3] == ["How wrong is bytebound?", "Weak spots", "How this was made"]
    assert heads[-3:] == ["The rows furthest off", "What cannot be expressed", "Measurements that contradict physics"]
    assert "on 2026-11-21 10:00 UTC" in page.partition("## Weak spots")[0]
    assert page.count("\n| **all rows** |") == 8
    for table in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert page.endswith("\n")
    assert not page.endswith("\n\n")


def test_page_asks_for_nothing():
    """No element loads anything, and the policy forbids every request and every other script; it says so twice."""
    page = validation_html(validated.validation())
    loading = [a for tag, a in tags(page) if a.get("src") or (tag == "link" and not a["href"].startswith("data:"))]
    policy = next(a["content"] for _, a in tags(page) if a.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r'<script type="module">(.*?)</script>', page, flags=re.DOTALL)[1]

    assert loading == []
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?://|innerHTML|eval\(", script.replace("^https:", ""))
    assert all(a.get("scope") for tag, a in tags(page) if tag == "th")


def test_page_without_scripts_has_the_figures():
    """Everything but the plots stands in tables: the same figures as in the terminal."""
    validation = validated.validation(regressions=(WORSE,))
    page = words(validation_html(validation)).partition('id="bb-charts"')[0].replace("\u00a0", " ")

    assert "<noscript>" in page
    for by in said.keys_of(validation):
        for group in said.totals(validation, by):
            assert said.share(group.median_error) in page
            assert said.label(group) in page
    for text in (
        said.headline(validation),
        "31 % now, 12 % committed",
        validation.worst[0].id,
        "weights alone take 2.40 ms",
    ):
        assert text in page
    assert page.index("Weak spots</h2>") < page.index("Predicted against measured</h2>") < page.index("By group</h2>")


def test_the_plots_hold_every_row():
    """Each point's texts and figures, to four digits, come back out of the page."""
    validation = validated.validation(200)
    found, points = data(validation_html(validation)), validation.points

    for key in ("source", "device", "model", "metric"):
        column = found["keys"][key]
        assert tuple(column["names"][code] for code in column["codes"]) == getattr(points, key)
    assert tuple(found["id"]) == points.id
    assert found["predicted"] == pytest.approx(list(points.predicted), rel=1e-3)
    assert found["metrics"]["tpot_s"] == ["TPOT", "s"]


def test_thousands_of_rows_stay_small():
    """12,000 rows make a page of under 2 MB."""
    assert len(validation_html(validated.validation(12_000)).encode()) < 2_000_000


def test_hostile_names_stay_text():
    """Script or markup in a source, a reason, an explanation or an id never becomes an element or a command."""
    evil = HOSTILE + "\x1b[2J\u202e|`[x](y)"
    safe = validated.validation(30)
    bad = replace(
        safe,
        version=evil,
        truth=(evil,),
        notes=(evil,),
        groups=tuple(replace(g, name=evil) for g in safe.groups),
        points=replace(safe.points, id=(evil,) * 30, source=(evil,) * 30, locator=(evil,) * 30, metric=(evil,) * 30),
        worst=tuple(replace(row, id=evil, model=evil, explanation=evil, locator=evil) for row in safe.worst),
        unexpressed=(Unread(evil, 1, {evil: 1}, evil),),
        contradictions=tuple(replace(c, id=evil, why=evil, locator=evil) for c in safe.contradictions),
        regressions=(replace(WORSE, name=evil),),
    )
    page, text, markdown = validation_html(bad), validation_text(bad, Page(width=80)), validation_markdown(bad)

    assert sum(tag == "script" for tag, _ in tags(page)) == sum(
        tag == "script" for tag, _ in tags(validation_html(safe))
    )
    assert not any(tag == "img" for tag, _ in tags(page))
    for shown in (page, text, markdown):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    assert not re.search(r"(?<!\\)<script", markdown)
    assert not re.search(r"(?<!\\)\[x", markdown)


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_page_filters_in_a_browser(tmp_path):
    """The page draws every metric; with filters in its address it shows only their rows, counted as here; the console is silent."""
    validation = validated.validation(400)
    path = tmp_path / "validation.html"
    path.write_text(validation_html(validation), encoding="utf-8")
    points = validation.points
    wanted = [i for i in range(400) if (points.device[i], points.metric[i]) == ("h200", "tpot_s")]
    group = next(g for g in validation.groups if (g.by, g.name, g.metric) == ("device", "h200", "tpot_s"))

    drawn, console = browse(path, tmp_path, page_id="all")
    assert console == []
    assert 'data-charts="drawn"' in drawn
    assert "400 of 400 rows" in drawn
    assert drawn.count('<figure class="panel">') == 4

    class Filtered:
        """The page with filters in its address."""

        def as_uri(self):
            return f"{path.as_uri()}#device=h200&metric=tpot_s&group=model"

    drawn, console = browse(Filtered(), tmp_path, page_id="some")
    assert console == []
    assert f"{len(wanted)} of 400 rows" in drawn
    assert drawn.count('<figure class="panel">') == 1
    assert (
        f"{len(wanted)} rows · median error {said.share(group.median_error)} · bias {said.share(group.bias, signed=True)}"
        in drawn
    )

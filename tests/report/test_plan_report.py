"""A plan as people read it: what to rent first, commands that stay runnable, refusals, any width, and a page that is only text."""

import itertools
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser

import planned
import pytest

from bytebound.documents.values import Interval
from bytebound.report.page import Page
from bytebound.report.plan_charts import front_chart
from bytebound.report.plan_html import plan_page
from bytebound.report.terminal_plan import plan_text

HOSTILE = '</script><script>alert(1)</script><img src="https://evil.example/x">\x1b[31m'
WIDTHS = (60, 80, 100, 132, 200)
PLANS = {
    "one": planned.plan,
    "two": lambda: planned.plan(planned.model_plan(), planned.model_plan(model="org/other"), pool="8x h100-sxm"),
    "infeasible": lambda: planned.plan(planned.infeasible()),
    "priceless": lambda: planned.plan(
        planned.model_plan(
            best=planned.deployment(usd_per_month=None, usd_per_mtok=None, joules_per_token=None),
            front=tuple(replace(each, usd_per_month=None) for each in planned.front()),
        ),
        usd_per_month=None,
    ),
}


@pytest.fixture(autouse=True)
def _no_runtime(monkeypatch):
    """The charts' runtime is the same on every page and is tested with the audit's; building it takes seconds."""
    monkeypatch.setattr("bytebound.report.html._runtime", lambda: "draw();")


def prose(text):
    """The lines of a report less its commands, which are never wrapped."""
    for command in (planned.VLLM.text, planned.MANIFEST.text):
        text = text.replace(command, "")
    return text


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_but_a_command_is_wider_than_the_page(width, name, ascii_only):
    text = prose(plan_text(PLANS[name](), Page(width=width, ascii=ascii_only)))

    assert max(map(len, text.splitlines())) <= width
    assert text.isascii() or not ascii_only
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_what_to_rent_comes_first():
    lines = plan_text(planned.plan(), Page(width=110)).splitlines()

    assert lines[0] == "org/model · 9.00 requests/s · 1500 in / 300 out · TTFT < 1.00 s, TPOT < 50.0 ms"
    assert lines[2] == "✓ Rent 4 × h100-sxm for $4 000 a month: 2 copies of TP2, 93 % sure to meet every bound."
    text = "\n".join(lines)
    assert "30.0 ms (24.0–37.5 ms), asked for less than 50.0 ms" in text
    assert "batch 64, weights fp8, 30 % of the prompt cached" in text
    assert "near-lossless: under 0.5 % on common suites" in text
    assert "proof-17" in text
    assert "1 250 000 deployments in 500 ms, 2 500 000 a second; 800 000 fit, 40 000 meet the objective" in text


def test_the_best_is_marked_once_though_the_front_does_not_know_its_commands():
    rows = [line for line in plan_text(planned.plan(), Page(width=140)).splitlines() if "× " in line and "$" in line]

    assert [row.strip().startswith("✓") for row in rows[1:4]] == [True, False, False]
    page = plan_page(planned.plan())
    assert page.count('class="best"') == 1


@pytest.mark.parametrize("width", [60, 110])
def test_a_command_is_printed_as_it_must_be_typed(width):
    """Neither wrapped nor indented: the text between is the command to the letter."""
    text = plan_text(planned.plan(), Page(width=width))

    assert f"\n{planned.VLLM.text}\n" in text
    assert shlex.split(planned.VLLM.text.replace("\\\n", ""))[:3] == ["vllm", "serve", "org/model"]
    assert "llama.cpp has no fp8 weights" in text


def test_a_command_cannot_steer_the_terminal():
    best = planned.deployment(commands=(replace(planned.VLLM, text="vllm serve 'a\x1b[31mb'"),))

    assert "\x1b" not in plan_text(planned.plan(planned.model_plan(best=best)), Page(width=80))


def test_no_colour_where_none_is_wanted():
    assert "\x1b" not in plan_text(planned.plan(), Page(width=80))
    assert "\x1b[" in plan_text(planned.plan(), Page(width=80, colour=True))


def test_a_refusal_says_why_what_to_do_and_what_is_nearest():
    text = plan_text(planned.plan(planned.infeasible()), Page(width=110))

    assert "✗ No deployment keeps TPOT under 1.00 ms." in text
    assert 'bound it with --for "tpot<6ms"' in text
    assert "nearest: 4 × h100-sxm" in text
    page = plan_page(planned.plan(planned.infeasible())).replace("\u00a0", " ")
    assert "The nearest deployment" in page
    assert page.count("No deployment keeps TPOT under 1.00 ms.") == 1


def test_a_pool_that_is_too_small_is_told_before_the_models():
    why = replace(
        planned.infeasible().infeasible_because, limit="devices", sentence="the models need 9 devices", nearest=None
    )
    plan = planned.plan(
        planned.model_plan(), planned.model_plan(), infeasible_because=why, devices=None, usd_per_month=None
    )

    text = plan_text(plan, Page(width=110))
    assert text.index("The models need 9 devices.") < text.index("org/model ·")
    assert "The models need 9 devices." in plan_page(plan)


def elements(page):
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, dict(attrs)))

    Reader().feed(page)
    return found


@pytest.mark.parametrize("name", PLANS)
def test_the_page_asks_for_nothing_and_tells_every_chart_as_a_table(name):
    page = plan_page(PLANS[name]())
    found = elements(page)
    charts = json.loads(re.search(r'id="bb-charts">(.*?)</script>', page, re.DOTALL)[1])["charts"]
    places = {attrs["id"]: attrs for _, attrs in found if attrs.get("class") == "plot"}

    assert not [
        attrs for tag, attrs in found if "src" in attrs or (tag == "link" and not attrs["href"].startswith("data:"))
    ]
    assert sorted(places) == sorted(charts)
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in places.values())
    assert page.count("Data of this chart") == len(charts)
    assert all(attrs.get("scope") for tag, attrs in found if tag == "th")
    assert len([attrs["id"] for _, attrs in found if "id" in attrs]) == len(
        {attrs["id"] for _, attrs in found if "id" in attrs}
    )
    levels = [int(tag[1]) for tag, _ in found if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(page.encode()) < 1_500_000


def test_a_hostile_name_is_text_on_the_page():
    best = planned.deployment(
        model=HOSTILE, device=HOSTILE, binds=HOSTILE, quality_note=HOSTILE, levers=(HOSTILE,), notes=(HOSTILE,),
        commands=(replace(planned.VLLM, text=HOSTILE, notes=(HOSTILE,), source=HOSTILE),),
    )  # fmt: skip
    model = planned.model_plan(model=HOSTILE, best=best, front=(best, *planned.front()))
    plan = planned.plan(model, notes=(HOSTILE,))
    page = plan_page(plan)
    plain = plan_page(planned.plan(planned.model_plan(best=replace(planned.deployment(), commands=(planned.VLLM,)))))

    scripts = [tag for tag, _ in elements(page) if tag in {"script", "img"}]
    assert scripts == [tag for tag, _ in elements(plain) if tag in {"script", "img"}]
    assert "\x1b" not in plan_text(plan, Page(width=100))


def test_the_command_on_the_page_is_the_command():
    texts = []

    class Reader(HTMLParser):
        inside = False

        def handle_starttag(self, tag, attrs):
            self.inside = tag == "code" or (self.inside and tag != "details")

        def handle_endtag(self, tag):
            self.inside = self.inside and tag != "code"

        def handle_data(self, data):
            if self.inside:
                texts.append(data)

    Reader().feed(plan_page(planned.plan()))
    assert texts == [planned.VLLM.text, planned.MANIFEST.text]


def test_points_without_a_price_are_drawn_by_devices_and_unknown_times_not_at_all():
    front = tuple(replace(each, usd_per_month=None) for each in planned.front())
    chart = front_chart(planned.model_plan(front=front), place=0)
    assert [point["money"] for point in chart.spec["data"]["values"]] == [4.0, 2.0, 3.0]
    assert "devices" in json.dumps(chart.spec)

    nan = float("nan")
    unknown = tuple(replace(each, tpot_s=Interval(nan, nan, nan)) for each in planned.front())
    chart = front_chart(planned.model_plan(front=unknown), place=0)
    assert [point["ms"] for point in chart.spec["data"]["values"]] == [400.0, 400.0, 400.0]
    assert "time to first token" in chart.columns

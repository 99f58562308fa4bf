"""The pages: one file, no request, escaped names, a table under every chart, and charts that really draw."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import fabricated
import pytest
from markupsafe import escape

from bytebound.documents.trends import TrendClaim, TrendFit, TrendPoint, Trends, TrendSeries
from bytebound.report.html import audit_html, estimate_html, trends_html

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"
LIMIT = 1_500_000


def trends() -> Trends:
    """Two series that double every two years, one of them claimed to triple."""
    fit = TrendFit(2.0, 1.5, 2.6, 1.4, 2.8, 4, 0.98, 2000.0, 2020.0, 1e9)
    points = tuple(TrendPoint(f"thing {i}", f"{2000 + 5 * i}-06-01", 1e9 * 2 ** (2.5 * i), "a table") for i in range(5))
    claim = TrendClaim("3× per 2 years", 3.0, "a paper", inside=False)
    ids = ("compute", "dram-bandwidth")
    return Trends(
        tuple(
            TrendSeries(name, name.title(), "B/s", points, fit, claim if name == "compute" else None, "")
            for name in ids
        )
    )


PAGES = {
    "audit": lambda: audit_html(fabricated.audit()),
    "estimate": lambda: estimate_html(fabricated.estimate()),
    "trends": lambda: trends_html(trends()),
}


class Tags(HTMLParser):
    """Collects start tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        """Keep one."""
        self.found.append((tag, dict(attrs)))


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """Every start tag of a page."""
    parser = Tags()
    parser.feed(page)
    return parser.found


@pytest.fixture(scope="module", params=sorted(PAGES))
def page(request):
    """Each kind of page once."""
    return PAGES[request.param]()


def charts(page: str) -> dict[str, object]:
    """The specifications a page carries."""
    found = re.search(r'<script type="application/json" id="bb-charts">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(found[1])["charts"]


def test_page_is_small_and_asks_for_nothing(page):
    """Under 1.5 MB; no element loads anything; the policy forbids every request and every other script."""
    loading = [
        (tag, a) for tag, a in tags(page) if a.get("src") or (tag == "link" and not a["href"].startswith("data:"))
    ]
    policy = next(a["content"] for _, a in tags(page) if a.get("http-equiv") == "Content-Security-Policy")

    assert len(page.encode()) < LIMIT
    assert loading == []
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_every_chart_has_a_place_a_name_and_a_table(page):
    """A person who cannot see a chart reads its data in a table with headers."""
    names = list(charts(page))
    places = {a["id"]: a for _, a in tags(page) if a.get("class") == "plot"}

    assert sorted(places) == sorted(names)
    assert all(a["role"] == "img" and a["aria-label"] for a in places.values())
    assert page.count("Data of this chart") == len(names)
    assert all(a.get("scope") for tag, a in tags(page) if tag == "th")


def test_page_follows_the_reader(page):
    """Language, viewport, light and dark, print, keyboard: stated in the page."""
    found = tags(page)

    assert ("html", {"lang": "en"}) in found
    assert any(a.get("name") == "viewport" for _, a in found)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert sum(tag == "h1" for tag, _ in found) == 1
    assert sum(tag == "main" for tag, _ in found) == 1


def test_order_of_the_audit_page():
    """Verdict first, then the evidence, then how to get it again."""
    page = PAGES["audit"]()
    order = [
        'class="verdict"',
        'id="verdicts"',
        'id="months"',
        'id="rooflines"',
        'id="what-helps"',
        'id="pools"',
        'id="assumptions"',
        'id="again"',
    ]
    places = [page.index(mark) for mark in order]

    assert places == sorted(places)
    assert "bytebound audit examples/fleet.toml" in page
    assert "Store weights in fp8" in page


def test_hostile_names_are_text():
    """Script in a workload's name, model, source or pool never becomes an element."""
    base = fabricated.audit()
    first = replace(base.workloads[0], name=HOSTILE, model=HOSTILE, why=HOSTILE, deployment=HOSTILE)
    points = tuple(replace(p, workload=HOSTILE, device=HOSTILE) for p in first.roofline)
    hostile = replace(
        base,
        name=HOSTILE,
        workloads=(replace(first, roofline=points), *base.workloads[1:]),
        assumptions=(replace(base.assumptions[0], source=f"https://example.org/{HOSTILE}"),),
        fleet=replace(base.fleet, sentence=HOSTILE, first=HOSTILE),
    )
    page, safe = audit_html(hostile), audit_html(base)

    def scripts(text):
        return [a for tag, a in tags(text) if tag in {"script", "img"}]

    assert scripts(page) == scripts(safe)
    assert str(escape(HOSTILE)) in page
    assert not any(name.startswith("on") for _, a in tags(page) for name in a)


def test_links_are_only_https():
    """A source is a link only where it is an https address."""
    base = fabricated.audit()
    sources = tuple(
        replace(base.assumptions[0], source=s)
        for s in ("javascript:alert(1)", "see https://example.org/a b", "http://x")
    )
    page = audit_html(replace(base, assumptions=sources))
    outward = [a["href"] for tag, a in tags(page) if tag == "a" and not a["href"].startswith("#")]

    assert outward == ["https://example.org/a"]


def test_a_hundred_workloads_stay_under_the_limit():
    """A hundred workloads over 18 months still make one small file."""
    base = fabricated.audit()
    many = tuple(replace(base.workloads[i % 9], name=f"workload-{i}") for i in range(100))

    assert len(audit_html(replace(base, workloads=many)).encode()) < LIMIT


def test_an_empty_audit_is_still_a_page():
    """No workload and no pool: the page says so and carries no chart."""
    empty = replace(fabricated.audit(), workloads=(), pools=(), assumptions=())

    assert charts(audit_html(empty)) == {}


def test_same_document_same_page():
    """Rendering is a function of the document: the same bytes every time."""
    assert PAGES["audit"]() == PAGES["audit"]()


def browse(path, folder, *, page_id: str):
    """The DOM after scripts ran, and what the console said."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / ('profile-' + page_id)}",
        "--virtual-time-budget=20000", "--enable-logging=stderr", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)  # noqa: S603 - the browser found above
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("kind", sorted(PAGES))
def test_charts_draw_in_a_browser(kind, tmp_path):
    """Every chart becomes an SVG, the console stays silent, and the policy stops nothing the page needs."""
    page = PAGES[kind]()
    path = tmp_path / f"{kind}.html"
    path.write_text(page, encoding="utf-8")
    drawn, said = browse(path, tmp_path, page_id=kind)

    assert said == []
    assert 'data-charts="drawn"' in drawn
    assert drawn.count('<svg xmlns="http://www.w3.org/2000/svg"') >= len(charts(page))
    assert "could not be drawn" not in drawn.replace(page, "").split("<script", 1)[0]


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_check_for_a_silent_console_hears(tmp_path):
    """A page whose chart is broken is noticed by the test above."""
    path = tmp_path / "broken.html"
    path.write_text(PAGES["trends"]().replace('"type":"log"', '"type":"nonsense"'), encoding="utf-8")

    assert browse(path, tmp_path, page_id="broken")[1]

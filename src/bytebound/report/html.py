"""One self-contained page for a document: no request leaves it, and it opens from a disk in ten years."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

from bytebound.report import words
from bytebound.report.charts import fixes_chart, headroom_chart, pool_chart
from bytebound.report.estimate_charts import elasticity_chart, memory_chart, time_chart
from bytebound.report.roofline import roofline_chart
from bytebound.report.terminal_estimate import (
    estimate_sentence,
    estimate_tiles,
    operator_rows,
    phase_line,
    quoted,
    title_of,
)
from bytebound.report.trend_charts import series_chart, wall_charts
from bytebound.report.vega import CONFIG, Chart

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jinja2 import Environment

    from bytebound.documents.audit import Audit
    from bytebound.documents.estimate import Estimate
    from bytebound.documents.trends import Trends

WORTH_SHARING = 40
"""Characters from which a reference is shorter than the part it stands for."""
DETAILED = 25
"""Workloads shown with charts and fixes, most urgent first, so that a page of any fleet stays under 1.5 MB."""
FLAGS = ("batch", "prompt", "output", "tp", "pp", "ep", "dp", "engine")

START = """
const source = JSON.parse(document.getElementById("bb-charts").textContent);
const whole = (part) => {
  if (part === null || typeof part !== "object") return part;
  if (part.$same !== undefined) return whole(source.shared[part.$same]);
  if (Array.isArray(part)) return part.map(whole);
  return Object.fromEntries(Object.entries(part).map(([key, value]) => [key, whole(value)]));
};
const options = {mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: source.config};
source.config.legend.columns = innerWidth < 640 ? 2 : 4;
const draw = async () => {
  for (const [id, spec] of Object.entries(source.charts)) {
    const place = document.getElementById(id);
    try { await vegaEmbed(place, whole(spec), options); }
    catch (error) { place.textContent = "This chart could not be drawn; its data is in the table below."; console.error(id, error); }
  }
  document.documentElement.dataset.charts = "drawn";
};
const folded = () => [...document.querySelectorAll("details.print")];
addEventListener("beforeprint", () => folded().forEach((part) => { part.dataset.was = part.open; part.open = true; }));
addEventListener("afterprint", () => folded().forEach((part) => { part.open = part.dataset.was === "true"; }));
draw();
"""


def audit_html(audit: Audit) -> str:
    """Return the audit as one page: verdicts first, then the evidence, then how to get it again."""
    headrooms = [headroom_chart(w, audit.months, place=i) for i, w in enumerate(audit.workloads[:DETAILED])]
    points = [point for workload in audit.workloads for point in workload.roofline]
    roofline = roofline_chart(points) if points else None
    fixes = fixes_chart(audit)
    pools = [pool_chart(pool, audit.months, place=i) for i, pool in enumerate(audit.pools)]
    charts = [*headrooms, *([roofline] if roofline else []), *([fixes] if fixes.rows else []), *pools]
    sources: dict[tuple[str, str, str], list[str]] = {}
    for workload in audit.workloads:
        for item in dict.fromkeys((p.what, p.how, p.source) for p in workload.provenance):
            sources.setdefault(item, []).append(words.clean(workload.name))
    return page_html(
        "audit.html.j2",
        title=f"Memory-wall audit of {words.clean(audit.name)}",
        charts=charts,
        audit=audit,
        headrooms=headrooms,
        roofline=roofline,
        fixes=fixes if fixes.rows else None,
        pools=pools,
        sources=[(*item, names) for item, names in sources.items()],
        detailed=DETAILED,
        command=_command(audit),
    )


def estimate_html(estimate: Estimate) -> str:
    """Return an estimate as one page: the verdict, where bytes and time go, every operator, every source."""
    charts = [memory_chart(estimate), time_chart(estimate), elasticity_chart(estimate.elasticity)]
    name, machine = words.clean(estimate.model.name), words.clean(estimate.machine.name)
    phases = [
        (label, phase_line(phase), operator_rows(phase.operators))
        for label, phase in (("Decode", estimate.decode), ("Prefill", estimate.prefill))
    ]
    flags = [f"--{key.replace('_', '-')} {words.clean(value)}" for key, value in estimate.work.items() if key in FLAGS]
    return page_html(
        "estimate.html.j2",
        title=f"{name} on {machine}",
        charts=charts,
        estimate=estimate,
        sentence=estimate_sentence(estimate),
        question=title_of(estimate),
        tiles=estimate_tiles(estimate),
        phases=phases,
        command=" ".join(
            [f"bytebound estimate {name} --on {quoted(words.clean(estimate.machine.asked) or machine)}", *flags]
        ),
    )


def trends_html(trends: Trends) -> str:
    """Return the trends as one page: the figures of the memory wall, claims beside fits, then every series."""
    walls = wall_charts(trends)
    series = [series_chart(item) for item in trends.series]
    page = {"trends": trends, "walls": walls}
    return page_html(
        "trends.html.j2", title="The memory wall, from the data", charts=[*walls, *series], each=series, **page
    )


def _command(audit: Audit) -> str:
    stated = audit.run.get("command")
    if stated:
        return stated
    file = quoted(words.clean(audit.run.get("file", "FLEET.toml")))
    return f"bytebound audit {file} --months {len(audit.months)} --draws {audit.draws} --seed {audit.seed}"


def page_html(template: str, *, title: str, charts: Sequence[Chart], **values: Any) -> str:
    """Return a template filled, with the runtime, the charts and a policy that forbids every request."""
    data = {"config": CONFIG, **shared({chart.id: chart.spec for chart in charts})}
    return filled(template, title=title, script=_runtime(), data=data, charts=charts, **values)


def filled(template: str, *, title: str, script: str, data: object, **values: Any) -> str:
    """Return a template filled, with one script, its data, and a policy that forbids every request and other script."""
    return (
        _environment()
        .get_template(template)
        .render(title=title, policy=_policy(script), script=_markup(script), data=_markup(_harmless(data)), **values)
    )


@cache
def _runtime() -> str:
    """Return Vega, Vega-Lite and its embedder as one module, out of the installed package, and what starts them."""
    import vl_convert  # noqa: PLC0415  (70 MB; only a page needs it)

    bundle = vl_convert.javascript_bundle(START)
    return bundle.replace("</", "<\\/") if "</script" in bundle.lower() else bundle


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def shared(charts: Mapping[str, Any]) -> dict[str, Any]:
    """Return charts in which a part that occurs again stands once in ``shared``: a fleet has many charts alike.

    Example:
        >>> part = {"a": "x" * 40}
        >>> shared({"one": {"p": part}, "two": {"p": part, "q": 1}})["charts"]
        {'one': {'p': {'$same': 0}}, 'two': {'p': {'$same': 0}, 'q': 1}}
    """
    seen = Counter(_texts(charts))
    pool: dict[str, int] = {}
    parts: list[Any] = []

    def once(part: Any, *, top: bool = False) -> Any:
        if not isinstance(part, dict | list):
            return part
        text = json.dumps(part)
        again = not top and seen[text] > 1 and len(text) >= WORTH_SHARING
        if again and text in pool:
            return {"$same": pool[text]}
        done = {k: once(v) for k, v in part.items()} if isinstance(part, dict) else [once(v) for v in part]
        if not again:
            return done
        pool[text] = len(parts)
        parts.append(done)
        return {"$same": pool[text]}

    found = {name: once(spec, top=True) for name, spec in charts.items()}
    return {"shared": parts, "charts": found}


def _texts(part: Any) -> Iterator[str]:
    """Yield every object and list inside ``part`` as JSON text."""
    if isinstance(part, dict | list):
        yield json.dumps(part)
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _texts(inner)


def _harmless(data: object) -> str:
    """Return JSON that cannot end a script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _markup(text: str) -> object:
    from markupsafe import Markup  # noqa: PLC0415

    return Markup(text)  # noqa: S704  (the runtime, and JSON without a single < > or &)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415  (only a page needs it)

    environment = Environment(
        loader=PackageLoader("bytebound.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "clean": words.clean,
        "percent": words.percent,
        "usd": words.usd,
        "times": words.times,
        "saving": words.saving,
        "month": words.month_name,
        "interval": words.interval,
        "link": link,
    }
    environment.globals |= {"words": words}
    return environment


def link(source: str) -> object:
    """Return a source as text in which an https address is a link (followed only when a reader clicks it)."""
    from markupsafe import Markup, escape  # noqa: PLC0415

    parts = words.clean(source).split(" ")
    shown = [
        Markup('<a href="{0}" rel="noreferrer">{0}</a>').format(part) if part.startswith("https://") else escape(part)
        for part in parts
    ]
    return Markup(" ").join(shown)

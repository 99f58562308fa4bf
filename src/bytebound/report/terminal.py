"""An audit in the terminal: a table to read in ten seconds, then each workload, then what to run next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from bytebound.report.page import draw, grid, heading, indented, labelled
from bytebound.report.words import (
    FIX_SIGNS,
    FIX_WORDS,
    SIGNS,
    bill,
    cheapest,
    clean,
    horizon_words,
    metric,
    month_name,
    month_short,
    percent,
    saving,
    state_of,
    times,
    usd,
    when,
)
from bytebound.units import show_rate, show_usd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from bytebound.documents.audit import Audit, Fix, Starves, WorkloadAudit
    from bytebound.report.page import Cell, Page

STYLES = {"starves": "bold red", "soon": "bold yellow", "risk": "yellow", "fine": "green", "unknown": "dim"}
URGENT = ("starves", "soon", "risk")
SHOWN_FIXES, FINE_FIXES = 5, 2
NAME_WIDTH = 24
ROOMY = 104


def audit_text(audit: Audit, page: Page) -> str:
    """Return the audit for a terminal of ``page``'s width."""
    parts: list[RenderableType] = [
        heading(_title(audit)),
        Text(clean(audit.fleet.sentence)),
        *([Text(f"scenario: {' · '.join(map(clean, audit.scenario))}")] if audit.scenario else []),
        Text(""),
        _verdicts(audit, page),
        Text(_legend(), style="dim"),
    ]
    for workload in audit.workloads:
        parts += [Text(""), *_detail(workload, audit.months, page)]
    return draw([*parts, Text(""), *_closing(audit)], page)


def _title(audit: Audit) -> str:
    money = audit.fleet
    bill = "bill unknown"
    if money.usd_per_month_now is not None:
        end = "" if money.usd_per_month_end is None else f", {show_usd(money.usd_per_month_end)} at the end"
        bill = f"{show_usd(money.usd_per_month_now)}/month now{end}"
    power = "" if money.power_w_now is None else f" · {show_rate(money.power_w_now, 'W')}"
    return f"bytebound audit · {clean(audit.name)} · {horizon_words(audit.months)} · {bill}{power}"


def _legend() -> str:
    return "✗ starves now  ! likely to  ? may (10–50 % of the draws)  ✓ lasts  – not audited"


def _verdicts(audit: Audit, page: Page) -> RenderableType:
    columns = [("", "!"), ("workload", ""), ("headroom", "r!"), ("starves", "!"), ("10–90 %", "!"), ("chance", "r!")]
    columns += [("on", "!"), ("bound now by", "!"), ("cheapest fix", "")] if page.wide else [("on", "!")]
    rows = []
    for workload in audit.workloads:
        state = state_of(workload)
        row: list[Cell] = [
            Text(SIGNS[state], style=STYLES[state]),
            Text(clean(workload.name), style="bold" if state in {"starves", "soon"} else ""),
            percent(workload.headroom_now, signed=True),
            *_dates(workload.starves, audit.months),
            percent(workload.starves.probability),
            clean(workload.starves.resource or "–"),
        ]
        rows.append([*row, clean(workload.verdict_now), _fix_words(workload)] if page.wide else row)
    table = grid(*columns, rows=rows)
    urgent = [workload for workload in audit.workloads if state_of(workload) in URGENT]
    if page.wide or not urgent:
        return table
    fixes = grid(("", "!"), ("cheapest fix", "w"), rows=[(_cut(w.name), _fix_words(w)) for w in urgent])
    return Group(table, Text(""), fixes)


def _cut(name: str) -> str:
    shown = clean(name)
    return shown if len(shown) <= NAME_WIDTH else f"{shown[: NAME_WIDTH - 1]}…"


def _dates(starves: Starves, months: Sequence[str]) -> tuple[str, str]:
    def name(index: int | None) -> str:
        return "later" if index is None else "now" if index == 0 else month_short(months[min(index, len(months) - 1)])

    if starves.month_p10 is None:
        return "later", ""
    low, high = name(starves.month_p10), name(starves.month_p90)
    if low == high:
        return name(starves.month_p50), low
    month, _, year = low.partition(" ")
    return name(starves.month_p50), f"{month if year and high.endswith(year) else low}–{high}"


def _fix_words(workload: WorkloadAudit) -> str:
    fix = cheapest(workload)
    return "none found" if fix is None else f"{clean(fix.title)}, {saving(fix.usd_per_month)}"


def _detail(workload: WorkloadAudit, months: Sequence[str], page: Page) -> list[RenderableType]:
    state = state_of(workload)
    head = Text(f"{SIGNS[state]} {clean(workload.name)}", style=STYLES[state])
    head.append(f" · {clean(workload.model)} · pool {clean(workload.pool)}", style="default not bold")
    resource = f" on {clean(workload.starves.resource)}" if workload.starves.resource else ""
    lines = [
        ("runs as", clean(workload.deployment)),
        ("bound by", f"{clean(workload.verdict_now)}: {clean(workload.why)}"),
        ("starves", f"{when(workload.starves, months)}{resource}, chance {percent(workload.starves.probability)}"),
        ("headroom", ", ".join(_headrooms(workload)) or percent(workload.headroom_now, signed=True)),
        ("now", " · ".join(_metrics(workload))),
        *(("note", clean(note)) for note in workload.notes),
    ]
    parts: list[RenderableType] = [head, labelled(lines)]
    helping = [fix for fix in workload.fixes if fix.status in {"recommended", "helps"}]
    shown = helping[: SHOWN_FIXES if state in URGENT else FINE_FIXES]
    if shown:
        parts += [Text(""), _fix_table(shown, months, wide=page.width >= ROOMY)]
    if len(helping) > len(shown):
        parts.append(indented(f"✓ {len(helping) - len(shown)} more help", by=4, style="dim"))
    return [*parts, *(indented(line, by=4, style="dim") for line in _not_helping(workload, brief=state not in URGENT))]


def _headrooms(workload: WorkloadAudit) -> list[str]:
    bands = workload.by_resource.items()
    return [f"{clean(name)} {percent(band.p50[0], signed=True)}" for name, band in bands if band.p50]


def _metrics(workload: WorkloadAudit) -> list[str]:
    parts = [" ".join(metric(name, value)) for name, value in workload.metrics.items()]
    batch = [] if workload.best_batch is None else [f"best batch {workload.best_batch}"]
    return [*batch, *parts, bill(workload)]


def _fix_table(fixes: Sequence[Fix], months: Sequence[str], *, wide: bool) -> RenderableType:
    rows = []
    for fix in fixes:
        after = "–" if fix.starves_after is None else _dates(fix.starves_after, months)[0]
        quality = clean(fix.quality_note)
        inline = f" (quality: {quality})" if quality not in {"", "none"} and not wide else ""
        proven = f" (proven: {clean(fix.proven)})" if fix.proven else ""
        row = [
            f"{FIX_SIGNS[fix.status]} {clean(fix.title)}{inline}{proven}",
            times(fix.effect),
            usd(fix.usd_per_month, signed=True),
            f"after {month_name(months[-1])}" if after == "later" else after,
        ]
        rows.append([*row, quality or "–"] if wide else row)
    columns = [("fix", "w"), ("throughput", "r!"), ("bill/month", "r!"), ("then starves", "!")]
    return grid(*columns, *([("quality", "w")] if wide else []), rows=rows, indent=4)


def _not_helping(workload: WorkloadAudit, *, brief: bool) -> list[str]:
    """Return what was tried and does not help, or not yet; levers that cannot be applied here are counted."""
    by = {status: [fix for fix in workload.fixes if fix.status == status] for status in FIX_SIGNS}
    if brief:
        few, many = len(by["little-effect"]) + len(by["prove-first"]), len(by["rejected"])
        return (
            [f"– {few} fixes have little effect or want proof, {many} rejected (all in --json and --html)"]
            if few or many
            else []
        )
    tried = [fix for fix in by["rejected"] if fix.effect is not None or fix.proven]
    lines = [
        f"{FIX_SIGNS[fix.status]} {clean(fix.title)}: {FIX_WORDS[fix.status]}, {clean(fix.reason)}"
        for fix in (*by["prove-first"], *by["little-effect"], *tried)
    ]
    others = len(by["rejected"]) - len(tried)
    return [*lines, f"✗ {others} more cannot help here (why: --json and --html)"] if others else lines


def _closing(audit: Audit) -> list[RenderableType]:
    file = clean(audit.run.get("file", "FLEET.toml"))
    lines = [
        (
            "basis",
            f"{audit.draws} draws, seed {audit.seed}; {len(audit.assumptions)} assumptions with sources in --html",
        ),
        ("next", f"bytebound audit {file} --html report.html"),
    ]
    pointed = [workload for workload in audit.workloads if workload.roofline]
    if pointed:
        device = clean(pointed[0].roofline[-1].device)
        lines.append(("", f"bytebound explain {clean(pointed[0].model)} --on {device}"))
    return [labelled(lines, style="dim", by=0)]

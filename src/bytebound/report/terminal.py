"""An audit in the terminal: a table to read in ten seconds, then each workload, then what to run next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.page import draw, grid, heading, indented
from bytebound.report.words import (
    FIX_SIGNS,
    SIGNS,
    cheapest,
    clean,
    horizon_words,
    interval,
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
    from bytebound.report.page import Page

STYLES = {"starves": "bold red", "soon": "yellow", "fine": "green", "unknown": "dim"}
FINE_FIXES = 3


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
        parts += [Text(""), *_detail(workload, audit.months)]
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
    return "✗ starves now  ! starves within the horizon in 10 % of the draws or more  ✓ lasts  – not audited"


def _verdicts(audit: Audit, page: Page) -> RenderableType:
    columns = [
        ("", "!"),
        ("workload", ""),
        ("headroom", "r!"),
        ("starves", "!"),
        ("10–90 %", "!"),
        ("chance", "r!"),
        ("on", "!"),
    ]
    if page.wide:
        columns += [("bound now by", "!"), ("cheapest fix", "")]
    table = grid(*columns)
    for workload in audit.workloads:
        state = state_of(workload)
        cells = [
            Text(SIGNS[state], style=STYLES[state]),
            Text(clean(workload.name), style="bold" if state in {"starves", "soon"} else ""),
            Text(percent(workload.headroom_now, signed=True)),
            *(Text(cell) for cell in _dates(workload.starves, audit.months)),
            Text(percent(workload.starves.probability)),
            Text(clean(workload.starves.resource or "–")),
        ]
        fix = _fix_words(workload)
        if page.wide:
            table.add_row(*cells, Text(clean(workload.verdict_now)), Text(fix))
            continue
        table.add_row(*cells)
    if page.wide:
        return table
    fixes = grid(("", "!"), ("", ""), ("", ""), header=False)
    for workload in audit.workloads:
        if state_of(workload) in {"starves", "soon"}:
            fixes.add_row(Text(" "), Text(clean(workload.name)), Text(_fix_words(workload)))
    return _stack(table, Text(""), Text("cheapest fix", style="bold dim"), fixes) if fixes.rows else table


def _stack(*parts: RenderableType) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415  (rich.console is loaded when something is drawn)

    return Group(*parts)


def _dates(starves: Starves, months: Sequence[str]) -> tuple[str, str]:
    def name(index: int | None) -> str:
        return "later" if index is None else "now" if index == 0 else month_short(months[min(index, len(months) - 1)])

    if starves.month_p10 is None:
        return "later", ""
    low, high = name(starves.month_p10), name(starves.month_p90)
    return name(starves.month_p50), low if low == high else f"{low}–{high}"


def _fix_words(workload: WorkloadAudit) -> str:
    fix = cheapest(workload)
    return "none found" if fix is None else f"{clean(fix.title)}, {saving(fix.usd_per_month)}"


def _detail(workload: WorkloadAudit, months: Sequence[str]) -> list[RenderableType]:
    state = state_of(workload)
    head = Text(f"{SIGNS[state]} {clean(workload.name)}", style=STYLES[state])
    head.append(f" · {clean(workload.model)} · pool {clean(workload.pool)}", style="default not bold")
    lines = [
        clean(workload.deployment),
        f"bound now by {clean(workload.verdict_now)}: {clean(workload.why)}",
        f"starves: {when(workload.starves, months)}"
        + (f" on {clean(workload.starves.resource)}" if workload.starves.resource else "")
        + f", chance {percent(workload.starves.probability)} within the horizon",
        "headroom now: " + (", ".join(_headrooms(workload)) or percent(workload.headroom_now, signed=True)),
        " · ".join(_metrics(workload)),
        *(f"note: {clean(note)}" for note in workload.notes),
    ]
    parts: list[RenderableType] = [head, *(indented(line) for line in lines if line)]
    helping = [fix for fix in workload.fixes if fix.status in {"recommended", "helps"}]
    shown = helping if state in {"starves", "soon"} else helping[:FINE_FIXES]
    if shown:
        parts += [Text(""), _fix_table(shown, months)]
    parts += [indented(line, by=4) for line in _not_helping(workload, brief=state not in {"starves", "soon"})]
    return parts


def _headrooms(workload: WorkloadAudit) -> list[str]:
    return [
        f"{clean(name)} {percent(band.p50[0], signed=True)}" for name, band in workload.by_resource.items() if band.p50
    ]


def _metrics(workload: WorkloadAudit) -> list[str]:
    parts = [" ".join(metric(name, value)) for name, value in workload.metrics.items()]
    batch = [] if workload.best_batch is None else [f"best batch {workload.best_batch}"]
    return [
        *batch,
        *parts,
        f"{interval(workload.usd_per_month, usd)}/month" if workload.usd_per_month else "price unknown",
    ]


def _fix_table(fixes: Sequence[Fix], months: Sequence[str]) -> RenderableType:
    table = grid(
        ("fix", "w"), ("throughput", "r!"), ("bill/month", "r!"), ("then starves", "!"), ("quality", "w"), indent=4
    )
    for fix in fixes:
        after = "–" if fix.starves_after is None else _dates(fix.starves_after, months)[0]
        table.add_row(
            "",
            Text(f"{FIX_SIGNS[fix.status]} {clean(fix.title)}"),
            Text(times(fix.effect)),
            Text(usd(fix.usd_per_month, signed=True)),
            Text(f"after {month_name(months[-1])}" if after == "later" else after),
            Text(clean(fix.quality_note) or "–"),
        )
    return table


def _not_helping(workload: WorkloadAudit, *, brief: bool) -> list[str]:
    little = [fix for fix in workload.fixes if fix.status == "little-effect"]
    rejected = [fix for fix in workload.fixes if fix.status == "rejected"]
    if brief:
        return (
            [f"– {len(little)} fixes have little effect, {len(rejected)} rejected (all in --json and --html)"]
            if little or rejected
            else []
        )
    lines = [f"{FIX_SIGNS[fix.status]} {clean(fix.title)}: little effect, {clean(fix.reason)}" for fix in little]
    return lines + [f"{FIX_SIGNS[fix.status]} {clean(fix.title)}: rejected, {clean(fix.reason)}" for fix in rejected]


def _closing(audit: Audit) -> list[RenderableType]:
    file = clean(audit.run.get("file", "FLEET.toml"))
    lines = [
        f"basis   {audit.draws:,} draws, seed {audit.seed}; {len(audit.assumptions)} assumptions and sources in --json and --html".replace(
            ",", " ", 1
        ),
        f"next    bytebound audit {file} --html report.html",
    ]
    starving = [workload for workload in audit.workloads if workload.roofline]
    if starving:
        point = starving[0].roofline[-1]
        lines.append(f"        bytebound explain {clean(starving[0].model)} --on {clean(point.device)}")
    return [Text(line, style="dim") for line in lines]

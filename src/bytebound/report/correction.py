"""A correction in the terminal: what was measured, predictions before and after, and which costs turned out different."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.report.page import draw, grid, heading, indented
from bytebound.report.words import clean, interval, moment, percent, times
from bytebound.units import show_time, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from bytebound.documents.correction import CorrectedPoint, Correction, Effect
    from bytebound.documents.values import Interval
    from bytebound.report.page import Page

TELLING = 0.02
"""Effects that moved less than this are not listed."""
METRIC_WORDS = {
    "tpot_s": "TPOT",
    "ttft_s": "TTFT",
    "request_s": "request",
    "decode_tokens_per_s": "decode tokens/s",
    "prefill_tokens_per_s": "prefill tokens/s",
    "tokens_per_s": "tokens/s",
    "total_tokens_per_s": "tokens/s in + out",
    "requests_per_s": "requests/s",
}


def correction_text(correction: Correction, page: Page, *, name: str = "") -> str:
    """Return a correction for a terminal of ``page``'s width; ``name`` is what --corrected-by takes."""
    parts: list[RenderableType] = [heading(_title(correction)), Text(""), _points(correction.points)]
    if correction.outlook:
        parts += [Text(""), Text("time per output token at other batches", style="bold"), _outlook(correction)]
    moved = [e for e in correction.effects if abs(e.log_shift) >= TELLING]
    if moved:
        parts += [Text(""), Text("what the run says of the costs", style="bold"), _effects(moved)]
    parts += [indented(f"! {clean(text)}", style="yellow") for text in correction.warnings]
    parts += [
        Text(""),
        indented(f"use it: bytebound estimate … --corrected-by {clean(name or correction.id)}", style="dim"),
    ]
    return draw(parts, page)


def _title(c: Correction) -> str:
    engine = f"{clean(c.engine)} {clean(c.engine_version)}".strip()
    degrees = [
        f"{key.upper()}{value:g}"
        for key in ("tp", "pp", "ep")
        if isinstance(value := c.deployment.get(key), float) and value > 1
    ]
    words = [
        clean(c.model),
        " ".join([clean(c.machine), *degrees]),
        engine,
        f"weights {clean(c.deployment.get('weights', 'auto'))}",
    ]
    return f"{' · '.join(words)}, corrected by {len(c.points)} measured point{'s' if len(c.points) > 1 else ''}, {moment(c.when)}"


def _points(points: Sequence[CorrectedPoint]) -> RenderableType:
    rows = []
    for p in points:
        show = _show(p.metric)
        rows.append([
            METRIC_WORDS.get(p.metric, clean(p.metric)), _request(p.work), show(p.measured),
            interval(p.before, show), _off(p.before, p.measured), interval(p.after, show), _off(p.after, p.measured),
        ])  # fmt: skip
    columns = (
        ("", "!"),
        ("request", "w"),
        ("measured", "r!"),
        ("before", "r!"),
        ("off", "r!"),
        ("after", "r!"),
        ("off", "r!"),
    )
    return grid(*columns, rows=rows, indent=2)


def _show(metric: str) -> Callable[[float], str]:
    return show_time if metric in {"tpot_s", "ttft_s", "request_s"} else significant


def _off(said: Interval, measured: float) -> str:
    return percent(float(said.value) / measured - 1, signed=True)


def _request(work: dict[str, float | str]) -> str:
    def number(name: str) -> str:
        value = work.get(name, math.nan)
        return f"{value:.4g}" if isinstance(value, float) else clean(value)

    return f"batch {number('batch')}, {number('prompt')} in / {number('output')} out"


def _outlook(correction: Correction) -> RenderableType:
    rows = []
    for row in correction.outlook:
        change = float(row.after.value) / float(row.before.value) - 1
        cells = [interval(row.before, show_time), interval(row.after, show_time), percent(change, signed=True)]
        rows.append([_request(row.work).partition(",")[0], *cells])
    return grid(("", "!"), ("before", "r!"), ("after", "r!"), ("change", "r!"), rows=rows, indent=2)


def _effects(moved: Sequence[Effect]) -> RenderableType:
    rows = []
    for e in sorted(moved, key=lambda e: -abs(e.log_shift)):
        per = " per factor e" if e.name.endswith("-drift") else ""
        known = f"×/÷ {math.exp(e.prior_log_sd):.2f} before, {math.exp(e.log_sd):.2f} after"
        rows.append([clean(e.name) + per, times(math.exp(e.log_shift)), known])
    return grid(("cost", "!"), ("beside ours", "r!"), ("one standard deviation", "w"), rows=rows, indent=2)

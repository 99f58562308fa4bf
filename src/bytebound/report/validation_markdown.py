"""A validation as a page of the documentation: dated, with its weak spots on top."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bytebound.report import validation_words as said
from bytebound.report.words import clean, moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bytebound.documents.validation import GroupScore, Validation

LISTED, WORST = 40, 20
"""Groups of one key and rows listed; all are in the JSON document."""
HEADS = ("rows", "median", "mean", "90 %", "bias", "within 25 %", "coverage", "ln, median", "ln, 90 %", "ln, even")
WORDS = {"from", "metric", "why"}
"""Columns that hold words."""


def validation_markdown(validation: Validation) -> str:
    """Return a validation as Markdown. Names that come from outside are escaped, so that none becomes markup."""
    weak = [
        line
        for spot in said.weak_spots(validation)
        for line in (f"- {_safe(spot.text)}", *(f"  - {_safe(item)}" for item in spot.items))
    ]
    parts = [
        "# How wrong is bytebound?",
        f"**Takeaway:** {_safe(said.headline(validation))}\nRead the weak spots before you trust a figure.",
        f"Made by `bytebound validate` {_safe(validation.version)} on {_safe(moment(validation.when))}.",
        "## Weak spots\n\n" + ("\n".join(weak) if weak else "None found."),
        _how(validation),
        *_groups(validation),
        _worst(validation),
        _unexpressed(validation),
        _contradictions(validation),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _safe(text: object) -> str:
    r"""Return text in which nothing is markup: no link, no tag, no cell, no code.

    Example:
        >>> _safe("a|b <i> [x](y) `c` * _d_ |ln|")
        'a\\|b \\<i\\> \\[x\\](y) \\`c\\` \\* \\_d\\_ \\|ln\\|'
    """
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", clean(text))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---" if place == 0 or head in WORDS else "---:" for place, head in enumerate(heads)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def _how(validation: Validation) -> str:
    truth = ", ".join(_safe(name) for name in validation.truth) or "not stated"
    lines = [
        "## How this was made",
        f"Protocol {_safe(said.protocol_words(validation))}.\n"
        f"Truth: {truth}; {said.count(validation.rows, 'row')} read, "
        f"{said.number_words(len(validation.points.id))} expressed.\n"
        "Errors are |predicted / measured − 1|; bias is the median of predicted / measured − 1; coverage is the share of\n"
        f"measurements inside their {said.share(validation.level)} interval.\n"
        "The columns “ln” are the logarithm of predicted over measured without its sign; “even” is its median with sources\n"
        "weighed alike, then devices inside a source.".replace("|", "\\|"),
        "\n".join(f"- {_safe(note)}" for note in validation.notes),
        f"```sh\nbytebound validate --protocol {validation.protocol} --markdown accuracy.md\n```",
    ]
    return "\n\n".join(line for line in lines if line)


def _groups(validation: Validation) -> list[str]:
    whole = said.whole(validation)
    names = said.baseline_names(validation.groups)
    found = []
    for by in said.keys_of(validation):
        groups = said.totals(validation, by)
        rows = [_row(_safe(said.label(group)), group, names) for group in groups[:LISTED]]
        rows += [] if whole is None else [_row("**all rows**", whole, names)]
        table = _table((said.key_name(by), *HEADS, *(_safe(name) for name in names)), rows)
        left = len(groups) - LISTED
        more = f"\n\n{left} smaller groups are in the JSON document." if left > 0 else ""
        found.append(f"## By {said.key_name(by)}\n\n{table}{more}{_by_metric(validation, by)}")
    return found


def _row(name: str, group: GroupScore, names: Sequence[str]) -> list[str]:
    covered = said.share(group.coverage)
    return [
        name,
        said.number_words(group.rows),
        said.share(group.median_error),
        said.share(group.mean_error),
        said.share(group.p90_error),
        said.share(group.bias, signed=True),
        said.share(group.within_25),
        f"**{covered}**" if said.outside(group) else covered,
        said.log_error(group.median_log_error),
        said.log_error(group.p90_log_error),
        said.log_error(group.even_median_log_error),
        *(said.share(group.baselines.get(each)) for each in names),
    ]


def _by_metric(validation: Validation, by: str) -> str:
    """Median error and rows of each group by metric, where groups have several."""
    cells = {(g.name, g.metric): g for g in validation.groups if g.by == by and g.metric}
    metrics = list(dict.fromkeys(metric for _, metric in cells))
    if by == "metric" or len(metrics) < 2:
        return ""
    rows = [
        [
            _safe(said.label(group)),
            *(
                f"{said.share(cell.median_error)} ({said.number_words(cell.rows)})" if cell else ""
                for cell in (cells.get((group.name, metric)) for metric in metrics)
            ),
        ]
        for group in said.totals(validation, by)[:LISTED]
    ]
    table = _table((said.key_name(by), *(_safe(said.metric_name(metric)) for metric in metrics)), rows)
    return f"\n\nMedian error by metric, and rows:\n\n{table}"


def _worst(validation: Validation) -> str:
    rows = []
    for place, row in enumerate(validation.worst[:WORST], start=1):
        locator = f"({_safe(row.locator)})" if row.locator else ""
        lines = (f"{_safe(said.miss_words(row))}.", _safe(row.explanation), locator)
        head = f"{place}. {_safe(row.id)}, {_safe(said.row_words(row))}:"
        rows.append("\n   ".join([head, *(line for line in lines if line)]))
    return "## The rows furthest off\n\n" + "\n".join(rows) if rows else ""


def _unexpressed(validation: Validation) -> str:
    found = said.ranked(validation)
    rows = [[_safe(u.reason), said.number_words(u.rows), _safe(said.sources_words(u, 6))] for u in found]
    return f"## What cannot be expressed\n\n{_table(('because', 'rows', 'from'), rows)}" if rows else ""


def _contradictions(validation: Validation) -> str:
    rows = [
        [_safe(c.id), _safe(said.metric_name(c.metric)), said.measure(c.metric, c.measured), said.measure(c.metric, c.floor), _safe(c.why)]
        for c in validation.contradictions[:WORST]
    ]  # fmt: skip
    if not rows:
        return ""
    left = len(validation.contradictions) - len(rows)
    more = f"\n\n{left} more are in the JSON document." if left > 0 else ""
    heads = ("row", "metric", "measured", "limit", "why")
    return f"## Measurements that contradict physics\n\n{_table(heads, rows)}{more}"

"""What is drawn from a validation, for the terminal, the page and the document alike: its sentences and its cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.documents.truth import METRICS
from bytebound.documents.validation import PROTOCOLS
from bytebound.report.words import clean, quantity, span_of, times, tokens_rate
from bytebound.units import significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.validation import GroupScore, Regression, Unread, Validation, WorstRow

OVERALL, LARGE_GROUP = (0.75, 0.85), (0.65, 0.90)
"""Where the coverage of 80 % intervals should lie: of all rows, and of a large group."""
LARGE, JUDGED, NAMED = 50, 10, 6
"""Rows from which a group is large and from which it is named among the worst; groups named in a sentence."""
CALLED = {
    "tpot_s": "TPOT",
    "ttft_s": "TTFT",
    "request_s": "request time",
    "decode_tokens_per_s": "decode rate, one stream",
    "tokens_per_s": "output rate",
    "total_tokens_per_s": "total rate",
    "prefill_tokens_per_s": "prefill rate",
    "requests_per_s": "request rate",
    "joules_per_token": "energy per token",
    "resident_bytes": "resident memory",
    "weights_bytes": "weight bytes",
    "kv_tokens": "KV tokens",
}
"""Metric -> its name in a table."""
TITLES = {"kind": "kind of model", "family": "device family"}
"""Key -> what it is called, where its own name is not enough."""


def metric_name(metric: str) -> str:
    """Return what a metric is called; every metric where it is empty."""
    return CALLED.get(metric, clean(metric)) if metric else "every metric"


def measure(metric: str, value: float | None) -> str:
    """Return a value of ``metric`` as people read it.

    Example:
        >>> measure("tpot_s", 0.0123), measure("kv_tokens", 41408), measure("tokens_per_s", 2345.0)
        ('12.3 ms', '41 400 tokens', '2 340 tok/s')
    """
    if value is None or not math.isfinite(value):
        return "–"
    unit = METRICS.get(metric, ("", ""))[0]
    if unit in {"s", "B"}:
        return quantity(value, unit)
    if unit == "1/s":
        return f"{significant(value)} requests/s" if metric == "requests_per_s" else tokens_rate(value)
    return f"{significant(value)} {unit}".strip()


def ends(metric: str, low: float | None, high: float | None) -> str:
    """Return an interval in the unit of its metric; empty where there is none."""
    if low is None or high is None:
        return ""
    unit = METRICS.get(metric, ("", ""))[0]
    return span_of(low, high, unit) if unit in {"s", "B"} else f"{significant(low)}–{measure(metric, high)}"


def share(value: float | None, *, signed: bool = False) -> str:
    """Return a fraction as percent, with a decimal under 10 % and as a multiple from 1000 % on.

    Example:
        >>> share(0.0234), share(0.178), share(-0.305, signed=True), share(17.2, signed=True), share(None)
        ('2.3 %', '18 %', '−30 %', '×18.2', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value >= 10:
        return times(value + 1) if signed else times(value)
    size = 100 * abs(value)
    text = f"{size:.1f}" if 0 < size < 9.95 else f"{size:.0f}"
    sign = "−" if value < 0 and float(text) else "+" if signed and float(text) else ""
    return f"{sign}{text} %"


def log_error(value: float | None) -> str:
    """Return a log error with two decimals.

    Example:
        >>> log_error(0.1834), log_error(None)
        ('0.18', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f}"


def sources_words(unread: Unread, most: int = 3) -> str:
    """Return where rows that cannot be expressed come from, most rows first."""
    found = sorted(unread.sources.items(), key=lambda item: -item[1])
    named = ", ".join(f"{clean(name)} {number_words(rows)}" for name, rows in found[:most])
    return f"{named} and {len(found) - most} more" if len(found) > most else named


def key_name(by: str) -> str:
    """Return what a key groups by."""
    return TITLES.get(by, clean(by))


def group_name(group: GroupScore | Regression) -> str:
    """Return a group in words: its key, its name and its metric."""
    if group.by == "metric":
        return metric_name(group.metric)
    name = "all rows" if group.by == "all" else f"{key_name(group.by)} {clean(group.name) or 'not stated'}"
    return f"{name}, {metric_name(group.metric)}" if group.metric else name


def label(group: GroupScore) -> str:
    """Return the name of a group inside the table of its key."""
    return metric_name(group.metric) if group.by == "metric" else clean(group.name) or "not stated"


def totals(validation: Validation, by: str) -> list[GroupScore]:
    """Return one score a group of ``by``, over every metric it has, most rows first."""
    found: dict[str, GroupScore] = {}
    for group in validation.groups:
        if group.by == by and (group.metric == "" or group.name not in found):
            found[group.name] = group
    return sorted(found.values(), key=lambda g: -g.rows)


def keys_of(validation: Validation) -> list[str]:
    """Return what the rows are grouped by, in the order they were asked."""
    return [by for by in dict.fromkeys(g.by for g in validation.groups) if by != "all"]


def whole(validation: Validation) -> GroupScore | None:
    """Return the score of all rows."""
    return next((g for g in validation.groups if g.by == "all"), None)


def outside(group: GroupScore) -> bool:
    """Return whether the intervals of a group hold too few or too many of its measurements; small groups are not judged."""
    low, high = OVERALL if group.by == "all" else LARGE_GROUP
    return group.coverage is not None and group.rows >= LARGE and not low <= group.coverage <= high


def headline(validation: Validation) -> str:
    """Return how wrong the predictions are, in a sentence or two."""
    group = whole(validation)
    if group is None or not group.rows:
        return "No row could be predicted."
    sources = len([name for name, rows in validation.sources.items() if rows])
    said = (
        f"Of {count(group.rows, 'measurement')} from {count(sources, 'source')}, half are predicted within "
        f"{share(group.median_error)} and nine in ten within {share(group.p90_error)}."
    )
    if group.coverage is None:
        return said
    return f"{said} {share(validation.level)} intervals hold {share(group.coverage)} of them."


def protocol_words(validation: Validation) -> str:
    """Return the protocol and what it means."""
    return f"{validation.protocol}: {PROTOCOLS[validation.protocol]}"


def count(number: int, noun: str) -> str:
    """Return a number and what is counted.

    Example:
        >>> count(1, "row"), count(10897, "row")
        ('1 row', '10 897 rows')
    """
    return f"{number_words(number)} {noun}{'' if number == 1 else 's'}"


def number_words(number: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,}".replace(",", " ")


@dataclass(frozen=True, slots=True)
class Spot:
    """Where predictions should not be trusted: a sentence, and the groups it speaks of."""

    text: str
    items: tuple[str, ...] = ()


def weak_spots(validation: Validation) -> list[Spot]:
    """Return where the predictions should not be trusted, the gravest first; every sentence carries its number."""
    return [
        *_worse(validation),
        *_uncovered(validation),
        *_worst_groups(validation),
        *_beaten(validation),
        *_unanswered(validation),
    ]


def _worse(validation: Validation) -> list[Spot]:
    found = validation.regressions
    if not found:
        return []
    verb = "is" if len(found) == 1 else "are"
    return [_spot(f"{count(len(found), 'group')} {verb} worse than committed", [regression_words(r) for r in found])]


def _spot(text: str, items: Sequence[str]) -> Spot:
    more = len(items) - NAMED
    return Spot(f"{text}:", (*items[:NAMED], *([f"{count(more, 'more group')}"] if more > 0 else [])))


def regression_words(found: Regression) -> str:
    """Return what got worse: the median error now, as committed, and what noise allows."""
    now = "no answered row any more" if found.now is None else f"{share(found.now)} now"
    return f"{group_name(found)}: {now}, {share(found.committed)} committed, up to {share(found.allowed)} is noise"


def _uncovered(validation: Validation) -> list[Spot]:
    said = []
    group = whole(validation)
    if group is not None and outside(group):
        right = f"{share(OVERALL[0])} to {share(OVERALL[1])} would be right"
        said.append(Spot(f"{share(validation.level)} intervals hold {share(group.coverage)} of all rows; {right}."))
    bad = _distinct([g for g in validation.groups if g.by != "all" and outside(g)])
    bad.sort(key=lambda g: g.coverage if g.coverage is not None else 0.0)
    low, high = ([g for g in bad if ((g.coverage or 0.0) < LARGE_GROUP[0]) == under] for under in (True, False))
    for groups, word in ((low, "too narrow"), (high[::-1], "too wide")):
        if groups:
            named = [f"{group_name(g)}: they hold {share(g.coverage)} of {count(g.rows, 'row')}" for g in groups]
            said.append(_spot(f"Intervals are {word} in {count(len(groups), 'large group')}", named))
    return said


def _worst_groups(validation: Validation) -> list[Spot]:
    asked = _distinct([g for g in validation.groups if g.rows >= JUDGED and g.by != "source" and g.metric])
    asked.sort(key=lambda g: -(g.median_error or 0.0))
    named = tuple(
        f"{group_name(g)}: {share(g.median_error)}, bias {share(g.bias, signed=True)}, {count(g.rows, 'row')}"
        for g in asked[:NAMED]
    )
    return [Spot(f"Largest median errors among groups of {JUDGED} rows and more:", named)] if named else []


def _beaten(validation: Validation) -> list[Spot]:
    said = []
    for name in dict.fromkeys(name for g in validation.groups for name in g.baselines):
        lost = _distinct([g for g in validation.groups if g.rows >= JUDGED and g.metric and beaten_by(g, name)])
        lost.sort(key=lambda g: -g.rows)
        if lost:
            named = [
                f"{group_name(g)}: {share(g.baselines[name])} against our {share(g.median_error)}, {count(g.rows, 'row')}"
                for g in lost
            ]
            said.append(_spot(f"{clean(name)} is nearer in {count(len(lost), 'group')}", named))
    return said


def beaten_by(group: GroupScore, baseline: str) -> bool:
    """Return whether a simpler predictor has the smaller median error on the same rows, by a difference that shows."""
    return group.median_error is not None and group.median_error > group.baselines.get(baseline, math.inf) + 0.005


def _unanswered(validation: Validation) -> list[Spot]:
    said = []
    unread = sum(u.rows for u in validation.unexpressed)
    if unread:
        reasons = [f"{clean(u.reason)}: {number_words(u.rows)}" for u in ranked(validation)]
        said.append(Spot(f"{count(unread, 'row')} of {number_words(validation.rows)} cannot be expressed:", tuple(reasons)))  # fmt: skip
    group = whole(validation)
    if group is not None and group.unanswered:
        said.append(Spot(f"{count(group.unanswered, 'row')} were expressed and not predicted."))
    found = len(validation.contradictions)
    if found:
        said.append(Spot(f"{count(found, 'measurement')} {'contradicts' if found == 1 else 'contradict'} physics."))
    return said


def _distinct(groups: Sequence[GroupScore]) -> list[GroupScore]:
    """Return groups without those that hold the same rows as one before: a source may be one device's only one."""
    seen: dict[tuple[object, ...], GroupScore] = {}
    for group in groups:
        seen.setdefault((group.rows, group.median_error, group.mean_error, group.bias, group.coverage), group)
    return list(seen.values())


def ranked(validation: Validation) -> list[Unread]:
    """Return why rows cannot be expressed, most rows first."""
    return sorted(validation.unexpressed, key=lambda u: -u.rows)


def row_words(row: WorstRow) -> str:
    """Return one row's deployment."""
    return " · ".join(clean(text) for text in (row.device, row.engine, row.model, row.work) if text)


def miss_words(row: WorstRow) -> str:
    """Return what was measured and what was predicted for one row."""
    around = ends(row.metric, row.low, row.high)
    said = f"{measure(row.metric, row.predicted)}{f' ({around})' if around else ''}"
    return f"{metric_name(row.metric)} measured {measure(row.metric, row.measured)}, predicted {said}, {share(row.error, signed=True)}"


def baseline_names(groups: Sequence[GroupScore]) -> list[str]:
    """Return the simpler predictors that any of the groups was compared with."""
    return list(dict.fromkeys(name for group in groups for name in group.baselines))

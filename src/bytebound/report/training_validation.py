"""A training validation in words, for the terminal and as Markdown: errors by publication, fits and out of memory, weak spots."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.documents.training_validation import KINDS, TRAINING_KEYS, TRAINING_PROTOCOLS
from bytebound.report.page import draw, grid, heading, indented, labelled
from bytebound.report.words import clean, moment
from bytebound.units import show_bytes, show_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from bytebound.documents.training_validation import TrainingMiss, TrainingScore, TrainingValidation
    from bytebound.report.page import Page

HEADS = ("rows", "median", "mean", "90 %", "bias", "within 25 %", "coverage")
SHOWN_GROUPS, SHOWN_ROWS = 12, 8
MANY = 10
"""Rows of a group whose figures are worth a warning."""
COVERED = (0.7, 0.9)
"""Shares of measurements inside 80 % intervals that raise no warning."""


def share(value: float, *, signed: bool = False) -> str:
    """Return a share in per cent."""
    digits = 1 if abs(value) < 0.1 else 0
    return f"{value:+.{digits}%}".replace("%", " %") if signed else f"{value:.{digits}%}".replace("%", " %")


def headline(found: TrainingValidation) -> str:
    """Return the whole validation in a sentence or two."""
    said = [
        f"{KINDS[kind]}: half of {score.rows} rows within {share(score.median_error)}, nine in ten within {share(score.p90_error)}"
        for kind, score in totals(found)
    ]
    return "; ".join(said)[:1].upper() + "; ".join(said)[1:] + f". {fits_words(found)}" if said else fits_words(found)


def fits_words(found: TrainingValidation) -> str:
    """Return how often we are right about what fits."""
    o = found.outcomes
    ran, failed = o.ran_said_fits + o.ran_said_oom, o.oom_said_fits + o.oom_said_oom
    if not ran + failed:
        return "No row says whether a run fitted."
    return f"Of {failed} runs that ran out of memory {o.oom_said_fits} are said to fit; of {ran} that fitted {o.ran_said_oom} are said not to."


def totals(found: TrainingValidation) -> Iterator[tuple[str, TrainingScore]]:
    """Yield the score over all rows of each kind."""
    for score in found.groups:
        if score.by == "all":
            yield score.kind, score


def weak_spots(found: TrainingValidation) -> list[str]:
    """Return what to be wary of, the costliest first."""
    spots = [f'false "fits": {clean(name)}' for name in found.outcomes.false_fits]
    spots += [f'false "out of memory": {clean(name)}' for name in found.outcomes.false_oom]
    grouped = [score for score in found.groups if score.by != "all" and score.rows >= MANY]
    for score in sorted(grouped, key=lambda s: -s.median_error)[:5]:
        spots.append(
            f"{_named(score)}: median error {share(score.median_error)}, bias {share(score.bias, signed=True)}, {score.rows} rows"
        )
    for score in grouped:
        if not COVERED[0] <= score.coverage <= COVERED[1] and score.by == "source":
            wrong = "narrow" if score.coverage < COVERED[0] else "wide"
            spots.append(
                f"{_named(score)}: intervals too {wrong}, they hold {share(score.coverage)} of {score.rows} rows"
            )
    return spots


def _named(score: TrainingScore) -> str:
    return f"{KINDS[score.kind]}, {score.by} {clean(score.name)}"


def _about(found: TrainingValidation) -> list[tuple[str, str]]:
    expressed = found.rows - sum(found.unread.values())
    return [
        ("protocol", f"{found.protocol}: {TRAINING_PROTOCOLS[found.protocol]}"),
        ("truth", ", ".join(clean(name) for name in found.truth)),
        ("rows", f"{found.rows} read, {expressed} expressed, {found.repeated} repeat their run's time in another unit"),
        ("fits", fits_words(found)),
        *(
            (("refused", f"{sum(found.refused.values())} rows, for {', '.join(map(clean, found.refused))}"),)
            if found.refused
            else ()
        ),
        ("took", show_time(found.seconds) if found.seconds > 0 else ""),
        *(("note", clean(note)) for note in found.notes),
    ]


def training_validation_text(found: TrainingValidation, page: Page) -> str:
    """Return a validation for a terminal of ``page``'s width."""
    parts: list[RenderableType] = [
        heading(f"training validation · {moment(found.when)} · bytebound {clean(found.version)}"),
        Text(headline(found)), Text(""), labelled([row for row in _about(found) if row[1]], by=0),
    ]  # fmt: skip
    if spots := weak_spots(found):
        parts += [Text(""), heading("weak spots"), *(labelled([("!", spot)]) for spot in spots)]
    for kind, whole in totals(found):
        for by in TRAINING_KEYS:
            groups = [s for s in found.groups if s.kind == kind and s.by == by]
            if groups:
                parts += [Text(""), _scores(f"{KINDS[kind]} by {by}", groups[:SHOWN_GROUPS], whole)]
                if len(groups) > SHOWN_GROUPS:
                    parts.append(indented(f"{len(groups) - SHOWN_GROUPS} more in --json", style="dim"))
    if found.worst:
        parts += [Text(""), heading("furthest off")]
        for miss in found.worst[:SHOWN_ROWS]:
            parts += [indented(miss_words(miss)), *(indented(line, by=4, style="dim") for line in miss_lines(miss))]
    if found.unread:
        parts += [
            Text(""),
            heading("what cannot be expressed"),
            labelled([(str(n), clean(why)) for why, n in found.unread.items()]),
        ]
    return draw(parts, page)


def _scores(title: str, groups: Sequence[TrainingScore], whole: TrainingScore) -> RenderableType:
    rows = [(clean(score.name), *_figures(score)) for score in groups]
    return grid((title, "!"), *((head, "r!") for head in HEADS), rows=[*rows, ("all rows", *_figures(whole))])


def _figures(score: TrainingScore) -> tuple[str, ...]:
    return (
        str(score.rows), share(score.median_error), share(score.mean_error), share(score.p90_error),
        share(score.bias, signed=True), share(score.within_25), share(score.coverage),
    )  # fmt: skip


def miss_words(miss: TrainingMiss) -> str:
    """Return a row that is far off in one line."""
    show = show_time if miss.kind == "step_s" else show_bytes
    return (
        f"{clean(miss.id)}: {clean(miss.model)} on {clean(miss.device)}, {KINDS[miss.kind]} {show(miss.measured)}, "
        f"predicted {show(miss.predicted)} ({share(miss.error, signed=True)})"
    )


def miss_lines(miss: TrainingMiss) -> tuple[str, ...]:
    """Return what stands below it: the plan, what had to be assumed, where it was published."""
    assumed = f"assumed: {'; '.join(map(clean, miss.assumed))}" if miss.assumed else ""
    return tuple(line for line in (clean(miss.work), assumed, clean(miss.locator)) if line)


def training_validation_markdown(found: TrainingValidation) -> str:
    """Return a validation as Markdown. Names that come from outside are escaped, so that none becomes markup."""
    spots = "\n".join(f"- {_safe(spot)}" for spot in weak_spots(found)) or "None found."
    parts = [
        "# How wrong is bytebound about training?",
        f"**Takeaway:** {_safe(headline(found))}",
        f"Made by `bytebound validate --training` {_safe(found.version)} on {_safe(moment(found.when))}.",
        f"## Weak spots\n\n{spots}",
        "\n".join(
            [
                "## How this was made",
                "",
                *(f"- {_safe(name)}: {_safe(text)}" for name, text in _about(found) if text and name != "took"),
            ]
        ),
        confusion(found),
    ]
    for kind, whole in totals(found):
        for by in TRAINING_KEYS:
            groups = [s for s in found.groups if s.kind == kind and s.by == by]
            if groups:
                rows = [(_safe(s.name), *_figures(s)) for s in groups]
                parts.append(
                    f"## {KINDS[kind].capitalize()} by {by}\n\n{table((by, *HEADS), [*rows, ('**all rows**', *_figures(whole))])}"
                )
    lines = [
        f"{n}. {_safe(miss_words(m))}\n   " + "\n   ".join(_safe(x) for x in miss_lines(m))
        for n, m in enumerate(found.worst, 1)
    ]
    parts += ["## The rows furthest off\n\n" + "\n".join(lines)] if lines else []
    if found.unread:
        parts.append(
            "## What cannot be expressed\n\n"
            + table(("because", "rows"), [(_safe(why), str(n)) for why, n in found.unread.items()])
        )
    return "\n\n".join(parts) + "\n"


def confusion(found: TrainingValidation) -> str:
    """Return the table of what fitted beside what we say fits."""
    o = found.outcomes
    rows = [
        ("it fitted", str(o.ran_said_fits), str(o.ran_said_oom)),
        ("it ran out of memory", str(o.oom_said_fits), str(o.oom_said_oom)),
    ]
    return "## Does it fit?\n\n" + table(("measured", "we say it fits", "we say it does not"), rows)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column of words."""
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def _safe(text: object) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", clean(text))

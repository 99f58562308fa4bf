"""A watched training run in the terminal: what it held and took, category by category, beside what we predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.documents.trace import CATEGORIES
from bytebound.documents.watched import PARTS
from bytebound.report.observed import spread_words
from bytebound.report.page import draw, grid, heading, labelled
from bytebound.report.validation_words import count
from bytebound.report.words import clean, interval, moment, quantity, tokens_rate
from bytebound.units import show_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from bytebound.documents.trace import Held
    from bytebound.documents.watched import Watched, WatchedPrediction, WatchedRank
    from bytebound.report.page import Page

FILL = dict(zip(CATEGORIES, "█▓▒░·", strict=True))
PLAIN_FILL = dict(zip(CATEGORIES, "#%=-.", strict=True))
"""One sign for each category, so that the bar reads without colour."""
BAR = 60
SHOWN_RANKS = 8
NEGLIGIBLE = 1e-3
"""Share of the whole below which a part's difference is shown in bytes."""


def watched_text(watched: Watched, page: Page) -> str:
    """Return a watched run for a terminal of ``page``'s width."""
    rank = watched.fullest
    if rank is None:
        return draw([heading("watched"), Text(headline(watched)), *_remarks(watched)], page)
    parts: list[RenderableType] = [heading(title_of(rank)), Text(headline(watched))]
    if rank.peak is not None:
        parts += [
            Text(""),
            _table(rank.peak.held, rank.peak.phase, watched.predictions),
            Text(""),
            *_bars(rank.peak.held, watched.predictions, page),
        ]
    return draw([*parts, Text(""), _facts(watched, rank), *_remarks(watched)], page)


def title_of(rank: WatchedRank) -> str:
    """Return what was trained, how and on what, in one line."""
    model = rank.model
    precision = ""
    if model is not None:
        widths = model.trainable | {name: count for name, count in model.frozen.items() if name not in model.trainable}
        precision = ", ".join(widths) + (f", autocast {rank.autocast}" if rank.autocast else "")
    optimizer = " and ".join(f"{o.name}{f' ({o.kernel})' if o.kernel else ''}" for o in rank.optimizers)
    words = (
        "watched" if model is None else f"watched {model.name}, {model.parameters:,.0f} parameters", optimizer, precision,
        rank.device_name or rank.device, f"{rank.world} processes" if rank.world > 1 else "",
    )  # fmt: skip
    return " · ".join(clean(word) for word in words if word)


def headline(watched: Watched) -> str:
    """Return the answer in one or two sentences: the peak, how far the best prediction was off, and the step."""
    rank = watched.fullest
    said = [f"{clean(watched.why).capitalize()}."] if watched.why else []
    if rank is None:
        return " ".join([*said, f"Nothing was recorded: {clean(watched.missing.get('steps', 'no step was taken'))}."])
    if rank.peak is not None:
        held = rank.peak.held
        peak = f"A step held {quantity(held.total, 'B')} at its fullest, in {rank.peak.phase}"
        first = next(iter(watched.predictions), None)
        off = None if first is None else first.error(held, "total")
        if first is not None and off is not None:
            peak += f"; predicted {quantity(first.held.total, 'B')} by {words_of(first.how)} ({off_words(off)})"
        said.append(f"{peak}.")
    if rank.timed is not None:
        said.append(f"It took {show_time(rank.timed.median)}.")
    return " ".join(said)


def words_of(how: str) -> str:
    """Return how a prediction was made, in words."""
    return {"trace": "the trace", "formulas": "the formulas"}.get(how, clean(how))


def off_words(error: float | None) -> str:
    """Return how far a prediction was off: signed, with a digit after the point where it is small.

    Example:
        >>> off_words(0.0), off_words(-0.0123), off_words(0.42), off_words(None)
        ('exact', '−1.2 %', '+42 %', '–')
    """
    if error is None:
        return "–"
    if error == 0:
        return "exact"
    size = 100 * abs(error)
    shown = "under 0.1" if size < 0.1 else f"{size:.1f}" if size < 10 else f"{size:,.0f}"
    return f"{'+' if error > 0 else '−'}{shown} %"


def beside_words(held: Held, prediction: WatchedPrediction, part: str) -> str:
    """Return how far a prediction of one part was off: a share, or bytes where next to nothing was measured."""
    seen, said = getattr(held, part), getattr(prediction.held, part)
    if seen < NEGLIGIBLE * held.total and seen != said:
        return f"{'+' if said > seen else '−'}{quantity(abs(said - seen), 'B')}"
    return off_words(prediction.error(held, part))


def _table(held: Held, phase: str, predictions: Sequence[WatchedPrediction]) -> RenderableType:
    """Return each category measured and predicted, with the difference."""
    columns = [("at the peak", "!"), ("measured", "r!")]
    for prediction in predictions:
        columns += [(prediction.how, "r!"), ("off", "r!")]
    rows = []
    for part in PARTS:
        row = [part, quantity(getattr(held, part), "B")]
        for prediction in predictions:
            row += [quantity(getattr(prediction.held, part), "B"), beside_words(held, prediction, part)]
        rows.append(row)
    if any(prediction.phase and prediction.phase != phase for prediction in predictions):
        sides = (side for prediction in predictions for side in (prediction.phase, ""))
        rows.append(["in", phase, *map(clean, sides)])
    return grid(*columns, rows=rows, indent=2)


def _bars(held: Held, predictions: Sequence[WatchedPrediction], page: Page) -> list[RenderableType]:
    """Return one stacked bar for what was measured and for each prediction, on one scale."""
    sides = [("measured", held), *((prediction.how, prediction.held) for prediction in predictions)]
    most = max(side.total for _, side in sides)
    if most <= 0:
        return []
    fill = PLAIN_FILL if page.ascii else FILL
    width = min(BAR, page.width - 24)
    rows = []
    for name, side in sides:
        ends, sofar = [], 0.0
        for category in CATEGORIES:
            sofar += getattr(side, category)
            ends.append(round(sofar / most * width))
        starts = [0, *ends[:-1]]
        bar = "".join(
            fill[category] * (end - start) for category, start, end in zip(CATEGORIES, starts, ends, strict=True)
        )
        rows.append((clean(name), f"{bar} {quantity(side.total, 'B')}"))
    legend = "  ".join(f"{sign} {category}" for category, sign in fill.items())
    return [labelled([*rows, ("", legend)])]


def _facts(watched: Watched, rank: WatchedRank) -> RenderableType:
    states = rank.states
    between = ""
    if states is not None and states.total > 0:
        parts = ((name, getattr(states, name)) for name in ("parameters", "gradients", "optimizer"))
        between = ", ".join(f"{name} {quantity(value, 'B')}" for name, value in parts)
    rows = [
        ("step", _step_words(watched, rank)),
        ("throughput", _throughput(rank)),
        ("between steps", between),
        ("allocator", _allocator(rank)),
        ("resident", f"{quantity(rank.rss_bytes, 'B')} at most, the whole process"),
        ("fed", _fed(rank)),
        ("request", _request(watched)),
        ("steps", f"{rank.steps} in {show_time(watched.seconds)}"),
    ]
    others = [other for other in watched.ranks if other is not rank][:SHOWN_RANKS]
    rows += [(f"rank {other.rank}", _other(other)) for other in others]
    more = len(watched.ranks) - 1 - len(others)
    rows += [("", f"{more} more processes in --json")] if more > 0 else []
    rows.append(("record", f"{clean(watched.id)}, {moment(watched.when)}"))
    return labelled([row for row in rows if row[1]], by=0)


def _step_words(watched: Watched, rank: WatchedRank) -> str:
    if rank.timed is None:
        return f"not timed: {count(rank.steps, 'step')} cannot leave out warm-up and the closely seen ones"
    said = spread_words(rank.timed)
    predicted = next((p.step_s for p in watched.predictions if p.step_s is not None), None)
    if predicted is None:
        return said
    off = off_words(float(predicted.value) / rank.timed.median - 1)
    return f"{said}; predicted {interval(predicted, show_time)}, {off}"


def _throughput(rank: WatchedRank) -> str:
    if rank.timed is None or not rank.samples:
        return ""
    samples = f"{rank.samples / rank.timed.median:,.3g} samples/s"
    said = f"{tokens_rate(rank.tokens / rank.timed.median)}, {samples}" if rank.tokens else samples
    return f"{said} in each process" if rank.world > 1 else said


def _allocator(rank: WatchedRank) -> str:
    if rank.max_allocated_bytes is None:
        return ""
    other = (
        ""
        if rank.peak is None or not rank.peak.other_bytes
        else f"; {quantity(rank.peak.other_bytes, 'B')} else at the peak"
    )
    return f"{quantity(rank.max_allocated_bytes, 'B')} allocated, {quantity(rank.max_reserved_bytes, 'B')} reserved at most{other}"


def _fed(rank: WatchedRank) -> str:
    shapes = ", ".join(
        f"{clean(name)} {'×'.join(str(size) for size in shape[:-1])} {shape[-1]}" for name, shape in rank.inputs.items()
    )
    passes = f", {rank.microbatches:g} micro-batches a step" if rank.microbatches > 1 else ""
    return f"{shapes}{passes}" if shapes else ""


def _request(watched: Watched) -> str:
    work = watched.request
    if work is None:
        return ""
    names = (
        "seq",
        "micro_batch",
        "global_batch",
        "dp",
        "zero",
        "precision",
        "optimizer",
        "optimizer_kernel",
        "recompute",
        "trainable",
    )
    return " ".join(f"--{name.replace('_', '-')} {_short(work[name])}" for name in names if name in work)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else clean(value)


def _other(rank: WatchedRank) -> str:
    peak = f"{quantity(rank.peak.held.total, 'B')} at its fullest" if rank.peak is not None else "no peak seen"
    return f"{rank.steps} steps, {peak}, {spread_words(rank.timed)}"


def _remarks(watched: Watched) -> list[RenderableType]:
    notes = [*watched.notes, *(note for prediction in watched.predictions for note in prediction.notes)]
    rows = [("note", clean(note)) for note in dict.fromkeys(notes)]
    shown = {key: why for key, why in watched.missing.items() if key != "steps"}
    rows += [(f"no {clean(key)}", clean(why)) for key, why in shown.items()]
    return [labelled(rows, by=0)] if rows else []

"""Proofs in words: the table of predicted against measured, for a terminal and for a page of the documentation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.text import Text

from bytebound.documents.proof import TOLERANCE
from bytebound.report.page import draw, grid, heading, indented, labelled, table_text
from bytebound.report.words import clean, moment, percent, quantity, times
from bytebound.units import show_bytes, show_time, significant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bytebound.documents.observation import Spread
    from bytebound.documents.proof import Compared, Proof, ProofErrors, Proofs, Provable, Provables, Quality
    from bytebound.report.page import Page

METRICS = {
    "decode": "decode", "prefill": "prefill", "request": "request", "step": "training step", "memory": "memory",
    "kv_memory": "KV cache", "bytes": "weight bytes",
}  # fmt: skip
BYTES = frozenset({"memory", "kv_memory", "bytes"})
MARKS = {"confirmed": "✓", "refuted": "✗", "inconclusive": "–"}
STYLES = {"confirmed": "green", "refuted": "red", "inconclusive": "dim"}
HEADS = (
    "lever",
    "engine",
    "model",
    "metric",
    "before",
    "after",
    "measured",
    "predicted",
    "error",
    "verdict",
    "quality",
)
NUMBERS = frozenset({"before", "after", "measured", "predicted", "error"})
EFFECTS = {
    "helps": "helps", "no-effect": "no effect", "hurts": "hurts", "saves-memory": "saves memory",
}  # fmt: skip
CANARY_UNITS = {".fma": "FLOP/s", ".clock": "Hz"}
CLOSING = f"ratios are after over before, so under ×1 is faster or smaller; measured with its 90 % interval; within {percent(TOLERANCE)} confirms"


def proof_text(proof: Proof, page: Page) -> str:
    """Return one proof in full."""
    known: list[tuple[str, str]] = [
        ("verdict", f"{MARKS[proof.verdict]} {proof.verdict}; {EFFECTS[proof.effect]}"),
        ("before", settings_words(proof.before)),
        ("after", settings_words(proof.after)),
        *([("quality", quality_words(proof.quality))] if proof.quality else []),
        ("ran", f"{proof.rounds} interleaved rounds in {show_time(proof.seconds)}, {percent(proof.disturbed)} of turns disturbed"),
        *[("canary", f"{clean(name)} {rate_words(name, rate)}") for name, rate in proof.canaries.items()],
    ]  # fmt: skip
    rows = [
        [METRICS.get(c.metric, clean(c.metric)), value(c, c.before), value(c, c.after), measured(c), predicted(c), error(c), clean(c.how)]
        for c in proof.compared
    ]  # fmt: skip
    columns = [
        ("", "!"),
        ("before", "r!"),
        ("after", "r!"),
        ("measured", "r!"),
        ("predicted", "r!"),
        ("error", "r!"),
        ("how", "w"),
    ]
    sources = [f"{clean(item.what)}: {clean(item.source)}" for item in proof.provenance]
    parts: list[RenderableType] = [
        heading(title(proof)), Text(clean(proof.sentence), style=STYLES[proof.verdict]), Text(""),
        grid(*columns, rows=rows, indent=2), Text(""), labelled(known),
        *[indented(clean(note), style="dim") for note in (*proof.notes, *(proof.quality.notes if proof.quality else ()))],
        *[indented(clean(text), style="red") for text in proof.errors],
        *([Text(""), Text("predicted from", style="bold"), *[indented(text) for text in sources]] if sources else []),
        Text(""), Text(CLOSING, style="dim"),
    ]  # fmt: skip
    return draw(parts, page)


def proofs_text(ledger: Proofs, page: Page) -> str:
    """Return the ledger as a table, then what could not be proven."""
    rows: list[list[str | Text]] = []
    for proof in ledger.proofs:
        for nth, c in enumerate(proof.compared):
            first = [Text(clean(proof.lever), style="bold"), clean(proof.engine)] if nth == 0 else ["", ""]
            verdict: str | Text = (
                Text(f"{MARKS[proof.verdict]} {EFFECTS[proof.effect]}", style=STYLES[proof.verdict]) if nth == 0 else ""
            )
            rows.append(
                [*first, METRICS.get(c.metric, clean(c.metric)), measured(c), predicted_value(c), error(c), verdict]
            )
    columns = [
        ("lever", "!"),
        ("engine", ""),
        ("metric", "!"),
        ("measured", "r!"),
        ("predicted", "r!"),
        ("error", "r!"),
        ("verdict", "!"),
    ]
    parts: list[RenderableType] = [
        heading(f"{headline(ledger)} on {clean(ledger.machine)}"), Text(""), grid(*columns, rows=rows, indent=2), Text(""),
        *[indented(f"{clean(u.lever)} on {clean(u.engine)} not proven: {clean(u.reason)}", style="dim") for u in ledger.unproven],
        *[indented(clean(note)) for note in ledger.notes], Text(CLOSING, style="dim"),
    ]  # fmt: skip
    return draw(parts, page)


def proof_errors_text(found: ProofErrors, page: Page) -> str:
    """Return how wrong the predictions of proofs were, by engine and metric."""
    return table_text(
        title=f"{found.proofs} conclusive proofs kept here, {found.left_out} hidden by noise and left out",
        columns=[("engine", "!"), ("metric", "!"), ("ratios", "r!"), ("median error", "r!"), ("within 15 %", "r!"), ("range held", "r!")],
        rows=[
            (row.engine, METRICS.get(row.metric, clean(row.metric)), str(row.compared), percent(row.median_error), percent(row.within), percent(row.coverage))
            for row in found.rows
        ],
        page=page, note="bytebound prove --kept shows each of them",
    )  # fmt: skip


def provables_text(trials: Provables, page: Page) -> str:
    """Return what can be proven here, and what the rest needs."""
    ready = sum(trial.ready for trial in trials.trials)
    return table_text(
        title=f"{ready} of {len(trials.trials)} trials can run here",
        columns=[("lever", "!"), ("engine", "!"), ("here", "w")],
        rows=[(trial.lever, trial.engine, _state(trial)) for trial in trials.trials],
        page=page, note="bytebound prove LEVER, or bytebound prove --all",
    )  # fmt: skip


def proofs_markdown(ledger: Proofs) -> str:
    """Return the ledger as a page of the documentation; names from outside are escaped."""
    cells = [[_safe(cell) for cell in row] for proof in ledger.proofs for row in table_rows(proof)]
    rule = ["---:" if head in NUMBERS else "---" for head in HEADS]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (HEADS, rule, *cells))
    sentences = "\n".join(
        f"- **{_safe(proof.lever)}** ({_safe(proof.engine)}): {_safe(proof.sentence)}." for proof in ledger.proofs
    )
    left = "\n".join(f"- {_safe(u.lever)} on {_safe(u.engine)}: {_safe(u.reason)}" for u in ledger.unproven)
    versions = ", ".join(dict.fromkeys(_safe(f"{proof.engine} ({proof.engine_version})") for proof in ledger.proofs))
    parts = [
        "# Levers proven on a real machine",
        f"**Takeaway:** {_safe(headline(ledger))}.",
        f"Made by `bytebound prove` on {_safe(ledger.machine)}, {_safe(moment(ledger.when))}. Engines: {versions or 'none'}.",
        f"Each lever is applied to a model on a real engine, before and after, in turns. {_safe(CLOSING[0].upper() + CLOSING[1:])}.",
        table if cells else "Nothing was proven.",
        _qualities(ledger),
        f"## In words\n\n{sentences}" if sentences else "",
        f"## Not proven here\n\n{left}" if left else "",
        "\n".join(_safe(note) for note in ledger.notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _qualities(ledger: Proofs) -> str:
    """Return on which model and text the quality was judged, which may not be the proof's own model."""
    found = [proof.quality for proof in ledger.proofs if proof.quality is not None]
    lines = dict.fromkeys(
        f"Quality is of {_safe(q.model)} on {q.tokens} tokens of {_safe(q.text)}"
        + "".join(f"; {_safe(note)}" for note in q.notes[:1])
        + "."
        for q in found
    )
    return "\n".join(lines)


def table_rows(proof: Proof) -> list[tuple[str, ...]]:
    """Return a row for each metric, as ``HEADS`` says; what is the same for all is in the first."""
    rows: list[tuple[str, ...]] = []
    for nth, c in enumerate(proof.compared):
        lead = (proof.lever, proof.engine, proof.model) if nth == 0 else ("", "", "")
        tail = (f"{proof.verdict}, {EFFECTS[proof.effect]}", quality_short(proof.quality)) if nth == 0 else ("", "")
        name = METRICS.get(c.metric, c.metric)
        rows.append(
            (*lead, name, value(c, c.before), value(c, c.after), measured(c), predicted_value(c), error(c), *tail)
        )
    return rows


def title(proof: Proof) -> str:
    """Return lever, engine, model and machine."""
    weights = "" if proof.real_weights else " (random weights)"
    words = (proof.lever, f"{proof.engine} {proof.engine_version}", f"{proof.model}{weights}", f"on {proof.machine}")
    return " · ".join(clean(word) for word in words)


def headline(ledger: Proofs) -> str:
    """Return how many levers did as predicted."""
    held = sum(proof.verdict == "confirmed" for proof in ledger.proofs)
    wrong = sum(proof.verdict == "refuted" for proof in ledger.proofs)
    unsure = len(ledger.proofs) - held - wrong
    words = [f"{held} of {len(ledger.proofs)} proofs came out as predicted within {percent(TOLERANCE)}"]
    words += [f"{wrong} did not"] if wrong else []
    words += [f"{unsure} were too noisy to tell"] if unsure else []
    return ", ".join(words)


def value(c: Compared, spread: Spread) -> str:
    """Return a median as time or bytes."""
    return show_bytes(spread.median) if c.metric in BYTES else show_time(spread.median)


def measured(c: Compared) -> str:
    """Return the measured ratio with its interval; one number where nothing varies."""
    low, high = float(c.measured.low), float(c.measured.high)
    return times(float(c.measured.value)) + (f" ({low:.2f}–{high:.2f})" if high - low > 0.005 else "")


def predicted_value(c: Compared) -> str:
    """Return the predicted ratio."""
    return "–" if c.predicted is None else times(float(c.predicted.value))


def predicted(c: Compared) -> str:
    """Return the predicted ratio with its interval."""
    if c.predicted is None:
        return "–"
    return f"{predicted_value(c)} ({float(c.predicted.low):.2f}–{float(c.predicted.high):.2f})"


def error(c: Compared) -> str:
    """Return how far the prediction was off."""
    return "–" if c.error is None else percent(c.error, signed=True)


def quality_words(q: Quality) -> str:
    """Return quality in a sentence."""
    said = f"perplexity {q.perplexity_before:.3f} to {q.perplexity_after:.3f}"
    said += "" if q.kl_divergence is None else f", KL divergence {significant(q.kl_divergence)} nats per token"
    said += "" if q.top_agreement is None else f", same top token {100 * q.top_agreement:.1f} %"
    return f"{said}; {clean(q.model)} on {q.tokens} tokens of {clean(q.text)}"


def quality_short(q: Quality | None) -> str:
    """Return quality in a cell."""
    if q is None:
        return "–"
    kl = "" if q.kl_divergence is None else f", KL {significant(q.kl_divergence, 2)}"
    top = "" if q.top_agreement is None else f", top {100 * q.top_agreement:.0f} %"
    return f"PPL {q.perplexity_before:.2f} to {q.perplexity_after:.2f}{kl}{top}"


def settings_words(settings: dict[str, float | str]) -> str:
    """Return settings as words."""
    return (
        ", ".join(f"{clean(name)} {clean(f'{v:g}' if isinstance(v, float) else v)}" for name, v in settings.items())
        or "as it is"
    )


def rate_words(name: str, rate: Spread) -> str:
    """Return a canary's median with its range."""
    unit = next((unit for end, unit in CANARY_UNITS.items() if name.endswith(end)), "B/s")
    low, high = sorted((rate.p10, rate.p90))
    return f"{quantity(rate.median, unit)} (10–90 %: {quantity(low, unit)} to {quantity(high, unit)})"


def _state(trial: Provable) -> str:
    if trial.ready:
        return "✓ can run"
    return f"✗ {trial.reason}" + (f": {trial.mend}" if trial.mend else "")


def _safe(text: object) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", clean(text))

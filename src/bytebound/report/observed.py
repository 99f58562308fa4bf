"""What is drawn from an observed run, for the terminal and the page alike: the verdict in words, phases, operators."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bytebound.report.readings import called, plain_number
from bytebound.report.validation_words import count
from bytebound.report.words import clean, first, interval, matrix_unit, percent, quantity, span_of, tokens_rate
from bytebound.units import show_time, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bytebound.documents.observation import Observation, ObservedPhase, OperatorRun, Spread

GRADES = {
    "bound": "a limit, not a forecast",
    "scaled": "scaled by efficiencies seen elsewhere",
    "calibrated": "calibrated here with a small model",
    "corrected": "corrected by a run of this deployment",
}
"""How a prediction was made -> what it is worth."""
VERDICTS = {
    "weight-bandwidth": "waits for weights to come from memory",
    "kv-bandwidth": "waits for the KV cache to come from memory",
    "activation-bandwidth": "waits for activations to come from memory",
    "compute": "is held by arithmetic",
    "overhead": "is held by overhead, not by memory or arithmetic",
    "scale-up-link": "waits for the links inside the node",
    "scale-out-link": "waits for the network",
    "host-link": "waits for the link to the host",
    "capacity": "does not fit in memory",
    "cache": "is served partly by the caches",
}


def grade_words(grade: str) -> str:
    """Return how a prediction was made and what that is worth.

    Example:
        >>> grade_words("bound"), grade_words("calibrated")
        ('bound: a limit, not a forecast', 'calibrated here with a small model')
    """
    known, words = clean(grade), GRADES.get(grade, "")
    return words if words.startswith(known) else f"{known}: {words}" if words else known


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """One operator of a step, or the sum of the ``count`` that are not shown alone: seconds, share, rates."""

    name: str
    kind: str
    calls: float
    seconds: float
    share: float
    intensity: float
    bytes_per_s: float
    flop_per_s: float
    roof: float
    shapes: str = ""
    count: int = 1

    @property
    def of_roof(self) -> float:
        """Share of what the roofs allow at this intensity; NaN where nothing was counted."""
        return ratio(self.flop_per_s, self.roof)


def ratio(part: float, whole: float) -> float:
    """Return ``part`` over ``whole``, NaN where that says nothing."""
    return part / whole if whole > 0 and math.isfinite(part) and math.isfinite(whole) else math.nan


def verdict_words(verdict: str) -> str:
    """Return what a verdict means, after the name of a phase.

    Example:
        >>> verdict_words("compute"), verdict_words("mixed (compute, overhead)")
        ('is held by arithmetic', 'is held by a mix of compute and overhead')
    """
    known = clean(verdict)
    if known.startswith("mixed (") and known.endswith(")"):
        return f"is held by a mix of {known[7:-1].replace(', ', ' and ')}"
    return VERDICTS.get(known, f"is held by {known}" if known else "has no verdict")


def headline(observation: Observation) -> str:
    """Return the verdict in one or two sentences: what holds the main phase, its MBU, predicted and observed."""
    phase = next((p for p in observation.phases if p.name == "decode"), next(iter(observation.phases), None))
    if phase is None:
        failed = clean(observation.run.errors[0]) if observation.run.errors else "no phase was observed"
        return f"Nothing to judge: {failed}."
    ceiling = observation.memory_bytes_per_s
    name = clean(phase.name).capitalize()
    moved = (
        f"{quantity(phase.bytes_per_s, 'B/s')}, {percent(phase.mbu)} of the measured {quantity(ceiling, 'B/s')}"
        if math.isfinite(phase.mbu)
        else "bytes not counted"
    )
    return f"{name} {verdict_words(phase.verdict)}: {moved}. {forecast(phase)}".strip()


def forecast(phase: ObservedPhase) -> str:
    """Return predicted against observed in a sentence; empty where nothing was predicted."""
    seen = show_time(phase.seconds.median)
    if phase.predicted_s is None or not math.isfinite(first(phase.predicted_s.value)):
        return f"A step took {seen}."
    said = show_time(first(phase.predicted_s.value))
    off = "" if phase.error is None else f" ({percent(phase.error, signed=True)})"
    if phase.grade == "bound":
        return f"A step took {seen}; the limit is {said}{off}, {GRADES['bound']}."
    how = grade_words(phase.grade)
    return (
        f"A step took {seen}; predicted {said}{off}, {how}." if how else f"A step took {seen}; predicted {said}{off}."
    )


def phase_name(phase: ObservedPhase) -> str:
    """Return a phase with its batch and context."""
    return f"{clean(phase.name)}, batch {value_words(phase.batch)}, context {value_words(phase.context)}"


def spread_words(spread: Spread | None, show: Callable[[float], str] = show_time) -> str:
    """Return ``median (10–90 %), best, samples``."""
    if spread is None:
        return "–"
    ends, middle = interval_words(spread, show), show(spread.median)
    around = "" if ends == middle else f" ({ends})"
    return f"{middle}{around}, best {show(spread.best)}, {count(spread.samples, 'sample')}"


def interval_words(spread: Spread, show: Callable[[float], str] = show_time) -> str:
    """Return the 10–90 % range of a spread."""
    low, high = show(spread.p10), show(spread.p90)
    unit = high.rpartition(" ")[2]
    return f"{low.removesuffix(f' {unit}')}–{high}" if low != high else low


def predicted_words(phase: ObservedPhase) -> str:
    """Return the predicted time with its interval."""
    return interval(phase.predicted_s, show_time)


def error_words(phase: ObservedPhase) -> str:
    """Return how far the prediction was off, signed."""
    return "–" if phase.error is None else percent(phase.error, signed=True)


def share_words(measured: float, datasheet: float | None) -> str:
    """Return a share of the measured ceiling and, in brackets, of the printed one."""
    printed = "" if datasheet is None or not math.isfinite(datasheet) else f" ({percent(datasheet)} of the printed)"
    return ("under 1 %" if 0 < measured < 0.005 else percent(measured)) + printed


def answers(observation: Observation) -> list[tuple[str, str]]:
    """Return TTFT, TPOT and throughput as a label and a spread, where known."""
    asked: list[tuple[str, Spread | None, Callable[[float], str]]] = [
        ("TTFT", observation.ttft_s, show_time),
        ("TPOT", observation.tpot_s, show_time),
        ("output", observation.tokens_per_s, tokens_rate),
    ]
    return [(name, spread_words(spread, show)) for name, spread, show in asked if spread is not None]


def operators(phase: ObservedPhase, observation: Observation, most: int) -> list[OperatorRow]:
    """Return the ``most`` operators that take longest; the last row sums the others."""
    ranked = sorted(phase.operators, key=lambda o: -o.seconds if math.isfinite(o.seconds) else math.inf)
    whole = sum(o.seconds for o in ranked if math.isfinite(o.seconds))
    rows = [_row(o.name, o.kind, [o], whole, observation) for o in ranked[:most]]
    rest = ranked[most:]
    return [*rows, _row(f"{len(rest)} others", "other", rest, whole, observation)] if rest else rows


def _row(name: str, kind: str, parts: Sequence[OperatorRun], whole: float, observation: Observation) -> OperatorRow:
    calls, seconds, flops, moved = (
        sum(value for value in values if math.isfinite(value))
        for values in zip(*((o.calls, o.seconds, o.flops, o.bytes) for o in parts), strict=True)
    )
    intensity = ratio(flops, moved)
    return OperatorRow(
        name=clean(name),
        kind=clean(kind),
        calls=calls,
        seconds=seconds,
        share=ratio(seconds, whole),
        intensity=intensity,
        bytes_per_s=ratio(moved, seconds) if moved else math.nan,
        flop_per_s=ratio(flops, seconds) if flops else math.nan,
        roof=roof_at(intensity, observation),
        shapes=clean(parts[0].shapes) if len(parts) == 1 else "",
        count=len(parts),
    )


def roof_at(intensity: float, observation: Observation) -> float:
    """Return the rate [FLOP/s] that memory and the fastest floating-point type allow at ``intensity``."""
    rates = observation.flop_per_s
    top = max((rates[name] for name in rates if matrix_unit(name) == "FLOP/s"), default=math.inf)
    return min(top, intensity * observation.memory_bytes_per_s)


def settings_words(values: Mapping[str, float | str]) -> str:
    """Return settings as ``name value``, joined by dots."""
    return " · ".join(f"{clean(name).replace('_', ' ')} {value_words(value)}" for name, value in values.items())


def value_words(value: float | str) -> str:
    """Return a setting's value: text cleaned, a number without needless digits."""
    if isinstance(value, str):
        return clean(value)
    return plain_number(value) if math.isfinite(value) else "–"


def canaries(observation: Observation) -> str:
    """Return what probes between the steps saw, in words."""
    units = {"memory": "B/s", "matrix": "FLOP/s"}
    parts = []
    for name, spread in observation.run.canaries.items():
        unit = "Hz" if name == "canary.clock" else units.get(name.partition(".")[0], "FLOP/s")
        ends = span_of(spread.p10, spread.p90, unit)
        parts.append(f"{called(name)} {quantity(spread.median, unit)} ({ends})")
    return ", ".join(parts)


def requests_words(observation: Observation) -> str:
    """Return how many requests were sent and how many failed; empty where there were none."""
    sent = observation.run.requests
    if not sent:
        return ""
    failed = [clean(r.error) for r in sent if r.error]
    if not failed:
        return f"{len(sent)} sent, none failed"
    kinds = dict.fromkeys(failed)
    return f"{len(sent)} sent, {len(failed)} failed: {'; '.join(list(kinds)[:3])}{'; …' if len(kinds) > 3 else ''}"


def remarks(observation: Observation) -> list[tuple[str, str]]:
    """Return what a reader must know before trusting the run: errors, disturbance, notes, what is unknown."""
    run = observation.run
    rows = [("error", clean(text)) for text in run.errors]
    if run.disturbed > 0.005:
        rows.append(
            ("disturbed", f"others used the processor during {significant(100 * run.disturbed, 2)} % of the samples")
        )
    rows += [("note", clean(text)) for text in dict.fromkeys((*observation.notes, *run.notes))]
    return rows + [("unknown", f"{clean(key)}: {clean(why)}") for key, why in observation.missing.items()]

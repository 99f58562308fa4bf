"""An observed run as one page: the verdict, the roofline with its operators, and the record behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.report import observed
from bytebound.report.html import page_html
from bytebound.report.observation_charts import forecast_chart, observed_roofline, requests_chart, share_chart
from bytebound.report.words import clean, glued, matrix_rate, moment, percent, quantity
from bytebound.units import show_time, significant

if TYPE_CHECKING:
    from bytebound.documents.device import Device
    from bytebound.documents.observation import Observation, ObservedPhase

DOUBTS = ("error", "disturbed")
LISTED, PHASES, METRICS = 30, 60, 200
"""Operators a phase, phases, and server metrics listed; all are in the JSON document."""


def observation_html(observation: Observation, device: Device | None = None) -> str:
    """Return an observation as one self-contained page; ``device`` adds the roofs of its caches."""
    roofline = observed_roofline(observation, device) if observation.phases else None
    others = [forecast_chart(observation), share_chart(observation), requests_chart(observation)]
    others = [chart for chart in others if chart.rows]
    run, remarks = observation.run, observed.remarks(observation)
    phases = observation.phases[:PHASES]
    return page_html(
        "observation.html.j2",
        title=f"{clean(observation.model)} observed on {clean(observation.machine)}",
        charts=[*([roofline] if roofline else []), *others],
        observation=observation,
        run=run,
        sentence=glued(observed.headline(observation)),
        meta=_meta(observation),
        tiles=_tiles(observation),
        roofline=roofline,
        others=others,
        phases=[_row(place, phase) for place, phase in enumerate(phases)],
        profiled=[
            (f"{place + 1} {observed.phase_name(phase)}", _operators(phase, observation))
            for place, phase in enumerate(phases)
            if phase.operators
        ],
        answers=observed.answers(observation),
        lists=_lists(observation),
        doubts=[text for kind, text in remarks if kind in DOUBTS],
        remarks=[pair for pair in remarks if pair[0] not in DOUBTS],
        metrics=[(clean(name), observed.value_words(value)) for name, value in list(run.metrics.items())[:METRICS]],
        when=moment(run.when),
        listed=LISTED,
    )


def _meta(observation: Observation) -> str:
    run = observation.run
    words = [
        f"{clean(run.engine)} {clean(run.engine_version)}".strip(),
        moment(observation.when),
        f"{show_time(run.seconds)} of running" if run.seconds > 0 else "",
        f"ceilings of {clean(observation.measurement)}",
    ]
    return " · ".join(word for word in words if word)


def _tiles(observation: Observation) -> list[tuple[str, str, str]]:
    tiles = []
    for phase in observation.phases[:3]:
        name = clean(phase.name)
        tiles.append(
            (
                f"{name}, MBU",
                observed.share_words(phase.mbu, None),
                f"{quantity(phase.bytes_per_s, 'B/s')} of measured memory",
            )
        )
        if phase.predicted_s is not None:
            worth = observed.grade_words(phase.grade)
            tiles.append((f"{name}, predicted against observed", observed.error_words(phase), worth))
    for name, text in observed.answers(observation):
        value, _, rest = text.replace(" (", ", ", 1).replace("), ", ", ", 1).partition(", ")
        tiles.append((name, value, rest))
    return tiles


def _row(place: int, phase: ObservedPhase) -> dict[str, str]:
    return {
        "name": f"{place + 1} {observed.phase_name(phase)}",
        "tokens": f"{observed.value_words(phase.tokens)} new token{'' if phase.tokens == 1 else 's'} a step",
        "median": show_time(phase.seconds.median),
        "spread": f"{observed.interval_words(phase.seconds)}, best {show_time(phase.seconds.best)}, {phase.seconds.samples} samples",
        "bytes": quantity(phase.bytes_per_s, "B/s"),
        "mbu": observed.share_words(phase.mbu, None),
        "mbu_sheet": "" if phase.mbu_datasheet is None else f"{percent(phase.mbu_datasheet)} of the printed",
        "flop": quantity(phase.flop_per_s, "FLOP/s"),
        "mfu": observed.share_words(phase.mfu, None),
        "mfu_sheet": "" if phase.mfu_datasheet is None else f"{percent(phase.mfu_datasheet)} of the printed",
        "intensity": significant(phase.intensity),
        "verdict": clean(phase.verdict),
        "why": clean(phase.sentence),
        "predicted": observed.predicted_words(phase),
        "error": observed.error_words(phase),
        "grade": observed.grade_words(phase.grade),
    }


def _operators(phase: ObservedPhase, observation: Observation) -> list[tuple[str, ...]]:
    """Name, shapes, kind, then calls, time, share, FLOP/B, bytes/s, FLOP/s and share of its roof."""
    return [
        (
            row.name,
            row.shapes,
            row.kind,
            observed.value_words(row.calls),
            show_time(row.seconds),
            percent(row.share),
            significant(row.intensity),
            quantity(row.bytes_per_s, "B/s"),
            quantity(row.flop_per_s, "FLOP/s"),
            percent(row.of_roof),
        )
        for row in observed.operators(phase, observation, LISTED)
    ]


def _lists(observation: Observation) -> list[tuple[str, str]]:
    """How the run was made: requests, load, settings and what probes saw meanwhile."""
    run = observation.run
    rows = [
        ("requests", observed.requests_words(observation)),
        ("load", observed.settings_words(run.load)),
        ("settings", observed.settings_words(run.settings)),
        ("meanwhile", observed.canaries(observation)),
        ("measured ceilings", _ceilings(observation)),
    ]
    return [row for row in rows if row[1]]


def _ceilings(observation: Observation) -> str:
    rates = [f"{clean(name)} {matrix_rate(name, rate)}" for name, rate in observation.flop_per_s.items()]
    return ", ".join([f"memory {quantity(observation.memory_bytes_per_s, 'B/s')}", *rates])

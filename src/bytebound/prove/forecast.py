"""Predict a llama.cpp trial before it runs: calibration probes of small models, and the ledger.

Both sides are calibrated together, probe by probe, so that one state of the machine is in both. The probes never include the
trial's own model; the ledger lays their costs on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.device import Figure, Machine
from bytebound.documents.values import Interval, Provenance
from bytebound.errors import UnfinishedError
from bytebound.observe.calibrate import Asked, calibrate_together
from bytebound.predict.calibrated import calibrated
from bytebound.predict.estimate import settle
from bytebound.prove.trial import Forecast
from bytebound.units import show_bytes, show_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bytebound.documents.architecture import Architecture
    from bytebound.documents.calibration import Calibration
    from bytebound.documents.work import Serve

ENGINE = "llama.cpp"
PROBE_ROUNDS, PROBE_S = 24, 10.0
NO_CEILING = 1e16
"""Rates so high that no floor touches a calibrated prediction: what the probes took is the measurement."""
EXACT = 0.01
"""Relative half-width of a ratio of bytes that are counted, not estimated: alignment and metadata."""


@dataclass(frozen=True, slots=True)
class Case:
    """One side as the ledger sees it: the model in a weight format, and the work (depth is ``work.prompt``)."""

    model: Architecture
    weights: str
    work: Serve
    flash: str = "on"
    kv: str = "fp16"
    passes: tuple[int, ...] = ()  # of several tokens, to probe

    @property
    def asked(self) -> Asked:
        """What to probe for this side."""
        return Asked(self.model, self.weights, self.flash, self.kv, int(np.max(self.work.prompt)), self.passes)


@dataclass(frozen=True, slots=True)
class Predicted:
    """A side's numbers by the names of ``predict.answers.columns``, and how far its times may be out (a factor)."""

    columns: Mapping[str, float]
    decode_factor: float
    prefill_factor: float
    calibration: Calibration
    case: Case = field(repr=False)


def predicted(
    cases: tuple[Case, ...], machine: Machine, threads: int, say: Callable[[str], None]
) -> tuple[Predicted, ...]:
    """Return each side's numbers, from probes taken in turn.

    Raises:
        ByteboundError: see ``calibrate_together``; noise, twice in a row.
    """
    asked = tuple(case.asked for case in cases)
    try:
        found = calibrate_together(asked, threads=threads, rounds=PROBE_ROUNDS, budget_s=PROBE_S, on_progress=say)
    except UnfinishedError as noise:  # a neighbour may have been busy for these seconds alone
        say(f"probing again: {noise.message}")
        found = calibrate_together(asked, threads=threads, rounds=PROBE_ROUNDS, budget_s=PROBE_S, on_progress=say)
    return tuple(answered(case, calibration, machine) for case, calibration in zip(cases, found, strict=True))


def answered(case: Case, calibration: Calibration, machine: Machine) -> Predicted:
    """Return the ledger's numbers for ``case`` with these costs."""
    setting = calibrated(settle(case.model, without_ceilings(machine), ENGINE), calibration, case.weights)
    work = replace(
        case.work, engine=ENGINE, weights=case.weights, kv=case.kv,
        attention="eager" if case.flash == "off" else "flash",
    )  # fmt: skip
    columns = {name: float(np.ravel(value)[0]) for name, value in setting.answer(work).items()}
    return Predicted(columns, setting.evidence.tpot_spread, setting.evidence.ttft_spread, calibration, case)


def without_ceilings(machine: Machine) -> Machine:
    """Return ``machine`` with rates that bound nothing."""

    def none(unit: str) -> Figure:
        return Figure(value=NO_CEILING, unit=unit, how="assumed", source="no ceiling: only calibrated costs count here")

    device = machine.device.model_copy(
        update={
            "memory_bytes_per_s": none("B/s"),
            "flop_per_s": {name: none("FLOP/s") for name in ("fp32", "bf16", "int8", *machine.device.flop_per_s)},
        }
    )
    return machine.model_copy(update={"device": device})


def timed(
    before: Predicted, after: Predicted, name: str, *, per: tuple[float, float] = (1.0, 1.0), how: str = "calibrated"
) -> Forecast:
    """Return the forecast of a time, ``name`` of both sides per unit of work."""
    factor = max(
        getattr(side, "prefill_factor" if name.startswith("prefill") else "decode_factor") for side in (before, after)
    )
    seconds = before.columns[name] / per[0], after.columns[name] / per[1]
    value = seconds[1] / seconds[0]
    said = Provenance(
        f"{name}: {show_time(seconds[0])} before, {show_time(seconds[1])} after",
        "calibrated",
        "the ledger with these costs",
    )
    return Forecast(Interval(value, value / factor, value * factor), how, (said, *provenance(before, after)))


def counted(before: Predicted, after: Predicted, *names: str, copies: tuple[float, float] = (0.0, 0.0)) -> Forecast:
    """Return the forecast of bytes, the sum of ``names`` of both sides and ``copies`` that the engine makes of weights."""
    sides = [
        sum(side.columns[name] for name in names) + more for side, more in zip((before, after), copies, strict=True)
    ]
    value = sides[1] / sides[0]
    source = Provenance(
        f"{' + '.join(names)}: {show_bytes(sides[0])} before, {show_bytes(sides[1])} after",
        "derived",
        "the ledger: formats and shapes alone",
    )
    return Forecast(Interval(value, value * (1 - EXACT), value * (1 + EXACT)), "formula", (source,))


def provenance(*sides: Predicted) -> tuple[Provenance, ...]:
    """Return where calibrated costs come from."""
    return tuple(
        Provenance(
            f"costs of {ENGINE} at {formats_of(side.calibration)} weights, {side.case.kv} KV, flash attention {side.case.flash}",
            "calibrated",
            f"calibration {side.calibration.id} of small models here, {side.calibration.when}, spread ±{100 * side.calibration.spread:.0f} %",
        )
        for side in sides
    )


def formats_of(calibration: Calibration) -> str:
    """Return the weight formats that were probed."""
    return ", ".join(dict.fromkeys(cost.weights for cost in calibration.formats))

"""Refit everything from measured rows: offsets on all of them, intervals on predictions that had not seen their row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bytebound.documents.refitted import LeftOut
from bytebound.facts.devices import devices
from bytebound.facts.intervals import CLOCKS
from bytebound.fitting.fit import as_offsets, contradicts, design, fit, seconds
from bytebound.fitting.intervals import KINDS, fit_terms, widen
from bytebound.ledger.table import compile_table, model_kind
from bytebound.models import read_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.truth import Truth
    from bytebound.facts.calibration import Key, Offset
    from bytebound.facts.intervals import Term
    from bytebound.fitting.fit import Design
    from bytebound.ledger.table import OpTable

    Array = NDArray[np.float64]
    Names = NDArray[np.str_]

LEFT_OUT = {"model": "shape", "device": "device", "engine": "engine", "family": "family"}
"""What is left out, one at a time -> the column that says which rows belong together."""


@dataclass(frozen=True, slots=True)
class Refit:
    """What a refit gives: offsets, interval terms, and the predictions behind the intervals.

    ``design`` and ``usable`` are of the rows; ``left_out`` holds, per name of ``LEFT_OUT``, ln(measured / predicted seconds)
    of predictions by fits that had seen none of the rows with the same value, (cases,).
    """

    design: Design
    usable: NDArray[np.bool_]
    offsets: Mapping[Key, Offset]
    terms: Mapping[Term, tuple[float, int]]
    left_out: Mapping[str, Array]

    @property
    def beyond(self) -> int:
        """Rows measured beyond physics."""
        return int(contradicts(self.design).sum())


def errors_left_out(found: Refit, rows: Sequence[Truth]) -> tuple[LeftOut, ...]:
    """Return the errors of the predictions that had not seen their rows, by what was left out and clock."""
    clock = columns_of(rows)["clock"][found.design.rows]
    out = []
    for what, ratio in found.left_out.items():
        for name in np.unique(clock):
            here = (clock == name) & found.usable & np.isfinite(ratio)
            if here.any():
                error = np.abs(np.exp(-ratio[here]) - 1)
                median, high = (float(np.quantile(error, q)) for q in (0.5, 0.9))
                out.append(LeftOut(what, str(name), int(here.sum()), median, high))
    return tuple(out)


def shape_of(table: OpTable) -> str:
    """Return a name for a model's shape, whatever its weights are stored as: layers, width and weights."""
    p = table.products
    total = float((p.repeat * p.copies * p.elements).sum())
    return f"{table.layers:g} layers of {table.hidden:g}, {total:.4g} weights"


def columns_of(rows: Sequence[Truth]) -> dict[str, Names]:
    """Return source, device, family, engine, model, shape, kind, metric, regime and clock of rows, each (rows,).

    ``shape`` is the same for models that differ in nothing but their weights and how they are stored (DeepSeek-V3 and R1, a
    checkpoint and its FP8 twin): leaving a model out leaves all of them out.
    """
    kinds: dict[str, str] = {}
    shapes: dict[str, str] = {}
    for row in rows:
        if row.model not in kinds:
            table = compile_table(read_model(row.model))
            kinds[row.model], shapes[row.model] = model_kind(table), shape_of(table)
    families = {d: devices()[d].family for d in {row.device for row in rows}}
    return {
        "source": np.array([r.source for r in rows]), "device": np.array([r.device for r in rows]),
        "family": np.array([families[r.device] for r in rows]), "engine": np.array([r.engine for r in rows]),
        "model": np.array([r.model for r in rows]), "shape": np.array([shapes[r.model] for r in rows]), "kind": np.array([kinds[r.model] for r in rows]),
        "metric": np.array([r.metric for r in rows]), "regime": np.array([r.regime for r in rows]),
        "clock": np.array([CLOCKS.get(r.metric, r.metric) for r in rows]),
    }  # fmt: skip


def deployments(columns: Mapping[str, Names]) -> NDArray[np.int64]:
    """Return which (source, device, engine, model) each row is of, (rows,)."""
    parts = np.stack([columns[name] for name in ("source", "device", "engine", "model")])
    return np.asarray(np.unique(parts, axis=1, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def log_ratio(d: Design, offsets: Array) -> Array:
    """Return ln(measured / predicted) of the seconds behind every metric, (cases,)."""
    sign = np.where(d.is_rate, -1.0, 1.0)
    return np.asarray(sign * np.log(d.measured / seconds(d, offsets)[1]))


def leave_out(
    d: Design, groups: Names, usable: NDArray[np.bool_], *, only: set[str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Array:  # fmt: skip
    """Return ln(measured / predicted) by fits that saw no row of the same group, (cases,).

    Groups are left out by folds first, from nothing; each group's own fit starts from its fold's, which had not seen it
    either. A fit that started from one that saw everything would stop near it, and know what it must not.

    Args:
        d: all rows.
        groups: the group of each case.
        usable: rows a fit may see.
        only: groups that are asked for; None: all.
        tell: progress.
    """
    out = np.full(len(d.measured), np.nan)
    names = [str(n) for n in np.unique(groups) if only is None or str(n) in only]
    folds = (
        [names[k::LEFT_TOGETHER] for k in range(LEFT_TOGETHER)]
        if len(names) > 2 * LEFT_TOGETHER
        else [[n] for n in names]
    )
    done = 0
    for fold in folds:
        begun = fit(d, usable & ~np.isin(groups, fold))[0]
        for name in fold:
            done += 1
            tell(f"leaving out {name} ({done} of {len(names)})")
            here = groups == name
            offsets = begun if len(fold) == 1 else fit(d, usable & ~here, start=begun)[0]
            out[here] = log_ratio(d, offsets)[here]
    return out


LEFT_TOGETHER = 8
"""Folds that many groups are dealt to, to start from."""


def refit(rows: Sequence[Truth], *, source: str, date: str, tell: Callable[[str], None] = lambda _: None) -> Refit:
    """Return offsets and interval terms from measured rows.

    Args:
        rows: measured rows; those beyond physics, or that do not fit in memory, are left aside.
        source: written beside every fitted number.
        date: the same.
        tell: progress.

    Raises:
        UnfinishedError: the fit does not settle or leaves what is physical.
        RequestError: no row can be predicted.
    """
    d = design(rows)
    usable = (d.weight > 0) & ~contradicts(d)
    tell(f"fitting {int(usable.sum())} rows")
    offsets, sd = fit(d, usable)
    columns = {name: values[d.rows] for name, values in columns_of(rows).items()}
    left_out = {name: leave_out(d, columns[by], usable, tell=tell) for name, by in LEFT_OUT.items()}
    near = left_out["model"]
    scored = usable & np.isfinite(near)
    parts = {kind: columns[kind][scored] for kind in KINDS}
    terms = fit_terms(columns["clock"][scored], parts, near[scored], deployments(columns)[scored])
    clocks = columns["clock"][usable]
    for what in ("device", "engine", "family"):
        terms |= widen(clocks, near[usable], left_out[what][usable], what)
    for what in ("device", "engine", "family"):
        names, counts = np.unique(columns[what][usable], return_counts=True)
        terms |= {("seen", what, str(name)): (1.0, int(count)) for name, count in zip(names, counts, strict=True)}
    return Refit(d, usable, as_offsets(d, offsets, sd, source=source, date=date, use=usable), terms, left_out)

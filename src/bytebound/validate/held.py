"""Predictions of the measured metrics that are no times: KV tokens, resident bytes, weights, energy per token.

Rows of one model, device, engine and version go through the memory model together. Intervals are the measured residuals
of ``facts.memory_spreads``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.documents.work import Serve
from bytebound.errors import ByteboundError
from bytebound.facts.memory_spreads import half_width
from bytebound.facts.reserves import find_reserve
from bytebound.fitting.cases import VARYING, groups
from bytebound.ledger.request import lay_out
from bytebound.predict.attained import era_of
from bytebound.predict.columns import columns
from bytebound.predict.energy import energy_j
from bytebound.predict.estimate import settle
from bytebound.predict.prediction import reside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bytebound.documents.truth import Truth
    from bytebound.facts.calibration import Key, Offset
    from bytebound.fitting.cases import Group
    from bytebound.predict.estimate import Setting
    from bytebound.predict.prediction import Residence

    Array = NDArray[Any]

STORED = ("kv_tokens", "resident_bytes", "weights_bytes")
"""Metrics of what lies in memory."""
HELD = (*STORED, "joules_per_token")
"""Metrics answered here; ``fitting.cases.TIMED`` are the others."""
ALLOCATED = frozenset({"qwen_speed_benchmark", "autoawq"})
"""Sources that print what PyTorch allocated: the context of the device is not in their figures."""


def held(
    rows: Sequence[Truth], fitted: Mapping[Key, Offset] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return (predicted, low, high), each (rows,) in the unit of the row's metric; low to high holds 80 % of such rows.

    NaN where the metric is a time or a rate, a name of the row is not understood, its work does not fit the device, or the
    power of the device is not known.

    Args:
        rows: measured rows of any metric.
        fitted: offsets of shares and times to use; None: the shipped ones. Only energy depends on them.

    Example:
        >>> from bytebound.truth import shipped_truth
        >>> rows = [row for row in shipped_truth() if row.metric == "kv_tokens"]
        >>> predicted, low, high = held(rows)
        >>> bool((low <= predicted).all() and (predicted <= high).all())
        True
    """
    predicted = np.full(len(rows), np.nan)
    for members in _alike(rows).values():
        predicted[members] = _stored([rows[i] for i in members])
    # the passes and the sequences that run at once are those of the run's rate
    energetic = np.array([i for i, row in enumerate(rows) if row.metric == "joules_per_token"], dtype=np.int64)
    timed = [replace(rows[i], metric="tokens_per_s") for i in energetic]
    for group in groups(timed, fitted):
        predicted[energetic[group.rows]] = _joules(group, [timed[i] for i in group.rows])
    predicted[predicted <= 0] = np.nan
    spread = np.exp([half_width(row.metric, row.engine) if row.metric in HELD else np.nan for row in rows])
    return predicted, predicted / spread, predicted * spread


def state(row: Truth) -> dict[str, str]:
    """Return what a row's notes say of the engine before their first semicolon: share, max_seqs, max_len, half."""
    return dict(re.findall(r"(\w+)=([\w.]+)", row.notes.split("; ")[0]))


def setting_of(row: Truth, context_bytes: float | None = None, devices: int | None = None) -> Setting:
    """Return the deployment of ``row``, at the share of memory it states.

    Args:
        row: a measured row.
        context_bytes: what the engine keeps beside weights, activations and cache [B]; None: our figure for its version.
        devices: of the machine; None: those of the row.

    Raises:
        UnknownNameError, DocumentError: a name of the row is not understood.
    """
    found = settle(row.model, f"{devices or row.devices}x {row.device}", row.engine, version=row.engine_version,
                   era=era_of(row.date, row.engine_version))  # fmt: skip
    overheads = found.overheads
    share = _share(row)
    if share:
        overheads = replace(overheads, memory_share=share)
    if context_bytes is not None:
        overheads = replace(overheads, reserve_bytes=context_bytes)
    return replace(found, overheads=overheads)


def resides(rows: Sequence[Truth], setting: Setting) -> Residence:
    """Return what is resident on one device, (rows,), for rows that may differ in ``VARYING`` quantities alone."""
    request = lay_out(setting.table, _together(rows), dtype=setting.architecture.dtype, engine_chunk=setting.chunk,
                      profiled=_profiled(rows[0], setting))  # fmt: skip
    return reside(setting.table, request, setting.ceilings, setting.overheads)


def total_bytes(rows: Sequence[Truth], found: Residence) -> Array:
    """Return resident bytes of all devices, (rows,), as the source of each row counts them."""
    context = np.where([row.source in ALLOCATED for row in rows], 0.0, found.reserve)
    devices = np.array([np.max(row.work.tp) * np.max(row.work.pp) * np.max(row.work.dp) for row in rows], dtype=float)
    return np.asarray((found.weights + found.kv + found.activations + context) * devices)


def _share(row: Truth) -> float:
    return float(state(row).get("share", row.load.memory_share))


def _profiled(row: Truth, setting: Setting) -> int:
    """Return the sequences of the start-up pass: as many as the row says the engine was told to run, else its default."""
    kept = find_reserve(row.engine, row.engine_version)
    return int(state(row).get("max_seqs", setting.profiled)) if kept.sequences else 0


def _together(rows: Sequence[Truth], **given: Any) -> Serve:
    """Return the requests of ``rows`` as one with arrays where they differ; ``given`` quantities replace theirs."""
    stacked = {name: [getattr(row.work, name) for row in rows] for name in VARYING if name not in given}
    same: dict[str, Any] = {
        name: values[0] if len(set(values)) == 1 else np.array(values) for name, values in stacked.items()
    }
    return replace(rows[0].work, **same, **given)


def _alike(rows: Sequence[Truth]) -> dict[tuple[Any, ...], list[int]]:
    """Return the indices of rows about memory by what they must share to be answered together."""
    fixed = [f.name for f in fields(Serve) if f.name not in VARYING]
    found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.metric in STORED:
            key = (
                row.metric,
                row.model,
                row.device,
                row.engine,
                row.engine_version,
                _share(row),
                state(row).get("max_seqs"),
            )
            found[(*key, *(getattr(row.work, name) for name in fixed))].append(index)
    return found


def _stored(rows: list[Truth]) -> Array:
    """Return the metric of alike rows, (rows,); NaN where a name is not understood."""
    try:
        setting = setting_of(rows[0], devices=max(row.devices for row in rows))
    except ByteboundError:
        return np.full(len(rows), np.nan)
    if rows[0].metric == "weights_bytes":
        alone = [replace(row, work=replace(row.work, tp=1, pp=1, ep=1, dp=1)) for row in rows]
        return np.asarray(resides(alone, setting).weights)
    found = resides(rows, setting)
    return np.asarray(found.max_kv_tokens) if rows[0].metric == "kv_tokens" else total_bytes(rows, found)


def _joules(group: Group, rows: list[Truth]) -> Array:
    """Return joules per output token of a group at the sequences it runs at once, (rows,); NaN where they do not fit."""
    setting = group.setting
    prediction = setting.run(_together(rows, batch=group.batch))
    named = columns(prediction, setting.ceilings) | {"tokens_per_s": prediction.tokens_per_s}
    devices = np.array([row.devices for row in rows], dtype=float)
    joules = energy_j(setting.machine.device, named, devices)
    return np.where(group.fits, np.nan if joules is None else joules, np.nan)

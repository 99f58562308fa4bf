"""Fit every group of kernel rows, pool the fits by device family, and predict each system from the others."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bytebound.errors import RequestError, UnfinishedError
from bytebound.facts.catalogue import built_in
from bytebound.fitting.kernels import EXPONENTS, WARM, Fit, fit_kernels, kernel_loads, usable
from bytebound.truth.kernels import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from bytebound.fitting.kernels import Loads
    from bytebound.truth.kernels import Kernels

    Floats = NDArray[np.float64]

CALIBRATION = frozenset({"a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm"})
"""Systems whose rows may set a parameter; the others only test what these say."""
COLLECTIVES = frozenset({"all-reduce", "collective"})
LEAST_ROWS = 200
"""Rows a group needs to be fitted; collectives need fewer, their two terms being plain."""
POOR = 0.3
"""A fit that misses by more than this in the median describes no kernel and joins no pool."""
EAGER = "eager"
"""Part of the name of kernels launched from Python, timed with their launch."""
HOST_S = 5e-5
"""No kernel has so long a floor: its launch from the host was timed. A mixture-of-experts layer is a handful of kernels."""
HOST_LAYER_S = 2e-4
PARAMETERS = ("floor_s", "bandwidth_share", "compute_share")


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one kernel on one system: ``fit``, or why there is none (``failure``); ``loads`` and ``seconds`` of all its rows."""

    operator: str
    system: str
    family: str
    engine: str
    kernel: str
    dtype: str
    storage: str
    label: str
    devices: int
    loads: Loads
    seconds: Floats
    fit: Fit | None
    failure: str = ""

    @property
    def kept(self) -> NDArray[np.bool_]:
        """The rows a fit uses: those not served from cache."""
        return self.loads.uncached(self.seconds, strict=self.operator in WARM)

    @property
    def calibrates(self) -> bool:
        """Whether the fit may set a parameter."""
        return (
            self.system in CALIBRATION
            and self.fit is not None
            and self.fit.median_error < POOR
            and EAGER not in self.kernel
            and self.fit.floor_s < (HOST_LAYER_S if self.operator == "moe" else HOST_S)
        )

    @property
    def question(self) -> tuple[str, str, str, str, int]:
        """What must be equal for a parameter to be borrowed: operator, dtypes, label and number of devices."""
        return self.operator, self.dtype, self.storage, self.label, self.devices


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the proposal: a quantity of a system's kernel, of a family, or a system predicted from others.

    ``scope`` is system, family or borrowed; ``split`` calibration or test; errors are absolute log residuals.
    """

    scope: str
    split: str
    system: str
    family: str
    operator: str
    dtype: str
    storage: str
    label: str
    devices: int
    engine: str
    kernel: str
    quantity: str
    value: float
    low: float | None
    high: float | None
    median_error: float | None
    p90_error: float | None
    rows: int
    source: str


def fit_groups(kernels: Kernels) -> tuple[Group, ...]:
    """Return the groups of one operator's rows that are large enough, each with its fit or the reason it has none."""
    chosen = kernels.where(np.flatnonzero(usable(kernels)))
    least = 20 if kernels.operator in COLLECTIVES else LEAST_ROWS
    found = []
    for key, part in chosen.groups("system", "engine", "kernel", "dtype", "storage", "label"):
        for devices, rows in _by_devices(part):
            if len(rows) >= least:
                found.append(_group(key, devices, rows))
    return tuple(found)


def _by_devices(kernels: Kernels) -> Iterable[tuple[int, Kernels]]:
    if kernels.operator not in COLLECTIVES:
        return [(1, kernels)]
    counts = np.unique(kernels.shape["devices"])
    return [(int(count), kernels.where(np.flatnonzero(kernels.shape["devices"] == count))) for count in counts]


def _group(key: tuple[str, ...], devices: int, rows: Kernels) -> Group:
    system, engine, kernel, dtype, storage, label = key
    loads = kernel_loads(rows)
    kept = loads.uncached(rows.seconds, strict=rows.operator in WARM)
    reduces = rows.operator == "all-reduce" or label == "all_reduce"
    most = 2 * (devices - 1) / devices if reduces else 1.0
    fit, failure = None, ""
    try:
        fit = fit_kernels(
            loads.where(kept), rows.seconds[kept], exponent=EXPONENTS[rows.operator], most_share=max(most, 1.0)
        )
    except (RequestError, UnfinishedError) as error:
        failure = error.message
    family = built_in().device(SYSTEMS[system]).family
    where = (rows.operator, system, family, engine, kernel, dtype, storage, label, devices)
    return Group(*where, loads, rows.seconds, fit, failure)


def pooled(groups: Sequence[Group]) -> Fit:
    """Return one fit for groups of the same question: medians of their parameters, ranges over all of theirs.

    Raises:
        RequestError: none of the groups may set a parameter.
    """
    fits = [group.fit for group in groups if group.fit is not None and group.calibrates]
    if not fits:
        raise RequestError("no kernel fit to pool", mend="give rows of a calibration system")
    known = {name: [fit for fit in fits if getattr(fit, name) is not None] for name in PARAMETERS}
    middle = {
        name: float(np.median([getattr(fit, name) for fit in some])) if some else None for name, some in known.items()
    }
    ranges = {name: (_edge(some, name, 0, 0.1), _edge(some, name, 1, 0.9)) for name, some in known.items() if some}
    return Fit(
        floor_s=middle["floor_s"] or 0.0,
        bandwidth_share=middle["bandwidth_share"],
        compute_share=middle["compute_share"],
        exponent=fits[0].exponent,
        ranges=ranges,
        median_error=float(np.median([fit.median_error for fit in fits])),
        p90_error=float(np.median([fit.p90_error for fit in fits])),
        rows=sum(fit.rows for fit in fits),
    )


def borrowed(group: Group, groups: Sequence[Group]) -> tuple[Fit, str] | None:
    """Return what other systems say of ``group``, and which: its family and engine first, then its family, engine, anything.

    None where no other calibration system answers the same question.
    """
    others = [
        other
        for other in groups
        if other.question == group.question and other.system != group.system and other.calibrates
    ]
    for same in (("family", "engine"), ("family",), ("engine",), ()):
        donors = [other for other in others if all(getattr(other, name) == getattr(group, name) for name in same)]
        if donors:
            names = ", ".join(sorted({donor.system for donor in donors}))
            return pooled(donors), f"{names} ({' and '.join(same) or 'any'})"
    return None


def kernel_lines(groups: Sequence[Group], source: str) -> tuple[Line, ...]:
    """Return the proposal: each system's fits, each family's pools over its engines and by engine, each borrowed prediction.

    Args:
        groups: of one operator.
        source: publication and version the rows came from.
    """
    lines: list[Line] = []
    pools: defaultdict[tuple[object, ...], list[Group]] = defaultdict(list)
    for group in groups:
        if group.fit is not None:
            lines += _fitted(_line(group, "system", source), group.fit)
        if group.calibrates:
            pools[(group.family, *group.question, "")].append(group)
            pools[(group.family, *group.question, group.engine)].append(group)
        if group.fit is not None and EAGER not in group.kernel and (found := borrowed(group, groups)) is not None:
            fit, origin = found
            errors = np.abs(fit.errors(group.loads, group.seconds)[group.kept])
            lines.append(_missed(_line(group, "borrowed", source), origin, errors))
    for key, members in pools.items():
        line = replace(_line(members[0], "family", source), engine=str(key[-1]), kernel=f"{len(members)} kernels")
        lines += _fitted(line, pooled(members))
    return tuple(lines)


def _edge(fits: Sequence[Fit], name: str, side: int, at: float) -> float:
    own = [fit.ranges[name][side] if name in fit.ranges else getattr(fit, name) for fit in fits]
    return float(np.quantile(own, at))


def _line(group: Group, scope: str, source: str) -> Line:
    return Line(
        scope=scope,
        split="calibration" if group.system in CALIBRATION else "test",
        system="" if scope == "family" else group.system,
        family=group.family,
        operator=group.operator,
        dtype=group.dtype,
        storage=group.storage,
        label=group.label,
        devices=group.devices,
        engine=group.engine,
        kernel=group.kernel,
        quantity="error",
        value=0.0,
        low=None,
        high=None,
        median_error=None,
        p90_error=None,
        rows=0,
        source=source,
    )


def _fitted(line: Line, fit: Fit) -> list[Line]:
    shared = replace(line, median_error=fit.median_error, p90_error=fit.p90_error, rows=fit.rows)
    lines = []
    for name in PARAMETERS:
        if (value := getattr(fit, name)) is not None:
            low, high = fit.ranges.get(name, (None, None))
            lines.append(replace(shared, quantity=name, value=value, low=low, high=high))
    return lines


def _missed(line: Line, origin: str, errors: Floats) -> Line:
    median, p90 = float(np.median(errors)), float(np.quantile(errors, 0.9))
    kernel = f"{line.kernel}; from {origin}"
    return replace(line, kernel=kernel, value=median, median_error=median, p90_error=p90, rows=len(errors))

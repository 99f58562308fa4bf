"""Committed figures: which groups got worse than what was committed, by more than noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bytebound.documents.validation import Baseline, CommittedScore, Regression
from bytebound.documents.values import from_json
from bytebound.errors import DocumentError
from bytebound.facts.tables import read_bounded

if TYPE_CHECKING:
    from pathlib import Path

    from bytebound.documents.validation import Validation

LIMIT_BYTES = 2**24  # 10,000 groups are 2 MiB
SLACK = 0.005
"""Median error [1] that is never called worse: half of the last digit the report prints."""


def baseline_of(validation: Validation) -> Baseline:
    """Return the figures of a validation that later ones are compared with."""
    groups = tuple(
        CommittedScore(g.by, g.name, g.metric, g.rows, g.median_error, g.noise_high)
        for g in validation.groups
        if g.median_error is not None and g.noise_high is not None
    )
    return Baseline(validation.when, validation.version, validation.protocol, groups)


def read_baseline(path: Path) -> Baseline:
    """Return the committed figures in ``path``.

    Raises:
        DocumentError: missing, too large, not JSON, or not committed figures.
    """
    return from_json(Baseline, read_bounded(path, LIMIT_BYTES), place=str(path))


def regressions(validation: Validation, committed: Baseline, *, place: str = "--baseline") -> tuple[Regression, ...]:
    """Return the groups whose median error exceeds the committed one by more than its noise, the furthest first.

    A committed group that has no answered row any more is worse too: what is not answered must not look better.
    Groups by keys that this validation was not asked for are not compared.

    Raises:
        DocumentError: the figures were committed under another protocol.
    """
    if committed.protocol != validation.protocol:
        raise DocumentError(
            f"these figures are of protocol {committed.protocol}, and this run is {validation.protocol}",
            place=place,
            mend=f"run with --protocol {committed.protocol}, or compare with figures of {validation.protocol}",
        )
    now = {(g.by, g.name, g.metric): g for g in validation.groups}
    asked = {g.by for g in validation.groups} | ({"all"} if committed.groups else set())
    found = []
    for then in committed.groups:
        if then.by not in asked:
            continue
        group = now.get((then.by, then.name, then.metric))
        error, rows = (None, 0) if group is None else (group.median_error, group.rows)
        allowed = max(then.noise_high, then.median_error + SLACK)
        if error is None or error > allowed:
            found.append(
                Regression(then.by, then.name, then.metric, then.median_error, allowed, error, then.rows, rows)
            )
    return tuple(sorted(found, key=lambda r: (r.now is not None, r.allowed - (r.now or 0.0))))

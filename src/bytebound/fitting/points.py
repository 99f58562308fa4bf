"""From a run on record, or rows of a truth file, to the measured points a correction is drawn from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bytebound.engines.summary import succeeded, tpot_s, ttft_s
from bytebound.errors import RequestError
from bytebound.fitting.one_run import Point
from bytebound.predict.parts import RATES, TIMES, Z80

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bytebound.documents.observation import PhaseRun, Run, Spread
    from bytebound.documents.truth import Truth
    from bytebound.documents.work import Serve

CENTRAL = ("mean", "median", "")
"""Statistics a correction can be drawn from; tails say more of the load than of the costs."""


def points_of_run(run: Run, work: Serve) -> tuple[Point, ...]:
    """Return what a run measured: TPOT and TTFT of a server's requests, or the steps of a local engine.

    Args:
        run: the record of ``bytebound observe``.
        work: formats, parallel degrees and attention of the run; batch and lengths come from the record.

    Raises:
        RequestError: nothing was measured, or requests came by the clock (an open loop has no batch).
    """
    if run.requests:
        return _of_requests(run, work)
    points = tuple(_of_phase(phase, run, work) for phase in run.phases if phase.name in {"decode", "prefill"})
    if not points:
        raise RequestError(
            f"the run {run.id} measured no step", place="--from", mend="observe it again, with a larger --budget"
        )
    return points


def _of_requests(run: Run, work: Serve) -> tuple[Point, ...]:
    good = succeeded(run.requests)
    step, first = tpot_s(good), ttft_s(good)
    if step is None or first is None:
        raise RequestError(
            f"no request of the run {run.id} was answered to the end", place="--from", mend="observe it again"
        )
    if run.load.get("loop") == "open":
        raise RequestError(
            f"the run {run.id} sent requests by the clock, so its batch is not known", place="--from",
            mend="observe with --batch and no --rate",
        )  # fmt: skip
    prompt, output = (float(np.mean([getattr(one, f"{name}_tokens") for one in good])) for name in ("prompt", "output"))
    batch = float(run.load.get("concurrency", 1.0))
    asked = replace(work, batch=min(batch, float(len(good))), prompt=max(prompt, 1.0), output=max(output, 1.0))
    source = f"run {run.id}, {len(good)} requests"
    return (
        Point("tpot_s", step.median, asked, source, _noise(step)),
        Point("ttft_s", first.median, asked, source, _noise(first)),
    )


def _of_phase(phase: PhaseRun, run: Run, work: Serve) -> Point:
    """Return a repeated step: decoding at a depth, or one pass over prompts."""
    batch, seconds = max(phase.batch, 1.0), phase.seconds.median
    source = f"run {run.id}, {phase.seconds.samples} samples"
    if phase.name == "decode":
        asked = replace(work, batch=batch, prompt=max(phase.context, 1.0), output=1, scheduling="static")
        return Point("tpot_s", seconds, asked, source, _noise(phase.seconds))
    asked = replace(work, batch=batch, prompt=max(phase.tokens / batch, 1.0), output=1, scheduling="static")
    return Point("prefill_tokens_per_s", phase.tokens / seconds, asked, source, _noise(phase.seconds))


def _noise(seen: Spread) -> float:
    """Return the relative standard error of a median, from the 10 to 90 % width of its samples."""
    return float((seen.p90 - seen.p10) / (2 * Z80) / seen.median / np.sqrt(max(seen.samples, 1)))


def points_of_truth(rows: Sequence[Truth]) -> tuple[Point, ...]:
    """Return rows of a truth file as points of one deployment.

    Raises:
        RequestError: rows of several models, devices or engines, a metric no time stands behind, or a tail statistic.
    """
    for name in ("model", "device", "engine"):
        found = sorted({getattr(row, name) for row in rows})
        if len(found) > 1:
            raise RequestError(
                f"the rows are of {len(found)} values of {name} ({', '.join(found[:3])})", place="--from",
                mend="give rows of one deployment",
            )  # fmt: skip
    for row in rows:
        if row.metric not in TIMES + RATES or row.statistic not in CENTRAL:
            what = row.metric if row.metric not in TIMES + RATES else f"the {row.statistic} of {row.metric}"
            raise RequestError(
                f"row {row.id} is {what}; a correction needs a mean or median time or rate", place="--from",
                mend="leave the row out",
            )  # fmt: skip
    return tuple(Point(row.metric, row.value, row.work, f"{row.source} {row.id}") for row in rows)

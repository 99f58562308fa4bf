"""Two predictors anybody could write down, which ours have to beat on the same rows.

Source of both: the protocol of the public corpus of measurements, "Compare with two baselines: a 0.6 x bandwidth roofline,
and the nearest calibrated chip scaled by bandwidth".
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.errors import RequestError
from bytebound.fitting.cases import TIMED
from bytebound.predict.roofline import rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from bytebound.documents.truth import Truth
    from bytebound.fitting.cases import Group
    from bytebound.ledger.ledger import Ledger

    Array = NDArray[Any]

ATTAINED = 0.6
"""Share of datasheet bandwidth and of peak FLOP/s that the first predictor takes for everything: the median bandwidth use of
1,495 published dense batch-1 rows. Source: checks made on the corpus."""
UNLIKE = 1.0
"""What one difference in kind between two rows counts as distance, as much as a factor e in a length (assumed)."""
ONE_STREAM = frozenset({"tpot_s", "ttft_s", "request_s", "decode_tokens_per_s"})
"""Metrics of one request: replicas and pipeline stages do not speed it up."""


def roofline_06(group: Group) -> Array:
    """Return each metric of ``group`` with every pass at 0.6 of bandwidth or of peak rate, whichever is longer, (n,).

    No launches, links or host: weights, KV and activations over ``0.6 x`` datasheet bandwidth, FLOPs over ``0.6 x`` the
    dense peak of the dtype they are done in. How often each pass enters is the group's ``mix``, that of our own
    predictions, so only the passes differ. Seconds of a time, 1/s of a rate.
    """
    ceilings = group.setting.ceilings

    def step(ledger: Ledger) -> Array:
        moved = ledger.weight_bytes + ledger.kv_bytes + ledger.activation_bytes
        memory = (moved * ledger.repeat).sum(axis=0) / ceilings.memory_bytes_per_s
        compute = (ledger.flops / rates(ledger, ceilings) * ledger.repeat).sum(axis=0)
        return np.asarray(np.maximum(memory, compute) / ATTAINED)

    together = step(group.together) / group.together_count / group.pp
    seconds = group.mix.seconds(step(group.decode) / group.per_step, step(group.alone), together, 0.0)
    seconds = np.broadcast_to(seconds, group.rows.shape)
    return np.asarray(np.where(group.is_rate, group.amount / seconds, seconds))


def nearest_scaled(rows: Sequence[Truth], bandwidths: ArrayLike) -> Array:
    """Return each row's value as the nearest measured row of another device has it, scaled by bandwidth, (rows,).

    Candidates share model, metric and batch; a row of the same device is never one, so the answer is the same when that
    device is left out. Nearest: the least sum of absolute logarithms of prompt, output and bandwidth ratios, and ``UNLIKE``
    for each of engine, weight format, way of arrival and statistic that differs; the first of equals. Times go with the inverse of
    bandwidth, rates with it; bandwidth is that of the tensor group for one request and of all devices for a deployment.
    NaN: no candidate, or a metric no time stands behind.

    Args:
        rows: measured rows.
        bandwidths: datasheet memory bandwidth of one device of each row, (rows,) [B/s].

    Raises:
        RequestError: not one positive bandwidth per row.
    """
    one = np.asarray(bandwidths, dtype=float)
    if one.shape != (len(rows),) or not bool((np.isfinite(one) & (one > 0)).all()):
        raise RequestError(
            f"{len(rows)} rows need as many positive bandwidths", place="bandwidths", mend="give one per row, in B/s"
        )
    out = np.full(len(rows), np.nan)
    alike: dict[tuple[str, str, float], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.metric in TIMED:
            alike[row.model, row.metric, float(row.work.batch)].append(index)
    for (_, metric, _), members in alike.items():
        if len({rows[i].device for i in members}) > 1:
            at = np.array(members)
            out[at] = _from_others([rows[i] for i in members], one[at], metric)
    return out


def _from_others(rows: list[Truth], bandwidth: Array, metric: str) -> Array:
    """Return the values of rows of one model, metric and batch as the nearest of another device gives them, (rows,)."""
    used = np.array([float(r.work.tp) if metric in ONE_STREAM else r.devices for r in rows]) * bandwidth
    logs = np.log(
        np.stack([np.array([float(r.work.prompt) for r in rows]), [float(r.work.output) for r in rows], used])
    )
    columns = ([r.engine for r in rows], [str(r.work.weights) for r in rows],
               [str(r.regime) for r in rows], [str(r.statistic) for r in rows])  # fmt: skip
    kinds = np.stack([np.unique(column, return_inverse=True)[1] for column in columns])
    device = np.unique([r.device for r in rows], return_inverse=True)[1]
    value = np.array([r.value for r in rows])
    power = 1.0 if metric.endswith("_per_s") else -1.0
    out = np.empty(len(rows))
    for chip in range(int(device.max()) + 1):
        here, there = np.flatnonzero(device == chip), np.flatnonzero(device != chip)
        far = np.abs(logs[:, here, None] - logs[:, None, there]).sum(axis=0)
        far += UNLIKE * (kinds[:, here, None] != kinds[:, None, there]).sum(axis=0)
        source = there[far.argmin(axis=1)]
        out[here] = value[source] * (used[here] / used[source]) ** power
    return out

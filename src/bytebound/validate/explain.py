"""Why a row is far off, as far as its own words and its neighbours tell."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from bytebound.truth.inferencex import WARMUP_FROM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bytebound.documents.truth import Truth

    Array = NDArray[np.float64]

MANY, ALIKE = 5, 0.25
"""A deployment of at least so many rows whose logarithmic errors have this spread at most is off as a whole."""


def explain(rows: Sequence[Truth], predicted: Array) -> tuple[str, ...]:
    """Return our best explanation of each row's error; neighbours of one deployment are looked at together.

    Args:
        rows: measured rows.
        predicted: (rows,), NaN where there is none.
    """
    error = np.log(predicted / np.array([row.value for row in rows]))
    together: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        together[row.source, row.device, row.engine, row.model, row.metric, str(row.work.weights)].append(i)
    of = {i: members for members in together.values() for i in members}
    return tuple(_explained(row, error, of[i], i) for i, row in enumerate(rows))


def _explained(row: Truth, error: Array, alike: list[int], at: int) -> str:
    said: list[str] = []
    others = error[alike][np.isfinite(error[alike])]
    if len(others) >= MANY and others.std() <= ALIKE and abs(np.median(others)) > ALIKE:
        factor = float(np.exp(np.median(others)))
        said.append(f"all {len(others)} rows of this deployment are predicted ×{factor:.2g}: a setting we do not know")
    slow = error[at] < 0 if row.metric.endswith("_s") and not row.metric.endswith("_per_s") else error[at] > 0
    waiting = row.regime == "closed-loop" and row.metric in {"ttft_s", "request_s"}
    if waiting and slow and row.date and row.date < WARMUP_FROM and row.load.rounds:
        said.append("no warm-up before this run: its first requests compile and tune kernels")
    elif waiting and slow:
        said.append("requests waited longer than the cache and slots we assume make them wait")
    elif waiting:
        said.append("we let requests wait in line that found a slot: more cache or slots than we assume")
    elif row.regime in {"closed-loop", "open-loop"} and row.metric == "tpot_s" and not slow:
        said.append(
            "faster than its prefills allow: fewer requests in flight than stated, cached prefixes or speculation"
        )
    elif row.regime == "capacity":
        said.append("the batch is what fits, and an error of capacity is an error of rate")
    elif row.metric == "prefill_tokens_per_s" and slow and row.work.prefix_hit:
        said.append("attention over a deep cache is slower here than the share fitted to short prompts")
    elif row.regime == "single" and row.engine == "llama.cpp" and slow:
        said.append("part of the model may have run on the processor, or the build is an old one")
    assumed = [part.strip() for part in row.notes.split(";") if part.strip().startswith("assumed")]
    if row.trust == "C" and assumed:
        said.append(assumed[0])
    return "; ".join(said) or ("measured slower than predicted, for no reason we can see" if slow else
                               "measured faster than predicted, for no reason we can see")  # fmt: skip

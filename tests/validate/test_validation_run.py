"""The validation itself: what a left-out row can not have told, what physics forbids, and one row as among many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bytebound.documents.validation import PROTOCOLS, Validation
from bytebound.documents.values import from_json, to_json
from bytebound.errors import RequestError
from bytebound.fitting.cases import TIMED
from bytebound.truth import read_truth, shipped_truth
from bytebound.validate.baseline import read_baseline, regressions
from bytebound.validate.run import LEFT_OUT, predicted, validate

ROWS = shipped_truth()
CONTRADICTIONS = Path(__file__).parents[1] / "truth" / "contradictions.csv"


def some(count: int = 120):
    """Return shipped rows of times, spread over the table."""
    timed = [row for row in ROWS if row.metric in TIMED]
    return timed[:: max(len(timed) // count, 1)]


def test_one_row_alone_is_the_same_row_among_many():
    answers = predicted(ROWS)
    for index in range(0, len(ROWS), 41):
        alone = predicted([ROWS[index]])
        assert alone.value[0] == pytest.approx(answers.value[index], rel=1e-9, nan_ok=True)
        assert alone.high[0] == pytest.approx(answers.high[index], rel=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("protocol", "column"), [("leave-one-device-out", "device"), ("leave-one-engine-out", "engine")]
)
def test_what_is_left_out_cannot_tell(protocol, column):
    """Changing every measured value of one device (or engine) leaves its own left-out predictions as they were."""
    rows = some()
    name = {"device": "h100-sxm", "engine": "sglang"}[column]
    changed = [replace(r, value=r.value * 1.3) if getattr(r, column) == name else r for r in rows]
    before, after = predicted(rows, protocol=protocol), predicted(changed, protocol=protocol)
    here = np.array([getattr(r, column) == name for r in rows]) & ~before.beyond & ~after.beyond
    assert here.sum() >= 5
    assert after.value[here] == pytest.approx(before.value[here], rel=2e-2, nan_ok=True)
    other = ~here & np.isfinite(before.value)
    assert np.abs(after.value[other] / before.value[other] - 1).max() > 1e-3  # and does tell of the others


def test_rows_beyond_physics_are_found_and_scored_nowhere():
    wrong = read_truth(CONTRADICTIONS)
    found = validate([*some(), *wrong])
    listed = {item.id for item in found.contradictions}
    assert listed >= {row.id for row in wrong}
    assert not listed & set(found.points.id)
    assert not listed & {row.id for row in found.worst}


def test_no_prediction_is_beyond_physics():
    answers = predicted(ROWS)
    known = np.isfinite(answers.value) & np.isfinite(answers.floor)
    rate = np.array([row.metric.endswith("_per_s") for row in ROWS])
    passed = np.where(rate, answers.value > answers.floor * (1 + 1e-9), answers.value < answers.floor * (1 - 1e-9))
    assert not passed[known].any()
    for end in (answers.low, answers.high):
        beyond = np.where(rate, end > answers.floor * (1 + 1e-9), end < answers.floor * (1 - 1e-9))
        assert not beyond[known & np.isfinite(end)].any()


def test_the_document_says_what_the_rows_say():
    found = validate(ROWS, worst=20)
    everything = next(group for group in found.groups if group.by == "all")
    predicted_values = np.array([np.nan if x is None else x for x in found.points.predicted], dtype=float)
    error = np.abs(predicted_values / np.array(found.points.measured) - 1)
    assert everything.median_error == pytest.approx(np.nanmedian(error))
    assert [abs(np.log1p(w.error)) for w in found.worst] == sorted(
        (abs(np.log1p(w.error)) for w in found.worst), reverse=True
    )
    assert all(row.explanation and row.locator for row in found.worst)
    assert from_json(Validation, to_json(found)) == found


def test_the_shipped_rows_are_predicted_better_than_by_simple_rules():
    groups = {g.name: g for g in validate(ROWS, by=("metric",)).groups if g.by == "metric"}
    for metric in ("tpot_s", "ttft_s", "decode_tokens_per_s", "prefill_tokens_per_s", "tokens_per_s", "request_s"):
        group = groups[metric]
        assert all(group.median_error < error for error in group.baselines.values()), metric


def test_every_protocol_has_its_column():
    assert set(LEFT_OUT) == set(PROTOCOLS) - {"fit"}


def test_no_group_is_worse_than_committed():
    """The figures of the shipped rows are committed; a change that makes a group worse by more than noise is seen here."""
    committed = read_baseline(Path(__file__).parents[2] / "validation" / "baseline.json")
    assert regressions(validate(ROWS), committed) == ()


def test_a_time_that_cannot_be_answered_leaves_memory_answered():
    """Where no time is of a model and machine that can be, rows of memory are still scored and the others unanswered."""
    held = [row for row in ROWS if row.metric == "kv_tokens"][:3]
    lost = replace(some()[0], devices=10**7)
    answers = predicted([*held, lost])
    assert np.isfinite(answers.value).tolist() == [True, True, True, False]
    with pytest.raises(RequestError, match="no row is a time"):
        predicted([lost])

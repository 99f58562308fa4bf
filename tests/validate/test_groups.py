"""Scores by group, against figures counted one by one; the noise of a median against a bootstrap; committed figures."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

import validated

from bytebound.documents.validation import KEYS, Baseline, CommittedScore
from bytebound.documents.values import from_json, json_schema, plain, to_json
from bytebound.errors import DocumentError, UnknownNameError
from bytebound.validate.baseline import baseline_of, read_baseline, regressions
from bytebound.validate.groups import DEPLOYMENT, even_weights, group_scores, median_noise, weighted_quantile

TEXTS, FIGURES = validated.columns(300, seed=3)
KEY_COLUMNS = {key: TEXTS[key] for key in KEYS}


def scores(**changes):
    """The scores of the fabricated rows, by (key, name, metric)."""
    given_ = {name: FIGURES[name] for name in ("low", "high")} | changes
    measured, predicted = (given_.pop(name, FIGURES[name]) for name in ("measured", "predicted"))
    found = group_scores(KEY_COLUMNS, measured, predicted, **given_)
    return {(g.by, g.name, g.metric): g for g in found}


def rows_of(by, name, metric):
    return [
        i for i in range(300) if (by == "all" or TEXTS[by][i] == name) and (not metric or TEXTS["metric"][i] == metric)
    ]


@pytest.mark.parametrize(
    "label",
    [
        ("all", "all", ""),
        ("device", "m2-max", ""),
        ("device", "h200", "tpot_s"),
        ("kind", "moe", "ttft_s"),
        ("metric", "tokens_per_s", "tokens_per_s"),
        ("source", "llama-bench", ""),
    ],
)
def test_scores_are_those_counted_row_by_row(label):
    """Every figure of a group equals one worked out from its rows with the standard library."""
    group, rows = scores()[label], rows_of(*label)
    signed = [FIGURES["predicted"][i] / FIGURES["measured"][i] - 1 for i in rows]
    errors = sorted(map(abs, signed))
    logs = sorted(abs(math.log(value + 1)) for value in signed)
    inside = [FIGURES["low"][i] <= FIGURES["measured"][i] <= FIGURES["high"][i] for i in rows]

    assert group.rows == len(rows) > 10
    assert group.median_error == pytest.approx(statistics.median(errors))
    assert group.mean_error == pytest.approx(statistics.fmean(errors))
    assert group.p90_error == pytest.approx(statistics.quantiles(errors, n=10, method="inclusive")[-1])
    assert group.bias == pytest.approx(statistics.median(signed))
    assert group.coverage == pytest.approx(sum(inside) / len(rows))
    assert group.within_25 == pytest.approx(sum(error <= 0.25 for error in errors) / len(rows))
    assert group.median_log_error == pytest.approx(statistics.median(logs))
    assert group.p90_log_error == pytest.approx(statistics.quantiles(logs, n=10, method="inclusive")[-1])
    assert group.deployments == len({tuple(TEXTS[key][i] for key in DEPLOYMENT) for i in rows})
    assert group.noise_low <= group.median_error <= group.noise_high


def test_even_figures_weigh_sources_then_devices():
    """Copying every row of one device ten times moves the plain median and leaves the even figures where they were."""
    group = scores()[("all", "all", "")]
    again = np.concatenate([np.arange(300), np.tile(np.flatnonzero(TEXTS["device"] == "m2-max"), 9)])
    keys = {key: column[again] for key, column in KEY_COLUMNS.items()}
    copied = group_scores(keys, FIGURES["measured"][again], FIGURES["predicted"][again], by=("source",))[0]

    assert copied.median_error > 1.3 * group.median_error
    for name in ("even_median_log_error", "even_p90_log_error", "even_within_25"):
        assert getattr(copied, name) == pytest.approx(getattr(group, name))


def test_every_row_is_in_one_group_of_each_key():
    """The groups of a key partition the rows, and so do the metrics of a group."""
    found = scores()
    for key in KEYS:
        names = {name for by, name, _ in found if by == key}
        parts = [group for (by, _, metric), group in found.items() if by == key and metric]
        assert sum(group.rows for group in parts if group.by == key) == 300
        assert names == set(TEXTS[key])


@given(st.floats(1e-6, 1e6), st.integers(0, 5))
def test_units_do_not_matter(factor, seed):
    """Measured and predicted in other units give the same scores."""
    texts, figures = validated.columns(40, seed)
    keys = {key: texts[key] for key in KEYS}
    here = group_scores(keys, figures["measured"], figures["predicted"], by=("metric",))
    there = group_scores(keys, factor * figures["measured"], factor * figures["predicted"], by=("metric",))

    for one, other in zip(here, there, strict=True):
        assert (one.name, one.rows) == (other.name, other.rows)
        assert other.median_error == pytest.approx(one.median_error, rel=1e-9)
        assert other.bias == pytest.approx(one.bias, rel=1e-9, abs=1e-12)


def test_what_is_not_predicted_is_counted_and_in_no_figure():
    """A prediction that is NaN, infinite or not positive is unanswered; without intervals coverage is unknown."""
    predicted = FIGURES["predicted"].copy()
    predicted[:4] = (math.nan, math.inf, 0.0, -1.0)
    group = scores(predicted=predicted, low=None, high=None)[("all", "all", "")]
    kept = np.abs(predicted[4:] / FIGURES["measured"][4:] - 1)

    assert (group.rows, group.unanswered, group.coverage) == (296, 4, None)
    assert group.mean_error == pytest.approx(kept.mean())


def test_a_group_without_an_answer_has_no_figures():
    """None, not NaN: the document says that nothing is known."""
    texts, figures = validated.columns(3)
    group = group_scores({key: texts[key] for key in KEYS}, figures["measured"], np.full(3, math.nan))[0]

    assert (group.rows, group.unanswered, group.median_error, group.noise_high) == (0, 3, None, None)
    assert group_scores({key: texts[key][:0] for key in KEYS}, [], []) == ()


def test_simpler_predictors_are_scored_on_the_same_rows():
    """A baseline that is 30 % too high is 30 % off; where it has no answer it is not scored."""
    off = FIGURES["measured"] * 1.3
    off[TEXTS["device"] == "b200"] = math.nan
    found = scores(baselines={"roofline": off})

    assert found[("all", "all", "")].baselines == {"roofline": pytest.approx(0.3)}
    assert found[("device", "b200", "")].baselines == {}


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown group 'devise'; nearest: device"):
        group_scores(KEY_COLUMNS, FIGURES["measured"], FIGURES["predicted"], by=("devise",))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=30))
def test_even_weights_sum_to_one(pairs):
    """Each source has the same weight, and each device of a source the same share of it."""
    source, device = (np.array(column) for column in zip(*pairs, strict=True))
    weights = even_weights(source, device)
    names = sorted(set(source))

    for name in names:
        assert weights[source == name].sum() == pytest.approx(1 / len(names))
        chips = sorted(set(device[source == name]))
        for chip in chips:
            share = weights[(source == name) & (device == chip)].sum()
            assert share == pytest.approx(1 / len(names) / len(chips))


def test_weighted_quantile_with_equal_weights():
    """Equal weights give the inverse of the empirical distribution."""
    values = np.random.default_rng(1).random(101)

    assert weighted_quantile(values, np.ones(101), 0.5) == np.median(values)


@pytest.mark.parametrize("rows", [5, 8, 40, 101])
def test_noise_is_that_of_a_bootstrap(rows):
    """Both ends agree with 20,000 medians of resampled rows."""
    errors = np.random.default_rng(rows).lognormal(-1.5, 0.8, rows)
    resampled = np.median(np.random.default_rng(7).choice(errors, (20_000, rows)), axis=1)
    low, high = median_noise(errors, rows)
    expected = np.quantile(resampled, (0.05, 0.95))
    near = np.quantile(resampled, ((0.035, 0.93), (0.065, 0.97)))

    assert near[0, 0] <= low <= near[1, 0], expected
    assert near[0, 1] <= high <= near[1, 1], expected


def test_rows_of_one_deployment_are_one_piece_of_evidence():
    """The fewer independent rows, the wider the noise; the same seed gives the same ends."""
    errors = np.random.default_rng(2).random(200)
    widths = [np.ptp(median_noise(errors, m)) for m in (200, 50, 10, 1)]

    assert widths == sorted(widths)
    assert median_noise(errors, 10) == median_noise(errors, 10)
    assert median_noise(errors[:0], 0) == (None, None)


def worse(validation, **changes):
    """The validation with the figures of h200 replaced."""
    groups = tuple(
        replace(g, **changes) if (g.by, g.name, g.metric) == ("device", "h200", "") else g for g in validation.groups
    )
    return replace(validation, groups=groups)


def test_the_same_figures_are_not_worse():
    validation = validated.validation(300)

    assert regressions(validation, baseline_of(validation)) == ()


def test_worse_is_beyond_the_noise_of_the_committed_median():
    """At the upper end of the noise nothing is said; beyond it the group is named with both figures."""
    validation = validated.validation(300)
    committed = baseline_of(validation)
    then = next(g for g in committed.groups if (g.by, g.name, g.metric) == ("device", "h200", ""))
    limit = max(then.noise_high, then.median_error + 0.005)
    found = regressions(worse(validation, median_error=limit * 1.001), committed)

    assert regressions(worse(validation, median_error=limit), committed) == ()
    assert [(r.by, r.name, r.metric, r.committed, r.allowed) for r in found] == [
        ("device", "h200", "", then.median_error, limit)
    ]


def test_a_group_that_vanished_is_worse_unless_it_was_not_asked_for():
    """A group no row of which is answered any more cannot pass; one of a key that was left out is not compared."""
    validation = validated.validation(300)
    committed = baseline_of(validation)
    silent = worse(validation, median_error=None, rows=0)
    fewer = replace(validation, groups=tuple(g for g in validation.groups if g.by != "device"))

    assert [(r.name, r.now, r.rows_now) for r in regressions(silent, committed)] == [("h200", None, 0)]
    assert regressions(fewer, committed) == ()


def test_other_protocols_are_not_compared():
    validation = validated.validation(300)
    with pytest.raises(DocumentError, match="of protocol fit, and this run is leave-one-device-out"):
        regressions(validation, replace(baseline_of(validation), protocol="fit"))


def test_committed_figures_are_kept_in_a_file(tmp_path):
    """What is written reads back the same and fits its schema; a broken file names itself."""
    committed = baseline_of(validated.validation(60))
    path = tmp_path / "baseline.json"
    path.write_text(to_json(committed), encoding="utf-8")

    assert read_baseline(path) == committed
    assert from_json(Baseline, to_json(committed)) == committed
    jsonschema.validate(plain(committed), json_schema(Baseline))
    assert isinstance(committed.groups[0], CommittedScore)
    for text, words in (("{", "not JSON"), ('{"when": "x"}', "version")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DocumentError, match=words):
            read_baseline(path)
    with pytest.raises(DocumentError, match="no such file"):
        read_baseline(tmp_path / "none.json")

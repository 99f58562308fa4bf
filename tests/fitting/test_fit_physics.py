"""The fit of shares, floors and host times: gradients, recovery of known offsets, physical bounds, what is beyond physics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bytebound.errors import RequestError, UnfinishedError
from bytebound.fitting import fit as fitting
from bytebound.fitting.fit import contradicts, design, fit, seconds
from bytebound.truth import shipped_truth

TIMES = [row for row in shipped_truth() if row.metric in {"tpot_s", "ttft_s", "request_s", "decode_tokens_per_s"}]


@pytest.fixture(scope="module")
def some():
    """A design of shipped rows that fit and are within physics."""
    d = design(TIMES[::2])
    return d, (d.weight > 0) & ~contradicts(d)


def test_the_gradient_is_that_of_the_prediction(some):
    d, _ = some
    rng = np.random.default_rng(0)
    at = rng.normal(0, 0.3, len(d.keys))
    exact = fitting._jacobian(d, at)
    sign = np.where(d.is_rate, -1.0, 1.0)
    for key in rng.choice(len(d.keys), 40, replace=False):
        step = np.zeros(len(d.keys))
        step[key] = 1e-5
        slope = sign * (np.log(seconds(d, at + step)[1]) - np.log(seconds(d, at - step)[1])) / 2e-5
        assert exact[:, key] == pytest.approx(slope, abs=1e-6)


def test_known_offsets_are_found_again(some):
    d, usable = some
    seen = np.abs(fitting._jacobian(d, np.zeros(len(d.keys))))[usable].sum(axis=0)
    strong = int(seen.argmax())
    truth = np.zeros(len(d.keys))
    truth[strong] = 0.3
    made = replace(d, measured=seconds(d, truth)[1])
    found, sd = fit(made, usable)
    assert np.abs(np.log(seconds(made, found)[1] / made.measured))[usable].max() < 0.1
    assert found[strong] > 0.1
    assert np.all(sd > 0)
    assert np.all(sd <= made.prior_sd + 1e-9)  # rows can only narrow what the prior says


def test_nothing_measured_moves_nothing(some):
    d, _ = some
    found, sd = fit(d, np.zeros(len(d.measured), dtype=bool))
    assert found == pytest.approx(0.0, abs=1e-9)
    assert sd == pytest.approx(d.prior_sd)


def test_shares_stay_below_one_and_predictions_above_the_floor(some):
    d, _ = some
    eager = replace(d, measured=np.where(d.is_rate, d.measured * 50, d.measured / 50))
    _, least = seconds(d, np.where([k[2].endswith("share") for k in d.keys], 50.0, -50.0))
    spent = np.where(d.is_rate, d.amount / least, least)
    assert np.all(spent >= d.floor_total * (1 - 1e-9))  # even shares of one and no overhead pass no floor
    assert contradicts(eager)[d.weight > 0].mean() > 0.9


def test_a_fit_that_leaves_what_is_physical_is_an_error(some, monkeypatch):
    d, usable = some
    monkeypatch.setattr(fitting, "MOST_OFFSET", 0.05)
    with pytest.raises(UnfinishedError, match="out of its physical range"):
        fit(replace(d, measured=np.where(d.is_rate, d.measured / 20, d.measured * 20)), usable)


def test_a_fit_that_does_not_settle_is_an_error(some, monkeypatch):
    d, usable = some
    monkeypatch.setattr(fitting, "STEPS", 1)
    monkeypatch.setattr(fitting, "SETTLED", 0.0)
    with pytest.raises(UnfinishedError, match="did not settle"):
        fit(d, usable)


def test_no_row_is_an_error():
    with pytest.raises(RequestError, match="no row"):
        design([])


def test_a_fit_is_reproducible(some):
    d, usable = some
    assert fit(d, usable)[0] == pytest.approx(fit(d, usable)[0], abs=0)


def test_one_question_in_a_design_is_the_estimate_itself():
    """The flat design and the public estimate are one prediction, by two routes."""
    import bytebound as bb
    from bytebound.validate.run import shipped_offsets

    rows = [r for r in TIMES if r.metric == "tpot_s" and r.regime == "single" and not r.date[:4] <= "2024"][:6]
    rows += [
        r for r in TIMES if r.metric == "tpot_s" and r.regime == "closed-loop" and r.engine_version != "not in the file"
    ][:12]
    rows = [
        replace(r, load=replace(r.load, rounds=0, slots=0, memory_share=0), engine_version="", date="2026-01-01")
        for r in rows
    ]
    d = design(rows)
    phases, value = seconds(d, shipped_offsets(d))
    for case, index in enumerate(d.rows):
        row = rows[index]
        if d.weight[case] == 0:
            continue
        said = bb.estimate(row.model, f"{row.devices}x {row.device}", replace(row.work, batch=float(d.sequences[case])))
        if row.regime == "closed-loop":
            assert value[case] == pytest.approx(said.tpot_s.value, rel=1e-6)
        assert phases[case, 0] == pytest.approx(said.decode.seconds / d.per_step[case], rel=1e-6)

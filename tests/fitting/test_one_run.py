"""A correction: exact where the world is ours with other costs, never worse at its own point, and refused elsewhere."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bytebound as bb
from bytebound.documents.correction import Correction
from bytebound.documents.observation import PhaseRun, RequestRun, Run, Spread
from bytebound.documents.truth import Truth
from bytebound.documents.values import from_json, json_schema, plain, to_json
from bytebound.errors import QuantityError, RequestError, UnfinishedError, UnknownNameError
from bytebound.facts.correction_prior import correction_prior
from bytebound.fitting.one_run import Point, based, correct, correct_points
from bytebound.fitting.points import points_of_run, points_of_truth
from bytebound.fitting.posterior import Posterior, Prior, log_seconds, posterior, shipped_prior, stacked
from bytebound.fitting.prior_fit import Group, fit_prior
from bytebound.predict.corrected import corrected, correcting
from bytebound.predict.estimate import estimate_on
from bytebound.predict.parts import EFFECTS, RATES, TIMES, floor_s, log_sd, parted, slopes, with_effects

MODEL, MACHINE = "llama-3.1-8b", "h100-sxm"
WORK = bb.Serve(batch=8, prompt=1024, output=128)
BATCHES = np.array([1.0, 2, 4, 8, 16, 32, 64, 128])
MANY = bb.Serve(batch=np.tile(BATCHES, 3), prompt=np.repeat([128.0, 512, 1024], len(BATCHES)), output=256)
SETTING = based(MODEL, MACHINE, WORK)
ZERO = np.zeros(len(EFFECTS))


def effect(**shifts):
    """Return effects (effects,) of which some are not zero; ``_`` stands for ``-``."""
    named = {name.replace("_", "-"): value for name, value in shifts.items()}
    assert set(named) <= set(EFFECTS)
    return np.array([named.get(name, 0.0) for name in EFFECTS])


def ours(metric="tpot_s", work=WORK):
    return parted(SETTING.answer(work), work, metric)


def tpot(work=WORK):
    return float(ours(work=work).value[0])


@pytest.mark.parametrize("metric", [*TIMES, "tokens_per_s"])
def test_the_parts_of_a_metric_add_up_to_it(metric):
    """A time is the sum of its parts, a rate the amount over it."""
    work = replace(WORK, batch=BATCHES)
    named = SETTING.answer(work)
    fits = named["fits"] > 0

    assert parted(named, work, metric).value[fits] == pytest.approx(named[metric][fits])


def test_rates_are_what_they_count_over_the_same_time():
    """One stream's rate is the step's inverse; the totals count prompts and requests in the same time."""
    named = SETTING.answer(WORK)
    rate = {name: float(parted(named, WORK, name).value[0]) for name in RATES}

    assert rate["decode_tokens_per_s"] == pytest.approx(1 / named["decode.seconds"][0])
    assert rate["total_tokens_per_s"] == pytest.approx(rate["tokens_per_s"] * (1024 + 128) / 128)
    assert rate["requests_per_s"] == pytest.approx(rate["tokens_per_s"] / 128)
    assert rate["prefill_tokens_per_s"] == pytest.approx(1024 / named["prefill.seconds"][0])
    with pytest.raises(UnknownNameError, match="metric"):
        parted(named, WORK, "kv_tokens")


def test_no_effect_changes_nothing():
    """Conservation: zeros leave every number as it was."""
    work = replace(WORK, batch=BATCHES)
    named = SETTING.answer(work)
    after = corrected(named, ZERO, work)

    assert set(after) == set(named)
    for name, values in named.items():
        assert after[name] == pytest.approx(values, rel=1e-12, nan_ok=True), name


def test_a_common_factor_scales_every_time():
    """Everything twice as slow: times double, rates halve, memory and shares stay."""
    named = SETTING.answer(WORK)
    after = corrected(named, effect(scale=np.log(2)), WORK)

    for name in ("tpot_s", "ttft_s", "request_s", "decode.seconds", "prefill.seconds"):
        assert after[name] == pytest.approx(2 * named[name])
    assert after["tokens_per_s"] == pytest.approx(named["tokens_per_s"] / 2)
    assert after["decode.mbu"] == pytest.approx(named["decode.mbu"] / 2)
    assert after["share.0"] == pytest.approx(named["share.0"])
    assert after["weights_bytes"] == named["weights_bytes"]


def test_one_resource_moves_only_its_part():
    """Weight bandwidth e^0.3 times dearer: the step grows by that share of it, and the shares still sum to one."""
    named = SETTING.answer(WORK)
    after = corrected(named, effect(weight_bandwidth=0.3), WORK)
    share = named["decode.share.0"]

    assert after["decode.seconds"] == pytest.approx(named["decode.seconds"] * (1 + share * np.expm1(0.3)))
    assert sum(after[f"decode.share.{k}"] for k in range(8)) == pytest.approx(1)
    assert sum(after[f"share.{k}"] for k in range(8)) == pytest.approx(1)


@given(z=st.lists(st.floats(-3, 3), min_size=len(EFFECTS), max_size=len(EFFECTS)))
@settings(max_examples=60, deadline=None)
def test_no_correction_beats_physics(z):
    """Whatever the effects say, no phase is under its floor and every share is a share."""
    work = replace(WORK, batch=BATCHES)
    after = corrected(SETTING.answer(work), np.array(z), work)

    for phase in ("decode", "prefill"):
        assert np.all(after[f"{phase}.seconds"] >= after[f"{phase}.floor_s"] * (1 - 1e-9))
        assert np.all(after[f"{phase}.mbu"] <= 1 + 1e-9)
    assert np.all(np.isfinite(after["tpot_s"]))


def test_slopes_are_the_derivatives():
    """∂ log t / ∂ effect agrees with a small difference for every effect."""
    p = with_effects(ours("request_s"), effect(kv_bandwidth=0.2, overhead=-0.3, batch_drift=0.05))
    along = slopes(p)[:, 0]
    for index in range(len(EFFECTS)):
        step = np.zeros(len(EFFECTS))
        step[index] = 1e-6
        assert (log_seconds(with_effects(p, step)) - log_seconds(p))[0] / 1e-6 == pytest.approx(along[index], abs=1e-5)


def test_scaled_resources_are_recovered_exactly():
    """Data made of ours with other costs, many points and little noise: predictions become those data."""
    truth = effect(weight_bandwidth=0.2, kv_bandwidth=-0.15, compute=0.25, overhead=0.5)
    work = MANY
    p = ours(work=work)
    world = with_effects(p, truth).value
    found = posterior(p, world, Prior(np.full(len(EFFECTS), 0.5), 1e-4))

    assert with_effects(p, found.mean).value == pytest.approx(world, rel=1e-4)
    unseen = bb.Serve(batch=48, prompt=2048, output=512)
    assert with_effects(ours(work=unseen), found.mean).value == pytest.approx(
        with_effects(ours(work=unseen), truth).value, rel=2e-3
    )


@given(factor=st.floats(0.65, 3.0), batch=st.sampled_from([1, 8, 64]), metric=st.sampled_from([*TIMES[:2], *RATES]))
@settings(max_examples=50, deadline=None)
def test_one_point_never_makes_the_same_point_worse(factor, batch, metric):
    """After the run the prediction of that very run is at least as near, and its interval no wider (by a hair, far off)."""
    work = replace(WORK, batch=batch)
    p = ours(metric, work)
    least = float(floor_s(SETTING.answer(work), p)[0])
    time = max(float(p.seconds.sum()) * factor, least)
    value = time if p.amount is None else float(p.amount[0]) / time
    point = correct(MODEL, MACHINE, work, {metric: value}).points[0]

    assert abs(np.log(point.after.value / value)) <= abs(np.log(point.before.value / value)) + 1e-9
    assert point.after.high / point.after.low <= point.before.high / point.before.low * 1.05
    assert point.after.low <= point.after.value <= point.after.high


def test_the_interval_is_narrow_at_the_point_and_wide_far_from_it():
    """Uncertainty grows with the distance from what was measured, and never reaches under the floor."""
    found = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot() * 1.1})
    width = {row.work["batch"]: row.after.high / row.after.low for row in found.outlook}

    assert width[8.0] < width[2.0] <= width[1.0]
    assert width[8.0] < width[32.0] <= width[128.0]
    assert width[8.0] < found.points[0].before.high / found.points[0].before.low
    assert all(row.after.high / row.after.low <= row.before.high / row.before.low + 1e-9 for row in found.outlook)


def test_a_run_that_surprises_may_widen_what_was_not_measured():
    """Far outside its interval, a run says that others may be as far off; the estimate and the outlook say so alike."""
    found = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot() * 3})
    far = found.outlook[-1]
    est = bb.estimate(MODEL, MACHINE, replace(WORK, batch=far.work["batch"]), correction=found)

    assert far.after.high / far.after.low > far.before.high / far.before.low
    assert (est.tpot_s.low, est.tpot_s.high) == pytest.approx((far.after.low, far.after.high))
    assert far.after.high / far.after.value <= 3 * (1 + 1e-9)


def test_more_points_know_more():
    """A second point narrows what the first left open."""
    one = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot()})
    both = replace(WORK, batch=np.array([8, 128]))
    two = correct(MODEL, MACHINE, both, {"tpot_s": ours(work=both).value})

    left = [sum((each.log_sd / each.prior_log_sd) ** 2 for each in found.effects) for found in (one, two)]
    assert left[1] < left[0]
    assert (
        two.outlook[-1].after.high / two.outlook[-1].after.low < one.outlook[-1].after.high / one.outlook[-1].after.low
    )


def test_ours_confirmed_stays_ours():
    """A run that lands on the prediction moves nothing and still narrows the interval."""
    found = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot()})

    assert all(abs(each.log_shift) < 1e-9 for each in found.effects)
    assert found.points[0].after.value == pytest.approx(tpot())


def test_prefill_is_corrected_by_first_tokens_and_decode_by_the_resources_they_share():
    """A slow TTFT makes compute dearer in both phases, prefill more than decode."""
    alone = replace(WORK, batch=1)
    named = SETTING.answer(alone)
    found = correct(MODEL, MACHINE, alone, {"ttft_s": float(named["ttft_s"][0]) * 1.4})
    shifts = np.array([each.log_shift for each in found.effects])
    after = corrected(named, shifts, alone)

    prefill, decode = (
        float(after[f"{phase}.seconds"][0] / named[f"{phase}.seconds"][0]) for phase in ("prefill", "decode")
    )
    assert 1 < decode < prefill < 1.4
    assert prefill > 1.1
    assert shifts[EFFECTS.index("compute")] > 0


def test_an_estimate_uses_it_and_says_so():
    """``estimate(correction=)`` gives the corrected numbers, intervals, operators that add up, and the source."""
    found = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot() * 1.2})
    est = bb.estimate(MODEL, MACHINE, WORK, correction=found)
    plain_ = bb.estimate(MODEL, MACHINE, WORK)

    assert est.grade == "corrected"
    assert est.tpot_s.value == pytest.approx(found.points[0].after.value)
    assert est.tpot_s.high == pytest.approx(found.points[0].after.high)
    assert est.tpot_s.high / est.tpot_s.low < plain_.tpot_s.high / plain_.tpot_s.low
    rows = sum(row.seconds for row in est.decode.operators) / est.decode.seconds
    assert 0.5 < rows <= 1 + 1e-9
    assert any(found.id in item.source for item in est.provenance)
    assert est.memory == plain_.memory
    many = bb.estimate(MODEL, MACHINE, replace(WORK, batch=BATCHES), correction=found)
    assert np.shape(many.tpot_s.low) == BATCHES.shape
    assert many.tpot_s.value[3] == pytest.approx(est.tpot_s.value)


@pytest.mark.parametrize(
    ("model", "machine", "work", "word"),
    [
        ("qwen3-32b", MACHINE, WORK, "model"),
        (MODEL, "h200-sxm", WORK, "machine"),
        (MODEL, MACHINE, replace(WORK, engine="sglang"), "engine"),
        (MODEL, MACHINE, replace(WORK, weights="fp8"), "weights"),
        (MODEL, MACHINE, replace(WORK, kv="fp8"), "kv"),
        (MODEL, "2x h100-sxm", replace(WORK, tp=2), "tp"),
        (MODEL, MACHINE, replace(WORK, draft_tokens=3), "draft_tokens"),
    ],
)
def test_another_deployment_is_refused(model, machine, work, word):
    """A correction is of what it was made on, and the refusal names what differs."""
    found = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot()})

    with pytest.raises(RequestError, match=f"made with {word} "):
        bb.estimate(model, machine, work, correction=found)


def test_the_same_formats_spelled_out_are_the_same_deployment():
    """``auto`` is what the checkpoint stores; replicas, batch and lengths do not matter."""
    found = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot()})
    spelled = replace(WORK, weights="bf16", kv="bf16", batch=64, prompt=4000, dp=2)

    assert bb.estimate(MODEL, "2x h100-sxm", spelled, correction=found).grade == "corrected"


def test_what_cannot_be_is_refused_with_causes():
    """Faster than physics, several deployments, nothing measured, no numbers: one sentence each."""
    with pytest.raises(RequestError, match="faster than physics") as caught:
        correct(MODEL, MACHINE, WORK, {"tpot_s": 0.001})
    assert "speculative" in caught.value.mend
    with pytest.raises(RequestError, match="faster than physics"):
        correct(MODEL, MACHINE, WORK, {"tokens_per_s": 1e6})
    with pytest.raises(QuantityError, match="times off"):
        correct(MODEL, MACHINE, WORK, {"tpot_s": 9000.0})
    with pytest.raises(RequestError, match="nothing measured"):
        correct(MODEL, MACHINE, WORK, {})
    with pytest.raises(UnknownNameError, match="metric"):
        correct(MODEL, MACHINE, WORK, {"itl_s": 0.01})
    for wrong in (float("nan"), 0.0, -1.0, float("inf")):
        with pytest.raises(QuantityError):
            correct(MODEL, MACHINE, WORK, {"tpot_s": wrong})
    points = (Point("tpot_s", 0.01, WORK), Point("tpot_s", 0.01, replace(WORK, weights="fp8")))
    with pytest.raises(RequestError, match="differ in weights"):
        correct_points(SETTING, points)
    with pytest.raises(RequestError, match="differ in weights"):
        correct(MODEL, MACHINE, replace(WORK, weights=np.array(["bf16", "fp8"])), {"tpot_s": 0.01})
    with pytest.raises(RequestError, match="decode tokens"):
        correct("bert-base-uncased", MACHINE, replace(WORK, output=1), {"tpot_s": 0.01})
    with pytest.raises(RequestError, match="does not fit"):
        correct("llama-3.1-70b", MACHINE, WORK, {"tpot_s": 0.05})


def test_a_shift_beyond_belief_is_warned_of_with_causes():
    """Ten times slower is taken, and said to be hard to believe."""
    found = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot() * 10})

    assert any("slower than predicted" in text and "power" in text for text in found.warnings)
    assert any("standard deviations" in text for text in found.warnings)
    assert correct(MODEL, MACHINE, WORK, {"tpot_s": tpot() * 1.1}).warnings == ()


def test_the_document_reads_back_and_fits_its_schema():
    """A correction is JSON: the same after a round trip, and valid under its published schema."""
    found = correct(MODEL, MACHINE, replace(WORK, batch=np.array([8, 64])), {"tpot_s": np.array([0.01, 0.03])})

    assert from_json(Correction, to_json(found)) == found
    jsonschema.validate(plain(found), json_schema(Correction))
    assert len(found.points) == 2
    assert found.schema_ == "bytebound.correction/1"


def test_a_correction_of_other_effects_is_refused():
    """A document of another version names itself and is not laid on."""
    found = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot()})
    other = replace(found, effects=found.effects[:-1])

    with pytest.raises(RequestError, match="other effects"):
        bb.estimate(MODEL, MACHINE, WORK, correction=other)
    with pytest.raises(RequestError, match="calibrated predictions"):
        bb.estimate(MODEL, MACHINE, WORK, correction=replace(found, grade="calibrated"))


def test_unmeasured_costs_keep_their_prior():
    """A link that carries nothing is as unknown as before."""
    found = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot() * 1.2})
    link = next(each for each in found.effects if each.name == "scale-up-link")

    assert link.log_shift == 0
    assert link.log_sd == pytest.approx(link.prior_log_sd)


def test_the_prior_is_found_again():
    """Deployments drawn from a known prior give back how widely times differ; what none of them tells stays as stated."""
    rng = np.random.default_rng(1)
    made = effect(scale=0.3, weight_bandwidth=0.1, kv_bandwidth=0.25, overhead=0.8)
    work = MANY
    p = ours(work=work)
    groups = []
    for _ in range(80):
        world = with_effects(p, made * rng.standard_normal(len(EFFECTS))).value
        groups.append(Group(p, world * np.exp(0.02 * rng.standard_normal(len(world)))))
    start = Prior(np.full(len(EFFECTS), 0.2), 0.05)
    found = fit_prior(groups, start, rounds=150)
    at = dict(zip(EFFECTS, found.log_sd, strict=True))

    assert found.noise == pytest.approx(0.02, rel=0.15)
    assert at["overhead"] > 2 * at["compute"]
    assert log_sd(p, np.diag(found.log_sd**2), 0.0) == pytest.approx(log_sd(p, np.diag(made**2), 0.0), rel=0.25)
    assert at["scale-out-link"] == pytest.approx(0.2)
    with pytest.raises(UnfinishedError, match="2 deployments"):
        fit_prior(groups[:2], start)


def test_the_shipped_prior_is_possible():
    """Every effect has a width, and one point is better than a guess."""
    prior = shipped_prior()

    assert set(correction_prior()) == {*EFFECTS, "noise", "noise-loaded"}
    assert np.all((prior.log_sd > 0) & (prior.log_sd < 5))
    assert 0.005 < prior.noise < 0.3


def test_points_of_two_metrics_stand_together():
    """Stacked parts keep each metric's own time."""
    both = stacked([ours("tpot_s"), ours("tokens_per_s")])
    found = posterior(both, np.exp(log_seconds(both)), shipped_prior())

    assert isinstance(found, Posterior)
    assert found.mean == pytest.approx(0)
    assert np.all(log_sd(both, found.covariance, 0.0) < log_sd(both, np.diag(shipped_prior().log_sd ** 2), 0.0))


def spread(median, samples=20):
    return Spread(median * 0.95, median, median * 0.97, median * 1.1, samples)


def run(**changes):
    made = Run(id="run-1", when="2026-11-21T09:00:00+00:00", engine="vllm", engine_version="0.19", model=MODEL)
    return replace(made, **changes)


def test_steps_of_a_local_engine_become_points():
    """A decode step is a TPOT at its depth; a prefill pass a rate."""
    phases = (PhaseRun("prefill", spread(0.2), 1.0, 0.0, 512.0), PhaseRun("decode", spread(0.01), 2.0, 600.0, 2.0))
    prefill, decode = points_of_run(run(phases=phases), WORK)

    assert (prefill.metric, prefill.value, prefill.work.prompt) == ("prefill_tokens_per_s", 2560.0, 512.0)
    assert (decode.metric, decode.value, decode.work.batch, decode.work.prompt) == ("tpot_s", 0.01, 2.0, 600.0)
    assert decode.work.scheduling == "static"
    assert 0 < decode.noise < 0.05
    with pytest.raises(RequestError, match="measured no step"):
        points_of_run(run(), WORK)


def test_requests_of_a_server_become_points():
    """TPOT and TTFT at the loop's concurrency and mean lengths; an open loop has no batch."""
    requests = tuple(RequestRun(0.0, 0.0, 0.1, 1.1, 100.0 + i, 101.0) for i in range(8))
    step, first = points_of_run(run(requests=requests, load={"loop": "closed", "concurrency": 4.0}), WORK)

    assert step.value == pytest.approx(0.01)
    assert first.value == pytest.approx(0.1)
    assert (step.work.batch, step.work.prompt, step.work.output) == (4.0, 103.5, 101.0)
    with pytest.raises(RequestError, match="by the clock"):
        points_of_run(run(requests=requests, load={"loop": "open"}), WORK)
    failed = tuple(replace(each, error="refused") for each in requests)
    with pytest.raises(RequestError, match="answered to the end"):
        points_of_run(run(requests=failed, load={"loop": "closed"}), WORK)


def test_rows_of_a_truth_file_become_points():
    """One deployment, central statistics, metrics of time only."""
    row = Truth(
        id="t-1", source="made-up", locator="invented for this test", device="h100-sxm", engine="vllm",
        model="meta-llama/Llama-3.1-8B", metric="tpot_s", value=0.01, regime="closed-loop", work=WORK, statistic="mean",
    )  # fmt: skip
    assert points_of_truth([row])[0].value == 0.01
    for changed, word in ((replace(row, metric="kv_tokens"), "kv_tokens"), (replace(row, statistic="p99"), "p99")):
        with pytest.raises(RequestError, match=word):
            points_of_truth([changed])
    with pytest.raises(RequestError, match="values of device"):
        points_of_truth([row, replace(row, device="h200-sxm")])


def test_the_audit_and_fit_see_corrected_settings():
    """Whoever asks the setting gets corrected answers: one place, not two."""
    found = correct(MODEL, MACHINE, WORK, {"tpot_s": tpot() * 1.3})
    setting = correcting(SETTING, found, WORK)

    assert setting.answer(WORK)["tpot_s"][0] == pytest.approx(found.points[0].after.value)
    assert estimate_on(setting, WORK).tpot_s.value == pytest.approx(found.points[0].after.value)

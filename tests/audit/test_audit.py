"""The audit's laws: seeds, independence, conservation, scenarios, levers as re-runs, and its limits."""

from __future__ import annotations

from dataclasses import replace as replace_data
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bytebound as bb
from bytebound.audit import audit_fleet, starving
from bytebound.audit.starve import first_starvation, headroom
from bytebound.audit.surface import Axes, Surface
from bytebound.documents.fleet import parse_fleet
from bytebound.errors import ByteboundError

EXAMPLE = Path(__file__).parents[2] / "examples" / "fleet.toml"
ONE = """
name = "one"
start = "2026-12"
[[pool]]
name = "p"
device = "h100-sxm"
count = 16
price = "$2/h"
[[workload]]
name = "chat"
model = "meta-llama/Llama-3.1-8B"
pool = "p"
[workload.demand]
requests = "40/s"
prompt = 1000
output = 300
growth = 3.0
growth_sigma = 0.2
shared_prefix = "50%"
[workload.objective]
ttft = "1s"
tpot = "40ms"
"""


def audit(text: str, **options):
    return audit_fleet(parse_fleet(text), **{"draws": 400, **options})


def only(text: str, **options):
    return audit(text, **options).workloads[0]


def test_the_example_fleet():
    """Every workload is audited, at least ten levers are tried on each served one, and the first to starve is named."""
    found = bb.audit_fleet(EXAMPLE, draws=400)

    assert len(found.workloads) == 11
    assert found.fleet.first == found.workloads[0].name
    assert found.fleet.first in found.fleet.sentence
    for workload in found.workloads:
        tried = {fix.lever for fix in workload.fixes}
        assert len(tried) >= (6 if workload.kind in {"train", "finetune"} else 10), workload.name
        assert all(fix.reason for fix in workload.fixes)
        assert sum(fix.status == "recommended" for fix in workload.fixes) <= 1
        assert len(workload.headroom.p50) == 18
        assert workload.roofline
        for point in workload.roofline:
            assert (
                0
                < point.flop_per_s
                <= min(point.roof_flop_per_s * 4, point.intensity * point.roof_bytes_per_s * 1.0001)
            )


def test_the_same_seed_gives_the_same_audit_and_another_does_not():
    first, again, other = (audit(ONE, seed=seed) for seed in (1, 1, 2))

    assert first.workloads == again.workloads
    assert first.workloads[0].headroom != other.workloads[0].headroom


def test_a_neighbour_in_another_pool_changes_nothing():
    """One workload alone and the same beside others of another pool: the same draws, the same answer."""
    more = ONE + ONE[ONE.index("[[pool]]") :].replace('"p"', '"q"').replace('"chat"', '"neighbour"').replace(
        "40/s", "400/s"
    )
    alone = only(ONE)
    beside = next(w for w in audit(more).workloads if w.name == "chat")

    assert alone.headroom == beside.headroom
    assert alone.starves == beside.starves


@given(st.floats(1.0, 4.0), st.floats(1.0, 4.0), st.integers(4, 64), st.integers(0, 64))
def test_more_devices_never_starve_earlier_and_more_growth_never_later(slow, extra, count, added):
    def study(growth: float, devices: int):
        text = ONE.replace("growth = 3.0", f"growth = {growth}").replace("count = 16", f"count = {devices}")
        return only(text, draws=60).starves

    base, more, faster = study(slow, count), study(slow, count + added), study(slow * extra, count)

    assert more.probability <= base.probability
    assert faster.probability >= base.probability
    if more.month_p50 is not None:
        assert base.month_p50 <= more.month_p50


def test_need_is_demand_over_the_rate_at_the_objective():
    """The devices needed now are requests per second over what one replica sustains at its best batch."""
    found = only(ONE.replace("growth_sigma = 0.2", "growth_sigma = 0.0"), draws=5000)
    batch = np.arange(1, 257)
    estimate = bb.estimate("meta-llama/Llama-3.1-8B", "h100-sxm", bb.Serve(batch=batch, prompt=1000, output=300))
    allowed = (estimate.tpot_s.value <= 0.040) & (estimate.ttft_s.value <= 1.0) & estimate.memory.fits
    best = np.max(np.where(allowed, estimate.tokens_per_s.value, 0)) / 300

    assert found.need_devices.p50[0] == pytest.approx(40 / best, rel=0.12)  # batches step by √2, draws of model error
    assert found.headroom_now == pytest.approx(16 / found.need_devices.p50[0] - 1, rel=0.02)


def test_scenarios_make_it_worse():
    """A dearer memory raises every bill; a late roadmap starves no later."""
    late = ONE + '\n[[roadmap]]\npool = "p"\nwhen = "2027-03"\nadd = 32\n'
    base, dear, slipped = audit(late), audit(late, memory_price=2.0), audit(late, slip_months=6)

    assert dear.pools[0].usd_per_month[0] == pytest.approx(base.pools[0].usd_per_month[0] * 1.45)
    assert dear.scenario == ("memory price ×2",)
    assert slipped.workloads[0].starves.probability >= base.workloads[0].starves.probability
    assert slipped.pools[0].devices_by_month[5] < base.pools[0].devices_by_month[5]


def test_retirement_and_chance():
    base = audit(ONE + '\n[[roadmap]]\npool = "p"\nwhen = "2027-06"\nretire = 8\n')
    half = audit(ONE + '\n[[roadmap]]\npool = "p"\nwhen = "2027-06"\nadd = 8\nchance = 0.0\n')

    assert base.pools[0].devices_by_month == (16.0,) * 6 + (8.0,) * 12
    assert half.pools[0].devices_by_month == (16.0,) * 18


def test_a_fix_is_a_re_run():
    """fp8 weights: the effect shown is the ratio of the audited need with the deployment changed by hand."""
    base = only(ONE, draws=1000)
    shown = next(fix for fix in base.fixes if fix.lever == "fp8-weights")
    by_hand = only(ONE + '\n[workload.deployment]\nweights = "fp8"\n', draws=1000)

    assert by_hand.need_devices.p50[0] == pytest.approx(base.need_devices.p50[0] / shown.effect, rel=0.03)
    assert by_hand.starves.month_p50 == shown.starves_after.month_p50


def test_rules_refuse_with_a_reason():
    base = {fix.lever: fix for fix in only(ONE).fixes}
    a100 = {fix.lever: fix for fix in only(ONE.replace("h100-sxm", "a100-80gb-sxm")).fixes}

    assert base["kv-offload"].status == "rejected"
    assert "reused" in base["kv-offload"].reason
    assert base["prefix-cache"].status in {"helps", "recommended"}
    assert a100["fp8-weights"].status == "rejected"
    assert "fp8" in a100["fp8-weights"].reason
    assert "fp8" in a100["fp8-kv"].reason


def test_a_model_that_does_not_fit_is_capacity():
    found = only(ONE.replace("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-405B"))

    assert found.verdict_now == "capacity"
    assert found.starves.month_p50 == 0
    assert found.headroom_now == -1
    assert found.why == "the model does not fit"


def test_an_objective_nobody_meets():
    found = only(ONE.replace('tpot = "40ms"', 'tpot = "1ms"'))

    assert found.verdict_now == "objective"
    assert found.starves.resource == "objective"


def test_starving_within():
    found = audit(ONE.replace("40/s", "150/s"))
    month = found.workloads[0].starves.month_p50

    assert month is not None
    assert starving(found, month + 1) == ["chat"]
    assert starving(found, month) == []


def test_starvation_quantiles_by_hand():
    """Ten draws whose need passes supply in months 0 to 9: the quantiles are those months."""
    need = np.where(np.arange(12)[None, :] >= np.arange(10)[:, None], 2.0, 0.5)
    found = first_starvation(need, np.ones((10, 12)), np.zeros((10, 12), dtype=np.int64))

    assert (found.probability, found.month_p10, found.month_p50, found.month_p90) == (1.0, 0, 4, 8)
    assert headroom(need, np.ones((10, 12)))[0, 0] == -0.5


def test_interpolation_stays_between_its_points_and_keeps_infinities_local():
    axes = Axes(np.array([1.0, 2.0]), np.ones(1), np.ones(1))
    surface = Surface(
        axes, np.array([[[1.0]], [[4.0]]]), np.zeros((2, 1, 1), int), np.ones((5, 2, 1, 1)), np.ones((2, 1, 1))
    )
    seconds, _ = surface.at(np.array([1.0, np.sqrt(2), 2.0, 9.0]), np.ones(1), np.ones(1))
    edge = replace_data(surface, device_s=np.array([[[1.0]], [[np.inf]]]))
    near, _ = edge.at(np.array([1.1, 1.9]), np.ones(1), np.ones(1))

    assert seconds == pytest.approx([1.0, 2.0, 4.0, 4.0])
    assert near[0] == pytest.approx(1.0)
    assert near[1] == np.inf


def test_the_document_round_trips():
    found = audit(ONE)
    text = bb.to_json(found)

    assert '"schema": "bytebound.audit/1"' in text
    assert bb.to_json(bb.from_json(bb.Audit, text)) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("h100-sxm", "h100-smx"), "pool[0].device: unknown device 'h100-smx'; nearest: h100-sxm"),
        (("Llama-3.1-8B", "Llama-3.1-8C"), "workload[0].model (chat): unknown model"),
        (('pool = "p"', 'pool = "x"'), "no pool is called 'x'"),
        (("requests =", "request ="), "unknown key; nearest: requests"),
        (('"40/s"', '"40 per fortnight"'), "requests per second"),
        (("growth = 3.0", "growth = nan"), "finite"),
        (("growth = 3.0", "growth = -1"), "greater than 0"),
        (("prompt = 1000", "prompt = 0"), "greater than or equal to 1"),
        (("count = 16", "count = 1000000000000"), "less than or equal"),
        (('start = "2026-12"', 'start = "2026-13"'), "start"),
        (("[[pool]]", "[[pool"), "not TOML"),
        (("growth = 3.0", "model_growth = 1e308"), "less than or equal"),
    ],
)
def test_bad_fleets_are_one_clear_sentence(change, message):
    """Each names its place; none is a traceback."""
    with pytest.raises(ByteboundError) as caught:
        audit(ONE.replace(*change))

    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_places_carry_the_line():
    with pytest.raises(ByteboundError) as caught:
        parse_fleet(ONE.replace("growth = 3.0", "growth = 0"), place="fleet.toml")

    line = ONE.splitlines().index("growth = 3.0") + 1
    assert f"fleet.toml:{line}: workload[0].demand.growth" in str(caught.value)


def test_a_name_that_is_wrong_carries_file_and_line(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text(ONE.replace("h100-sxm", "h100-smx"))
    with pytest.raises(ByteboundError) as caught:
        audit_fleet(path)

    assert f"{path}:6: pool[0].device: unknown device 'h100-smx'; nearest: h100-sxm" in str(caught.value)


def test_an_empty_fleet_and_dates_that_go_backwards():
    with pytest.raises(ByteboundError, match="pool"):
        parse_fleet('name = "x"\nstart = "2026-12"\n')
    backwards = (
        ONE
        + '\n[[roadmap]]\npool = "p"\nwhen = "2027-06"\nadd = 1\n[[roadmap]]\npool = "p"\nwhen = "2027-01"\nadd = 1\n'
    )
    with pytest.raises(ByteboundError, match="dates go backwards"):
        parse_fleet(backwards)


@given(st.text(max_size=300))
def test_any_text_is_a_fleet_or_a_sentence(text):
    """No text makes the reader raise anything but our own errors."""
    try:
        parse_fleet(text)
    except ByteboundError as error:
        assert error.exit_code == 2


@given(st.integers(0, len(ONE)), st.characters(), st.integers(0, 40))
def test_damaged_fleets_are_a_fleet_or_a_sentence(position, character, length):
    try:
        parse_fleet(ONE[:position] + character + ONE[position + length :])
    except ByteboundError as error:
        assert str(error)

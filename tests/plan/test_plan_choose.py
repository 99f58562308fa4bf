"""Choosing is exact: the front, what stands for it, the split of a pool and the chance of an objective, each against brute force."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bytebound.errors import RequestError
from bytebound.plan.choose import MARGINS, Menu, front, readable, share_out
from bytebound.plan.objective import below, chance_of, quantile
from bytebound.plan.search import find_plan


def not_beaten(values):
    return {tuple(row) for row in values if not any((other <= row).all() and (other < row).any() for other in values)}


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        float,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
        elements=st.sampled_from([0.5, 1, 2, 3, 5, np.inf]),
    )
)
def test_the_front_is_exact_with_ties_and_unknowns(values):
    found = front(values)
    assert {tuple(values[i]) for i in found} == not_beaten(values)
    assert len({tuple(values[i]) for i in found}) == len(found)


@pytest.mark.parametrize("seed", range(2))
def test_the_front_of_many_is_exact(seed):
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(size=(700, 4)))
    values[rng.random(700) < 0.3] *= 1.5
    assert {tuple(values[i]) for i in front(values)} == not_beaten(values)


def test_a_row_that_beats_by_less_than_rounding_is_still_seen():
    values = np.array([[1.0, 1.0], [1.0, np.nextafter(1.0, 2)], [np.nextafter(1.0, 2), 1.0], [1.0, 1.0]])
    assert [tuple(values[i]) for i in front(values)] == [(1.0, 1.0)]


def test_what_is_shown_stands_for_what_is_not_within_the_margin():
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=(3000, 3)))
    values = values[front(values)]
    classes = rng.integers(0, 2, len(values))
    shown, margin = readable(values, classes, 24)
    assert margin in MARGINS
    assert len(shown) <= 24 or margin == MARGINS[-1]
    for row, kind in zip(values, classes, strict=True):
        stands = values[shown][classes[shown] == kind]
        assert (stands <= row * (1 + margin)).all(axis=1).any()
    everything, none = readable(values[:10], classes[:10], 24)
    assert (len(everything), none) == (10, 0.0)


menus = st.lists(
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 6), st.floats(0.1, 9)), min_size=1, max_size=5), min_size=1, max_size=4
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(menus, st.integers(0, 8), st.integers(0, 8))
def test_a_pool_is_split_as_well_as_any_split(options, first, second):
    built = [Menu(*(np.array(column) for column in zip(*each, strict=True))) for each in options]
    chosen = share_out(built, (first, second))
    best = math.inf
    for picks in itertools.product(*options):
        taken = [sum(devices for kind, devices, _ in picks if kind == k) for k in (0, 1)]
        if taken[0] <= first and taken[1] <= second:
            best = min(best, sum(score for _, _, score in picks))
    if chosen is None:
        assert best == math.inf
        return
    picks = [each[i] for each, i in zip(options, chosen, strict=True)]
    assert sum(score for _, _, score in picks) == pytest.approx(best)
    assert sum(devices for kind, devices, _ in picks if kind == 0) <= first
    assert sum(devices for kind, devices, _ in picks if kind == 1) <= second


def test_a_pool_with_too_many_ways_to_fill_it_is_refused():
    menu = Menu(np.array([0]), np.array([1]), np.array([1.0]))
    with pytest.raises(RequestError, match="ways to fill it"):
        share_out([menu], (10_000, 10_000))


def test_models_share_a_pool_as_well_as_any_split_by_hand():
    ranges = {
        "batch": (4, 16, 64),
        "weights": ("auto",),
        "kv": ("auto",),
        "chunk": (0,),
        "disaggregated": "no",
        "pp": (1,),
    }
    asked = {"prompt": 1000, "output": 200, "ranges": ranges}
    models, demand, meet = ["llama-3.1-8b", "qwen3-14b"], [30, 20], "tpot<60ms"
    there = {"h100-sxm": 3, "l40s": 20}

    @cache
    def alone(i, kind, left):
        found = find_plan(models[i], demand=demand[i], meet=meet, devices=kind, max_devices=left, **asked).best
        return math.inf if found is None else found.usd_per_month.value

    best = math.inf
    for split in itertools.product(*(range(count + 1) for count in there.values())):
        total = 0.0
        for i in range(2):
            prices = []
            for (kind, count), mine in zip(there.items(), split, strict=True):
                left = mine if i == 0 else count - mine
                if left:
                    prices.append(alone(i, kind, left))
            total += min(prices, default=math.inf)
        best = min(best, total)
    shared = find_plan(models, demand=demand, meet=meet, pool="3x h100-sxm, 20x l40s", **asked)
    assert shared.infeasible_because is None
    assert shared.usd_per_month == pytest.approx(best)
    by_kind = {kind: sum(each.best.devices for each in shared.models if each.best.device == kind) for kind in there}
    assert all(by_kind[kind] <= count for kind, count in there.items())
    assert {each.best.device for each in shared.models} == set(there)  # neither kind alone is the answer


def test_a_pool_too_small_for_all_says_by_how_much():
    small = find_plan(
        ["llama-3.1-8b", "qwen3-14b"], demand=[60, 60], prompt=1000, output=200, pool="4x h100-sxm", meet="tpot<60ms"
    )
    assert small.best is None
    assert small.infeasible_because.limit == "devices"
    assert "4" in small.infeasible_because.sentence
    need = int(small.infeasible_because.mend.split()[3])
    larger = find_plan(
        ["llama-3.1-8b", "qwen3-14b"],
        demand=[60, 60],
        prompt=1000,
        output=200,
        pool=f"{need}x h100-sxm",
        meet="tpot<60ms",
    )
    assert larger.infeasible_because is None
    assert larger.devices <= need


def test_chances_agree_with_a_simulation():
    rng = np.random.default_rng(1)
    n, rho = 400_000, 0.4
    x = rng.normal(size=n)
    y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=n)
    first, each, steps = np.array([0.3, 0.6, 0.9, 0.2]), np.array([0.02, 0.03, 0.012, 0.05]), 199.0
    for bounds in (
        {"ttft": 0.7},
        {"tpot": 0.03},
        {"ttft": 0.7, "tpot": 0.03},
        {"request": 5.0},
        {"ttft": 0.8, "tpot": 0.04, "request": 6.0},
    ):
        found = chance_of(first, each, bounds, first_sd=0.35, each_sd=0.2, steps=steps, correlation=rho)
        ttft, tpot = first[:, None] * np.exp(0.35 * x), each[:, None] * np.exp(0.2 * y)
        met = np.ones(ttft.shape, dtype=bool)
        for name, took in (("ttft", ttft), ("tpot", tpot), ("request", ttft + steps * tpot)):
            met &= took <= bounds.get(name, np.inf)
        assert found == pytest.approx(met.mean(axis=1), abs=0.005), bounds


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 5), st.floats(0.001, 0.2), st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0, 0.95))
def test_a_chance_is_one_and_falls_with_every_bound_that_is_added(first, each, first_sd, each_sd, correlation):
    def chance(**bounds):
        return float(
            chance_of(
                np.array(first),
                np.array(each),
                bounds,
                first_sd=first_sd,
                each_sd=each_sd,
                steps=99,
                correlation=correlation,
            )
        )

    one, both, all_three = chance(ttft=1), chance(ttft=1, tpot=0.05), chance(ttft=1, tpot=0.05, request=4)
    assert 0 <= all_three <= both + 1e-6 <= one + 2e-6 <= 1 + 2e-6
    assert chance() == 1
    assert chance(ttft=2, tpot=0.05) >= both - 1e-6
    assert chance(tpot=0.05) * one <= both + 0.01  # errors that go together never make both less likely


def test_an_unknown_time_meets_nothing():
    assert chance_of(np.array([np.nan]), np.array([0.1]), {"ttft": 1}, first_sd=0.1, each_sd=0.1, steps=1) == 0
    assert chance_of(np.array([0.1]), np.array([np.nan]), {"ttft": 1}, first_sd=0.1, each_sd=0.1, steps=0) > 0.99
    z = np.linspace(-4, 4, 50)
    assert quantile(below(z)) == pytest.approx(z, abs=1e-3)


def test_no_deployment_takes_more_of_a_kind_than_the_pool_has():
    there = {"h100-sxm": 2, "l4": 3}
    found = find_plan("llama-3.1-8b", demand=9, prompt=1000, output=200, pool="2x h100-sxm, 3x l4", meet="tpot<80ms")
    assert found.best is not None
    assert all(each.devices <= there[each.device] for each in found.front)
    why = find_plan(
        "llama-3.1-8b", demand=500, prompt=1000, output=200, pool="2x h100-sxm, 3x l4", meet="tpot<80ms"
    ).infeasible_because
    assert why.limit == "devices"
    assert why.nearest.device == "h100-sxm"
    assert f"{why.nearest.devices} devices at the least, and 2 are the most" in why.sentence

"""Sets of levers are re-run and never multiplied; rankings are in the order they state, refusals last."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from bytebound.documents.proof import Proof
from bytebound.documents.work import Serve, Train
from bytebound.errors import RequestError, UnknownNameError
from bytebound.plan.cards import CARDS, find_lever
from bytebound.plan.case import Case, Refusal
from bytebound.plan.compose import apply_all, cautions_of, conflict, in_order
from bytebound.plan.rank import OUTCOMES, QUALITIES, SORTS, case_of, effect_of, rank, ranking
from bytebound.plan.spot import look
from bytebound.plan.today import batches, today_of
from bytebound.predict.estimate import settle

LLAMA = "meta-llama/Meta-Llama-3.1-8B"
SETTING = settle(LLAMA, "8x h100-sxm", "vllm")


def case(objective=None, setting=SETTING, **asked):
    work = Serve(**({"batch": 48, "prompt": 6000, "output": 800} | asked))
    return case_of(setting, work, objective=objective, shared_prefix=0.4)


def test_a_set_is_what_its_levers_give_one_after_the_other():
    before = case()
    found = apply_all(before, ["fp8-kv", "prefix-cache", "fp8-weights"])
    by_hand = before
    for name in in_order(["fp8-kv", "prefix-cache", "fp8-weights"]):
        by_hand = find_lever(name).lever.apply(by_hand, today_of(by_hand))

    assert isinstance(found, Case)
    assert found.work == by_hand.work
    assert (found.work.weights, found.work.kv, found.work.prefix_hit) == ("fp8", "fp8", 0.4)


def test_a_set_is_the_same_in_any_order_and_never_a_product():
    before = case()
    spot = look(before)
    names = ("fp8-weights", "fp8-kv", "prefix-cache")
    rates = {float(effect_of(before, spot, order).speed.value) for order in permutations(names)}
    alone = np.prod([float(effect_of(before, spot, [name]).speed.value) for name in names])

    assert len(rates) == 1
    asked = replace(before.work, weights="fp8", kv="fp8", prefix_hit=0.4)
    direct = SETTING.answer(asked)["tokens_per_s"][0] / SETTING.answer(before.work)["tokens_per_s"][0]
    assert rates.pop() == pytest.approx(float(direct))
    assert direct != pytest.approx(alone, rel=0.01)


def test_rules_see_the_case_as_it_is_by_then():
    """KV is worth quantizing only once weights are small: the second lever is judged after the first."""
    before = case(batch=4, prompt=3000)
    alone = find_lever("fp8-kv").lever.apply(before, today_of(before))
    together = apply_all(before, ["int4-weights", "fp8-kv"])

    assert isinstance(alone, Refusal)
    assert isinstance(together, Case)


@pytest.mark.parametrize(
    "names", [("fp8-weights", "int4-weights"), ("fp8-kv", "int4-kv"), ("double-tp", "halve-tp"), ("prefix-cache", "kv-eviction"), ("lora", "qlora"), ("larger-batch", "smaller-batch")]
)  # fmt: skip
def test_conflicts_are_refused_by_name(names):
    found = apply_all(case(), names)

    assert isinstance(found, Refusal)
    assert all(name in found.reason for name in names)
    assert conflict(names)


def test_a_refused_part_refuses_the_set_and_is_named():
    found = apply_all(case(), ["fp8-weights", "mla-model"])

    assert isinstance(found, Refusal)
    assert found.reason.startswith("mla-model: ")
    with pytest.raises(RequestError, match="latent attention"):
        cautions_of(case(), ["mla-model"])
    with pytest.raises(UnknownNameError, match="fp8-kv"):
        apply_all(case(), ["fp8-kvs"])


def test_a_lever_given_twice_counts_once():
    assert in_order(["fp8-kv", "fp8-weights", "fp8-kv"]) == ("fp8-kv", "fp8-weights")
    assert in_order(["speculative-decoding", "larger-batch", "double-tp"]) == (
        "double-tp",
        "larger-batch",
        "speculative-decoding",
    )


@pytest.mark.parametrize("sort", SORTS)
def test_a_ranking_is_in_the_order_it_states(sort):
    found = rank(case(), sort=sort)
    places = [OUTCOMES.index(effect.outcome) for effect in found]
    tried = [effect for effect in found if effect.outcome == "helps"]
    key = {
        "time": lambda effect: -float(effect.speed.value),
        "money": lambda effect: effect.usd,
        "memory": lambda effect: effect.memory,
        "quality": lambda effect: QUALITIES.index(effect.quality),
    }[sort]

    assert places == sorted(places)
    assert len(tried) >= 3
    assert [key(effect) for effect in tried] == sorted(key(effect) for effect in tried)
    assert {effect.levers[0] for effect in found} == {name for name, card in CARDS.items() if "serve" in card.kinds}
    assert all(effect.reason for effect in found)
    assert all(effect.speed is None and not effect.next_wall for effect in found if "another" in effect.reason)


def test_every_effect_has_what_a_reader_needs():
    for effect in rank(case(objective={"ttft": 2.0, "tpot": 0.05})):
        assert effect.binds
        assert effect.source
        if effect.outcome in {"helps", "prove-first", "little-effect", "hurts"}:
            assert effect.next_wall
            assert effect.speed is None or effect.speed.low < effect.speed.value < effect.speed.high
            assert effect.flag or CARDS[effect.levers[0]].group in {"hardware", "request", "sparsity", "sharding"}, (
                effect.levers
            )


def test_an_objective_is_met_at_the_best_batch_of_brute_force():
    bounds = {"ttft": 1.0, "tpot": 0.03}
    found = look(case(objective=bounds))
    every = np.arange(1, 257)
    named = SETTING.answer(Serve(batch=every, prompt=6000, output=800))
    good = (named["fits"] > 0) & (named["ttft_loaded_s"] <= 1.0) & (named["tpot_s"] <= 0.03)
    best = float(np.where(good, named["tokens_per_s"], 0).max())

    assert found.meets
    assert found.tpot <= 0.03
    assert 0.8 * best < found.rate <= best
    assert found.batch in batches(256)


def test_an_objective_nobody_meets_is_said():
    found = rank(case(objective={"tpot": 1e-5}))

    assert not look(case(objective={"tpot": 1e-5})).runs
    assert {effect.outcome for effect in found} == {"refused"}
    assert any("meets the objective at no batch" in effect.reason for effect in found)


def test_what_makes_a_model_run_is_found():
    small = case_of(settle(LLAMA, "rtx-3060-12gb", "vllm"), Serve(batch=1, prompt=1000, output=100))
    outcomes = {effect.levers[0]: effect for effect in rank(small)}

    assert outcomes["int4-weights"].outcome == "helps"
    assert "runs, which it did not before" in outcomes["int4-weights"].reason
    assert outcomes["int4-weights"].binds == "capacity"
    assert outcomes["int4-weights"].speed is None
    assert outcomes["larger-batch"].outcome == "refused"


def proof(lever, effect, verdict="confirmed"):
    return Proof(
        id="proof-7", when="2026-11-21T20:00:00+00:00", lever=lever, title="", engine="vllm", engine_version="", model="", machine="h100-sxm",
        before={}, after={}, compared=(), verdict=verdict, effect=effect, sentence="it was slower", rounds=5, disturbed=0.0, seconds=1.0,
        real_weights=False,
    )  # fmt: skip


def test_sets_come_first_and_proofs_are_named():
    found = ranking(case(), sets=[("fp8-weights", "fp8-kv")], proven={"fp8-kv": proof("fp8-kv", "hurts")})

    assert found.effects[0].levers == ("fp8-weights", "fp8-kv")
    assert found.effects[0].proven == "proof-7"
    assert found.effects[0].outcome == "helps"
    assert "--quantization fp8" in found.effects[0].flag
    assert "--kv-cache-dtype fp8" in found.effects[0].flag
    assert found.work["prompt"] == 6000


@pytest.mark.parametrize(
    ("effect", "verdict", "sort", "outcome"),
    [
        ("hurts", "confirmed", "time", "hurts"),
        ("hurts", "refuted", "time", "hurts"),
        ("no-effect", "confirmed", "time", "little-effect"),
        ("saves-memory", "confirmed", "time", "little-effect"),
        ("saves-memory", "confirmed", "memory", "helps"),
        ("helps", "confirmed", "time", "helps"),
        ("hurts", "inconclusive", "time", "prove-first"),
    ],
)
def test_a_proof_here_outweighs_a_caution(effect, verdict, sort, outcome):
    """Speculation at this batch is to be proven; once it was, the proof speaks."""
    before = case(batch=32, prompt=1000)
    found = effect_of(
        before, look(before), ["speculative-decoding"], sort=sort, proven={"speculative-decoding": proof("speculative-decoding", effect, verdict)}
    )  # fmt: skip

    assert found.outcome == outcome
    assert bool(found.proven) == (verdict != "inconclusive")
    assert ("it was slower" in found.reason) == (verdict != "inconclusive")


def test_money_counts_the_devices():
    """Twice the devices for less than twice the rate costs more per token."""
    by = {effect.levers[0]: effect for effect in rank(case(tp=2))}

    assert float(by["double-tp"].speed.value) < 2
    assert by["double-tp"].usd == pytest.approx(2 / float(by["double-tp"].speed.value))


def test_training_is_ranked_by_the_same_rules():
    setting = settle(LLAMA, "8x h100-sxm", "vllm")
    found = rank(case_of(setting, Train(seq=4096, dp=8, global_batch=64), kind="finetune"))
    by = {effect.levers[0]: effect for effect in found}

    assert set(by) == {name for name, card in CARDS.items() if "finetune" in card.kinds}
    assert by["fp8-training"].outcome == "helps"
    assert 1.0 < float(by["fp8-training"].speed.value) < 2.0
    assert by["8-bit-optimizer"].memory < 1
    assert "rule 15" in by["full-recompute"].reason


def test_an_unknown_order_is_refused():
    with pytest.raises(RequestError, match="cannot sort by 'luck'"):
        rank(case(), sort="luck")

"""Names of plans: what they stand for, in which order they are applied, and what is no plan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytebound.errors import QuantityError, RequestError, UnknownNameError
from bytebound.plan.compose import conflict
from bytebound.sweep.plans import expand, quality_of, steps

DEVICES = ("b200-sxm", "vr200")
STEPS = ("fp8-weights", "fp8-kv", "larger-batch", "shorter-context", "roadmap-device:vr200", "more-devices:16")


def test_the_words_stand_for_every_lever_of_the_fleets_kinds_and_every_roadmap_device():
    """A fleet that only serves is not offered what only training has, and as-is is always among the plans."""
    serving, training = (expand(["levers"], kinds=[kind], devices=DEVICES) for kind in ("serve", "train"))

    assert serving[0] == training[0] == "as-is"
    assert {"fp8-weights", "roadmap-device:b200-sxm", "roadmap-device:vr200"} <= set(serving)
    assert "full-recompute" in training
    assert "full-recompute" not in serving


def test_pairs_are_every_two_levers_that_go_together():
    pairs = [name.split("+") for name in expand(["pairs"], kinds=["serve"], devices=()) if "+" in name]

    assert ["fp8-weights", "fp8-kv"] in pairs
    assert not any(conflict(pair) for pair in pairs)
    assert len(pairs) > 100


@given(st.permutations(STEPS), st.integers(1, len(STEPS)))
def test_a_plan_is_one_plan_however_its_steps_are_given(order, count):
    """The order of the steps does not matter; a move comes first and devices last."""
    name = "+".join(order[:count])
    once = steps(name, DEVICES)

    assert sorted(once) == sorted(order[:count])
    assert steps("+".join(once), DEVICES) == once == steps("+".join(reversed(once)), DEVICES)
    assert "more-devices:16" not in once[:-1]
    assert "roadmap-device:vr200" not in once[1:]


def test_the_quality_of_a_plan_is_its_lowest():
    assert quality_of("as-is") == quality_of("more-devices:8") == "lossless"
    assert quality_of("larger-batch+fp8-kv") == "near-lossless"
    assert quality_of("fp8-kv+shorter-context") == "any"


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("fp8-weight", UnknownNameError, "fp8-weights"),
        ("roadmap-device:h900", UnknownNameError, "roadmap-device"),
        ("more-devices", QuantityError, "more-devices:16"),
        ("more-devices:0", QuantityError, "no number"),
        ("more-devices:²", QuantityError, "no number"),
        ("fp8-kv+fp8-kv", RequestError, "twice"),
        ("more-devices:1+more-devices:2", RequestError, "twice"),
        ("fp8-weights+int4-weights", RequestError, "do not combine"),
        ("", UnknownNameError, "unknown plan ''"),
    ],
)
def test_what_is_no_plan_is_said_to_be_none(name, error, said):
    with pytest.raises(error) as caught:
        expand([name], kinds=["serve"], devices=DEVICES)

    assert said in str(caught.value)
    assert caught.value.place == "--plans"

"""What nobody meets: the limit that forbids it is named, and the mend is true."""

from __future__ import annotations

import shlex

import pytest

from bytebound.documents.plan import read_objective
from bytebound.plan.search import find_plan

MODEL = "meta-llama/Llama-3.1-8B"
ASKED = {
    "demand": "5/s",
    "prompt": 1500,
    "output": 300,
    "devices": "h100-sxm,l4",
    "ranges": {"chunk": "0", "disaggregated": "no"},
}
FLAGS = {
    "--for": "meet",
    "--max-devices": "max_devices",
    "--budget": "usd_per_month",
    "--quality": "quality",
    "--sure": "sure",
}


def mended(asked, mend):
    """The question with the flags of a mend."""
    words = shlex.split(mend)
    changes = {FLAGS[flag]: value for flag, value in zip(words[::2], words[1::2], strict=True)}
    for name in ("max_devices", "usd_per_month", "sure"):
        if name in changes:
            changes[name] = float(changes[name]) if name != "max_devices" else int(changes[name])
    return asked | changes


@pytest.mark.parametrize(
    ("limit", "changes"),
    [
        ("ttft", {"meet": "ttft<20ms,tpot<50ms"}),
        ("tpot", {"meet": "ttft<1s,tpot<1ms"}),
        ("request", {"meet": "request<100ms"}),
        ("devices", {"meet": "tpot<50ms", "demand": "500/s", "max_devices": 2}),
        ("budget", {"meet": "tpot<50ms", "usd_per_month": 100}),
        ("probability", {"meet": "tpot<5ms,ttft<80ms", "sure": 0.99, "ranges": {"tp": "1", "pp": "1", "chunk": "0", "disaggregated": "no"}}),
        ("quality", {"meet": "tpot<6ms", "quality": "lossless", "demand": "1/s", "ranges": {"tp": "1", "pp": "1", "chunk": "0", "disaggregated": "no"}}),
    ],
)  # fmt: skip
def test_the_limit_is_named_and_its_mend_works(limit, changes):
    asked = ASKED | changes
    found = find_plan(MODEL, **asked)
    why = found.infeasible_because
    assert found.best is None
    assert found.front == ()
    assert found.usd_per_month is None
    assert why.limit == limit
    assert MODEL in why.sentence or limit == "quality"
    assert why.nearest is not None
    assert why.nearest.devices >= 1
    after = find_plan(MODEL, **mended(asked, why.mend))
    assert after.infeasible_because is None, why.mend


def test_the_mend_asks_for_no_more_than_is_needed():
    asked = ASKED | {"meet": "ttft<20ms,tpot<50ms"}
    why = find_plan(MODEL, **asked).infeasible_because
    bound = read_objective(mended(asked, why.mend)["meet"])["ttft"]
    assert find_plan(MODEL, **(asked | {"meet": f"ttft<{bound * 0.85}s,tpot<50ms"})).best is None


def test_nothing_fits():
    why = find_plan("llama-3.1-405b", demand=1, devices="l4", max_devices=4, quality="any").infeasible_because
    assert why.limit == "capacity"
    assert why.nearest is None
    assert "GiB" in why.sentence
    assert "larger device" in why.mend


def test_several_limits_at_once_are_all_in_the_mend():
    asked = ASKED | {"devices": "l4", "meet": "tpot<1ms,ttft<10ms", "max_devices": 1}
    why = find_plan(MODEL, **asked).infeasible_because
    assert why.limit in {"tpot", "ttft", "devices"}
    assert "none would with one of them lifted" in why.sentence
    assert find_plan(MODEL, **mended(asked, why.mend)).best is not None


def test_an_infeasible_model_does_not_hide_the_others():
    both = find_plan([MODEL, "llama-3.1-405b"], demand=1, devices="l4", max_devices=4, quality="any")
    assert both.models[0].best is not None
    assert both.models[1].best is None
    assert both.infeasible_because.limit == "capacity"
    assert both.devices is None

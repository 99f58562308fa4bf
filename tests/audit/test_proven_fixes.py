"""Fixes follow the planner, cautions and proofs: what was measured on the same kind of machine decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bytebound.audit import audit_fleet
from bytebound.documents.fleet import parse_fleet
from bytebound.documents.proof import Proof

SERVED = """
schema = "bytebound.fleet/1"
name = "one"
start = "2026-12"
[[pool]]
name = "gpus"
device = "h100-sxm"
count = 640
node = 8
[[workload]]
name = "chat"
model = "meta-llama/Llama-3.1-70B"
pool = "gpus"
[workload.deployment]
tp = {tp}
weights = "{weights}"
batch = 64
[workload.demand]
requests = "400/s"
prompt = 1200
output = 350
growth = 2.5
[workload.objective]
ttft = "2s"
tpot = "60ms"
"""
AT_HOME = """
schema = "bytebound.fleet/1"
name = "desk"
start = "2026-12"
[[pool]]
name = "desk"
device = "epyc-9654"
count = 1
[[workload]]
name = "notes"
kind = "edge"
model = "meta-llama/Llama-3.1-8B"
pool = "desk"
quality_floor = "any"
[workload.deployment]
engine = "llama.cpp"
[workload.demand]
prompt = 16
output = 2000
context_growth = 2.0
[workload.objective]
tpot = "60ms"
"""
PROOF = Proof(
    id="p", when="2026-11-21T12:00:00+00:00", lever="q8_0-weights", title="", engine="llama.cpp", engine_version="1", model="m",
    machine="epyc-9654", before={}, after={}, compared=(), verdict="confirmed", effect="helps", sentence="decode took 0.6 times as long",
    rounds=5, disturbed=0.0, seconds=1.0, real_weights=False,
)  # fmt: skip


def fix_of(found, lever):
    (fix,) = (fix for fix in found.workloads[0].fixes if fix.lever == lever)
    return fix


def test_a_workload_at_risk_is_planned_anew_and_the_plan_holds_when_it_is_written_down():
    """What the planner's fix promises is what an audit of the fleet says in which it was carried out."""
    fleet = parse_fleet(SERVED.format(tp=8, weights="auto"))
    before = audit_fleet(fleet, draws=500)
    fix = fix_of(before, "plan")
    assert before.workloads[0].starves.probability > 0.1
    assert fix.effect > 1.1

    assert fix.title.startswith("Deploy anew: tp 8 → ")
    words = dict(part.rsplit(" ", 3)[::3] for part in fix.title.removeprefix("Deploy anew: ").split(", "))
    text = SERVED.format(tp=words["tp"], weights=words.get("weights", "auto"))
    stated = {name: value for name, value in words.items() if name not in {"tp", "weights", "batch"}}
    spelt = {"yes": "true", "no": "false"}
    lines = [f'kv = "{v}"' if k == "kv" else f"{k.replace(' ', '_')} = {spelt.get(v, v)}" for k, v in stated.items()]
    text = text.replace("batch = 64", "\n".join([f"batch = {words.get('batch', 64)}", *lines]))
    after = audit_fleet(parse_fleet(text), draws=500)
    assert after.workloads[0].headroom_now + 1 == pytest.approx(
        fix.effect * (before.workloads[0].headroom_now + 1), rel=0.1
    )


def test_a_proof_on_the_same_kind_of_machine_and_engine_decides():
    """A lever proven to hurt is rejected, one proven to help says by which run, and other machines' proofs say nothing."""
    fleet = parse_fleet(AT_HOME)
    unproven = fix_of(audit_fleet(fleet, draws=200), "q8_0-weights")
    assert unproven.status in {"helps", "recommended"}
    assert unproven.proven == ""

    helped = fix_of(audit_fleet(fleet, draws=200, proofs=(PROOF,)), "q8_0-weights")
    assert helped.status == unproven.status
    assert "decode took 0.6 times as long (llama.cpp on epyc-9654, 2026-11-21)" in helped.proven

    hurt = fix_of(audit_fleet(fleet, draws=200, proofs=(replace(PROOF, effect="hurts"),)), "q8_0-weights")
    assert hurt.status == "rejected"

    for other in (
        replace(PROOF, machine="h100-sxm"),
        replace(PROOF, engine="vllm"),
        replace(PROOF, verdict="inconclusive"),
    ):
        assert fix_of(audit_fleet(fleet, draws=200, proofs=(other,)), "q8_0-weights") == unproven


def test_what_was_measured_to_hurt_elsewhere_is_never_recommended_unproven():
    """On a processor a quantized cache gains room and no speed: where it would help by the ledger, a proof is asked for."""
    found = audit_fleet(parse_fleet(AT_HOME.replace("prompt = 16", "prompt = 60000")), draws=200)
    cautious = [fix for fix in found.workloads[0].fixes if fix.lever in {"int8-kv", "int4-kv", "speculative-decoding"}]
    assert any(fix.status == "prove-first" for fix in cautious)
    assert not any(fix.status in {"helps", "recommended"} for fix in cautious)
    proof = replace(PROOF, lever="int8-kv")
    assert fix_of(audit_fleet(parse_fleet(AT_HOME.replace("prompt = 16", "prompt = 60000")), draws=200, proofs=(proof,)), "int8-kv").status in {
        "helps", "recommended", "little-effect",
    }  # fmt: skip

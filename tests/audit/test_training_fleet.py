"""Fine-tuning and training in a fleet: memory starvation is named, priced, and mended by what the framework runs."""

from __future__ import annotations

import pytest

import bytebound as bb
from bytebound.audit import audit_fleet
from bytebound.documents.fleet import Job, parse_fleet

HEAD = """
schema = "bytebound.fleet/1"
name = "trainers"
start = "2026-12"
[[pool]]
name = "cards"
device = "{device}"
count = 16
node = 2
price = "$0.4/h"
[[workload]]
name = "job"
kind = "finetune"
model = "{model}"
pool = "cards"
quality_floor = "any"
[workload.job]
tokens = 2e7
days = 2
global_batch = 16
"""
QLORA = 'seq = 512\ndp = 2\ntrainable = "qlora"\nrecompute = "full"\nframework = "hf"\n'


def audited(job, device="rtx-4090", model="meta-llama/Llama-3.1-70B"):
    return audit_fleet(parse_fleet(HEAD.format(device=device, model=model) + job), draws=400)


def test_a_job_that_does_not_fit_is_named_and_mended():
    """70B in 4 bits on two 24 GB cards fits with parameters in host memory, as FSDP with QLoRA showed (Answer.AI, 2024-03)."""
    (job,) = audited(QLORA).workloads
    fixes = {fix.lever: fix for fix in job.fixes}

    assert job.verdict_now == "capacity"
    assert job.starves.probability > 0.8
    assert fixes["optimizer-offload"].status == "recommended"
    assert fixes["context-parallel"].reason == "hf has no cp for adapters"
    assert fixes["optimizer-offload"].usd_per_month == pytest.approx(2 * 0.4 * 730, rel=0.15)


def test_a_job_is_refused_as_its_verb_refuses_it():
    with pytest.raises(bb.ByteboundError, match="no fp8 matrix rate"):
        audited('precision = "fp8-mixed"\n', device="a100-80gb-sxm", model="meta-llama/Llama-3.1-8B")
    with pytest.raises(bb.ByteboundError, match="does not divide"):
        audited("tp = 3\n", model="meta-llama/Llama-3.1-8B")


def test_every_field_of_a_request_is_one_of_a_job():
    """A fleet may state whatever ``bytebound train`` may; growth is the demand's."""
    assert {"days", *bb.Train.__dataclass_fields__} - {"model_scale"} == set(Job.model_fields)

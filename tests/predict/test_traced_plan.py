"""Traced code under a parallel plan on a machine: laws of the band and of memory, what is refused, and what the verb shows."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch")

from bytebound import cli
from bytebound.documents.trace_estimate import TraceEstimate
from bytebound.documents.values import from_json, to_json
from bytebound.documents.work import Train
from bytebound.errors import RequestError, UnknownNameError
from bytebound.facts.machines import find_machine
from bytebound.models import read_model
from bytebound.predict.traced import estimate_trace
from bytebound.predict.traced_plan import precision_of, request_plan, told
from bytebound.report.page import Page
from bytebound.report.trace import trace_text
from bytebound.report.trace_html import trace_html
from bytebound.trace.run import trace_module

if TYPE_CHECKING:
    from pathlib import Path

    from bytebound.documents.trace import Trace

CODE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.norm = nn.LayerNorm(512)
        self.names = names
        setattr(self, names[0], nn.Linear(512, 2048))
        setattr(self, names[1], nn.Linear(2048, 512))
    def forward(self, x):
        first, second = (getattr(self, name) for name in self.names)
        return x + second(torch.relu(first(self.norm(x))))

class Net(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.embed_tokens = nn.Embedding(4000, 512)
        self.blocks = nn.ModuleList(Block(names) for _ in range(8))
        self.lm_head = nn.Linear(512, 4000)
    def forward(self, ids):
        x = self.embed_tokens(ids)
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(self.lm_head(x).flatten(0, 1), ids.flatten())

def known():
    return Net(("up_proj", "down_proj")), (torch.zeros(4, 256, dtype=torch.long),)

def unknown():
    return Net(("a", "b")), (torch.zeros(4, 256, dtype=torch.long),)
"""
MACHINE = "8x h100-sxm"


@cache
def traced(function: str) -> Trace:
    code: dict[str, Any] = {"__name__": "code"}
    exec(CODE, code)  # noqa: S102 - the code above
    trace = trace_module(lambda: code[function]()[0], lambda: code[function]()[1], precision="fp32", name=function)
    return replace(trace, samples=4.0, seq=256.0)


def asked(function: str = "known", machine: str = MACHINE, **stated: Any) -> TraceEstimate:
    trace = traced(function)
    plan, assumed = request_plan(stated, find_machine(machine), trace=trace)
    return estimate_trace(trace, machine, plan=plan, assumed=assumed)


def test_one_device_holds_what_was_traced() -> None:
    """On one device every category is the trace's, nothing is said and nothing waits; the work is the step's."""
    found = asked(machine="h100-sxm", zero=0)
    plan, held = found.plan, traced("known").peak.held
    assert plan is not None
    memory = plan.memory
    assert (memory.parameters, memory.gradients, memory.optimizer, memory.activations, memory.temporary) == (
        held.parameters, held.gradients, held.optimizer, held.activations, held.temporaries,
    )  # fmt: skip
    assert plan.exchanges == ()
    assert plan.bubble_share == plan.high["scale_up_link"] == plan.high["scale_out_link"] == 0
    assert sum(op.flops for op in plan.operators) == pytest.approx(traced("known").flops)
    assert plan.samples_per_s_high == pytest.approx(4 / plan.low_s)


@pytest.mark.parametrize(
    "stated", [{"zero": 0}, {"zero": 3}, {"tp": 2}, {"pp": 4, "zero": 1}, {"tp": 2, "pp": 2, "zero": 2}]
)
def test_parts_add_up_and_the_band_is_one(stated: dict[str, Any]) -> None:
    """Parts of a step add up to it, fused is no slower, and the fullest device holds less than the one that does everything."""
    found = asked(**stated)
    plan = found.plan
    assert plan is not None
    assert sum(plan.low.values()) == pytest.approx(plan.low_s)
    assert sum(plan.high.values()) == pytest.approx(plan.high_s)
    assert 0 < plan.low_s <= plan.high_s
    assert plan.memory.low_bytes <= plan.memory.total_bytes <= plan.memory.high_bytes
    states = plan.memory.parameters + plan.memory.optimizer
    assert states <= found.trace.peak.held.parameters + found.trace.peak.held.optimizer
    assert plan.devices == 8


def test_devices_share_the_work() -> None:
    """Products of all devices add up to the step's, whoever does them."""
    products = ("mm", "addmm")
    trace = traced("known")
    whole = sum(op.flops for op in trace.operators if op.name in products)
    for stated in ({"zero": 3}, {"tp": 4, "dp": 2}, {"pp": 4, "dp": 2, "tp": 1, "zero": 0}):
        plan = asked(**stated).plan
        assert plan is not None
        done = sum(part.flops for op, part in zip(trace.operators, plan.operators, strict=True) if op.name in products)
        assert done * plan.devices == pytest.approx(whole * plan.work["global_batch"] / 4)


def test_twice_the_link_never_waits_longer() -> None:
    """A faster network shortens exposed exchanges and nothing else."""
    machine = find_machine("2x(8x h100-sxm)")
    trace = traced("known")
    plan, _ = request_plan({"zero": 3}, machine, trace=trace)
    rate = machine.device.scaleout_bytes_per_s
    assert rate is not None
    faster = machine.model_copy(
        update={
            "device": machine.device.model_copy(
                update={"scaleout_bytes_per_s": rate.model_copy(update={"value": 2 * rate.value})}
            )
        }
    )
    slow, fast = (estimate_trace(trace, each, plan=plan).plan for each in (machine, faster))
    assert slow is not None
    assert fast is not None
    assert fast.high["scale_out_link"] < slow.high["scale_out_link"]
    assert fast.high["compute"] == slow.high["compute"]
    assert fast.memory == slow.memory


def test_a_function_is_what_its_code_says() -> None:
    """Its samples are the micro-batch, its dtypes the precision, and a pipeline gets a micro-batch per stage."""
    plan = asked(pp=4).plan
    assert plan is not None
    assert (plan.work["micro_batch"], plan.work["seq"], plan.work["precision"]) == (4, 256, "fp32")
    assert plan.work["global_batch"] == 4 * 4 * 2
    assert plan.microbatches == 4
    assert any("micro-batch per replica and pipeline stage" in line for line in plan.assumed)
    assert precision_of(traced("known")) == "fp32"


@pytest.mark.parametrize(
    ("stated", "place"),
    [
        ({"tp": 3}, "tp, pp, dp, cp"), ({"dp": 16}, "tp, pp, dp, cp"), ({"pp": 8, "virtual_stages": 2}, "pp"), ({"ep": 2}, "ep"),
        ({"dp": 8, "global_batch": 12}, "global_batch"),
    ],
)  # fmt: skip
def test_plans_that_cannot_be(stated: dict[str, Any], place: str) -> None:
    """Degrees that do not multiply out or do not divide are one sentence that names the field."""
    with pytest.raises(RequestError) as found:
        asked(**stated)
    assert found.value.place == place
    assert found.value.mend


def test_tensor_parallelism_of_unknown_products_is_refused() -> None:
    """Where names do not tell columns from rows the module is named; a style for it lets the plan through."""
    with pytest.raises(RequestError, match=r"blocks\.\*\.[ab]"):
        asked("unknown", tp=2)
    trace = traced("unknown")
    plan, _ = request_plan({"tp": 2}, find_machine(MACHINE), trace=trace)
    found = estimate_trace(trace, MACHINE, plan=plan, named={"a": "colwise", "b": "rowwise"}).plan
    same = asked("known", tp=2).plan
    assert found is not None
    assert same is not None
    assert found.memory == same.memory
    assert found.high_s == pytest.approx(same.high_s)
    with pytest.raises(UnknownNameError, match="sideways"):
        estimate_trace(trace, MACHINE, plan=plan, named={"a": "sideways"})
    with pytest.raises(RequestError, match="forward pass"):
        estimate_trace(replace(trace, kind="forward"), MACHINE, plan=plan)
    with pytest.raises(RequestError, match="several values"):
        estimate_trace(trace, MACHINE, plan=Train(dp=8, global_batch=8, micro_batch=np.array([1, 2])))


def test_text_page_and_document_carry_the_plan() -> None:
    """All three say the same memory, and the document reads back."""
    found = asked(pp=2, tp=2, zero=1)
    assert found.plan is not None
    text = trace_text(found.trace, Page(width=120), found)
    page = trace_html(found.trace, found)
    for words in ("tp 2 · pp 2 · dp 2", "bubble", "gradients of dense", "fullest of the plan"):
        assert words in text, words
        assert words in page, words
    assert from_json(TraceEstimate, to_json(found)) == found


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verb deals a function's step out, and refuses what cannot be before anything is traced."""
    path = tmp_path / "code.py"
    path.write_text(CODE)
    assert cli.run(["trace", f"{path}:known", "--on", MACHINE, "--zero", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["plan"]["devices"] == 8
    assert document["plan"]["work"]["zero"] == 2
    for flags, words in (
        (["--tp", "2"], "over a machine"),
        (["--on", MACHINE, "--dp", "3"], "tp × pp × dp × cp is 3"),
        (["--on", MACHINE, "--dp", "8", "--forward"], "a training step"),
        (["--on", MACHINE, "--zero", "7"], "zero is 7"),
        (["--on", MACHINE, "--schedule", "slow"], "unknown schedule"),
    ):
        assert cli.run(["trace", f"{path}:known", *flags, "--quiet"]) == 2
        assert words in capsys.readouterr().err


def test_what_a_step_works_on_can_be_told() -> None:
    """A step that hides its tokens is not divided by them; told, it is as one that shows them; a contradiction is refused."""
    shown = traced("known")
    hidden = replace(shown, seq=0.0, samples=0.0)
    machine = find_machine(MACHINE)
    with pytest.raises(RequestError, match="sequence to deal out"):
        estimate_trace(hidden, machine, plan=request_plan({"cp": 2}, machine, trace=hidden)[0])
    again = told(hidden, seq=256, samples=4)
    plans = [
        estimate_trace(trace, machine, plan=request_plan({"cp": 2}, machine, trace=trace)[0]).plan
        for trace in (shown, again)
    ]
    assert plans[0] == plans[1]
    with pytest.raises(RequestError, match="works on seq 256"):
        told(shown, seq=128, samples=4)


def test_degrees_of_a_known_model_are_checked_untraced() -> None:
    """A model's plan is settled or refused by its shape alone; a dense one has no experts that tp could be read into."""
    machine, model = find_machine("8x(8x h100-sxm)"), read_model("llama-3.1-70b")
    plan, _ = request_plan({"tp": 8, "pp": 2, "dp": 4, "zero": 1}, machine, model=model)
    assert plan.framework == "fsdp"
    with pytest.raises(RequestError, match="attention heads"):
        request_plan({"tp": 64}, machine, model=read_model("llama-3.1-8b"))

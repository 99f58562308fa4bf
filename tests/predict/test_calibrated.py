"""A calibration laid on an estimate: sums by hand, floors that hold, laws of monotony, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bytebound as bb
from bytebound.documents.calibration import AttentionCost, Calibration, FormatCost
from bytebound.documents.device import Device, Figure, Machine
from bytebound.errors import RequestError, UnknownNameError

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LAYERS, HEADS = 30, 9


def figure(value, unit):
    return Figure(value=value, unit=unit, how="measured", source="a test")


def machine(read=1e12):
    """A machine whose ceilings are far above the calibrated costs, unless asked otherwise."""
    device = Device(
        id="here", name="here", vendor="any", kind="cpu", memory_bytes=figure(24e9, "B"),
        memory_bytes_per_s=figure(read, "B/s"), flop_per_s={"fp32": figure(1e15, "FLOP/s")},
    )  # fmt: skip
    return Machine(name="here", device=device)


def calibration(**changes):
    """Costs that are easy to add up by hand."""
    found = Calibration(
        id="abc", when="2026-11-21T00:00:00+00:00", engine="llama.cpp", engine_version="1", machine="here", threads=2,
        formats=(
            FormatCost("body", "q8_0", 576, (1, 2, 4), (4e-11, 5e-11, 8e-11)),
            FormatCost("head", "bf16", 576, (1,), (3e-11,)),
        ),
        attention=AttentionCost("on", "fp16", 9, 3, 64, (0, 1000, 2000), (0.0, 1e-5, 3e-5), 1e-9),
        s_per_step=1e-4, s_per_layer=2e-5, memory_bytes_per_s=3e10, spread=0.05, samples=100, disturbed=0.0, seconds=5.0,
        shape={"width": 576},
    )  # fmt: skip
    return replace(found, **changes)


def step_s(context=1000, batch=1, read=1e12, **changes):
    work = bb.Serve(prompt=context, output=1, batch=batch, weights="q8_0", engine="llama.cpp")
    found = bb.estimate(MODEL, machine(read), work, calibration=calibration(**changes))
    return found.decode.seconds


def weights():
    """Elements by hand from the published shape: 30 layers of 576, 9 and 3 heads of 64, 1536 hidden; 49,152 words."""
    layer = 576 * 576 * 2 + 2 * 576 * 192 + 3 * 576 * 1536
    return LAYERS * layer * 34 / 32, 49152 * 576 * 2.0


def test_a_step_is_the_sum_of_its_costs():
    body, head = weights()
    by_hand = 1e-4 + LAYERS * 2e-5 + body * 4e-11 + head * 3e-11 + LAYERS * HEADS * 1e-5

    assert step_s() == pytest.approx(by_hand, rel=0.01)


def test_attention_goes_on_linearly_beyond_the_last_depth():
    growth = step_s(context=4000) - step_s(context=3000)

    assert growth == pytest.approx(LAYERS * HEADS * 2e-5, rel=0.01)


def test_two_tokens_at_once_cost_what_a_pass_of_two_costs():
    body, head = weights()
    more = step_s(batch=2) - step_s(batch=1)

    assert more == pytest.approx(body * 1e-11 + head * 3e-11 * 0.25 + LAYERS * HEADS * 1e-5, rel=0.01)


@given(
    read=st.floats(1e9, 1e13), cost=st.floats(1e-14, 1e-9), context=st.integers(1, 8000), batch=st.integers(1, 16),
)  # fmt: skip
def test_no_step_beats_its_bytes_at_the_ceiling(read, cost, context, batch):
    formats = (FormatCost("body", "q8_0", 576, (1,), (cost,)), FormatCost("head", "bf16", 576, (1,), (cost,)))
    work = bb.Serve(prompt=context, output=1, batch=batch, weights="q8_0", engine="llama.cpp")
    found = bb.estimate(MODEL, machine(read), work, calibration=calibration(formats=formats))
    moved = found.decode.weight_bytes + found.decode.kv_bytes

    assert found.decode.seconds >= moved / read
    assert found.decode.seconds >= found.decode.floor_s


@given(context=st.integers(1, 8000), slower=st.floats(1.0, 10.0))
def test_costs_and_context_only_ever_add(context, slower):
    attention = calibration().attention
    steeper = replace(attention, s_per_query=tuple(slower * s for s in attention.s_per_query))

    assert step_s(context=context + 1) >= step_s(context=context)
    assert step_s(context=context, attention=steeper) >= step_s(context=context) * (1 - 1e-12)
    assert step_s(context=context, s_per_layer=2e-5 * slower) >= step_s(context=context) * (1 - 1e-12)


def test_one_question_is_the_same_inside_many():
    contexts = np.array([1, 10, 500, 1500, 2500])
    work = bb.Serve(prompt=contexts, output=1, weights="q8_0", engine="llama.cpp")
    many = bb.estimate(MODEL, machine(), work, calibration=calibration()).decode.seconds

    assert many == pytest.approx([step_s(context=int(context)) for context in contexts], rel=1e-12)


def test_the_grade_and_the_sources_say_so():
    work = bb.Serve(weights="q8_0", engine="llama.cpp")
    found = bb.estimate(MODEL, machine(), work, calibration=calibration())
    plain = bb.estimate(MODEL, machine(), work)

    assert (found.grade, plain.grade) == ("calibrated", "scaled")
    assert any(item.how == "calibrated" and "abc" in item.source for item in found.provenance)
    spread = found.tpot_s.high / found.tpot_s.value
    assert 1.05 < spread < 1.2 < plain.tpot_s.high / plain.tpot_s.value


def test_another_machine_engine_or_format_is_refused():
    work = bb.Serve(weights="q8_0", engine="llama.cpp")
    with pytest.raises(RequestError, match="made on epyc"):
        bb.estimate(MODEL, machine(), work, calibration=calibration(machine="epyc"))
    with pytest.raises(RequestError, match="say --engine llama"):
        bb.estimate(MODEL, machine(), replace(work, engine="vllm"), calibration=calibration())
    with pytest.raises(UnknownNameError, match="q4_0"):
        bb.estimate(MODEL, machine(), replace(work, weights="q4_0"), calibration=calibration())


def test_a_calibration_survives_json_and_fits_its_schema():
    jsonschema = pytest.importorskip("jsonschema")
    import json

    text = bb.to_json(calibration())

    assert bb.from_json(Calibration, text) == calibration()
    jsonschema.validate(json.loads(text), bb.json_schema(Calibration))


def test_scaled_estimates_take_shares_of_the_measured_ceiling():
    """llama.cpp reaches 55 to 92 % of the read ceiling with Q8_0 elsewhere: the forecast lies above the bound accordingly."""
    work = bb.Serve(prompt=16, output=1, weights="q8_0", engine="llama.cpp")
    found = bb.estimate(MODEL, machine(read=3e10), work)
    bound = (found.decode.weight_bytes + found.decode.kv_bytes) / 3e10

    assert bound / 0.92 < found.decode.seconds < bound / 0.45
    assert any("measured read ceiling" in item.what for item in found.provenance)

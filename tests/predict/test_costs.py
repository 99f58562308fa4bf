"""Calibrated curves on a ledger: interpolation, prefill and prompts by hand, and what is not calibrated stays as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bytebound as bb
from bytebound.documents.calibration import AttentionCost, Calibration, FormatCost
from bytebound.documents.device import Device, Figure, Machine
from bytebound.documents.work import Serve
from bytebound.errors import RequestError
from bytebound.ledger.ledger import ATTENTION, COLLECTIVE, CONTEXT, EXPERT
from bytebound.predict.diagnose import FAR, NEAR, SAME, judge
from bytebound.predict.estimate import settle
from bytebound.predict.roofline import OVERHEAD, TIME_RESOURCES, Points, lay_on

MODEL, LAYERS, HEADS = "HuggingFaceTB/SmolLM2-135M-Instruct", 30, 9
LAYER = 576 * 576 * 2 + 2 * 576 * 192 + 3 * 576 * 1536  # elements of one layer's matrices
HEAD = 49152 * 576
curves = st.lists(st.tuples(st.floats(0.01, 1e4), st.floats(0, 1e6)), min_size=1, max_size=6, unique_by=lambda p: p[0])


def known(value, unit):
    return Figure(value=value, unit=unit, how="measured", source="a test")


def machine(read=1e15, rate=1e18):
    """A processor with ceilings that no calibrated cost comes near, unless asked otherwise."""
    device = Device(
        id="my-pc", name="my pc", vendor="any", kind="cpu", memory_bytes=known(1e13, "B"),
        memory_bytes_per_s=known(read, "B/s"), flop_per_s={"fp32": known(rate, "FLOP/s")},
    )  # fmt: skip
    return Machine(name="here", device=device)


COSTS = Calibration(
    id="c1", when="2026-11-21T00:00:00+00:00", engine="llama.cpp", engine_version="1", machine="my-pc", threads=2,
    formats=(
        FormatCost("body", "fp16", 576, (1, 4, 16), (4e-11, 6e-11, 1.2e-10)),
        FormatCost("head", "fp16", 576, (1,), (3e-11,)),
    ),
    attention=AttentionCost("on", "fp16", 9, 3, 64, (0, 1000), (0.0, 1e-5), 2e-9),
    s_per_step=1e-4, s_per_layer=2e-5, memory_bytes_per_s=3e10, spread=0.05, samples=100, disturbed=0.0, seconds=5.0,
    shape={"width": 576},
)  # fmt: skip


def ask(calibration=COSTS, on=None, **work):
    asked = Serve(**({"prompt": 8, "output": 1, "weights": "fp16", "engine": "llama.cpp"} | work))
    return bb.estimate(MODEL, on or machine(), asked, calibration=calibration)


@given(curves, st.floats(0, 1e5))
def test_points_are_interpolated_and_go_on(curve, x):
    """Level before the first point, linear between two, and the last slope beyond, never a falling one."""
    at, value = (np.array(column) for column in zip(*sorted(curve), strict=True))
    found = float(Points(at, value).along(np.array(x)))
    if x <= at[0] or len(at) == 1:
        assert found == value[0]
    elif x <= at[-1]:
        i = int(np.searchsorted(at, x))
        share = (x - at[i - 1]) / (at[i] - at[i - 1])
        assert found == pytest.approx(value[i - 1] * (1 - share) + value[i] * share, rel=1e-6, abs=1e-6 * value.max())
    else:
        slope = max((value[-1] - value[-2]) / (at[-1] - at[-2]), 0)
        assert found == pytest.approx(value[-1] + slope * (x - at[-1]), rel=1e-9)


def test_a_prompt_by_hand():
    """A prefill of 10 tokens: products between the points of 4 and 16 tokens, the head for one token, pairs, fixed costs."""
    body = LAYERS * LAYER * 2 * (6e-11 + 6 / 12 * 6e-11)
    pairs = LAYERS * HEADS * 10 * 11 / 2 * 2e-9
    by_hand = body + HEAD * 2 * 3e-11 + pairs + 1e-4 + LAYERS * 2e-5
    assert ask(prompt=10).prefill.seconds == pytest.approx(by_hand, rel=1e-3)


def test_a_long_prompt_is_compute_bound():
    """Beyond the last point seconds grow with tokens: twice the prompt, twice the products, four times the pairs."""
    slope = (1.2e-10 - 6e-11) / 12
    body = [LAYERS * LAYER * 2 * (1.2e-10 + slope * (n - 16)) for n in (1000, 2000)]
    pairs = [LAYERS * HEADS * n * (n + 1) / 2 * 2e-9 for n in (1000, 2000)]
    growth = ask(prompt=2000).prefill.seconds - ask(prompt=1000).prefill.seconds
    assert growth == pytest.approx(body[1] - body[0] + pairs[1] - pairs[0], rel=1e-3)


@settings(max_examples=25)
@given(st.floats(1e8, 1e13), st.floats(1e9, 1e15), st.integers(1, 3000), st.integers(1, 32), st.floats(0.01, 100))
def test_more_of_anything_never_slows_and_floors_hold(read, rate, prompt, batch, factor):
    """Higher ceilings and lower costs never slow a step; no step is under its bytes or FLOPs at the ceilings."""
    cheaper = replace(
        COSTS,
        formats=tuple(replace(c, s_per_byte=tuple(s / max(factor, 1) for s in c.s_per_byte)) for c in COSTS.formats),
    )
    work = {"prompt": prompt, "batch": batch}
    base = ask(on=machine(read, rate), **work)
    better = [
        ask(on=machine(read * 2, rate), **work),
        ask(on=machine(read, rate * 2), **work),
        ask(cheaper, machine(read, rate), **work),
    ]
    for phase in ("decode", "prefill"):
        seconds = getattr(base, phase).seconds
        moved = getattr(base, phase).weight_bytes + getattr(base, phase).kv_bytes
        assert seconds >= moved / read * (1 - 1e-9)
        assert seconds >= getattr(base, phase).flops / rate * (1 - 1e-9)
        assert sum(getattr(base, phase).shares.values()) == pytest.approx(1)
        for other in better:
            assert getattr(other, phase).seconds <= seconds * (1 + 1e-9)


@settings(max_examples=8)
@given(st.lists(st.integers(1, 5000), min_size=2, max_size=4), st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_a_grid_of_questions_is_every_question(prompts, batches):
    grid = ask(prompt=np.array(prompts)[:, None], batch=np.array(batches))
    for i, prompt in enumerate(prompts):
        for j, batch in enumerate(batches):
            alone = ask(prompt=prompt, batch=batch)
            assert grid.decode.seconds[i, j] == pytest.approx(alone.decode.seconds, rel=1e-9)
            assert grid.ttft_s.value[i, j] == pytest.approx(alone.ttft_s.value, rel=1e-9)


def test_without_costs_rows_are_roofs_and_floors():
    """No calibration: each row is its launch floor and its two roofs joined, at the shares of its class and its form."""
    setting = settle("meta-llama/Llama-3.1-8B", "h100-sxm", "vllm")
    assert setting.ceilings.decode is None
    assert setting.ceilings.prefill is None
    prediction, c = setting.run(Serve(batch=8, prompt=1000)), setting.ceilings
    for ledger in (prediction.decode_ledger, prediction.prefill_ledger):
        timing = lay_on(ledger, c)
        for i, kind in enumerate(ledger.op_class):
            if kind == COLLECTIVE:
                continue
            row = {name: float(np.broadcast_to(getattr(ledger, name), ledger.flops.shape)[i, 0]) for name in ("flops", "weight_bytes", "kv_bytes", "activation_bytes", "launches", "repeat")}  # fmt: skip
            form = int(np.broadcast_to(ledger.form, ledger.flops.shape)[i, 0])
            compute = row["flops"] / (c.flop_per_s[ledger.math[i, 0]] * c.compute_share[kind, form])
            moved = row["weight_bytes"] + row["kv_bytes"] + row["activation_bytes"]
            memory = moved / (c.memory_bytes_per_s * c.memory_share[kind, form])
            joined = compute + memory if kind in {ATTENTION, CONTEXT, EXPERT} else np.hypot(compute, memory)
            by_hand = (joined + c.floor_s[kind] * row["launches"]) * row["repeat"]
            assert timing.rows[i, 0] == pytest.approx(by_hand, rel=1e-12), ledger.names[i]


def test_fixed_costs_are_overhead():
    found = ask(calibration=replace(COSTS, s_per_layer=1.0))
    assert found.decode.bound == TIME_RESOURCES[OVERHEAD]
    assert found.decode.seconds > LAYERS


def test_several_formats_at_once_are_refused():
    with pytest.raises(RequestError, match="one weight format at a time"):
        ask(weights=np.array(["fp16", "q8_0"]))


def test_a_mix_of_formats_is_weighted_by_bytes():
    """A format that only the head has takes the head's own cost; a body without its cost takes that of another part."""
    only = replace(COSTS, formats=(FormatCost("body", "fp16", 576, (1,), (5e-11,)),))
    by_hand = (LAYERS * LAYER + HEAD) * 2 * 5e-11 + LAYERS * HEADS * 8.5 * 1e-8 + 1e-4 + LAYERS * 2e-5
    assert ask(only).decode.seconds == pytest.approx(by_hand, rel=1e-3)


def test_far_from_the_models_width_the_interval_is_wider():
    near, far = (ask(replace(COSTS, shape={"width": width})).tpot_s for width in (600, 4096))
    assert far.high / far.value - 1 == pytest.approx(2 * (near.high / near.value - 1))


@pytest.mark.parametrize(
    ("step", "compute", "memory", "network", "verdict"),
    [
        (1.0, 0.2, 0.9, 0.0, "weight-bandwidth"),
        (1.0, 0.95, 0.9, 0.0, "compute"),
        (1.0, 0.2, 0.3, 0.97, "scale-up-link"),
        (1.0, 0.2, 0.7, 0.0, "mixed (weight-bandwidth, overhead)"),
        (1.0, 0.2, 0.5, 0.0, "overhead"),
        (1.0, 0.2, 1.2, 0.0, "cache"),
        (1.0, 1.2, 0.2, 0.0, "compute"),
    ],
)
def test_the_words_of_a_verdict(step, compute, memory, network, verdict):
    found, residual, why = judge(step, compute_s=compute, memory_s=memory, network_s=network)
    assert found == verdict
    assert residual == pytest.approx(step / max(compute, memory, network))
    assert why


@given(st.floats(1e-6, 10), st.floats(1e-6, 10), st.floats(1e-6, 10), st.booleans())
def test_verdicts_follow_the_residual(step, compute, memory, kv_heavy):
    found, residual, _ = judge(step, compute_s=compute, memory_s=memory, kv_heavy=kv_heavy)
    longest = "compute" if compute >= memory else "kv-bandwidth" if kv_heavy else "weight-bandwidth"
    if residual > FAR:
        assert found == "overhead"
    elif residual > NEAR:
        assert found == f"mixed ({longest}, overhead)"
    elif residual >= SAME or longest == "compute":
        assert found == longest
    else:
        assert found == "cache"

"""How the times of one kernel add: roofs joined, links between latency and traffic, shares by weight form; and what never slows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bytebound as bb
from bytebound.documents.work import Serve
from bytebound.facts.formats import FORMS, find_format, formats
from bytebound.ledger.ledger import ATTENTION, CLASS_NAMES, CONTEXT, ELEMENTWISE, EXPERT, GEMM
from bytebound.predict.estimate import estimate_on, settle
from bytebound.predict.roofline import SUMMED, between, join

SECONDS = st.floats(1e-9, 10.0)
PRODUCTS = (GEMM, ELEMENTWISE)
DENSE, EXPERTS, LATENT = "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V2-Lite"
WORKS = st.builds(
    Serve,
    batch=st.integers(1, 512),
    prompt=st.integers(1, 20_000),
    output=st.integers(1, 2_000),
    tp=st.sampled_from([1, 2]),
    weights=st.sampled_from(["auto", "fp8", "int4", "q4_k_m"]),
    kv=st.sampled_from(["auto", "fp8"]),
)


def joined(compute_s, memory_s, kind):
    """Return (seconds, share of computing) of one kernel."""
    body, share = join(np.array([[compute_s]]), np.array([[memory_s]]), np.array([kind]))
    return float(body[0, 0]), float(share[0, 0])


def machine(**factors):
    """Two H100, with some rates multiplied."""
    found = bb.find_machine("2x h100-sxm")
    device = found.device
    changed = {}
    for name, factor in factors.items():
        figure = getattr(device, name)
        if isinstance(figure, dict):
            changed[name] = {k: v.model_copy(update={"value": v.value * factor}) for k, v in figure.items()}
        else:
            changed[name] = figure.model_copy(update={"value": figure.value * factor})
    return found.model_copy(update={"device": device.model_copy(update=changed)})


@given(SECONDS, SECONDS, st.sampled_from(range(len(CLASS_NAMES))))
def test_between_the_longer_roof_and_the_sum(compute_s, memory_s, kind):
    """No kernel beats either of its roofs, and none takes longer than one after the other."""
    body, share = joined(compute_s, memory_s, kind)
    assert max(compute_s, memory_s) * (1 - 1e-12) <= body <= (compute_s + memory_s) * (1 + 1e-12)
    assert 0 <= share <= 1
    if kind in {ATTENTION, CONTEXT, EXPERT}:
        assert body == pytest.approx(compute_s + memory_s)
    else:
        assert body == pytest.approx(np.hypot(compute_s, memory_s))


def test_which_classes_are_summed():
    assert [CLASS_NAMES[kind] for kind in np.flatnonzero(SUMMED)] == ["attention-decode", "expert", "attention-prefill"]


@given(SECONDS, SECONDS, st.sampled_from(range(len(CLASS_NAMES))))
def test_the_share_is_the_elasticity(compute_s, memory_s, kind):
    """One per mille more computing time makes the kernel so many per mille longer; the rest follows the bytes."""
    body, share = joined(compute_s, memory_s, kind)
    step = 1e-5
    for by, moved in ((share, (1 + step, 1)), (1 - share, (1, 1 + step))):
        longer, _ = joined(compute_s * moved[0], memory_s * moved[1], kind)
        assert (longer / body - 1) / step == pytest.approx(by, abs=1e-4)


@given(SECONDS, SECONDS, st.floats(1.0, 10.0), st.sampled_from(range(len(CLASS_NAMES))))
def test_a_longer_roof_never_shortens_a_kernel(compute_s, memory_s, factor, kind):
    body, _ = joined(compute_s, memory_s, kind)
    assert joined(compute_s * factor, memory_s, kind)[0] >= body
    assert joined(compute_s, memory_s * factor, kind)[0] >= body


def test_nothing_takes_no_time():
    assert joined(0.0, 0.0, GEMM) == (0.0, 0.0)
    assert joined(0.0, 0.0, ATTENTION) == (0.0, 0.0)


@given(st.floats(0, 1e-3), st.floats(0, 1.0), st.floats(1.0, 10.0))
def test_a_collective_grows_with_latency_and_bytes(latency_s, traffic_s, factor):
    """Never under latency plus traffic, at most twice it, and longer with more of either."""
    found = float(between(np.array(latency_s), np.array(traffic_s)))
    together = latency_s + traffic_s
    assert together * (1 - 1e-12) <= found <= 2 * together * (1 + 1e-12)
    assert between(np.array(latency_s * factor), np.array(traffic_s)) >= found * (1 - 1e-12)
    assert between(np.array(latency_s), np.array(traffic_s * factor)) >= found * (1 - 1e-12)
    assert between(np.array(latency_s), np.array(0.0)) == pytest.approx(latency_s)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([DENSE, EXPERTS, LATENT]),
    WORKS,
    st.floats(1.0, 8.0),
    st.sampled_from(["memory_bytes_per_s", "flop_per_s", "scaleup_bytes_per_s"]),
)
def test_a_faster_device_never_slows(model, work, factor, what):
    """Dense, expert and latent models: more bandwidth, FLOP/s or link slows no phase and no metric."""
    slow, fast = (bb.estimate(model, on, work) for on in (machine(), machine(**{what: factor})))
    for phase in ("decode", "prefill"):
        assert getattr(fast, phase).seconds <= getattr(slow, phase).seconds * (1 + 1e-9)
    if slow.memory.fits:
        for metric in ("ttft_s", "tpot_s", "request_s"):
            assert getattr(fast, metric).value <= getattr(slow, metric).value * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([DENSE, EXPERTS, LATENT]), WORKS, st.floats(1.0, 8.0), st.floats(1e-7, 1e-4))
def test_what_the_host_starts_is_hidden_and_never_helps(model, work, factor, launch_s):
    """The longer of host and device bounds a step from below, their sum from above; a faster device slows no step."""

    def seconds(on, launch):
        setting = settle(model, on, "vllm")
        overheads = replace(setting.overheads, launch_s_decode=launch, launch_s_prefill=launch)
        found = estimate_on(replace(setting, overheads=overheads), work)
        return np.array([found.decode.seconds, found.prefill.seconds])

    none, some = seconds(machine(), 0.0), seconds(machine(), launch_s)
    prediction = settle(model, machine(), "vllm").run(work)
    ledgers = (prediction.decode_ledger, prediction.prefill_ledger)
    started = np.array([float(np.ravel(ledger.total("launches"))[0]) for ledger in ledgers]) * launch_s
    assert np.all(some >= none * (1 - 1e-12))
    assert np.all(some <= (none + started) * (1 + 1e-9))
    assert np.all(some >= started)
    for what in ("memory_bytes_per_s", "flop_per_s"):
        assert np.all(seconds(machine(**{what: factor}), launch_s) <= some * (1 + 1e-9))


def test_every_format_has_a_form():
    for name, found in formats().items():
        assert found.form in FORMS, name
    said = {"bf16": "16-bit", "fp32": "32-bit", "fp8-block128": "fp8", "int8": "int8", "mxfp8": "fp8", "nvfp4": "fp4",
            "int8-wo": "wo8", "awq": "wo4", "nf4": "wo4", "q8_0": "gguf", "q4_k": "gguf-k", "q4_k_m": "gguf-k",
            "iq4_xs": "gguf-i", "iq2_xxs_m": "gguf-i", "tq1_0": "gguf-i"}  # fmt: skip
    assert {name: find_format(name).form for name in said} == said


@pytest.mark.parametrize(
    ("kv", "form"),
    [("bf16", "16-bit"), ("fp16", "16-bit"), ("fp8", "fp8"), ("int8", "fp8"), ("q8_0", "fp8"), ("q4_0", "fp8")],
)
def test_a_narrow_cache_is_read_by_the_kernels_for_8_bits(kv, form):
    prediction = settle(DENSE, "h100-sxm", "llama.cpp").run(Serve(batch=4, prompt=100, kv=kv))
    for ledger, kind in ((prediction.decode_ledger, ATTENTION), (prediction.prefill_ledger, CONTEXT)):
        rows = ledger.op_class == kind
        assert rows.any()
        assert {FORMS[code] for code in np.unique(ledger.form[rows])} == {form}


@pytest.mark.parametrize(("weights", "form"), [("bf16", "16-bit"), ("fp8", "fp8"), ("int4", "wo4"), ("q8_0", "gguf")])
def test_the_form_of_products_is_that_of_their_weights(weights, form):
    """Layers follow the format asked for; a router keeps its 16 bits."""
    ledger = settle(EXPERTS, "h100-sxm", "vllm").run(Serve(weights=weights)).decode_ledger
    codes = dict(zip(ledger.roles, ledger.form[:, 0], strict=True))
    assert FORMS[codes["expert"]] == FORMS[codes["attention"]] == form
    assert FORMS[codes["router"]] == "16-bit"
    kinds = dict(zip(ledger.roles, ledger.op_class, strict=True))
    assert kinds["expert"] == EXPERT
    assert kinds["attention"] == GEMM

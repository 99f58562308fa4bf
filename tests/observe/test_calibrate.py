"""Calibration: costs put into faked probes come out again, noise is refused, and the real thing on tiny models."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.documents.calibration import Calibration
from bytebound.documents.values import from_json, to_json
from bytebound.engines.random_gguf import BLOCKS, Shape, write_random_gguf
from bytebound.errors import QuantityError, RequestError, UnfinishedError, UnknownNameError
from bytebound.measure.sampling import Sample
from bytebound.models import read_model
from bytebound.observe import calibrate as module
from bytebound.observe.calibrate import (
    EMPTY_LAYERS,
    Asked,
    Body,
    Group,
    calibrate,
    conclude,
    depths,
    interleaved,
    many_tokens,
)
from bytebound.observe.shape import Target, attention_shape, body_shape, filler_bytes, head_shape, layer_bytes

WIDE = 4 * 256
TARGET = Target(8, WIDE, 8, 2, 64, {"q8_0": 9e6, "q4_0": 5e6}, 1.3e7, 6e6, 5000, "q6_k", 4096.0)
AT = (0, 100, 1000)


def quiet(seconds, count=9):
    """Samples without spread or disturbance."""
    return [Sample(seconds, 0.0, 0.0)] * count


def faked(per_byte, *, step=1e-4, layer=1e-5, head=5e-11, query=1e-10, pair=0.0, others=quiet):
    """Return what probes would show if the engine's costs were exactly these."""
    bodies = []
    samples = {
        "filler": others(filler_bytes(TARGET) / 2e10),
        "empty.1": others(step + layer),
        f"empty.{EMPTY_LAYERS}": others(step + layer * EMPTY_LAYERS),
    }
    passes = {}
    for kind, cost in per_byte.items():
        shape = body_shape(TARGET, kind)
        size = shape.layers * layer_bytes(shape, kind)
        bodies.append(Body(kind, SimpleNamespace(), shape, size))
        base = step + layer * shape.layers
        samples[f"body.{kind}"] = others(base + size * cost)
        passes[kind] = [
            (n, base + size * cost * n**0.5 + pair * shape.layers * shape.heads * n * (n + 1) / 2) for n in (2, 8, 64)
        ]
    small = head_shape(TARGET)
    first = next(iter(per_byte.values()))
    matrix = small.vocabulary * small.width * BLOCKS["q6_k"][1] / BLOCKS["q6_k"][0]
    samples["head"] = others(step + layer + layer_bytes(small, "fp16") * first + matrix * head)
    shape = attention_shape(TARGET)
    for at in AT:
        samples[f"attention.{at}"] = others(step + layer * shape.layers + query * at * shape.layers * shape.heads)
    return samples, passes, bodies


def concluded(samples, passes, bodies, pair=0.0):
    return conclude(
        TARGET, samples, passes, pair, bodies, engine="llama.cpp", version="1", machine="my-pc", threads=2, flash="on",
        kv="fp16", started=0.0,
    )  # fmt: skip


costs = st.floats(1e-12, 1e-9)


@given(
    step=st.floats(1e-6, 1e-3), layer=st.floats(1e-7, 1e-3), first=costs, second=costs, head=costs,
    query=st.floats(1e-10, 1e-7), pair=st.floats(1e-12, 1e-10),
)  # fmt: skip
def test_costs_put_in_come_out(*, step, layer, first, second, head, query, pair):
    """Whatever an engine costs, the conclusion takes its probes apart into exactly those costs."""
    found = concluded(
        *faked({"q8_0": first, "q4_0": second}, step=step, layer=layer, head=head, query=query, pair=pair), pair
    )
    assert found.s_per_step == pytest.approx(step, rel=1e-3, abs=1e-9)
    assert found.s_per_layer == pytest.approx(layer, rel=1e-6)
    parts = {(cost.part, cost.weights): cost for cost in found.formats}
    assert set(parts) == {("body", "q8_0"), ("body", "q4_0"), ("head", "q6_k")}
    for kind, cost in (("q8_0", first), ("q4_0", second)):
        assert parts["body", kind].tokens == (1, 2, 8, 64)
        assert parts["body", kind].s_per_byte == pytest.approx([cost * n**0.5 for n in (1, 2, 8, 64)], rel=1e-2)
        assert parts["body", kind].columns == WIDE
    assert parts["head", "q6_k"].s_per_byte[0] == pytest.approx(head, rel=1e-2)
    assert found.attention.depth == AT
    assert found.attention.s_per_query == pytest.approx([query * at for at in AT], rel=1e-3, abs=1e-12)
    assert (found.spread, found.disturbed) == (0, 0)
    assert found.memory_bytes_per_s == pytest.approx(2e10)


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_costs_stay_positive_and_attention_never_falls(seed):
    """Noise may put a larger probe before a smaller one: costs are then small, never negative, and depth never gains."""
    random = np.random.default_rng(seed)

    def noisy(seconds):
        return [Sample(float(s), 0.0, 0.0) for s in seconds * random.uniform(0.8, 1.25) * random.uniform(0.95, 1.05, 9)]

    found = concluded(*faked({"q8_0": 4e-11, "q4_0": 6e-11}, others=noisy))
    assert all(s > 0 for cost in found.formats for s in cost.s_per_byte)
    assert found.s_per_step >= 0
    assert found.s_per_layer >= 0
    assert np.all(np.diff(found.attention.s_per_query) >= 0)
    assert 0 < found.spread < 0.1


def test_noise_is_refused():
    """Probes that spread widely, or that others disturbed, end in no conclusion."""
    random = np.random.default_rng(0)

    def wild(seconds):
        return [Sample(float(seconds * factor), 0.0, 0.0) for factor in random.uniform(0.3, 3, 30)]

    def busy(seconds):
        return [Sample(seconds, 1.0, 0.0)] * 6 + [Sample(seconds, 0.0, 0.0)] * 4

    for others, words in ((wild, r"spread by ±\d+ %"), (busy, r"other work ran during 60 % of them")):
        with pytest.raises(UnfinishedError, match=f"too noisy to conclude: .*{words}") as caught:
            concluded(*faked({"q8_0": 4e-11}, others=others))
        assert caught.value.exit_code == 3
        assert "calibrate again" in caught.value.mend


@given(st.integers(0, 10_000))
def test_depths_rise_to_the_deepest(deepest):
    found = depths(deepest)
    assert found == sorted(set(found))
    assert found[-1] == max(deepest, 1)


class Counting:
    """A session that counts and takes no time."""

    def __init__(self):
        self.steps = self.passes = 0

    def step(self, depth):
        """Count a step."""
        self.steps += 1

    def prefill(self, tokens, past=0, *, every=False):
        """Count a pass, of whose tokens all leave the last layer."""
        assert every
        self.passes += 1


def test_rounds_interleave_and_end(monkeypatch):
    """Every probe is preceded by the filler; five rounds at least, none beyond the budget."""
    filler, first, second = Counting(), Counting(), Counting()
    steps = [module.Step("a", first, 0), module.Step("b", second, 3)]
    group = Group(Asked("any"), None, TARGET, steps, [], filler)
    (found,) = interleaved([group], 12, 1e9)
    assert {name: len(each) for name, each in found.items()} == {"filler": 24, "a": 12, "b": 12}
    assert filler.steps == 24
    assert (first.steps, second.steps) == (13, 13)  # and one to warm up
    pair = interleaved([group, group], 12, 0.0)
    assert [len(each["a"]) for each in pair] == [5, 5]


def test_passes_stop_before_they_take_too_long():
    body = Body("q8_0", Counting(), Shape(2, 64, 64, 1, 1, 64, 64), 1e6)
    group = Group(Asked("any", passes=(2, 64)), None, TARGET, [], [body], None)
    assert many_tokens([group], [{"body.q8_0": quiet(1.0)}]) == [{"q8_0": []}]
    (found,) = many_tokens([group], [{"body.q8_0": quiet(1e-4)}])
    assert [n for n, _ in found["q8_0"]] == [2, 64]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"engine": "vllm"}, UnknownNameError, "unknown engine to calibrate 'vllm'"),
        ({"kv": "fp8"}, UnknownNameError, "unknown KV dtype 'fp8'"),
        ({"weights": "nvfp4"}, UnknownNameError, r"unknown llama.cpp weight format 'nvfp4'"),
        ({"weights": "q99"}, UnknownNameError, "unknown dtype 'q99'"),
        ({"model": "Snowflake/snowflake-arctic-embed-m"}, RequestError, "only decoders"),
        ({"model": "no-such-model"}, UnknownNameError, "unknown model"),
        ({"threads": -1}, QuantityError, "threads is -1"),
        ({"flash": "perhaps"}, UnknownNameError, "unknown flash setting"),
    ],
)
def test_bad_requests(options, error, words):
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    with pytest.raises(error, match=words):
        calibrate(**({"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "weights": "q8_0"} | options))


@pytest.mark.parametrize(("weights", "head", "flash"), [("q4_0", "q8_0", "on"), ("q4_k", "", "off")])
def test_the_real_thing_on_a_tiny_model(weights, head, flash, tmp_path, monkeypatch):
    """Probes are written, run under llama.cpp and concluded from; how long they take is not judged on a busy machine."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    monkeypatch.setattr(module, "MOST_DISTURBED", 2.0)
    monkeypatch.setattr(module, "MOST_SPREAD", 1e9)
    monkeypatch.setattr(module, "TOKENS", (2, 16))
    monkeypatch.setattr(module, "PAIRS", (32, 64))
    monkeypatch.setattr("bytebound.observe.shape.LEAST_BYTES", 1e6)
    path = write_random_gguf(tmp_path / "x.gguf", Shape(2, 576, 768, 9, 3, 64, 320) if weights == "q4_0" else Shape(2, 256, 512, 4, 2, 64, 320), weights, head=head)  # fmt: skip
    told = []
    found = calibrate(
        str(path), flash=flash, rounds=5, budget_s=2.0, depth=64, threads=2, machine="my-pc", on_progress=told.append
    )

    assert found.engine == "llama.cpp"
    assert (found.machine, found.threads, found.attention.flash) == ("my-pc", 2, flash)
    assert {(cost.part, cost.weights) for cost in found.formats} == {("body", weights), ("head", head or weights)}
    assert all(s > 0 for cost in found.formats for s in cost.s_per_byte)
    assert found.attention.depth == (0, 64)
    assert found.attention.s_per_query[0] == 0
    assert found.seconds > 0
    assert found.samples >= 5 * 7
    assert {"filler", "empty.1", "head", "attention.64"} <= set(found.probes)
    assert len(told) >= 3
    assert from_json(Calibration, to_json(found)) == found
    assert found.shape["weight_bytes"] == pytest.approx(sum(
        t.elements * t.copies * BLOCKS[t.stored][1] / BLOCKS[t.stored][0] for t in read_model(str(path)).tensors() if len(t.shape) > 1 and not t.tied
    ))  # fmt: skip


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    """Probes that cannot be written end in a sentence, not in a bug."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gguf.GGUFWriter.write_tensors_to_file", full)
    with pytest.raises(UnfinishedError, match="No space left on device"):
        calibrate("HuggingFaceTB/SmolLM2-135M-Instruct", weights="q8_0")

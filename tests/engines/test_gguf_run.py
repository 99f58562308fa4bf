"""A GGUF model under llama.cpp, timed for real: its record, its limits, and Ctrl-C that keeps what is finished."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

from bytebound.documents.observation import Run
from bytebound.documents.values import from_json, to_json
from bytebound.engines import gguf_run
from bytebound.engines.gguf_run import PREFILLS, STEPS_PER_ROUND, run_gguf
from bytebound.engines.llamacpp import Session
from bytebound.engines.random_gguf import Shape, write_random_gguf
from bytebound.errors import DocumentError, QuantityError, UnfinishedError, UnknownNameError
from bytebound.measure.sampling import Probe

TINY = Shape(2, 256, 512, 4, 2, 64, vocabulary=96)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_random_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", TINY, "q8_0")


@pytest.fixture(autouse=True)
def canaries(monkeypatch):
    """A canary that reads a megabyte, in place of one that reads half a gigabyte; counts how often."""
    block, seen = np.ones(2**17), []

    def few(stack):
        return (Probe("memory.read", "B/s", 2.0**20, lambda: seen.append(block.sum()), "a test"),)

    monkeypatch.setattr(gguf_run, "host_canaries", few)
    return seen


def test_the_record_of_a_run(tiny, canaries):
    """Both phases as asked, canaries in between, settings that would repeat it; the document comes back from JSON."""
    said = []
    found = run_gguf(
        tiny, batch=3, prompt=40, output=8, threads=2, flash="on", kv="q8_0", repeats=4, on_progress=said.append
    )
    prefill, decode = found.phases

    assert (prefill.name, prefill.batch, prefill.context, prefill.tokens) == ("prefill", 1, 0, 40)
    assert (decode.name, decode.batch, decode.context, decode.tokens) == ("decode", 3, 44, 3)
    assert prefill.seconds.samples == PREFILLS
    assert decode.seconds.samples == 4 * STEPS_PER_ROUND
    for spread in (prefill.seconds, decode.seconds):
        assert 0 < spread.best <= spread.p10 <= spread.median <= spread.p90
    assert len(canaries) == 4 + 1
    assert found.canaries["memory.read"].samples == 4
    assert found.canaries["memory.read"].best >= found.canaries["memory.read"].median
    assert found.engine == "llama.cpp"
    assert found.engine_version.startswith("xllamacpp ")
    assert found.settings | {"threads": 2, "flash": "on", "kv": "q8_0"} == found.settings
    assert found.load == {"batch": 3, "prompt": 40, "output": 8}
    assert 0 <= found.disturbed <= 1
    assert found.errors == ()
    assert found.model == str(tiny)
    assert said[0] == "loading"
    assert said[-1] == "decode, round 4 of 4"
    assert from_json(Run, to_json(found)) == found


def test_the_budget_ends_it_after_two_rounds(tiny):
    found = run_gguf(tiny, prompt=8, output=2, threads=1, repeats=50, budget_s=0.0)
    assert found.phases[1].seconds.samples == 2 * STEPS_PER_ROUND


def interrupted_at(monkeypatch, which, count):
    """Let Ctrl-C fall into the ``count``-th call of a session's method."""
    whole, calls = getattr(Session, which), []

    def once(self, *arguments, **options):
        calls.append(None)
        if len(calls) == count:
            raise KeyboardInterrupt
        return whole(self, *arguments, **options)

    monkeypatch.setattr(Session, which, once)


def test_ctrl_c_keeps_what_is_finished(tiny, monkeypatch):
    interrupted_at(monkeypatch, "step", 10)
    found = run_gguf(tiny, prompt=8, output=2, threads=1)
    assert [phase.name for phase in found.phases] == ["prefill", "decode"]
    assert found.phases[1].seconds.samples == 5
    assert found.errors == ("interrupted: what had been measured until then is kept",)


def test_ctrl_c_after_the_first_phase(tiny, monkeypatch):
    interrupted_at(monkeypatch, "step", 2)
    found = run_gguf(tiny, prompt=8, output=2, threads=1)
    assert [phase.name for phase in found.phases] == ["prefill"]
    assert found.errors


def test_ctrl_c_before_anything_is_finished(tiny, monkeypatch):
    interrupted_at(monkeypatch, "fill", 1)
    with pytest.raises(KeyboardInterrupt):
        run_gguf(tiny, prompt=8, output=2, threads=1)


def test_a_model_that_does_not_fit_is_refused_before_it_swaps(tiny, monkeypatch):
    """The file and its cache against the memory that is free: 2 layers, 2 heads of 64, keys and values, two bytes each."""
    system = gguf_run.read_system()
    size = tiny.stat().st_size
    per_token = 2 * 2 * 64 * 2 * 2

    def with_free(free):
        monkeypatch.setattr(gguf_run, "read_system", lambda: system.model_copy(update={"memory_free_bytes": free}))

    with_free(size - 1)
    with pytest.raises(QuantityError, match="this would swap"):
        run_gguf(tiny, prompt=8, output=2, threads=1)
    with_free(size + per_token * 2000 * 4 - 1)
    with pytest.raises(QuantityError, match=r"its KV cache 7.81 MiB"):
        run_gguf(tiny, batch=4, prompt=1900, output=100, threads=1)
    assert run_gguf(tiny, batch=4, prompt=900, output=100, threads=1, repeats=1).phases


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch": 0}, QuantityError, "batch is 0"),
        ({"prompt": 0}, QuantityError, "prompt is 0"),
        ({"output": -1}, QuantityError, "output is -1"),
        ({"threads": 0}, QuantityError, "threads is 0"),
        ({"threads": 10**6}, QuantityError, "threads is 1,000,000"),
        ({"flash": "of"}, UnknownNameError, "nearest: off"),
        ({"kv": "q8"}, UnknownNameError, "nearest: q8_0"),
        ({"kv": "q4_0", "flash": "off"}, UnfinishedError, "a quantized KV cache needs flash attention"),
        ({"batch": 10**4, "prompt": 1, "output": 1}, UnfinishedError, "made no context"),
    ],
)
def test_bad_requests(tiny, options, error, words):
    with pytest.raises(error, match=words):
        run_gguf(tiny, **({"threads": 1, "prompt": 8, "output": 2} | options))


def test_bad_files(tiny, tmp_path):
    whole = tiny.read_bytes()
    cut = tmp_path / "cut.gguf"
    for at in (0, 3, 30, 1000, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:at])
        with pytest.raises(DocumentError):
            run_gguf(cut, threads=1)
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(DocumentError):
            run_gguf(path, threads=1)


def test_a_model_with_another_output_matrix(tmp_path):
    path = write_random_gguf(tmp_path / "x.gguf", replace(TINY, tied=False), "q4_k", head="q6_k")
    assert run_gguf(path, prompt=4, output=2, threads=1, repeats=1).phases[1].seconds.median > 0

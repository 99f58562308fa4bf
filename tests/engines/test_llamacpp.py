"""llama.cpp in this process: its numbers against a Llama in NumPy and against its own server, its refusals as sentences."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

import reference_llama
from llama_server import llama_server, missing, smollm2

from bytebound.engines import llamacpp
from bytebound.engines.llamacpp import KV_TYPES, Layout, find_layout, load_llamacpp, open_session
from bytebound.engines.random_gguf import BLOCKS, Shape, write_random_gguf
from bytebound.errors import DocumentError, QuantityError, RequestError, UnfinishedError, UnknownNameError

TINY = Shape(2, 256, 512, 4, 2, 64, vocabulary=96)
SRC = str(Path(__file__).parent.parent.parent / "src")
REAL = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A Llama of two layers in fp32."""
    return write_random_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", TINY, "fp32")


def token_ids(count, vocabulary, sequence=0):
    """Return the arbitrary tokens a session puts at depths 0 … count − 1."""
    return (7919 * (np.arange(count) + 1) + 104729 * sequence) % vocabulary


def logits_at(path, depth, **options):
    """Return the logits after ``depth + 1`` tokens."""
    with open_session(path, context=depth + 1, threads=2, **options) as session:
        session.fill(depth)
        session.step(depth)
        return session.logits()


@pytest.mark.parametrize("flash", ["on", "off", "auto"])
@pytest.mark.parametrize("depth", [0, 1, 40])
def test_logits_are_those_of_the_formulas(tiny, depth, flash):
    """The same file through a Llama written in NumPy: layouts of parameters and batches are right, or nothing would fit."""
    ours = logits_at(tiny, depth, flash=flash, kv="fp32")
    truth = reference_llama.logits(tiny, token_ids(depth + 1, TINY.vocabulary))
    assert np.abs(ours - truth).max() < 0.02 * truth.std()


@pytest.mark.parametrize("name", BLOCKS)
def test_every_format_runs(name, tmp_path):
    """llama.cpp loads what we write in every format, and its logits follow the dequantized weights'."""
    path = write_random_gguf(tmp_path / "x.gguf", replace(TINY, tied=name != "q8_0"), name)
    ours = logits_at(path, 12)
    truth = reference_llama.logits(path, token_ids(13, TINY.vocabulary))
    assert np.isfinite(ours).all()
    assert np.corrcoef(ours, truth)[0, 1] > 0.98


@pytest.mark.parametrize("kv", KV_TYPES)
def test_every_kv_type(tiny, kv):
    """The cache's dtype is really set: logits follow an exact cache's, the closer the more bits it has."""
    truth = logits_at(tiny, 30, kv="fp32", flash="off")
    far = np.abs(logits_at(tiny, 30, kv=kv, flash="on") - truth).max() / truth.std()
    least, most = {
        "fp32": (0, 0.02),
        "fp16": (0, 0.02),
        "bf16": (1e-3, 0.05),
        "q8_0": (1e-3, 0.05),
        "q4_0": (0.05, 0.8),
    }[kv]
    assert least <= far <= most


def test_a_step_keeps_the_depth(tiny):
    """Steps, prefills and fills from a past leave the cache as it was: the next step gives the same logits."""
    with open_session(tiny, context=64, threads=2, micro_batch=7) as session:
        session.fill(20)
        session.step(20)
        first = session.logits()
        for again in (
            lambda: None,
            lambda: session.prefill(9, 20),
            lambda: session.fill(20, past=11),
            lambda: session.fill(20),
        ):
            again()
            session.step(20)
            assert np.allclose(session.logits(), first, atol=1e-2 * first.std())
        session.fill(21)
        session.step(21)
        assert not np.allclose(session.logits(), first, atol=1e-2 * first.std())


def test_sequences_are_apart(tiny):
    """Two sequences decode together and do not see each other: the last one's logits are those of its tokens alone."""
    with open_session(tiny, context=16, threads=2, kv="fp32", sequences=2) as session:
        session.fill(8)
        session.step(8)
        both = session.logits()
    truth = reference_llama.logits(tiny, token_ids(9, TINY.vocabulary, sequence=1))
    assert np.abs(both - truth).max() < 0.02 * truth.std()


@REAL
def test_smollm2_gives_the_same_with_flash_and_without():
    """The real model: the two ways of attention agree but for rounding (activations have 8 bits), and on the next token."""
    on, off = (logits_at(smollm2(), 64, flash=flash) for flash in ("on", "off"))
    assert np.corrcoef(on, off)[0, 1] > 0.995
    assert on.argmax() == off.argmax()


@REAL
def test_smollm2_continues_as_its_own_server_does():
    """The greedy token after the same token ids, from a llama.cpp server in a process of its own."""
    depth = 24
    own = logits_at(smollm2(), depth)
    asked = {
        "prompt": token_ids(depth + 1, len(own)).tolist(),
        "n_predict": 1,
        "temperature": 0,
        "n_probs": 5,
        "return_tokens": True,
    }
    with llama_server(context=256) as url:
        found = httpx.post(url + "/completion", json=asked, timeout=60).json()
    assert found["tokens"][0] == own.argmax()
    best = [each["id"] for each in found["completion_probabilities"][0]["top_logprobs"]]
    assert best[:3] == np.argsort(-own)[:3].tolist()


@given(st.integers(0, 12), st.integers(0, 4), st.integers(0, 20))
def test_layouts_are_found_wherever_fields_lie(before, between, after):
    """Any struct that begins as we know is read by its defaults, whatever release pushed its fields around."""
    head = [512, 2048, 512, 1, *[0] * min(before, 11), 4, 4, *[7] * 0]
    minus = len(head) + between
    words = [*head, *[0] * between, *[0xFFFFFFFF] * 4, *[0] * min(after, 20), 1, 1, *[0] * 80]
    if minus >= 20 or len(head) - 2 >= 16:
        with pytest.raises(RequestError, match="laid out in a way we do not know"):
            find_layout(words)
    else:
        assert find_layout(words) == Layout(len(head) - 2, minus + 3, minus + 4 + min(after, 20))


@given(st.lists(st.sampled_from([0, 1, 2, 4, 512, 2048, 0xFFFFFFFF]), max_size=60))
def test_unknown_layouts_are_refused(words):
    """Never a guess: either every mark is there, or an error that says what to do."""
    try:
        found = find_layout(words)
    except RequestError as error:
        assert "attach to a llama-server" in error.mend
    else:
        assert words[:4] == [512, 2048, 512, 1]
        assert words[found.threads : found.threads + 2] == [4, 4]
        assert words[found.flash - 3 : found.flash + 1] == [0xFFFFFFFF] * 4
        assert words[found.kv_type : found.kv_type + 2] == [1, 1]


def test_the_installed_library():
    library = load_llamacpp()
    assert library.package in llamacpp.PACKAGES
    assert library.version
    assert "=" in library.built_for
    assert library is load_llamacpp()


def test_no_library(monkeypatch):
    monkeypatch.setattr(llamacpp, "PACKAGES", {"no_such_package": "*.so"})
    with pytest.raises(DocumentError, match=r"llama.cpp is not installed") as caught:
        load_llamacpp.__wrapped__()
    assert caught.value.mend.startswith("pip install")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"flash": "onn"}, UnknownNameError, r"unknown flash setting 'onn'; nearest: on"),
        ({"kv": "fp61"}, UnknownNameError, r"unknown KV dtype 'fp61'; nearest: (b?fp16|fp32)"),
        ({"threads": 0}, QuantityError, "threads is 0"),
        ({"threads": 100_000}, QuantityError, "threads is 100,000"),
        ({"context": -5}, QuantityError, "context is -5"),
        ({"micro_batch": 0}, QuantityError, "micro_batch is 0"),
        ({"context": 2**20, "sequences": 2**20}, QuantityError, "1,048,576 sequences of 1,048,576 tokens"),
        ({"kv": "q8_0", "flash": "off"}, UnfinishedError, "a quantized KV cache needs flash attention"),
        ({"sequences": 100_000}, UnfinishedError, "fewer tokens or sequences"),
    ],
)
def test_bad_requests(tiny, options, error, words):
    with pytest.raises(error, match=words), open_session(tiny, **({"context": 16, "threads": 2} | options)):
        pass


def test_beyond_the_context_is_an_error_and_the_session_lives_on(tiny):
    with open_session(tiny, context=16, threads=2) as session:
        for beyond in (lambda: session.fill(4000), lambda: session.step(24), lambda: session.prefill(9, 16)):
            with pytest.raises(QuantityError, match="the session was opened for 16"):
                beyond()
        session.fill(4)
        session.step(4)
        assert np.isfinite(session.logits()).all()


def test_what_is_no_gguf_is_refused(tmp_path):
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(DocumentError, match="no such file"), open_session(path, context=8, threads=1):
            pass
    text = tmp_path / "text.gguf"
    for content in (b"", b"GGUF", b"not a model at all" * 100):
        text.write_bytes(content)
        with (
            pytest.raises(DocumentError, match=r"llama.cpp cannot load this file"),
            open_session(text, context=8, threads=1),
        ):
            pass


CUTS = """
import sys
from bytebound.engines.llamacpp import open_session
from bytebound.errors import DocumentError
for path in sys.argv[1:]:
    try:
        with open_session(path, context=8, threads=1) as session:
            session.step(0)
        print("loaded", flush=True)
    except DocumentError:
        print("refused", flush=True)
"""


def test_cut_and_spoilt_files_end_in_errors_never_in_a_crash(tiny, tmp_path):
    """A file cut anywhere is refused, and spoilt bytes in its head never end the process, which is one of its own here."""
    whole = tiny.read_bytes()
    random = np.random.default_rng(11)
    cuts = [whole[: int(at)] for at in (*np.geomspace(1, len(whole) - 1, 20), len(whole) - 4)]
    spoilt = [bytearray(whole) for _ in range(30)]
    for copy in spoilt:
        for at in random.integers(8, 3000, 3):
            copy[int(at)] = int(random.integers(0, 256))
    paths = []
    for number, content in enumerate((*cuts, *spoilt)):
        paths.append(str(tmp_path / f"{number}.gguf"))
        Path(paths[-1]).write_bytes(bytes(content))
    ran = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", CUTS, *paths], env={**os.environ, "PYTHONPATH": SRC}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    said = ran.stdout.split()
    assert said[: len(cuts)] == ["refused"] * len(cuts), ran.stderr[-500:]
    assert ran.returncode == 0, (len(said), ran.stderr[-500:])
    assert len(said) == len(paths)

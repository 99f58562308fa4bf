"""PyTorch as an engine of proofs: steps leave the cache as they found it, bytes are the storages', peaks the trace's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bytebound.engines.model_making import random_folder
from bytebound.errors import DocumentError, RequestError, UnknownNameError

pytest.importorskip("transformers", reason="it runs the models")
TINY = {"layers": 2, "width": 32, "feed_forward": 64, "heads": 2, "kv_heads": 1, "head_dim": 16, "vocabulary": 160}
PARAMETERS = 160 * 32 + 32 + 2 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("torch") / "model"
    random_folder(at, **TINY)
    return at


def opened(folder, **settings):
    from bytebound.engines import prove_torch

    return prove_torch.open({"folder": str(folder), "threads": 1, **settings})


def logits(engine, tmp_path):
    engine.logits([[5, 6, 7], [8, 9, 5]], str(tmp_path / "logits.npy"))
    return np.load(tmp_path / "logits.npy")


def test_steps_and_prefixes_leave_the_cache_as_it_was(folder):
    engine = opened(folder, batch=2)
    engine.prepare(depth=12)
    for _ in range(2):
        engine.step()
        engine.prefill(tokens=4, past=12)
        engine.prefill(tokens=16)
        assert engine._cache.get_seq_length() == 12
    assert engine._cache.layers[0].keys.shape[0] == 2


def test_bytes_are_those_of_the_storages(folder):
    assert opened(folder).memory()["weights"] - 4 * PARAMETERS == pytest.approx(0, abs=256)  # RoPE's buffers
    assert opened(folder, dtype="bf16").memory()["weights"] < 2 * PARAMETERS + 256


def test_pruning_changes_numbers_and_no_bytes(folder, tmp_path):
    import torch

    plain, pruned = opened(folder), opened(folder, change="pruned")
    assert plain.memory()["weights"] == pruned.memory()["weights"]
    layers = [m.weight for m in pruned._model.model.modules() if isinstance(m, torch.nn.Linear)]
    assert all(float((weight == 0).float().mean()) == 0.5 for weight in layers)
    assert not np.allclose(logits(plain, tmp_path), logits(pruned, tmp_path))


def test_dynamic_int8_stays_near(folder, tmp_path):
    exact, near = logits(opened(folder), tmp_path), None
    with pytest.warns(Warning, match=r"torch\.ao\.quantization is deprecated|quantize_per_tensor"):
        near = logits(opened(folder, change="quantize-dynamic"), tmp_path)
    assert 0 < np.abs(near - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize(("change", "close"), [("int8-weight-only", 0.05), ("int8-dynamic", 0.1)])
def test_torchao_stays_near_and_packs(folder, tmp_path, change, close):
    pytest.importorskip("torchao", reason="it quantizes")
    exact, engine = logits(opened(folder), tmp_path), opened(folder, change=change)
    assert 0 < np.abs(logits(engine, tmp_path) - exact).max() < close * np.abs(exact).max()
    assert engine.memory()["weights"] < 0.75 * 4 * PARAMETERS


def test_what_is_missing_or_unknown_is_said(folder, monkeypatch):
    from bytebound.engines import prove_torch

    with pytest.raises(UnknownNameError, match="change"):
        opened(folder, change="int3")
    monkeypatch.setattr(prove_torch.shutil, "which", lambda _name: None)
    with pytest.raises(DocumentError, match=r"C\+\+ compiler"):
        opened(folder, change="compiled")
    monkeypatch.setattr(prove_torch.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DocumentError, match="torchao is not installed"):
        opened(folder, change="int8-weight-only")
    with pytest.raises(RequestError):
        opened(folder / "nowhere")


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_the_allocator_holds_what_was_traced(recompute):
    """The adapter's step runs for real; ``bytebound trace`` builds its own from the config. They share no code."""
    from bytebound.engines import prove_torch_training
    from bytebound.prove.pytorch_training import CONFIG, PLAIN
    from bytebound.trace.hf import trace_model

    small = {**CONFIG, "num_hidden_layers": 3, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512}  # fmt: skip
    engine = prove_torch_training.open(
        {"config": small, "batch": 2, "seq": 64, "threads": 1, "recompute": recompute == "full"}
    )
    found = engine.memory()
    traced = trace_model(small, replace(PLAIN, seq=64, micro_batch=2, global_batch=2, recompute=recompute), on="cpu")
    assert found["peak"] == pytest.approx(traced.peak.held.total, rel=0.02)
    assert found["states"] == pytest.approx(8 * traced.parameters, rel=0.001)

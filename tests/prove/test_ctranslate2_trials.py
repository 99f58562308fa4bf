"""CTranslate2 as an engine of proofs: the converted model is the model, int8 stays near, a kept prefix changes no answer."""

from __future__ import annotations

import numpy as np
import pytest

from bytebound.engines.model_making import ctranslate2_folder, random_folder
from bytebound.errors import QuantityError

ctranslate2 = pytest.importorskip("ctranslate2", reason="the engine under test")
pytest.importorskip("transformers", reason="it converts")
TINY = {"layers": 2, "width": 64, "feed_forward": 128, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocabulary": 512}
ROWS = [[105, 200, 301, 44], [7, 9, 300, 511]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    at = tmp_path_factory.mktemp("ct2")
    random_folder(at / "model", **TINY)
    for name in ("", "int8"):
        ctranslate2_folder(at / (name or "fp32"), str(at / "model"), name)
    return at


def opened(folder, compute, **settings):
    from bytebound.engines import prove_ctranslate2

    return prove_ctranslate2.open({"folder": str(folder), "compute": compute, "threads": 1, **settings})


def logits(engine, file):
    engine.logits(ROWS, str(file))
    return np.load(file)


def test_the_converted_model_is_the_model(folders, tmp_path):
    from bytebound.engines import prove_torch

    torch = logits(prove_torch.open({"folder": str(folders / "model"), "threads": 1}), tmp_path / "a.npy")
    whole = logits(opened(folders / "fp32", "float32"), tmp_path / "b.npy")
    assert np.abs(whole - torch).max() < 1e-3 * np.abs(torch).max()
    near = logits(opened(folders / "int8", "int8"), tmp_path / "c.npy")
    assert 0 < np.abs(near - torch).max() < 0.1 * np.abs(torch).max()


def test_steps_repeat_and_files_shrink(folders):
    engine = opened(folders / "fp32", "float32", batch=3)
    for _ in range(2):
        engine.step(depth=4)
        engine.prefill(tokens=4)
        engine.prefill(tokens=3, past=8)
    small = opened(folders / "int8", "int8").memory()["weights"]
    assert 0.25 < small / engine.memory()["weights"] < 0.3
    assert engine.tokenize("w5 w7") == [5, 7]


def test_a_type_without_kernels_is_refused(folders):
    missing = {"int16", "float16", "bfloat16"} - set(ctranslate2.get_supported_compute_types("cpu"))
    if not missing:
        pytest.skip("this processor has kernels for every type")
    with pytest.raises(QuantityError, match=r"no .* kernels for this processor"):
        opened(folders / "fp32", min(missing))

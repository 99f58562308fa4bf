"""Engines and levers that this machine has not: each says in one sentence what is missing and what to do."""

from __future__ import annotations

import pytest

from bytebound.errors import DocumentError, RequestError, UnknownNameError
from bytebound.prove import folders, openvino, pytorch, pytorch_training
from bytebound.prove.trial import Bench


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, None, 1, say=lambda _text: None)


def test_a_missing_package_is_named_with_its_mend():
    with pytest.raises(DocumentError, match="no_such_engine is not installed") as caught:
        folders.need("numpy", "no_such_engine")
    assert caught.value.mend == "pip install no-such-engine"
    assert folders.need("numpy")


@pytest.mark.parametrize("lever", ["kv-quant-torch", "kv-offload"])
def test_levers_that_pytorch_has_elsewhere_are_refused_with_a_reason(bench, lever):
    with pytest.raises(RequestError) as caught:
        pytorch.TRIALS[lever](bench)
    assert "llama.cpp" in caught.value.mend


def test_models_that_an_engine_cannot_take_are_refused(tmp_path):
    def on(model):
        return Bench(tmp_path, None, 1, model, say=lambda _text: None)

    with pytest.raises(RequestError, match="transformers folder"):
        pytorch.TRIALS["bf16-weights"](on(str(tmp_path)))
    with pytest.raises(UnknownNameError, match="shape"):
        pytorch.TRIALS["bf16-weights"](on("random:9t"))
    with pytest.raises(RequestError, match="GGUF file"):
        openvino.TRIALS["q8_0-weights"](on("random:1b"))
    with pytest.raises(RequestError, match="a model of their own"):
        pytorch_training.TRIALS["full-recompute"](on("random:1b"))

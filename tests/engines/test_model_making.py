"""Models made on the spot: shallow copies keep their layers, nothing half made is left, the user's files stay as they were."""

from __future__ import annotations

import hashlib

import pytest

from bytebound.engines import model_making
from bytebound.engines.model_making import real_gguf
from bytebound.errors import DocumentError, UnfinishedError, UnknownNameError

pytest.importorskip("safetensors", reason="it holds the models' weights")
TINY = {"layers": 3, "width": 32, "feed_forward": 64, "heads": 2, "kv_heads": 1, "head_dim": 16, "vocabulary": 160}


def tensors(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_a_cut_model_keeps_its_first_layers_and_the_source_untouched(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    model_making.open({"make": "random", "at": str(whole), **TINY})
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in whole.iterdir()}
    model_making.open({"make": "cut", "at": str(cut), "source": str(whole), "layers": 2})
    all_of, kept = tensors(whole), tensors(cut)
    assert set(all_of) - set(kept) == {name for name in all_of if ".2." in name}
    assert all((kept[name] == all_of[name]).all() for name in kept)
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in whole.iterdir()} == before


def test_what_is_there_is_not_made_again_and_what_fails_leaves_nothing(tmp_path, monkeypatch):
    at = tmp_path / "model"
    at.mkdir()
    model_making.open({"make": "random", "at": str(at)})
    assert not list(at.iterdir())

    def full(folder):
        folder.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(model_making.MAKERS, "random", full)
    with pytest.raises(UnfinishedError, match="cannot write a model: No space left"):
        model_making.open({"make": "random", "at": str(tmp_path / "other")})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(UnknownNameError, match="model to make"):
        model_making.open({"make": "randon", "at": str(tmp_path / "x")})


def test_without_the_package_real_weights_say_so(monkeypatch):
    monkeypatch.setattr(model_making, "REAL_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(DocumentError, match="real weights are not installed"):
        real_gguf()

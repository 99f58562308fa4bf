"""A checkpoint's quantization sets the storage of each weight and leaves alone what it says."""

import pytest

from bytebound.documents.architecture import Linear, Norm
from bytebound.errors import ByteboundError, DocumentError, UnknownNameError
from bytebound.models.catalogue import find_model, model_ids, record, resolve
from bytebound.models.config import read_config
from bytebound.models.patterns import compact_patterns, matches
from bytebound.models.quantization import checkpoint_bytes

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
MOE = {**LLAMA, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
LAYER = 4 * 256 * 256 + 3 * 256 * 512


def stored(config, **quantization):
    """Return the format of every linear layer of a quantized config."""
    architecture = read_config({**config, "quantization_config": quantization})
    return {f"{block.name}{op.name}": op.stored for _, block, op in architecture.operators() if isinstance(op, Linear)}


def grouped(**weights):
    """Return a compressed-tensors group."""
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block128"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8-tensor"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4-g32"),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8-wo"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "nf4-dq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8-wo"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}, "nvfp4"),
        ({"quant_algo": "FP8", "producer": {"name": "modelopt"}, "ignore": ["lm_head"]}, "fp8-tensor"),
        ({"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}, "fp8-tensor"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "int4"),
        (
            {
                "quant_method": "torchao",
                "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}},
            },
            "int4-g64",
        ),
        ({"quant_method": "compressed-tensors", **grouped(num_bits=8, type="float", strategy="channel")}, "fp8"),
        ({"quant_method": "compressed-tensors", **grouped(num_bits=8, type="float", strategy="tensor")}, "fp8-tensor"),
        (
            {"quant_method": "compressed-tensors", **grouped(num_bits=4, type="int", strategy="group", group_size=32)},
            "int4-g32",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                **grouped(num_bits=4, type="float", strategy="tensor_group", group_size=16),
            },
            "nvfp4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                **grouped(num_bits=4, type="float", strategy="group", group_size=32),
            },
            "mxfp4",
        ),
    ],
)
def test_each_method_sets_its_format(quantization, expected):
    """The layers take the method's format, the head stays."""
    names = stored(LLAMA, **quantization)

    assert {expected} == {form for name, form in names.items() if name != "lm_head"}
    assert names["lm_head"] == "bf16"


def test_mxfp4_converts_experts_only():
    """gpt-oss keeps attention and router in 16 bits."""
    names = stored(MOE, quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn", "lm_head"])

    assert {"mxfp4"} == {form for name, form in names.items() if ".experts." in name}
    assert {"bf16"} == {form for name, form in names.items() if ".experts." not in name}


def test_v4_experts_have_their_own_format():
    """DeepSeek-V4 writes expert_dtype beside an fp8 quantization."""
    names = stored({**MOE, "expert_dtype": "fp4"}, quant_method="fp8", weight_block_size=[128, 128])

    assert {"mxfp4"} == {form for name, form in names.items() if ".experts." in name}
    assert names["model.layers.{}.self_attn.q_proj"] == "fp8-block128"


def test_ignored_layers_become_blocks_of_their_own():
    """A layer that is left alone differs from its neighbours."""
    config = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp", "re:.*layers\\.3\\.self_attn.*"]}
    architecture = read_config({**LLAMA, "quantization_config": config})

    assert [block.repeat for block in architecture.main.blocks] == [1, 1, 2, 1, 1]


def test_an_unknown_method_is_an_error_with_the_nearest():
    """Nothing is guessed about storage."""
    with pytest.raises(UnknownNameError) as caught:
        stored(LLAMA, quant_method="gptqq")

    assert "gptq" in caught.value.nearest


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "fp8", "weight_block_size": [7, 7]},
        {"quant_method": "gptq", "bits": 3},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "modelopt", "quant_algo": "FP6"},
        {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 5}}}},
        {"quant_method": "compressed-tensors"},
        {"quant_method": "fp8", "modules_to_not_convert": [3]},
        {"quant_method": "fp8", "modules_to_not_convert": ["re:(a+)+$"]},
        {"quant_method": "fp8", "modules_to_not_convert": ["x" * 10_000]},
    ],
)
def test_damaged_quantization_is_an_error(quantization):
    """Unknown widths, algorithms and patterns are refused."""
    with pytest.raises(ByteboundError):
        stored(LLAMA, **quantization)


def test_bytes_of_a_plain_checkpoint():
    """bf16: two bytes a value, norms too; fp32: four."""
    values = 4 * (LAYER + 2 * 256) + 2 * 1000 * 256 + 256

    assert 2 * values == checkpoint_bytes(read_config(LLAMA))
    assert 4 * values == checkpoint_bytes(read_config({**LLAMA, "torch_dtype": "float32"}))


def test_bytes_of_block_fp8_count_the_scales():
    """One byte a value and four per 128 x 128 block; embedding, head and norms stay."""
    config = {**LLAMA, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    plain = 2 * (2 * 1000 * 256 + (4 * 2 + 1) * 256)

    assert plain + 4 * (LAYER + LAYER // 128**2 * 4) == checkpoint_bytes(read_config(config))


def test_norms_carry_the_checkpoint_dtype():
    """A norm of a float32 checkpoint is stored in float32."""
    architecture = read_config({**LLAMA, "torch_dtype": "float32"})

    assert {"fp32"} == {op.stored for _, _, op in architecture.operators() if isinstance(op, Norm)}


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("lm_head", "lm_head", True),
        ("gate", "model.layers.0.mlp.gate", True),
        ("gate", "model.layers.0.mlp.gate_proj", False),
        ("model.layers.1", "model.layers.10.mlp.gate", False),
        ("model.layers.*.self_attn", "model.layers.7.self_attn.q_proj", True),
        ("*.mlp.gate", "model.layers.7.mlp.gate", True),
        ("re:.*mlp\\.gate$", "model.layers.7.mlp.gate", True),
        ("re:.*mlp\\.gate$", "model.layers.7.mlp.gate_proj", False),
        ("re:.*mlp\\.(gate|up|down)_proj.*", "model.layers.7.mlp.up_proj", True),
        ("language_model.model.layers.0.mlp", "model.layers.0.mlp.up_proj", True),
        ("language_model.lm_head", "lm_head", True),
    ],
)
def test_patterns(pattern, name, expected):
    """Names, globs and expressions match as the libraries match them."""
    assert expected is matches(name, (pattern,), "here")


def test_a_hostile_pattern_does_not_stall():
    """Many wildcards are matched without backtracking."""
    assert not matches("a" * 200, ("re:" + ".*a" * 100 + "b",), "here")
    with pytest.raises(DocumentError):
        matches("a", ("re:(?=a)a",), "here")


def test_long_lists_become_patterns():
    """Names that differ in layer numbers only are one pattern."""
    names = [f"model.layers.{index}.mlp.gate" for index in range(90)]

    assert compact_patterns([*names, "lm_head"]) == ["lm_head", "model.layers.*.mlp.gate"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B"),
        ("META-LLAMA/llama-3.1-8b", "meta-llama/Meta-Llama-3.1-8B"),
        ("llama-3.1-70b", "meta-llama/Meta-Llama-3.1-70B"),
        ("meta-llama/Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-70B"),
        ("qwen3-8b", "Qwen/Qwen3-8B"),
        ("gpt2", "openai-community/gpt2"),
    ],
)
def test_names_are_resolved(name, expected):
    """Any case, without the organisation, and without Meta-."""
    assert expected == resolve(name)


@pytest.mark.parametrize("name", ["", "llama", "qwen3-8", "b", "no-such-model", "../../etc/passwd"])
def test_an_unclear_name_is_an_error(name):
    """Ambiguous and unknown names are refused with the nearest."""
    with pytest.raises(UnknownNameError):
        resolve(name)


def test_every_bundled_model_builds():
    """Each record builds, and carries its id and source."""
    for name in model_ids():
        architecture, found = find_model(name), record(name)

        assert architecture.parameters > 0
        assert (name, architecture.family) == (found.id, found.family)
        assert bool(found.total) == bool(found.total_source)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("llama-3.1-8b", 8030261248),
        ("qwen3-30b-a3b", 30532122624),
        ("deepseek-v3", 671026404352),
        ("gpt-oss-120b", 116829156672),
    ],
)
def test_bundled_totals(name, total):
    """Totals that the hub or the model card publishes (DeepSeek-V3 and gpt-oss: transformers 5.23.0)."""
    assert total == find_model(name).parameters

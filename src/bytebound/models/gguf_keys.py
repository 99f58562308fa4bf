"""GGUF metadata as config keys: ``general.architecture`` and its keys become what the family builders read.

Source of the keys: llama.cpp ``gguf-py/gguf/constants.py``; of what they are written from: ``convert_hf_to_gguf.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bytebound.errors import DocumentError, UnknownNameError
from bytebound.models.gguf_header import GgufArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from bytebound.models.gguf_header import GgufFile

Values = dict[str, Any]

FAMILY: Final[dict[str, str]] = {
    "llama": "llama", "mistral3": "mistral", "qwen2": "qwen2", "qwen2vl": "qwen2", "qwen3": "qwen3", "qwen3vl": "qwen3",
    "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "qwen3vlmoe": "qwen3_moe", "gemma": "gemma", "gemma2": "gemma2",
    "gemma3": "gemma3_text", "phi2": "phi", "phi3": "phi3", "deepseek2": "deepseek_v2", "gpt-oss": "gpt_oss",
    "glm4": "glm4", "glm4moe": "glm4_moe", "command-r": "cohere", "cohere2": "cohere2", "starcoder2": "starcoder2",
    "falcon": "falcon", "mamba": "mamba", "gpt2": "gpt2", "bloom": "bloom", "gptneox": "gpt_neox",
    "stablelm": "stablelm", "olmo": "olmo", "olmo2": "olmo2", "olmoe": "olmoe", "granite": "granite",
    "smollm3": "smollm3", "minicpm": "minicpm", "seed_oss": "seed_oss", "bert": "bert", "nomic-bert": "nomic_bert",
}  # fmt: skip
"""Model type by GGUF architecture; ``llama`` with experts is Mixtral, ``deepseek2`` with a balance bias is V3."""


class Metadata:
    """The metadata of one GGUF file, read key by key.

    Args:
        file: the header.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.place = file.path
        named = file.metadata.get("general.architecture")
        if not isinstance(named, str) or not named:
            raise DocumentError(
                "general.architecture is missing",
                place=file.path,
                mend="convert the model again with a current converter",
            )
        self.architecture = named
        self.shapes = {tensor.name: tensor.shape for tensor in file.tensors}

    def has(self, key: str) -> bool:
        """Tell whether the architecture's ``key`` is written."""
        return f"{self.architecture}.{key}" in self.file.metadata

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a whole number; a list that repeats one number is that number.

        Raises:
            DocumentError: missing, or not one whole number.
        """
        name = f"{self.architecture}.{key}"
        value = self.file.metadata.get(name, default)
        if isinstance(value, GgufArray) and value.items is not None and len(set(value.items)) == 1:
            value = value.items[0]
        if isinstance(value, bool) or not isinstance(value, int):
            shown = "missing" if value is None else "not one whole number for all layers"
            raise DocumentError(f"{name} is {shown}", place=self.place, mend="this reader needs it to know the shapes")
        return value

    def layers(self, key: str) -> tuple[Any, ...] | None:
        """Return a list of one entry per layer, or None where one value stands for all."""
        value = self.file.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, GgufArray) and value.items is not None and len(set(value.items)) > 1:
            return value.items
        return None

    def rows(self, tensor: str) -> int | None:
        """Return the outer length of a tensor, or None."""
        shape = self.shapes.get(tensor)
        return shape[0] if shape else None


def config_of(file: GgufFile) -> Values:
    """Return the config keys a GGUF header states.

    Raises:
        UnknownNameError: the architecture is not mapped.
        DocumentError: metadata is missing or of the wrong kind.
    """
    data = Metadata(file)
    family = FAMILY.get(data.architecture)
    if family is None:
        place = f"{file.path}: general.architecture"
        raise UnknownNameError("GGUF architecture", data.architecture, FAMILY, place=place, mend="give its config.json")
    if data.architecture == "mamba":
        return _mamba(data)
    values = _common(data, family)
    special = _SPECIAL.get(data.architecture)
    if special is not None:
        special(data, values)
    return values


def _common(data: Metadata, family: str) -> Values:
    vocab = data.rows("token_embd.weight")
    heads = data.whole("attention.head_count")
    values: Values = {
        "model_type": family,
        "hidden_size": data.whole("embedding_length"),
        "num_hidden_layers": data.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": data.whole("attention.head_count_kv", heads),
        "max_position_embeddings": data.whole("context_length", 0) or None,
        "vocab_size": vocab if vocab is not None else data.whole("vocab_size"),
        "tie_word_embeddings": "output.weight" not in data.shapes,
    }
    if data.has("feed_forward_length"):
        values["intermediate_size"] = data.whole("feed_forward_length")
    if data.has("attention.key_length"):
        values["head_dim"] = data.whole("attention.key_length")
    if data.has("attention.sliding_window"):
        values["sliding_window"] = data.whole("attention.sliding_window") or None
    return values


def _experts(data: Metadata, values: Values, *, count: str = "num_experts", width: bool = True) -> None:
    values[count] = data.whole("expert_count")
    values["num_experts_per_tok"] = data.whole("expert_used_count")
    if width:
        stacked = data.shapes.get("blk.0.ffn_gate_exps.weight", (0, 0, 0))
        fallback = stacked[1] if len(stacked) == 3 and stacked[1] else None
        values["moe_intermediate_size"] = data.whole("expert_feed_forward_length", fallback)


def _llama(data: Metadata, values: Values) -> None:
    values["attention_bias"] = "blk.0.attn_q.bias" in data.shapes
    values["mlp_bias"] = "blk.0.ffn_up.bias" in data.shapes
    if data.whole("expert_count", 0):
        values["model_type"] = "mixtral"
        del values["attention_bias"], values["mlp_bias"]
        _experts(data, values, count="num_local_experts", width=False)


def _qwen2moe(data: Metadata, values: Values) -> None:
    _experts(data, values)
    shared = data.rows("blk.0.ffn_gate_shexp.weight")
    values["shared_expert_intermediate_size"] = data.whole("expert_shared_feed_forward_length", shared)


def _qwen3moe(data: Metadata, values: Values) -> None:
    _experts(data, values)


def _olmoe(data: Metadata, values: Values) -> None:
    _experts(data, values, width=False)


def _deepseek2(data: Metadata, values: Values) -> None:
    _experts(data, values, count="n_routed_experts")
    rope = data.whole("rope.dimension_count")
    latent = data.whole("attention.kv_lora_rank")
    split = data.has("attention.key_length_mla")
    key = data.whole("attention.key_length_mla" if split else "attention.key_length")
    values |= {
        "model_type": "deepseek_v3" if any("exp_probs_b" in name for name in data.shapes) else "deepseek_v2",
        "q_lora_rank": data.whole("attention.q_lora_rank", 0) or None,
        "kv_lora_rank": latent,
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": key - rope,
        "v_head_dim": data.whole("attention.value_length_mla" if split else "attention.value_length"),
        "n_shared_experts": data.whole("expert_shared_count", 0),
        "first_k_dense_replace": data.whole("leading_dense_block_count", 0),
        "num_key_value_heads": values["num_attention_heads"],
    }
    values.pop("head_dim", None)


def _gpt_oss(data: Metadata, values: Values) -> None:
    _experts(data, values, count="num_local_experts", width=False)
    values["intermediate_size"] = data.whole("expert_feed_forward_length")
    depth = values["num_hidden_layers"]
    values["layer_types"] = ["full_attention" if index % 2 else "sliding_attention" for index in range(depth)]


def _glm4moe(data: Metadata, values: Values) -> None:
    _experts(data, values, count="n_routed_experts")
    draft = data.whole("nextn_predict_layers", 0)
    values |= {
        "n_shared_experts": data.whole("expert_shared_count", 0),
        "first_k_dense_replace": data.whole("leading_dense_block_count", 0),
        "num_nextn_predict_layers": draft,
        "num_hidden_layers": values["num_hidden_layers"] - draft,
        "attention_bias": "blk.0.attn_q.bias" in data.shapes,
        "use_qk_norm": "blk.0.attn_q_norm.weight" in data.shapes,
    }


def _falcon(data: Metadata, values: Values) -> None:
    two = "blk.0.attn_norm_2.weight" in data.shapes
    values |= {
        "num_kv_heads": values.pop("num_key_value_heads"),
        "new_decoder_architecture": two,
        "parallel_attn": True,
    }
    values |= {"multi_query": values["num_kv_heads"] == 1, "bias": "blk.0.attn_qkv.bias" in data.shapes}
    values.pop("head_dim", None)


def _renamed(data: Metadata, values: Values) -> None:
    """Write the keys of GPT-2 and BLOOM, which name their sizes otherwise."""
    if values["model_type"] == "gpt2":
        values |= {
            "n_embd": values.pop("hidden_size"),
            "n_head": values.pop("num_attention_heads"),
            "n_layer": values.pop("num_hidden_layers"),
            "n_positions": data.rows("position_embd.weight"),
            "n_inner": values.pop("intermediate_size", None),
        }
        del values["max_position_embeddings"]
    else:
        values |= {"n_head": values.pop("num_attention_heads"), "n_layer": values.pop("num_hidden_layers")}
        del values["max_position_embeddings"]
        values.pop("intermediate_size", None)
    del values["num_key_value_heads"]
    values.pop("head_dim", None)


def _without_groups(_data: Metadata, values: Values) -> None:
    del values["num_key_value_heads"]
    values.pop("head_dim", None)


def _biased(data: Metadata, values: Values) -> None:
    """Write the biases of families whose config has a flag for them."""
    values["use_bias"] = "blk.0.attn_q.bias" in data.shapes
    values.pop("head_dim", None)


def _stablelm(data: Metadata, values: Values) -> None:
    values["use_qkv_bias"] = "blk.0.attn_q.bias" in data.shapes
    values["use_parallel_residual"] = "blk.0.ffn_norm.weight" not in data.shapes
    values.pop("head_dim", None)


def _bert(data: Metadata, values: Values) -> None:
    del values["num_key_value_heads"], values["tie_word_embeddings"]
    values.pop("head_dim", None)
    values["architectures"] = ["BertModel"]
    values["type_vocab_size"] = data.rows("token_types.weight") or 1
    rows = data.rows("position_embd.weight")
    if rows is not None:
        values["max_position_embeddings"] = rows


def _plain_head(_data: Metadata, values: Values) -> None:
    values.pop("head_dim", None)


def _mamba(data: Metadata) -> Values:
    vocab = data.rows("token_embd.weight")
    return {
        "model_type": "mamba",
        "hidden_size": data.whole("embedding_length"),
        "num_hidden_layers": data.whole("block_count"),
        "vocab_size": vocab if vocab is not None else data.whole("vocab_size"),
        "state_size": data.whole("ssm.state_size"),
        "conv_kernel": data.whole("ssm.conv_kernel"),
        "intermediate_size": data.whole("ssm.inner_size"),
        "time_step_rank": data.whole("ssm.time_step_rank"),
        "tie_word_embeddings": "output.weight" not in data.shapes,
    }


_SPECIAL: Final[dict[str, Callable[[Metadata, Values], None]]] = {
    "llama": _llama, "qwen2moe": _qwen2moe, "qwen3moe": _qwen3moe, "qwen3vlmoe": _qwen3moe, "olmoe": _olmoe,
    "deepseek2": _deepseek2, "gpt-oss": _gpt_oss, "glm4moe": _glm4moe, "falcon": _falcon, "gpt2": _renamed,
    "bloom": _renamed, "gptneox": _without_groups, "phi2": _plain_head, "starcoder2": _biased, "stablelm": _stablelm,
    "bert": _bert, "nomic-bert": _bert, "command-r": _plain_head, "phi3": _plain_head, "olmo": _plain_head,
    "olmo2": _plain_head, "granite": _plain_head, "minicpm": _plain_head,
}  # fmt: skip

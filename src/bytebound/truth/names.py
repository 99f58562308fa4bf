"""Names as publications print them -> our devices, engines and models, by tables of spellings."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from bytebound.facts.devices import aliases, devices
from bytebound.models.catalogue import model_ids
from bytebound.models.shapes import shape_aliases
from bytebound.truth.readings import Inexpressible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# ---- devices

DEVICE_SPELLINGS = tuple(
    (re.compile(pattern), device)
    for pattern, device in (
        (r"laptop|mobile|max-q|\bdual\b", ""),
        (r"gb300", "gb300"),
        (r"gb200", "gb200"),
        (r"gh200.*144", "gh200-144gb"),
        (r"gh200", "gh200-96gb"),
        (r"b300", "b300-sxm"),
        (r"b200", "b200-sxm"),
        (r"h200.*nvl", "h200-nvl"),
        (r"h200", "h200-sxm"),
        (r"h800", "h800-sxm"),
        (r"h100.*nvl", "h100-nvl"),
        (r"h100.*pcie", "h100-pcie"),
        (r"\bh100", "h100-sxm"),
        (r"a100.*pcie.*40 ?g|a100.*40 ?g.*pcie", "a100-40gb-pcie"),
        (r"a100.*40 ?g", "a100-40gb-sxm"),
        (r"a100.*pcie", "a100-80gb-pcie"),
        (r"\ba100", "a100-80gb-sxm"),
        (r"v100.*pcie", "v100-pcie-16gb"),
        (r"v100s", "v100s-pcie-32gb"),
        (r"v100.*32", "v100-sxm2-32gb"),
        (r"\bv100", "v100-sxm2-16gb"),
        (r"mi250x", "mi250x"),
        (r"pvc|ponte vecchio|max 1550", "max-1550"),
        (r"strix[ _]halo|ai max\+? ?395|8060s|gfx1151|framework (desktop )?mainboard", "strix-halo-395"),
        (r"dgx spark|\bgb10\b", "gb10-dgx-spark"),
        (r"\bthor\b", "jetson-thor-t5000"),
        (r"orin nano", "jetson-orin-nano-8"),
        (r"orin nx", "jetson-orin-nx-16"),
        (r"jetson.*orin|agx[ _]orin", "jetson-agx-orin-64"),
        (r"gaudi ?3", "gaudi3"),
        (r"gaudi ?2", "gaudi2"),
        (r"inferentia ?2|\binf2", "inferentia2"),
        (r"trainium ?1|\btrn1", "trainium1"),
        (r"trainium ?2|\btrn2", "trainium2"),
        (r"tpu ?v?7x?|ironwood", "tpu-7x"),
        (r"v6e|trillium", "tpu-v6e"),
        (r"v5p", "tpu-v5p"),
        (r"v5e", "tpu-v5e"),
        (r"tpu[ _]v4\b", "tpu-v4"),
        (r"8[ _]elite gen ?5", "sd-8-elite-gen5"),
        (r"8[ _]elite|hexagon v79", "sd-8-elite"),
        (r"8 gen ?3", "sd-8-gen3"),
        (r"8 gen ?2", "sd-8-gen2"),
        (r"x2 elite", "sd-x2-elite"),
        (r"x[ _]elite", "sd-x-elite"),
        (r"a19 pro|iphone 17 pro", "apple-a19-pro"),
        (r"a18 pro|iphone 16 pro", "apple-a18-pro"),
        (r"a17 pro|iphone 15 pro", "apple-a17-pro"),
        (r"lunar ?lake|258v|arc 140v", "lunar-lake-288v"),
        (r"rk3588", "rk3588"),
        (r"^[^(]*7950x", "ryzen-7950x"),
        (r"^[^(]*9950x", "ryzen-9950x"),
        (r"910 ?b", "ascend-910b"),
        (r"910 ?c", "ascend-910c"),
    )
)
"""Pattern in the printed name -> device; the first that is found wins, an empty device is one we have no row for.

Bare names stand for the most common module: SXM of the largest early memory.
"""

APPLE = re.compile(r"\bm([1-6])(?:[ _-](pro|max|ultra))?\b(?:.*?(\d+)[ -]core gpu|.*?\((\d+) gpu core\))?")
PROCESSOR_ONLY = re.compile(r"\(cpu\)|;\s*cpu\)|^cpu_")
MAKERS = re.compile(
    r"\b(nvidia|amd|intel|apple|geforce|tesla|instinct|habana|google|qualcomm|rockchip|gpu|graphics|npu)\b"
)
MEMORY = re.compile(r"\b\d+ ?gi?b?\b")


@lru_cache(maxsize=4096)
def device_of(hardware: str, key: str = "") -> tuple[str, str]:
    """Return (our device id, ``cpu`` where only the processor of the device computed, else an empty string).

    Args:
        hardware: the device as printed.
        key: another publication's normalised name of it, tried when the printed name says nothing.

    Raises:
        Inexpressible: no device of ours.

    Example:
        >>> device_of("Apple M2 Max (CPU)"), device_of("4090 24GB")
        (('m2-max', 'cpu'), ('rtx-4090', ''))
    """
    for text in (hardware, key):
        folded = re.sub(r"[‐-―]", "-", text.strip().lower())
        found = _device(folded)
        if found:
            return found, "cpu" if PROCESSOR_ONLY.search(folded) or PROCESSOR_ONLY.search(key) else ""
    raise Inexpressible("device not in the catalogue", hardware)


def _device(text: str) -> str:
    known, other = devices(), aliases()
    if text in known:
        return text
    if text in other:
        return other[text]
    for pattern, device in DEVICE_SPELLINGS:
        if pattern.search(text):
            return device
    apple = APPLE.search(text.replace("_", " "))
    if apple:
        number, kind, cores, more = apple.groups()
        base = f"m{number}-{kind}" if kind else f"m{number}"
        variant = f"{base}-{cores or more}"
        return variant if variant in known else base if base in known else _last_starting(base, known)
    bare = MAKERS.sub(" ", re.sub(r"\(.*?\)", " ", text.replace("_", " ")))
    for candidate in (bare, MEMORY.sub(" ", bare)):
        words = re.sub(r"[^a-z0-9]+", " ", candidate).strip()
        for name in (words.replace(" ", "-"), words):
            if name in known:
                return name
            if name in other:
                return other[name]
    return _inside(re.sub(r"[^a-z0-9]+", "-", bare).strip("-"), known)


def _last_starting(base: str, known: Mapping[str, object]) -> str:
    return next(reversed([name for name in known if name.startswith(f"{base}-")]), "")


def _inside(slug: str, known: Mapping[str, object]) -> str:
    """Return the longest id that stands in ``slug`` as whole words."""
    held = [name for name in known if len(name) > 3 and f"-{name}-" in f"-{slug}-"]
    return max(held, key=len, default="")


# ---- engines

ENGINE_SPELLINGS = tuple(
    (re.compile(pattern), engine)
    for pattern, engine in (
        (r"zero-inference|flexgen|ktransformers", ""),
        (r"optimum[ -]nvidia|tensorrt|trt", "tensorrt-llm"),
        (r"vllm", "vllm"),
        (r"sglang", "sglang"),
        (r"ctransformers|llama[.-]?cpp|llama-ba?t?c?h|ollama|lm ?studio|koboldcpp", "llama.cpp"),
        (r"exllama", "exllama"),
        (r"deepspeed|\bmii\b", "deepspeed"),
        (r"neuron", "transformers-neuronx"),
        (r"fastertransformer", "fastertransformer"),
        (r"gpt-fast|torchao|torch\.compile", "gpt-fast"),
        (r"tinychat", "tinychat"),
        (r"lmdeploy|turbomind", "lmdeploy"),
        (r"\btgi\b|text[ -]generation[ -]inference", "tgi"),
        (r"\bmlc\b", "mlc-llm"),
        (r"rkllm", "rkllm"),
        (r"genie|qnn", "genie"),
        (r"\bmlx\b", "mlx"),
        (r"hugging ?face|transformer|accelerate|openllm pytorch|autoawq|autogptq", "transformers"),
    )
)
"""Pattern in the printed name -> engine; the first that is found wins, an empty engine is one we have no row for."""

BACKEND_SPELLINGS = (
    ("/metal", "metal"),
    ("/mtl", "metal"),
    ("/rocm", "rocm"),
    ("/vulkan", "vulkan"),
    ("/cuda", "cuda"),
    ("/cpu", "cpu"),
    ("/htp", "npu"),
    ("rocm", "rocm"),
    ("vulkan", "vulkan"),
)

OWN_BACKEND = {
    ("NVIDIA", "gpu"): "cuda",
    ("NVIDIA", "npu"): "cuda",
    ("Apple", "apple-soc"): "metal",
    ("AMD", "gpu"): "rocm",
}
"""Maker and kind -> what engines run on its devices when nothing is said."""

SEVERAL_BACKENDS = {("llama.cpp", "AMD")}
"""Engines that have several back ends on a maker's devices: what is not said is not known."""


@lru_cache(maxsize=4096)
def engine_of(printed: str) -> tuple[str, str]:
    """Return (our engine, the backend its name says or an empty string).

    Raises:
        Inexpressible: no engine of ours.

    Example:
        >>> engine_of("llama.cpp/Vulkan"), engine_of("TensorRT 10.2.0, CUDA 12.4")
        (('llama.cpp', 'vulkan'), ('tensorrt-llm', ''))
    """
    text = printed.strip().lower()
    for pattern, engine in ENGINE_SPELLINGS:
        if pattern.search(text):
            if not engine:
                break
            backend = next((name for part, name in BACKEND_SPELLINGS if part in text), "")
            return engine, backend if engine == "llama.cpp" else ""
    raise Inexpressible("engine not in the catalogue", printed)


def backend_of(engine: str, said: str, device: str, processor: str) -> str:
    """Return what runs the kernels: what was ``said``, the processor, or the usual one of the maker; else an empty string."""
    row = devices()[device]
    if said or processor or (engine, row.vendor) in SEVERAL_BACKENDS:
        return processor or said
    return "cpu" if row.kind == "cpu" else OWN_BACKEND.get((row.vendor, row.kind), "")


# ---- models

FAMILY_SPELLINGS = tuple(
    (re.compile(pattern), model)
    for pattern, model in (
        (r"deepseek[-_ ]?r1.*(nvfp4|fp4)|deepseek-?v3(\.1)?-nvfp4", "nvidia/DeepSeek-R1-NVFP4"),
        (r"deepseek[-_ ]?v3\.1", "deepseek-ai/DeepSeek-V3"),
        (r"^deepseek r1:? ?(14b)$", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"),
        (r"nvila-2b", "Qwen/Qwen2-1.5B-Instruct"),
        (r"vila-7b", "meta-llama/Llama-2-7b-hf"),
        (r"vicuna-?7b", "meta-llama/Llama-2-7b-hf"),
        (r"elyza|taide|l3-taide", "meta-llama/Meta-Llama-3-8B"),
        (r"sea-lion-v3\.5-8b", "meta-llama/Meta-Llama-3.1-8B"),
        (r"shisa-v2-llama3\.1-8b", "meta-llama/Meta-Llama-3.1-8B"),
        (r"gpt-?j", "EleutherAI/gpt-j-6b"),
        (r"codellama-34b", "codellama/CodeLlama-34b-Instruct-hf"),
        (r"qwen3-coder-30b-a3b", "Qwen/Qwen3-30B-A3B"),
        (r"^(meta[- ])?llama[-_ ]?7b( v2)?$", "meta-llama/Llama-2-7b-hf"),
        (r"^(meta[- ])?llama[-_ ]?13b( v2)?$", "meta-llama/Llama-2-13b-hf"),
        (r"^(meta[- ])?llama[-_ ]?70b( v2)?$", "meta-llama/Llama-2-70b-chat-hf"),
        (r"tiny-?llama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        (r"mixtral 46\.7b", "mistralai/Mixtral-8x7B-v0.1"),
    )
)
"""Pattern in the folded name -> model of the same shape (a fine-tune, the language part of a vision model, another spelling)."""

DROPPED = (
    r"[-_. ](ud-)?i?q\d+_[\w]*$", r"[-_. ]i1$", r"-0000\d-of-0000\d$", r"[-_. ]gguf$", r"-(bf16|fp16)$", r"\.i1$",
)  # fmt: skip
"""Endings that name a file format, taken off again and again before a name is compared."""

SUFFIXES = (
    "instruct", "chat", "hf", "it", "base", "2507", "2506", "2503", "2501", "2512", "0528", "thinking", "99.9", "99",
    "fp8", "nvfp4", "fp4", "awq", "gptq", "int4", "int8", "qat", "coder", "v0.1", "v0.2", "v0.3", "preview", "mxfp4",
    "dynamic", "block", "static", "pertensor", "w4a16", "w8a8",
)  # fmt: skip
"""Words that change no shape, or only the weight format, dropped in turn when a name is not found with them."""

ORGANISATION = re.compile(r"^[\w.-]+/")


def _stem(name: str, words: Iterable[str] = ()) -> str:
    """Return ``name`` without organisation, punctuation and ``words``, so that spellings meet."""
    text = ORGANISATION.sub("", name.strip().lower())
    text = re.sub(r"^meta-", "", text)
    text = re.sub(r"llama-?v(?=\d)", "llama", text)
    for word in words:
        text = re.sub(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", "", text)
    return re.sub(r"[^a-z0-9.]+", "", text).strip(".")


@cache
def _stems() -> dict[str, str]:
    """Return every known stem and its model: exact names first, then with fewer words; ids before aliases."""
    names = [*((each, each) for each in model_ids()), *shape_aliases().items()]
    found: dict[str, str] = {}
    for words in _fewer():
        for name, model in names:
            found.setdefault(_stem(name, words), model)
    return found


def _fewer() -> tuple[tuple[str, ...], ...]:
    """Return which words to drop, ever more of them: variants of the text first, formats last."""
    formats = {"fp8", "nvfp4", "fp4", "awq", "gptq", "int4", "int8", "mxfp4", "dynamic", "block", "static", "pertensor"}
    text = tuple(word for word in SUFFIXES if word not in {*formats, "coder", "w4a16", "w8a8"})
    return (), ("instruct", "chat", "hf", "it", "base"), text, SUFFIXES


@lru_cache(maxsize=4096)
def model_of(printed: str) -> str:
    """Return our id of a model, or of one with the same shape.

    Raises:
        Inexpressible: no model of ours has this name or shape.

    Example:
        >>> model_of("llama-2-7b.Q4_K_M"), model_of("Llama 3.2:3b")
        ('meta-llama/Llama-2-7b-hf', 'meta-llama/Llama-3.2-3B-Instruct')
    """
    text = printed.strip().lower()
    before = ""
    while before != text:
        before = text
        for ending in DROPPED:
            text = re.sub(ending, "", text)
    for pattern, model in FAMILY_SPELLINGS:
        if pattern.search(ORGANISATION.sub("", text)):
            return model
    for words in _fewer():
        stem = _stem(text, words)
        if stem in _stems():
            return _stems()[stem]
    raise Inexpressible("model shape not known", printed)

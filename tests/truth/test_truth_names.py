"""Printed names find the device, engine, model and format they mean, and unknown ones are unknown."""

import pytest

from bytebound.errors import UnknownNameError
from bytebound.facts.devices import devices
from bytebound.facts.engines import find_engine
from bytebound.facts.formats import find_format
from bytebound.models.catalogue import resolve
from bytebound.truth.names import (
    DEVICE_SPELLINGS,
    ENGINE_SPELLINGS,
    FAMILY_SPELLINGS,
    backend_of,
    device_of,
    engine_of,
    model_of,
)
from bytebound.truth.readings import Inexpressible
from bytebound.truth.weights import GGUF, OWN, SPELLINGS, cache_of, stored_as, weights_of


@pytest.mark.parametrize(
    ("printed", "device", "processor"),
    [
        ("h100_sxm", "h100-sxm", ""),
        ("NVIDIA H100 80GB HBM3", "h100-sxm", ""),
        ("NVIDIA H100-PCIe-80GB", "h100-pcie", ""),
        ("NVIDIA a100-80gb", "a100-80gb-sxm", ""),
        ("A100 PCIe 80GB", "a100-80gb-pcie", ""),
        ("NVIDIA B200-SXM-180GB", "b200-sxm", ""),
        ("NVIDIA GB200 NVL72", "gb200", ""),
        ("AMD Instinct MI300X-NPS1-SPX-192GB-750W", "mi300x", ""),
        ("NVIDIA GeForce RTX 4090", "rtx-4090", ""),
        ("4090 24GB", "rtx-4090", ""),
        ("NVIDIA RTX 4090 (AMD Ryzen 9 7950X)", "rtx-4090", ""),
        ("RTX 5000 Ada 32GB", "rtx-5000-ada", ""),
        ("AMD Ryzen 9 7950X (CPU)", "ryzen-7950x", "cpu"),
        ("Apple M2 Max (CPU)", "m2-max", "cpu"),
        ("Apple M1 Pro (8P+2E cores, 32GB; CPU)", "m1-pro", "cpu"),
        ("Apple M1 7-core GPU", "m1-7", ""),
        ("M1 Max 32‑Core GPU 64GB", "m1-max", ""),  # a non-breaking hyphen
        ("M1 Ultra (48 GPU Core) 64GB", "m1-ultra-48", ""),
        ("AMD Ryzen AI Max+ 395 (Strix Halo, Radeon 8060S gfx1151)", "strix-halo-395", ""),
        ("NVIDIA Jetson AGX Orin 64G", "jetson-agx-orin-64", ""),
        ("Snapdragon 8 Elite QRD", "sd-8-elite", ""),
    ],
)
def test_devices(printed, device, processor):
    assert device_of(printed) == (device, processor)


def test_a_device_that_only_the_key_tells():
    assert device_of("Framework Mainboard (128GB)", "amd_strix_halo_395") == ("strix-halo-395", "")
    assert device_of("somebody's workstation", "nvidia_rtx_4090") == ("rtx-4090", "")


@pytest.mark.parametrize("printed", ["", "NVIDIA RTX 4090 Laptop GPU", "MAXSUN Arc Pro B60 Dual", "Nvidia 1"])
def test_a_device_we_do_not_have(printed):
    with pytest.raises(Inexpressible) as caught:
        device_of(printed)
    assert caught.value.reason == "device not in the catalogue"


@pytest.mark.parametrize(
    ("printed", "engine", "backend"),
    [
        ("vLLM (ML.ENERGY benchmark v3)", "vllm", ""),
        ("vLLM 0.4.3+rocm614, PyTorch 2.3.0, ROCm 6.1.2", "vllm", ""),
        ("trt", "tensorrt-llm", ""),
        ("TensorRT 10.2.0, CUDA 12.4", "tensorrt-llm", ""),
        ("llama.cpp/Vulkan", "llama.cpp", "vulkan"),
        ("llama.cpp/MTL,BLAS", "llama.cpp", "metal"),
        ("ik_llama.cpp -rtr 1", "llama.cpp", ""),
        ("text-generation-webui ExllamaV2", "exllama", ""),
        ("text-generation-webui Transformer", "transformers", ""),
        ("Transformers NeuronX", "transformers-neuronx", ""),
        ("Deepspeed-MII", "deepspeed", ""),
    ],
)
def test_engines(printed, engine, backend):
    assert engine_of(printed) == (engine, backend)


@pytest.mark.parametrize("printed", ["", "CUDA 12.4", "Google internal JAX", "DeepSpeed ZeRO-Inference", "Megatron-LM"])
def test_an_engine_we_do_not_have(printed):
    with pytest.raises(Inexpressible, match="engine not in the catalogue"):
        engine_of(printed)


def test_what_runs_the_kernels():
    assert backend_of("llama.cpp", "", "rtx-4090", "") == "cuda"
    assert backend_of("llama.cpp", "", "m2-max", "") == "metal"
    assert backend_of("llama.cpp", "rocm", "strix-halo-395", "") == "rocm"
    assert backend_of("llama.cpp", "", "ryzen-7950x", "cpu") == "cpu"
    assert backend_of("vllm", "", "h100-sxm", "") == "cuda"
    assert backend_of("vllm", "", "mi300x", "") == "rocm"
    assert backend_of("llama.cpp", "", "strix-halo-395", "") == ""
    assert backend_of("rkllm", "", "rk3588", "") == ""


def test_a_checkpoint_that_stores_the_format_itself():
    assert stored_as("deepseek-ai/DeepSeek-R1", "fp8-block128") == ("deepseek-ai/DeepSeek-R1", "auto")
    assert stored_as("deepseek-ai/DeepSeek-V3", "nvfp4") == ("nvidia/DeepSeek-R1-NVFP4", "auto")
    assert stored_as("Qwen/Qwen3-32B", "nvfp4") == ("Qwen/Qwen3-32B", "nvfp4")
    for (_, form), model in OWN.items():
        assert resolve(model) == model
        assert find_format(form)


@pytest.mark.parametrize(
    ("printed", "model"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B"),
        ("llama-2-7b.Q4_K_M", "meta-llama/Llama-2-7b-hf"),
        ("LLaMA 7B v2", "meta-llama/Llama-2-7b-hf"),
        ("Llama 3.2:3b", "meta-llama/Llama-3.2-3B-Instruct"),
        ("Qwen3-235B-A22B-Instruct-2507-UD-Q3_K_XL-00001-of-00003", "Qwen/Qwen3-235B-A22B"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "Qwen/Qwen3-235B-A22B-FP8"),
        ("ggml-org/Qwen3-Coder-30B-A3B-Instruct-Q8_0-GGUF", "Qwen/Qwen3-30B-A3B"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-ai/DeepSeek-R1"),
        ("DeepSeek R1 14b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"),
        ("bloom-176b", "bigscience/bloom"),
        ("llama2-70b-99.9", "meta-llama/Llama-2-70b-chat-hf"),
        ("gptj-99", "EleutherAI/gpt-j-6b"),
        ("VILA-13B", "meta-llama/Llama-2-13b-hf"),
        ("NVILA-8B", "Qwen/Qwen2-7B"),
        ("shisa-v2-llama3.3-70b.i1-Q4_K_M", "meta-llama/Llama-3.3-70B-Instruct"),
        ("gemma-3-27b-it-UD-Q4_K_XL", "google/gemma-3-27b-it"),
    ],
)
def test_models(printed, model):
    assert model_of(printed) == model


@pytest.mark.parametrize("printed", ["", "Llama", "PaLM 540B", "Qwen9-1B", "gpt", "8b"])
def test_a_model_we_do_not_have(printed):
    with pytest.raises(Inexpressible, match="model shape not known"):
        model_of(printed)


@pytest.mark.parametrize(
    ("printed", "engine", "model", "weights"),
    [
        ("Q4_K - Medium", "llama.cpp", "", "q4_k_m"),
        ("iq4_xs - 4.25 bpw", "llama.cpp", "", "iq4_xs_m"),
        ("f16", "llama.cpp", "", "fp16"),
        ("bfloat16", "vllm", "", "bf16"),
        ("fp8", "vllm", "meta-llama/Meta-Llama-3.1-70B", "fp8"),
        ("fp8", "vllm", "deepseek-ai/DeepSeek-R1", "fp8-block128"),
        ("fp8_block", "trtllm", "Qwen/Qwen3-32B", "fp8-block128"),
        ("fp4", "vllm", "openai/gpt-oss-120b", "mxfp4"),
        ("fp4", "tensorrt-llm", "meta-llama/Meta-Llama-3.1-70B", "nvfp4"),
        ("gptq-int8", "vllm", "", "int8-wo"),
        ("gptq-int4-g128-actorder", "exllama", "", "int4"),
        ("int4-g32", "gpt-fast", "", "int4-g32"),
        ("int4", "llama.cpp", "", "q4_0"),
        ("int4-awq-g128 (W4A16)", "tinychat", "", "awq"),
        ("w8a8", "rkllm", "", "int8"),
    ],
)
def test_formats(printed, engine, model, weights):
    assert weights_of(printed, engine, model) == weights


def test_formats_that_are_not_stated_or_not_ours():
    with pytest.raises(Inexpressible, match="weight format not stated"):
        weights_of("", "vllm", "")
    with pytest.raises(Inexpressible, match="weight format not in our table"):
        weights_of("int8_dynamic_activation_intx_weight-3-256-false", "gpt-fast", "")


def test_a_cache_format_that_is_not_stated():
    assert cache_of("f16", "vllm", "bf16", from_nvidia=True) == ("fp16", "")
    assert cache_of("", "llama.cpp", "q4_0", from_nvidia=True) == ("fp16", "")
    assert cache_of("", "vllm", "fp8", from_nvidia=True) == ("auto", "")
    found, said = cache_of("", "tensorrt-llm", "fp8", from_nvidia=True)
    assert found == "fp8"
    assert said
    assert cache_of("", "tensorrt-llm", "bf16", from_nvidia=True) == ("auto", "")


def test_every_spelling_leads_to_a_name_of_ours():
    known = devices()
    assert [name for _, name in DEVICE_SPELLINGS if name and name not in known] == []
    for _, name in ENGINE_SPELLINGS:
        assert not name or find_engine(name).name == name
    for _, name in FAMILY_SPELLINGS:
        assert resolve(name) == name
    for name in [*GGUF.values(), *(name for _, name in SPELLINGS if name)]:
        try:
            find_format(name)
        except UnknownNameError as error:
            pytest.fail(str(error))

"""Names of aiconfigurator's end-to-end sample in our words, and which of its runs may have decoded speculatively."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

DEVICES: Mapping[str, str] = {
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200-sxm",
    "b300_sxm": "b300-sxm",
    "gb200": "gb200",
    "gb300": "gb300",
}
"""The sample's systems -> our devices."""

ENGINES: Mapping[str, str] = {"trtllm": "tensorrt-llm", "vllm": "vllm", "sglang": "sglang"}
"""The sample's backends -> our engines."""

FORMATS: Mapping[str, str] = {
    "": "bf16",
    "bf16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8-block128",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "int4_wo": "int4-g32",
    "int4": "int4-g32",
}
"""The sample's weight formats -> ours. Blank stands on runs whose path names a 16-bit checkpoint only."""

MODELS: Mapping[str, str] = {
    "deepseek-ai/DeepSeek-R1": "deepseek-ai/DeepSeek-R1",
    "deepseek-ai/DeepSeek-V3": "deepseek-ai/DeepSeek-R1",
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
    "zhipuai/GLM-5": "zai-org/GLM-5",
}
"""The sample's models -> ours, where the names differ. The dump of 2026-04-27 calls DeepSeek-R1 DeepSeek-V3: the same runs
stand in both; the Llama-3.1-70B of InferenceX is probably Llama-3.3-70B, of the same shape."""

CHECKPOINTS: Mapping[tuple[str, str], str] = {
    ("deepseek-ai/DeepSeek-R1", "fp8"): "deepseek-ai/DeepSeek-R1",
    ("deepseek-ai/DeepSeek-R1", "nvfp4"): "nvidia/DeepSeek-R1-NVFP4",
    ("nvidia/DeepSeek-R1-NVFP4", "nvfp4"): "nvidia/DeepSeek-R1-NVFP4",
    ("nvidia/DeepSeek-V3.1-NVFP4", "nvfp4"): "nvidia/DeepSeek-R1-NVFP4",
    ("MiniMaxAI/MiniMax-M2.5", "fp8"): "MiniMaxAI/MiniMax-M2.5",
    ("MiniMaxAI/MiniMax-M2.5", "nvfp4"): "nvidia/MiniMax-M2.5-NVFP4",
    ("Qwen/Qwen3-235B-A22B-FP8", "fp8"): "Qwen/Qwen3-235B-A22B-FP8",
    ("Qwen/Qwen3-235B-A22B-FP8", "fp8-block128"): "Qwen/Qwen3-235B-A22B-FP8",
    ("Qwen/Qwen3.5-397B-A17B", "nvfp4"): "nvidia/Qwen3.5-397B-A17B-NVFP4",
    ("moonshotai/Kimi-K2.5", "int4-g32"): "moonshotai/Kimi-K2.5",
    ("moonshotai/Kimi-K2.5", "nvfp4"): "nvidia/Kimi-K2.5-NVFP4",
    ("zai-org/GLM-5", "nvfp4"): "nvidia/GLM-5-NVFP4",
    ("openai/gpt-oss-120b", "nvfp4"): "openai/gpt-oss-120b",
}
"""(our model, weight format) -> the catalogue entry that stores those weights itself, so that ``auto`` is exact: mixed
checkpoints keep attention in 16 bits. gpt-oss is MXFP4, which the sample lists as nvfp4."""

BLOCK_FP8 = frozenset({"Qwen/Qwen3.5-397B-A17B", "zai-org/GLM-5"})
"""Models whose public FP8 checkpoint has a scale per 128 × 128 block, though the sample's gemm mode says fp8."""

CHANGELOG = "SemiAnalysisAI/InferenceX perf-changelog.yaml"


@dataclass(frozen=True, slots=True)
class Speculation:
    """When a deployment of InferenceX began to be run with multi-token prediction too.

    Args:
        first: first date on which such a run is possible; runs before it decode plainly.
        plain_dates: later dates whose runs decode plainly all the same: another engine image than the speculative runs had.
        plain_tp: degrees never run speculatively.
        source: what says so.
    """

    first: str
    source: str
    plain_dates: frozenset[str] = frozenset()
    plain_tp: frozenset[int] = frozenset()


SPECULATION: Mapping[tuple[str, str, str, str], Speculation] = {
    ("deepseek-ai/DeepSeek-R1", "nvfp4", "b200-sxm", "tensorrt-llm"): Speculation(
        "2026-01-01", f"{CHANGELOG} pull 392; plain runs have the image of pull 620", frozenset({"2026-02-03"})
    ),
    ("deepseek-ai/DeepSeek-R1", "fp8", "b200-sxm", "tensorrt-llm"): Speculation(
        "2026-01-01", f"{CHANGELOG} pull 392; plain runs have the image of pull 594", frozenset({"2026-01-29"})
    ),
    ("deepseek-ai/DeepSeek-R1", "fp8", "h200-sxm", "tensorrt-llm"): Speculation("2026-01-01", f"{CHANGELOG} pull 392"),
    ("deepseek-ai/DeepSeek-R1", "fp8", "b200-sxm", "sglang"): Speculation(
        "2026-02-01", f"{CHANGELOG} pull 626, TP 8 only", plain_tp=frozenset({4})
    ),
    ("deepseek-ai/DeepSeek-R1", "fp8", "b300-sxm", "sglang"): Speculation("2026-04-01", f"{CHANGELOG} pull 1059"),
    ("Qwen/Qwen3.5-397B-A17B", "fp8", "b200-sxm", "sglang"): Speculation(
        "2026-03-09", f"{CHANGELOG} pull 898; plain runs are those of pull 918", frozenset({"2026-03-24"})
    ),
    ("Qwen/Qwen3.5-397B-A17B", "fp8", "h200-sxm", "sglang"): Speculation("2026-04-01", f"{CHANGELOG} pull 1001"),
    ("Qwen/Qwen3.5-397B-A17B", "fp8", "b300-sxm", "sglang"): Speculation("2026-04-01", f"{CHANGELOG} pull 1035"),
    ("Qwen/Qwen3.5-397B-A17B", "bf16", "b200-sxm", "sglang"): Speculation("2026-04-17", f"{CHANGELOG} pull 1074"),
    ("Qwen/Qwen3.5-397B-A17B", "bf16", "b300-sxm", "sglang"): Speculation("2026-04-17", f"{CHANGELOG} pull 1082"),
    ("Qwen/Qwen3.5-397B-A17B", "nvfp4", "b200-sxm", "sglang"): Speculation("2026-04-17", f"{CHANGELOG} pull 1075"),
    ("Qwen/Qwen3.5-397B-A17B", "nvfp4", "b300-sxm", "sglang"): Speculation("2026-04-17", f"{CHANGELOG} pull 1083"),
    ("zai-org/GLM-5", "fp8", "b200-sxm", "sglang"): Speculation("2026-04-17", f"{CHANGELOG} pull 1085"),
    ("zai-org/GLM-5", "fp8", "b300-sxm", "sglang"): Speculation("2026-04-17", f"{CHANGELOG} pull 1084"),
    ("zai-org/GLM-5", "nvfp4", "b200-sxm", "sglang"): Speculation("2026-04-17", f"{CHANGELOG} pull 1087"),
    ("zai-org/GLM-5", "nvfp4", "b300-sxm", "sglang"): Speculation("2026-04-17", f"{CHANGELOG} pull 1088"),
}
"""(our model, weight format, device, engine) of single-node InferenceX runs -> since when speculative runs exist among them.
Deployments that are not listed had none before 2026-04-22, the sample's last day. Dates are the earliest the change's
neighbours in the log allow; for TensorRT-LLM the runs of 2026-01-14 are 35-45 % faster than those of 2025-12-15 with
the same image and settings, so they are the speculative ones."""


def speculates(model: str, stored: str, device: str, engine: str, *, tp: float, date: str) -> str:
    """Return why a public run may have decoded speculatively, or an empty string. ``date``: of the run; empty: not stated."""
    names = {model, *(plain for (plain, weights), entry in CHECKPOINTS.items() if entry == model and weights == stored)}
    rule = next((SPECULATION[name, stored, device, engine] for name in sorted(names)
                 if (name, stored, device, engine) in SPECULATION), None)  # fmt: skip
    if rule is None or tp in rule.plain_tp or (date and (date < rule.first or date in rule.plain_dates)):
        return ""
    return f"{date or 'undated'}; {rule.source}"

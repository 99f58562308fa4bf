"""What single publications leave unsaid and their own text, tool or paper says elsewhere: one row per publication.

Whatever is taken from here is written into the notes of each row, and where the guess moves the number, the row's trust is C.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prompt and output lengths taken where a source states none [tokens]; ``doubtful``: the guess moves the number."""

    prompt: float
    output: float
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One publication.

    Args:
        weights: the format of every row that names none, and ``weights_from`` where that is known from.
        weights_doubtful: the format is a guess that moves the number.
        lengths: where a row states no lengths.
        closed: every row is a fixed number of requests in flight.
        cores_per_device: parts of one device that count as tensor-parallel devices of their own.
        one_device: a row that states no number of devices is of one.
        inferencex: runs of the public InferenceX scripts, whose settings we know.
        device: what a bare device name means in this publication, by the printed name.
    """

    weights: str = ""
    weights_from: str = ""
    weights_doubtful: bool = False
    lengths: Lengths | None = None
    closed: bool = False
    cores_per_device: int = 1
    one_device: bool = False
    inferencex: bool = False
    device: Mapping[str, str] = field(default_factory=dict)
    device_from: str = ""


SOURCES: Mapping[str, Source] = {
    "aiconfigurator_silicon": Source(
        weights="bf16", weights_from="16 bits where the file says neither FP8 nor FP4", closed=True
    ),
    "inferencex_api_capture": Source(closed=True, inferencex=True),
    "llm_inference_bench": Source(
        weights="bf16",
        weights_from="16 bits in its paper, arXiv:2411.00136",
        device={"Nvidia A100 GPU": "a100-40gb-sxm"},
        device_from=(
            "A100 taken as the 40 GB part: its size is not stated, and of the 70B runs that four 80 GB parts completed on H100 a "
            "third is missing on four A100"
        ),
    ),
    "splitwise_characterization": Source(weights="fp16", weights_from="16 bits in its paper, arXiv:2311.18677"),
    "ml_energy_v3": Source(closed=True),
    "mlperf_inference_v4_1": Source(
        weights="fp8",
        weights_from="FP8: the file declares the weights before the submitter's quantization",
        weights_doubtful=True,
    ),
    "mlperf_inference_v5_1": Source(
        weights="fp8",
        weights_from="FP8: the file declares the weights before the submitter's quantization",
        weights_doubtful=True,
    ),
    "geerling_ai_benchmarks": Source(
        weights="q4_k_m",
        weights_from="Q4_K_M, the usual default of Ollama",
        weights_doubtful=True,
        one_device=True,
        lengths=Lengths(20, 300),
    ),
    "gpt_fast": Source(lengths=Lengths(5, 200)),
    "tinychat_awq": Source(lengths=Lengths(4, 200)),
    "torchao": Source(lengths=Lengths(8, 200)),
    "qualcomm_ai_hub": Source(lengths=Lengths(128, 128)),
    "qwen_speed_benchmark": Source(lengths=Lengths(1, 2048)),
    "trtllm_perf_overview": Source(lengths=Lengths(128, 128)),
    "premai_benchmarks": Source(lengths=Lengths(12, 512)),
    "aws_neuron": Source(cores_per_device=2),
}
"""Publication -> what its rows leave unsaid."""

USUAL = Source()
"""A publication we know nothing about: nothing is filled in."""

TASK_LENGTHS: Mapping[str, Lengths] = {
    "lm-arena-chat": Lengths(100, 500),
    "gpqa": Lengths(300, 8000),
    "sourcegraph-fim": Lengths(1500, 250, doubtful=True),
    "OpenOrca+GSM8K+MBXP": Lengths(330, 145, doubtful=True),
    "OpenOrca": Lengths(160, 294, doubtful=True),
    "CNN/DailyMail": Lengths(778, 69, doubtful=True),
}
"""Data set or task named in the notes -> mean lengths: outputs as MLPerf counts tokens per sample (recalled), prompts assumed."""

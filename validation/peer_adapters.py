"""Peers that model inference, each asked through its own interface: one question in, two times or a reason out.

Every adapter imports its peer when it is first asked, so that a machine without it can still print the table.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

REASON_CHARACTERS = 80


class RefusalError(Exception):
    """The peer cannot answer, in one short sentence."""


@dataclass(frozen=True, slots=True)
class Question:
    """One deployment, in the words of the silicon sample, which peers share.

    Args:
        run: row id of the sample, or ``anchor/...``.
        model, system, backend, backend_version: as the sample writes them.
        prompt, output: nominal tokens per request.
        batch: concurrent requests per replica.
        tp, pp, dp, moe_tp, moe_ep: parallel degrees; 0: not stated.
        gemm, moe: the sample's names of weight formats, or empty.
        mode: ``agg`` (a server under closed load) or ``static`` (one batch to its end).
    """

    run: str
    model: str
    system: str
    backend: str
    backend_version: str
    prompt: int
    output: int
    batch: int
    tp: int
    pp: int
    dp: int
    moe_tp: int
    moe_ep: int
    gemm: str
    moe: str
    mode: str = "agg"


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer: the package that carries its version, and how to ask it (returns TTFT and TPOT in seconds)."""

    package: str
    ask: Callable[[Question], tuple[float, float]]
    note: str


CONFIGS = {
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/DeepSeek-R1-NVFP4": "nvidia/DeepSeek-V3.1-NVFP4",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
    "zhipuai/GLM-5": "zai-org/GLM-5",
}
"""Names of the sample that no peer bundles -> the bundled config of the same shape."""

WEIGHT_BITS = {"": 16, "fp8": 8, "fp8_block": 8, "nvfp4": 4, "int4_wo": 4}


def config_of(question: Question) -> str:
    """Return the bundled config's name of the question's model."""
    return CONFIGS.get(question.model, question.model)


@cache
def shape_of(model: str) -> dict[str, Any]:
    """Return the ``config.json`` of ``model`` that ships with aiconfigurator-core (the text part of it)."""
    name = f"{model.replace('/', '--')}_config.json"
    found = files("aiconfigurator_core") / "model_configs" / name
    try:
        config: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise RefusalError("no config of this model at hand") from problem
    text: dict[str, Any] = config.get("text_config", config)
    return text


def dense_shape(question: Question, *, devices: int = 1) -> dict[str, Any]:
    """Return the model's config if it is dense and the run used at most ``devices`` devices."""
    shape = shape_of(config_of(question))
    if any("expert" in key for key in shape):
        raise RefusalError("models dense networks only")
    if question.tp * question.pp * max(1, question.dp) > devices:
        raise RefusalError("models one device only" if devices == 1 else "more devices than it models")
    return shape


@cache
def _loaded(text: str) -> Any:
    import yaml  # noqa: PLC0415

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - a safe loader


@cache
def _aiconfigurator() -> Callable[..., Any]:
    """Return ``cli_estimate`` with its YAML manifests read once per process instead of once per call."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import yaml  # noqa: PLC0415

    yaml.safe_load = lambda stream: _loaded(stream if isinstance(stream, str) else stream.read())
    logging.disable(logging.WARNING)
    from aiconfigurator.cli.api import cli_estimate  # noqa: PLC0415

    return cli_estimate  # type: ignore[no-any-return]


NO_DATABASE = ("Failed to load perf database", "raw version query")
"""What AIConfigurator says when it has no tables of the run's engine version; its current tables are asked then."""

_missing: set[tuple[str, str, str]] = set()


def ask_aiconfigurator(question: Question) -> tuple[float, float]:
    """Ask AIConfigurator as its own accuracy job does: measured tables, the run's engine version where it has one."""
    estimate = _aiconfigurator()
    degrees = {
        "tp_size": question.tp,
        "pp_size": question.pp,
        "attention_dp_size": question.dp,
        "moe_tp_size": question.moe_tp,
        "moe_ep_size": question.moe_ep,
    }
    database = (question.system, question.backend, question.backend_version)
    arguments: dict[str, Any] = {
        "model_path": config_of(question),
        "system_name": question.system,
        "mode": question.mode,
        "backend_name": question.backend,
        "backend_version": None if database in _missing else question.backend_version or None,
        "isl": question.prompt,
        "osl": question.output,
        "batch_size": question.batch,
        "gemm_quant_mode": question.gemm or None,
        "moe_quant_mode": question.moe or None,
        **{name: degree for name, degree in degrees.items() if degree},
    }
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            result = estimate(**arguments)
        except ValueError as problem:
            if arguments["backend_version"] is None or not any(sign in str(problem) for sign in NO_DATABASE):
                raise
            _missing.add(database)
            result = estimate(**{**arguments, "backend_version": None})
    return result.ttft / 1e3, result.tpot / 1e3


SERVCALC_GPUS = {"h100_sxm": "H100 80GB", "h200_sxm": "H200", "b200_sxm": "B200"}
SERVCALC_WEIGHTS = {"": None, "fp8": "fp8", "fp8_block": "fp8"}


def ask_servcalc(question: Question) -> tuple[float, float]:
    """Ask servcalc, which models dense networks on one device under its vLLM profile."""
    if question.system not in SERVCALC_GPUS:
        raise RefusalError("has no such device")
    if question.gemm not in SERVCALC_WEIGHTS:
        raise RefusalError("has no such weight format")
    shape = dense_shape(question, devices=1)
    from servcalc import Workload, estimate, profiles  # noqa: PLC0415

    result = estimate(
        shape,
        SERVCALC_GPUS[question.system],
        workload=Workload(question.prompt, question.output, (question.batch,)),
        profile=profiles.vllm(quant=SERVCALC_WEIGHTS[question.gemm]),
    )
    (point,) = result.points
    if point.ttft_ms is None or point.itl_ms is None:
        raise ValueError(str(point.infeasible_reason))
    return point.ttft_ms.mid / 1e3, point.itl_ms.mid / 1e3


ANALYSIS_GPUS = {
    "h100_sxm": (80, 3350, 450, 989),
    "h200_sxm": (141, 4800, 450, 989),
    "b200_sxm": (180, 8000, 900, 2250),
    "b300_sxm": (270, 8000, 900, 2250),
}
"""GB, GB/s, GB/s of the link and dense 16-bit TFLOP/s: its own H100 file, the others from the makers' sheets."""

ANALYSIS_DTYPES = {"": "w16a16e16", "fp8": "w8a8e16", "fp8_block": "w8a8e16", "nvfp4": "w4a4e16", "int4_wo": "w4a16e16"}
FLOPS_SHARE, MEMORY_SHARE = 0.7, 0.9
"""The efficiencies its README advises."""


def ask_llm_analysis(question: Question) -> tuple[float, float]:
    """Ask llm-analysis: no queue, so TTFT is the prefill pass of one request (of the whole batch when static).

    It counts two MLP matrices; the width is given half as large again, so that the three of a gated MLP are counted.
    """
    shape = shape_of(config_of(question))
    if question.system not in ANALYSIS_GPUS:
        raise RefusalError("has no such device")
    if "kv_lora_rank" in shape or "layer_types" in shape:
        raise RefusalError("models plain attention only")
    experts = shape.get("num_local_experts") or shape.get("num_experts") or 1
    logging.disable(logging.CRITICAL)
    from llm_analysis.analysis import LLMAnalysis  # noqa: PLC0415
    from llm_analysis.config import (  # noqa: PLC0415
        GPUConfig,
        ModelConfig,
        ParallelismConfig,
        get_dtype_config_by_name,
    )

    width = shape.get("moe_intermediate_size") if experts > 1 else None
    model = ModelConfig(
        name=question.model,
        num_layers=shape["num_hidden_layers"],
        n_head=shape["num_attention_heads"],
        hidden_dim=shape["hidden_size"],
        vocab_size=shape["vocab_size"],
        num_key_value_heads=shape.get("num_key_value_heads"),
        ffn_embed_dim=(width or shape["intermediate_size"]) * 3 // 2,
        expansion_ratio=(width or shape["intermediate_size"]) * 1.5 / shape["hidden_size"],
        moe_num_experts=experts,
        moe_top_k=shape.get("num_experts_per_tok") or 1,
    )
    gigabytes, bandwidth, link, tflops = ANALYSIS_GPUS[question.system]
    analysis = LLMAnalysis(
        model,
        GPUConfig(question.system, gigabytes, bandwidth, link, 8e-6, tflops),
        get_dtype_config_by_name(ANALYSIS_DTYPES[question.gemm]),
        ParallelismConfig(tp_size=question.tp, pp_size=question.pp, ep_size=max(question.moe_ep, 1)),
        flops_efficiency=FLOPS_SHARE,
        hbm_memory_efficiency=MEMORY_SHARE,
    )
    lengths = {"seq_len": question.prompt, "num_tokens_to_generate": question.output}
    full = analysis.inference(batch_size_per_gpu=question.batch, **lengths)
    one = full if question.mode == "static" else analysis.inference(batch_size_per_gpu=1, **lengths)
    return float(one["prefill_latency"]), float(full["decode_latency"])


RIDGEPOINT_GPUS = {"h100_sxm": "h100-80gb", "h200_sxm": "h200-141gb", "b200_sxm": "b200-192gb"}
RIDGEPOINT_WEIGHTS = {"": "fp16", "fp8": "fp8", "fp8_block": "fp8"}


def ask_ridgepoint(question: Question) -> tuple[float, float]:
    """Ask ridgepoint, which times one request at a time under vLLM or SGLang."""
    if question.batch != 1:
        raise RefusalError("times a single request only")
    if question.backend not in {"vllm", "sglang"}:
        raise RefusalError("has no such engine")
    if question.system not in RIDGEPOINT_GPUS or question.gemm not in RIDGEPOINT_WEIGHTS:
        raise RefusalError("has no such device or weight format")
    shape = shape_of(config_of(question))
    from ridgepoint import _core  # noqa: PLC0415

    from bytebound.models.catalogue import find_model  # noqa: PLC0415

    model = find_model(config_of(question))
    heads = shape["num_attention_heads"]
    layers = shape["num_hidden_layers"]
    text = _core.fit_shape(
        question.model, layers, layers, shape["hidden_size"], model.parameters, model.active_parameters, "gqa",
        shape.get("head_dim") or shape["hidden_size"] // heads, heads, shape["num_key_value_heads"], 0, 0,
        RIDGEPOINT_GPUS[question.system], question.tp * question.pp, question.backend,
        RIDGEPOINT_WEIGHTS[question.gemm], "fp16", question.prompt + question.output, question.prompt, True,
    )  # fmt: skip
    speed = json.loads(text)["speed"]
    return float(speed["ttft_s"]["best"]), 1.0 / float(speed["decode_tok_s"]["best"])


def reason_of(problem: BaseException) -> str:
    """Return why a peer gave no answer, short, on one line and without paths of this machine."""
    text = " ".join(str(problem).split())
    text = re.sub(r"(/[\w.\-]+){2,}", "…", text)
    text = re.sub(r"\s*\{[^}]*\}?", "", text)
    name = "" if isinstance(problem, RefusalError) else f"{type(problem).__name__}: "
    return f"{name}{text}"[:REASON_CHARACTERS].rstrip()


PEERS: dict[str, Peer] = {
    "aiconfigurator": Peer("aiconfigurator", ask_aiconfigurator, "measured kernel tables, mode agg"),
    "llm-analysis": Peer(
        "llm-analysis", ask_llm_analysis, "closed form at 0.7 of FLOP/s and 0.9 of bandwidth, no queue"
    ),
    "ridgepoint": Peer("ridgepoint", ask_ridgepoint, "closed form, one request at a time"),
    "servcalc": Peer("servcalc", ask_servcalc, "closed form with ranges, vLLM profile, one device, dense"),
}


def version_of(peer: Peer) -> str:
    """Return the installed version of a peer.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    return version(peer.package)


def installed(peer: Peer) -> bool:
    """Return whether the peer can be asked here."""
    try:
        version(peer.package)
    except PackageNotFoundError:
        return False
    return True

"""Fabricated validations: a few rows with round numbers, and thousands that look real."""

from __future__ import annotations

import numpy as np

from bytebound.documents.validation import (
    KEYS,
    Contradiction,
    Unread,
    Validation,
    WorstRow,
)
from bytebound.validate.groups import group_scores, points_of

DEVICES = {"h100-sxm": "hopper", "h200": "hopper", "a100-sxm-80": "ampere", "m2-max": "apple-m", "b200": "blackwell"}
ENGINES = ("vllm", "sglang", "tensorrt-llm", "llama.cpp")
MODELS = {"meta-llama/Llama-3.1-8B": "dense", "Qwen/Qwen3-30B-A3B": "moe", "deepseek-ai/DeepSeek-V3": "mla-moe"}
SCALE = {"tpot_s": 0.02, "ttft_s": 0.5, "tokens_per_s": 3000.0, "decode_tokens_per_s": 60.0}
REGIMES = {"tpot_s": "closed-loop", "ttft_s": "closed-loop", "tokens_per_s": "static", "decode_tokens_per_s": "single"}


def columns(rows: int, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Keys and figures of ``rows`` rows: errors are 20 % in the middle, and m2-max is predicted 60 % too high."""
    random = np.random.default_rng(seed)
    device = random.choice(list(DEVICES), rows, p=(0.4, 0.25, 0.2, 0.1, 0.05))
    model, metric = random.choice(list(MODELS), rows), random.choice(list(SCALE), rows)
    texts = {
        "id": np.array([f"paper-{i:05d}" for i in range(rows)]),
        "source": np.where(device == "m2-max", "llama-bench", random.choice(["mlperf", "inferencex", "blog"], rows)),
        "device": device,
        "family": np.array([DEVICES[name] for name in device]),
        "engine": np.where(device == "m2-max", "llama.cpp", random.choice(ENGINES[:3], rows)),
        "model": model,
        "kind": np.array([MODELS[name] for name in model]),
        "metric": metric,
        "regime": np.array([REGIMES[name] for name in metric]),
        "work": np.array([f"batch {2 ** (i % 8)}, 1024 + 1024, tp {2 ** (i % 4)}, fp8" for i in range(rows)]),
        "locator": np.array([f"https://example.org/results.csv#L{i}" for i in range(rows)]),
    }
    measured = np.array([SCALE[name] for name in metric]) * np.exp(random.normal(0, 1.2, rows))
    drift = np.where(device == "m2-max", 1.6, 1.0)
    predicted = measured * drift * np.exp(random.normal(0, 0.28, rows))
    rate = np.char.endswith(metric, "per_s")
    figures = {
        "measured": measured,
        "predicted": predicted,
        "low": predicted * 0.72,
        "high": predicted * 1.4,
        "floor": np.where(rate, measured * 2.5, measured / 2.5),
    }
    return texts, figures


def validation(rows: int = 600, seed: int = 0, **changes: object) -> Validation:
    """A validation of ``rows`` fabricated rows, with a worst row, rows that cannot be expressed and a contradiction."""
    texts, figures = columns(rows, seed)
    measured, predicted = figures["measured"], figures["predicted"]
    points = points_of(texts, figures)
    groups = group_scores(
        {key: texts[key] for key in KEYS}, measured, predicted, low=figures["low"], high=figures["high"],
        baselines={"0.6 of bandwidth": measured * 1.3},
    )  # fmt: skip
    furthest = np.argsort(-np.abs(np.log(predicted / measured)))[:2]
    worst = tuple(
        WorstRow(
            *(str(texts[key][i]) for key in ("id", "source", "device", "engine", "model", "metric", "regime", "work")),
            *(float(figures[key][i]) for key in ("measured", "predicted", "low", "high", "floor")),
            float(predicted[i] / measured[i] - 1),
            "the page does not say whether speculative decoding was on",
            str(texts["locator"][i]),
        )
        for i in furthest
    )
    names, counts = np.unique(texts["source"], return_counts=True)
    fields = {
        "when": "2026-11-21T10:00:00+00:00",
        "version": "0.1.0",
        "protocol": "leave-one-device-out",
        "rows": rows + 45,
        "sources": {str(name): int(n) for name, n in zip(names, counts, strict=True)},
        "groups": groups,
        "points": points,
        "worst": worst,
        "unexpressed": (
            Unread("the model is not in the catalogue", 40, {"mlperf": 30, "blog": 10}, "mlperf-0012: gptj-99"),
            Unread("the load is not stated", 5, {"blog": 5}, "blog-0007"),
        ),
        "contradictions": (
            Contradiction(
                "blog-0003", "blog", "h100-sxm", "meta-llama/Llama-3.1-8B", "tpot_s", 0.001, 0.0024,
                "weights alone take 2.40 ms to read at 3.35 TB/s", "https://example.org/blog",
            ),
        ),
        "truth": ("shipped",),
        "seconds": 1.5,
    }  # fmt: skip
    return Validation(**(fields | changes))

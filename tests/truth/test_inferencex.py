"""The launch settings of the public InferenceX runs: the table is sound and the right row answers."""

import csv
import re
from datetime import date
from importlib.resources import files
from itertools import pairwise

import pytest

from bytebound.errors import DocumentError, RequestError, UnknownNameError
from bytebound.facts.devices import devices
from bytebound.facts.engines import engines
from bytebound.truth.inferencex import MODELS, LaunchSettings, _number, settings_of

ROWS = list(
    csv.DictReader((files("bytebound.truth") / "data" / "inferencex.csv").read_text(encoding="utf-8").splitlines())
)
NUMBERS = (
    "max_batched_tokens", "stream_interval", "prompts_per_client", "memory_share", "max_sequences", "poll_steps",
    "wait_steps", "wait_share",
)  # fmt: skip


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: "-".join((row["model"], row["hardware"], row["precision"], row["from_date"]))
)
def test_row_is_sound(row: dict[str, str]) -> None:
    assert row["model"] in MODELS
    assert row["hardware"] in devices()
    assert row["engine"] in engines()
    assert row["precision"] in {"bf16", "fp8", "fp4", "int4"}
    assert row["kv"] in {"", "fp8", "auto"}
    assert row["prefix_cache"] in {"0", "1"}
    assert row["chunked"] in {"", "0", "1"}
    assert re.fullmatch(r"SemiAnalysisAI/InferenceX@[0-9a-f]{12} benchmarks/\S+\.sh", row["source"])
    assert date.fromisoformat(row["from_date"]) <= date.fromisoformat(row["to_date"] or "2099-01-01")
    for concurrency in (1, 16, 64, 256):
        names = {"isl": 8192, "osl": 1024, "tp": 8, "concurrency": concurrency}
        values = {name: _number(row[name], names) for name in NUMBERS}
        assert all(value is None or 0 <= value <= 1_000_000 for value in values.values())
        assert values["prompts_per_client"] == 10
        assert all((values[name] or 0) <= 1 for name in ("memory_share", "wait_share"))


def test_days_of_one_configuration_do_not_overlap() -> None:
    spans: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for row in ROWS:
        key = tuple(row[name] for name in ("model", "hardware", "precision", "engine", "isl", "osl", "tp"))
        spans.setdefault(key, []).append((row["from_date"], row["to_date"] or "2099-01-01"))
    for key, each in spans.items():
        ordered = sorted(each)
        assert all(first[1] < second[0] for first, second in pairwise(ordered)), key


def test_waiting_prompts_of_a_small_llama() -> None:
    waits = settings_of(
        "nvidia/Llama-3.1-70B-Instruct-FP8", "b200-sxm", "fp8", "trtllm", isl=1024, osl=1024, tp=1, date="2025-10-29"
    )
    assert waits is not None
    assert (waits.wait_steps, waits.wait_share, waits.stream_interval) == (20, 0.9, 10)
    assert (waits.chunked, waits.warmups_per_client, waits.days_off) == (False, 0, 0)
    for isl, osl, tp in ((1024, 1024, 8), (1024, 8192, 1), (8192, 1024, 1)):
        other = settings_of(
            "meta-llama/Meta-Llama-3.1-70B",
            "b200-sxm",
            "fp8",
            "tensorrt-llm",
            isl=isl,
            osl=osl,
            tp=tp,
            date="2025-10-29",
        )
        assert other is not None
        assert other.wait_steps == 0


def test_formula_of_the_concurrency() -> None:
    def of(concurrency: int | None, day: str = "2026-05-18", isl: int = 1024) -> LaunchSettings:
        found = settings_of(
            "deepseek-ai/DeepSeek-R1-0528",
            "b200-sxm",
            "fp8",
            "trtllm",
            isl=isl,
            osl=1024,
            tp=8,
            date=day,
            concurrency=concurrency,
        )
        assert found is not None
        return found

    assert of(4).max_batched_tokens == 8192
    assert of(64, isl=8192).max_batched_tokens == 8320
    assert (of(32).wait_steps, of(64).wait_steps, of(256).wait_steps) == (0, 40, 40)
    assert of(256, "2026-02-10").wait_steps == 0
    assert of(None).max_batched_tokens is None
    assert of(None).warmups_per_client == 2
    assert of(4, "2025-11-02").max_batched_tokens == 1152


def test_polling_follows_the_concurrency_and_the_split() -> None:
    def of(tp: int, concurrency: int | None) -> LaunchSettings:
        found = settings_of(
            "deepseek-ai/DeepSeek-R1",
            "b200-sxm",
            "fp8-block128",
            "sglang",
            isl=8192,
            osl=1024,
            tp=tp,
            date="2026-03-25",
            concurrency=concurrency,
        )
        assert found is not None
        return found

    assert (of(8, 4).poll_steps, of(8, 16).poll_steps, of(4, 32).poll_steps, of(8, None).poll_steps) == (
        10,
        30,
        10,
        None,
    )
    assert (of(8, 4).max_batched_tokens, of(4, 4).max_batched_tokens) == (32768, 8192)
    assert (of(8, 4).max_sequences, of(4, 4).memory_share) == (128, 0.95)


def test_days_choose_before_detail() -> None:
    early = settings_of(
        "deepseek-ai/DeepSeek-R1",
        "b200-sxm",
        "fp8",
        "trtllm",
        isl=1024,
        osl=1024,
        tp=8,
        date="2025-11-02",
        concurrency=64,
    )
    assert early is not None
    assert (early.wait_steps, early.days_off) == (0, 0)
    before = settings_of(
        "openai/gpt-oss-120b", "h100-sxm", "mxfp4", "vllm", isl=1024, osl=1024, tp=2, date="2025-09-21", concurrency=16
    )
    assert before is not None
    assert (before.days_off, before.max_sequences, before.kv) == (10, 16, None)


def test_unknown() -> None:
    assert settings_of("Qwen/Qwen3-32B", "h100-sxm", "fp8", "vllm", isl=1024, osl=1024, tp=1, date="2026-01-01") is None
    assert (
        settings_of("deepseek-ai/DeepSeek-R1", "h100-sxm", "fp8", "vllm", isl=1024, osl=1024, tp=8, date="2026-01-01")
        is None
    )
    with pytest.raises(UnknownNameError):
        settings_of("openai/gpt-oss-120b", "h100-sxm", "mxfp4", "nothing", isl=1024, osl=1024, tp=1, date="2026-01-01")
    with pytest.raises(RequestError, match="is not a day"):
        settings_of("openai/gpt-oss-120b", "h100-sxm", "mxfp4", "vllm", isl=1024, osl=1024, tp=1, date="last week")


@pytest.mark.parametrize(
    "cell", ["isl ** 2", "__import__('os')", "isl.real", "'a'", "isl +", "max(isl, key=1)", "isl != 1"]
)
def test_other_words_are_refused(cell: str) -> None:
    with pytest.raises(DocumentError, match="not a formula"):
        _number(cell, {"isl": 1, "__import__": 1})

"""What engines keep of memory: our table against itself, physics against printed figures, capacities against start-up logs."""

from dataclasses import replace

import numpy as np
import pytest

from bytebound.documents.work import Serve
from bytebound.errors import UnknownNameError
from bytebound.facts.engines import engines, find_engine
from bytebound.facts.machines import find_machine
from bytebound.facts.reserves import find_reserve, held_back_bytes, reserves
from bytebound.ledger.request import lay_out
from bytebound.ledger.residence import activation_peak_bytes, usable_bytes
from bytebound.ledger.table import compile_table
from bytebound.models import read_model
from bytebound.predict.estimate import settle

GIB = 2**30


def peak(model, tokens, *, profiled=1.0, logit_bytes=4.0, every_logit=False, **work):
    """Return the activation peak of one pass [GiB]."""
    architecture = read_model(model)
    request = lay_out(
        compile_table(architecture), Serve(prompt=tokens, output=1, chunk=tokens, **work), dtype=architecture.dtype,
        engine_chunk=tokens, profiled=profiled,
    )  # fmt: skip
    found = activation_peak_bytes(
        compile_table(architecture), request, logit_bytes=logit_bytes, every_logit=every_logit
    )
    return float(found[0]) / GIB


@pytest.mark.parametrize(
    ("model", "tokens", "printed_gib"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", 32768, 2.02),
        ("Qwen/Qwen2.5-7B-Instruct", 8192, 1.09),
        ("Qwen/Qwen3-4B", 10000, 0.74),
        ("meta-llama/Llama-3.1-8B", 29000, 2.99),
    ],
)
def test_the_forward_pass_is_what_vllm_printed(model, tokens, printed_gib):
    """Start-up logs of vLLM 0.6.4 to 0.7.3 print the activation peak; see validation/kv_tokens.csv."""
    assert peak(model, tokens) == pytest.approx(printed_gib, rel=0.08)


@pytest.mark.parametrize(
    ("model", "sequences", "printed_gib"),
    [
        ("meta-llama/Llama-3.1-8B", 1024, 4.76),
        ("Qwen/Qwen3-0.6B", 1024, 5.56),
        ("Qwen/Qwen3-32B", 1024, 5.64),
        ("microsoft/phi-4", 256, 0.94),
    ],
)
def test_the_sorting_sampler_is_what_vllm_printed(model, sequences, printed_gib):
    """llm-d-benchmark's table of vLLM 0.11 on H100, and a notebook of 0.6.5: the model's size does not matter."""
    found = peak(model, 2048, profiled=float(sequences), logit_bytes=find_reserve("vllm", "0.11.0").logit_bytes)

    assert found == pytest.approx(printed_gib, rel=0.02)


def test_growth_with_the_prompt_is_what_transformers_allocated():
    """Qwen speed benchmark, Qwen2.5-14B bf16: 29.50 GB at 6,144 tokens and 36.85 at 30,720, the cache included."""
    cache = 48 * 2 * 8 * 128 * 2 * (30720 - 6144) / GIB
    model = "Qwen/Qwen2.5-14B-Instruct"

    grown = peak(model, 30720, profiled=0.0) - peak(model, 6144, profiled=0.0) + cache

    assert grown == pytest.approx(36.85 - 29.50, rel=0.01)


def test_full_prompt_logits_are_six_bytes_each_in_old_transformers():
    """Qwen2-0.5B bf16 under 4.38: 6.42 GB at 6,144 tokens, 27.61 at 30,720."""
    old = find_reserve("transformers", "4.38.2")
    model = "Qwen/Qwen2-0.5B-Instruct"
    cache = 24 * 2 * 2 * 64 * 2 * (30720 - 6144) / GIB

    grown = cache + sum(
        sign * peak(model, tokens, profiled=0.0, logit_bytes=old.logit_bytes, every_logit=old.every_logit)
        for sign, tokens in ((1, 30720), (-1, 6144))
    )

    assert old.every_logit
    assert not find_reserve("transformers", "4.46.0").every_logit
    assert grown == pytest.approx(27.61 - 6.42, rel=0.01)


def test_eager_attention_keeps_scores_and_their_softmax():
    model, tokens = "mistralai/Mistral-7B-Instruct-v0.2", 2048

    more = peak(model, tokens, attention="eager") - peak(model, tokens)

    assert more == pytest.approx(32 * tokens**2 * (2 + 4) / GIB)


@pytest.mark.parametrize(
    ("deployment", "work", "tokens", "tolerance"),
    [
        (("vllm", "0.11.0", 0.9, "h100-sxm", "meta-llama/Llama-3.1-8B"), {}, 420_864, 0.01),
        (("vllm", "0.11.0", 0.9, "2x h100-sxm", "Qwen/Qwen3-32B"), {"tp": 2}, 282_496, 0.01),
        (("vllm", "0.19.0", 0.9, "rtx-4090", "meta-llama/Llama-3.1-8B"), {}, 41_408, 0.02),
        (("sglang", "0.4.4", 0.88, "h100-sxm", "meta-llama/Llama-3.1-8B"), {}, 442_750, 0.01),
        (("sglang", "0.3.3", 0.88, "mi300x", "meta-llama/Llama-3.1-8B"), {}, 1_256_440, 0.01),
    ],
)
def test_capacity_is_what_the_engine_logged(deployment, work, tokens, tolerance):
    """Rows of validation/kv_tokens.csv, each with its locator there."""
    engine, version, share, machine, model = deployment
    setting = settle(model, machine, engine, version=version)
    setting = replace(setting, overheads=replace(setting.overheads, memory_share=share))

    found = setting.answer(Serve(batch=1, prompt=1024, output=128, engine=engine, **work))["max_kv_tokens"]

    assert float(found[0]) == pytest.approx(tokens, rel=tolerance)


def test_one_question_answers_as_in_a_million():
    setting = settle("meta-llama/Llama-3.1-8B", "h100-sxm", "vllm")
    chunks = np.tile([0, 512, 8192, 16384], 2000)

    many = setting.answer(Serve(batch=1, prompt=1024, output=128, chunk=chunks))["max_kv_tokens"]

    for index, chunk in enumerate((0, 512, 8192, 16384)):
        alone = setting.answer(Serve(batch=1, prompt=1024, output=128, chunk=chunk))["max_kv_tokens"]
        assert set(many[index::4]) == {float(alone[0])}


def test_shares_are_of_what_they_say():
    one = {"visible": np.array([100.0]), "weights": np.array([40.0]), "activations": np.array([5.0])}

    room = {
        basis: float(usable_bytes(basis, 0.9, reserve=np.array([1.0]), **one)[0]) - 46.0
        for basis in ("total", "static", "free")
    }

    assert room == pytest.approx({"total": 0.9 * 100 - 46, "static": 0.9 * 99 - 40, "free": 0.9 * 54})
    assert float(usable_bytes("static", 1.0, reserve=np.array([1.0]), **one)[0]) == 100.0


def test_versions_of_an_engine_leave_no_gap():
    for engine in {row.engine for row in reserves()}:
        rows = [row for row in reserves() if row.engine == engine]
        assert rows[0].version == ""
        assert rows[-1].until == ""
        assert [row.until for row in rows[:-1]] == [row.version for row in rows[1:]]


def test_the_latest_reserve_is_the_one_engines_csv_shows():
    for engine in {row.engine for row in reserves()}:
        assert find_engine(engine).reserve_bytes == find_reserve(engine).context.value


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("0.4.1", ""),
        ("0.6.4.post1", "0.6.4"),
        ("v0.7.3", "0.6.6"),
        ("0.18.2rc1", "0.8"),
        ("1.2", "0.19"),
        ("", "0.19"),
        ("dev", "0.19"),
    ],
)
def test_a_version_finds_its_row(version, found):
    assert find_reserve("vLLM", version).version == found


def test_an_unknown_engine_is_an_error_and_one_without_a_row_keeps_its_own():
    with pytest.raises(UnknownNameError):
        find_reserve("vlm")
    without = next(name for name in engines() if name not in {row.engine for row in reserves()})
    assert find_reserve(without).context.value == find_engine(without).reserve_bytes


@pytest.mark.parametrize(
    ("device", "visible_gib"), [("h100-sxm", 79.18), ("a100-80gb-sxm", 79.25), ("rtx-3090", 23.56), ("b200-sxm", 178.4)]
)
def test_memory_a_program_can_get(device, visible_gib):
    """Totals that vLLM printed: under what the data sheet and nvidia-smi say."""
    found = find_machine(device).device

    assert (found.memory_bytes.value - held_back_bytes(found)) / GIB == pytest.approx(visible_gib, rel=0.002)


def test_every_reserve_is_in_its_own_range():
    for row in reserves():
        assert row.context.low <= row.context.value <= row.context.high, row
        assert row.context.source, row

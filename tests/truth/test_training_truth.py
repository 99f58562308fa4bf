"""Training truth: every line of the public layout is read or counted, and what was read means what its source says."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bytebound.documents.train_truth import TRAIN_METRICS
from bytebound.errors import DocumentError
from bytebound.facts.devices import devices
from bytebound.ledger import training_plan
from bytebound.predict.training import train_time
from bytebound.truth.training import (
    MEASURED,
    OUTCOMES,
    REASONS,
    express,
    formula_rows,
    read_any_training,
    read_training_corpus,
    shipped_training_truth,
)
from bytebound.validate.training import alike, amounts

MOSAIC, BLOOM = "mosaicml/llm-foundry training benchmarks", "bigscience BLOOM-176B tuning log"
SIMUMAX, PEFT, LITGPT = "SimuMax B200 v1.2 real-vs-perf", "HF PEFT method_comparison MetaMathQA", "litgpt config hub"
BRIDGE, MAXTEXT = "NVIDIA Megatron-Bridge performance summary", "MaxText config READMEs"
FORMULA = "Korthikanti 2022 Fig 1 (via Calculon; FORMULA-derived, not measured)"
GIB = 2.0**30


def line(source, model, hardware, metric, value, unit, **more):  # noqa: PLR0917 - the columns of the layout
    """Return one line of the layout, blank where nothing is given."""
    plain = dict.fromkeys(MEASURED, "")
    return {
        **plain,
        "source": source,
        "citation_locator": "page#L1",
        "model": model,
        "hardware": hardware,
        "metric": metric,
        "value": str(value),
        "unit": unit,
        **{name: str(cell) for name, cell in more.items()},
    }


def write(path, lines, columns=MEASURED):
    """Write lines as a file of the layout."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    return path


DEGREES = {"tp": 1, "pp": 1, "dp": 8, "cp": 1, "n_gpus": 8}
MPT = {
    "layers": 32,
    "hidden": 4096,
    "heads": 32,
    "kv_heads": 32,
    "ffn": 16384,
    "vocab": 50368,
    "seq": 2048,
    "params_b": 6.659,
}
MPT_RUN = {
    **MPT,
    **DEGREES,
    "zero_stage": 3,
    "precision": "amp_bf16",
    "recompute": "none",
    "global_batch": 1536,
    "micro_batch": 6,
}
BLOOM_RUN = {
    "layers": 72, "hidden": 14336, "heads": 64, "ffn": 57344, "params_b": 181, "seq": 2048, "global_batch": 2048, "micro_batch": 4, "tp": 8,
    "pp": 6, "dp": 8, "cp": 1, "n_gpus": 384, "zero_stage": 1, "precision": "fp16/bf16 (see notes)", "recompute": "full",
}  # fmt: skip
SLICE = {
    "layers": 12, "hidden": 8192, "heads": 64, "kv_heads": 8, "ffn": 28672, "vocab": 128256, "seq": 4096, "global_batch": 16,
    "micro_batch": 1, "tp": 1, "pp": 2, "dp": 4, "cp": 1, "n_gpus": 8, "precision": "bf16",
    "notes": "case x; mbc=4 microbatches; real max reserved 70.88 GiB",
}  # fmt: skip
ADAPTER = {
    "params_b": 3.212,
    "seq": 768,
    "global_batch": 4,
    "micro_batch": 4,
    "n_gpus": 1,
    "tp": 1,
    "pp": 1,
    "dp": 1,
    "precision": "bfloat16",
}
HUB = {
    "seq": 512,
    "micro_batch": 2,
    "n_gpus": 4,
    "tp": 1,
    "pp": 1,
    "dp": 4,
    "precision": "bf16-true",
    "notes": "x.yaml",
}


def made_up():
    """Return lines that can be said, and lines that cannot with the reason each."""
    good = [
        line(MOSAIC, "mpt-7b", "a100_80gb", "tokens_per_s_per_gpu", 3500, "tokens/s/device", **MPT_RUN),
        line(MOSAIC, "mpt-7b", "a100_80gb", "mfu", 50, "percent", **MPT_RUN),
        line(BLOOM, "bloom-tuning GPT", "A100 80GB (Jean Zay)", "step_time_s", 114.11, "s", **BLOOM_RUN),
        line(BLOOM, "bloom-tuning GPT", "A100 80GB (Jean Zay)", "peak_memory_gib", 55, "GiB", **{**BLOOM_RUN, "layers": "", "heads": ""}),
        line(SIMUMAX, "llama3-70b reduced to 12 layers", "B200", "peak_memory_gib", 66.55, "GiB", **SLICE),
        line(SIMUMAX, "deepseekv3 reduced to 4 layers", "B200", "step_time_s", 0.6, "s",
             **{**SLICE, "layers": 4, "hidden": 7168, "pp": 1, "dp": 8, "ep": 8, "global_batch": 32}),
        line(PEFT, "llama-3.2-3b lora/llama-3.2-3B-rank32", "NVIDIA L40S", "peak_memory_gib", 20.76, "GiB", **ADAPTER,
             notes="peft_type LORA; trainable 9175040; x"),
        line(LITGPT, "llama-2-7b lora", "A10G 24GB", "peak_memory_gib", 18.41, "GiB", **HUB),
        line(MAXTEXT, "maxtext 128B model", "TPU v5p", "tflops_per_gpu", 300, "TFLOP/s/device", params_b=128, n_gpus=256, precision="bf16"),
        line(BRIDGE, "DeepSeekV3", "DGX-GB300", "tokens_per_s_per_gpu", 6288, "tokens/s/device", params_b=671, seq=4096, global_batch=4096,
             micro_batch=1, n_gpus=256, tp=1, pp=2, dp=128, cp=1, ep=32, precision="MXFP8", notes="26.08 NeMo Container; VP 8; x"),
    ]  # fmt: skip
    bad = {
        "a formula's value, not a measurement": line(FORMULA, "megatron-22B", "A100 80GB", "activation_memory_gib", 59.25, "GiB"),
        "publication not known": line("somebody's blog", "mpt-7b", "V100", "step_time_s", 1, "s"),
        "model shape not known": line(BRIDGE, "Nemotron_9", "DGX-H100", "tokens_per_s_per_gpu", 1, "tokens/s/device", **DEGREES),
        "multi-token prediction layers are trained": line(BRIDGE, "DeepSeekV3 (w/ MTP)", "DGX-H100", "tokens_per_s_per_gpu", 1, "tokens/s/device"),
        "device not in the catalogue": line(MOSAIC, "mpt-7b", "abacus", "tokens_per_s_per_gpu", 1, "tokens/s/device", **MPT_RUN),
        "sequence length not stated": line(BRIDGE, "LLAMA3_8B", "DGX-H100", "tokens_per_s_per_gpu", 1, "tokens/s/device", **DEGREES),
        "batch not stated": line(BRIDGE, "LLAMA3_8B", "DGX-H100", "tokens_per_s_per_gpu", 1, "tokens/s/device", **DEGREES, seq=8192),
        "devices or degrees not stated": line(BRIDGE, "LLAMA3_8B", "DGX-H100", "tokens_per_s_per_gpu", 1, "tokens/s/device", seq=8192),
        "degrees do not multiply out to the devices": line(MOSAIC, "mpt-7b", "a100_80gb", "mfu", 50, "percent", **{**MPT_RUN, "n_gpus": 16}),
        "what is recomputed has no word in a request": line(
            MOSAIC, "mpt-7b", "a100_80gb", "mfu", 50, "percent", **{**MPT_RUN, "recompute": "mlp"}
        ),
        "the adapter has no word in a request": line(
            PEFT, "llama-3.2-3b lora/llama-3.2-3B-rank32-dora", "NVIDIA L40S", "peak_memory_gib", 22.8, "GiB", **ADAPTER,
            notes="peft_type LORA; trainable 9289728; x",
        ),
        "the global batch is no multiple of the micro-batches": line(
            MOSAIC, "mpt-7b", "a100_80gb", "mfu", 50, "percent", **{**MPT_RUN, "global_batch": 1000}
        ),
        "fewer bytes than weights, gradients and moments take": line(
            LITGPT, "llama-3.2-3b full", "A10G 24GB", "peak_memory_gib", 15.4, "GiB", **{**HUB, "n_gpus": 1, "dp": 1}
        ),
        "cells do not fit their columns": line(MOSAIC, "mpt-7b", "a100_80gb", "mfu", -1, "percent", **MPT_RUN),
    }  # fmt: skip
    return good, bad


def test_every_line_is_read_or_counted(tmp_path):
    good, bad = made_up()
    write(tmp_path / "training_calibrate.csv", good + list(bad.values()))
    outcomes = [
        {**line(BLOOM, "bloom-tuning GPT", "A100 80GB (Jean Zay)", "", "", "", **BLOOM_RUN), "outcome": "OOM"},
        {
            **line(BLOOM, "bloom-tuning GPT", "A100 80GB (Jean Zay)", "", "", "", **BLOOM_RUN, notes="x"),
            "outcome": "OOM (fragmentation)",
        },
    ]
    write(tmp_path / "training_fit_calibrate.csv", outcomes, OUTCOMES)
    rows, left = read_training_corpus(tmp_path)
    fragmented = "out of memory by fragmentation alone, which the allocator's setting decides"
    assert left == Counter([*bad, fragmented])
    assert set(left) == set(REASONS)
    assert len(rows) == len(good) + 1 + 1  # the SimuMax line states reserved memory too, and one outcome is told
    assert len({row.id for row in rows}) == len(rows)


def test_what_was_read_is_what_was_printed(tmp_path):
    good, _ = made_up()
    rows, _ = read_training_corpus(write(tmp_path / "a.csv", good))
    by = {(row.source, row.metric): row for row in rows}
    mpt = by["mosaicml-llm-foundry", "tokens_per_s_per_device"]
    assert round(mpt.architecture.parameters / 1e9, 3) == 6.659  # llm-foundry prints 6658859008
    assert (mpt.work.framework, mpt.work.zero, mpt.work.precision, mpt.device) == (
        "fsdp",
        3,
        "bf16-mixed",
        "a100-80gb-sxm",
    )
    assert by["mosaicml-llm-foundry", "mfu"].value == 0.5
    assert by["mosaicml-llm-foundry", "mfu"].run == mpt.run
    bloom = by["bloom-tuning", "device_bytes"]
    assert bloom.value == 55 * GIB
    assert bloom.shape.layers % 6 == 0
    assert abs(bloom.architecture.parameters / 181e9 - 1) < 0.02
    assert any("layers" in word for word in bloom.uncertain)
    assert by["bloom-tuning", "step_s"].work.gradients == "bf16"
    assert by["simumax-b200", "allocated_bytes"].value == pytest.approx(66.55 * GIB)
    assert by["simumax-b200", "reserved_bytes"].value == pytest.approx(70.88 * GIB)
    assert by["simumax-b200", "allocated_bytes"].shape.layers == 12
    blocks = [
        block
        for block in by["simumax-b200", "step_s"].architecture.main.blocks
        if any(op.role == "router" for op in block.operators)
    ]
    assert sum(block.repeat for block in blocks) == 3
    assert (by["peft", "reserved_bytes"].work.lora_rank, by["peft", "reserved_bytes"].work.lora_targets) == (32, "qv")
    assert by["litgpt", "allocated_bytes"].devices == 1  # its file says so; the machine had four
    assert by["maxtext", "flop_per_s_per_device"].work.tp == 8
    bridge = by["megatron-bridge", "tokens_per_s_per_device"]
    assert (bridge.per_node, bridge.work.virtual_stages, bridge.work.ep, bridge.work.gradients) == (72, 8, 32, "bf16")


def test_formula_values_are_given_apart(tmp_path):
    _, bad = made_up()
    assert formula_rows(write(tmp_path / "a.csv", bad.values())) == (("megatron-22B ", 59.25 * GIB),)


PUBLISHED = (((80, 8192, 64), 2048, 1007, 408), ((48, 7168, 56), 2048, 2002, 377), ((24, 1536, 12), 1024, 33422, 167))
"""Layers, width and heads, tokens of a sequence, tokens/s/GPU and TFLOP of lines 75, 104 and 286 of llm-foundry's benchmarking README."""

CHRONICLE = (
    ((72, 14336), (6, 8), 114.11, 141.27),
    ((72, 14336), (12, 4), 117.07, 137.70),
    ((78, 13824), (6, 8), 121.28, 133.93),
)
"""Layers and width, pp and dp, seconds and TFLOP of lines of bigscience chronicles-prequel.md after 02-21."""


def flops_over_printed(rows):
    """Return what our count of FLOPs makes of a run's own time over the rate printed beside it."""
    (setting, work, _), *others = alike(rows[:1])
    assert not others
    timed = train_time(setting, training_plan.resolve(work, setting.table))
    time, rate = rows
    each = amounts(timed, rate.metric, [rate.basis], 1)[0]
    per_step = amounts(timed, time.metric, [""], 1)
    seconds = time.value if per_step is None else per_step[0] / time.value
    return each / seconds / rate.value


@pytest.mark.parametrize(("shape", "seq", "tokens", "tflop"), PUBLISHED)
def test_mosaicml_flops_are_its_tokens(tmp_path, shape, seq, tokens, tflop):
    layers, hidden, heads = shape
    model = "mpt-7b"
    run = {
        **MPT_RUN,
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "ffn": 4 * hidden,
        "seq": seq,
    }
    lines = [
        line(MOSAIC, model, "h100_80gb", "tokens_per_s_per_gpu", tokens, "tokens/s/device", **run),
        line(MOSAIC, model, "h100_80gb", "tflops_per_gpu", tflop, "TFLOP/s/device", **run),
    ]
    rows, _ = read_training_corpus(write(tmp_path / "a.csv", lines))
    assert flops_over_printed(rows) == pytest.approx(1, abs=8e-3)


@pytest.mark.parametrize(("shape", "degrees", "seconds", "tflop"), CHRONICLE)
def test_bloom_flops_are_its_seconds(tmp_path, shape, degrees, seconds, tflop):
    (layers, hidden), (pp, dp) = shape, degrees
    run = {**BLOOM_RUN, "layers": layers, "hidden": hidden, "ffn": 4 * hidden, "pp": pp, "dp": dp}
    lines = [
        line(BLOOM, "bloom-tuning GPT", "A100 80GB (Jean Zay)", "step_time_s", seconds, "s", **run),
        line(BLOOM, "bloom-tuning GPT", "A100 80GB (Jean Zay)", "tflops_per_gpu", tflop, "TFLOP/s/device", **run),
    ]
    rows, _ = read_training_corpus(write(tmp_path / "a.csv", lines))
    assert flops_over_printed(rows) == pytest.approx(1, abs=6e-2)


def test_missing_columns_and_files_are_named(tmp_path):
    with pytest.raises(DocumentError, match="column 'metric' is missing"):
        read_training_corpus(write(tmp_path / "a.csv", [], [name for name in MEASURED if name != "metric"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DocumentError, match="no training truth"):
        read_training_corpus(tmp_path / "empty")
    with pytest.raises(DocumentError):
        read_any_training(tmp_path / "nothing.csv")


CELLS = st.one_of(
    st.text(max_size=8), st.sampled_from(["-1", "0", "1e400", "nan", "1.5", "99999999999999", "", "None", "LORA"])
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 9), changes=st.dictionaries(st.sampled_from(MEASURED), CELLS, min_size=1, max_size=4))
def test_strange_cells_are_counted_and_never_crash(tmp_path, at, changes):
    good, _ = made_up()
    cleaned = {name: "".join(c for c in cell if c.isprintable()) for name, cell in changes.items()}
    rows, left = read_training_corpus(write(tmp_path / "a.csv", [{**good[at], **cleaned}]))
    assert (len(rows) in {1, 2}) != (sum(left.values()) == 1)
    assert set(left) <= set(REASONS)


# ---- the rows that ship

SHIPPED = shipped_training_truth()


def test_shipped_rows_span_sources_devices_and_frameworks():
    assert 150 <= len(SHIPPED) <= 330
    assert len({row.source for row in SHIPPED}) >= 15
    assert len({row.device for row in SHIPPED}) >= 12
    assert {row.work.framework for row in SHIPPED} == {"fsdp", "megatron", "deepspeed", "hf", "litgpt", "jax"}
    assert {row.metric for row in SHIPPED} <= TRAIN_METRICS.keys()
    assert sum(row.metric == "fits" and row.value == 0 for row in SHIPPED) >= 5
    for row in SHIPPED:
        assert row.locator, row.id
        assert "corpus" not in row.locator, row.id
        assert row.device in devices(), row.id
        assert not row.notes, row.id


def test_shipped_runs_state_their_time_once():
    times = Counter(
        row.run
        for row in SHIPPED
        if row.metric in {"step_s", "tokens_per_s_per_device", "flop_per_s_per_device", "mfu"}
    )
    assert max(times.values()) == 1


def test_shipped_memory_is_below_the_device_and_above_its_weights():
    for row in SHIPPED:
        if row.metric.endswith("_bytes"):
            assert row.value <= 1.02 * devices()[row.device].memory_bytes, row.id
            bits = 4 if row.work.trainable == "qlora" else 16
            sharded = (
                int(row.work.tp) * int(row.work.pp) * (int(row.work.dp) if row.work.zero == 3 else 1) * int(row.work.ep)
            )
            assert row.value > row.architecture.parameters * bits / 8 / sharded * 0.5, row.id


def test_no_shipped_rate_is_above_the_peak():
    for row in SHIPPED:
        if row.metric == "flop_per_s_per_device":
            peak = (
                max(devices()[row.device].flop_per_s.values())
                if hasattr(devices()[row.device], "flop_per_s")
                else np.inf
            )
            assert row.value < peak


def test_a_publication_tells_what_drove_its_runs():
    """The V100 table of bigscience says which runs DeepSpeed drove; litgpt's recipes say how many micro-batches make a step, and its head is its own."""
    v100 = {"params_b": 52, "seq": 1024, "global_batch": 1024, "micro_batch": 4, "n_gpus": 64, "tp": 4, "pp": 16, "dp": 1, "precision": "fp16",
            "recompute": "full"}  # fmt: skip
    found = [
        express(line("bigscience gpt2 V100 experiments", "gpt2-style 52B", "V100", "peak_memory_gib", 26, "GiB", **v100, notes=f"Megatron; DS={told} 06-10"))[0].work
        for told in "YN"
    ]  # fmt: skip
    assert [work.framework for work in found] == ["deepspeed", "megatron"]
    ((full,), (gemma,)) = (
        express(line(LITGPT, name, "A10G 24GB", "peak_memory_gib", gib, "GiB", **HUB))
        for name, gib in (("tiny-llama full", 13.13), ("gemma-2b lora", 11.75))
    )
    assert (full.work.micro_batch, full.work.global_batch) == (2, 16)
    assert gemma.shape.untied
    assert gemma.architecture.parameters == pytest.approx(2.51e9 + 256_000 * 2048, rel=0.01)

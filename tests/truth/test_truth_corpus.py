"""The public corpus layout: invented rows in its shape, each said in our vocabulary or left out for a reason.

No number here was measured: every row is made up, in the style of the publication whose rules it tries.
"""

import csv
import io
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytebound.errors import ByteboundError, DocumentError
from bytebound.truth import REASONS, read_any, read_corpus, write_truth
from bytebound.truth.corpus import MEMORY, SPEED

USUAL = {
    "id": "made-up-1",
    "source": "made_up",
    "citation_locator": "no such publication line 1",
    "engine": "vLLM",
    "engine_version": "0.0.0",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "params_b": "8",
    "quant": "bf16",
    "kv_dtype": "",
    "hardware": "NVIDIA H100 80GB HBM3",
    "n_devices": "1",
    "tp": "1",
    "pp": "1",
    "batch_or_concurrency": "8",
    "input_len": "1000",
    "output_len": "200",
    "metric": "tpot_ms",
    "value": "12.5",
    "unit": "ms",
    "notes": "MEDIAN; invented",
    "date": "2026-11-21",
    "trust": "A",
    "hw_key": "nvidia_h100_sxm",
    "model_key": "llama3.1-8b",
    "tier": "T4",
}
MEMORY_ROW = {name: text for name, text in USUAL.items() if name in MEMORY} | {
    "kind": "peak_gpu_allocated",
    "batch": "1",
    "value": "16.5",
    "unit": "GB as printed (script divides by 1024^3)",
    "engine": "Hugging Face Transformers",
}


def text_of(rows):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


@pytest.fixture
def read(tmp_path):
    def reading(*rows):
        path = tmp_path / "rows.csv"
        path.write_text(text_of(rows), encoding="utf-8")
        return read_corpus(path)

    return reading


@pytest.fixture
def one(read):
    def reading(**cells):
        found = read(USUAL | cells)
        assert [item.reason for item in found.unexpressed] == []
        return found.rows[0]

    return reading


@pytest.fixture
def reason(read):
    def reading(**cells):
        found = read(USUAL | cells)
        assert found.rows == ()
        assert found.unexpressed[0].reason in REASONS
        assert found.unexpressed[0].line == 2
        return found.unexpressed[0].reason

    return reading


def test_a_row_of_a_server(one):
    row = one()
    assert row.backend == "cuda"
    assert (row.device, row.engine, row.model) == ("h100-sxm", "vllm", "meta-llama/Meta-Llama-3.1-8B")
    assert (row.metric, row.unit, row.value) == ("tpot_s", "s", 0.0125)
    assert (row.regime, row.statistic, row.trust, row.date) == ("closed-loop", "median", "A", "2026-11-21")
    assert (row.work.batch, row.work.prompt, row.work.output, row.work.weights) == (8, 1000, 200, "bf16")
    assert row.work.scheduling == "continuous"


@pytest.mark.parametrize(
    ("printed", "unit", "metric", "factor"),
    [
        ("decode_tok_s_single", "tok/s", "decode_tokens_per_s", 1),
        ("decode_tok_s_total", "tok/s", "tokens_per_s", 1),
        ("total_tok_s", "tok/s", "total_tokens_per_s", 1),
        ("prefill_tok_s", "tok/s", "prefill_tokens_per_s", 1),
        ("ttft_ms", "ms", "ttft_s", 1e-3),
        ("e2e_latency_ms", "ms", "request_s", 1e-3),
        ("throughput_tok_s_per_gpu", "tok/s/device", "tokens_per_s", 4),
        ("request_per_s", "req/s", "requests_per_s", 1),
        ("energy_j_per_output_token", "J/token", "joules_per_token", 1),
    ],
)
def test_metrics_become_si_and_per_device_rates_are_multiplied_out(one, printed, unit, metric, factor):
    row = one(metric=printed, unit=unit, value="3", n_devices="4", tp="4")
    assert row.metric == metric
    assert row.value == pytest.approx(3 * factor)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"model": "PaLM 540B"}, "model shape not known"),
        ({"quant": ""}, "weight format not stated"),
        ({"quant": "int3"}, "weight format not in our table"),
        ({"hardware": "abacus", "hw_key": ""}, "device not in the catalogue"),
        ({"engine": "abacus"}, "engine not in the catalogue"),
        ({"batch_or_concurrency": ""}, "batch not stated"),
        ({"batch_or_concurrency": "Poisson 4 req/s"}, "batch not stated"),
        ({"input_len": ""}, "lengths not stated"),
        ({"output_len": ""}, "lengths not stated"),
        ({"n_devices": "", "tp": ""}, "number of devices not stated"),
        ({"notes": "spec_decode=mtp"}, "speculative decoding on or unknown"),
        ({"notes": "spec_decode=unknown"}, "speculative decoding on or unknown"),
        ({"notes": "disagg; 2 prefill workers"}, "disaggregated deployment"),
        ({"metric": "achieved_gb_s", "unit": "GB/s"}, "metric not predicted"),
        ({"notes": "offload target: CPU"}, "several kinds of device or host memory in one run"),
        ({"hardware": "NVIDIA RTX 4090 (+ RTX 3090 Ti)"}, "several kinds of device or host memory in one run"),
        (
            {"citation_locator": "line 7 id=made_up_trtllm_tp8_ep8_7", "n_devices": "64", "tp": "64"},
            "device count contradicts the run's own id",
        ),
        ({"tp": "8", "n_devices": "2"}, "device count contradicts the run's own id"),
        ({"quant": "1000"}, "cells do not fit their columns"),
        ({"n_devices": "6.68"}, "cells do not fit their columns"),
        ({"input_len": "BF16"}, "cells do not fit their columns"),
        ({"unit": "tok/s"}, "cells do not fit their columns"),
        ({"value": "0.00"}, "value is not a positive number"),
        ({"value": "nan"}, "value is not a positive number"),
        ({"value": "OOM"}, "value is not a positive number"),
        ({"value": "-3"}, "value is not a positive number"),
    ],
)
def test_what_cannot_be_said_is_counted_by_reason(reason, cells, said):
    assert reason(**cells) == said


def test_no_row_is_lost(read):
    rows = [USUAL | {"id": str(i), "value": str(i - 3), "quant": "" if i % 5 == 0 else "fp8"} for i in range(40)]
    found = read(*rows)
    assert len(found.rows) + len(found.unexpressed) == 40
    assert sum(found.reasons.values()) == len(found.unexpressed)
    assert {item.id for item in found.rows} | {item.id for item in found.unexpressed} == {str(i) for i in range(40)}
    assert [item.line for item in found.unexpressed] == sorted(int(item.id) + 2 for item in found.unexpressed)


BENCH = {
    "engine": "llama.cpp/CUDA",
    "model": "llama-2-7b.Q4_0.gguf",
    "quant": "q4_0",
    "tp": "",
    "pp": "",
    "batch_or_concurrency": "1",
    "unit": "tok/s",
    "tier": "T1",
}


def test_llama_bench_generates_from_an_empty_cache(one):
    row = one(**BENCH, metric="decode_tok_s_single", input_len="0", output_len="128", notes="llama-bench tg128")
    assert (row.regime, row.metric, row.backend) == ("single", "decode_tokens_per_s", "cuda")
    assert (row.work.prompt, row.work.output, row.work.kv) == (1, 128, "fp16")


def test_llama_bench_at_a_depth(one):
    row = one(**BENCH, metric="decode_tok_s_single", input_len="0", output_len="32", notes="llama-bench tg32 @ d4096")
    assert (row.work.prompt, row.work.output) == (4096, 32)
    row = one(**BENCH | {"tier": "T2"}, metric="prefill_tok_s", input_len="512", output_len="0", notes="pp512 @ d1536")
    assert (row.work.prompt, row.work.output, row.work.prefix_hit) == (2048, 1, 0.75)
    assert row.regime == "prefill"


def test_a_batched_bench_row_is_told_as_time_per_token(one):
    notes = "4 sequences x 32 tokens after 8192-token prompts; T_TG=1 s"
    row = one(**BENCH, metric="decode_tok_s_total", input_len="8192", output_len="32", value="160", notes=notes)
    assert (row.metric, row.value, row.work.batch, row.work.prompt) == ("tpot_s", 4 / 160, 4, 8192)
    notes = "8 sequences x 512 prompt tokens; T_PP=1 s"
    row = one(**BENCH, metric="prefill_tok_s", input_len="512", output_len="0", value="160", notes=notes)
    assert (row.metric, row.value, row.work.batch, row.work.prompt) == ("prefill_tokens_per_s", 160, 8, 512)


def test_engines_that_split_layers_use_devices_in_turn(one):
    row = one(
        **BENCH, metric="decode_tok_s_single", n_devices="4", input_len="0", output_len="128", notes="llama-bench"
    )
    assert (row.devices, row.work.tp, row.work.pp) == (4, 1, 4)


def test_rates_that_include_the_prompt_are_told_from_those_that_do_not(one):
    cells = {"metric": "decode_tok_s_single", "unit": "tok/s", "batch_or_concurrency": "1", "tier": "T1"}
    assert one(**cells, notes="").metric == "decode_tokens_per_s"
    assert one(**cells, notes="TPS@1 over API incl. prefill").metric == "tokens_per_s"
    assert one(**cells, notes="output tok/s over the request incl. TTFT").metric == "tokens_per_s"


def test_inferencex_draws_lengths_and_its_script_sets_the_cache(one):
    cells = {
        "input_len": "1024",
        "output_len": "1024",
        "date": "2025-10-10",
        "hardware": "b200_sxm",
        "n_devices": "8",
        "tp": "8",
    }
    cells |= {"model": "meta-llama/Llama-3.1-70B", "quant": "fp8", "source": "aiconfigurator_silicon"}
    row = one(
        **cells, notes="MEAN; agg; attn_dp=1; moe_tp=8; moe_ep=1; origin InferenceX; spec_decode=none (before MTP)"
    )
    assert (row.work.prompt, row.work.output) == (pytest.approx(921.6), pytest.approx(921.6))
    assert row.work.kv == "fp8"
    assert row.work.chunk > 0
    assert (row.load.rounds, row.load.spread) == (10, 0.2)
    assert row.statistic == "mean"
    assert "lengths 0.9 of the nominal ones" in row.notes
    exact = one(**cells, notes="MEAN; origin=NVIDIA GTL benchmark jobs; spec_decode=none (not InferenceX)")
    assert (exact.work.prompt, exact.work.kv, exact.work.chunk) == (1024, "auto", 0)


def test_parallel_degrees_multiply_to_the_devices(one):
    row = one(n_devices="8", tp="1", notes="DP1 EP8 TP1; closed loop max_num_seqs=8, mean running batch 7.5")
    assert (row.work.tp, row.work.ep, row.work.dp, row.work.batch) == (8, 8, 1, 7.5)
    row = one(n_devices="8", tp="1", notes="DP8 EP8 TP1; closed loop max_num_seqs=64, mean running batch 48")
    assert (row.work.tp, row.work.ep, row.work.dp, row.work.batch) == (1, 8, 8, 6)
    row = one(n_devices="8", tp="8", notes="attn_dp=8; moe_tp=1; moe_ep=8", batch_or_concurrency="64")
    assert (row.work.tp, row.work.ep, row.work.dp, row.work.batch) == (1, 8, 8, 8)
    row = one(n_devices="2", tp="2", notes="attn_dp=1; moe_tp=1; moe_ep=8", batch_or_concurrency="64")
    assert (row.work.tp, row.work.ep, row.work.dp, row.work.batch, row.devices) == (2, 8, 4, 16, 8)
    row = one(n_devices="8", tp="", notes="")
    assert (row.work.tp, row.work.dp) == (8, 1)
    row = one(n_devices="8", tp="4", notes="")
    assert (row.work.tp, row.work.dp) == (4, 2)


def test_what_a_publication_leaves_unsaid_is_assumed_and_said(one):
    row = one(source="llm_inference_bench", quant="", hardware="Nvidia A100 GPU", tier="T3", metric="e2e_latency_ms")
    assert (row.work.weights, row.device, row.regime, row.metric) == ("bf16", "a100-40gb-sxm", "static", "request_s")
    assert row.notes.startswith("assumed: ")
    row = one(source="geerling_ai_benchmarks", quant="", engine="Ollama", n_devices="", tp="", input_len="", output_len="",
              metric="decode_tok_s_single", unit="tok/s", batch_or_concurrency="1", tier="T1")  # fmt: skip
    assert (row.work.weights, row.trust, row.devices) == ("q4_k_m", "C", 1)


def test_as_many_as_fit(one):
    row = one(batch_or_concurrency="", tier="T3", metric="throughput_tok_s_per_gpu", unit="tok/s/device",
              notes="maximum achievable throughput; batch size = max that fits, not published")  # fmt: skip
    assert row.regime == "capacity"


def test_memory_rows(read):
    found = read(
        MEMORY_ROW,
        MEMORY_ROW | {"id": "made-up-2", "kind": "out_of_memory", "value": "OOM", "unit": "80 GB device"},
        MEMORY_ROW | {"id": "made-up-3", "notes": "engine pre-allocates most of the device"},
        MEMORY_ROW | {"id": "made-up-4", "unit": "MB", "value": "512"},
        MEMORY_ROW | {"id": "made-up-5", "unit": "stones"},
    )
    assert [(row.metric, row.value) for row in found.rows] == [
        ("resident_bytes", 16.5 * 2**30),
        ("resident_bytes", 2.0**29),
    ]
    assert [item.reason for item in found.unexpressed] == [
        "out of memory, not a measurement",
        "memory preallocated by the engine",
        "cells do not fit their columns",
    ]


def test_licences_come_from_the_table_beside_the_file(tmp_path):
    (tmp_path / "rows.csv").write_text(text_of([USUAL]), encoding="utf-8")
    (tmp_path / "sources.csv").write_text("source,licence\nmade_up,MIT\n", encoding="utf-8")
    assert read_corpus(tmp_path / "rows.csv").rows[0].licence == "MIT"


def test_what_was_read_can_be_written_in_our_layout_and_read_again(tmp_path, one):
    row = one()
    write_truth([row], tmp_path / "ours.csv")
    assert read_any(tmp_path / "ours.csv").rows == (row,)
    (tmp_path / "theirs.csv").write_text(text_of([USUAL]), encoding="utf-8")
    assert read_any(tmp_path / "theirs.csv").rows == (row,)


@pytest.mark.parametrize("missing", ["metric", "notes", "batch_or_concurrency", "citation_locator"])
def test_a_file_of_another_layout_is_refused(tmp_path, missing):
    path = tmp_path / "rows.csv"
    path.write_text(text_of([{name: text for name, text in USUAL.items() if name != missing}]), encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        read_corpus(path)
    assert missing in caught.value.message
    assert caught.value.place == f"{path}:1"


def test_an_id_twice_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(text_of([USUAL, USUAL]), encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        read_corpus(path)
    assert caught.value.place == f"{path}:3"


CELLS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        sorted({*USUAL.values(), "1e999", "-1", "0", "nan", "8", "64", "DP0 EP0 TP0", "@ d9", "attn_dp=0; moe_ep=9"})
    ),
    st.floats().map(str),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([name for name in SPEED if name != "id"]), CELLS, max_size=6))
def test_any_cell_is_said_counted_or_refused(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("any") / "rows.csv"
    path.write_bytes(text_of([USUAL | cells]).encode("utf-8", "surrogatepass"))
    try:
        found = read_corpus(path)
    except ByteboundError as error:
        assert error.exit_code == 2
        return
    assert len(found.rows) + len(found.unexpressed) == 1
    for row in found.rows:
        assert math.isfinite(row.value)
        assert row.value > 0
        assert row.work.tp * row.work.pp * row.work.dp == row.devices
    for item in found.unexpressed:
        assert item.reason in REASONS

"""The reader of aiconfigurator's end-to-end sample, on invented runs and on the package's file when it is installed."""

from __future__ import annotations

import importlib.util

import pytest

from bytebound.errors import DocumentError, RequestError
from bytebound.truth import silicon_runs
from bytebound.truth.readings import REASONS
from bytebound.truth.silicon import read_runs, read_silicon, run_of
from bytebound.truth.silicon_runs import COLUMNS

INVENTED = {
    "id": "invented_llama_cfg1",
    "silicon_data_source": "source_file=2026-04-06.csv; silicon_concurrency=16; measured=2026-08-05T00:00:00.000Z",
    "backend": "vllm",
    "backend_version": "0.0.1",
    "model_path": "meta-llama/Llama-3.1-70B",
    "system": "h100_sxm",
    "precision": "fp8",
    "mode": "agg",
    "gemm_quant_mode": "fp8",
    "moe_quant_mode": "fp8",
    "isl": "1000",
    "osl": "500",
    "batch_size": "16",
    "tp_size": "4",
    "pp_size": "1",
    "attention_dp_size": "1",
    "moe_tp_size": "4",
    "moe_ep_size": "1",
    "silicon_ttft_ms": "200.0",
    "silicon_tpot_ms": "20.0",
}
"""An invented run: none of its figures was measured."""

NVIDIA_JOB = "source_file=/somewhere/h100_sxm/run.csv; silicon_concurrency=8"
R1 = {"model_path": "deepseek-ai/DeepSeek-R1", "tp_size": "8", "moe_tp_size": "8"}
INSTALLED = importlib.util.find_spec("aiconfigurator_core") is not None


@pytest.fixture
def written(tmp_path):
    """Return a function that writes invented runs, each a change of ``INVENTED``, and gives the path."""

    def write(*changes, columns=COLUMNS):
        path = tmp_path / "sample.csv"
        lines = [",".join(columns)]
        for number, change in enumerate(changes):
            cells = {**INVENTED, "id": f"{INVENTED['id']}_{number}", **change}
            lines.append(",".join(cells[name] for name in columns))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def test_a_run_is_two_numbers_of_one_deployment(written):
    """TTFT and TPOT in seconds, means of a closed loop, with the lengths InferenceX really draws."""
    ttft, tpot = read_silicon(written({})).rows

    assert (ttft.metric, ttft.value) == ("ttft_s", 0.2)
    assert (tpot.metric, tpot.value) == ("tpot_s", 0.02)
    assert (tpot.device, tpot.devices, tpot.engine, tpot.model) == (
        "h100-sxm", 4, "vllm", "meta-llama/Meta-Llama-3.1-70B",
    )  # fmt: skip
    assert (tpot.work.batch, tpot.work.prompt, tpot.work.output) == (16, 900, 450)
    assert (tpot.work.tp, tpot.work.dp, tpot.work.ep, tpot.work.weights, tpot.work.kv) == (4, 1, 1, "fp8", "auto")
    assert (tpot.regime, tpot.statistic, tpot.trust, tpot.date) == ("closed-loop", "mean", "A", "2026-08-05")
    assert "0.9 assumed" in tpot.notes
    assert tpot.locator.endswith("line 2")


def test_the_launch_script_says_cache_and_load(written):
    """A public run has the settings of the script that was current on its day; every such run has its client's load."""
    origin = INVENTED["silicon_data_source"].replace("2026-08-05", "2025-10-29")
    known, unknown = read_silicon(written({"silicon_data_source": origin}, {"silicon_tpot_ms": "25"})).rows[::2]

    assert (known.work.kv, known.work.chunk, known.load.slots) == ("fp8", 8192, 16)
    assert "launched as" in known.notes
    assert (unknown.work.kv, unknown.work.chunk, unknown.load.slots) == ("auto", 0, 0)
    assert {(row.load.rounds, row.load.spread) for row in (known, unknown)} == {(10, 0.2)}


def test_nvidia_jobs_have_exact_lengths(written):
    """Runs that are not InferenceX's keep their nominal lengths and lower trust."""
    row = read_silicon(written({"silicon_data_source": NVIDIA_JOB})).rows[0]

    assert (row.work.prompt, row.work.output, row.trust, row.date) == (1000, 500, "B", "")


def test_tensorrt_llm_keeps_a_quantized_model_with_an_8_bit_cache(written):
    rows = read_silicon(
        written({"backend": "trtllm"}, {"backend": "trtllm", "precision": "", "gemm_quant_mode": ""})
    ).rows

    assert [row.work.kv for row in rows[::2]] == ["fp8", "auto"]
    assert [row.work.weights for row in rows[::2]] == ["fp8", "bf16"]
    assert "weight format not stated" in rows[2].notes


def test_replicas_follow_from_the_experts_where_they_are_not_stated(written):
    """NVIDIA's jobs leave attention replicas blank; the experts are spread over all devices."""
    change = {
        "silicon_data_source": NVIDIA_JOB, "model_path": "Qwen/Qwen3-235B-A22B-FP8", "tp_size": "2",
        "attention_dp_size": "", "moe_tp_size": "4",
    }  # fmt: skip
    row = read_silicon(written(change)).rows[0]

    assert (row.work.tp, row.work.dp, row.devices) == (2, 2, 4)
    assert "replicas from the degrees of the experts" in row.notes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mode": "disagg"}, "disaggregated deployment"),
        ({"system": "invented_gpu"}, "device not in the catalogue"),
        ({"backend": "invented"}, "engine not in the catalogue"),
        ({"model_path": "invented/model"}, "model shape not known"),
        ({"silicon_data_source": "source_file=/somewhere/run.csv"}, "batch not stated"),
        ({"gemm_quant_mode": "int3_invented"}, "weight format not in our table"),
        (
            {"id": "invented_agg_c4_tp4_ep4_1", "tp_size": "16", "moe_ep_size": "4"},
            "device count contradicts the run's own id",
        ),
        (
            {"id": "invented_agg_c4_tp2_ep2_1", "tp_size": "2", "attention_dp_size": "2", "moe_tp_size": "1"},
            "device count contradicts the run's own id",
        ),
        ({"tp_size": "16", "moe_tp_size": "4", "moe_ep_size": "4"}, "parallel degrees not possible"),
        ({"tp_size": "28", "moe_tp_size": "28", "system": "gb200"}, "parallel degrees not possible"),
        ({"moe_tp_size": "4", "moe_ep_size": "4"}, "parallel degrees not possible"),
        ({"backend": "trtllm", "system": "h200_sxm", **R1}, "speculative decoding on or unknown"),
    ],
)
def test_what_cannot_be_expressed_says_why(written, change, reason):
    """Nothing is dropped: two numbers per line are either rows or counted under a reason of the closed set."""
    found = read_silicon(written(change, {}))

    assert reason in REASONS
    assert [item.reason for item in found.unexpressed] == [reason, reason]
    assert {item.line for item in found.unexpressed} == {2}
    assert len(found.rows) + len(found.unexpressed) == 4


@pytest.mark.parametrize(
    ("deployment", "date", "plain"),
    [
        (("h200_sxm", "trtllm", "8"), "2025-12-15", True),
        (("h200_sxm", "trtllm", "8"), "2026-01-14", False),
        (("b200_sxm", "trtllm", "8"), "2026-01-29", True),
        (("b200_sxm", "trtllm", "8"), "2026-02-05", False),
        (("b200_sxm", "sglang", "4"), "2026-03-25", True),
        (("b200_sxm", "sglang", "8"), "2026-03-25", False),
        (("h200_sxm", "sglang", "8"), "2026-03-25", True),
    ],
)
def test_speculative_runs_are_told_by_deployment_and_date(written, deployment, date, plain):
    """Multi-token prediction entered InferenceX per deployment; runs that may use it are left out."""
    system, backend, tp = deployment
    origin = f"db-dump/2026-04-27; config_id=1; silicon_concurrency=16; measured={date}T00:00:00.000Z; image"
    change = {
        **R1, "system": system, "backend": backend, "silicon_data_source": origin, "tp_size": tp, "moe_tp_size": tp,
    }  # fmt: skip

    assert bool(read_silicon(written(change)).rows) is plain


def test_a_run_listed_twice_is_kept_once(written):
    """Later dumps repeat runs; the one with a date stays, rounding notwithstanding."""
    undated = {"silicon_data_source": "source_file=invented-gap-analysis.csv; silicon_concurrency=16"}
    found = read_silicon(written({**undated, "silicon_tpot_ms": "20.002"}, {}, {"silicon_tpot_ms": "25"}))

    assert found.reasons == {"the same run is listed twice": 2}
    assert found.unexpressed[0].line == 2
    assert len(found.rows) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"isl": "many"}, "isl is 'many', not a number"),
        ({"tp_size": "1.5"}, "tp_size is 1.5, not a whole number"),
        ({"silicon_tpot_ms": ""}, "silicon_tpot_ms is '', not a number"),
        ({"silicon_ttft_ms": "0"}, "silicon_ttft_ms is 0, not a time"),
        ({"silicon_ttft_ms": "nan"}, "not a finite number"),
        ({"batch_size": "-4"}, "not a finite number from 0 up"),
    ],
)
def test_a_broken_cell_is_named_with_its_line(written, change, message):
    path = written({}, change)

    with pytest.raises(DocumentError, match=message) as raised:
        read_silicon(path)
    assert str(raised.value).startswith(f"{path}:3: ")


def test_a_missing_column_or_file_is_an_error(written, tmp_path):
    with pytest.raises(DocumentError, match="'silicon_tpot_ms' is missing"):
        read_runs(written({}, columns=COLUMNS[:-1]))
    with pytest.raises(DocumentError, match="no such file"):
        read_runs(tmp_path / "absent.csv")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(silicon_runs, "find_spec", lambda name: None)

    with pytest.raises(RequestError, match=r"bytebound\[validate\]"):
        read_silicon()


@pytest.mark.packages
@pytest.mark.skipif(not INSTALLED, reason="needs the package aiconfigurator-core for its sample")
def test_the_package_sample_reads_whole():
    """Two numbers per line, every one a row or a reason; the wrong device counts are found by rule."""
    runs, found = read_runs(), read_silicon()

    assert len(runs) >= 5000
    assert len(found.rows) + len(found.unexpressed) == 2 * len(runs)
    assert len({row.id for row in found.rows}) == len(found.rows)
    assert {run_of(row.id) for row in found.rows} <= {run.id for run in runs}
    assert set(found.reasons) <= set(REASONS)
    assert found.reasons["device count contradicts the run's own id"] >= 2 * 194
    assert all(row.devices <= 16 for row in found.rows)

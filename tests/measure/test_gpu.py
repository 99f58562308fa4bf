"""Accelerator probes: all on the processor, CUDA's own paths on a played device, and a real one where there is one."""

import json
import runpy
import sys
from dataclasses import replace

import fake_cuda
import pytest

from bytebound.documents.device import Device
from bytebound.documents.measurement import Missing, Reading
from bytebound.errors import UnfinishedError, UnknownNameError
from bytebound.measure import gpu, gpu_run
from bytebound.measure.gpu import Accelerator, find_accelerators
from bytebound.measure.gpu_matrix import _products, best_rates, matrix_rates
from bytebound.measure.gpu_memory import cache_of, memory_bandwidth, memory_ladder
from bytebound.measure.gpu_time import FULL, QUICK, TINY, keep_best, time_probes
from bytebound.measure.sampling import Probe, Sample, reading

torch = pytest.importorskip("torch", reason="needs PyTorch")

PROCESSOR = Accelerator("cpu", 0, "this processor", 2.0**30)
H200 = Accelerator("cuda", 0, "NVIDIA H200", 150754820096.0, 50 * 2.0**20, 132, "sm_90")


def made(name, value, unit="B/s", **where):
    return reading(Probe(name, unit, value, lambda: None, "made up", where), [Sample(1.0, 0.0, 0.0)])


def probe(work, name="memory.read", how="made up"):
    return Probe(name, "B/s", 1e6, work, how)


# --- the whole run, on the processor -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    said = []
    result = gpu_run.probe_accelerators("cpu-for-tests", quick=True, budget_s=5, on_progress=said.append)
    return *result, said


def test_every_probe_runs_on_the_processor(run):
    _device, readings, missing, said = run
    names = {item.name for item in readings}
    assert names >= {
        "memory.read", "memory.write", "memory.copy", "memory.triad", "memory.usable", "matrix.fp32", "matrix.bf16",
        "matrix.fp16", "matrix.int8", "matrix.fp8", "attention.decode", "attention.floor", "dequant.bf16",
        "launch.kernel", "launch.round-trip", "link.host-to-device", "link.device-to-host",
    }  # fmt: skip
    absent = {item.probe for item in missing}
    assert {"matrix.tf32", "matrix.fp4", "launch.graph", "link.host", "memory.triton"} <= absent
    assert absent <= {
        "matrix.tf32",
        "matrix.fp4",
        "launch.graph",
        "link.host",
        "memory.triton",
        "cache.l2",
        "power.limit",
    }
    assert [line.split(": ")[1] for line in said][:3] == ["driver", "usable memory", "memory"]


def test_the_device_is_a_document_and_every_figure_measured(run):
    device, readings, _missing, _said = run
    assert Device.model_validate_json(device.model_dump_json(by_alias=True)) == device
    assert device.memory_bytes_per_s.value == memory_bandwidth(PROCESSOR, readings).best
    figures = [device.memory_bytes, device.memory_bytes_per_s, *device.flop_per_s.values(), device.host_bytes_per_s]
    assert {item.how for item in figures} == {"measured"}
    assert set(device.flop_per_s) == {"fp32", "bf16", "fp16", "int8", "fp8"}
    assert (device.flop_per_s["int8"].unit, device.flop_per_s["bf16"].unit) == ("OP/s", "FLOP/s")


def test_an_interrupted_run_keeps_what_was_finished():
    outcomes = gpu_run.accelerator_outcomes([PROCESSOR], TINY, quick=True, budget_s=5)
    kept = [next(outcomes) for _ in range(4)]
    outcomes.close()
    assert any(isinstance(item, Reading) for item in kept)


@pytest.mark.parametrize("effort", [FULL, QUICK, TINY])
def test_sizes_grow_so_that_a_failure_costs_only_the_large(effort):
    assert list(effort.ladder_bytes) == sorted(effort.ladder_bytes)
    work = [m * n * k for m, n, k in effort.shapes]
    assert work == sorted(work)
    assert all(side % 16 == 0 for shape in effort.shapes for side in shape)  # what the fp8 product wants
    assert effort.heads[0] % effort.heads[1] == 0


# --- which accelerators there are ----------------------------------------------------------------------------------


def test_an_unknown_kind_is_told_the_known_ones():
    with pytest.raises(UnknownNameError, match="cuda"):
        find_accelerators("cud")


def test_without_torch_the_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(gpu, "listed_cards", lambda: ("NVIDIA L4",))
    found, missing = find_accelerators()
    assert found == ()
    assert "NVIDIA L4 found, but PyTorch is not installed" in missing[0].why
    assert "pip install torch" in missing[0].why


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_no_gpu_is_a_sentence_and_no_error():
    device, readings, missing = gpu_run.probe_accelerators("cuda", quick=True, budget_s=1, on_progress=print)
    assert (device, readings) == (None, ())
    assert "sees no cuda device" in missing[0].why or "the driver lists" in missing[0].why


def test_a_card_that_torch_was_not_built_for_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(gpu, "listed_cards", lambda: ("NVIDIA H100 80GB HBM3",))
    (missing,) = find_accelerators("cuda")[1]
    assert "the driver lists NVIDIA H100 80GB HBM3, but PyTorch" in missing.why
    assert "built without CUDA" in missing.why


def test_a_driver_too_old_for_torch_is_said_in_its_words(monkeypatch):
    def no_driver():
        import warnings

        warnings.warn("The NVIDIA driver on your system is too old.", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", no_driver)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(gpu, "listed_cards", lambda: ("NVIDIA L4",))
    assert (
        "for CUDA 12.8 cannot use it (The NVIDIA driver on your system is too old)"
        in find_accelerators("cuda")[1][0].why
    )


def test_nvidia_smi_is_read_and_its_failures_are_silence(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 700.00'\necho 'broken line'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.ask_nvidia("name", "power.limit") == (("NVIDIA H200", "700.00"),)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert gpu.ask_nvidia("name") == ()
    tool.unlink()
    assert gpu.ask_nvidia("name") == ()


@pytest.mark.parametrize(
    ("hip", "kind", "architecture", "capability"), [(None, "cuda", "sm_90", 9.0), ("6.4", "rocm", "gfx942", 0.0)]
)
def test_a_device_is_described_as_its_driver_does(monkeypatch, hip, kind, architecture, capability):
    fake_cuda.play_cuda(monkeypatch)
    monkeypatch.setattr(torch.version, "hip", hip)
    found, missing = find_accelerators("auto")
    assert missing == ()
    assert [item.index for item in found] == [0, 1]
    assert (found[0].kind, found[0].architecture, found[0].capability) == (kind, architecture, capability)
    assert (found[0].memory_bytes, found[0].cache_bytes, found[0].cores) == (2.0**31, 50 * 2.0**20, 132)
    assert found[1].device == "cuda:1"
    assert find_accelerators("cuda" if hip else "rocm")[0] == ()


@pytest.mark.parametrize(("digits", "capability"), [("sm_75", 7.5), ("sm_89", 8.9), ("sm_120", 12.0), ("gfx942", 0.0)])
def test_compute_capability(digits, capability):
    assert replace(H200, architecture=digits).capability == capability


# --- time and trouble ----------------------------------------------------------------------------------------------


def test_cuda_events_time_and_short_kernels_are_captured(monkeypatch):
    device = fake_cuda.play_cuda(monkeypatch)
    fake_cuda.Graph.replays = 0
    (item,) = time_probes(device, [probe(lambda: None)], TINY)
    assert item.note.endswith("in a CUDA graph")
    assert fake_cuda.Graph.replays == 1 + TINY.rounds


def test_without_a_graph_short_kernels_are_launched_one_by_one_and_it_is_said(monkeypatch):
    device = fake_cuda.play_cuda(monkeypatch)

    def refuse(graph, stream):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    (item,) = time_probes(device, [probe(lambda: None)], TINY)
    assert "launched one by one" in item.note
    (item,) = time_probes(device, [probe(lambda: None)], TINY, graphs="always")
    assert isinstance(item, Missing)
    assert "not permitted" in item.why


def test_a_device_that_hangs_ends_the_run_with_a_sentence(monkeypatch):
    device = fake_cuda.play_cuda(monkeypatch, fake_cuda.HungEvent)
    effort = replace(TINY, patience_s=0.05)
    with pytest.raises(UnfinishedError, match="had not finished a probe"):
        time_probes(device, [probe(lambda: None)], effort)
    outcomes = list(gpu_run.accelerator_outcomes([device], effort, quick=True))
    assert any(isinstance(item, Reading) and item.name == "memory.usable" for item in outcomes)
    assert outcomes[-1].probe == "memory"
    assert "the rest was not measured" in outcomes[-1].why


def test_out_of_memory_is_said_and_the_others_are_kept():
    def hungry():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 PiB.\nmore")

    good, bad = probe(lambda: sum(range(1000))), probe(hungry, "memory.copy", "torch copy_")
    outcomes = time_probes(PROCESSOR, [bad, good], TINY)
    assert [type(item) for item in outcomes] == [Missing, Reading]
    assert outcomes[0].why == "torch copy_: this processor is out of memory; 1.00 GiB are free"


def test_a_lost_device_stops_everything():
    def lost():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    with pytest.raises(UnfinishedError, match=r"cannot be used any more .CUDA error: an illegal memory access"):
        time_probes(PROCESSOR, [probe(lost)], TINY)


def test_a_spent_budget_leaves_two_rounds():
    (item,) = time_probes(PROCESSOR, [probe(lambda: None)], replace(TINY, rounds=9), budget_s=0)
    assert item.samples == 2


def test_the_best_is_kept_and_says_what_else_was_tried():
    slow, fast = made("memory.read", 1e12, bytes=1.0), made("memory.read", 2e12, bytes=1.0)
    quick, slower = made("attention.floor", 1.0, "s"), made("attention.floor", 0.5, "s")
    gone = Missing(probe="memory.read", why="no compiler")
    kept = list(keep_best([slow, gone, fast, quick, slower, gone]))
    assert [item.best for item in kept[:2]] == [2e12, 1.0]
    assert "also tried made up: 1e+12 B/s" in kept[0].note
    assert kept[2:] == [gone]


def test_what_does_not_fit_is_left_out_and_said(monkeypatch):
    device = fake_cuda.play_cuda(monkeypatch, free=2**19)
    monkeypatch.setattr("bytebound.measure.gpu_memory.has_triton", lambda accelerator: False)
    outcomes = list(memory_ladder(device, TINY))
    assert {item.where["bytes"] for item in outcomes if isinstance(item, Reading)} == {2.0**16}
    assert "a quarter of the free memory (512 KiB)" in outcomes[0].why
    tight = fake_cuda.play_cuda(monkeypatch, free=100)
    assert [item.why for item in matrix_rates(tight, TINY)][-1].endswith("does not fit the free memory")


# --- what readings mean --------------------------------------------------------------------------------------------


def test_bandwidth_is_that_of_arrays_too_large_for_the_cache():
    sizes = {2**24: 7e12, 2**26: 6e12, 2**28: 4.6e12, 2**30: 4.3e12, 2**31: 4.5e12, 2**32: 4.4e12}
    reads = [made("memory.read", rate, bytes=float(size)) for size, rate in sizes.items()]
    assert memory_bandwidth(H200, reads).best == 4.5e12  # 256 MiB were helped by the cache of 50 MiB
    assert memory_bandwidth(replace(H200, cache_bytes=0.0), reads).best == 4.5e12
    assert memory_bandwidth(replace(H200, cache_bytes=2.0**40), reads).best == 4.4e12
    cache = cache_of(H200, reads)
    assert (cache.name, cache.best, cache.where["edge_bytes"]) == ("cache.l2", 7e12, 2.0**26)
    assert cache.note.startswith("ends over 64.0 MiB, by 256 MiB; the driver says 50.0 MiB")
    assert isinstance(cache_of(H200, reads[2:]), Missing)
    assert isinstance(cache_of(H200, []), Missing)
    assert memory_bandwidth(H200, []) is None


def test_the_name_finds_the_datasheet():
    sheet = gpu_run.datasheet("NVIDIA H200")
    assert sheet.id == "h200-sxm"
    assert sheet.figures["memory_bytes_per_s"].value == 4.8e12
    assert sheet.figures["matrix.bf16"].value == pytest.approx(989.4e12)
    assert gpu_run.datasheet("a card nobody built") is None


def test_more_than_the_datasheet_allows_is_flagged():
    good, over = made("memory.read", 4.9e12, bytes=2.0**32), made("memory.read", 5.1e12, bytes=2.0**32)
    cached, fast = made("memory.read", 9e12, bytes=2.0**24), made("matrix.bf16", 1.1e15, "FLOP/s")
    assert gpu_run.against_datasheet(H200, good) == good
    assert gpu_run.against_datasheet(H200, cached) == cached
    flagged = gpu_run.against_datasheet(H200, over)
    assert flagged.note.startswith("FLAG: 1.06 times the datasheet's 4.8e+12 B/s of h200-sxm")
    assert gpu_run.against_datasheet(H200, fast).note.startswith("FLAG")
    assert gpu_run.against_datasheet(H200, made("link.host-to-device", 9e10)).note.startswith("FLAG")
    assert gpu_run.against_datasheet(H200, made("link.all-reduce", 6e11)).note == ""  # the switch may add up
    assert gpu_run.against_datasheet(PROCESSOR, over).note == ""
    device = gpu_run.device_of([H200], [flagged])
    assert device.confidence == "low"
    assert "memory.read" in device.notes


def test_a_rate_that_was_not_measured_is_the_datasheets_with_its_source():
    readings = [made("memory.read", 4.4e12, bytes=2.0**32), made("matrix.bf16", 7.9e14, "FLOP/s")]
    device = gpu_run.device_of([H200, replace(H200, index=1)], [*readings, made("link.device-to-device", 3.9e11)])
    assert (device.id, device.family, device.scaleup_devices) == ("h200-sxm", "nvidia-hopper", 2)
    assert device.flop_per_s["bf16"].how == "measured"
    assert device.flop_per_s["bf16"].value == 7.9e14
    assert device.flop_per_s["fp8"].how != "measured"
    assert device.scaleup_bytes_per_s.value == 3.9e11
    assert device.cache_bytes.value == 50 * 2.0**20
    assert gpu_run.device_of([H200], [made("memory.usable", 1e9, "B")]) is None


# --- the matrix products, by PyTorch's own rules for CUDA ----------------------------------------------------------


@pytest.mark.parametrize("architecture", ["sm_70", "sm_80", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_products_keep_the_rules_of_the_cuda_operators(architecture):
    """PyTorch checks shapes, layouts and dtypes of CUDA operators on tensors without data, on any machine."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    device = replace(H200, architecture=architecture)
    with FakeTensorMode():
        products, absent = _products(device)
        for dtype, (product, _how) in products.items():
            if dtype == "tf32":
                assert torch.get_float32_matmul_precision() == "highest"
            work = product(256, 384, 512)
            result = work()
            if dtype not in ("fp32", "tf32"):
                assert tuple(result.shape) == (256, 384)
                assert result.device.type == "cuda"
    assert torch.get_float32_matmul_precision() == "highest"
    assert set(products) | {item.probe.removeprefix("matrix.") for item in absent} == {
        "fp32", "tf32", "bf16", "fp16", "int8", "fp8", "fp4",
    }  # fmt: skip
    assert ("fp8" in products) == (device.capability >= 8.9)
    assert ("fp4" in products) == (device.capability >= 10)


def test_amd_parts_get_the_encoding_they_have():
    for architecture, how in (("gfx942", "float8_e4m3fnuz"), ("gfx950", "float8_e4m3fn,")):
        products, _absent = _products(replace(H200, kind="rocm", architecture=architecture))
        assert how in products["fp8"][1]
    assert "fp8" not in _products(replace(H200, kind="rocm", architecture="gfx90a"))[0]


def test_a_dtype_that_is_far_too_slow_is_not_asked_again(monkeypatch):
    monkeypatch.setattr("bytebound.measure.gpu_matrix.LONGEST_SAMPLE_S", 1e-12)
    outcomes = list(matrix_rates(PROCESSOR, TINY))
    assert {item.where["m"] for item in outcomes if isinstance(item, Reading)} == {32.0}
    assert any("would take over a second" in item.why for item in outcomes if isinstance(item, Missing))
    assert best_rates(tuple(item for item in outcomes if isinstance(item, Reading)))["fp32"].where["m"] == 32.0


# --- a real device, and the script ---------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device on this machine")
def test_a_real_device_stays_under_its_datasheet():
    device, readings, missing = gpu_run.probe_accelerators("auto", quick=True, budget_s=25, on_progress=print)
    names = {item.name for item in readings}
    assert names >= {"memory.read", "matrix.bf16", "attention.decode", "launch.graph", "link.host-to-device"}
    assert not [item for item in readings if item.note.startswith("FLAG")]
    assert device.memory_bytes.value > max(item.best for item in readings if item.name == "memory.usable")
    assert not [item for item in missing if "the rest was not measured" in item.why]


def test_the_benchmark_prints_a_table_or_why_there_is_none(pytestconfig, monkeypatch, capsys, tmp_path):
    script = pytestconfig.rootpath / "benchmarks" / "gpu.py"
    table = tmp_path / "table.json"
    monkeypatch.setattr(sys, "argv", [str(script), "--device", "cpu-for-tests", "--json", str(table)])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(script), run_name="__main__")
    assert "| memory.read | bytes 65.5 kB |" in capsys.readouterr().out
    assert Device.model_validate(json.loads(table.read_text())["device"]).kind == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [str(script), "--device", "cuda"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.startswith("Skipped: ")

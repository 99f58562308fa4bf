"""A whole measurement: real tiny runs, what is kept when parts fail or are interrupted, and the machine that comes out."""

from __future__ import annotations

import json

import pytest

from bytebound.documents.device import Device
from bytebound.documents.measurement import CacheLevel, Measured, Missing, Reading, System
from bytebound.errors import DocumentError, QuantityError, UnfinishedError, UnknownNameError
from bytebound.facts.machines import find_machine, here_file
from bytebound.measure import here, parts, run

pytest.importorskip("numba", reason="the measure extra is not installed")
pytest.importorskip("threadpoolctl", reason="the measure extra is not installed")

WHEN = "2026-11-21T07:00:00+00:00"


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Little memory and short parts; results go to a folder of the test's own."""
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(parts, "WATCH_BYTES", 2**24)
    monkeypatch.setattr(parts, "MATRIX_BYTES", 2**22)
    monkeypatch.setitem(parts.ROUNDS, True, 3)


def reading(name: str, best: float, unit: str = "B/s", **where) -> Reading:
    """A reading without spread."""
    return Reading(
        name=name, unit=unit, best=best, median=best, p10=best, p90=best, low=best, high=best, samples=3, where=where, how="test", when=WHEN,
    )  # fmt: skip


def system(**changes) -> System:
    """A processor of another machine."""
    known = {
        "cpu": "Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "vendor": "Intel", "architecture": "x86_64", "cores_online": 56, "cores_usable": 56.0,
        "memory_total_bytes": 2.0**38, "memory_usable_bytes": 2.0**38, "memory_free_bytes": 2.0**37,
    }  # fmt: skip
    return System(**{**known, **changes})


def measured(*readings: Reading, **changes) -> Measured:
    """A record of those readings."""
    known = {"id": "xeon-1", "when": WHEN, "seconds": 20.0, "system": system(), "readings": readings}
    return Measured(**{**known, **changes})


DRAM = reading("memory.read", 3e11, bytes=2.0**33, threads=56.0, node="all", kernel="read.4")
FP32 = reading("matrix.fp32", 3e12, unit="FLOP/s", library="numpy", threads=56.0)


def test_a_real_tiny_run(monkeypatch):
    """Three parts on this machine: readings with canaries beside them, physics kept, and a document that reads back."""
    monkeypatch.setattr("bytebound.measure.dequant.FORMATS", ("q8_0", "q4_0"))
    told = []
    device = run.measure(quick=True, device="cpu", parts=["usable", "launch", "dequant"], on_progress=told.append)
    record = device.measured
    names = {each.name for each in record.readings}

    assert {
        "memory.usable",
        "launch.numpy-ufunc",
        "dequant.q8_0",
        "dequant.q4_0",
        "canary.read",
        "canary.fma",
        "canary.clock",
    } <= names
    assert not record.complete  # not every part was asked for
    assert device.kind == "cpu"
    assert device.memory_bytes_per_s.value == next(r.best for r in record.readings if r.name == "canary.read")
    assert device.flop_per_s["fp32"].how == "measured"
    assert record.id in device.flop_per_s["fp32"].source
    assert [step.part for step in told if step.part != "start"] == sorted(
        [step.part for step in told if step.part != "start"], key=["usable", "dequant", "launch"].index
    )
    here.save_here(device)
    assert find_machine("here").device == device
    assert find_machine("here").device.measured == record


def test_a_real_memory_and_matrix_run(monkeypatch):
    """The ladder gives the memory bandwidth and the caches; the products the rates."""
    monkeypatch.setattr("bytebound.measure.ladder.LEAST_DRAM_BYTES", 2**25)
    monkeypatch.setattr("bytebound.measure.compute.SAMPLE_S", 2e-3)
    short = [parts.Part(p.name, p.what, p.run, 0.5, 0.5) for p in parts.PARTS if p.name in ("memory", "matrix")]
    monkeypatch.setattr(run, "PARTS", tuple(short))

    device = run.measure(quick=True, device="cpu", threads=1)
    record = device.measured

    assert record.complete
    assert device.flop_per_s["fp32"].value == max(r.best for r in record.readings if r.name == "matrix.fp32")
    assert {r.where["threads"] for r in record.readings if r.name == "memory.read"} == {1.0}
    assert any("memory bandwidth at the end was" in note for note in record.notes)
    reads = {r.where["bytes"]: r.best for r in record.readings if r.name == "memory.read"}
    assert device.memory_bytes_per_s.value >= reads[max(reads)]


def test_ctrl_c_keeps_what_is_finished(monkeypatch):
    """The parts after it are listed as interrupted, and the document is a machine all the same."""

    def stop(context, budget_s):
        yield from parts.usable(context, budget_s)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "PARTS", planned(launch=parts.launch, disk=stop, matrix=parts.matrix))
    device = run.measure(quick=True, device="cpu")

    assert [(each.probe, each.why) for each in device.measured.missing if each.why == run.INTERRUPTED] == [
        ("disk", run.INTERRUPTED), ("matrix", run.INTERRUPTED),
    ]  # fmt: skip
    assert not device.measured.complete
    assert any(each.name == "launch.numpy-ufunc" for each in device.measured.readings)


def test_ctrl_c_before_anything_was_measured(monkeypatch):
    def stop(context, budget_s):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(run, "PARTS", planned(disk=stop))
    with pytest.raises(KeyboardInterrupt):
        run.measure(quick=True, device="cpu")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(5, "Input/output error"), RuntimeError("no kernel"), UnfinishedError("too little memory")],
)
def test_a_part_that_fails_is_missing(error, monkeypatch):
    """The others are measured, and the sentence says why."""

    def fail(context, budget_s):
        raise error
        yield

    monkeypatch.setattr(run, "PARTS", planned(matrix=fail, usable=parts.usable))
    record = run.measure(quick=True, device="cpu").measured

    assert [each.probe for each in record.missing if each.why.startswith("failed: ")] == ["matrix"]
    assert not record.complete
    assert any(each.name == "memory.usable" for each in record.readings)


def test_time_that_is_used_up(monkeypatch):
    """A part that would start too late is left out, and said."""
    monkeypatch.setitem(run.LIMIT_S, True, 0.0)
    monkeypatch.setattr(run, "PARTS", planned(disk=parts.disk))
    record = run.measure(quick=True, device="cpu").measured

    assert record.missing == (Missing(probe="disk", why="the time of this measurement was used up before it"),)
    assert not record.complete


def planned(**generators) -> tuple[parts.Part, ...]:
    """Return parts of those names."""
    return tuple(parts.Part(name, "a test", generator, 0.2, 0.2) for name, generator in generators.items())


def test_refusals():
    """What cannot be measured is refused before anything is, with the nearest name."""
    with pytest.raises(UnknownNameError, match="unknown part 'memroy'; nearest: memory"):
        run.measure(parts=["memroy"], device="cpu")
    with pytest.raises(QuantityError, match="0 threads"):
        run.measure(threads=0, device="cpu")
    with pytest.raises(QuantityError, match="1000000 threads"):
        run.measure(threads=10**6, device="cpu")


def test_an_accelerator_that_is_not_there():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UnfinishedError) as caught:
        run.look_for("cuda")
    assert caught.value.place == "--device"


def test_an_accelerator_is_the_device_and_the_host_stays_in_the_record():
    """The processor stands in for an accelerator: its figures are the device's, the host's readings lie beside."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    device = run.measure(quick=True, device="cpu-for-tests", parts=["accelerator", "launch"])
    names = [each.name for each in device.measured.readings]

    assert "launch.numpy-ufunc" in names
    assert "link.host-to-device" in names
    assert device.id != here.device_id("x", 1)
    assert any("device" in each.where for each in device.measured.readings)
    here.save_here(device)
    assert find_machine("here").device == device


@pytest.mark.parametrize(
    ("cpu", "vendor", "code", "name"),
    [
        ("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "Intel", "Sapphire Rapids", "Intel Xeon Platinum 8480+"),
        ("AMD EPYC 9654 96-Core Processor", "AMD", "Genoa", "AMD EPYC 9654"),
        ("AMD EPYC", "AMD", "Genoa", "AMD EPYC Genoa"),
        ("Neoverse V1", "Arm", "", "Arm Neoverse V1"),
        ("Intel Xeon Processor (Skylake)", "Intel", "Skylake or Cascade Lake", "Intel Xeon (Skylake)"),
        ("", "", "", "x86_64"),
    ],
)  # fmt: skip
def test_names(cpu, vendor, code, name):
    assert here.cpu_name(system(cpu=cpu, vendor=vendor), code) == name


@pytest.mark.parametrize(
    ("name", "cores", "slug"),
    [("AMD EPYC Genoa", 2.0, "amd-epyc-genoa-2c"), ("Intel Xeon 8480+", 1.5, "intel-xeon-8480-1.5c"), ("処理", 4.0, "processor-4c"), ("a" * 300, 1.0, "a" * 60 + "-1c")],
)  # fmt: skip
def test_ids(name, cores, slug):
    assert here.device_id(name, cores) == slug


def test_ceilings_of_the_device():
    """Bandwidth is the best read at the largest size with most threads; caches come from the measured edge."""
    smaller = reading("memory.read", 9e11, bytes=2.0**24, threads=56.0, node="all")
    node = reading("memory.read", 4e11, bytes=2.0**33, threads=28.0, node=0.0)
    canary = reading("canary.read", 3.1e11, bytes=2.0**32, threads=56.0, node="all")
    level = CacheLevel(name="L3", bytes=1e8, read_bytes_per_s=1e12)
    device = here.cpu_device(measured(smaller, DRAM, node, canary, FP32, caches=(level,)), "Intel Xeon")

    assert device.memory_bytes_per_s.value == 3.1e11
    assert device.cache_bytes.value == 1e8
    assert (device.memory_bytes.value, device.memory_bytes.low) == (2.0**38, 2.0**37)
    assert device.flop_per_s["fp32"].value == 3e12
    assert device.family == "cpu-x86"


def test_too_little_to_be_a_machine():
    with pytest.raises(UnfinishedError, match="too little was measured"):
        here.cpu_device(measured(FP32), "x")


def test_an_incomplete_run_is_told_apart(tmp_path):
    """``complete_here`` names the complete measurement that is there, and nothing for another or a damaged one."""
    assert here.complete_here() == ""
    device = here.cpu_device(measured(DRAM, FP32), "Intel Xeon")
    path = here.save_here(device)
    assert path == here_file()
    assert here.complete_here() == WHEN
    here.save_here(here.cpu_device(measured(DRAM, FP32, complete=False), "Intel Xeon"))
    assert here.complete_here() == ""
    path.write_text("{")
    assert here.complete_here() == ""
    assert [each.name for each in path.parent.iterdir()] == ["here.json"]


def test_a_data_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(UnfinishedError, match="cannot save the measured machine") as caught:
        here.save_here(here.cpu_device(measured(DRAM, FP32), "Intel Xeon"))
    assert caught.value.mend == "set BYTEBOUND_DATA to a folder that can be written"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("measured", "readings", 0, "best"), -1.0),
        (("measured", "readings", 0, "best"), 1e300),
        (("measured", "readings", 0, "best"), "fast"),
        (("measured", "readings", 0, "name"), "../../etc"),
        (("measured", "readings", 0, "where"), {"bytes": {"deep": 1}}),
        (("measured", "readings", 0, "p10"), 1e20),
        (("measured", "extra"), 1),
        (("measured", "system", "cores_usable"), 0),
        (("measured", "disturbed"), 2.0),
        (("memory_bytes_per_s", "value"), 0.0),
        (("memory_bytes_per_s",), {"value": 1e23, "unit": "B/s", "source": "x"}),
        (("memory_bytes",), {"value": 3.0, "unit": "B", "source": "x"}),
        (("flop_per_s", "fp32"), {"value": 1e23, "unit": "FLOP/s", "source": "x"}),
        (("id",), "a b"),
    ],
)
def test_hostile_values_in_here(path, value):
    """A damaged or hostile file is refused with its place, never used."""
    document = json.loads(here.cpu_device(measured(DRAM, FP32), "Intel Xeon").model_dump_json(by_alias=True))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    here_file().parent.mkdir(parents=True, exist_ok=True)
    here_file().write_text(json.dumps(document))

    with pytest.raises((DocumentError, QuantityError)) as caught:
        find_machine("here")
    assert "here.json" in caught.value.place


def test_documents_stay_readable():
    """A measured machine written by hand reads back, its record with it."""
    device = here.cpu_device(measured(DRAM, FP32, missing=(Missing(probe="disk", why="full"),)), "Intel Xeon")
    assert Device.model_validate_json(device.model_dump_json(by_alias=True)) == device

"""The verb ``observe`` and ``estimate --calibrate`` as people run them: real files, a real process, a server, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "engines"))

from fake_server import Fake, good, serving

from bytebound import cli
from bytebound.cli import observing
from bytebound.documents.calibration import Calibration
from bytebound.documents.device import Device, Figure
from bytebound.documents.estimate import Estimate
from bytebound.documents.measurement import Measured, System
from bytebound.documents.observation import Observation
from bytebound.documents.values import json_schema
from bytebound.engines.random_gguf import Shape, write_random_gguf
from bytebound.errors import UnfinishedError
from bytebound.facts.machines import here_file
from bytebound.measure.sampling import Probe

pytest.importorskip("sqlalchemy", reason="the measure extra is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

ROOT = Path(__file__).parent.parent
SMALL = ("--prompt", "16", "--output", "4", "--threads", "1", "--budget", "0.1")
PATIENT = """
import sys
from bytebound.engines import gguf_run
from bytebound.engines.llamacpp import Session
gguf_run.host_canaries = lambda stack: ()
import time
step = Session.step
Session.step = lambda self, depth: (step(self, depth), time.sleep(0.02))[0]
from bytebound.cli import main
main()
"""
"""The real command without canaries, which take half a gigabyte; steps that leave time to press Ctrl-C."""


def known(value, unit):
    return Figure(value=value, unit=unit, how="measured", source="bytebound measure m-1", when="2026-11-21")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A data folder of the test's own, and a canary that reads a megabyte."""
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BYTEBOUND_DB", raising=False)
    block = np.ones(2**17)
    canary = Probe("memory.read", "B/s", 2.0**20, block.sum, "a test")
    monkeypatch.setattr("bytebound.engines.gguf_run.host_canaries", lambda stack: (canary,))
    return tmp_path / "data"


@pytest.fixture
def here(data):
    """A measured machine, written by hand as what ``here`` stands for."""
    system = System(cpu="any", cores_online=2, cores_usable=2, memory_total_bytes=3e10, memory_usable_bytes=3e10, memory_free_bytes=2e10)  # fmt: skip
    device = Device(
        id="my-pc", name="my pc", vendor="any", kind="cpu", memory_bytes=known(3e10, "B"), memory_bytes_per_s=known(2e10, "B/s"),
        flop_per_s={"fp32": known(3e11, "FLOP/s")},
        measured=Measured(id="m-1", when="2026-11-21T08:00:00+00:00", seconds=60, system=system),
    )  # fmt: skip
    data.mkdir(parents=True, exist_ok=True)
    here_file().write_text(device.model_dump_json(by_alias=True), encoding="utf-8")
    return device


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(
        write_random_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", Shape(2, 256, 512, 4, 2, 64, 320), "q8_0")
    )


def kept(capsys):
    """Return the ids and kinds that the history lists."""
    capsys.readouterr()
    assert cli.run(["measure", "--list", "--json"]) == 0
    return {each["id"]: each["kind"] for each in json.loads(capsys.readouterr().out)}


def test_a_gguf_file_from_end_to_end(here, tiny, tmp_path, capsys):
    """JSON that fits its schema on standard output, progress on the other stream, a page, and the record in the history."""
    page = tmp_path / "page.html"
    assert cli.run(["observe", tiny, *SMALL, "--flash", "on", "--json", "--html", str(page)]) == 0
    out, said = capsys.readouterr()
    document = json.loads(out)
    jsonschema.validate(document, json_schema(Observation))
    assert document["schema"] == "bytebound.observation/1"
    assert [each["name"] for each in document["phases"]] == ["prefill", "decode"]
    decode = document["phases"][1]
    assert decode["mbu"] == pytest.approx(decode["bytes"] / decode["seconds"]["median"] / 2e10)
    assert (decode["grade"], decode["context"]) == ("scaled", 18)
    assert document["measurement"] == "m-1"
    assert document["run"]["engine"] == "llama.cpp"
    assert "prefill 1 of 3" in said
    assert f"Wrote {page}" in said
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert kept(capsys) == {document["id"]: "observation"}


def test_the_text_says_the_verdict(here, tiny, capsys):
    assert cli.run(["observe", tiny, *SMALL, "-q"]) == 0
    out, said = capsys.readouterr()
    assert said == ""
    assert "decode" in out
    assert "my pc" in out


def test_calibrated_from_end_to_end(here, tiny, capsys, monkeypatch):
    """With ``--calibrate`` the prediction beside the run is calibrated, and the calibration is kept too."""
    quick(monkeypatch)
    assert cli.run(["observe", tiny, *SMALL, "--calibrate", "--json", "-q"]) == 0
    out, said = capsys.readouterr()
    assert said == ""
    document = json.loads(out)
    assert [each["grade"] for each in document["phases"]] == ["calibrated", "calibrated"]
    assert sorted(kept(capsys).values()) == ["calibration", "observation"]


def quick(monkeypatch):
    """Make calibration a matter of a second, and blind to a busy machine."""
    from bytebound.observe import calibrate as module

    for name, value in {
        "MOST_DISTURBED": 2.0,
        "MOST_SPREAD": 1e9,
        "TOKENS": (2, 8),
        "PAIRS": (32, 64),
        "DEPTHS": (0, 64),
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("bytebound.observe.shape.LEAST_BYTES", 1e6)
    whole = module.calibrate
    monkeypatch.setattr(
        module, "calibrate", lambda *given, **options: whole(*given, rounds=5, **(options | {"depth": 128}))
    )


def test_estimate_calibrated_here(here, tiny, capsys, monkeypatch):
    """``estimate --on here --calibrate llama.cpp``: the engine is the probed one, the grade says so, the interval is narrow."""
    quick(monkeypatch)
    asked = ["estimate", tiny, "--on", "here", "--prompt", "100", "--output", "20", "--json"]
    assert cli.run([*asked, "--calibrate", "llama.cpp"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json_schema(Estimate))
    assert (document["grade"], document["work"]["engine"]) == ("calibrated", "llama.cpp")
    assert any(each["how"] == "calibrated" for each in document["provenance"])
    assert document["tpot_s"]["value"] > 0
    assert "calibration" in kept(capsys).values()
    assert cli.run([*asked, "--engine", "llama.cpp"]) == 0
    assert json.loads(capsys.readouterr().out)["grade"] == "scaled"
    assert cli.run(["explain", tiny, "--on", "here", "--calibrate", "llama.cpp"]) == 0
    assert "calibrated" in capsys.readouterr().out


def test_too_noisy_to_conclude(here, tiny, capsys, monkeypatch):
    """Exit 3 and a sentence; nothing is predicted from noise."""

    def noisy(*_args, **_options):
        raise UnfinishedError("too noisy to conclude", place="calibration", mend="calibrate again")

    monkeypatch.setattr("bytebound.observe.calibrate.conclude", noisy)
    quick(monkeypatch)
    assert cli.run(["estimate", tiny, "--on", "here", "--calibrate", "llama.cpp"]) == 3
    out, said = capsys.readouterr()
    assert out == ""
    assert "error: too noisy to conclude" in said


def test_a_server_whose_model_we_name(here, capsys):
    """A loopback server in tokens of known times: TPOT is what it was told to be, and MBU follows from it."""
    with serving(Fake(good(0.01, 0.02))) as url:
        asked = ["observe", url, "--model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--prompt", "8", "--output", "6", "--requests", "4", "--json"]  # fmt: skip
        assert cli.run(asked) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json_schema(Observation))
    assert document["run"]["engine"] == "vllm"
    assert document["tpot_s"]["best"] > 0.018
    decode = next(each for each in document["phases"] if each["name"] == "decode")
    assert decode["mbu"] == pytest.approx(decode["bytes"] / decode["seconds"]["median"] / 2e10)


def test_a_server_whose_model_nobody_knows(here, capsys):
    with serving(Fake(good())) as url:
        assert cli.run(["observe", url, "--prompt", "8", "--output", "4", "--requests", "3", "--json", "-q"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["phases"] == []
        assert "--model" in document["missing"]["mbu"]
        assert cli.run(["observe", url, "--prompt", "8", "--output", "4", "--requests", "3"]) == 0
        assert "--model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.gguf"], "absent.gguf"),
        (["TINY", "--weights", "q99"], "unknown dtype 'q99'"),
        (["TINY", "--kv", "q99"], "at    --kv"),
        (["TINY", "--kv", "fp8"], "unknown KV dtype 'fp8'"),
        (["TINY", "--flash", "perhaps"], "perhaps"),
        (["TINY", "--batch", "0"], "batch is 0"),
        (["TINY", "--threads", "0"], "threads is 0"),
        (["TINY", "--threads", "99999"], "threads is 99,999"),
        (["TINY", "--on", "h200"], "unknown device 'h200'"),
        (["TINY", "--datasheet", "h200"], "unknown device 'h200'"),
        (["TINY", "--model", "no-such"], "unknown model 'no-such'"),
        (["TINY", "--calibrate", "--dtype", "bf16"], "--calibrate probes llama.cpp"),
        (["http://127.0.0.1:9", "--calibrate"], "--calibrate probes llama.cpp"),
        (["http://127.0.0.1:9", "--weights", "q99"], "unknown dtype 'q99'"),
        (["TINY", "--db", "nonsense://x"], "nonsense"),
        (["TINY", "--html", "/no/such/folder/x.html"], "no such folder"),
    ],
)
@pytest.mark.usefixtures("here")
def test_bad_requests(arguments, words, tiny, capsys, monkeypatch):
    """Refused in a sentence before anything is run; nothing is kept."""
    monkeypatch.setattr("bytebound.engines.gguf_run.host_canaries", lambda stack: pytest.fail("something was run"))
    assert cli.run(["observe", *(tiny if each == "TINY" else each for each in arguments)]) == 2
    out, said = capsys.readouterr()
    assert out == ""
    assert words in said
    assert kept(capsys) == {}


def test_nobody_listens(here, capsys):
    """A closed port ends in a sentence, never as a bug."""
    code = cli.run(["observe", "http://127.0.0.1:9", "--requests", "1", "--prompt", "4", "--output", "2"])
    assert code in {2, 3}
    assert "127.0.0.1:9" in capsys.readouterr().err


def test_without_a_measured_machine(tiny, capsys):
    """Exit 2, and the mend is to measure."""
    assert cli.run(["observe", tiny]) == 2
    said = capsys.readouterr().err
    assert "no measured machine found" in said
    assert "next  run `bytebound measure` first" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--on", "here", "--calibrate", "llama.ccp"], "nearest: llama.cpp"),
        (["--on", "here", "--calibrate", "vllm"], "unknown engine to calibrate 'vllm'"),
        (["--on", "h100-sxm", "--calibrate", "llama.cpp"], "say --on here, after bytebound measure"),
        (["--on", "here", "--calibrate", "llama.cpp", "--kv", "fp8"], "unknown KV dtype 'fp8'"),
        (["--on", "here", "--calibrate", "llama.cpp", "--weights", "int4"], "unknown llama.cpp weight format 'int4'"),
    ],
)
def test_bad_calibrations(arguments, words, here, tiny, capsys):
    assert cli.run(["estimate", tiny, *arguments]) == 2
    out, said = capsys.readouterr()
    assert out == ""
    assert words in said


def test_a_bundled_model_needs_a_format(here, capsys):
    assert cli.run(["estimate", "smollm2-135m-instruct", "--on", "here", "--calibrate", "llama.cpp"]) == 2
    assert "a bundled model says no GGUF format" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child process")
def test_ctrl_c_keeps_finished_phases(here, tiny, capsys):
    """SIGINT while a real process decodes: exit 130, what was finished printed and kept."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"}
    arguments = ["observe", tiny, "--prompt", "16", "--output", "4", "--threads", "1", "--json"]
    process = subprocess.Popen(  # noqa: S603 - this interpreter
        [sys.executable, "-c", PATIENT, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    said = ""
    while "decode, round 2" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)

    assert process.returncode == 130, rest
    assert "interrupted: what was finished is kept" in rest
    assert "Traceback" not in rest
    document = json.loads(out)
    assert [each["name"] for each in document["phases"]] == ["prefill", "decode"]
    assert document["run"]["errors"] == ["interrupted: what had been measured until then is kept"]
    assert kept(capsys) == {document["id"]: "observation"}


def test_a_history_that_fails_loses_nothing_else(here, tiny, capsys, monkeypatch):
    """The run is printed all the same, and the failure said."""

    def full(*_args, **_options):
        raise UnfinishedError("the disk is full", place="history.sqlite")

    monkeypatch.setattr("bytebound.history.store.keep", full)
    assert cli.run(["observe", tiny, *SMALL, "--json"]) == 0
    out, said = capsys.readouterr()
    assert json.loads(out)["phases"]
    assert "not kept in the history: history.sqlite: the disk is full" in said


@pytest.mark.parametrize("name", ["observation", "calibration", "run", "machine"])
def test_schemas_are_published(name, capsys):
    assert cli.run(["schema", name]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "schema_" not in json.dumps(schema)
    if name == "calibration":
        assert schema == json_schema(Calibration)


def test_formats_of_a_run():
    """PyTorch says in which dtype it loaded a model; other engines keep what the file stores."""
    from bytebound.documents.observation import Run

    def made(engine, **settings):
        return Run("r", "", engine, "", "m", settings=settings)

    assert observing.format_of(made("transformers", dtype="bfloat16"), "auto") == "bf16"
    assert observing.format_of(made("transformers", dtype="float32"), "int8") == "int8"
    assert observing.format_of(made("llama.cpp", dtype="x"), "auto") == "auto"

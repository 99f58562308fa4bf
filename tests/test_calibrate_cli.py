"""The verb ``calibrate`` and ``--corrected-by`` as people run them: by hand, from files, from the history, and wrongly."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

import bytebound as bb
from bytebound import cli
from bytebound.cli.calibrating import read_measured
from bytebound.documents.correction import Correction
from bytebound.documents.observation import PhaseRun, Run, Spread
from bytebound.documents.truth import Truth
from bytebound.documents.values import from_json, json_schema, to_json
from bytebound.truth import write_truth

pytest.importorskip("sqlalchemy", reason="the measure extra is not installed")

MODEL, MACHINE = "llama-3.2-1b-instruct", "h100-sxm"
ASKED = (MODEL, "--on", MACHINE, "--batch", "8", "--prompt", "512", "--output", "64")
MADE_UP = "tpot=3ms"


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """A data folder and a history of the test's own."""
    monkeypatch.setenv("BYTEBOUND_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BYTEBOUND_DB", str(tmp_path / "history.sqlite"))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def run(capsys, *arguments):
    code = cli.run([str(each) for each in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_one_number_by_hand_tightens_the_estimate(capsys, data):
    """Measured by hand, kept, laid on an estimate: before and after are shown, the interval narrows."""
    code, text, err = run(capsys, "calibrate", *ASKED, "--measured", MADE_UP)
    assert code == 0, err
    for word in ("before", "after", "measured", "3.00 ms", "batch 8, 512 in / 64 out", "--corrected-by corr-"):
        assert word in text

    _, plain, _ = run(capsys, "estimate", *ASKED, "--json")
    code, corrected, err = run(capsys, "estimate", *ASKED, "--corrected-by", "latest", "--json")
    assert code == 0, err
    was, now = json.loads(plain)["tpot_s"], json.loads(corrected)["tpot_s"]
    assert abs(now["value"] - 0.003) < abs(was["value"] - 0.003)
    assert now["high"] / now["low"] < was["high"] / was["low"]
    assert json.loads(corrected)["grade"] == "corrected"

    code, explained, _ = run(capsys, "explain", *ASKED, "--corrected-by", "latest")
    assert code == 0
    assert "correction corr-" in " ".join(explained.split())


def test_the_correction_is_json_a_file_and_a_record(capsys, data):
    """--json prints the document, --out writes the same, its schema is published, and the file will do for an estimate."""
    target = data / "ours.json"
    code, text, _ = run(capsys, "calibrate", *ASKED, "--measured", "tpot=3ms,ttft=20ms", "--out", target, "--json")
    assert code == 0
    document = from_json(Correction, text)
    jsonschema.validate(json.loads(text), json_schema(Correction))
    assert from_json(Correction, target.read_text(encoding="utf-8")) == document
    assert [point.metric for point in document.points] == ["tpot_s", "ttft_s"]

    assert run(capsys, "estimate", *ASKED, "--corrected-by", target)[0] == 0
    assert run(capsys, "estimate", *ASKED, "--corrected-by", document.id)[0] == 0
    code, schema, _ = run(capsys, "schema", "correction")
    assert code == 0
    assert json.loads(schema)["properties"]["schema"]["default"] == "bytebound.correction/1"


def test_a_run_on_record_calibrates(capsys, data):
    """From the JSON of a run, with the machine named; and from the history by id."""
    seconds = Spread(0.0028, 0.003, 0.0029, 0.0032, 20)
    made = Run(
        id="run-made-up", when="2026-11-21T09:00:00+00:00", engine="vllm", engine_version="0.19", model=MODEL,
        phases=(PhaseRun("decode", seconds, 8.0, 540.0, 8.0),),
    )  # fmt: skip
    file = data / "run.json"
    file.write_text(to_json(made), encoding="utf-8")
    code, text, err = run(capsys, "calibrate", "--from", file, "--on", MACHINE, "--json")
    assert code == 0, err
    found = from_json(Correction, text)
    assert (found.engine, found.engine_version) == ("vllm", "0.19")
    assert found.points[0].source.startswith("run run-made-up")

    from bytebound.history.store import keep, open_history

    keep(open_history(), made)
    code, again, err = run(capsys, "calibrate", "--from", "run-made-up", "--on", MACHINE, "--json")
    assert code == 0, err
    assert from_json(Correction, again).effects == found.effects


def test_rows_of_a_truth_file_calibrate(capsys, data):
    """A small table in our layout names model, machine and engine itself."""
    work = bb.Serve(batch=8, prompt=512, output=64, engine="vllm")
    row = Truth(
        id="mine-1", source="mine", locator="invented for this test", licence="none", date="2026-11-21", device=MACHINE,
        engine="vllm", model="meta-llama/Llama-3.2-1B-Instruct", metric="tpot_s", value=0.003, regime="closed-loop", work=work,
        statistic="mean",
    )  # fmt: skip
    file = data / "mine.csv"
    write_truth([row, replace(row, id="mine-2", value=0.009, work=replace(work, batch=64))], file)
    code, text, err = run(capsys, "calibrate", "--from", file, "--json")

    assert code == 0, err
    assert len(from_json(Correction, text).points) == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("calibrate", *ASKED), "a run is needed"),
        (("calibrate", *ASKED, "--measured", MADE_UP, "--from", "latest"), "one of the two"),
        (("calibrate", *ASKED, "--measured", "tpto=3ms"), "tpot"),
        (("calibrate", *ASKED, "--measured", "tpot=fast"), "cannot read"),
        (("calibrate", *ASKED, "--measured", "tpot=3MB"), "unit"),
        (("calibrate", *ASKED, "--measured", "tpot=-1ms"), "outside"),
        (("calibrate", *ASKED, "--measured", "tpot=1us"), "faster than physics"),
        (("calibrate", "--on", MACHINE, "--measured", MADE_UP), "MODEL is missing"),
        (("calibrate", MODEL, "--measured", MADE_UP), "--on is missing"),
        (("calibrate", *ASKED, "--from", "no-such-run"), "no-such-run"),
        (("calibrate", *ASKED, "--from", "missing.json"), "no such file"),
        (("calibrate", *ASKED, "--from", "missing.csv"), "missing.csv"),
        (("estimate", *ASKED, "--corrected-by", "latest"), "latest"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(capsys, arguments, word):
    """Exit code 2, the sentence on standard error, nothing on standard output."""
    code, out, err = run(capsys, *arguments)

    assert code == 2, err
    assert out == ""
    assert word in err
    assert err.startswith("error: ")


def test_another_deployment_is_refused(capsys):
    """A correction of one machine is not laid on another; the sentence names what differs."""
    assert run(capsys, "calibrate", *ASKED, "--measured", MADE_UP, "-q")[0] == 0
    code, _, err = run(capsys, "estimate", MODEL, "--on", "h200-sxm", "--corrected-by", "latest")

    assert code == 2
    assert "made with machine h100-sxm" in err


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": "bytebound.machine/1"}', "not json", '{"schema": 3}'])
def test_other_documents_are_no_corrections(capsys, data, text):
    """Hostile or foreign files end in one sentence."""
    file = data / "wrong.json"
    file.write_text(text, encoding="utf-8")

    for arguments in (("estimate", *ASKED, "--corrected-by", file), ("calibrate", *ASKED, "--from", file)):
        code, _, err = run(capsys, *arguments)
        assert code == 2, err
        assert "wrong.json" in err


def test_measured_values_are_read_with_units():
    """Times need no unit to be seconds; rates are per second."""
    assert read_measured("ttft=0.25") == ("ttft_s", 0.25)
    assert read_measured("requests_per_s=120/min") == ("requests_per_s", 2.0)
    assert read_measured("decode = 95") == ("decode_tokens_per_s", 95.0)
